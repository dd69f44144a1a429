"""One source, a folder, and what is made there: the full-precision GGUF and the importance matrix once, artifacts from
them.

Everything has its record beside it (`<file>.json`, an `Export`), written last: a file with a record is whole, and is
used again as long as its record says that it was made of the same bytes in the same way. That is what lets a killed
job go on.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import __version__
from edgekit.checkpoint import Checkpoint, hash_checkpoint, open_checkpoint
from edgekit.errors import EdgekitError
from edgekit.header import read_header
from edgekit.progress import Progress, silent
from edgekit.quantize.ggml_types import PLAIN
from edgekit.quantize.outputs import sha256_of
from edgekit.quantize.targets import Target
from edgekit.records import Export, Header, Provenance
from edgekit.runtimes.handle import model_files
from edgekit.storage import load_record, write_record

if TYPE_CHECKING:
    from edgekit.quantize.onnx.options import Options

BASE_TYPE = "f16"
"""What is quantized from, and what quality is held against: half the bytes of f32, and 1e-8 away from it in KLD."""

_UNFINISHED = (("unfinished", "yes"),)
"""Options in the record of what is being made: a job that is killed leaves it, and no finished artifact has them."""

_NO_MATRIX = (*PLAIN, "q8_0")
"""File types that ggml rounds the same with and without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A checkpoint, or a GGUF of floats. `sha256` covers every byte of its weights."""

    path: Path
    name: str
    sha256: str
    checkpoint: Checkpoint | None = None
    header: Header | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How artifacts are made. Without `imatrix` one is computed on `calibration`, unless `use_imatrix` is off."""

    calibration: str = ""
    """Empty: the default calibration text."""
    imatrix: Path | None = None
    use_imatrix: bool = True
    tensor_types: tuple[tuple[str, str], ...] = ()
    output_type: str | None = None
    embedding_type: str | None = None
    pure: bool = False
    exporter: str = "genai"
    method: str = ""
    threads: int = 0
    force: bool = False


def open_source(path: Path, *, progress: Progress = silent) -> Source:
    """The checkpoint folder or GGUF file at `path`. Raises EdgekitError, also for a GGUF that is quantized already."""
    if path.suffix == ".gguf" or path.is_file():
        header = read_header(path)
        if header.quant not in PLAIN:
            raise EdgekitError(
                f"the GGUF is quantized already, to {header.quant}: `{path}`",
                hint="quantizing twice loses twice: give the checkpoint or its f16 GGUF",
            )
        name = re.sub(r"[-_.](f16|f32|bf16)$", "", path.stem, flags=re.IGNORECASE)
        return Source(
            path=path, name=_plain(name), sha256=sha256_of(model_files(path), progress=progress), header=header
        )
    checkpoint = open_checkpoint(path)
    digest = hash_checkpoint(checkpoint, progress=progress)
    return Source(path=path, name=_plain(path.resolve().name), sha256=digest, checkpoint=checkpoint)


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("._-")[:60] or "model"


def place_of(source: Source, target: Target, folder: Path) -> Path:
    """Where `target` goes: `<name>-q4_k_m.gguf`, or the folder `<name>-onnx-int4`."""
    return folder / (
        f"{source.name}-{target.type}.gguf" if target.format == "gguf" else f"{source.name}-onnx-{target.type}"
    )


def record_of(place: Path) -> Path:
    """Where the record of the artifact at `place` lies."""
    return place.with_name(f"{place.name}.json")


def refuse_existing(place: Path, *, force: bool) -> None:
    """Raises EdgekitError when something is at `place` and may not be replaced; before any work is done."""
    if place.exists() and not force:
        raise EdgekitError(f"the output exists: `{place}`", hint="choose another place with `--out`, or add `--force`")


def made_before(place: Path, source: Source, options: Sequence[tuple[str, str]]) -> Export | None:
    """The record of what is at `place` if it is whole and was made of these bytes with these options."""
    found = _recorded(place)
    if found is None or not place.exists():
        return None
    size = sum(file.stat().st_size for file in _files(place))
    same = found.source_sha256 == source.sha256 and found.options == tuple(options)
    if not same or size != found.size_bytes or found.edgekit_version != __version__:
        return None
    return replace(found, path=str(place), source=str(source.path))  # both may have been moved


def _left_by(source: Source, place: Path) -> bool:
    """Whether the record beside `place` says that edgekit made it of this source, in whatever way."""
    found = _recorded(place)
    return found is not None and found.source_sha256 == source.sha256


def _recorded(place: Path) -> Export | None:
    """The record beside `place`; `None` where there is none that can be read."""
    try:
        return load_record(record_of(place), Export)
    except EdgekitError:
        return None


def _files(place: Path) -> list[Path]:
    """The files of an artifact, a file itself or a folder."""
    return [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())


def make(
    place: Path,
    source: Source,
    target: str,
    options: Sequence[tuple[str, str]],
    work: Callable[[], Path],
    *,
    resume: bool,
    notes: Sequence[str] = (),
) -> Export:
    """Do `work`, which writes `place`, and leave its record; with `resume` what was made before is not made again."""
    options = tuple(options)
    before = made_before(place, source, options) if resume else None
    if before is not None:
        return before
    _disown(place, source, target)
    started = time.monotonic()
    work()
    made = replace(
        _unfinished(place, source, target),
        options=options,
        size_bytes=sum(file.stat().st_size for file in _files(place)),
        notes=tuple(notes),
        elapsed_s=time.monotonic() - started,
    )
    write_record(record_of(place), made)
    return made


def _disown(place: Path, source: Source, target: str) -> None:
    """Let nobody take what is at `place` for finished while it is replaced, and a killed job know it again."""
    if not place.exists():
        record_of(place).unlink(missing_ok=True)
        return
    write_record(record_of(place), _unfinished(place, source, target))


def _unfinished(place: Path, source: Source, target: str) -> Export:
    return Export(
        edgekit_version=__version__,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=str(source.path),
        source_sha256=source.sha256,
        target=target,
        options=_UNFINISHED,
        path=str(place),
        size_bytes=0,
        elapsed_s=0.0,
    )


# ---- the steps ------------------------------------------------------------------------------------------------------


def full_precision(source: Source, folder: Path, making: Making, *, progress: Progress = silent) -> Path:
    """The GGUF that everything else is quantized from and compared with: the source itself, or its conversion."""
    if source.header is not None:
        return source.path
    return Path(_converted(source, Target(format="gguf", type=BASE_TYPE), folder, making, progress).path)


def _free(place: Path, source: Source, making: Making) -> None:
    """Refuse to replace what is not edgekit's: what it made of this source is used or made anew."""
    if not _left_by(source, place):
        refuse_existing(place, force=making.force)


def _converted(source: Source, target: Target, folder: Path, making: Making, progress: Progress) -> Export:
    from edgekit.quantize.convert import conversion_notes, convert

    checkpoint, place = source.checkpoint, place_of(source, target, folder)
    assert checkpoint is not None
    _free(place, source, making)

    def work() -> Path:
        return convert(
            checkpoint,
            place,
            type=target.type,  # type: ignore[arg-type]  # parsed
            force=True,
            sha256=source.sha256,
            progress=progress,
        )

    return make(place, source, str(target), (), work, resume=True, notes=conversion_notes(checkpoint))


def importance(source: Source, base: Path, folder: Path, making: Making, *, progress: Progress = silent) -> Path | None:
    """The importance matrix that artifacts are made with: the user's, or one computed on the calibration text."""
    if making.imatrix is not None or not making.use_imatrix:
        return making.imatrix
    from edgekit.corpus import default_calibration
    from edgekit.quantize.imatrix import compute_imatrix

    text = making.calibration or default_calibration()
    place = folder / f"{source.name}.imatrix.gguf"
    options = (("calibration_sha256", hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()),)
    _free(place, source, making)

    def work() -> Path:
        return compute_imatrix(
            base,
            text,
            place,
            threads=making.threads,
            output=True,
            model_sha256=source.sha256 if source.header else "",
            force=True,
            progress=progress,
        )

    return Path(make(place, source, "imatrix", options, work, resume=True).path)


def make_target(
    source: Source, target: Target, folder: Path, making: Making, *, resume: bool = False, progress: Progress = silent
) -> Export:
    """Make one artifact and its record. `resume` keeps a finished one; else an existing output is refused, but with
    `force`. Raises EdgekitError.
    """
    place = place_of(source, target, folder)
    if target.format == "onnx":
        return _make_onnx(source, target, place, making, resume=resume, progress=progress)
    if target.plain and source.header is None:
        return _converted(source, target, folder, making, progress)
    base = full_precision(source, folder, making, progress=progress)
    matrix = importance(source, base, folder, making, progress=progress) if target.type not in _NO_MATRIX else None
    return quantize_to(source, base, place, target.type, making, matrix, resume=resume, progress=progress)


def quantize_to(
    source: Source,
    base: Path,
    place: Path,
    kind: str,
    making: Making,
    matrix: Path | None,
    *,
    plan_sha256: str = "",
    resume: bool = False,
    progress: Progress = silent,
) -> Export:
    """Quantize `base` to the file type `kind` with the types that `making` names for single tensors."""
    from edgekit.quantize.llama_quantize import quantize_gguf

    options = [
        ("type", kind),
        ("imatrix_sha256", sha256_of([matrix]) if matrix else ""),
        ("tensor_types", " ".join(f"{name}={one}" for name, one in making.tensor_types)),
        ("output_type", making.output_type or ""),
        ("embedding_type", making.embedding_type or ""),
        ("pure", "yes" if making.pure else ""),
    ]

    def work() -> Path:
        return quantize_gguf(
            base,
            place,
            kind,
            imatrix=matrix,
            tensor_types=making.tensor_types,
            output_type=making.output_type,
            embedding_type=making.embedding_type,
            pure=making.pure,
            threads=making.threads,
            provenance=Provenance(plan_sha256=plan_sha256, parent_sha256=source.sha256 if source.header else ""),
            force=making.force or resume,
            progress=progress,
        )

    if resume:
        _free(place, source, making)
    else:
        refuse_existing(place, force=making.force)
    return make(place, source, f"gguf:{kind}", [one for one in options if one[1]], work, resume=resume)


def require_checkpoint(source: Source) -> Checkpoint:
    """The checkpoint of `source`. Raises EdgekitError for a GGUF."""
    if source.checkpoint is None:
        raise EdgekitError(
            f"ONNX is exported from a checkpoint, and this is a GGUF: `{source.path}`",
            hint="give the folder that holds `config.json` and safetensors",
        )
    return source.checkpoint


def onnx_options(making: Making) -> Options:
    """The exporter's options."""
    from edgekit.quantize.onnx.options import Options

    wanted = Options(threads=making.threads)
    return replace(wanted, method=making.method) if making.method else wanted


def _make_onnx(
    source: Source, target: Target, place: Path, making: Making, *, resume: bool, progress: Progress
) -> Export:
    from edgekit.quantize.onnx import export_onnx

    checkpoint, chosen = require_checkpoint(source), onnx_options(making)
    options = (("type", target.type), ("exporter", making.exporter), ("method", chosen.method))

    def work() -> Path:
        return export_onnx(
            checkpoint.path,
            target.type,  # type: ignore[arg-type]  # parsed against PRECISIONS
            place,
            exporter=making.exporter,  # type: ignore[arg-type]  # checked there, with the known ones listed
            options=chosen,
            source_sha256=source.sha256,
            force=making.force or resume,
            progress=progress,
        )

    if resume:
        _free(place, source, making)
    else:
        refuse_existing(place, force=making.force)
    return make(place, source, str(target), options, work, resume=resume)
