"""Whether a measurement counts: was it taken on the device itself, of this artifact, in the judged configuration?

The gate's caution lives here. Every door that is not provably open is `Unknown` with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from edgekit.errors import EdgekitError
from edgekit.records import (
    Case,
    Device,
    Estimate,
    Evidence,
    Figure,
    Header,
    Host,
    Measurement,
    MemoryBreakdown,
    MemoryPeak,
    Settings,
    Unknown,
)
from edgekit.units import format_bytes, format_percent

PREDICTOR_TOLERANCE = 0.05
"""Design §4: a prediction further than this from a measurement on the same ISA proves the predictor wrong."""

PREDICTOR_SLACK_BYTES = 8_000_000
"""A difference within it is allocators and thread stacks, which only a tiny model shows: no word on the predictor."""

THRASHING = 0.02
"""Part of the weights of a token that may come from disk: beyond it the model does not stay in memory (design §4)."""

RAM_SEEN = (0.7, 2.1)
"""Part of the profile's RAM a host may show and still be that device: firmware and GPUs reserve up to a quarter, and
devices are sold with twice the class's RAM.
"""

BEYOND_A_TEST = ("context_tokens", "output_rows")
"""Settings that llama-bench and its kin choose for each test. They change memory, which an imported run does not judge
by, and not the speed at a depth: attention runs over the tokens in the cache, whatever its size.
"""

_HOST_SYSTEMS = {
    "android": ("Android", "Linux"),  # Python calls Android by its name since 3.13
    "linux": ("Linux",),
    "ios": ("iOS", "iPadOS"),
    "ipados": ("iOS", "iPadOS"),
    "macos": ("macOS", "Darwin"),
    "windows": ("Windows",),
    "wsl": ("Linux",),
}
"""What a host calls itself where a profile names the OS."""

PeakName = Literal["working_set", "unevictable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is judged: the evidence, and of it the case of one device."""

    evidence: Evidence
    case: Case
    device: Device


def on_target(subject: Subject) -> Measurement | Unknown | None:
    """The measurement when it was taken on `device`; `None` when it was taken elsewhere or not at all; Unknown when it
    claims the device and cannot be believed.
    """
    device, run = subject.device, subject.evidence.measurement
    if run is None or not run.on_device or run.on_device != device.name:
        return None
    if device.tier == "class":
        return Unknown(
            reason="one machine does not stand for a class of devices",
            settle="write a profile of that machine: `edgekit devices show` prints one to start from",
        )
    doubt = (
        _other_artifact(subject.evidence) or _elsewhere(run, device) or _other_configuration(run, subject.case.settings)
    )
    return Unknown(reason=doubt, settle=_bench(device)) if doubt else run


def here_trusted(evidence: Evidence, test: str) -> Measurement | Unknown:
    """The measurement as a statement about its own host: of this artifact, and with a quiet machine."""
    run = evidence.measurement
    if run is None:
        return Unknown(reason="not measured here", settle="edgekit bench MODEL")
    doubt = _other_artifact(evidence)
    if doubt:
        return Unknown(reason=doubt)
    if run.noise is None:
        return Unknown(reason="whether the host was quiet was not recorded")
    if test in run.noise.contaminated:
        return Unknown(
            reason=f"samples of `{test}` are contaminated: they drift or depend on each other",
            settle="close other programs, let the machine cool, and run again",
        )
    return run


def checked_prediction(evidence: Evidence, predicted: Estimate, which: PeakName) -> Figure:
    """`predicted`, unless a measurement here proves the predictor wrong for this artifact.

    The check compares like with like: the peak measured here against a prediction for *this host's* ISA and the
    settings that ran, without what huge pages hold here. What the predictor missed here it may miss on the device too:
    the range is extended by as much.
    """
    from edgekit.memory import figure_of

    run = evidence.measurement
    if run is None:
        return predicted
    doubt = _other_artifact(evidence)
    if doubt:
        return Unknown(reason=doubt, settle="bench the file that is judged")
    if not peaks_of(run, which):
        return _noted(predicted, "the predictor could not be checked on this host: its OS does not tell")
    memory = _predict_here(evidence.artifact.header, run)
    if isinstance(memory, Unknown):
        return memory
    here = figure_of(memory, which)
    reads = disk_reads(run.peaks, evidence.artifact.header)
    if reads and run.memory_limit is not None:
        held = format_bytes(run.memory_limit.limit_bytes)
        return Unknown(
            reason=f"held to {held} here, {reads}: it did not fit, and its peak says nothing of the predictor",
            settle="run without `--limit-memory`, or on the device itself: `--on-device`",
        )
    also = f"; {reads}, so that its peak may be too low" if reads else ""
    peak = _peak_by_page(run, memory, which)
    off = abs(here.value - peak) / peak
    if off > PREDICTOR_TOLERANCE and abs(here.value - peak) > PREDICTOR_SLACK_BYTES:
        return Unknown(
            reason=f"the predictor is {format_percent(off)} off here ({format_bytes(here.value)} predicted, "
            f"{format_bytes(peak)} measured on `{run.host.isa}`), so its figure for the device is not trusted{also}",
            settle="run on the device itself: `--on-device`",
        )
    extended = replace(
        predicted,
        low=min(predicted.low, predicted.low * peak / here.value),
        high=max(predicted.high, predicted.high * peak / here.value),
    )
    return _noted(
        extended, f"the predictor was {format_percent(off)} off on this host, and the range is extended by that{also}"
    )


def _noted(figure: Estimate, note: str) -> Estimate:
    return replace(figure, note=f"{note}; {figure.note}" if figure.note else note)


def _predict_here(header: Header, run: Measurement) -> MemoryBreakdown | Unknown:
    from edgekit.memory import predict_memory

    try:
        return predict_memory(header, run.workload.settings, run.host.isa)
    except EdgekitError as error:
        return Unknown(reason=f"the predictor could not be checked here: {error.message}")


def _peak_by_page(run: Measurement, memory: MemoryBreakdown, which: PeakName) -> float:
    """The highest peak of a process (one is enough to show what the configuration takes), less what huge pages hold."""
    from edgekit.memory import working_set_by_page

    if which == "unevictable":
        return max(peaks_of(run, which))
    return max(working_set_by_page(memory, peak) for peak in run.peaks)


def may_be_held(run: Measurement, header: Header) -> float:
    """Bytes that huge pages may hold of the file on the machine of `run`, and did not while it ran: after the next
    start the file may be mapped otherwise.
    """
    from edgekit.memory import held_by_huge_pages, may_map_huge

    memory = _predict_here(header, run)
    if isinstance(memory, Unknown) or not may_map_huge(run.host.system):
        return 0.0
    held = min((held_by_huge_pages(memory, peak.huge_mapped_bytes)[0] for peak in run.peaks), default=0.0)
    return memory.huge_page_bytes - held


def peaks_of(run: Measurement, which: PeakName) -> list[int]:
    """Peaks of every worker process in bytes, where the OS told them."""
    found = (peak.working_set_bytes if which == "working_set" else peak.unevictable_bytes for peak in run.peaks)
    return [size_bytes for size_bytes in found if size_bytes is not None and size_bytes > 0]


def disk_reads(peaks: Sequence[MemoryPeak], header: Header) -> str:
    """That a run kept fetching weights from disk, in words; empty when it did not, or its OS does not tell."""
    from edgekit.memory import streamed_bytes

    streamed = sum(size_bytes for _, size_bytes in streamed_bytes(header))
    read = max((peak.read_bytes_per_token or 0.0 for peak in peaks), default=0.0)
    if streamed <= 0 or read <= THRASHING * streamed:
        return ""
    return f"the run fetched {format_bytes(read)} a token from disk, {format_percent(read / streamed)} of the weights"


def _other_artifact(evidence: Evidence) -> str:
    run = evidence.measurement
    if run is not None and run.artifact_sha256 and run.artifact_sha256 == evidence.artifact.sha256:
        return ""
    return "the measurement is of another file than the one judged"


def _elsewhere(run: Measurement, device: Device) -> str:
    """Why the run cannot be of `device`, or nothing. An imported one tells little of its host: there only what it tells
    can speak against the device.
    """
    if not run.imported_from or run.host.isa:
        return other_machine(run.host, device)
    architecture, machine = device.isa.partition("+")[0], run.host.machine
    other = machine not in ("", architecture)
    return f"the run claims to be on the device (`{device.isa}`) and its host is `{machine}`" if other else ""


def other_machine(host: Host, device: Device) -> str:
    """Why the host cannot be `device`, or nothing. Features beyond the profile's are a newer OS telling more."""
    architecture, *features = device.isa.split("+")
    here, *has = host.isa.split("+")
    missing = sorted(set(features) - set(has))
    if here != architecture or missing:
        return f"the run claims to be on the device (`{device.isa}`) and its host is `{host.isa}`"
    for doubt in (_other_os(host, device), _other_cores(host, device)):
        if doubt:
            return doubt
    visible = host.ram_bytes / device.ram_bytes.value if device.ram_bytes.value > 0 else 0.0
    if host.ram_bytes and not RAM_SEEN[0] <= visible <= RAM_SEEN[1]:
        return (
            f"the run claims to be on the device ({format_bytes(device.ram_bytes.value)} of RAM) and its host has "
            f"{format_bytes(host.ram_bytes)}"
        )
    return ""


def _other_os(host: Host, device: Device) -> str:
    """Why the host's OS cannot be the device's, or nothing. A profile may name several, or one nobody knows."""
    named = {name for name in _HOST_SYSTEMS if re.search(rf"\b{name}\b", device.os, re.IGNORECASE)}
    accepted = {system for name in named for system in _HOST_SYSTEMS[name]}
    if named and host.system not in accepted:
        return (
            f"the run claims to be on the device (`{device.os}`) and its host runs `{host.system or 'an unknown OS'}`"
        )
    if host.virtualized and device.device_class in ("smartphone", "tablet"):
        return f"the run claims to be on a {device.device_class} and its host is virtual (`{host.virtualized}`)"
    return ""


def _other_cores(host: Host, device: Device) -> str:
    cores = sum(cluster.cores for cluster in device.clusters)
    if host.physical_cores < cores:
        return f"the run claims to be on the device ({cores} cores) and its host has {host.physical_cores}"
    return ""


def _other_configuration(run: Measurement, judged: Settings) -> str:
    """Which setting of the run differs from the judged configuration; effective threads count, not the request."""
    ran = run.workload.settings
    apart = ("threads", *(BEYOND_A_TEST if run.imported_from else ()))
    for field in fields(Settings):
        if field.name not in apart and getattr(ran, field.name) != getattr(judged, field.name):
            return (
                f"the run used `{field.name}` {getattr(ran, field.name)} and the judged configuration has "
                f"{getattr(judged, field.name)}"
            )
    effective = run.runtime.threads if run.runtime else ran.threads
    if judged.threads and effective != judged.threads:
        return f"the run used {effective} threads and the judged configuration has {judged.threads}"
    if not judged.threads and ran.threads:
        return f"the run used {ran.threads} threads and the judged configuration leaves them to the big cores"
    return ""


def _bench(device: Device) -> str:
    return f"edgekit bench MODEL --device {device.name} --on-device {device.name}"
