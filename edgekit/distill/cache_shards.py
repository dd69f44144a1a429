"""A shard of a teacher's cache: one file of records, each of the same size, that nothing has to be unpacked from.

    magic, version                      12 bytes
    key, index, record bytes, records   48 bytes: whose shard it is, which one, and how large
    SHA-256 of these and the records    32 bytes
    zeros to 128 bytes, then the records (`sparse_rows`)

Little-endian. A shard appears whole or not at all, and is checked byte by byte when it is first opened.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.distill.sparse_rows import CacheSettings, record_type, sound_records
from edgekit.errors import EdgekitError
from edgekit.files import replacing

if TYPE_CHECKING:
    from edgekit.distill.sparse_rows import Records

MAGIC, VERSION = b"edgekcch", 1
_ABOUT = struct.Struct("<8sI32sIIQ")
_DIGEST_BYTES = 32
HEADER_BYTES = 128
_CHECKED_AT_ONCE = 2**16


def shard_path(folder: Path, index: int) -> Path:
    """Where the shard of that number lies."""
    return folder / f"shard-{index:06d}.bin"


def write_shard(folder: Path, index: int, key: bytes, records: Records) -> None:
    """Write the shard, whole or not at all. Raises EdgekitError where the disk does not take it."""
    about = _ABOUT.pack(MAGIC, VERSION, key, index, records.dtype.itemsize, len(records))
    data = records.tobytes()
    digest = hashlib.sha256(about + data).digest()
    with replacing(shard_path(folder, index)) as temporary, temporary.open("wb") as file:
        file.write((about + digest).ljust(HEADER_BYTES, b"\0"))
        file.write(data)


def is_whole(folder: Path, index: int, key: bytes, records: int, settings: CacheSettings, vocabulary: int) -> bool:
    """Whether the shard is there with all its bytes and right checksum."""
    try:
        open_shard(folder, index, key, records, settings, vocabulary)
    except EdgekitError:
        return False
    return True


def open_shard(
    folder: Path,
    index: int,
    key: bytes,
    records: int,
    settings: CacheSettings,
    vocabulary: int,
    *,
    checked: bool = False,
) -> Records:
    """The shard's records, mapped from the file and, unless they are `checked` already, checked byte by byte. Raises
    EdgekitError where it is missing, cut off, damaged, of another cache, or holds what no writer writes.
    """
    import numpy as np

    path = shard_path(folder, index)
    wanted = _ABOUT.pack(MAGIC, VERSION, key, index, settings.record_bytes, records)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
        if header[: len(wanted)] != wanted:
            raise _refusal(path, _difference(header, wanted))
        if size != HEADER_BYTES + records * settings.record_bytes:
            raise _refusal(path, f"it has {size} bytes of {HEADER_BYTES + records * settings.record_bytes}")
        found = np.memmap(path, record_type(settings), "r", HEADER_BYTES, (records,))
    except (OSError, ValueError) as error:
        raise _refusal(path, (getattr(error, "strerror", None) or "it cannot be mapped").lower()) from None
    if not checked:
        _check(path, found, hashlib.sha256(wanted), header[len(wanted) :][:_DIGEST_BYTES], settings, vocabulary)
    return found


def _check(path: Path, records: Records, digest: Any, wanted: bytes, settings: CacheSettings, vocabulary: int) -> None:
    for begin in range(0, len(records), _CHECKED_AT_ONCE):
        part = records[begin : begin + _CHECKED_AT_ONCE]
        digest.update(part.data)
        if not sound_records(part, settings, vocabulary):
            raise _refusal(path, "it holds what no teacher says")
    if digest.digest() != wanted:
        raise _refusal(path, "its checksum is wrong")


def _difference(header: bytes, wanted: bytes) -> str:
    if len(header) < HEADER_BYTES:
        return "it is cut off"
    magic, version, key, *_ = _ABOUT.unpack(header[: len(wanted)])
    if magic != MAGIC:
        return "it is something else"
    if version != VERSION:
        return f"it is of version {version}, and this edgekit reads version {VERSION}"
    return "it is of another cache" if key != _ABOUT.unpack(wanted)[2] else "its header is damaged"


def _refusal(path: Path, reason: str) -> EdgekitError:
    return EdgekitError(
        f"a shard of the teacher's cache is not usable ({reason}): `{path}`",
        hint="write the cache again with the same settings: only shards that are missing or damaged are made anew",
    )
