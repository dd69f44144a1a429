"""Headers of model files: what a model says about itself, read without touching weights. GGUF with all its shards
here, ONNX folders in `onnx`.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.header.architectures import describe
from edgekit.header.container import Container, Short, Unusable, clean, parse, refuse
from edgekit.header.onnx_folder import is_onnx
from edgekit.records import Header

READ_STEPS_BYTES = (16 * 2**20, 256 * 2**20)  # nearly every header ends within the first; none may pass the last
MAX_SHARDS, KEPT_METADATA = 512, 128
HINT = "convert or download the model again; edgekit reads little-endian GGUF versions 2 and 3"


def read_header(path: Path) -> Header:
    """Header of the GGUF file at `path`, with all shards when it is the first of several; or of the ONNX model whose
    folder or graph it is.

    Takes time proportional to the header alone. Raises EdgekitError with one reason and a hint for everything that is
    not a model file edgekit can account for.
    """
    if is_onnx(path):
        from edgekit.header.onnx import read_onnx

        return read_onnx(path)
    try:
        return _read_header(path)
    except Unusable as reason:
        raise EdgekitError(f"not a usable model file ({reason}): `{path}`", hint=HINT) from None


def _read_header(path: Path) -> Header:
    first, digest, size = _read_shard(path, 0)
    count = first.keys.get("split.count", 1)
    if not isinstance(count, int) or not 0 <= count <= MAX_SHARDS:
        refuse("`split.count` is not a number of shards")
    shards, digests = [first], [digest]
    for number, other in enumerate(_shard_paths(path, first, count)[1:], start=1):
        shard, digest, shard_size = _read_shard(other, number)
        if shard.keys.get("split.no") != number or shard.keys.get("split.count") != count:
            refuse(f"it is not shard {number + 1} of {count}: `{other.name}`")
        shards, digests, size = [*shards, shard], [*digests, digest], size + shard_size
    tensors = tuple(tensor for shard in shards for tensor in shard.tensors)
    if not tensors:
        raise EdgekitError(f"holds a vocabulary and no tensors: `{path}`", hint="give the model file itself")
    if len({tensor.name for tensor in tensors}) < len(tensors):
        refuse("two tensors have the same name")
    if len(tensors) != first.keys.get("split.tensors.count", len(tensors)):
        refuse(f"its shards hold {len(tensors)} tensors and not {first.keys['split.tensors.count']}")
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    scalars = [(key, clean(str(value))) for key, value in first.keys.items() if isinstance(value, str | int | float)]
    return Header(
        name=clean(str(first.keys.get("general.name", ""))) or path.stem,
        sha256=sha256,
        size_bytes=size,
        shards=len(shards),
        stand_in=first.keys.get("edgekit.stand_in") is True,
        tensors=tensors,
        metadata=tuple((clean(key), text) for key, text in scalars[:KEPT_METADATA]),
        **describe(first.keys, first.lengths, tensors),
    )


def read_texts(path: Path, prefix: str) -> dict[str, str]:
    """The keys of the GGUF file at `path` that begin with `prefix` and hold a text, whole: a stranger's words, as they
    are. Raises EdgekitError as `read_header` does.
    """
    try:
        shard, _, _ = _read_shard(path, 0)
    except Unusable as reason:
        raise EdgekitError(f"not a usable model file ({reason}): `{path}`", hint=HINT) from None
    return {key: value for key, value in shard.keys.items() if key.startswith(prefix) and isinstance(value, str)}


def tensor_offsets(path: Path) -> tuple[int, ...]:
    """The byte of the GGUF file at `path` where each tensor's data begins, in its header's order. Raises EdgekitError
    as `read_header` does.
    """
    try:
        shard, _, _ = _read_shard(path, 0)
    except Unusable as reason:
        raise EdgekitError(f"not a usable model file ({reason}): `{path}`", hint=HINT) from None
    alignment = shard.keys.get("general.alignment", 32)
    assert isinstance(alignment, int)
    offsets, at = [], -(-shard.at // alignment) * alignment
    for tensor in shard.tensors:
        offsets.append(at)
        at += -(-tensor.size_bytes // alignment) * alignment
    return tuple(offsets)


def _shard_paths(path: Path, first: Container, count: int) -> list[Path]:
    if count <= 1:
        return [path]
    stem = re.fullmatch(rf"(.+)-00001-of-{count:05}\.gguf", path.name)
    if first.keys.get("split.no") != 0 or not stem:
        raise EdgekitError(f"not the first of {count} shards: `{path}`", hint=f"give `…-00001-of-{count:05}.gguf`")
    paths = [path.with_name(f"{stem[1]}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    for other in paths:
        if not other.is_file():
            raise EdgekitError(f"a shard is missing: `{other}`", hint="all shards belong in one directory")
    return paths


def _read_shard(path: Path, number: int) -> tuple[Container, str, int]:
    """One file's header, the sha256 of its header bytes, and the file's size."""
    try:
        if not path.is_file():
            reason = (
                "is a directory" if path.is_dir() else "no such file" if not path.exists() else "not a regular file"
            )
            raise EdgekitError(f"cannot read the model ({reason}): `{path}`", hint="give the path of a GGUF file")
        size = path.stat().st_size
        for step in READ_STEPS_BYTES:
            with path.open("rb") as file:
                shard = Container(file.read(step))
            try:
                start = parse(shard, number)
            except Short:
                if len(shard.data) < step:
                    break
                continue
            if shard.tensors and start + shard.data_end > size:
                refuse(f"{size} bytes, truncated: its tensors end at byte {start + shard.data_end}")
            return shard, hashlib.sha256(memoryview(shard.data)[: shard.at]).hexdigest(), size
    except OSError as error:
        raise EdgekitError(f"cannot read the model ({(error.strerror or 'failed').lower()}): `{path}`") from None
    return refuse("it is truncated inside its header" if size <= READ_STEPS_BYTES[-1] else "its header never ends")
