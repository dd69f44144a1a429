"""The part of `tune` that runs: trials on this host, fresh runs that confirm, and what a smaller cache costs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError
from edgekit.memory import predict_memory
from edgekit.progress import Progress
from edgekit.records import (
    Artifact,
    Estimate,
    Figure,
    Finding,
    MemoryPeak,
    Noise,
    Pair,
    Runtime,
    Settings,
    Trial,
    Unknown,
    exact,
)
from edgekit.tuning import Search, Speed
from edgekit.units import format_bytes, format_percent

if TYPE_CHECKING:
    from edgekit.bench.trying import Bench
    from edgekit.pipeline.tuning import Quest, Wish

STAGE = "tuning"
KLD_CHUNKS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What the runs told. Ratios are of `settings` ÷ llama.cpp's defaults."""

    settings: Settings | None
    decode_ratio: Figure
    prefill_ratio: Figure
    decode: Figure
    kv_kld: Figure
    trials: tuple[Trial, ...] = ()
    confirming: tuple[Pair, ...] = ()
    runtime: Runtime | None = None
    noise: Noise | None = None
    spoilt: bool = False
    findings: tuple[Finding, ...] = ()

    @staticmethod
    def nothing(quest: Quest) -> Ran:
        """No run: nothing surely fits, and what may miss is not run."""
        unknown = Unknown(reason="not run: no settings surely fit", settle="a smaller quantization or `--memory`")
        return Ran(settings=quest.start, decode_ratio=unknown, prefill_ratio=unknown, decode=unknown, kv_kld=unknown)


@dataclass(slots=True, kw_only=True)
class Runs:
    """Everything that runs here. `root` and `bench` are doors for tests."""

    artifact: Artifact
    quest: Quest
    wish: Wish
    progress: Progress
    bench: Bench | None = None
    root: Path = Path("/")
    trials: list[Trial] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def all(self) -> Ran:
        """Search, confirm with fresh runs, and fall back where they contradict the search."""
        from edgekit.bench import noise

        quest = self.quest
        assert quest.start is not None
        runnable = self._runnable()
        if quest.start not in runnable:
            return replace(Ran.nothing(quest), findings=(self._too_large(quest.start),))
        bench = self.bench = self.bench or self._open_bench(runnable)
        before = noise.read_counters(self.root, time.monotonic)
        search = Search(
            space=quest.space,
            start=quest.start,
            run=self._try,
            trials_max=self.wish.trials,
            prefill_loss=self.wish.prefill_loss,
            feasible=runnable,
        )
        chosen = search.find()
        base = quest.default if quest.default in runnable else quest.start
        chosen, confirming = self._confirmed(bench, base, chosen)
        quiet, warnings = noise.judge_noise(
            None, before, noise.read_counters(self.root, time.monotonic), (), on_device=False
        )
        spoilt = bool(noise.not_quiet(quiet))
        return Ran(
            settings=chosen,
            decode_ratio=self._ratio(confirming, "decode", base, chosen),
            prefill_ratio=self._ratio(confirming, "prefill", base, chosen),
            decode=self._speed(confirming),
            kv_kld=self._kv_kld(chosen),
            trials=tuple(self.trials),
            confirming=confirming,
            runtime=bench.runtime,
            noise=quiet,
            spoilt=spoilt,
            findings=(*bench.findings, *self.findings, *warnings),
        )

    # ---- what can run here ------------------------------------------------------------------------------------------

    def _here(self, settings: Settings) -> Settings:
        """Settings for another device run here on this host's own big cores."""
        return settings if self.quest.here else replace(settings, threads=self.wish.overrides.threads or 0)

    def _host_bytes(self, settings: Settings) -> float:
        memory = predict_memory(self.artifact.header, self._here(settings), self.quest.host.isa)
        return memory.resident.high + memory.reserved_bytes

    def _runnable(self) -> frozenset[Settings]:
        """Points that fit the device and, beside everything else, this host."""
        free = _available_bytes()
        return frozenset(point for point in self.quest.feasible if self._host_bytes(point) <= free)

    def _too_large(self, settings: Settings) -> Finding:
        return Finding(
            level="warning",
            code="host-too-small",
            message=f"nothing was run: it takes {format_bytes(self._host_bytes(settings))} here, and "
            f"{format_bytes(_available_bytes())} are available",
            hint="close other programs, or tune on a larger machine",
        )

    def _open_bench(self, runnable: frozenset[Settings]) -> Bench:
        from edgekit.bench.trying import Bench

        most = max(map(self._host_bytes, runnable))
        return Bench(artifact=self.artifact, together=2 * most <= _available_bytes(), to_run=self._here)

    # ---- trials -----------------------------------------------------------------------------------------------------

    def _try(self, best: Settings, point: Settings) -> Speed | None:
        from edgekit.bench.trying import WorkerDied

        assert self.bench is not None
        self.progress(STAGE, len(self.trials), self.wish.trials, difference(point, best))
        try:
            tried = self.bench.run(best, point)
        except WorkerDied as died:
            if not self.trials and died.finding.code.endswith("-rejected"):
                raise  # the file itself is declined
            self._keep(best, point, (), None, f"broke: {died.finding.message}")
            return None
        speed = Speed(decode=tried.sure_log_ratio("decode"), prefill=tried.log_ratio("prefill"))
        self._keep(best, point, tried.rounds, tried.peak, _outcome(speed))
        return speed

    def _keep(
        self, best: Settings, point: Settings, rounds: tuple[Pair, ...], peak: MemoryPeak | None, outcome: str
    ) -> None:
        self.trials.append(Trial(settings=point, against=best, rounds=rounds, outcome=outcome, peak=peak))

    def _confirmed(self, bench: Bench, base: Settings, chosen: Settings) -> tuple[Settings, tuple[Pair, ...]]:
        """Fresh runs of what was chosen against the defaults; the defaults again where those are surely faster."""
        from edgekit.bench.trying import CONFIRMING_PAIRS, ratio

        if base == chosen and not self.quest.here:
            return chosen, ()
        told = self.wish.trials
        pairs = bench.confirm(base, chosen, lambda index: self.progress("confirming", index, CONFIRMING_PAIRS, ""))
        self.progress(STAGE, told, told, "")
        found = ratio(pairs, "decode")
        if base != chosen and isinstance(found, Estimate) and found.high < 0.99:
            self.findings.append(
                Finding(
                    level="warning",
                    code="search-misled",
                    message=f"what the search chose ({difference(chosen, base)}) was slower than where it began in "
                    "fresh runs: it is not advised",
                    hint="run it again on a quiet machine",
                )
            )
            turned = tuple(replace(pair, base=pair.base, new=pair.base) for pair in pairs)
            return base, turned
        return chosen, pairs

    # ---- figures ----------------------------------------------------------------------------------------------------

    def _ratio(self, pairs: tuple[Pair, ...], metric: str, base: Settings, chosen: Settings) -> Figure:
        from edgekit.bench.trying import ratio

        if base != self.quest.default:
            return Unknown(
                reason="llama.cpp's defaults do not fit and were not run", settle="a device with more memory"
            )
        if base == chosen:
            return exact(1.0, "measured-here", "the defaults themselves")
        return ratio(pairs, metric)

    def _speed(self, pairs: tuple[Pair, ...]) -> Figure:
        from edgekit.bench.trying import speed, steps

        if not pairs:
            return Unknown(reason="the advised settings are the defaults and were not timed", settle="edgekit bench")
        test = steps(self.quest.default)["decode"].test
        return speed(pairs, "decode", test, "measured" if self.quest.here and self.quest.device else "measured-here")

    def _kv_kld(self, chosen: Settings) -> Figure:
        """Mean KLD of the file with the chosen cache against itself with one of f16."""
        from edgekit import bench
        from edgekit.pipeline.asking import text_of

        if chosen.kv_type == "f16":
            return exact(0.0, "predicted", "the cache is f16")
        settle = f"edgekit evaluate MODEL --reference MODEL --kv-type {chosen.kv_type}"
        if self.artifact.header.stand_in:
            return Unknown(reason="random weights say nothing of quality", settle=settle)
        try:
            found = bench.evaluate(
                self.artifact,
                self.artifact,
                text_of(None).content,
                chunks=KLD_CHUNKS,
                settings=Settings(kv_type=chosen.kv_type, flash_attention=chosen.flash_attention, repack=chosen.repack),
                progress=self.progress,
            )
        except EdgekitError as error:
            return Unknown(reason=error.message, settle=settle)
        return found.kld_mean


def difference(point: Settings, base: Settings) -> str:
    """What differs, as `threads 3, no mmap`; `the defaults` where nothing does."""
    words = {
        "threads": f"{point.threads or 'default'} threads",
        "repack": "repacking" if point.repack else "no repacking",
        "flash_attention": f"flash attention {point.flash_attention}",
        "kv_type": f"{point.kv_type} KV",
        "mmap": "mmap" if point.mmap else "no mmap",
        "ubatch_tokens": f"ubatch {point.ubatch_tokens}",
        "output_rows": f"output rows {point.output_rows or 'as many as the micro-batch'}",
        "context_tokens": f"context {point.context_tokens}",
    }
    return ", ".join(word for name, word in words.items() if getattr(point, name) != getattr(base, name)) or "the same"


def _outcome(speed: Speed) -> str:
    decode, prefill = (format_percent(math.expm1(one), signed=True) for one in (speed.decode, speed.prefill))
    return f"decode {decode} in every round, prefill {prefill}, against the best so far"


def _available_bytes() -> float:
    import psutil  # type: ignore[import-untyped]

    return float(psutil.virtual_memory().available)
