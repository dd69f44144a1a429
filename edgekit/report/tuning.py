"""Settings that were searched for, for a terminal."""

from __future__ import annotations

from rich.console import Console

from edgekit.records import Estimate, Figure, Pair, Settings, Trial, TunedTarget, Tuning, Unknown
from edgekit.report.facts import host_text, runtime_text
from edgekit.report.terminal import LEVEL_STYLES, STYLES, Page, print_findings, print_page
from edgekit.report.words import clean
from edgekit.units import format_bytes, format_duration, format_number, format_percent

SHOWN = ("threads", "ubatch_tokens", "kv_type", "flash_attention", "mmap", "repack", "output_rows", "context_tokens")


def print_tuning(tuning: Tuning, console: Console) -> None:
    """Print the advised settings, what they cost and how they were found."""
    print_page(console, lambda page: _print(page, tuning))


def _print(page: Page, tuning: Tuning) -> None:
    name = clean(tuning.artifact.path.rpartition("/")[2], 60)
    page.line(
        (f"{tuning.status.upper()} ", STYLES[tuning.status]),
        (f"{name} on {clean(tuning.device_title, 60)}: {clean(tuning.reason, 300)}", "bold"),
    )
    if tuning.settings is None:
        return
    page.heading("settings")
    page.rows("", _settings(tuning.settings, tuning.default))
    page.heading("as flags")
    for flags in tuning.flags:
        page.line((flags.tool, "dim"), indent=2)
        for line in flags.text.splitlines():  # not folded: it is there to be pasted
            page.console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)
        for missing in flags.missing:
            page.labelled("not said", missing, "dim", indent=4)
    page.heading("against llama.cpp's defaults")
    _print_changes(page, tuning)
    for cost in tuning.costs:
        page.labelled("cost", cost, LEVEL_STYLES["warning"], indent=2)
    _print_trials(page, tuning)
    _print_foot(page, tuning)


def _settings(settings: Settings, default: Settings) -> list[tuple[str, str]]:
    rows = []
    for name in SHOWN:
        value, usual = getattr(settings, name), getattr(default, name)
        rows.append((name, _value(name, value) + ("" if value == usual else f" (default {_value(name, usual)})")))
    return rows


def _value(name: str, value: object) -> str:
    if name == "output_rows" and value == 0:
        return "one per token of the micro-batch"
    if name == "threads" and value == 0:
        return "the big cores"
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _print_changes(page: Page, tuning: Tuning) -> None:
    page.labelled("decode", _ratio(tuning.decode_ratio), indent=2)
    page.labelled("prefill", _ratio(tuning.prefill_ratio), indent=2)
    for target in tuning.targets:
        where = f" on {clean(target.device_title, 40)}" if len(tuning.targets) > 1 else ""
        page.labelled(f"memory{where}", _memory(target), indent=2)
        page.labelled(f"decode{where}", _decode(target.decode), indent=2)


def _ratio(figure: Figure) -> str:
    if isinstance(figure, Unknown):
        return f"unknown: {figure.reason}"
    low, value, high = (format_percent(one - 1, signed=True) for one in (figure.low, figure.value, figure.high))
    return f"{value} ({low} – {high}, {figure.basis}; {figure.note})"


def _memory(target: TunedTarget) -> str:
    saved = target.memory_default.value - target.memory.value
    reserved = target.reserved_default_bytes - target.reserved_bytes
    resident = target.resident_default.value - target.resident.value
    return (
        f"{_span(target.memory)} {target.memory_metric.replace('_', ' ')} of {format_bytes(target.limit.low)} "
        f"({target.status}, predicted for {target.isa}); saved: {_signed(saved)}, of what is resident "
        f"{_signed(resident)}, of what is reserved and untouched {_signed(reserved)}"
    )


def _span(figure: Estimate) -> str:
    return f"{format_bytes(figure.value)} ({format_bytes(figure.low)} – {format_bytes(figure.high)})"


def _signed(size_bytes: float) -> str:
    return format_bytes(size_bytes) if size_bytes >= 0 else f"−{format_bytes(-size_bytes)}"


def _decode(figure: Figure) -> str:
    if isinstance(figure, Unknown):
        settle = f"; to settle: {figure.settle}" if figure.settle else ""
        return f"unknown: {figure.reason}{settle}"
    value, low, high = (format_number(one, "tok/s") for one in (figure.value, figure.low, figure.high))
    return f"{value} ({low} – {high}, {figure.basis}; {figure.note})"


def _print_trials(page: Page, tuning: Tuning) -> None:
    page.heading(f"trials: {len(tuning.trials)} of {tuning.feasible} points that fit, of {tuning.points}")
    rows = [
        [(_difference(trial), ""), (_rounds(trial.rounds, "decode"), ""), (_rounds(trial.rounds, "prefill"), "")]
        for trial in tuning.trials
    ]
    if rows:
        page.table(("tried, in turn with the best so far", "decode", "prefill"), rows)


def _difference(trial: Trial) -> str:
    changed = [
        f"{name.removesuffix('_tokens')} {_value(name, getattr(trial.settings, name))}"
        for name in SHOWN
        if getattr(trial.settings, name) != getattr(trial.against, name)
    ]
    broke = f": {clean(trial.outcome, 100)}" if not trial.rounds else ""
    return ", ".join(changed) + broke


def _rounds(pairs: tuple[Pair, ...], metric: str) -> str:
    """The span of a trial's rounds: too few for a range, so every one of them lies within."""
    found = [pair.new / pair.base - 1 for pair in pairs if pair.metric == metric]
    if not found:
        return "–"
    if len(found) == 1:
        return f"{format_percent(found[0], signed=True)} (1 round)"
    low, high = (format_percent(one, signed=True) for one in (min(found), max(found)))
    return f"{low} to {high} ({len(found)} rounds)"


def _print_foot(page: Page, tuning: Tuning) -> None:
    print_findings(page, tuning.findings)
    circumstances = [("tried on", host_text(tuning.host))]
    if tuning.runtime is not None:
        circumstances.append(("runtime", runtime_text(tuning.runtime)))
    circumstances.append(("took", format_duration(tuning.elapsed_s)))
    page.rows("circumstances", circumstances)
