"""Two builds in turn on this machine: pairs of fresh processes, both loaded, one running at a time.

Within a pair each test runs base, new, new, base (or the other way round in every other pair), so that a drift of the
machine, straight in time, takes the same from both. What differs between processes (where the memory lies) is between
pairs, and so in the interval.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import geometric_mean
from typing import Literal

from edgekit import __version__, in_turn, runtimes
from edgekit.bench import noise
from edgekit.bench.checks import mapped_unlike
from edgekit.bench.host import isa_that_ran, probe_host
from edgekit.bench.measuring import OpenWorker
from edgekit.errors import EdgekitError
from edgekit.progress import Progress, silent
from edgekit.records import (
    Artifact,
    Change,
    Comparison,
    Estimate,
    Figure,
    Finding,
    MemoryPeak,
    Pair,
    Runtime,
    Settings,
    Unknown,
)
from edgekit.runtimes import Step, Worker
from edgekit.runtimes.limits import put_out

STAGE = "comparing"
MIN_EFFECT = 0.005
"""A limit closer to no change than that would judge the machine: what the clock and the scheduler leave is larger."""

BETTER: dict[str, Literal["higher", "lower"]] = {
    "decode": "higher",
    "prefill": "higher",
    "memory": "lower",
    "load": "lower",
    "size": "lower",
}
"""What can be compared. `memory` is the working set's peak, as memory gates judge it; `load` the seconds until the
model stands.
"""

_TESTS = {"prefill": Step(test="pp128", prompt=128), "decode": Step(test="tg32", generate=32)}


def compare(
    base: Artifact,
    new: Artifact,
    limits: dict[str, float],
    *,
    settings: Settings | None = None,
    timeout_s: float = 1800.0,
    progress: Progress = silent,
    open_worker: OpenWorker = runtimes.open_worker,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    root: Path = Path("/"),
) -> Comparison:
    """Whether `new` is worse than `base` by more than `limits` allow: the worst ratio NEW ÷ BASE for each metric of
    `BETTER`. Pairs are added until every limit is settled, or 40 are done; what is not limited is shown.

    A worker that dies raises WorkerDied (exit code 4). Raises EdgekitError for builds that run in different runtimes,
    for a limit nearer to no change than `MIN_EFFECT`, and for what a runtime declines.
    """
    check_limits(limits)
    run = _Run(base=base, new=new, settings=settings or Settings(), timeout_s=timeout_s, open_worker=open_worker)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    _read_anew([Path(artifact.path) for artifact in (base, new)])
    idle_before, before = noise.watch_before(root, sleep, clock), noise.read_counters(root, clock)
    for count in range(1, in_turn.LOOKS[-1] + 1):
        progress(STAGE, count - 1, in_turn.LOOKS[-1], run.standing())
        run.one_pair(count - 1)
        if count in in_turn.LOOKS and not run.open_limits(limits):
            break
    quiet, warnings = noise.judge_noise(idle_before, before, noise.read_counters(root, clock), (), on_device=False)
    changes = tuple(_change(metric, limits.get(metric), run, doubt=noise.not_quiet(quiet)) for metric in BETTER)
    host = probe_host(root)
    return Comparison(
        edgekit_version=__version__,
        base=base,
        new=new,
        interleaved=True,
        settings=run.settings,
        host=replace(host, isa=isa_that_ran(host, run.runtime)) if run.runtime else host,
        runtime=run.runtime,
        started_at=started_at,
        changes=changes,
        pairs=tuple(run.pairs),
        status=overall(changes),
        noise=quiet,
        findings=(*run.findings, *warnings),
    )


def _read_anew(files: Sequence[Path]) -> None:
    """Have both files fetched by the same hand. How a file came into the page cache decides by which pages it is
    mapped, and so how its working set is counted: one that was just written differs from one that lay there.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            put_out(files)


def overall(changes: Sequence[Change]) -> Literal["pass", "fail", "unknown"]:
    """Any broken limit fails, any open one is unknown; without a limit nothing was asked, and nothing passes."""
    states = [change.status for change in changes if change.limit is not None]
    return "fail" if "fail" in states else "unknown" if "unknown" in states or not states else "pass"


def check_limits(limits: dict[str, float]) -> None:
    """Raises EdgekitError for a metric that is not known, and a limit that nothing could be judged by."""
    for metric, limit in limits.items():
        _check_limit(metric, limit)


def _check_limit(metric: str, limit: float) -> None:
    if metric not in BETTER:
        raise EdgekitError(f"unknown metric to compare: `{metric}`", hint=f"known: {', '.join(BETTER)}")
    room = 1 - limit if BETTER[metric] == "higher" else limit - 1
    exact = metric == "size"
    if not (0 if exact else MIN_EFFECT) <= room < 1:
        raise EdgekitError(
            f"a limit must allow between {MIN_EFFECT:.1%} and 100 % of change: `{metric}={room:.4g}`",
            hint=f"`--max-regress {metric}=3%`",
        )


@dataclass(slots=True, kw_only=True)
class _Run:
    """What accumulates while the pairs run."""

    base: Artifact
    new: Artifact
    settings: Settings
    timeout_s: float
    open_worker: OpenWorker
    runtime: Runtime | None = None
    pairs: list[Pair] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    mapped_unlike: str = ""

    def one_pair(self, index: int) -> None:
        """Both builds loaded, the order turned round in every other pair."""
        artifacts = (self.base, self.new) if index % 2 == 0 else (self.new, self.base)
        first, second = (
            self.open_worker(Path(artifact.path), self.settings, timeout_s=self.timeout_s, seed=1 + index)
            for artifact in artifacts
        )
        with first as one, second as other:
            self._accept(one)
            self._accept(other)
            figures = {metric: _in_turn(one, other, step) for metric, step in _TESTS.items()}
            figures["load"] = (one.load_s, other.load_s)
            figures |= self._memory(artifacts, one.finish(index), other.finish(index))
        figures["size"] = (float(artifacts[0].header.size_bytes), float(artifacts[1].header.size_bytes))
        for metric, (ours, theirs) in figures.items():
            base, new = (ours, theirs) if index % 2 == 0 else (theirs, ours)
            self.pairs.append(Pair(metric=metric, pair=index, base=base, new=new))

    def _memory(
        self, artifacts: tuple[Artifact, Artifact], one: MemoryPeak | None, other: MemoryPeak | None
    ) -> dict[str, tuple[float, float]]:
        if one is None or other is None or not one.working_set_bytes or not other.working_set_bytes:
            return {}
        first, second = (artifact.header.size_bytes for artifact in artifacts)
        self.mapped_unlike = self.mapped_unlike or mapped_unlike([one], [other], (first, second))
        return {"memory": (float(one.working_set_bytes), float(other.working_set_bytes))}

    def _accept(self, worker: Worker) -> None:
        self.findings += [finding for finding in worker.findings if finding not in self.findings]
        if self.runtime is None:
            self.runtime = worker.runtime
            return
        unlike = first_difference(_build(self.runtime), _build(worker.runtime))
        if unlike:
            raise EdgekitError(f"the two do not run alike: {unlike}", hint="compare builds that one runtime runs")

    def log_ratios(self, metric: str) -> list[float]:
        """ln(NEW ÷ BASE) of every pair."""
        return [math.log(pair.new / pair.base) for pair in self.pairs if pair.metric == metric]

    def open_limits(self, limits: dict[str, float]) -> list[str]:
        """Metrics on which more pairs may settle the limit."""
        return [m for m, limit in limits.items() if in_turn.judge(self.log_ratios(m), limit, BETTER[m]) == "unknown"]

    def standing(self) -> str:
        """How decode stands, for the progress line."""
        ratios = self.log_ratios("decode")
        return f"decode × {math.exp(sorted(ratios)[len(ratios) // 2]):.3f}" if ratios else ""


def _build(runtime: Runtime) -> Runtime:
    """What must be alike of two builds' runtimes; which kernels ran follows from their types."""
    return replace(runtime, backend="", repacked_tensors=None, flash_attention=None)


def first_difference(one: object, other: object) -> str:
    """The first field in which two records differ, with both values; empty where they are the same."""
    for spec in fields(one):  # type: ignore[arg-type]
        ours, theirs = getattr(one, spec.name), getattr(other, spec.name)
        if ours != theirs:
            return f"`{spec.name}` is `{str(ours)[:60]}` and `{str(theirs)[:60]}`"
    return ""


def _in_turn(one: Worker, other: Worker, step: Step) -> tuple[float, float]:
    """tok/s of both, each the geometric mean of its two runs of: one, other, other, one. Both are warmed up first."""
    for worker in (one, other):
        for _ in worker.run(replace(step, warmup=True)):
            pass
    speeds: dict[int, list[float]] = {id(one): [], id(other): []}
    for worker in (one, other, other, one):
        speeds[id(worker)] += [sample.tokens / sample.elapsed_s for sample in worker.run(step)]
    first, second = map(geometric_mean, speeds.values())
    return first, second


def _change(metric: str, limit: float | None, run: _Run, *, doubt: str) -> Change:
    better = BETTER[metric]
    ratios = run.log_ratios(metric)
    found = in_turn.interval(ratios)
    values = [pair for pair in run.pairs if pair.metric == metric]
    status = in_turn.judge(ratios, limit, better) if limit is not None else "unknown"
    doubt = {"size": "", "memory": run.mapped_unlike}.get(metric, doubt)
    if doubt:
        status = "unknown"
    return Change(
        metric=metric,
        better=better,
        limit=limit,
        ratio=_figure(found, len(ratios)),
        status=status,
        reason=_reason(limit, status, len(ratios), doubt),
        mann_whitney_p=in_turn.mann_whitney([pair.base for pair in values], [pair.new for pair in values]),
    )


def _figure(found: tuple[float, float, float] | None, count: int) -> Figure:
    if found is None:
        return Unknown(reason=f"`{count}` pairs give no range", settle=f"{in_turn.LOOKS[0]} pairs or more")
    value, low, high = map(math.exp, found)
    note = f"Hodges–Lehmann over {count} pairs, {1 - in_turn.ALPHA / len(in_turn.LOOKS):.1%} interval"
    return Estimate(value=value, low=low, high=high, basis="measured-here", note=note)


def _reason(limit: float | None, status: str, count: int, doubt: str) -> str:
    if limit is None:
        return "no limit was set"
    if doubt:
        return f"inconclusive: {doubt}"
    return {
        "pass": "the whole range keeps to the limit",
        "fail": "the whole range breaks the limit",
        "unknown": f"inconclusive after {count} pairs: the range holds the limit",
    }[status]
