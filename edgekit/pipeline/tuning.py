"""Make it fit: model file → settings that meet a device's memory, the fastest of them as far as this host can tell.

Memory is predicted for the device; speed is tried here, where only some settings tell something of another machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from edgekit import __version__
from edgekit.devices import class_members, load_device
from edgekit.errors import EdgekitError, ExitCode
from edgekit.gate.onsite import other_machine
from edgekit.header import read_header
from edgekit.memory import memory_budget, predict_memory
from edgekit.pipeline.gating import Overrides, open_artifact
from edgekit.pipeline.tuning_runs import Ran, Runs
from edgekit.progress import Progress, silent
from edgekit.projection import project_to
from edgekit.records import (
    Artifact,
    Device,
    Estimate,
    Figure,
    Header,
    Host,
    Settings,
    Status,
    TunedTarget,
    Tuning,
    Unknown,
    exact,
    weakest,
)
from edgekit.tuning import (
    ANYWHERE,
    EVERYTHING,
    SAME_KERNELS,
    Space,
    Target,
    contexts,
    costs_of,
    flags_for,
    make_space,
    meets,
    needed,
    pain,
)
from edgekit.units import format_bytes

EXIT_CODES = {"pass": ExitCode.PASS, "fail": ExitCode.FAIL, "unknown": ExitCode.UNKNOWN}
TRIALS = 20
PREFILL_LOSS = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the user asked for. Without a `device` the settings are for this host, whose free memory is the limit."""

    device: str = ""
    on_device: str = ""
    memory_bytes: float | None = None
    overrides: Overrides = field(default_factory=Overrides)
    trials: int = TRIALS
    prefill_loss: float = PREFILL_LOSS


@dataclass(frozen=True, slots=True, kw_only=True)
class Quest:
    """A wish made definite: the space, what of it meets the limit, and where the search starts.

    `context_tokens` is the longest context of which a point surely fits, or else of which one may; `start` is `None`
    where none does.
    """

    device: Device | None
    devices: tuple[Device, ...]
    host: Host
    here: bool
    space: Space
    context_tokens: int
    points: int
    feasible: frozenset[Settings]
    status: Status
    start: Settings | None

    @property
    def default(self) -> Settings:
        return replace(self.space.default, context_tokens=self.context_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningPlan:
    """What `tune` would run, and for how long (low and high)."""

    kind: Literal["tuning-plan"] = "tuning-plan"
    version: Literal[1] = 1
    model: str
    device: str
    points: int
    feasible: int
    status: Status
    start: Settings | None
    default: Settings
    trials_max: int
    tried: tuple[str, ...]
    """The settings whose speed is tried here."""
    low_s: float
    high_s: float


def tune(model: Path, wish: Wish, *, progress: Progress = silent) -> Tuning:
    """The settings to run `model` with. No point that may miss the limit is run; a worker that dies on a point ends
    that point alone. Raises EdgekitError for input that cannot be tuned.
    """
    started_at, began_s = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    quest = prepare(read_header(model), wish)
    artifact = open_artifact(model, progress=progress)
    if quest.status == "pass" and quest.start is not None:
        found = Runs(artifact=artifact, quest=quest, wish=wish, progress=progress).all()
    else:
        found = Ran.nothing(quest)
    return _conclude(artifact, quest, found, started_at, time.monotonic() - began_s)


def plan(model: Path, wish: Wish) -> TuningPlan:
    """What `tune` would do; nothing is run but a tenth of a second of probing."""
    from edgekit.bench.duration import expected_duration_s, read_bandwidth_bytes_per_s
    from edgekit.bench.trying import trial_plan

    header = read_header(model)
    quest = prepare(header, wish)
    low_s = high_s = 0.0
    if quest.status == "pass" and quest.start is not None:
        bandwidth = read_bandwidth_bytes_per_s()
        few, many = trial_plan(quest.start, trials=5, rounds=1), trial_plan(quest.start, trials=wish.trials, rounds=3)
        low_s = expected_duration_s(few, header, bandwidth)[0]
        high_s = expected_duration_s(many, header, bandwidth)[1]
    return TuningPlan(
        model=str(model),
        device=quest.device.name if quest.device else "",
        points=quest.points,
        feasible=len(quest.feasible),
        status=quest.status,
        start=quest.start,
        default=quest.default,
        trials_max=wish.trials if quest.status == "pass" else 0,
        tried=tuple(sorted(name for name in quest.space.transfers if len(quest.space.values[name]) > 1)),
        low_s=low_s,
        high_s=high_s,
    )


# ---- what may be tried ----------------------------------------------------------------------------------------------


def prepare(header: Header, wish: Wish) -> Quest:
    """The space of settings for `header`'s model, and what of it fits. Nothing is run."""
    from edgekit.bench import probe_host

    if header.format != "gguf":
        raise EdgekitError(
            f"`tune` searches llama.cpp's settings, and the model is no GGUF: `{header.format}`",
            hint="`edgekit quantize` makes one of the same student",
        )
    host = _host_that_runs(probe_host())
    device = load_device(wish.device) if wish.device else None
    here = _is_here(device, wish, host)
    devices = (class_members(device) or (device,)) if device is not None else ()
    targets = [_target(one, wish) for one in devices] or [_this_host(host, wish)]
    pinned = {name: value for name in wish.overrides.__slots__ if (value := getattr(wish.overrides, name)) is not None}
    space = make_space(
        header,
        _default(device, here),
        targets,
        threads=_thread_counts(host) if here else (),
        pinned=pinned,
        transfers=EVERYTHING if here else SAME_KERNELS if {one.isa for one in targets} == {host.isa} else ANYWHERE,
    )
    return _quest(device, devices, host, here, space, asked_context="context_tokens" in pinned)


def _quest(
    device: Device | None, devices: tuple[Device, ...], host: Host, here: bool, space: Space, *, asked_context: bool
) -> Quest:
    predict_memory(space.header, space.default, space.targets[0].isa)  # says why, where llama.cpp would refuse them all
    context, status, kept, points = space.default.context_tokens, "fail", frozenset[Settings](), 0
    found = {size: space.feasible(size) for size in contexts(space, pinned=asked_context)}
    for wanted in ("pass", "unknown"):
        for size, states in found.items():
            some = frozenset(point for point, state in states.items() if state == wanted)
            if some and not kept:
                context, status, kept = size, wanted, some
    points = len(found[context])
    default = replace(space.default, context_tokens=context)
    start: Settings | None = default
    if status == "unknown":  # nothing is run: the leanest is nearest to fitting
        start = min(kept, key=space.weight)
    elif default not in kept:
        start = min(kept, key=lambda one: pain(one, default), default=None)
    return Quest(
        device=device,
        devices=devices,
        host=host,
        here=here,
        space=space,
        context_tokens=context,
        points=points,
        feasible=kept,
        status=status,  # type: ignore[arg-type]
        start=start,
    )


def _is_here(device: Device | None, wish: Wish, host: Host) -> bool:
    """Whether the settings are for this very machine. Raises EdgekitError where that cannot be."""
    if device is None or not wish.on_device:
        return device is None
    if wish.on_device not in (wish.device, device.name):
        raise EdgekitError(
            f"`--on-device` names another device than `--device`: `{wish.on_device}`", hint=f"`--device {device.name}`"
        )
    if device.tier == "class":
        raise EdgekitError(
            f"`--on-device` names a class of devices: `{wish.on_device}`", hint="name the profile of this machine"
        )
    doubt = other_machine(host, device)
    if doubt:
        raise EdgekitError(
            doubt.replace("the run claims", "`--on-device` claims"), hint="leave it out: `tune` predicts"
        )
    return True


def _host_that_runs(host: Host) -> Host:
    """The host without AMX where the build's AMX kernels are known to die on it: other weights are then repacked."""
    from edgekit.runtimes.handle import amx_state

    return replace(host, isa=host.isa.removesuffix("+amx")) if amx_state() == "denied" else host


def _default(device: Device | None, here: bool) -> Settings:
    """llama.cpp's own defaults at the profile's context; threads are the big cores."""
    from edgekit.runtimes import big_cores

    base = Settings(context_tokens=device.settings.context_tokens) if device is not None else Settings()
    if here:
        return replace(base, threads=big_cores())
    return replace(base, threads=device.settings.threads if device is not None else 0)


def _thread_counts(host: Host) -> tuple[int, ...]:
    """Counts to try: every one of a small machine, and of a large one those around fractions of its cores."""
    from edgekit.runtimes import big_cores

    big, everyone = big_cores(), max(host.physical_cores, big_cores())
    if everyone <= 6:
        return tuple(range(1, everyone + 1))
    return tuple(sorted({big, big - 1, max(1, 3 * big // 4), max(1, big // 2), everyone - 1, everyone}))


def _target(device: Device, wish: Wish) -> Target:
    limit = exact(wish.memory_bytes, "claimed", "--memory") if wish.memory_bytes else memory_budget(device)
    return Target(
        name=device.name, title=device.title, isa=device.isa, limit=limit, metric=device.memory_metric, os=device.os
    )


def _this_host(host: Host, wish: Wish) -> Target:
    import psutil  # type: ignore[import-untyped]

    free = wish.memory_bytes or float(psutil.virtual_memory().available)
    note = "--memory" if wish.memory_bytes else "memory that is available here now"
    limit = exact(free, "claimed", note)
    return Target(
        name="", title=f"this host ({host.cpu_model or host.machine})", isa=host.isa, limit=limit, os=host.system
    )


# ---- what was found -------------------------------------------------------------------------------------------------


def _conclude(artifact: Artifact, quest: Quest, ran: Ran, started_at: str, elapsed_s: float) -> Tuning:
    chosen = ran.settings
    targets = tuple(_tuned(quest, target, chosen, ran) for target in quest.space.targets) if chosen else ()
    status, reason = _status(quest, ran)
    return Tuning(
        edgekit_version=__version__,
        artifact=artifact,
        device=quest.device.name if quest.device else "",
        device_title=quest.device.title if quest.device else quest.space.targets[0].title,
        device_sha256=quest.device.sha256 if quest.device else "",
        on_device=quest.device.name if quest.device and quest.here else "",
        host=quest.host,
        runtime=ran.runtime,
        started_at=started_at,
        elapsed_s=elapsed_s,
        default=quest.default,
        settings=chosen,
        status=status,
        reason=reason,
        decode_ratio=ran.decode_ratio,
        prefill_ratio=ran.prefill_ratio,
        kv_kld=ran.kv_kld,
        costs=costs_of(chosen, quest.space.default, ran.prefill_ratio, ran.kv_kld) if chosen else (),
        targets=targets,
        flags=flags_for(chosen, threads=_threads_there(quest)) if chosen else (),
        points=quest.points,
        feasible=len(quest.feasible),
        trials=ran.trials,
        confirming=ran.confirming,
        noise=ran.noise,
        findings=ran.findings,
    )


def _status(quest: Quest, ran: Ran) -> tuple[Status, str]:
    if ran.settings is None:
        return "fail", f"nothing of this file fits: {_leanest(quest)}"
    if quest.status == "unknown":
        return "unknown", "the leanest settings may or may not fit: the range of their memory holds the limit"
    if ran.spoilt:
        return "unknown", "they fit; which settings are fastest is not settled: the machine was not quiet"
    return "pass", "the whole predicted range meets the limit" + (
        f" on all {len(quest.space.targets)} devices" if len(quest.space.targets) > 1 else ""
    )


def _leanest(quest: Quest) -> str:
    space = quest.space
    size = contexts(space, pinned=False)[-1] if "context_tokens" not in space.values else space.default.context_tokens
    points = list(space.grid(min(size, space.default.context_tokens)))
    least = min(points, key=space.weight)
    for target in space.targets:
        memory = space.memory(least, target)
        if memory is not None and meets(needed(memory, target), target.limit) != "pass":
            return (
                f"even a context of {least.context_tokens} needs {format_bytes(needed(memory, target).high)} on "
                f"{target.title}, and {format_bytes(target.limit.low)} are sure"
            )
    return "llama.cpp refuses every point for this model"


def _tuned(quest: Quest, target: Target, chosen: Settings, ran: Ran) -> TunedTarget:
    memory, default = quest.space.memory(chosen, target), quest.space.memory(quest.space.default, target)
    assert memory is not None  # only what was predicted is chosen
    assert default is not None  # `_quest` refuses a model whose defaults cannot be predicted
    return TunedTarget(
        device=target.name,
        device_title=target.title,
        isa=target.isa,
        memory_metric=target.metric,
        limit=target.limit,
        status=meets(needed(memory, target), target.limit),
        memory=needed(memory, target),
        memory_default=needed(default, target),
        resident=memory.resident,
        resident_default=default.resident,
        reserved_bytes=memory.reserved_bytes,
        reserved_default_bytes=default.reserved_bytes,
        decode=ran.decode if quest.here else _projected(quest, target, chosen, ran),
    )


def _projected(quest: Quest, target: Target, chosen: Settings, ran: Ran) -> Figure:
    """The device's projected decode × what was measured here of settings that transfer."""
    device = next(one for one in quest.devices if one.name == target.name)
    decode = project_to(device, quest.space.header, chosen).decode
    changed = {name for name in EVERYTHING if getattr(chosen, name) != getattr(quest.default, name)}
    if isinstance(decode, Unknown) or not changed & quest.space.transfers:
        return decode
    if changed - quest.space.transfers:
        untold = ", ".join(sorted(changed - quest.space.transfers))
        return replace(decode, note=f"burst tg128; what {untold} changes there is not known from here")
    ratio = ran.decode_ratio
    if isinstance(ratio, Unknown):
        return replace(decode, note=f"burst tg128 under the defaults; {ratio.reason}")
    return Estimate(
        value=decode.value * ratio.value,
        low=decode.low * ratio.low,
        high=decode.high * ratio.high,
        basis=weakest((decode.basis, ratio.basis)),
        note="burst tg128 projected × the ratio measured here, which rests on no kernel of this host",
    )


def _threads_there(quest: Quest) -> int:
    """The threads to name where the settings leave them open; 0 for a class, whose devices differ."""
    if len(quest.devices) != 1:
        return 0
    return sum(cluster.cores for cluster in quest.devices[0].clusters if cluster.big)
