"""GGUF → quantized GGUF through llama.cpp's own quantizer: its bytes, for the same options.

`llama_model_quantize` runs in a fenced child process (`child.py`): first dry, which tells every tensor's type and thus
the exact size, then for good. Only `edgekit.*` keys are added to what llama-quantize would write.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.errors import EdgekitError, ExitCode
from edgekit.files import check_space, replacing
from edgekit.header import read_header
from edgekit.header.provenance import PROVENANCE_KEYS, read_provenance
from edgekit.progress import Progress, silent
from edgekit.quantize.child import Work, working
from edgekit.quantize.ggml_types import (
    FILE_TYPES,
    NEED_IMATRIX,
    PLAIN,
    TENSOR_TYPES,
    check_file_type,
    check_tensor_type,
    row_bytes,
)
from edgekit.quantize.imatrix import ImportanceMatrix, check_against, open_imatrix
from edgekit.quantize.outputs import check_output, sha256_of
from edgekit.records import Header, Provenance, TensorInfo
from edgekit.runtimes.death import WorkerDied

PlannedTypes = tuple[tuple[str, str], ...]

_ROOM_BYTES = 64 * 2**20
"""More than a header grows by."""
_POOR_WITHOUT_IMATRIX = (*NEED_IMATRIX, "iq1_m", "iq2_s", "iq3_xxs")
"""llama.cpp refuses these without importance, but for the embedding and output tables (`tensor_requires_imatrix`)."""
_PENDING = "0" * 64
"""Stands in the file for the parent's hash until it is known."""


def exactly(name: str) -> str:
    """The pattern that matches the tensor `name` and no other, for `tensor_types`."""
    return "^" + re.sub(r"([^\w-])", r"\\\1", name) + "$"


def quantize_gguf(
    source: Path,
    out: Path,
    type: str,  # noqa: A002  (llama-quantize's word)
    *,
    imatrix: Path | None = None,
    tensor_types: Sequence[tuple[str, str]] = (),
    output_type: str | None = None,
    embedding_type: str | None = None,
    pure: bool = False,
    allow_requantize: bool = False,
    threads: int = 0,
    provenance: Provenance | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Path:
    """Quantize the GGUF at `source` (with its shards) to one of llama-quantize's file types and write `out`, which it
    gives. Tensor infos and data are llama-quantize's for the same options.

    `tensor_types` are (pattern, tensor type) as `--tensor-type` takes them: the first pattern found in a tensor's name
    decides; `exactly(name)` names one. They have no effect on the types f32, f16 and bf16, which are refused with them.
    `provenance` says more of the origin than this function can know; hashes it leaves empty are computed. Raises
    EdgekitError, WorkerDied (an EdgekitError, exit code 4) when llama.cpp dies of the file.
    """
    order = _order(source, type, imatrix, tensor_types, output_type, embedding_type, pure, allow_requantize)
    check_output(out, order.readable, force=force)
    known, header = _complete(provenance or Provenance(), order), order.header
    most = _ROOM_BYTES + header.size_bytes + sum(4 * _values(tensor) for tensor in header.tensors)
    with replacing(out) as temporary, _hashing(order.source_files, known.parent_sha256) as parent:
        job = order.job | {"threads": threads, "out": str(temporary.absolute()), "keys": _keys(known, header)}
        with _disk_full_told(out), _started(order, job, temporary, most) as (work, planned):
            needed = sum(_size(tensor, dict(planned)) for tensor in header.tensors) + _header_room(header)
            check_space(out, needed, "the quantized model")
            work.start(job | {"dry_run": False}, "quantizing")
            for advance in work.advances():
                progress(f"quantizing to {job['type']}", advance.done, advance.total, advance.detail.partition(" ")[2])
        written = _check_written(temporary, planned)
        if not known.parent_sha256:
            _fill_in(temporary, written, parent.result())
    return out


def planned_types(
    source: Path,
    type: str,  # noqa: A002
    *,
    imatrix: Path | None = None,
    tensor_types: Sequence[tuple[str, str]] = (),
    output_type: str | None = None,
    embedding_type: str | None = None,
    pure: bool = False,
    allow_requantize: bool = False,
) -> PlannedTypes:
    """(tensor name, type) of every tensor that `quantize_gguf` with the same arguments would write, in the file's
    order; nothing is written. Raises EdgekitError.
    """
    order = _order(source, type, imatrix, tensor_types, output_type, embedding_type, pure, allow_requantize)
    with _started(order, order.job | {"threads": 1, "out": "", "keys": {}}, None, 0) as (_, planned):
        return planned


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What is asked of the child, checked as far as that needs no llama.cpp."""

    job: dict[str, Any]
    header: Header
    source_files: tuple[Path, ...]
    matrix: ImportanceMatrix | None
    readable: tuple[Path, ...]


def _order(
    source: Path,
    kind: str,
    imatrix: Path | None,
    tensor_types: Sequence[tuple[str, str]],
    output_type: str | None,
    embedding_type: str | None,
    pure: bool,
    allow_requantize: bool,
) -> _Order:
    from edgekit.runtimes.handle import model_files

    kind = check_file_type(kind)
    if tensor_types and FILE_TYPES[kind] in PLAIN:
        raise EdgekitError(
            f"llama.cpp takes tensor types for quantized file types only, not for: `{kind}`",
            hint="choose a quantized type and name the tensors that stay in full, e.g. `attn_v=f16`",
        )
    header = read_header(source)
    _check_source(source, header, allow_requantize=allow_requantize)
    matrix = open_imatrix(imatrix) if imatrix is not None else None
    if matrix is not None and imatrix is not None:
        check_against(matrix, header, imatrix)
    job = {
        "op": "quantize",
        "source": str(source.absolute()),
        "type": kind,
        "imatrix": str(imatrix.absolute()) if imatrix else "",
        "tensor_types": _checked_patterns(tensor_types, header),
        "output_type": check_tensor_type(output_type) if output_type else "",
        "embedding_type": check_tensor_type(embedding_type) if embedding_type else "",
        "pure": pure,
        "allow_requantize": allow_requantize,
        "dry_run": True,
    }
    files = model_files(source)
    readable = (*files, imatrix) if imatrix is not None else files
    return _Order(job=job, header=header, source_files=files, matrix=matrix, readable=readable)


def _checked_patterns(tensor_types: Sequence[tuple[str, str]], header: Header) -> list[tuple[str, str]]:
    """llama-quantize passes over a pattern that finds nothing; here a slip of the pen is told."""
    checked = [(pattern, check_tensor_type(name)) for pattern, name in tensor_types]
    for pattern, _ in checked:
        if not pattern or "\0" in pattern:
            raise EdgekitError("a tensor type needs a pattern of tensor names", hint="write it as `attn_v=q6_k`")
        with suppress(re.error):  # the two dialects differ in rare things: llama.cpp has the last word
            if not any(re.search(pattern, tensor.name) for tensor in header.tensors):
                raise EdgekitError(
                    f"no tensor of the model has a name with: `{pattern}`",
                    hint="names look like `blk.3.ffn_down.weight`",
                )
    return checked


def _check_source(source: Path, header: Header, *, allow_requantize: bool) -> None:
    quantized = next((tensor for tensor in header.tensors if tensor.type not in PLAIN), None)
    if quantized is not None and not allow_requantize:
        raise EdgekitError(
            f"the source is quantized already, `{quantized.name}` to `{quantized.type}`: `{source}`",
            hint="quantize from f16, bf16 or f32: every step loses",
        )


@contextmanager
def _started(
    order: _Order, job: Mapping[str, Any], writable: Path | None, file_bytes: int
) -> Iterator[tuple[Work, PlannedTypes]]:
    """A child that has planned the job, and the types it will write."""
    doing = "planning the quantization"
    with working(job, readable=order.readable, writable=writable, file_bytes=file_bytes, doing=doing) as work:
        told: dict[str, str] = {}
        for advance in work.advances():
            kind, _, name = advance.detail.partition(" ")
            told[name] = kind
        names = [tensor.name for tensor in order.header.tensors]
        if set(told) != set(names) or not set(told.values()) <= set(TENSOR_TYPES):
            raise EdgekitError(
                "llama.cpp plans other tensors than the file's header lists", hint="the file may be hostile"
            )
        planned = tuple((name, told[name]) for name in names)
        _check_importance(planned, order)
        yield work, planned


def _check_importance(planned: PlannedTypes, order: _Order) -> None:
    """Refuse now what llama.cpp refuses (`tensor_requires_imatrix`) or aborts on when it comes to that tensor."""
    known = order.matrix.values if order.matrix is not None else {}
    types = {tensor.name: tensor.type for tensor in order.header.tensors}
    for name, new in planned:
        table = name in ("token_embd.weight", "output.weight")
        poor = NEED_IMATRIX if table else (*_POOR_WITHOUT_IMATRIX, *_poor_in(order.job["type"]))
        if new in poor and new != types[name] and name not in known:
            raise EdgekitError(
                f"an importance matrix is needed for tensor `{name}` in type: `{new}`",
                hint="give one with `--imatrix`, or choose a type of four bits or more",
            )


def _poor_in(kind: str) -> tuple[str, ...]:
    return ("q2_k",) if kind == "q2_k_s" else ()


@contextmanager
def _disk_full_told(out: Path) -> Iterator[None]:
    try:
        yield
    except WorkerDied as death:
        if "iostream error" not in death.message:
            raise
        raise EdgekitError(
            f"cannot write (the disk is full, or a quota is reached): `{out}`",
            hint="free some space, or choose another disk",
        ) from None


def _values(tensor: TensorInfo) -> int:
    count = 1
    for length in tensor.shape:
        count *= length
    return count


def _size(tensor: TensorInfo, types: Mapping[str, str]) -> int:
    size = _values(tensor) // tensor.shape[0] * row_bytes(types[tensor.name], tensor.shape[0])
    return size + -size % 32


def _header_room(header: Header) -> int:
    return header.size_bytes - sum(tensor.size_bytes for tensor in header.tensors) + 2**20


# ---- provenance ---------------------------------------------------------------------------------------------------


def _complete(known: Provenance, order: _Order) -> Provenance:
    """`known` with what the source's own keys and the importance matrix tell."""
    inherited = read_provenance(order.header)
    if inherited is not None and not known.checkpoint_sha256:
        known = replace(known, checkpoint_sha256=inherited.checkpoint_sha256)
    if order.matrix is not None:
        calibration = known.calibration_sha256 or order.matrix.calibration_sha256
        known = replace(known, imatrix_sha256=order.matrix.sha256, calibration_sha256=calibration)
    return replace(known, edgekit_version=__version__)


def _keys(known: Provenance, header: Header) -> dict[str, str]:
    """Keys to write. What the source says of its own origin would be copied by llama.cpp: it is emptied."""
    stale = dict(header.metadata)
    keys = {key: getattr(known, field) for field, key in PROVENANCE_KEYS.items()}
    keys[PROVENANCE_KEYS["parent_sha256"]] = known.parent_sha256 or _PENDING
    return {key: value for key, value in keys.items() if value or key in stale}


@contextmanager
def _hashing(files: Sequence[Path], known: str) -> Iterator[Future[str]]:
    """The parent's hash, computed beside the quantizer where the caller does not know it."""
    if known:
        done: Future[str] = Future()
        done.set_result(known)
        yield done
        return
    stop: list[bool] = []

    def stoppable(stage: str, done: float, total: float, detail: str = "") -> None:  # noqa: ARG001  (a Progress)
        if stop:
            raise EdgekitError("stopped")

    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(sha256_of, files, progress=stoppable)
        finally:
            stop.append(True)


def _fill_in(path: Path, header: Header, digest: str) -> None:
    """Put the parent's hash where `_PENDING` stands: texts of one length, so nothing moves."""
    key = PROVENANCE_KEYS["parent_sha256"].encode()
    wanted = key + struct.pack("<IQ", 8, len(_PENDING)) + _PENDING.encode()
    with path.open("r+b") as file:
        at = file.read(header.size_bytes - sum(tensor.size_bytes for tensor in header.tensors)).find(wanted)
        if at < 0:
            raise EdgekitError("llama.cpp did not write the key of the parent's hash", code=ExitCode.BROKE)
        file.seek(at + len(wanted) - len(_PENDING))
        file.write(digest.encode())


def _check_written(path: Path, planned: PlannedTypes) -> Header:
    header = read_header(path)
    written = {tensor.name: tensor.type for tensor in header.tensors}
    if written != dict(planned):
        wrong = next(name for name, kind in planned if written.get(name) != kind)
        raise EdgekitError(f"llama.cpp wrote another type than it planned for: `{wrong}`", code=ExitCode.BROKE)
    return header
