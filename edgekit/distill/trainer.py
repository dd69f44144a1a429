"""The one training loop of the house: an objective, windows, AdamW, and a run that a `kill -9` does not change."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.distill import (
    checkpointing,
    fitting,
    metrics,
    optimizing,
    precision,
    sharded_loading,
    sharding,
    stepping,
)
from edgekit.distill.checkpointing import Reached, RunKey
from edgekit.distill.settings import Objective, ParameterGroup, StepInfo, TrainSettings, check
from edgekit.distill.watching import Watch
from edgekit.distill.windows import Windows
from edgekit.errors import EdgekitError, import_extra
from edgekit.progress import Progress, silent
from edgekit.records.distillation import Training
from edgekit.units import format_duration, format_rate

if TYPE_CHECKING:
    import torch

__all__ = ["Objective", "ParameterGroup", "StepInfo", "TrainSettings", "train"]

LOGGED = 1000
"""Steps of a training that are logged where the settings do not say."""
_RATED = 20
"""Steps that the speed shown is over."""


@dataclass(slots=True, kw_only=True)
class _Run:
    """A training under way. `step` steps are done; `seconds` are those of all its processes' lives but lost steps."""

    work: stepping.Work
    optimizer: Any
    trained: list[torch.nn.Parameter]
    tensors: dict[str, torch.Tensor]
    out: Path | None
    key: RunKey | None
    watch: Watch = field(default_factory=Watch)
    step: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    resumed_at: tuple[int, ...] = ()


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
        run = _begun(work, extra, out, key)
        losses = _resumed(run, progress)
        file = out / metrics.NAME if out is not None and place.index == 0 else None
        logged = stack.enter_context(metrics.Metrics(file, losses))
        stopped = _explained(run, logged, progress)
        if stopped is not None:
            _back_to_the_last_checkpoint(run)
        return _record(run, logged.losses, stopped)


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
        _checkpointing(model, "enable")({"use_reentrant": False})
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
            _checkpointing(model, "disable")()


def _checkpointing(model: Any, what: str) -> Any:
    """The method of a transformers model that turns gradient checkpointing on or off; its name changed in 5."""
    for name in (f"activation_checkpointing_{what}", f"gradient_checkpointing_{what}"):
        if hasattr(model, name):
            return getattr(model, name)
    raise EdgekitError(f"gradient checkpointing is not to be had of a `{type(model).__name__}`")


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


def _begun(work: stepping.Work, extra: Sequence[ParameterGroup], out: Path | None, key: RunKey | None) -> _Run:
    """The run at its first step: its optimizer, and all tensors that a checkpoint has."""
    torch = import_extra("torch", extra="distill")
    optimizer = optimizing.optimizer_of(work.model, extra, work.settings)
    modules = {"model": work.model} | {g.name: g.module for g in extra if g.learning_rate is not None}
    tensors: dict[str, Any] = {}
    trained = optimizing.trained_parameters(modules)
    for name, parameter in trained.items():
        tensors[name] = parameter
        for part, value in optimizer.state[parameter].items():
            tensors[f"{name}:{part}"] = value
    for name, module in modules.items():
        for inner, value in module.state_dict(keep_vars=True).items():
            if not isinstance(value, torch.nn.Parameter):
                tensors[f"{name}.{inner}"] = value
    return _Run(work=work, optimizer=optimizer, trained=list(trained.values()), tensors=tensors, out=out, key=key)


def _resumed(run: _Run, progress: Progress) -> list[tuple[int, float]]:
    """Go to the newest checkpoint, if there is one; gives the losses logged up to it."""
    if run.out is None or run.key is None:
        return []
    place = run.work.place
    reached, damaged = checkpointing.newest(run.out, run.key, place)
    if reached is not None:
        _restore(run, reached)
        run.resumed_at = (*reached.resumed_at, reached.step)
    checkpointing.check_room(run.out, run.tensors)
    if damaged or reached is not None:
        words = f"a damaged checkpoint is left out, from step {run.step}" if damaged else f"from step {run.step}"
        progress("train", run.step, run.work.settings.steps, words)
    return metrics.kept(run.out / metrics.NAME, run.step) if place.index == 0 else []


def _restore(run: _Run, reached: Reached) -> None:
    assert run.out is not None
    checkpointing.load(run.out, reached, run.work.place, run.tensors)
    run.step, run.seconds, run.peak_bytes = reached.step, reached.seconds, reached.peak_bytes
    run.watch = Watch(reached.recent)


def _back_to_the_last_checkpoint(run: _Run) -> None:
    """A diverged model is worth nothing: the one before is."""
    if run.out is not None and run.key is not None:
        reached, _ = checkpointing.newest(run.out, run.key, run.work.place)
        if reached is not None:
            _restore(run, reached)


def _record(run: _Run, losses: list[tuple[int, float]], stopped: str | None) -> Training:
    tokens = run.step * run.work.settings.batch * run.work.windows.length
    return Training(
        steps=run.step,
        tokens=tokens,
        seconds=run.seconds,
        losses=tuple(losses),
        tokens_per_s=tokens / run.seconds if run.seconds else 0.0,
        peak_bytes=max(run.peak_bytes, metrics.peak_bytes(run.work.place.device)),
        stopped=stopped,
        resumed_at=run.resumed_at,
    )


# ---- the loop --------------------------------------------------------------------------------------------------------


def _explained(run: _Run, logged: metrics.Metrics, progress: Progress) -> str | None:
    """The loop, with words for those of torch's failures that a user can do something about."""
    try:
        return _loop(run, logged, progress)
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


def _loop(run: _Run, logged: metrics.Metrics, progress: Progress) -> str | None:
    """Train to the last step; gives the reason where it stops before."""
    settings, place = run.work.settings, run.work.place
    every = settings.log_every or max(1, settings.steps // LOGGED)
    window = settings.batch * run.work.windows.length
    started = time.perf_counter() - run.seconds
    times = deque([run.seconds], maxlen=_RATED + 1)
    while run.step < settings.steps:
        loss, norm, reason = _step(run)
        if reason is not None:
            return f"diverged at step {run.step + 1} of {settings.steps} ({reason})"
        run.step += 1
        run.seconds = time.perf_counter() - started
        times.append(run.seconds)
        speed = window * (len(times) - 1) / max(times[-1] - times[0], 1e-9)
        last = run.step == settings.steps
        if run.step % every == 0 or last:
            figures = _figures(run, loss, norm, speed)
            logged.write(figures)
        if last or (run.step % settings.checkpoint_every == 0 and not run.watch.suspicious):
            _checkpoint(run, logged)
            run.seconds = time.perf_counter() - started
        left = format_duration((settings.steps - run.step) * window / speed)
        if place.index == 0:
            words = f"loss {loss.total:.3g}, {format_rate(speed)}" + ("" if last else f", {left} left")
            progress("train", run.step, settings.steps, words)
    return None


def _step(run: _Run) -> tuple[stepping.StepLoss, float, str | None]:
    """One step of the optimizer: its loss, the norm of its gradient, and why it was not taken, if it was not."""
    torch = import_extra("torch", extra="distill")
    settings = run.work.settings
    optimizing.set_rate(run.optimizer, optimizing.rate(run.step, settings))
    loss = stepping.run(run.work, run.step)
    found = torch.nn.utils.clip_grad_norm_(run.trained, settings.gradient_norm)
    norm = float(found.full_tensor() if hasattr(found, "full_tensor") else found)
    reason = run.watch.see(loss.total, norm)
    if reason is None:
        run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return loss, norm, reason


def _figures(run: _Run, loss: stepping.StepLoss, norm: float, speed: float) -> metrics.StepFigures:
    return metrics.StepFigures(
        step=run.step,
        loss=loss.total,
        distill=loss.distill,
        ce=loss.ce,
        learning_rate=run.optimizer.param_groups[0]["lr"],
        gradient_norm=norm,
        tokens_per_s=speed,
        seconds=run.seconds,
    )


def _checkpoint(run: _Run, logged: metrics.Metrics) -> None:
    if run.out is None or run.key is None:
        return
    logged.sync()
    reached = Reached(
        key=run.key,
        step=run.step,
        seconds=run.seconds,
        peak_bytes=max(run.peak_bytes, metrics.peak_bytes(run.work.place.device)),
        recent=run.watch.recent,
        resumed_at=run.resumed_at,
    )
    checkpointing.save(run.out, reached, run.tensors, run.work.place)
