"""A student trained on what it writes itself: TRL's trainer takes the steps, the house keeps time and checkpoints.

TRL's own checkpoints are pickles beside the weights; those here are the trainer's (`checkpointing`), and the prompts
and random numbers of a step depend on the seed and the step alone. So a run that was killed goes on from its last
checkpoint, and gives the same weights on a CPU.
"""

from __future__ import annotations

import os
import random
import time
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.distill import checkpointing, fitting, metrics, optimizing, precision, sharding
from edgekit.distill.checkpointing import Reached, RunKey
from edgekit.distill.on_policy_prompts import Prompts
from edgekit.distill.recipe_parts import DistillRecipe, OnPolicy
from edgekit.distill.settings import TrainSettings, check
from edgekit.distill.trl_trainer import Exercise, trainer_of, trl_version
from edgekit.distill.watching import Watch
from edgekit.errors import EdgekitError, import_extra
from edgekit.progress import Progress, silent
from edgekit.records.distillation import Training
from edgekit.units import format_duration, format_rate

if TYPE_CHECKING:
    import torch

LOGGED = 1000
"""Steps that are logged at most."""
_RATED = 20
"""Steps that the speed shown is over."""
_COUNTS = "tokens"
"""Read and written so far, among a checkpoint's tensors."""
_SET_BY_TRL = ("pad_token_id", "bos_token_id", "eos_token_id", "use_cache")
"""Of a student's configuration, by it or by transformers' trainer."""
_PRECISION = "ACCELERATE_MIXED_PRECISION"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A training, and how many of its tokens the student wrote."""

    training: Training
    tokens: int


class _Diverged(Exception):  # noqa: N818 (it is not an error: the record says why)
    """Ends TRL's loop before a step that is not to be taken."""


def check_possible(recipe: DistillRecipe) -> None:
    """Before hours of earlier stages: raises EdgekitError where `recipe` has an on-policy stage that cannot run here,
    since TRL is not installed or there are many processes.
    """
    if not any(stage.on_policy for student in recipe.students for stage in student.stages):
        return
    found = sharding.here().processes
    if found > 1:
        raise EdgekitError(
            f"an on-policy stage runs in one process, and these are `{found}`",
            hint="start `edgekit distill` without `accelerate launch` for this recipe",
        )
    trl_version()


def train_on_policy(
    student: Any,
    teacher: Any,
    tokenizer: Any,
    prompts: Prompts,
    settings: TrainSettings,
    policy: OnPolicy,
    *,
    temperature: float = 1.0,
    out: Path,
    about: str = "",
    progress: Progress = silent,
) -> Written:
    """Train `student` in place on its own completions of `prompts`, as `teacher` would have written them; gives what it
    took. `tokenizer` is a `tokenizers.Tokenizer`, the same of both; a teacher with more rows for padding loses them.
    Checkpoints and `metrics.jsonl` lie in `out`.

    It resumes, and stops where it diverges, as `trainer.train` does. Raises EdgekitError as that one, and for a teacher
    whose table has fewer rows.
    """
    _level(student, teacher)
    check(settings, (), 1)
    place = sharding.here()
    with checkpointing.opened(out, place), _prepared(student, teacher, settings, place):
        exercise = Exercise(
            student=student,
            teacher=teacher,
            tokenizer=tokenizer,
            prompts=prompts,
            settings=settings,
            policy=policy,
            temperature=temperature,
            precision=precision.chosen(settings.precision, place.device),
            ends=_ends(student),
        )
        key = RunKey(
            settings=checkpointing.settings_text(settings, ()),
            windows_sha256=prompts.sha256,
            start_sha256=checkpointing.hash_tensors(dict(sorted(student.state_dict().items()))),
            about=about,
            precision=exercise.precision,
            processes=1,
        )
        optimizer = optimizing.optimizer_of(student, (), settings)
        run = _Run(exercise=exercise, optimizer=optimizer, out=out, key=key, place=place, progress=progress)
        with metrics.Metrics(out / metrics.NAME, run.resumed()) as logged:
            run.logged = logged
            stopped = _taken(run)
        if stopped is not None:
            run.back()
        return Written(training=run.record(stopped), tokens=int(run.counts[1]))


def _taken(run: _Run) -> str | None:
    """Let TRL take the steps that are left; gives the reason where it did not take them all."""
    settings = run.exercise.settings
    if run.step == settings.steps:
        return None
    trainer = trainer_of(run.exercise, run.optimizer, run.step, run, run.out)
    run.optimizer = trainer.optimizer
    run.started = time.perf_counter() - run.seconds
    try:
        trainer.train()
    except _Diverged as reason:
        return f"diverged at step {run.step + 1} of {settings.steps} ({reason})"
    except (RuntimeError, MemoryError) as error:
        if fitting.is_out_of_memory(error):
            raise _no_memory(settings, run.place) from None
        if "probability tensor contains" in str(error):  # what torch says when it cannot draw from logits
            return f"diverged at step {run.step + 1} of {settings.steps} (the student's logits are no numbers)"
        raise
    finally:
        for model in (run.exercise.student, run.exercise.teacher):  # whose `forward` accelerate may have replaced
            trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    return None


def _no_memory(settings: TrainSettings, place: sharding.Place) -> EdgekitError:
    asked = settings.micro_batch or settings.batch
    what = f"{place.device.type} memory does not suffice for a micro-batch of `{asked}`, or to write {settings.batch}"
    return EdgekitError(what, hint="set a smaller `micro_batch`, or a smaller `batch`: all of it is written at a time")


def _level(student: Any, teacher: Any) -> None:
    """Give both tables as many rows, since TRL compares whole ones: of one tokenizer, rows beyond the other's are
    padding. Raises EdgekitError where the teacher has fewer: rows that it lacks would need a probability.
    """
    mine, theirs = (model.config.get_text_config().vocab_size for model in (student, teacher))
    if mine > theirs:
        raise EdgekitError(
            f"TRL compares whole vocabularies, and the student's table has {mine} rows, its teacher's `{theirs}`",
            hint='a stage of `kind = "logits"` compares what both have; a student that is carved has as many rows',
        )
    if mine < theirs:
        teacher.resize_token_embeddings(mine)


def _ends(student: Any) -> tuple[int, ...]:
    own = student.generation_config
    found = own.eos_token_id if own is not None and own.eos_token_id is not None else None
    found = student.config.get_text_config().eos_token_id if found is None else found
    return tuple(found) if isinstance(found, list | tuple) else () if found is None else (int(found),)


@contextmanager
def _prepared(student: Any, teacher: Any, settings: TrainSettings, place: sharding.Place) -> Iterator[None]:
    """Models where and as they are trained; what TRL sets for itself (seeds, marks, loudness) is set back."""
    torch = import_extra("torch", extra="distill")
    numpy = import_extra("numpy", extra="distill")
    logging = import_extra("transformers.utils.logging", extra="distill")
    student.float().train().to(place.device)
    teacher.requires_grad_(False).eval().to(place.device)
    config, own = student.config.get_text_config(), student.generation_config
    before = {name: getattr(config, name) for name in _SET_BY_TRL if hasattr(config, name)}
    states, loud = (random.getstate(), numpy.random.get_state()), logging.get_verbosity()
    asked = os.environ.pop(_PRECISION, None)  # whatever launched this process: the stage says its precision
    devices = [place.device] if place.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TRL and transformers to each other
            yield
    finally:
        for name in _SET_BY_TRL:
            if name in before:
                setattr(config, name, before[name])
            elif hasattr(config, name):
                delattr(config, name)
        os.environ.pop(_PRECISION, None)
        if asked is not None:
            os.environ[_PRECISION] = asked
        student.generation_config = own
        if settings.gradient_checkpointing:
            names = ("activation_checkpointing_disable", "gradient_checkpointing_disable")  # the first is newer
            next(getattr(student, name) for name in names if hasattr(student, name))()
        student.zero_grad(set_to_none=True)
        student.eval()
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        logging.set_verbosity(loud)


@dataclass(slots=True, kw_only=True)
class _Run:
    """A training under way: the hooks of `trl_trainer`. `counts` are the tokens trained on, and those written."""

    exercise: Exercise
    optimizer: Any
    out: Path
    key: RunKey
    place: sharding.Place
    progress: Progress
    logged: metrics.Metrics = field(default_factory=lambda: metrics.Metrics(None, []))
    watch: Watch = field(default_factory=Watch)
    counts: Any = None
    step: int = 0
    seconds: float = 0.0
    started: float = 0.0
    peak_bytes: int = 0
    resumed_at: tuple[int, ...] = ()
    loss: float = 0.0
    norm: float = 0.0
    times: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_RATED + 1))

    # ---- what TRL's loop tells ----

    def begins(self) -> None:
        torch = import_extra("torch", extra="distill")
        self.loss = 0.0
        torch.manual_seed((self.exercise.settings.seed * 1_000_003 + self.step) * 65_537 % 2**63)

    def read(self, loss: float, prompt_tokens: int, written_tokens: int) -> None:
        self.loss += loss
        self.counts[0] += prompt_tokens + written_tokens
        self.counts[1] += written_tokens

    def taken(self) -> None:
        torch = import_extra("torch", extra="distill")
        parameters = self.exercise.student.parameters()
        self.norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.exercise.settings.gradient_norm))
        reason = self.watch.see(self.loss, self.norm)
        if reason is not None:
            raise _Diverged(reason)

    def done(self) -> None:
        settings = self.exercise.settings
        self.step += 1
        self.seconds = time.perf_counter() - self.started
        self.times.append((self.seconds, int(self.counts[0])))
        last = self.step == settings.steps
        if self.step % (settings.log_every or max(1, settings.steps // LOGGED)) == 0 or last:
            self.logged.write(self._figures())
        if last or (self.step % settings.checkpoint_every == 0 and not self.watch.suspicious):
            self._checkpoint()
            self.seconds = time.perf_counter() - self.started
        left = format_duration((settings.steps - self.step) * self.seconds / self.step)
        words = f"loss {self.loss:.3g}, {format_rate(self._speed())}" + ("" if last else f", {left} left")
        self.progress("train", self.step, settings.steps, words)

    # ---- where it is ----

    def resumed(self) -> list[tuple[int, float]]:
        """Go to the newest checkpoint, if there is one; gives the losses logged up to it."""
        torch = import_extra("torch", extra="distill")
        self.counts = torch.zeros(2, dtype=torch.int64)
        reached, damaged = checkpointing.newest(self.out, self.key, self.place)
        if reached is not None:
            self._restore(reached)
            self.resumed_at = (*reached.resumed_at, reached.step)
        checkpointing.check_room(self.out, self._tensors())
        if damaged or reached is not None:
            words = f"a damaged checkpoint is left out, from step {self.step}" if damaged else f"from step {self.step}"
            self.progress("train", self.step, self.exercise.settings.steps, words)
        return metrics.kept(self.out / metrics.NAME, self.step)

    def back(self) -> None:
        """A diverged model is worth nothing: the one before is."""
        reached, _ = checkpointing.newest(self.out, self.key, self.place)
        if reached is not None:
            self._restore(reached)

    def record(self, stopped: str | None) -> Training:
        tokens = int(self.counts[0])
        return Training(
            steps=self.step,
            tokens=tokens,
            seconds=self.seconds,
            losses=tuple(self.logged.losses),
            tokens_per_s=tokens / self.seconds if self.seconds else 0.0,
            peak_bytes=max(self.peak_bytes, metrics.peak_bytes(self.place.device)),
            stopped=stopped,
            resumed_at=self.resumed_at,
        )

    def _restore(self, reached: Reached) -> None:
        checkpointing.load(self.out, reached, self.place, self._tensors())
        self.step, self.seconds, self.peak_bytes = reached.step, reached.seconds, reached.peak_bytes
        self.watch = Watch(reached.recent)

    def _tensors(self) -> dict[str, torch.Tensor]:
        """All that a step changes, as it is now: TRL's loop puts the optimizer's state into tensors of its own."""
        torch = import_extra("torch", extra="distill")
        found: dict[str, Any] = {_COUNTS: self.counts}
        for name, parameter in optimizing.trained_parameters({"model": self.exercise.student}).items():
            found[name] = parameter
            found |= {f"{name}:{part}": value for part, value in self.optimizer.state[parameter].items()}
        for inner, value in self.exercise.student.state_dict(keep_vars=True).items():
            if not isinstance(value, torch.nn.Parameter):
                found[f"model.{inner}"] = value
        return found

    def _checkpoint(self) -> None:
        self.logged.sync()
        self.peak_bytes = max(self.peak_bytes, metrics.peak_bytes(self.place.device))
        reached = Reached(
            key=self.key,
            step=self.step,
            seconds=self.seconds,
            peak_bytes=self.peak_bytes,
            recent=self.watch.recent,
            resumed_at=self.resumed_at,
        )
        checkpointing.save(self.out, reached, self._tensors(), self.place)

    def _speed(self) -> float:
        (begun, before), (now, tokens) = self.times[0], self.times[-1]
        return (tokens - before) / max(now - begun, 1e-9) if len(self.times) > 1 else tokens / max(now, 1e-9)

    def _figures(self) -> metrics.StepFigures:
        return metrics.StepFigures(
            step=self.step,
            loss=self.loss,
            distill=self.loss,
            ce=None,
            learning_rate=self.exercise.settings.learning_rate * optimizing.rate(self.step - 1, self.exercise.settings),
            gradient_norm=self.norm,
            tokens_per_s=self._speed(),
            seconds=self.seconds,
        )
