"""A small distillation to train: a student, a frozen teacher, and a projection that is learned beside them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from edgekit.distill.heads import head_of
from edgekit.distill.losses import LossParts, distillation_loss
from edgekit.distill.trainer import ParameterGroup, StepInfo, TrainSettings, train
from edgekit.distill.windows import Windows, windows_of

LENGTH = 16
SETTINGS = TrainSettings(
    steps=12, batch=8, learning_rate=3e-3, precision="float32", checkpoint_every=4, log_every=1, seed=5
)


def causal_model(hidden: int, seed: int, dropout: float = 0.0) -> Any:
    torch.manual_seed(seed)
    config = transformers.Qwen3Config(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=True,
        attention_dropout=dropout,
        attn_implementation="eager",
    )
    return transformers.AutoModelForCausalLM.from_config(config)


def some_windows(count: int = 40, seed: int = 3) -> Windows:
    """Windows whose tokens follow a rule half of the time, and of which every third counts little."""
    generator = torch.Generator().manual_seed(seed)
    chance = torch.randint(64, (count * LENGTH + 1,), generator=generator)
    ids = torch.where(torch.arange(len(chance)) % 2 == 0, chance, (chance.roll(1) * 7 + 1) % 64)
    weights = [0.05 if at // LENGTH % 3 == 0 else 1.0 for at in range(len(ids))]
    return windows_of(ids.tolist(), weights, LENGTH)


@dataclass(frozen=True)
class Exercise:
    student: Any
    teacher: Any
    projection: Any
    windows: Windows

    def objective(self, model: Any, indices: torch.Tensor, windows: Windows, info: StepInfo) -> LossParts:
        inputs, labels, weights = windows.part(indices)
        hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        with torch.no_grad():
            said = self.teacher.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        parts = distillation_loss(
            hidden,
            head_of(model),
            (said, head_of(self.teacher)),
            labels,
            weights,
            temperature=2.0,
            normalizer=info.normalizer,
        )
        near = ((self.projection(hidden) - said) ** 2).mean(-1)
        return replace(parts, total=parts.total + 0.1 * (near * weights).sum() / info.normalizer)

    @property
    def extra(self) -> tuple[ParameterGroup, ...]:
        return (
            ParameterGroup(name="projection", module=self.projection, learning_rate=1e-2),
            ParameterGroup(name="teacher", module=self.teacher, learning_rate=None),
        )

    def train(self, out: Path | None, objective: Any = None, **changes: Any) -> Any:
        settings = replace(SETTINGS, **changes)
        return train(self.student, self.windows, objective or self.objective, settings, out=out, extra=self.extra)


def exercise(dropout: float = 0.0, count: int = 40) -> Exercise:
    student, teacher = causal_model(32, 1, dropout), causal_model(48, 2)
    torch.manual_seed(3)
    return Exercise(
        student=student, teacher=teacher, projection=torch.nn.Linear(32, 48), windows=some_windows(count=count)
    )


def digest(*modules: Any) -> str:
    """sha256 of all weights, bit by bit."""
    found = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            found.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()
