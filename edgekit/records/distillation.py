"""How a student came to be: the teacher, every link of the chain to the student, and what each stage cost and gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.records.layer_map import LayerMap
from edgekit.records.measured import Host
from edgekit.records.numbers import Estimate, Figure, Unknown

StageKind = Literal["logits", "features", "task", "on-policy"]
STAGE_KINDS: tuple[StageKind, ...] = ("logits", "features", "task", "on-policy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One run of the training loop, over all the times that it was resumed.

    `losses` are (step, loss in nats per counted token) of the logged steps, `tokens` all positions that were trained
    on, counted or not; `seconds` and `tokens_per_s` leave out what killed runs spent after their last checkpoint.
    """

    steps: int
    tokens: int
    seconds: float
    losses: tuple[tuple[int, float], ...]
    tokens_per_s: float
    peak_bytes: int
    """Largest resident set of the process; on an accelerator, of its memory."""
    stopped: str | None = None
    """Why it ended before its last step; `None` where it did not."""
    resumed_at: tuple[int, ...] = ()
    """Steps at which it was taken up again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A model of the chain. `sha256` covers weights, configuration and tokenizer (`checkpoint.hash_checkpoint`).

    `parameters` counts each stored weight once (a tied table once), `embedding_parameters` are those of the input
    table where it is not the output matrix too: they are looked up, not multiplied with.
    """

    name: str
    path: str
    sha256: str
    architecture: str
    parameters: int
    embedding_parameters: int
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied_embedding: bool
    made: str = ""
    """How: `trained here`, `prune:depth=0.5`, `config:FILE`; empty where it was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredWindow:
    """Raw scores of one held-out window: sums over its tokens, weighted; `kld` is KL(teacher ‖ student) in nats."""

    weight: float
    nll: float
    top1: float
    kld: float | None = None


_NOT_COMPARED = Unknown(reason="not compared with a teacher")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A model on text that no training saw: weighted means per token, ranges over windows. `loss` and `kld` in nats.

    `kld` is to `teacher`: always the first of the chain, whoever taught.
    """

    loss: Figure
    top1: Figure
    kld: Figure = _NOT_COMPARED
    teacher: str = ""
    tokens: int
    windows: tuple[ScoredWindow, ...] = ()
    origin: str = ""
    """Of the text."""
    text_sha256: str = ""
    teacher_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillCost:
    """What training cost. `tokens` are those that the student was trained on, `teacher_tokens` those that its teacher
    read (once where a cache kept what it said) and wrote; FLOPs are counted from shapes, the range is without and with
    attention.
    """

    tokens: int
    teacher_tokens: int
    student_flops: Estimate
    teacher_flops: Estimate
    seconds: float
    """Of the clock, the teacher's part included; without what a killed run spent in vain."""
    peak_bytes: int
    written_tokens: int = 0
    """Of `tokens`, those that the student wrote itself; its FLOPs count the writing too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """One stage, finished: how it was trained and what its student is worth after it."""

    kind: StageKind
    key: str = ""
    """Of all that it was made of: a rerun takes it as it stands where this is the same."""
    student_sha256: str = ""
    """Of the student after it (`checkpoint.hash_checkpoint`)."""
    teacher: str
    """Name of who taught it; empty for a stage on labels alone."""
    settings: tuple[tuple[str, str], ...]
    """Of the recipe, as it was run."""
    training: Training
    held_out: HeldOut
    cost: DistillCost
    layer_map: LayerMap | None = None
    path: str
    """The folder of the student after this stage."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One student of the chain: who taught it, and its stages in order. `start` is the student before the first."""

    student: ModelFacts
    taught_by: str
    """Name of its teacher."""
    source: str
    """What the recipe says it is made of: `prune:depth=0.5`, `shape:…`."""
    start: HeldOut
    stages: tuple[StageResult, ...]
    layer_map: LayerMap | None = None
    """Of the last stage that learned one, or that the student was carved by."""
    kept_layers: tuple[int, ...] = ()
    """The teacher's layers that a carved student has."""

    @property
    def held_out(self) -> HeldOut:
        """After the last stage."""
        return self.stages[-1].held_out if self.stages else self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """A whole chain, teacher to last student."""

    kind: Literal["distillation"] = "distillation"
    version: Literal[1] = 1
    edgekit_version: str
    recipe: str
    recipe_sha256: str
    teacher: ModelFacts
    teacher_held_out: HeldOut
    teacher_cost: DistillCost | Unknown = Unknown(reason="the teacher was given")
    """Of the teacher's own training."""
    links: tuple[Link, ...]
    cost: DistillCost
    """Of all stages together, without the teacher's own training."""
    host: Host | None = None
    versions: tuple[tuple[str, str], ...] = ()
    started_at: str = ""
    finished_at: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.links:
            raise ValueError("a distillation has a student")

    @property
    def student(self) -> ModelFacts:
        """The last of the chain."""
        return self.links[-1].student
