"""TRL's DistillationTrainer with the house's optimizer, clock and checkpoints: it writes, scores and takes the steps.

At every step the student completes prompts, the teacher reads what came of it, and the student learns to say there
what the teacher would have said: on-policy distillation (Agarwal et al. 2024, arXiv 2306.13649). The divergence goes
over the student's own tokens alone, at the temperature that they were drawn at, without T²; `beta` 0 is KL(teacher ‖
student), 1 KL(student ‖ teacher), between them the generalized Jensen–Shannon divergence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from edgekit.distill import optimizing
from edgekit.distill.on_policy_prompts import Prompts
from edgekit.distill.recipe_parts import OnPolicy
from edgekit.distill.settings import TrainSettings
from edgekit.errors import EdgekitError, import_extra

EXTRA = "onpolicy"
LEAST = (1, 16)
"""TRL's version; older ones were not tried."""


class Hooks(Protocol):
    """What is told of every step; `taken` is called with its gradient in place, and may raise to end the training."""

    def begins(self) -> None: ...

    def read(self, loss: float, prompt_tokens: int, written_tokens: int) -> None: ...

    def taken(self) -> None: ...

    def done(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exercise:
    """All that a training needs and no step changes. `tokenizer` is a `tokenizers.Tokenizer`, `ends` the student's own
    end tokens, `temperature` what completions are drawn at and compared.
    """

    student: Any
    teacher: Any
    tokenizer: Any
    prompts: Prompts
    settings: TrainSettings
    policy: OnPolicy
    temperature: float
    precision: str
    ends: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rows:
    """The prompts of the steps that are left, as a data set: each row a function of its place and the seed."""

    prompts: Prompts
    settings: TrainSettings
    begun: int

    def __len__(self) -> int:
        return (self.settings.steps - self.begun) * self.settings.batch

    def __getitem__(self, row: int) -> dict[str, str]:
        if not 0 <= row < len(self):
            raise IndexError(row)
        return {"prompt": self.prompts.at(self.begun * self.settings.batch + row, self.settings.seed)}


def trl_version() -> str:
    """Of the TRL that is installed. Raises EdgekitError (with the command that installs it) where none is, or one that
    is too old.
    """
    trl = import_extra("trl", extra=EXTRA)
    for needed in ("datasets", "pandas"):
        import_extra(needed, extra=EXTRA)
    found = version("trl")
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdecimal())
    if numbers < LEAST or "DistillationTrainer" not in dir(trl):  # asking for it would load it
        raise EdgekitError(
            f"this TRL has no DistillationTrainer that is known here: `{found}`",
            hint=f"pip install -U 'edgekit[{EXTRA}]'",
        )
    return found


def trainer_of(exercise: Exercise, optimizer: Any, begun: int, hooks: Hooks, out: Path) -> Any:
    """TRL's trainer of `exercise` from step `begun` on; its `train()` takes the rest of the steps. It logs, saves and
    reports nothing itself, to nobody.
    """
    trl = import_extra("trl", extra=EXTRA)
    transformers = import_extra("transformers", extra=EXTRA)
    torch = import_extra("torch", extra=EXTRA)
    settings = exercise.settings
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: optimizing.rate(step + begun, settings))
    exercise.student.generation_config = _generation(transformers, exercise)
    asked = trl.DistillationConfig(**_arguments(exercise, begun, out), **_recomputed(trl, settings))
    asked._n_gpu = min(asked.n_gpu, 1)  # of several GPUs that it sees, Trainer would put a copy of the student on each

    class Trainer(trl.DistillationTrainer):  # type: ignore[misc,name-defined]
        """Tells what every micro-batch came to."""

        def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
            loss = super().compute_loss(model, inputs, *arguments, **named)
            read, wrote = (int(inputs[name].sum()) for name in ("prompt_mask", "completion_mask"))
            hooks.read(float(loss.detach()), read, wrote)
            return loss

        def _send_telemetry(self) -> None:
            """Nobody hears of a user's training."""

    trainer = Trainer(
        model=exercise.student,
        teacher_model=exercise.teacher,
        args=asked,
        train_dataset=_Rows(prompts=exercise.prompts, settings=settings, begun=begun),
        processing_class=tokenizer_for(transformers, exercise.tokenizer, _all_ends(exercise)),
        callbacks=[_callback(transformers, hooks)],
        optimizers=(optimizer, rates),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _arguments(exercise: Exercise, begun: int, out: Path) -> dict[str, Any]:
    settings = exercise.settings
    micro = settings.micro_batch or settings.batch
    return {
        "output_dir": str(out),
        "max_steps": settings.steps - begun,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": settings.batch // micro,
        "max_grad_norm": 0.0,  # the hooks clip, and look at the norm
        "bf16": exercise.precision == "bfloat16",
        "use_cpu": next(exercise.student.parameters()).device.type == "cpu",
        "seed": settings.seed,
        "beta": exercise.policy.beta,
        "temperature": exercise.temperature,
        "top_p": exercise.policy.top_p,
        "max_completion_length": exercise.prompts.most_tokens,
        "shuffle_dataset": False,
        "dataloader_pin_memory": False,
        "logging_strategy": "steps",  # into the void: TRL keeps what it has not logged
        "logging_steps": 500,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "log_level": "error",
    }


def _recomputed(trl: Any, settings: TrainSettings) -> dict[str, bool]:
    """Whether activations are kept; the name changed in transformers 5."""
    names = ("activation_checkpointing", "gradient_checkpointing")
    name = next(name for name in names if hasattr(trl.DistillationConfig, name))
    return {name: settings.gradient_checkpointing}


def _generation(transformers: Any, exercise: Exercise) -> Any:
    """Where completions end; what else the student's folder suggests (a penalty, a top-k) is not how it is sampled."""
    return transformers.GenerationConfig(eos_token_id=list(_all_ends(exercise)) or None)


def _all_ends(exercise: Exercise) -> tuple[int, ...]:
    return (*exercise.ends, *exercise.prompts.stops)


def tokenizer_for(transformers: Any, tokenizer: Any, ends: tuple[int, ...]) -> Any:
    """`tokenizer` as TRL takes it; what fills up shorter prompts is the first of `ends` that it knows (TRL ends
    completions there too), and never counts. Raises EdgekitError where it knows none.
    """
    known = (tokenizer.id_to_token(one) for one in ends if 0 <= one < 2**31)
    end = next((text for text in known if text is not None), None)
    if end is None:
        raise EdgekitError(
            f"completions have no end that the student's tokenizer knows: `{ends or 'none is named'}`",
            hint='name its `eos_token_id` in `generation_config.json`; with `style = "answer"` a line ends them too',
        )
    found = transformers.PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer).from_str(tokenizer.to_str()), padding_side="left"
    )
    found.eos_token = found.pad_token = end
    return found


def _callback(transformers: Any, hooks: Hooks) -> Any:
    def hook(function: Callable[[], None]) -> Callable[..., None]:
        return lambda *_, **__: function()

    found = transformers.TrainerCallback()
    found.on_step_begin = hook(hooks.begins)
    found.on_pre_optimizer_step = hook(hooks.taken)
    found.on_step_end = hook(hooks.done)
    return found
