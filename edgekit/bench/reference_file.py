"""A reference kept in a file: what a model says of a text, once, for every artifact that is judged by it later.

A large model then need not run, nor be there, at gate time. What the file holds, and how well it tells, is described
in `runtimes/compact`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from edgekit import __version__
from edgekit.bench.hashing import hash_text
from edgekit.bench.host import probe_host
from edgekit.errors import EdgekitError
from edgekit.files import MAX_TEXT_BYTES, check_space
from edgekit.header.chat_template import template_hashes
from edgekit.header.precision import stored_as
from edgekit.header.provenance import shape_digest
from edgekit.progress import Progress, silent
from edgekit.records import Artifact, ReferenceFile, Settings
from edgekit.runtimes.compact import file as container
from edgekit.runtimes.compact.chunks import Damaged, largest_chunk, parts_of
from edgekit.runtimes.compact.keeping import MOST_ROW_BYTES, Keeper, open_keeper, row_bytes_for
from edgekit.runtimes.protocol import MAX_TEXT, printable
from edgekit.runtimes.scoring import MAX_CONTEXT, MIN_CONTEXT, scoring_settings
from edgekit.storage import from_json, to_json

STAGE = "keeping"
_DAMAGED_HINT = "copy it again, or make it anew from the model it was made of"


def save_reference(
    artifact: Artifact,
    text: str,
    out: Path,
    *,
    context_tokens: int = 512,
    chunks: int | None = None,
    threads: int = 0,
    settings: Settings | None = None,
    origin: str = "",
    force: bool = False,
    progress: Progress = silent,
) -> ReferenceFile:
    """Keep what `artifact` says of `text` in the file `out`, chunk by chunk as `evaluate` scores them.

    A run that was ended goes on where it stopped: what is unfinished lies beside `out` as `<name>.unfinished`. Raises
    EdgekitError as `evaluate` does, and where `out` exists and `force` is not given.
    """
    _check_asked(out, chunks, force=force)
    text_sha256 = hash_text(text)
    # as `evaluate` runs a reference
    settings = replace(scoring_settings(settings or Settings(), context_tokens, threads), kv_type="f16")
    progress(STAGE, 0, 0, "loading")
    unfinished = out.with_name(f"{out.name}.unfinished")
    with _writing(unfinished) as stream:
        opening = open_keeper(
            Path(artifact.path),
            settings,
            text=text,
            vocabulary=artifact.header.vocabulary,
            chunks=chunks or 0,
            place=unfinished,
        )
        with opening as keeper:
            header = _header(artifact, text_sha256, origin, settings, keeper)
            begin, checksum = _resume(stream, header)
            _check_room(out, header, begin)
            _keep(keeper, header, begin, checksum, progress)
        # another edgekit may write it as soon as the lock is let go
        return _published(unfinished, out)


def _check_asked(out: Path, chunks: int | None, *, force: bool) -> None:
    if out.exists() and not force:
        raise EdgekitError(f"the output exists: `{out}`", hint="choose another place with `--out`, or add `--force`")
    if out.is_dir():
        raise EdgekitError(f"the output is a folder: `{out}`", hint="name a file to write")
    if chunks is not None and chunks < 1:
        raise EdgekitError(f"at least one chunk must be kept: `{chunks}`")


def open_reference_file(path: Path) -> ReferenceFile:
    """What the file at `path` says of itself; of its chunks only how many there are. Raises EdgekitError when it is no
    reference file, of another version, or its beginning is damaged.
    """
    with _reading(path) as stream:
        record = _read_header(stream, container.read_layout(stream, 0), path)
        if not _possible(record):
            raise Damaged("its header tells of sizes that cannot be")
        parts = parts_of(record.context_tokens)
        layout = container.read_layout(stream, record.chunks * parts)
        if len(layout.parts) == record.chunks * parts and layout.end != layout.size_bytes:
            raise Damaged("there is something behind its end")
    return replace(record, path=str(path), size_bytes=layout.size_bytes, kept_chunks=len(layout.parts) // parts)


def _possible(record: ReferenceFile) -> bool:
    if not MIN_CONTEXT <= record.context_tokens <= MAX_CONTEXT:
        return False
    sizes = (
        (record.chunks, MAX_TEXT_BYTES // record.context_tokens + 2),  # nearly every token stands for a byte or more
        (record.vocabulary, container.MAX_VOCABULARY + 1),
        (record.row_bytes, MOST_ROW_BYTES + 1),
    )
    return all(0 < size < most for size, most in sizes)


def is_reference_file(path: Path) -> bool:
    """Whether the file at `path` begins like one."""
    return container.has_magic(path)


def read_reference_text(reference: ReferenceFile) -> str:
    """The text that a reference was made of: artifacts are judged on it, and it need not be given again. Raises
    EdgekitError when it is damaged.
    """
    with _reading(Path(reference.path)) as stream:
        layout = container.read_layout(stream, 0)
        if len(layout.sections) < 3:
            raise Damaged("its text is cut off")
        text = container.unpack_text(container.read_section(stream, layout.sections[2], layout.seed))
        if hashlib.sha256(text.encode()).hexdigest() != reference.text_sha256:
            raise Damaged("its text is not the one its header tells of")
    return text


def check_usable(reference: ReferenceFile, *, text_sha256: str, context_tokens: int, chunks: int | None) -> int:
    """How many chunks an artifact is scored on, against `reference`. Raises EdgekitError where it is not of this text
    and these chunks, or not complete.
    """
    if not reference.complete:
        raise EdgekitError(
            f"the reference file is unfinished, {reference.kept_chunks} of {reference.chunks} chunks are there:"
            f" `{reference.path}`",
            hint="run what makes it again: it goes on where it stopped; or copy it again",
        )
    if reference.text_sha256 != text_sha256:
        raise EdgekitError(
            f"the reference file was made of another text (SHA-256 {reference.text_sha256[:12]}…, not"
            f" {text_sha256[:12]}…): `{reference.path}`",
            hint="leave `--text` out: the file holds its own text",
        )
    if reference.context_tokens != context_tokens:
        raise EdgekitError(
            f"the reference file holds chunks of {reference.context_tokens} tokens, not of `{context_tokens}`",
            hint=f"`--context {reference.context_tokens}`",
        )
    if chunks is not None and chunks > reference.chunks:
        raise EdgekitError(
            f"the reference file holds {reference.chunks} chunks, fewer than asked for: `{chunks}`",
            hint=f"`--chunks {reference.chunks}`, or make the reference of more",
        )
    return chunks or reference.chunks


def seat(reference: ReferenceFile) -> dict[str, str | int]:
    """What the scoring process is told of it (`runtimes.open_scorer`, `reference_file`)."""
    return {
        "path": str(Path(reference.path).absolute()),
        "model": reference.model,
        "context_tokens": reference.context_tokens,
        "chunks": reference.chunks,
        "vocabulary": reference.vocabulary,
        "row_bytes": reference.row_bytes,
        "text_sha256": reference.text_sha256,
    }


# ---- writing --------------------------------------------------------------------------------------------------------


def _header(artifact: Artifact, text_sha256: str, origin: str, settings: Settings, keeper: Keeper) -> ReferenceFile:
    return ReferenceFile(
        edgekit_version=__version__,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        model=Path(artifact.path).name,
        quant=stored_as(artifact.header),
        artifact_sha256=artifact.sha256,
        stand_in=artifact.header.stand_in,
        text_sha256=text_sha256,
        text_origin=origin,
        text_tokens=keeper.text_tokens,
        context_tokens=settings.context_tokens,
        chunks=keeper.chunks,
        vocabulary=keeper.vocabulary,
        row_bytes=row_bytes_for(keeper.vocabulary, settings.context_tokens),
        # the same whenever the same is kept, so that a resumed file is the one that would have been
        seed=int(hashlib.sha256(f"{artifact.sha256} {text_sha256}".encode()).hexdigest()[:8], 16),
        settings=settings,
        runtime=keeper.runtime,
        host=probe_host(),
        findings=keeper.findings,
        shape_sha256=shape_digest(artifact.header),
        templates=template_hashes(Path(artifact.path)),
    )


@contextmanager
def _writing(path: Path) -> Iterator[BinaryIO]:
    """The unfinished file at `path`, this process's alone; it goes when nothing was kept."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+b")
    except OSError as error:
        raise EdgekitError(
            f"cannot write ({(error.strerror or 'not writable').lower()}): `{path}`",
            hint="choose a writable place with `--out`",
        ) from None
    with stream:
        _lock(stream, path)
        try:
            yield stream
        finally:
            if not _holds_chunks(stream):
                path.unlink(missing_ok=True)


def _lock(stream: BinaryIO, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows cannot measure either
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # another edgekit may have finished since `path` was opened: what is locked is its reference then
        if not os.path.samestat(path.stat(), os.fstat(stream.fileno())):
            raise BlockingIOError
    except OSError:
        raise EdgekitError(
            f"another edgekit is writing this reference: `{path}`", hint="let it end, or choose another `--out`"
        ) from None


def _keep(keeper: Keeper, header: ReferenceFile, begin: int, checksum: int, progress: Progress) -> None:
    """Have the chunks from `begin` on written."""
    progress(STAGE, begin, keeper.chunks, "")
    kept = keeper.keep(
        to_json(header, indent=None), begin=begin, checksum=checksum, row_bytes=header.row_bytes, seed=header.seed
    )
    for done in kept:
        progress(STAGE, done, keeper.chunks, "")


def _published(unfinished: Path, out: Path) -> ReferenceFile:
    """What was written, in its place where it is complete."""
    made = open_reference_file(unfinished)
    if not made.complete:
        raise EdgekitError(f"the reference file was not written to its end: `{unfinished}`", hint="is the disk full?")
    try:
        unfinished.replace(out)
    except OSError as error:
        raise EdgekitError(f"cannot write ({(error.strerror or 'failed').lower()}): `{out}`") from None
    return replace(made, path=str(out))


def _holds_chunks(stream: BinaryIO) -> bool:
    try:
        return bool(container.read_layout(stream, 1).parts)
    except (Damaged, OSError):
        return False


def _resume(stream: BinaryIO, header: ReferenceFile) -> tuple[int, int]:
    """(chunks kept already, checksum of the header) of an unfinished file of the very same; (0, 0) and an empty file
    otherwise.
    """
    chunks = end = checksum = 0
    try:
        parts = parts_of(header.context_tokens)
        layout = container.read_layout(stream, header.chunks * parts)
        before = _read_header(stream, layout, Path(header.model))
        if _identity(before) == _identity(_cleaned(header)):
            chunks, checksum = container.whole_parts(stream, layout) // parts, layout.seed
            end = layout.parts[chunks * parts - 1].end if chunks else 0
    except (Damaged, EdgekitError):
        pass
    stream.truncate(end)
    return chunks, checksum


def _identity(header: ReferenceFile) -> ReferenceFile:
    """All but when and where it was begun."""
    return replace(header, edgekit_version="", created_at="", host=None, findings=())


def _check_room(out: Path, header: ReferenceFile, begin: int) -> None:
    chunk = largest_chunk(header.context_tokens, header.vocabulary, header.row_bytes)
    check_space(out, (header.chunks - begin) * chunk, "the reference file", hint="keep fewer chunks, or another disk")


# ---- reading --------------------------------------------------------------------------------------------------------


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """The file at `path`; what is wrong with it as EdgekitError."""
    try:
        with path.open("rb") as stream:
            yield stream
    except Damaged as damage:
        raise EdgekitError(f"the reference file cannot be used ({damage}): `{path}`", hint=_DAMAGED_HINT) from None
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        raise EdgekitError(f"cannot read the reference file ({reason}): `{path}`") from None


def _read_header(stream: BinaryIO, layout: container.Layout, path: Path) -> ReferenceFile:
    data = container.read_section(stream, layout.sections[0], 0)
    header: ReferenceFile = _cleaned(from_json(data, ReferenceFile, origin=str(path)))
    return header


def _cleaned(record: Any) -> Any:
    """The same without what could move a cursor: a stranger may have written it, and it is shown."""

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return printable(value)[:MAX_TEXT]
        if isinstance(value, tuple):
            return tuple(map(clean, value))
        return _cleaned(value) if is_dataclass(value) else value

    return replace(record, **{field.name: clean(getattr(record, field.name)) for field in fields(record)})
