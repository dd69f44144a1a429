"""A student trained on what it writes itself: TRL's trainer takes the steps, the house keeps time and checkpoints.

TRL's own checkpoints are pickles beside the weights; those here are the trainer's (`checkpointing`), and the prompts
and random numbers of a step depend on the seed and the step alone. So a run that was killed goes on from its last
checkpoint, and gives the same weights on a CPU.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.distill import checkpointing, fitting, optimizing, precision, sharding, stepping
from edgekit.distill.checkpointing import RunKey
from edgekit.distill.course import Course
from edgekit.distill.generating import ends_of
from edgekit.distill.on_policy_prompts import Prompts
from edgekit.distill.recipe_parts import DistillRecipe, OnPolicy
from edgekit.distill.settings import TrainSettings, check
from edgekit.distill.trl_trainer import Exercise, trainer_of, trl_version
from edgekit.errors import EdgekitError, import_extra
from edgekit.progress import Progress, silent
from edgekit.records.distillation import Training

if TYPE_CHECKING:
    import torch

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
            ends=ends_of(student),
        )
        key = RunKey(
            settings=checkpointing.settings_text(settings, ()),
            windows_sha256=prompts.sha256,
            start_sha256=checkpointing.hash_tensors(dict(sorted(student.state_dict().items()))),
            about=about,
            precision=exercise.precision,
            processes=1,
        )
        run = _Run(exercise, optimizing.optimizer_of(student, (), settings))
        course = Course(settings=settings, place=place, out=out, key=key, tensors=run.tensors, progress=progress)
        with course.resumed():
            reason = _taken(run, course, out)
            stopped = None if reason is None else course.diverged(reason)
        return Written(training=course.record(run.tokens, stopped), tokens=int(run.counts[1]))


def _taken(run: _Run, course: Course, out: Path) -> str | None:
    """Let TRL take the steps that are left; gives the reason where a step is not to be taken."""
    if course.finished:
        return None
    exercise = run.exercise
    trainer = trainer_of(exercise, run.optimizer, course.step, _Told(run, course), out)
    run.optimizer = trainer.optimizer
    course.starts(run.tokens)
    try:
        trainer.train()
    except _Diverged as reason:
        return str(reason)
    except (RuntimeError, MemoryError) as error:
        if fitting.is_out_of_memory(error):
            raise _no_memory(exercise.settings, course.place) from None
        if "probability tensor contains" in str(error):  # what torch says when it cannot draw from logits
            return "the student's logits are no numbers"
        raise
    finally:
        for model in (exercise.student, exercise.teacher):  # whose `forward` accelerate may have replaced
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
            stepping.gradient_checkpointing(student, "disable")()
        student.zero_grad(set_to_none=True)
        student.eval()
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        logging.set_verbosity(loud)


class _Run:
    """A training under way. `counts` are the tokens trained on, and those of them that the student wrote."""

    def __init__(self, exercise: Exercise, optimizer: Any) -> None:
        torch = import_extra("torch", extra="distill")
        self.exercise = exercise
        self.optimizer = optimizer
        self.counts = torch.zeros(2, dtype=torch.int64)

    @property
    def tokens(self) -> int:
        """Trained on so far."""
        return int(self.counts[0])

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that a step changes, as it is now: TRL's loop puts the optimizer's state into tensors of its own."""
        return {_COUNTS: self.counts} | optimizing.tensors_of({"model": self.exercise.student}, self.optimizer)


class _Told:
    """The hooks of `trl_trainer`: what TRL's loop tells of a step."""

    def __init__(self, run: _Run, course: Course) -> None:
        self._run = run
        self._course = course
        self._settings = run.exercise.settings
        self._loss = self._norm = 0.0

    def begins(self) -> None:
        torch = import_extra("torch", extra="distill")
        self._loss = 0.0
        torch.manual_seed((self._settings.seed * 1_000_003 + self._course.step) * 65_537 % 2**63)

    def read(self, loss: float, prompt_tokens: int, written_tokens: int) -> None:
        self._loss += loss
        self._run.counts[0] += prompt_tokens + written_tokens
        self._run.counts[1] += written_tokens

    def taken(self) -> None:
        torch = import_extra("torch", extra="distill")
        parameters = self._run.exercise.student.parameters()
        self._norm = float(torch.nn.utils.clip_grad_norm_(parameters, self._settings.gradient_norm))
        reason = self._course.watch.see(self._loss, self._norm)
        if reason is not None:
            raise _Diverged(reason)

    def done(self) -> None:
        rate = self._settings.learning_rate * optimizing.rate(self._course.step, self._settings)
        loss = stepping.StepLoss(total=self._loss, distill=self._loss, ce=None)
        self._course.done(loss, self._norm, rate, self._run.tokens)
