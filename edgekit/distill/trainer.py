"""The one training loop of the house: an objective, windows, AdamW, and a run that a `kill -9` does not change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.distill import (
    checkpointing,
    fitting,
    optimizing,
    precision,
    sharded_loading,
    sharding,
    stepping,
)
from edgekit.distill.checkpointing import RunKey
from edgekit.distill.course import Course
from edgekit.distill.settings import Objective, ParameterGroup, StepInfo, TrainSettings, check
from edgekit.distill.windows import Windows
from edgekit.errors import EdgekitError, import_extra
from edgekit.progress import Progress, silent
from edgekit.records.distillation import Training

if TYPE_CHECKING:
    import torch

__all__ = ["Objective", "ParameterGroup", "StepInfo", "TrainSettings", "train"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Run:
    """A training under way."""

    work: stepping.Work
    optimizer: Any
    trained: list[torch.nn.Parameter]
    course: Course

    @property
    def tokens(self) -> int:
        """Trained on so far."""
        return self.course.step * self.work.settings.batch * self.work.windows.length


def train(
    model: Any,
    windows: Windows,
    objective: Objective,
    settings: TrainSettings,
    *,
    out: Path | None = None,
    extra: Sequence[ParameterGroup] = (),
    about: str = "",
    place: sharding.Place | None = None,
    progress: Progress = silent,
) -> Training:
    """Train `model` (and what `extra` names) in place by AdamW; gives what it took.

    In `out` lie the checkpoints and `metrics.jsonl` of the run; a run with the same settings, windows, start and
    `about` (what the objective is made of, in words) goes on there from its last checkpoint, and one that is
    finished there is only loaded. Killed at any step and started again, it gives the same weights on a CPU.
    A diverged training stops with its reason in `stopped`, and the model as it was at the last checkpoint.

    Under `accelerate launch` or `torchrun` all that has parameters is sharded over the processes by FSDP2, unless
    `place` is `sharding.alone()`.
    Raises EdgekitError where settings are impossible, `out` holds another run, the disk is full (the last checkpoint
    stays), or memory does not suffice (with the micro-batch that would fit).
    """
    place = place or sharding.here()
    check(settings, extra, place.processes)
    if not len(windows):
        raise EdgekitError("there is no window to train on")
    with ExitStack() as stack:
        if out is not None:
            stack.enter_context(checkpointing.opened(out, place))
        stack.enter_context(_prepared(model, extra, settings, place))
        key = None if out is None else _key(model, windows, settings, extra, about, place)
        work = stepping.Work(
            model=model,
            root=sharding.rooted(model, extra, place),
            windows=windows,
            objective=objective,
            settings=settings,
            precision=precision.chosen(settings.precision, place.device),
            place=place,
        )
        run = _begun(work, extra, out, key, progress)
        stack.enter_context(run.course.resumed())
        reason = _explained(run)
        stopped = None if reason is None else run.course.diverged(reason)
        return run.course.record(run.tokens, stopped)


# ---- before and after ------------------------------------------------------------------------------------------------


@contextmanager
def _prepared(
    model: Any, extra: Sequence[ParameterGroup], settings: TrainSettings, place: sharding.Place
) -> Iterator[None]:
    """Models where and as they are trained, and the caller's random numbers left alone."""
    torch = import_extra("torch", extra="distill")
    trained = [model, *(group.module for group in extra if group.learning_rate is not None)]
    frozen = [group.module for group in extra if group.learning_rate is None]
    for module in frozen:
        module.requires_grad_(False).eval()
    for module in trained:
        module.float().train()  # steps of half precision would be rounded away
    if place.processes == 1:  # else sharding takes them there block by block: whole, the largest would not fit
        for module in (*trained, *frozen):
            module.to(place.device)
    if settings.gradient_checkpointing:
        stepping.gradient_checkpointing(model, "enable")({"use_reentrant": False})
    if settings.compile:
        for block in sharding.blocks_of(model) or [model]:
            block.compile()
    devices = [place.device] if place.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module in trained:
            module.zero_grad(set_to_none=True)
            module.eval()
        if settings.gradient_checkpointing:
            stepping.gradient_checkpointing(model, "disable")()


def _key(
    model: Any,
    windows: Windows,
    settings: TrainSettings,
    extra: Sequence[ParameterGroup],
    about: str,
    place: sharding.Place,
) -> RunKey:
    modules = {"model": model} | {group.name: group.module for group in extra if group.learning_rate is not None}
    sources = [source.sha256() for one in modules.values() if (source := sharded_loading.source_of(one)) is not None]
    start = {
        f"{name}.{inner}": value
        for name, module in modules.items()
        if sharded_loading.source_of(module) is None
        for inner, value in _state_of(module)
    }
    return RunKey(
        settings=checkpointing.settings_text(settings, extra),
        windows_sha256=windows.sha256,
        start_sha256=" ".join([*sources, checkpointing.hash_tensors(start)]),
        about=about,
        precision=precision.chosen(settings.precision, place.device),
        processes=place.processes,
    )


def _state_of(module: Any) -> list[tuple[str, Any]]:
    return sorted(module.state_dict().items())


def _begun(
    work: stepping.Work, extra: Sequence[ParameterGroup], out: Path | None, key: RunKey | None, progress: Progress
) -> _Run:
    """The run at its first step: its optimizer, and all tensors that a checkpoint has."""
    optimizer = optimizing.optimizer_of(work.model, extra, work.settings)
    modules = {"model": work.model} | {g.name: g.module for g in extra if g.learning_rate is not None}
    trained = list(optimizing.trained_parameters(modules).values())
    tensors = optimizing.tensors_of(modules, optimizer)
    course = Course(
        settings=work.settings, place=work.place, out=out, key=key, tensors=lambda: tensors, progress=progress
    )
    return _Run(work=work, optimizer=optimizer, trained=trained, course=course)


# ---- the loop --------------------------------------------------------------------------------------------------------


def _explained(run: _Run) -> str | None:
    """The loop, with words for those of torch's failures that a user can do something about."""
    try:
        return _loop(run)
    except (RuntimeError, MemoryError) as error:
        if fitting.is_out_of_memory(error):
            raise fitting.refusal(run.work, run.optimizer, error) from None
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise EdgekitError(
                f"torch cannot compile this model here: `{reason}`",
                hint="leave `compile` out, or install a C++ compiler if there is none",
            ) from None
        raise


def _loop(run: _Run) -> str | None:
    """Train to the last step; gives the reason where a step is not to be taken."""
    settings, course = run.work.settings, run.course
    window = settings.batch * run.work.windows.length
    course.starts(run.tokens)
    while not course.finished:
        loss, norm, reason = _step(run)
        if reason is not None:
            return reason
        course.done(loss, norm, run.optimizer.param_groups[0]["lr"], run.tokens + window)
    return None


def _step(run: _Run) -> tuple[stepping.StepLoss, float, str | None]:
    """One step of the optimizer: its loss, the norm of its gradient, and why it was not taken, if it was not."""
    torch = import_extra("torch", extra="distill")
    settings, course = run.work.settings, run.course
    optimizing.set_rate(run.optimizer, optimizing.rate(course.step, settings))
    loss = stepping.run(run.work, course.step)
    found = torch.nn.utils.clip_grad_norm_(run.trained, settings.gradient_norm)
    norm = float(found.full_tensor() if hasattr(found, "full_tensor") else found)
    reason = course.watch.see(loss.total, norm)
    if reason is None:
        run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return loss, norm, reason
