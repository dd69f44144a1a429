"""A student carved out of its teacher: the layers, heads and channels that move its residual stream most."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import corpus
from edgekit.checkpoint import TOKENIZER_FILES, Checkpoint, hash_checkpoint, open_checkpoint
from edgekit.distill.model_facts import tokenizer_of
from edgekit.distill.prune_spec import Prune, parse_prune
from edgekit.distill.students import CLASSES, load_model, save_model
from edgekit.distill.windows import Windows, windows_of
from edgekit.errors import EdgekitError, import_extra
from edgekit.files import replacing_folder
from edgekit.progress import Progress, silent
from edgekit.records.layer_map import LayerMap
from edgekit.storage import load_record, write_record

if TYPE_CHECKING:
    from edgekit.distill.influence import Influence
    from edgekit.distill.slicing import Cut

FORMAT_VERSION = 1
"""Raised when the same spec carves another student."""

CARVED = "edgekit-carved.json"
CALIBRATION_TOKENS = 16_384
"""Enough that two halves of the text keep the same layers; ShortGPT takes some 10 000 too."""
CALIBRATION_LENGTH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Carved:
    """A student cut out of a teacher, its folder `path` as transformers loads it; or a new one, which keeps nothing.

    `scores` are the block influences of all teacher layers, `kept_layers` which of them the student has; `kept_heads`
    per student layer (empty where none were cut) and `kept_importance` the share of the channels' influence that was
    kept, per student layer. `key` names what it was made of.
    """

    path: str
    spec: str
    key: str
    teacher_sha256: str
    teacher_parameters: int
    parameters: int
    calibration_sha256: str = ""
    calibration_tokens: int = 0
    kept_layers: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    kept_heads: tuple[tuple[int, ...], ...] = ()
    kept_importance: tuple[float, ...] = ()
    layer_map: LayerMap | None = None
    notes: tuple[str, ...] = ()


def carve(
    teacher: Path,
    spec: str,
    out: Path,
    *,
    text: str | None = None,
    windows: Windows | None = None,
    seed: int = 1,
    progress: Progress = silent,
) -> Carved:
    """The folder `out` with a student cut out of the checkpoint `teacher` as `spec` says (`parse_prune`): weights in
    the teacher's dtype, configuration, the teacher's tokenizer, and how it was made. What an earlier call with the same
    teacher, spec and calibration left in `out` is taken as it stands.

    What moves the residual stream most stays (`influence.py`), scored on `windows` (their tokens of weight above zero),
    or on `text`, or on the corpus' training text of `seed`. Every layer keeps as many channels and heads as the others;
    of channels a multiple of 32 to 256, which k-quants ask for.

    Raises EdgekitError for an impossible spec, an architecture that is not known, a student of which nothing would be
    left or nothing cut, and where `out` holds something else.
    """
    import_extra("torch", extra="distill")
    prune, checkpoint = parse_prune(spec), open_checkpoint(teacher)
    _check_architecture(checkpoint)
    calibration = _calibration(checkpoint, text, seed) if windows is None else windows
    key = _key(checkpoint, prune, calibration, progress)
    if (out / CARVED).is_file() and (before := load_record(out / CARVED, Carved)).key == key:
        return replace(before, path=str(out))
    from edgekit.distill import choosing, influence, slicing

    model = load_model(teacher)
    found = influence.influence_of(model, calibration, progress=progress)
    cut, notes = choosing.chosen(model.config, prune, found)
    student = slicing.sliced(model, cut)
    with replacing_folder(out) as folder:
        save_model(student, folder)
        copy_tokenizer(teacher, folder)
        record = _record(out, spec, key, model, student, found, cut, notes)
        write_record(folder / CARVED, record)
    return record


def copy_tokenizer(teacher: Path, folder: Path) -> None:
    """The tokenizer's files as they are."""
    for name in TOKENIZER_FILES:
        if (teacher / name).is_file():
            shutil.copyfile(teacher / name, folder / name)


def _check_architecture(checkpoint: Checkpoint) -> None:
    if checkpoint.architecture not in CLASSES:
        raise EdgekitError(
            f"students are carved out of {', '.join(CLASSES)}, not out of `{checkpoint.architecture}`",
            hint="give the student's own configuration with `config:FILE.json`",
        )


def _calibration(checkpoint: Checkpoint, text: str | None, seed: int) -> Windows:
    tokenizer = tokenizer_of(checkpoint)
    if text is None:
        text = corpus.text("train", seed=seed, characters=8 * CALIBRATION_TOKENS)
    ids = tokenizer.encode(text, add_special_tokens=False).ids[: CALIBRATION_TOKENS + 1]
    return windows_of(ids, None, min(CALIBRATION_LENGTH, len(ids) - 1))


def _key(checkpoint: Checkpoint, prune: Prune, calibration: Windows, progress: Progress) -> str:
    made = {
        "version": FORMAT_VERSION,
        "prune": asdict(prune),
        "teacher": hash_checkpoint(checkpoint, progress=progress),
        "calibration": calibration.sha256,
    }
    return json.dumps(made, sort_keys=True)


def _record(
    out: Path, spec: str, key: str, model: Any, student: Any, found: Influence, cut: Cut, notes: tuple[str, ...]
) -> Carved:
    made = json.loads(key)
    kept = [
        float(found.channels[layer][cut.channels[layer]].square().sum() / found.channels[layer].square().sum())
        for layer in cut.layers
        if cut.channels
    ]
    return Carved(
        path=str(out),
        spec=spec,
        key=key,
        teacher_sha256=made["teacher"],
        calibration_sha256=made["calibration"],
        calibration_tokens=found.tokens,
        teacher_parameters=model.num_parameters(),
        parameters=student.num_parameters(),
        kept_layers=cut.layers,
        scores=tuple(found.blocks.tolist()),
        kept_heads=tuple(tuple(cut.heads[layer].tolist()) for layer in cut.layers if cut.heads),
        kept_importance=tuple(kept),
        layer_map=_carved_map(cut.layers, len(found.blocks)),
        notes=notes,
    )


def _carved_map(kept_layers: tuple[int, ...], teacher_layers: int) -> LayerMap:
    """The map of a student that has these layers of its teacher."""
    rows = tuple(tuple(float(layer == kept) for layer in range(teacher_layers)) for kept in kept_layers)
    return LayerMap(student_layers=len(rows), teacher_layers=teacher_layers, weights=rows, mapping="carved")
