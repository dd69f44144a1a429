"""What a recipe comes to on this machine: everything that can be wrong with a walk is found before its first step."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from edgekit import corpus
from edgekit.bench import PRESETS
from edgekit.checkpoint import hash_checkpoint, open_checkpoint
from edgekit.corpus.bank import spread
from edgekit.devices import load_device
from edgekit.distill.recipe import DistillRecipe, Gating
from edgekit.distill.students import place_of
from edgekit.errors import EdgekitError, import_extra
from edgekit.files import replacing
from edgekit.gate.gates import load_gates
from edgekit.pipeline import sweeping
from edgekit.pipeline.asking import DEFAULT_ITEMS, Tasks, Text, text_of
from edgekit.pipeline.gating import Overrides, settings_here
from edgekit.progress import Progress, silent
from edgekit.quantize.targets import Target, parse_target
from edgekit.quantize.workshop import Making
from edgekit.records import Answers, Settings
from edgekit.storage import load_record

REPORT_FILES = {"html": "report.html", "markdown": "report.md", "junit": "junit.xml"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the recipe comes to on this machine."""

    recipe: DistillRecipe
    out: Path
    targets: tuple[Target, ...]
    judging: sweeping.Judging
    making: Making
    text: Text
    tasks: Tasks

    @property
    def gating(self) -> Gating:
        return self.recipe.gate

    @property
    def settings(self) -> Settings:
        """Of the device's judged configuration, what changes logits."""
        judged = settings_here(self.judging.device, Overrides())
        return Settings(kv_type=judged.kv_type, flash_attention=judged.flash_attention, repack=judged.repack)

    @property
    def models(self) -> Path:
        """Where artifacts go."""
        return self.out / "models"


def prepare_job(recipe: DistillRecipe, out: Path, threads: int, *, write: bool = True) -> Job:
    """Everything that can be wrong is found now. Raises EdgekitError."""
    gating = recipe.gate
    targets = tuple(parse_target(one) for one in dict.fromkeys(recipe.export.to))
    if not targets:
        raise EdgekitError(
            f"the recipe makes nothing of its student: `{recipe.name}`",
            hint='write `to = ["gguf:q4_k_m"]` under `[export]`',
        )
    if any(target.format == "onnx" for target in targets):
        import_extra("onnxruntime_genai", extra="onnx")
    if gating.answers:
        load_record(Path(beside(recipe, gating.answers)), Answers)  # there, and answers?
    name = beside(recipe, gating.device) if gating.device.endswith(".toml") else gating.device
    return Job(
        recipe=recipe,
        out=out,
        targets=targets,
        judging=sweeping.Judging(
            name=name,
            device=load_device(name),
            workload=PRESETS[gating.bench],
            gates=load_gates(Path(beside(recipe, gating.gates))) if gating.gates else None,
            threads=threads,
        ),
        making=Making(threads=threads, use_imatrix=recipe.export.imatrix),
        text=text_of(None),
        tasks=_tasks(gating, out, write=write),
    )


def known_teacher(recipe: DistillRecipe, teacher: Path | None, progress: Progress = silent) -> str:
    """The hash of the recipe's teacher (or of `teacher`), empty of one that is still to be trained or named. Raises
    EdgekitError where its folder is no checkpoint.
    """
    folder = teacher
    if folder is None and recipe.teacher.make is not None:
        folder = place_of(recipe.teacher.make)
        if not folder.is_dir():
            return ""
    if folder is None and recipe.teacher.path:
        folder = recipe.folder / recipe.teacher.path
    if folder is None:
        return ""
    return hash_checkpoint(open_checkpoint(folder), progress=progress)


def check_answers(recipe: DistillRecipe, teacher_sha256: str) -> None:
    """Refuse answers that the recipe brings and that are another teacher's; those that do not say whose they are leave
    retention unknown at the gate. Raises EdgekitError.
    """
    if not (recipe.gate.answers and teacher_sha256):
        return
    place = Path(beside(recipe, recipe.gate.answers))
    theirs = load_record(place, Answers).checkpoint_sha256
    if theirs and theirs != teacher_sha256:
        raise EdgekitError(
            f"the saved answers are of another teacher than the recipe's (checkpoint {theirs[:12]}, not "
            f"{teacher_sha256[:12]}): `{place}`",
            hint="save those of this teacher, or leave `answers` out of `[gate]`: then it is asked here",
        )


def beside(recipe: DistillRecipe, name: str) -> str:
    """A path that the recipe names, from where the recipe lies."""
    return str(recipe.folder / name)


def _tasks(gating: Gating, out: Path, *, write: bool) -> Tasks:
    """The items that teacher and student are asked: edgekit's bank, or those of the recipe's templates, in a file."""
    if not gating.templates:
        corpus.task_bank(items=gating.items or 8, domains=gating.domains or corpus.DOMAINS)  # are there so many?
        return Tasks(items=gating.items, domains=gating.domains)
    wanted = gating.domains or corpus.DOMAINS
    streams = [
        [stream for name, stream in corpus.templates("evaluation", domain).items() if name in gating.templates]
        for domain in wanted
    ]
    items = tuple(islice(spread(streams), gating.items or DEFAULT_ITEMS))
    if len(items) < (gating.items or 1):
        raise EdgekitError(
            f"the templates of `[gate]` give only {len(items)} items, fewer than `{gating.items}`",
            hint="ask fewer `items`, or name more `templates`",
        )
    keys = ("id", "domain", "template", "prompt", "answer", "choices")
    rows = ({key: getattr(item, key) for key in keys if getattr(item, key)} for item in items)
    place = out / "tasks.jsonl"
    if not write:
        return Tasks(file=place)
    with replacing(place) as temporary:
        temporary.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    return Tasks(file=place)
