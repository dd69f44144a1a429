"""What a recipe of distillation says, as records; `recipe` reads them from TOML and checks them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from edgekit.distill.own_questions import Questions
from edgekit.distill.schedules import temperature_at
from edgekit.distill.students import Recipe
from edgekit.distill.synthesis import Synthesis
from edgekit.records import StageKind
from edgekit.shapes import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """Exactly one of: the folder of a checkpoint, a recipe of a model that is trained here, or a shape alone (what
    foreseeing the cost needs; to run, `--teacher DIR` then says where it is).
    """

    path: str = ""
    make: Recipe | None = None
    shape: Shape | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What students learn from: the corpus' text, its questions, the user's own files, one after the other.

    `files` are `.jsonl` (`{"text": …}` or `{"prompt": …, "answer": …}` a line) or plain text, relative to the recipe.
    """

    characters: int = 0
    questions: int = 0
    """Of each template."""
    templates: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    prompt_weight: float = 0.05
    held_out_questions: int = 20
    held_out_characters: int = 60_000
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Temperature:
    """`schedules.temperature_at`'s arguments."""

    schedule: str = "constant"
    start: float = 2.0
    end: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """The coolest and the hottest."""
        last = self.start if self.end is None else self.end
        return min(self.start, last), max(self.start, last)

    def at(self, step: int, steps: int) -> float:
        """The temperature of that step."""
        return temperature_at(step, steps, schedule=self.schedule, start=self.start, end=self.end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesizing:
    """What the teacher writes for a task stage, and which of it is learned from (the `strategy` of `selecting`).

    It is asked as `asked` says: of no domains all, of no templates the data's, and with a seed that the recipe's gives.
    `prompts` are questions of one's own in place of the corpus', `held_out` files of those that evaluate (JSONL, beside
    the recipe); `chat` asks in the teacher's own chat template.
    """

    asked: Synthesis = field(default_factory=lambda: Synthesis(domains=()))
    prompts: str = ""
    held_out: tuple[str, ...] = ()
    chat: bool = False
    strategy: str = "teacher-correct"
    gold: bool = False
    """Learn from the known answers of the same prompts instead: what a gain of this stage is to be compared with."""

    def questions(self, folder: Path) -> Questions:
        """What is asked by a recipe that lies in `folder`."""
        return Questions(
            prompts=folder / self.prompts if self.prompts else None,
            held_out=tuple(folder / name for name in self.held_out),
            chat=self.chat,
        )

    @property
    def said(self) -> dict[str, Any]:
        """All that it says, as older recipes said it; what came later is there where it is used."""
        found = asdict(self.asked)
        del found["seed"]
        found |= {"strategy": self.strategy, "gold": self.gold}
        later = {"prompts": self.prompts, "held_out": self.held_out, "chat": self.chat}
        return found | {name: value for name, value in later.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnPolicy:
    """What an on-policy student completes, and how it is held against its teacher there: `beta` 0 is KL(teacher ‖
    student), 1 KL(student ‖ teacher), 0.5 the Jensen–Shannon divergence. A completion takes `most_tokens` at most and
    is drawn at the stage's temperature; an `answer` ends with its line, a `rationale` with the student's own end.
    """

    beta: float = 0.5
    top_p: float = 1.0
    most_tokens: int = 32
    style: Literal["answer", "rationale"] = "answer"
    each: int = 50
    """Questions of every template at most."""
    questions: int = 0
    """In all, spread evenly; 0: as many as `each` allows."""
    domains: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    """Without any, the data's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a student. `alpha` is the share of the divergence beside cross-entropy; `cache` says whether the
    teacher runs beside the student or was asked before; the `feature_…` fields and `mapping` are of feature stages,
    `on_policy` is of on-policy stages, whose `length` is that of a prompt and its completion.
    """

    kind: StageKind
    steps: int
    batch: int
    length: int
    learning_rate: float
    micro_batch: int | None = None
    warmup: float = 0.05
    floor: float = 0.1
    weight_decay: float = 0.1
    gradient_norm: float = 1.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    checkpoint_every: int = 200
    loss: str = "forward_kl"
    mix: float | None = None
    alpha: float = 0.5
    prompt_weight: float | None = None
    """In place of the data's."""
    temperature: Temperature = field(default_factory=Temperature)
    cache: Literal["online", "offline"] = "online"
    mapping: Literal["learned", "uniform", "last", "relative"] = "relative"
    feature_loss: Literal["cosine", "mse"] = "cosine"
    feature_weight: float = 1.0
    mapping_learning_rate: float = 0.03
    synthesis: Synthesizing = field(default_factory=Synthesizing)
    on_policy: OnPolicy | None = None

    @property
    def tokens(self) -> int:
        """Positions that the student is trained on; of an on-policy stage at most so many."""
        return self.steps * self.batch * self.length

    @property
    def said(self) -> dict[str, Any]:
        """All that it says; what came into recipes later is there where it is used, so that older hashes stay."""
        found = asdict(self)
        found["synthesis"] = self.synthesis.said
        if self.on_policy is None:
            del found["on_policy"]
        return found

    @property
    def asks(self) -> bool:
        """Whether a teacher runs while it is trained, or ran for its cache."""
        return self.alpha > 0 or self.kind == "features"


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """One link of the chain. `source` is `prune:…`, `config:FILE.json` or `shape:NAME`; it is carved out of the model
    before it in the chain, and taught by that one or by the chain's first.
    """

    name: str
    source: str
    shape: Shape | None = None
    """Of a `shape:…`."""
    taught_by: Literal["original", "previous"] = "original"
    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporting:
    """What is made of the last student: targets of `edgekit quantize`, the one that ships first."""

    to: tuple[str, ...] = ("gguf:q4_k_m", "onnx:int4")
    imatrix: bool = True
    """Whether quantized GGUFs are made with an importance matrix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gating:
    """How the student is measured, evaluated and judged. Empty `gates` are the profile's own, empty `domains` and
    `templates` all; `items` 0 is the bank's own number.
    """

    device: str = "smartphone"
    gates: str = ""
    bench: Literal["quick", "default", "thorough"] = "quick"
    items: int = 200
    domains: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    chunks: int = 8
    context: int = 512
    names: tuple[str, ...] = ()
    answers: str = ""
    """The teacher's saved answers (`edgekit evaluate TEACHER --save`), beside the recipe: then it is not run here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """What the recipe is meant to run on: `count` accelerators, all models sharded over all of them.

    `mfu` is the share of the peak that training is expected to reach: Llama 3 405B reached 0.38–0.43 on up to 16 384
    H100 (arXiv 2407.21783, table 4), PaLM 540B 0.462 (arXiv 2204.02311); the lower end is room for smaller models.
    """

    accelerator: str
    count: int
    mfu: tuple[float, float] = (0.25, 0.46)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillRecipe:
    """A whole recipe. `folder` is where the files that it names lie."""

    name: str
    title: str = ""
    seed: int = 1
    teacher: Teacher
    data: Data
    students: tuple[Student, ...]
    export: Exporting = field(default_factory=Exporting)
    gate: Gating = field(default_factory=Gating)
    cluster: Machines | None = None
    folder: Path = Path()

    @property
    def sha256(self) -> str:
        """Of all that it says; formatting, comments and the place of the file do not change it."""
        said = asdict(replace(self, folder=Path()))
        said.pop("folder")
        for student, told in zip(self.students, said["students"], strict=True):
            told["stages"] = [stage.said for stage in student.stages]
        return hashlib.sha256(json.dumps(said, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
