"""The course of a training, whoever takes its steps: how far it is, when it is logged, kept and told, and how it goes
on after a `kill -9`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.distill import checkpointing, metrics
from edgekit.distill.checkpointing import Reached, RunKey
from edgekit.distill.settings import TrainSettings
from edgekit.distill.sharding import Place
from edgekit.distill.stepping import StepLoss
from edgekit.distill.watching import Watch
from edgekit.progress import Progress
from edgekit.records.distillation import Training
from edgekit.units import format_duration, format_rate

if TYPE_CHECKING:
    import torch

_LOGGED = 1000
"""Steps of a training that are logged where the settings do not say."""
_RATED = 20
"""Steps that the speed shown is over."""


@dataclass(slots=True, kw_only=True)
class Course:
    """`step` steps are done; `seconds` are those of all the run's lives but lost steps. `tensors` gives all that a step
    changes, as it is now. Without `out` and `key` nothing is kept.
    """

    settings: TrainSettings
    place: Place
    out: Path | None
    key: RunKey | None
    tensors: Callable[[], dict[str, torch.Tensor]]
    progress: Progress
    step: int = 0
    seconds: float = 0.0
    watch: Watch = field(default_factory=Watch)
    _peak_bytes: int = 0
    _resumed_at: tuple[int, ...] = ()
    _logged: metrics.Metrics = field(default_factory=lambda: metrics.Metrics(None, []))
    _started: float = 0.0
    _times: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_RATED + 1))

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step == self.settings.steps

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """From the newest checkpoint on, if there is one; within, steps are logged.

        Raises EdgekitError as `checkpointing.newest` and `check_room` do.
        """
        file = self.out / metrics.NAME if self.out is not None and self.place.index == 0 else None
        reached, damaged = self._to_newest()
        if reached is not None:
            self._resumed_at = (*reached.resumed_at, reached.step)
        if self.out is not None:
            checkpointing.check_room(self.out, self.tensors())
        if damaged or reached is not None:
            words = f"a damaged checkpoint is left out, from step {self.step}" if damaged else f"from step {self.step}"
            self._tell(words)
        with metrics.Metrics(file, [] if file is None else metrics.kept(file, self.step)) as self._logged:
            yield

    def starts(self, tokens: int) -> None:
        """The next step begins now; `tokens` were trained on before."""
        self._started = time.perf_counter() - self.seconds
        self._times.append((self.seconds, tokens))

    def done(self, loss: StepLoss, gradient_norm: float, learning_rate: float, tokens: int) -> None:
        """A step was taken: log, keep and tell it. `tokens` are all that were trained on so far.

        Raises EdgekitError where the disk does not take a line or a checkpoint.
        """
        self.step += 1
        self.seconds = time.perf_counter() - self._started
        self._times.append((self.seconds, tokens))
        tokens_per_s, step_s = self._speed()
        if self.step % (self.settings.log_every or max(1, self.settings.steps // _LOGGED)) == 0 or self.finished:
            figures = metrics.StepFigures(
                step=self.step,
                loss=loss.total,
                distill=loss.distill,
                ce=loss.ce,
                learning_rate=learning_rate,
                gradient_norm=gradient_norm,
                tokens_per_s=tokens_per_s,
                seconds=self.seconds,
            )
            self._logged.write(figures)
        if self.finished or (self.step % self.settings.checkpoint_every == 0 and not self.watch.suspicious):
            self._keep()
            self.seconds = time.perf_counter() - self._started
        left = "" if self.finished else f", {format_duration((self.settings.steps - self.step) * step_s)} left"
        self._tell(f"loss {loss.total:.3g}, {format_rate(tokens_per_s)}{left}")

    def diverged(self, reason: str) -> str:
        """Go back to the newest checkpoint, since a diverged model is worth nothing; gives the words of the record."""
        words = f"diverged at step {self.step + 1} of {self.settings.steps} ({reason})"
        self._to_newest()
        return words

    def record(self, tokens: int, stopped: str | None) -> Training:
        """What the training took; `tokens` are those of the steps that stand."""
        return Training(
            steps=self.step,
            tokens=tokens,
            seconds=self.seconds,
            losses=tuple(self._logged.losses),
            tokens_per_s=tokens / self.seconds if self.seconds else 0.0,
            peak_bytes=self._peak(),
            stopped=stopped,
            resumed_at=self._resumed_at,
        )

    def _to_newest(self) -> tuple[Reached | None, bool]:
        """As `checkpointing.newest`."""
        if self.out is None or self.key is None:
            return None, False
        reached, damaged = checkpointing.newest(self.out, self.key, self.place)
        if reached is not None:
            checkpointing.load(self.out, reached, self.place, self.tensors())
            self.step, self.seconds, self._peak_bytes = reached.step, reached.seconds, reached.peak_bytes
            self.watch = Watch(reached.recent)
        return reached, damaged

    def _keep(self) -> None:
        if self.out is None or self.key is None:
            return
        self._logged.sync()
        reached = Reached(
            key=self.key,
            step=self.step,
            seconds=self.seconds,
            peak_bytes=self._peak(),
            recent=self.watch.recent,
            resumed_at=self._resumed_at,
        )
        checkpointing.save(self.out, reached, self.tensors(), self.place)

    def _peak(self) -> int:
        return max(self._peak_bytes, metrics.peak_bytes(self.place.device))

    def _speed(self) -> tuple[float, float]:
        """Of the last steps: tokens a second, and seconds a step."""
        (begun, before), (now, tokens) = self._times[0], self._times[-1]
        seconds = max(now - begun, 1e-9)
        return (tokens - before) / seconds, seconds / (len(self._times) - 1)

    def _tell(self, words: str) -> None:
        if self.place.index == 0:
            self.progress("train", self.step, self.settings.steps, words)
