"""The readiness gate of a run here: before a repetition the machine is looked at; it waits for heat to pass, and what
does not pass marks the sample.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.records import DeviceState, Finding, Sample
from edgekit.targets.readiness import Readiness, judge_state, wait_until_ready
from edgekit.targets.state import files_of, state_of

LOOK_S = 2.0
"""A look takes milliseconds, on phones with a hundred sensors tenths of a second: a younger one stands."""

WAIT_LIMIT_S = 300.0
"""As long as the repetitions of one run may wait for the machine to cool, all together."""

MAX_STATES = 2000

Pausing = Callable[[], AbstractContextManager[None]]
"""A context in which the meters stand still."""


@dataclass(slots=True, kw_only=True)
class ReadyGate:
    """Looks at the machine under `root`. On the device itself (`on_device`) a charger spoils the run, elsewhere not."""

    root: Path
    on_device: bool
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    started_s: float = 0.0
    left_s: float = WAIT_LIMIT_S
    states: list[DeviceState] = field(default_factory=list)
    _last: tuple[float, tuple[str, ...]] | None = None

    def watches(self) -> bool:
        """Whether the machine shows anything that a repetition could wait for."""
        state = state_of(files_of(self.root))
        return bool(state.zones or state.clocks or state.gauges)

    def before(
        self,
        test: str,
        process: int,
        pausing: Pausing,
        allow: Callable[[float], None],
    ) -> tuple[str, ...]:
        """What speaks against timing `test` now, after waiting for what passes. While it waits, `pausing` stops the
        meters; `allow` is told how long it took.
        """
        now_s = self.clock()
        if self._last is not None and now_s - self._last[0] < LOOK_S:
            return self._last[1]

        def look() -> Readiness:
            state = state_of(files_of(self.root), at_s=self.clock() - self.started_s, process=process, before=test)
            return judge_state(state, charging=self.on_device)

        found = look()
        if found.passing and self.left_s > 0:
            with pausing():
                found = wait_until_ready(look, limit_s=self.left_s, sleep=self.sleep, clock=self.clock)
            self.left_s -= found.waited_s
            allow(found.waited_s)
        if found.state is not None and len(self.states) < MAX_STATES:
            self.states.append(found.state)
        self._last = (self.clock(), found.obstacles)
        return found.obstacles


def marked(samples: Sequence[Sample]) -> list[Finding]:
    """A warning for each kind of obstacle that samples began under; figures in its words are of the first."""
    timed = [sample for sample in samples if not sample.warmup]
    kinds: dict[str, tuple[str, int]] = {}
    for words in (words for sample in timed for words in sample.doubts):
        first, count = kinds.get(_kind(words), (words, 0))
        kinds[_kind(words)] = first, count + 1
    return [
        Finding(
            level="warning",
            code="not-ready",
            message=f"{count} of {len(timed)} repetitions began while {words}",
            hint="let it cool and rest unplugged, and run again; its samples are marked",
        )
        for words, count in kinds.values()
    ]


def _kind(words: str) -> str:
    return re.sub(r"\d+", "#", words.partition(" on cpu")[0])
