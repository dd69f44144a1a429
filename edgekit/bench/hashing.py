"""The identity of what was measured: SHA-256 over every byte of every shard, or of every file of a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.header.onnx_folder import folder_of, is_onnx
from edgekit.progress import Progress, silent
from edgekit.records import Artifact, Header
from edgekit.runtimes.handle import model_files

CHUNK_BYTES = 4 * 2**20


def hash_artifact(path: Path, header: Header, *, progress: Progress = silent) -> Artifact:
    """The artifact at `path` with the SHA-256 of each shard and of all of them in order.

    Of a folder, whose files have names that matter, it is the SHA-256 of the lines that `sha256sum` prints for them:
    `sha256sum FILES | sha256sum` gives it again. It also brings the file into the page cache, so that the first load is
    not slower than the others. Raises EdgekitError when a shard cannot be read or the sizes differ from what `header`
    saw.
    """
    whole = hashlib.sha256()
    shards: list[str] = []
    done_bytes = 0
    paths = model_files(path)
    for shard in paths:
        one = hashlib.sha256() if len(paths) > 1 else whole
        for chunk in _chunks(shard):
            one.update(chunk)
            if one is not whole:
                whole.update(chunk)
            done_bytes += len(chunk)
            progress("hashing", done_bytes, header.size_bytes, shard.name)
        shards.append(one.hexdigest())
    if done_bytes != header.size_bytes:
        raise EdgekitError(f"the file changed while it was read: `{path}`", hint="is it still being written?")
    sha256 = _listing_sha256(path, paths, shards) if is_onnx(path) else whole.hexdigest()
    return Artifact(path=str(path), sha256=sha256, shard_sha256=tuple(shards), header=header)


def hash_text(text: str) -> str:
    """SHA-256 of the text's UTF-8. Raises EdgekitError where there is nothing to read."""
    if not text.strip():
        raise EdgekitError("the text is empty", hint="a few thousand words that the model was not trained on will do")
    try:
        return hashlib.sha256(text.encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise EdgekitError(f"the text holds half a character at `{error.start}`", hint="read it as UTF-8") from None


def _chunks(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb", buffering=0) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise EdgekitError(f"cannot read ({(error.strerror or 'unreadable').lower()}): `{file}`") from None


def _listing_sha256(path: Path, files: Sequence[Path], digests: Sequence[str]) -> str:
    folder = folder_of(path)
    names = [file.relative_to(folder).as_posix() for file in files]
    lines = "".join(f"{digest}  {name}\n" for name, digest in zip(names, digests, strict=True))
    return hashlib.sha256(os.fsencode(lines)).hexdigest()
