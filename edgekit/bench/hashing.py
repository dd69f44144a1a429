"""The identity of what was measured: SHA-256 over every byte of every shard."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.progress import Progress, silent
from edgekit.records import Artifact, Header
from edgekit.runtimes.handle import model_files

CHUNK_BYTES = 4 * 2**20


def hash_artifact(path: Path, header: Header, *, progress: Progress = silent) -> Artifact:
    """The artifact at `path` with the SHA-256 of each shard and of all of them in order.

    It also brings the file into the page cache, so that the first load is not slower than the others. Raises
    EdgekitError when a shard cannot be read or the sizes differ from what `header` saw.
    """
    whole = hashlib.sha256()
    shards = []
    done_bytes = 0
    paths = model_files(path)
    for shard in paths:
        one = hashlib.sha256() if len(paths) > 1 else whole
        try:
            with shard.open("rb", buffering=0) as file:
                while chunk := file.read(CHUNK_BYTES):
                    one.update(chunk)
                    if one is not whole:
                        whole.update(chunk)
                    done_bytes += len(chunk)
                    progress("hashing", done_bytes, header.size_bytes, shard.name)
        except OSError as error:
            raise EdgekitError(f"cannot read ({(error.strerror or 'unreadable').lower()}): `{shard}`") from None
        shards.append(one.hexdigest())
    if done_bytes != header.size_bytes:
        raise EdgekitError(f"the file changed while it was read: `{path}`", hint="is it still being written?")
    return Artifact(path=str(path), sha256=whole.hexdigest(), shard_sha256=tuple(shards), header=header)
