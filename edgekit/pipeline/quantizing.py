"""The second path: checkpoint → artifacts, and how good they are. The best types for a budget are measured, solved for
and checked on text that neither calibration nor measurement saw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.devices import load_device
from edgekit.errors import EdgekitError, ExitCode, import_extra
from edgekit.files import replacing
from edgekit.header import read_header
from edgekit.pipeline.asking import Asked, text_of
from edgekit.pipeline.evaluating import evaluate
from edgekit.pipeline.gating import Overrides
from edgekit.progress import Progress, silent
from edgekit.quantize import foreseeing, workshop
from edgekit.quantize import plan as plans
from edgekit.quantize.feasible import require_possible
from edgekit.quantize.foreseeing import Intention
from edgekit.quantize.targets import Target, parse_target
from edgekit.quantize.workshop import Making
from edgekit.records import Budget, Device, Estimate, Export, ParetoPoint, Quality, QuantPlan, Settings

CHECKED_CHUNKS = 40
"""Of held-out text, on which a planned artifact is compared with the full-precision model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An artifact that was made, with its plan and the front around it where it was made for a budget."""

    export: Export
    plan: QuantPlan | None = None
    front: tuple[ParetoPoint, ...] = ()
    quality: Quality | None = None


# ---- quantize -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a budgeted artifact must hold to. `plan` replays a file of types instead; `save` is where one is written."""

    budget: Budget = Budget()  # noqa: RUF009  (frozen)
    device: str = ""
    min_decode: float = 0.0
    overrides: Overrides = Overrides()  # noqa: RUF009  (frozen)
    plan: Path | None = None
    save: Path | None = None
    minutes: float = 15.0

    @property
    def label(self) -> str:
        """What the file is called after the model's name."""
        if self.plan is not None:
            return self.plan.stem.removesuffix(".plan")
        parts = [self.device] if self.device else []
        parts += [f"{self.budget.memory_bytes / 1e9:g}GB"] if self.budget.memory_bytes else []
        parts += [f"{self.budget.bits_per_weight:g}bpw"] if self.budget.bits_per_weight else []
        parts += [f"{self.min_decode:g}tps"] if self.min_decode else []
        return "-".join(parts)


def quantize(
    path: Path,
    targets: Sequence[str],
    out: Path,
    *,
    wanted: Wanted | None = None,
    making: Making = Making(),  # noqa: B008  (frozen)
    progress: Progress = silent,
) -> Iterator[Made]:
    """Make every target of the checkpoint (or full-precision GGUF) at `path` in the folder `out`, then, with `wanted`,
    the artifact for its budget; each is yielded as soon as its record is written.

    What can be refused is refused before any work: unknown targets, existing outputs without `force`. Raises
    EdgekitError.
    """
    parsed = [parse_target(text) for text in dict.fromkeys(targets)]
    if not parsed and wanted is None:
        raise EdgekitError("nothing to make", hint="add `--to gguf:q4_k_m`, `--for smartphone` or `--bpw 4.5`")
    device = load_device(wanted.device) if wanted and wanted.device else None
    if wanted is not None and wanted.plan is None:
        import_extra("scipy", extra="quantize")  # the solver's: to be missed now, not after the measuring
    source = workshop.open_source(path, progress=progress)
    _refuse_outputs(source, parsed, wanted, out, making)
    for target in parsed:
        yield Made(export=workshop.make_target(source, target, out, making, progress=progress))
    if wanted is not None:
        yield _make_planned(source, wanted, device, out, making, progress)


def foresee(path: Path, targets: Sequence[str], out: Path, *, wanted: Wanted | None, making: Making) -> list[Intention]:
    """What `quantize` with the same arguments would make; nothing is written. A budget's types are not foreseen: they
    are what is measured. Raises EdgekitError.
    """
    parsed = [parse_target(text) for text in dict.fromkeys(targets)]
    source = workshop.open_source(path)
    _refuse_outputs(source, parsed, wanted, out, making)
    intentions = [foreseeing.foresee(source, target, out, making) for target in parsed]
    if wanted is not None:
        base = Target(format="gguf", type=workshop.BASE_TYPE)
        whole = foreseeing.foresee(source, base, out, making)
        place = planned_place(source, wanted, out)
        minutes = 0.0 if wanted.plan else wanted.minutes * 60
        intentions.append(
            replace(
                whole,
                target=f"{source.name} for {wanted.label}",
                place=str(place),
                exists=place.exists(),
                disk_bytes=3 * whole.size_bytes,
                time_s=Estimate(value=minutes, low=minutes / 4, high=3 * minutes, basis="predicted"),
                notes=("at most the size of the full-precision file; measured in a scratch copy of it",),
            )
        )
    return intentions


def _refuse_outputs(
    source: workshop.Source, targets: Sequence[Target], wanted: Wanted | None, out: Path, making: Making
) -> None:
    """Raise EdgekitError for anything that is in the way."""
    for target in targets:
        _refuse_early(source, target, out, making)
    if wanted is not None:
        place = planned_place(source, wanted, out)
        for one in (place, _page_of(place), *([] if wanted.plan or wanted.save else [_plan_of(place)])):
            workshop.refuse_existing(one, force=making.force)


def _refuse_early(source: workshop.Source, target: Target, out: Path, making: Making) -> None:
    place = workshop.place_of(source, target, out)
    ours = target.plain and workshop.made_before(place, source, ()) is not None
    if not ours:  # an intermediate of an earlier run serves as it is
        workshop.refuse_existing(place, force=making.force)


def planned_place(source: workshop.Source, wanted: Wanted, out: Path) -> Path:
    """Where the artifact for a budget goes."""
    return out / f"{source.name}-{wanted.label}.gguf"


def _plan_of(place: Path) -> Path:
    """Where the plan of the artifact at `place` goes, unless `--plan` names a file."""
    return place.with_name(f"{place.stem}.plan.toml")


def _page_of(place: Path) -> Path:
    return place.with_name(f"{place.stem}.plan.html")


def _make_planned(
    source: workshop.Source, wanted: Wanted, device: Device | None, out: Path, making: Making, progress: Progress
) -> Made:
    from edgekit.quantize.outputs import sha256_of

    base = workshop.full_precision(source, out, making, progress=progress)
    header = read_header(base)
    if wanted.plan is None:
        require_possible(header, **_limits(wanted, device))
    matrix = workshop.importance(source, base, out, making, progress=progress)
    front: tuple[ParetoPoint, ...] = ()
    if wanted.plan is not None:
        # what a file says of its budget was not checked here, so nothing of it is shown as if it were
        plan = replace(plans.read_plan(wanted.plan, header), budget=Budget(), device="", min_decode=0.0)
        plan_file = wanted.plan
    else:
        plan, front = _solve(source, base, matrix, wanted, device, out, making, progress)
        plan_file = wanted.save or _plan_of(planned_place(source, wanted, out))
        plans.write_plan(plan_file, plan)
    place = planned_place(source, wanted, out)
    export = workshop.quantize_to(
        source,
        base,
        place,
        plans.file_type(plan, header),
        replace(making, tensor_types=plans.tensor_types(plan), pure=False, output_type=None, embedding_type=None),
        matrix,
        plan_sha256=sha256_of([plan_file]),
        progress=progress,
    )
    _check_kept(place, plan)
    asked = Asked(reference=base, text=text_of(None), chunks=CHECKED_CHUNKS, threads=making.threads)
    quality = evaluate(Path(export.path), asked, progress=progress)
    measured = replace(plan, kld_joint=quality.kld_mean)
    _write_page(place, measured, front)
    return Made(export=export, plan=measured, front=front, quality=quality)


def _check_kept(place: Path, plan: QuantPlan) -> None:
    """The file that was written has the plan's types, and takes no more memory than the plan said. Raises EdgekitError
    (exit code 4): the plan's figures must not be shown for another file.
    """
    header = read_header(place)
    written = {tensor.name: tensor.type for tensor in header.tensors}
    other = next((tensor.name for tensor in plan.tensors if written.get(tensor.name) != tensor.type), None)
    if other is not None:
        raise EdgekitError(
            f"the quantizer gave a tensor another type than planned: `{other}` is `{written.get(other, 'missing')}`",
            hint="a bug: please report it with the plan",
            code=ExitCode.BROKE,
        )
    size_bytes = sum(tensor.size_bytes for tensor in header.tensors)
    if size_bytes != plan.size_bytes:
        raise EdgekitError(
            f"the quantizer wrote {size_bytes} bytes of tensors and not the planned `{plan.size_bytes}`",
            hint="a bug: please report it with the plan",
            code=ExitCode.BROKE,
        )


def _write_page(place: Path, plan: QuantPlan, front: tuple[ParetoPoint, ...]) -> None:
    from edgekit.report import render_plan

    with replacing(_page_of(place)) as temporary:
        temporary.write_text(render_plan(plan, front, "html"), encoding="utf-8")


def _solve(
    source: workshop.Source,
    base: Path,
    matrix: Path | None,
    wanted: Wanted,
    device: Device | None,
    out: Path,
    making: Making,
    progress: Progress,
) -> tuple[QuantPlan, tuple[ParetoPoint, ...]]:
    """The plan for the budget and the front around it; sensitivities are measured once and kept beside."""
    from edgekit.corpus import default_calibration
    from edgekit.quantize import pareto, solver
    from edgekit.quantize.sensitivity import load_or_measure

    header = read_header(base)
    text = making.calibration or default_calibration()
    kept = out / f"{source.name}.sensitivities.json"
    sens = load_or_measure(
        kept, base, imatrix=matrix, text=text, minutes=wanted.minutes, threads=making.threads, progress=progress
    )
    progress("solving", 0, 0)
    limits = _limits(wanted, device)
    return solver.solve(sens, header, **limits), pareto.front(sens, header, device, settings=limits["settings"])


def _limits(wanted: Wanted, device: Device | None) -> dict[str, Any]:
    """What a plan must hold to, as the solver takes it. Without overrides every device keeps its own configuration;
    without a device this machine stands for it.
    """
    from edgekit.bench import probe_host

    changed = wanted.overrides != Overrides()
    return {
        "budget": wanted.budget,
        "device": device,
        "settings": wanted.overrides.applied_to(device.settings if device else Settings()) if changed else None,
        "isa": "" if device else probe_host().isa,
        "min_decode": wanted.min_decode,
    }
