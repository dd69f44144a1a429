"""Importance matrices: how much each column of a weight matters, as the mean square of what it is multiplied by.

Files are llama.cpp's: GGUF with `<tensor>.in_sum2` and `<tensor>.counts` (`tools/imatrix/imatrix.cpp`), and the legacy
`.dat` for reading. They come from strangers too: the reader is our own, bounded one.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from edgekit.errors import EdgekitError
from edgekit.files import read_whole, replacing
from edgekit.header import read_header
from edgekit.header.container import Container, Short, Unusable, clean, parse
from edgekit.progress import Progress, silent
from edgekit.quantize.outputs import check_output, sha256_of
from edgekit.records import Header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

MAX_FILE_BYTES = 2 * 2**30
MAX_ENTRIES = 65_536
PART_TOKENS = 512
"""Tokens evaluated at once; llama-imatrix ignores products of fewer than 16 rows, and so do we."""
_LEAST_CONTEXT, _LEAST_ROWS = 32, 16
_SUMS, _COUNTS = ".in_sum2", ".counts"
_ALIGNMENT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceMatrix:
    """What an imatrix file holds. `values`: tensor name → mean square of each input column, float32 of the tensor's
    row length, (experts, row length) where there are several. Names and texts are as the file has them: untrusted.
    """

    values: Mapping[str, Array]
    dataset: str
    """The first of its data sets, a path or a hash of the text; empty where it names none."""
    chunks: int
    sha256: str
    calibration_sha256: str = ""
    model_sha256: str = ""


def read_imatrix(path: Path) -> dict[str, Array]:
    """Tensor name → mean square of each input column, as llama-quantize takes them from the file at `path`.

    float32 of the tensor's row length; (experts, row length) where there are several. An expert that saw no token has
    ones. Raises EdgekitError for what is not an importance matrix.
    """
    return dict(open_imatrix(path).values)


def open_imatrix(path: Path) -> ImportanceMatrix:
    """The importance matrix at `path`, GGUF or legacy `.dat`, with what it says of its origin. Raises EdgekitError."""
    try:
        data = read_whole(path, MAX_FILE_BYTES)
    except OSError as error:
        raise EdgekitError(
            f"cannot read importance matrix ({(error.strerror or 'unreadable').lower()}): `{path}`"
        ) from None
    if data is None:
        _refuse(path, "more than 2 GiB")
    try:
        return _from_gguf(data) if data[:4] == b"GGUF" else _from_legacy(data)
    except (Unusable, Short, struct.error) as reason:
        _refuse(path, str(reason) if isinstance(reason, Unusable) else "it is truncated")


def _refuse(path: Path, reason: str) -> NoReturn:
    raise EdgekitError(
        f"not a usable importance matrix ({reason}): `{path}`",
        hint="edgekit reads what it and llama-imatrix write: GGUF, and the older `.dat`",
    )


@dataclass(slots=True)
class _Texts(Container):
    """Keeps the first text of each array of texts, which a model's header has no use for."""

    first_texts: list[str] = field(default_factory=list)

    def skip_strings(self, length: int) -> None:
        at = self.at
        if length:
            self.first_texts.append(self.text(2**20, "text"))
            self.at = at
        Container.skip_strings(self, length)


def _from_gguf(data: bytes) -> ImportanceMatrix:
    container = _Texts(data=data)
    start = parse(container, 0)
    keys = container.keys
    if "imatrix.chunk_count" not in keys or "imatrix.chunk_size" not in keys:
        raise Unusable("a GGUF file of another kind")
    arrays = dict(_arrays(container, start))
    values: dict[str, Array] = {}
    for name in [name.removesuffix(_SUMS) for name in arrays if name.endswith(_SUMS)]:
        if name + _COUNTS not in arrays:
            raise Unusable(f"`{name}` has sums and no counts")
        values[name] = _means(name, arrays[name + _SUMS], arrays[name + _COUNTS])
    if 2 * len(values) != len(arrays) or not values:
        raise Unusable("its sums and counts do not pair")
    return ImportanceMatrix(
        values=values,
        dataset=clean(container.first_texts[0]) if container.first_texts else "",
        chunks=_count(keys["imatrix.chunk_count"]),
        sha256=hashlib.sha256(data).hexdigest(),
        calibration_sha256=_digest(keys.get("edgekit.calibration.sha256")),
        model_sha256=_digest(keys.get("edgekit.parent.sha256")),
    )


def _arrays(container: Container, start: int) -> Iterator[tuple[str, Array]]:
    import numpy as np

    for tensor in container.tensors:
        if tensor.type != "f32":
            raise Unusable(f"`{tensor.name}` is not f32")
        if start + tensor.size_bytes > len(container.data):
            raise Short
        yield tensor.name, np.frombuffer(container.data, "<f4", tensor.size_bytes // 4, start)
        start += tensor.size_bytes + -tensor.size_bytes % _ALIGNMENT


def _means(name: str, sums: Array, counts: Array) -> Array:
    """Sums ÷ counts as llama-quantize divides them (`tools/quantize/quantize.cpp`, `load_imatrix`)."""
    import numpy as np

    _check_values(name, sums)
    _check_values(name, counts)
    experts = counts.size
    if not experts or sums.size % experts:
        raise Unusable(f"`{name}` has {sums.size} sums and {experts} counts")
    rounded = np.rint(counts)[:, None]
    rows = sums.reshape(experts, -1)
    means: Array = np.where(rounded > 0, rows / np.maximum(rounded, 1), np.float32(1)).astype(np.float32)
    return means if experts > 1 else means.reshape(-1)


def _check_values(name: str, values: Array) -> None:
    import numpy as np

    if not values.size or not np.isfinite(values).all() or values.min() < 0:
        raise Unusable(f"`{name}` holds values that are no mean squares")


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0


def _digest(value: object) -> str:
    return value if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else ""


def _from_legacy(data: bytes) -> ImportanceMatrix:
    """Entries of (name, calls, sums × calls ÷ count), then calls and data set (`common/imatrix-loader.cpp`)."""
    import numpy as np

    (entries,), at = struct.unpack_from("<i", data), 4
    if not 0 < entries <= MAX_ENTRIES:
        raise Unusable("neither GGUF nor legacy entries")
    values: dict[str, Array] = {}
    for _ in range(entries):
        name, at = _legacy_text(data, at)
        calls, size = struct.unpack_from("<ii", data, at)
        at += 8
        if size < 1 or at + 4 * size > len(data):
            raise Unusable(f"`{name}` has {size} values")
        row = np.frombuffer(data, "<f4", size, at)
        _check_values(name, row)
        values[name] = (row / np.float32(calls)).astype(np.float32) if calls > 0 else row
        at += 4 * size
    chunks, dataset = 0, ""
    if at < len(data):  # a trailer that older files lack
        (chunks,) = struct.unpack_from("<i", data, at)
        dataset = _legacy_text(data, at + 4)[0] if at + 4 < len(data) else ""
    sha256 = hashlib.sha256(data).hexdigest()
    return ImportanceMatrix(values=values, dataset=dataset, chunks=max(0, chunks), sha256=sha256)


def _legacy_text(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<i", data, at)
    end = at + 4 + length
    if not 0 <= length <= 4096 or end > len(data):
        raise Unusable("a text in it never ends")
    return clean(data[at + 4 : end].decode("utf-8", "replace")), end


def imatrix_bytes(
    entries: Mapping[str, tuple[Array, Array]], *, dataset: str, chunks: int, chunk_tokens: int, keys: Mapping[str, str]
) -> bytes:
    """A GGUF importance matrix as llama-imatrix writes it, plus `keys`. `entries`: tensor name → (sums of squares of
    shape (experts, row length), tokens seen by each).
    """
    pairs = [
        ("general.type", _text("imatrix")),
        ("imatrix.datasets", struct.pack("<IIQ", 9, 8, 1) + _string(dataset)),
        ("imatrix.chunk_count", struct.pack("<II", 4, chunks)),
        ("imatrix.chunk_size", struct.pack("<II", 4, chunk_tokens)),
        *((key, _text(value)) for key, value in keys.items()),
    ]
    infos, blobs, offset = [], [], 0
    for name in sorted(entries):
        sums, counts = entries[name]
        for suffix, array, shape in ((_SUMS, sums, sums.shape[::-1]), (_COUNTS, counts, (1, counts.size))):
            dims = shape if shape[-1] > 1 else shape[:-1]  # ggml drops a last dimension of one
            info = struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, offset)
            infos.append(_string(name + suffix) + info)
            blob = array.astype("<f4").tobytes()
            blobs.append(blob + bytes(-len(blob) % _ALIGNMENT))
            offset += len(blobs[-1])
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(pairs))
    head += b"".join([*(_string(key) + value for key, value in pairs), *infos])
    return b"".join([head, bytes(-len(head) % _ALIGNMENT), *blobs])


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _text(text: str) -> bytes:
    return struct.pack("<I", 8) + _string(text)


def compute_imatrix(
    model: Path,
    text: str,
    out: Path,
    *,
    context_tokens: int = 512,
    chunks: int | None = None,
    threads: int = 0,
    output: bool = False,
    model_sha256: str = "",
    force: bool = False,
    progress: Progress = silent,
) -> Path:
    """Write the importance matrix of `model` (a GGUF, best in f16 or better) on the calibration `text` to `out`.

    Evaluates `chunks` pieces (default: all) of `context_tokens` tokens in a fenced child. `output` also collects the
    output matrix, under the embedding's name where it is tied (llama-imatrix: `--process-output`, untied only).
    `model_sha256` spares the pass over the model's file where the caller has made it.
    Raises EdgekitError for a text shorter than two pieces, a model that gives values that are no numbers, and files
    that cannot be read or written.
    """
    from edgekit.quantize.child import working
    from edgekit.runtimes.handle import model_files

    if context_tokens < _LEAST_CONTEXT or 0 < context_tokens % PART_TOKENS < _LEAST_ROWS:
        raise EdgekitError(f"context cannot be cut into pieces of {_LEAST_ROWS} tokens or more: `{context_tokens}`")
    if chunks is not None and chunks < 1:
        raise EdgekitError(f"calibration needs at least one chunk: `{chunks}`")
    data = _encoded(text)
    check_output(out, [model], force=force)
    header = read_header(model)
    hashes = {
        "edgekit.parent.sha256": model_sha256 or sha256_of(model_files(model), progress=progress),
        "edgekit.calibration.sha256": hashlib.sha256(data).hexdigest(),
    }
    job: dict[str, Any] = {"op": "calibrate", "path": str(model.absolute()), "text": text, "keys": hashes}
    job["output"] = ("token_embd.weight" if header.tied_embedding else "output.weight") if output else ""
    job |= {"context_tokens": context_tokens, "chunks": chunks or 0, "threads": threads}
    room = 2**20 + sum(8 * _columns(tensor.shape) + 512 for tensor in header.tensors)
    with replacing(out) as temporary:
        job["out"] = str(temporary.absolute())
        with working(
            job, readable=model_files(model), writable=temporary, file_bytes=room, doing="calibrating"
        ) as work:
            for advance in work.advances():
                progress("calibrating", advance.done, advance.total, advance.detail)
        check_against(open_imatrix(temporary), header, temporary)
    return out


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise EdgekitError("the calibration text is not valid Unicode", hint="give it as UTF-8") from None


def _columns(shape: Sequence[int]) -> int:
    return shape[0] * (shape[2] if len(shape) > 2 else 1)


def check_against(matrix: ImportanceMatrix, header: Header, path: Path) -> None:
    """Raises EdgekitError when `matrix`, from `path`, was made of another model than `header`'s: no tensor in common,
    or one of another width.
    """
    found = 0
    for tensor in header.tensors:
        values: Any = matrix.values.get(tensor.name)
        if values is None:
            continue
        found += 1
        # llama.cpp lets a table of another width go without: imatrices of untied models never had it
        if values.size != _columns(tensor.shape) and tensor.name != "token_embd.weight":
            raise EdgekitError(
                f"importance matrix has {values.size} columns for `{tensor.name}`"
                f" of {_columns(tensor.shape)}: `{path}`",
                hint="it was made of another model: make one with this model",
            )
    if not found:
        raise EdgekitError(
            f"importance matrix has no tensor of this model: `{path}`",
            hint="it was made of another model: make one with this model",
        )
