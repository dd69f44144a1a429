"""A search by coordinates over the points that fit: first for speed, then for memory at the same speed.

Every trial runs in turn with the best point so far, so that a drift of the machine takes the same from both. Few
settings bear on each other: threads and repacking do (packed weights reach the memory's limit with fewer threads), and
are gone through again once the rest has moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from edgekit.records import Settings
from edgekit.tuning.space import Space

FASTER = 0.01
"""A point replaces the best so far only when it decodes faster by more than this: less is what the clock leaves."""

QUALITY_MARGIN = 0.03
"""By which a point with a smaller KV type must be faster, as it costs quality."""

SLACK = 0.01
"""Decode that is given up for less memory."""

KV_BY_QUALITY = ("f16", "q8_0", "q4_0")

LEAN_TRIALS = 4
"""Trials kept back for the second part."""

FAST = ("threads", "repack", "flash_attention", "kv_type", "mmap")
AGAIN = ("threads", "repack")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """A point's speed ÷ another's, as logarithms."""

    decode: float
    prefill: float


Run = Callable[[Settings, Settings], "Speed | None"]
"""(best so far, point) → the point's speed ÷ the best's, or `None` where it broke."""


@dataclass(slots=True, kw_only=True)
class Search:
    """What is known while it runs. Speeds are logarithms against `start`."""

    space: Space
    start: Settings
    run: Run
    trials_max: int
    prefill_loss: float
    feasible: frozenset[Settings]
    best: Settings = field(init=False)
    speeds: dict[Settings, Speed] = field(init=False)
    tried: set[Settings] = field(init=False)
    trials: int = 0

    def __post_init__(self) -> None:
        self.best = self.start
        self.speeds = {self.start: Speed(decode=0.0, prefill=0.0)}
        self.tried = {self.start}

    def find(self) -> Settings:
        """The point to advise: the leanest of those that decode within `SLACK` of the fastest."""
        self._climb(FAST)
        self._jointly()
        self._climb(AGAIN)
        self._slim()
        return self.choice()

    def choice(self) -> Settings:
        """Of the points within `SLACK` of the fastest, the one that costs least quality and then least memory."""
        allowed = {point: speed for point, speed in self.speeds.items() if self._prefills(speed)}
        finest = min((point.kv_type for point in allowed), key=KV_BY_QUALITY.index)
        whole = {point: speed for point, speed in allowed.items() if point.kv_type == finest}
        top = max(speed.decode for speed in whole.values())
        if max(speed.decode for speed in allowed.values()) <= top + QUALITY_MARGIN:
            allowed = whole
        top = max(speed.decode for speed in allowed.values())
        near = [point for point, speed in allowed.items() if speed.decode >= top - SLACK]
        return min(near, key=lambda point: (self.space.weight(point), -allowed[point].decode))

    def _climb(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name in self.space.transfers:
                self._along(name)

    def _along(self, name: str) -> None:
        """Every other value of one setting; values in order (threads) only as long as they get faster."""
        origin = self.best
        values = list(self.space.variants(origin, name))
        if name == "threads":
            values = _outwards(values, origin.threads)
        lost: set[bool] = set()
        for point in values:
            upwards = name == "threads" and point.threads > origin.threads
            if self.trials >= self.trials_max - LEAN_TRIALS:
                return
            if name == "threads" and upwards in lost:
                continue
            if not self._try(replace(self.best, **{name: getattr(point, name)})):
                lost.add(upwards)

    def _jointly(self) -> None:
        """The other packing with its neighbours in threads: of the two settings that bear on each other, neither
        alone need be faster.
        """
        if not {"repack", "threads"} <= self.space.transfers:
            return
        counts = sorted(self.space.values["threads"])
        for flipped in self.space.variants(self.best, "repack"):
            near = counts.index(flipped.threads) if flipped.threads in counts else 0
            for count in (*counts[max(0, near - 1) : near], *counts[near + 1 : near + 2]):
                if self.trials < self.trials_max - LEAN_TRIALS:
                    self._try(replace(flipped, threads=count))

    def _slim(self) -> None:
        """Less memory at the same speed: smaller micro-batches with fewer rows of logits, one step after the other."""
        for point in list(self._leaner()):
            if self.trials >= self.trials_max:
                return
            if point not in self.tried and point in self.feasible:
                self._measure(point)
                speed = self.speeds.get(point)
                if speed is None or not self._prefills(speed):
                    return  # a smaller micro-batch prefills slower still

    def _leaner(self) -> Iterator[Settings]:
        best = self.choice()
        rows = (1,) if 1 in self.space.values["output_rows"] else (best.output_rows,)
        for ubatch in self.space.values["ubatch_tokens"]:
            if ubatch <= best.ubatch_tokens:
                yield from (replace(best, ubatch_tokens=ubatch, output_rows=count) for count in rows)

    def _try(self, point: Settings) -> bool:
        """Run a point unless it is known or does not fit; True when it is the new best."""
        if point not in self.feasible:
            return False
        if point not in self.tried:
            self._measure(point)
        speed = self.speeds.get(point)
        if speed is None or not self._prefills(speed):
            return False
        if not self._is_better(point, speed):
            return False
        self.best = point
        return True

    def _is_better(self, point: Settings, speed: Speed) -> bool:
        ahead = speed.decode - self.speeds[self.best].decode
        finer = KV_BY_QUALITY.index(self.best.kv_type) - KV_BY_QUALITY.index(point.kv_type)
        if finer:
            return ahead > QUALITY_MARGIN if finer < 0 else ahead > -QUALITY_MARGIN
        if ahead > FASTER:
            return True
        top = max(known.decode for known in self.speeds.values())
        smaller = self.space.weight(point) < 0.99 * self.space.weight(self.best)
        return smaller and speed.decode > top - SLACK / 2

    def _measure(self, point: Settings) -> None:
        self.trials += 1
        self.tried.add(point)
        ratio = self.run(self.best, point)
        if ratio is not None:
            behind = self.speeds[self.best]
            self.speeds[point] = Speed(decode=behind.decode + ratio.decode, prefill=behind.prefill + ratio.prefill)

    def _prefills(self, speed: Speed) -> bool:
        return speed.prefill >= math.log(1 - self.prefill_loss)


def _outwards(points: list[Settings], threads: int) -> list[Settings]:
    """By their distance from `threads`, so that each direction is left when it gets slower."""
    return sorted(points, key=lambda point: (abs(point.threads - threads), point.threads))
