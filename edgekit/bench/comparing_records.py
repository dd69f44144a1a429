"""Two recorded runs side by side: what can still be said of them when they did not run in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from edgekit import __version__, in_turn
from edgekit.bench.checks import mapped_unlike
from edgekit.bench.comparing import BETTER, check_limits, first_difference, overall
from edgekit.bench.noise import not_quiet
from edgekit.errors import EdgekitError
from edgekit.records import Change, Comparison, Estimate, Evidence, Figure, Finding, Measurement, Unknown
from edgekit.summary import timed
from edgekit.units import format_bytes

DRIFT = 1.10
"""How far a machine drifts between two windows of time (up to 10 % on the machines tried); nothing in two records can
tell that from a change of the build."""


def compare_recorded(base: Evidence, new: Evidence, limits: dict[str, float]) -> Comparison:
    """Whether `new` is worse than `base` by more than `limits` allow, from their recorded runs. Ranges of times and
    speeds are wider by `DRIFT` either way, so that small limits stay open: `compare` of the files runs them in turn.

    Raises EdgekitError, naming the field, where host, runtime, settings or device were not alike.
    """
    check_limits(limits)
    ours, theirs = _measured(base, "BASE"), _measured(new, "NEW")
    _refuse_unlike(ours, theirs)
    changes = tuple(_change(metric, limits.get(metric), base, new) for metric in BETTER)
    note = Finding(
        level="note",
        code="not-interleaved",
        message="recorded runs: drift of the machine between them is in the ranges",
        hint="`edgekit compare BASE.gguf NEW.gguf` runs both in turn",
    )
    return Comparison(
        edgekit_version=__version__,
        base=base.artifact,
        new=new.artifact,
        interleaved=False,
        settings=ours.workload.settings,
        host=ours.host,
        runtime=ours.runtime,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        changes=changes,
        pairs=(),
        status=overall(changes),
        findings=(note,),
    )


def _measured(evidence: Evidence, which: str) -> Measurement:
    found = evidence.measurement
    if found is None:
        raise EdgekitError(f"{which} holds no measurement", hint="make it with `edgekit bench`")
    if any(finding.level == "fault" for finding in found.findings):
        raise EdgekitError(f"the run of {which} broke: there is nothing to compare", hint="run it again")
    if found.artifact_sha256 != evidence.artifact.sha256:
        raise EdgekitError(f"the measurement of {which} is of another file than its artifact", hint="run it again")
    return found


def _refuse_unlike(ours: Measurement, theirs: Measurement) -> None:
    """Raises EdgekitError for rows that must not be joined."""
    if ours.runtime is None or theirs.runtime is None:
        raise EdgekitError("a run does not say what ran it")
    kept: dict[str, Any] = {"backend": "", "repacked_tensors": None, "flash_attention": None, "isolation": ""}
    pairs = (
        ("host", replace(ours.host, release="", power_source=""), replace(theirs.host, release="", power_source="")),
        ("runtime", replace(ours.runtime, **kept), replace(theirs.runtime, **kept)),
        ("settings", ours.workload.settings, theirs.workload.settings),
    )
    for name, one, other in pairs:
        unlike = first_difference(one, other)
        if unlike:
            raise EdgekitError(
                f"the runs are not alike, {name}: {unlike}", hint="run both in turn: give the model files"
            )
    held = [one.memory_limit and (one.memory_limit.limit_bytes, one.memory_limit.means) for one in (ours, theirs)]
    if held[0] != held[1]:
        words = ", ".join(format_bytes(one[0]) if one else "none" for one in held)
        raise EdgekitError(f"the runs are not alike, memory limit: {words}", hint="hold both to it, or neither")
    if ours.on_device != theirs.on_device:
        raise EdgekitError(f"the runs are of different devices: `{ours.on_device}`, `{theirs.on_device}`")


_TESTS = {"decode": ("tg128", "tg32"), "prefill": ("pp512", "pp128")}
"""The first that both ran is compared: of different lengths they are different tests."""


def _common_test(metric: str, ours: Measurement, theirs: Measurement) -> str:
    return next((test for test in _TESTS[metric] if timed(ours, test) and timed(theirs, test)), "")


def _values(evidence: Evidence, metric: str, test: str) -> list[float]:
    found = evidence.measurement
    assert found is not None
    if metric == "size":
        return [float(evidence.artifact.header.size_bytes)]
    if metric == "memory":
        return [float(peak.working_set_bytes) for peak in found.peaks if peak.working_set_bytes]
    if metric == "load":
        return list(found.load_s)
    return [sample.tokens / sample.elapsed_s for sample in timed(found, test)]


def _doubt(metric: str, test: str, runs: Sequence[Measurement]) -> str:
    """Why the runs' times say nothing of the builds; empty where both machines were seen to be quiet."""
    if metric == "size":
        return ""
    if metric in _TESTS and not test:
        return f"the two ran no test in common: {' or '.join(_TESTS[metric])}"
    for run in runs:
        if run.noise is not None and test in run.noise.contaminated:
            return f"samples of `{test}` drift or depend on each other"
        if doubt := not_quiet(run.noise):
            return doubt
    return ""


def _change(metric: str, limit: float | None, base: Evidence, new: Evidence) -> Change:
    assert base.measurement is not None
    assert new.measurement is not None
    runs = (base.measurement, new.measurement)
    test = _common_test(metric, *runs) if metric in _TESTS else ""
    ours, theirs = _values(base, metric, test), _values(new, metric, test)
    ratio = _ratio(ours, theirs, exact=metric in ("size", "memory"))
    sizes = (base.artifact.header.size_bytes, new.artifact.header.size_bytes)
    doubt = mapped_unlike(runs[0].peaks, runs[1].peaks, sizes) if metric == "memory" else _doubt(metric, test, runs)
    status = "unknown" if doubt else _judged(ratio, limit, metric)
    words = {"pass": "the whole range keeps to the limit", "fail": "the whole range breaks the limit"}
    reason = f"inconclusive: {doubt or 'the range holds the limit'}"
    return Change(
        metric=metric,
        better=BETTER[metric],
        limit=limit,
        ratio=ratio,
        status=status,
        reason="no limit was set" if limit is None else words.get(status, reason),
        mann_whitney_p=in_turn.mann_whitney(ours, theirs),
    )


def _ratio(base: Sequence[float], new: Sequence[float], *, exact: bool) -> Figure:
    """Median of all NEW ÷ BASE; from the farthest of them on either side where there is no drift to allow for."""
    if not base or not new or min(*base, *new) <= 0:
        return Unknown(reason="not measured in both")
    ratios = sorted(b / a for a in base for b in new)
    value = ratios[len(ratios) // 2]
    if exact:
        return Estimate(value=value, low=ratios[0], high=ratios[-1], basis="measured-here")
    low, high = ratios[round(0.05 * (len(ratios) - 1))], ratios[round(0.95 * (len(ratios) - 1))]
    return Estimate(value=value, low=low / DRIFT, high=high * DRIFT, basis="measured-here", note="drift allowed for")


def _judged(ratio: Figure, limit: float | None, metric: str) -> Literal["pass", "fail", "unknown"]:
    if limit is None or isinstance(ratio, Unknown):
        return "unknown"
    if BETTER[metric] == "higher":
        return "pass" if ratio.low >= limit else "fail" if ratio.high < limit else "unknown"
    return "pass" if ratio.high <= limit else "fail" if ratio.low > limit else "unknown"
