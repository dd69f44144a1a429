"""What a report says beside its checks: circumstances, memory, speed, findings and waivers, as plain rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from edgekit.records import (
    Artifact,
    Battery,
    Case,
    Check,
    DeviceState,
    Estimate,
    Figure,
    Finding,
    Host,
    Measurement,
    MemoryBreakdown,
    Quality,
    Report,
    Runtime,
    Settings,
    Unknown,
    Verdict,
)
from edgekit.report.words import Fact, clean, figure_text, waiver_text
from edgekit.summary import inter_token, load_time, time_to_first_token
from edgekit.units import format_bytes, format_duration, format_percent


def artifact_title(artifact: Artifact) -> str:
    """The file's name, as the user knows it."""
    return clean(PurePath(artifact.path).name or artifact.header.name or "artifact", 120)


def leaves(verdict: Verdict) -> tuple[Verdict, ...]:
    """The verdicts that hold checks: the members of a class, or the verdict itself."""
    return verdict.members or (verdict,)


def all_checks(report: Report) -> tuple[tuple[Verdict, Check], ...]:
    """Every check with the device it belongs to."""
    return tuple((leaf, check) for verdict in report.verdicts for leaf in leaves(verdict) for check in leaf.checks)


def beside(report: Report, leaf: Verdict, check: Check) -> str:
    """What must stand beside a check's figure: its note, or the speed and power that battery hours are stated at
    (design §3).
    """
    case = case_of(report, leaf)
    if case is None or not isinstance(case.battery, Battery) or "battery" not in check.metric:
        note = check.figure.note if isinstance(check.figure, Estimate) else ""
        return "" if note in check.reason else clean(note)
    speed, power = case.battery.at_tokens_per_s, case.battery.power_w
    return f"at {figure_text(speed, 'tok/s')}, drawing {figure_text(power, 'W')}"


def case_of(report: Report, verdict: Verdict) -> Case | None:
    """The case that a verdict was judged on."""
    return next((case for case in report.evidence.cases if case.device == verdict.device), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many members of a class stand how on one metric."""

    passed: int
    failed: int
    unknown: int

    def __str__(self) -> str:
        parts = ((self.passed, "pass"), (self.failed, "fail"), (self.unknown, "unknown"))
        return ", ".join(f"{count} {word}" for count, word in parts if count) or "none judged"


def count_statuses(statuses: list[str]) -> Counts:
    return Counts(passed=statuses.count("pass"), failed=statuses.count("fail"), unknown=statuses.count("unknown"))


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """One metric over the members of a class, in the order of the class."""

    metric: str
    entries: tuple[tuple[Verdict, Check], ...]

    @property
    def counts(self) -> Counts:
        return count_statuses([check.status for _, check in self.entries])

    @property
    def nearest(self) -> tuple[Verdict, Check]:
        """The member closest to passing among those that do not: what the reader asks about first."""
        short = [entry for entry in self.entries if entry[1].status != "pass"] or self.entries
        return max(short, key=lambda entry: float("-inf") if entry[1].margin is None else entry[1].margin)

    @property
    def uniform(self) -> bool:
        """All members stand alike, so one line says it."""
        return len({(check.status, check.figure, check.reason) for _, check in self.entries}) == 1


def by_metric(verdict: Verdict) -> tuple[MetricRow, ...]:
    """The checks of all members grouped by metric, in the order the gates name them."""
    names = dict.fromkeys(check.metric for leaf in leaves(verdict) for check in leaf.checks)
    return tuple(
        MetricRow(
            metric=name,
            entries=tuple((leaf, check) for leaf in leaves(verdict) for check in leaf.checks if check.metric == name),
        )
        for name in names
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the memory stack. `counted` is false for dormant pages: resident at first, never read again."""

    label: str
    key: str
    size_bytes: int
    counted: bool = True


def memory_parts(memory: MemoryBreakdown) -> tuple[Part, ...]:
    """The stack from the largest certainty up, without empty parts. Dormant pages are part of the weights as stored and
    are shown apart.
    """
    parts = (
        Part(label="weights", key="weights", size_bytes=memory.weights_bytes - memory.dormant_bytes),
        Part(label="repacked weights", key="repacked", size_bytes=memory.repacked_bytes),
        Part(label="KV cache", key="kv", size_bytes=memory.kv_bytes),
        Part(label="compute buffer", key="compute", size_bytes=memory.compute_bytes),
        Part(label="output", key="output", size_bytes=memory.output_bytes),
        Part(label="runtime", key="runtime", size_bytes=memory.runtime_bytes),
        Part(label="dormant source pages", key="dormant", size_bytes=memory.dormant_bytes, counted=False),
    )
    return tuple(part for part in parts if part.size_bytes > 0)


def settings_text(settings: Settings, kind: str = "gguf") -> str:
    """The configuration in llama.cpp's words, on one line; of an ONNX model (`kind` `onnx`) only what it follows."""
    rows = f", {settings.output_rows} output rows" if settings.output_rows else ""
    threads = f"{settings.threads} threads" if settings.threads else "threads: the big cluster's cores"
    if kind == "onnx":
        part = min(settings.ubatch_tokens, settings.batch_tokens)
        return (
            f"context {settings.context_tokens}, prompts in parts of {part}, prepacking {_on(settings.repack)}, "
            f"{threads}; KV cache and attention as the graph has them"
        )
    return (
        f"context {settings.context_tokens}, batch {settings.batch_tokens}, ubatch {settings.ubatch_tokens}, "
        f"KV {settings.kv_type}, flash attention {settings.flash_attention}, mmap {_on(settings.mmap)}, "
        f"repack {_on(settings.repack)}, {threads}{rows}"
    )


def _on(value: bool) -> str:
    return "on" if value else "off"


def circumstances(report: Report) -> tuple[Fact, ...]:
    """Everything a reader needs to repeat or to distrust the figures, cleaned for display."""
    evidence = report.evidence
    facts = [*_artifact_facts(evidence.artifact)]
    if evidence.measurement is not None:
        facts += _measurement_facts(evidence.measurement, evidence.artifact.header.format)
    for case in evidence.cases if len(evidence.cases) == 1 else ():
        judged = settings_text(case.settings, evidence.artifact.header.format)
        facts.append(Fact(label="judged configuration", value=judged))
    facts += [Fact(label="gates", value=f"{v.gates_origin}, sha256 {v.gates_sha256[:16]}") for v in report.verdicts]
    facts.append(
        Fact(label="written by", value=f"edgekit {evidence.edgekit_version}, evidence gathered {evidence.created_at}")
    )
    return tuple(Fact(label=fact.label, value=clean(fact.value)) for fact in facts if fact.value)


def _artifact_facts(artifact: Artifact) -> tuple[Fact, ...]:
    header = artifact.header
    shape = f"{header.architecture}, {header.layers} layers, hidden {header.hidden}, vocabulary {header.vocabulary}"
    digest = artifact.sha256 or f"{header.sha256} (of the header only)"
    size = f"{format_bytes(header.size_bytes)} in {header.shards} file{'s' if header.shards != 1 else ''}"
    return (
        Fact(label="artifact", value=artifact.path),
        Fact(label="model", value=f"{header.name or 'unnamed'}: {shape}"),
        Fact(label="type and size", value=f"{header.format} {header.quant}, {size}"),
        Fact(label="SHA-256", value=digest),
        Fact(label="weights", value="stand-in (random weights, no quality)" if header.stand_in else ""),
    )


def _measurement_facts(measurement: Measurement, kind: str) -> tuple[Fact, ...]:
    return (
        Fact(label="host", value=host_text(measurement.host)),
        Fact(label="runtime", value=runtime_text(measurement.runtime)),
        Fact(label="ran with", value=settings_text(measurement.workload.settings, kind)),
        Fact(label="started", value=measurement.started_at),
        Fact(label="host is", value=f"the device `{measurement.on_device}` itself" if measurement.on_device else ""),
        Fact(label="memory limit", value=measurement.memory_limit.words if measurement.memory_limit else ""),
        Fact(label="device state", value=_state_text(measurement.states)),
        Fact(label="host noise", value=_noise_text(measurement)),
        Fact(label="energy counter", value=measurement.energy_unknown or _energy_text(measurement)),
    )


def host_text(host: Host) -> str:
    """The machine on one line, as far as its OS tells."""
    extras = [
        host.cpu_model,
        f"{host.physical_cores} cores" if host.physical_cores else "",
        format_bytes(host.ram_bytes) if host.ram_bytes else "",
        f"{host.system} {host.release}".strip(),
        host.isa,
        f"governor {host.governor}" if host.governor else "",
        f"virtualized ({host.virtualized})" if host.virtualized else "",
        f"on {host.power_source}" if host.power_source else "",
    ]
    return ", ".join(extra for extra in extras if extra)


def runtime_text(runtime: Runtime | None) -> str:
    """The build that ran and what it effectively did, on one line."""
    if runtime is None:
        return "did not start"
    repacked = "" if runtime.repacked_tensors is None else f"{runtime.repacked_tensors} tensors repacked"
    flash = "" if runtime.flash_attention is None else f"flash attention {_on(runtime.flash_attention)}"
    parts = [
        f"{runtime.name} {runtime.version} ({runtime.build})",
        runtime.backend,
        f"{runtime.threads} threads",
        flash,
        repacked,
        runtime.cpu_features,
        f"fenced by {runtime.isolation}" if runtime.isolation else "not fenced in",
    ]
    return ", ".join(part for part in parts if part)


def _noise_text(measurement: Measurement) -> str:
    noise = measurement.noise
    if noise is None:
        return "not observed"
    shares = (
        ("others used", noise.others_cpu_during, "of the CPU during the run"),
        ("idle check found", noise.others_cpu_before, "busy before"),
        ("CPU pressure", noise.pressure_some_during, "of the time"),
    )
    parts = [f"{a} {format_percent(share)} {b}" for a, share, b in shares if share is not None]
    if noise.contaminated:
        parts.append(f"contaminated: {', '.join(noise.contaminated)}")
    return "; ".join(parts) or "not shown by this machine"


def _state_text(states: Sequence[DeviceState]) -> str:
    """The worst that was seen of heat and clocks, what the battery fell to, and how long was waited."""
    zones = [zone for state in states for zone in state.zones]
    hottest = max(zones, key=lambda zone: zone.temperature_c, default=None)
    shares = [one.allowed_mhz / one.able_mhz for s in states for one in s.clocks if one.allowed_mhz and one.able_mhz]
    levels = [state.gauges[0].percent for state in states if state.gauges and state.gauges[0].percent is not None]
    waited_s = sum(state.waited_s for state in states)
    parts = [
        f"at most {hottest.temperature_c:.0f} °C ({hottest.name})" if hottest else "",
        f"clocks allowed {format_percent(min(shares))} and more" if shares else "",
        f"battery {levels[0]} % to {levels[-1]} %" if levels else "",
        f"waited {format_duration(waited_s)} to cool" if waited_s else "",
    ]
    return ", ".join(part for part in parts if part)


def _energy_text(measurement: Measurement) -> str:
    return "; ".join(
        f"{reading.counter} ({reading.scope}): {reading.joules / reading.tokens:.3g} J/token"
        f"{f' ± {format_percent(reading.error)}' if reading.error else ''} in {reading.test}"
        for reading in measurement.energy
        if reading.tokens
    )


def latencies(measurement: Measurement) -> tuple[tuple[str, Figure], ...]:
    """What a user of the model waits for, in seconds: the first token, each further token, loading."""
    prompt = f"pp{next(iter(measurement.workload.prompt_tokens), 512)}"
    generate = f"tg{next(iter(measurement.workload.generated_tokens), 128)}"
    rows: list[tuple[str, Figure]] = [(f"time to first token, {prompt}", time_to_first_token(measurement, prompt))]
    tokens = inter_token(measurement, generate)
    if isinstance(tokens, Unknown):
        rows.append((f"inter-token latency, {generate}", tokens))
    else:
        percentiles = (("p50", tokens.p50), ("p90", tokens.p90), ("p99", tokens.p99))
        rows += [(f"inter-token latency {name}, {generate}", figure) for name, figure in percentiles]
    return (*rows, ("load time", load_time(measurement)))


def findings(report: Report) -> tuple[Finding, ...]:
    """Of the run and of the scoring: faults first, then warnings, then notes."""
    measurement, quality = report.evidence.measurement, report.evidence.quality
    return _by_weight((*(measurement.findings if measurement else ()), *(quality_findings(quality) if quality else ())))


def quality_findings(quality: Quality) -> tuple[Finding, ...]:
    """Of everything in a quality record, each said once: faults first, then warnings, then notes."""
    tasks, layers = quality.tasks, quality.layers
    found = (*quality.findings, *(tasks.answers.findings if tasks else ()), *(layers.findings if layers else ()))
    theirs = tasks.teacher.findings if tasks and tasks.teacher else ()
    of_teacher = (replace(one, message=f"of the teacher: {one.message}") for one in theirs if one not in found)
    return _by_weight(tuple(dict.fromkeys((*found, *of_teacher))))


def _by_weight(found: tuple[Finding, ...]) -> tuple[Finding, ...]:
    return tuple(sorted(found, key=lambda one: ("fault", "warning", "note").index(one.level)))


def waivers(report: Report) -> tuple[str, ...]:
    """Each waiver in force, said once."""
    texts = (f"{check.title}: waiver {waiver_text(check)}" for _, check in all_checks(report) if check.waiver)
    return tuple(dict.fromkeys(clean(text) for text in texts))
