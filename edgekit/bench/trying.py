"""Two settings of one artifact in turn on this machine: a trial of `tune`.

Each trial loads both in fresh processes and visits them in the order one, other, other, one, and turned round in the
next round, so that a drift of the machine, straight in time, takes the same from both. A visit decodes behind a prompt:
what a chat does, and the only place where cache type and attention kernels show. The prompt is timed once a round on
either side, before: it takes most of the time, and prefill is held to no more than a limit of ten per cent. Where two
models do not fit beside each other they take turns in processes of their own, and the loads lie between the visits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import geometric_mean, median

from edgekit import in_turn, runtimes
from edgekit.bench.measuring import OpenWorker
from edgekit.bench.plan import Plan, ProcessPlan
from edgekit.records import Artifact, Basis, Estimate, Figure, Finding, MemoryPeak, Pair, Runtime, Settings, Unknown
from edgekit.runtimes import Step, Worker, WorkerDied

PROMPT_TOKENS, GENERATED_TOKENS = 512, 32
WARMING_TOKENS, WARMING_GENERATED = 64, 4
"""Enough to bring weights and kernels in. The whole prompt would add half to the time of a trial; what it spares the
timed one are the pages of a large micro-batch's buffer, 67 MB of a 1.5B, some 20 ms of seconds.
"""

ROUNDS = 3
SETTLED = 0.08
"""What is slower by more than this in its first round is left; what is faster must be so in every round."""

CONFIRMING_PAIRS = 6
"""Five are the fewest from which a 90 % interval of the centre exists (`edgekit.in_turn`)."""

RANGE_ALPHA = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """Raw tok/s of both settings in every round, and the peak of the second one's process."""

    rounds: tuple[Pair, ...]
    peak: MemoryPeak | None

    def log_ratio(self, metric: str) -> float:
        """ln(second ÷ first), the median of the rounds."""
        return median(log_ratios(self.rounds, metric))

    def sure_log_ratio(self, metric: str) -> float:
        """The least change that every round shows; 0 where they do not agree on its direction."""
        found = log_ratios(self.rounds, metric)
        return min(found, key=abs) if min(found) > 0 or max(found) < 0 else 0.0


METRICS = ("prefill", "decode")


def log_ratios(pairs: Sequence[Pair], metric: str) -> list[float]:
    """ln(new ÷ base) of every pair of one metric."""
    return [math.log(pair.new / pair.base) for pair in pairs if pair.metric == metric]


def steps(settings: Settings) -> dict[str, Step]:
    """A visit's tests: the prompt takes at most half the context."""
    prompt = min(PROMPT_TOKENS, settings.context_tokens // 2)
    generated = min(GENERATED_TOKENS, settings.context_tokens - prompt)
    decode = Step(test=f"tg{generated}@d{prompt}", generate=generated, depth=prompt)
    return {"prefill": Step(test=f"pp{prompt}", prompt=prompt), "decode": decode}


def _warming(step: Step) -> Step:
    return replace(
        step,
        prompt=min(step.prompt, WARMING_TOKENS),
        generate=min(step.generate, WARMING_GENERATED),
        depth=0,
        warmup=True,
    )


def trial_plan(settings: Settings, *, trials: int, rounds: int) -> Plan:
    """The processes of so many trials and of the confirming pairs, for telling how long they take."""
    found = []
    tests = steps(settings)
    for visited, count in ((rounds, 2 * trials), (1, 2 * CONFIRMING_PAIRS)):
        timed = (
            *map(_warming, tests.values()),
            replace(tests["prefill"], repetitions=visited),
            replace(tests["decode"], repetitions=2 * visited, depth=0),
        )
        found += [ProcessPlan(settings=settings, steps=timed)] * count
    return Plan(main=tuple(found), after=(), notes=())


@dataclass(slots=True, kw_only=True)
class Bench:
    """Runs trials of one artifact. `to_run` turns the settings of a trial into those that run on this host."""

    artifact: Artifact
    together: bool
    """Whether two models fit beside each other here."""
    timeout_s: float = 1800.0
    open_worker: OpenWorker = runtimes.open_worker
    to_run: Callable[[Settings], Settings] = lambda settings: settings
    runtime: Runtime | None = None
    findings: list[Finding] = field(default_factory=list)
    opened: int = 0

    def run(self, one: Settings, other: Settings, *, rounds: int = ROUNDS) -> Tried:
        """`other` against `one`. One round suffices where it is much slower, two where they disagree on which is
        faster: no third would make that sure. Raises WorkerDied.
        """
        pairs: list[Pair] = []
        with self._seat(one) as first, self._seat(other) as second:
            for index in range(rounds):
                pairs += self._round(first, second, one, index)
                decode = log_ratios(pairs, "decode")
                if decode[0] < -SETTLED or min(decode) <= 0 < max(decode):
                    break
            first.finish()
            return Tried(rounds=tuple(pairs), peak=second.finish())

    def confirm(self, one: Settings, other: Settings, progress: Callable[[int], None]) -> tuple[Pair, ...]:
        """Both in fresh processes, one round a pair, the order turned round in every other. Raises WorkerDied."""
        pairs: list[Pair] = []
        for index in range(CONFIRMING_PAIRS):
            progress(index)
            turned = index % 2 == 1
            tried = self.run(*((other, one) if turned else (one, other)), rounds=1).rounds
            for pair in tried:
                base, new = (pair.new, pair.base) if turned else (pair.base, pair.new)
                pairs.append(Pair(metric=pair.metric, pair=index, base=base, new=new))
        return tuple(pairs)

    def _round(self, first: _Seat, second: _Seat, settings: Settings, index: int) -> list[Pair]:
        tests = steps(settings)
        speeds: dict[str, dict[str, list[float]]] = {metric: {"base": [], "new": []} for metric in METRICS}
        visits = [("base", first), ("new", second)]
        if index % 2:
            visits.reverse()
        turns = [("prefill", one) for one in visits] + [("decode", one) for one in (*visits, *reversed(visits))]
        for metric, (side, seat) in turns:
            with seat.worker() as worker:
                speeds[metric][side] += [one.tokens / one.elapsed_s for one in worker.run(tests[metric])]
        return [
            Pair(metric=metric, pair=index, base=geometric_mean(found["base"]), new=geometric_mean(found["new"]))
            for metric, found in speeds.items()
        ]

    @contextmanager
    def _seat(self, settings: Settings) -> Iterator[_Seat]:
        seat = _Seat(bench=self, settings=settings)
        try:
            yield seat
        finally:
            seat.leave()

    def load(self, settings: Settings) -> AbstractContextManager[Worker]:
        """A fresh process with the model, its kernels and buffers warmed up."""
        self.opened += 1
        return self._warmed(self.to_run(settings), settings)

    @contextmanager
    def _warmed(self, ran: Settings, settings: Settings) -> Iterator[Worker]:
        path = Path(self.artifact.path)
        with self.open_worker(path, ran, timeout_s=self.timeout_s, seed=self.opened) as worker:
            if self.runtime is None:
                self.runtime = worker.runtime
                self.findings += worker.findings
            for step in steps(settings).values():
                for _ in worker.run(_warming(step)):
                    pass
            yield worker


@dataclass(slots=True, kw_only=True)
class _Seat:
    """One side of a trial: its worker stays loaded between visits where both fit, else it lives for a visit."""

    bench: Bench
    settings: Settings
    _kept: AbstractContextManager[Worker] | None = None
    _worker: Worker | None = None
    _peak: MemoryPeak | None = None

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        if self.bench.together:
            if self._worker is None:
                self._kept = self.bench.load(self.settings)
                self._worker = self._kept.__enter__()
            yield self._worker
            return
        with self.bench.load(self.settings) as worker:
            yield worker
            self._peak = worker.finish()

    def finish(self) -> MemoryPeak | None:
        """The peak of this side's process."""
        return self._worker.finish() if self._worker is not None else self._peak

    def leave(self) -> None:
        if self._kept is not None:
            kept, self._kept, self._worker = self._kept, None, None
            kept.__exit__(None, None, None)


def ratio(pairs: Sequence[Pair], metric: str) -> Figure:
    """new ÷ base over fresh pairs, with the exact 90 % range of the centre."""
    return _centred(log_ratios(pairs, metric), "measured-here", "ratio over {} pairs of fresh processes in turn")


def speed(pairs: Sequence[Pair], metric: str, test: str, basis: Basis) -> Figure:
    """tok/s of the new side over fresh pairs, with the exact 90 % range of the centre."""
    logs = [math.log(pair.new) for pair in pairs if pair.metric == metric]
    return _centred(logs, basis, f"{test} over {{}} fresh processes")


def _centred(logs: Sequence[float], basis: Basis, note: str) -> Figure:
    found = in_turn.interval(logs, alpha=RANGE_ALPHA)
    if found is None:
        return Unknown(reason=f"`{len(logs)}` pairs give no range", settle=f"{CONFIRMING_PAIRS} pairs")
    value, low, high = map(math.exp, found)
    return Estimate(value=value, low=low, high=high, basis=basis, note=note.format(len(logs)))


__all__ = ["Bench", "OpenWorker", "Tried", "WorkerDied", "log_ratios", "ratio", "speed", "steps", "trial_plan"]
