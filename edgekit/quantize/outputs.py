"""Where a build may go, and what identifies what it was made from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.files import lies_in
from edgekit.progress import Progress, silent

CHUNK_BYTES = 4 * 2**20


def check_output(out: Path, sources: Sequence[Path], *, force: bool) -> None:
    """Raises EdgekitError when `out` cannot be the place: a folder, one of the sources, or there without `force`."""
    if out.is_dir():
        raise EdgekitError(f"the output is a directory: `{out}`", hint="name the file to write, e.g. `model.gguf`")
    if any(lies_in(out, source) for source in sources):
        raise EdgekitError(f"the output is the input: `{out}`", hint="name another file to write")
    if out.exists() and not force:
        raise EdgekitError(f"the output exists: `{out}`", hint="choose another place, or add `--force`")


def sha256_of(paths: Sequence[Path], *, progress: Progress = silent) -> str:
    """SHA-256 over every byte of the files in order: the `sha256` of an Artifact. Raises EdgekitError."""
    digest, done = hashlib.sha256(), 0
    for path in paths:
        try:
            total = sum(part.stat().st_size for part in paths)
            with path.open("rb", buffering=0) as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    done += len(chunk)
                    progress("hashing", done, total, path.name)
        except OSError as error:
            raise EdgekitError(f"cannot read ({(error.strerror or 'unreadable').lower()}): `{path}`") from None
    return digest.hexdigest()
