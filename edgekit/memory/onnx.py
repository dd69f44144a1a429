"""Memory of an ONNX model under onnxruntime's CPU provider, predicted from its header alone.

What was measured is what is predicted: x86-64, graphs of onnxruntime-genai's builder and of `edgekit quantize`, f32
activations and cache (onnxruntime 1.31, `benchmarks/onnx_memory.py`). Elsewhere it is unknown: which weights are
packed, and how, is decided by the kernels of the instruction set. The prediction is for a context filled to its end in
ubatches, by a process that sets onnxruntime up as edgekit's does; the tokenizer, which runs outside the graph, widens
the range.
"""

from __future__ import annotations

from typing import NoReturn

from edgekit.errors import EdgekitError
from edgekit.memory.buffers import MAX_BATCH, MAX_CONTEXT
from edgekit.records import Estimate, Header, MemoryBreakdown, Settings, TensorInfo

RUNTIME_BASE_BYTES = 3_400_000
"""The session and its thread pool."""

FLOATS_PER_FFN, FLOATS_PER_HIDDEN = 2.3, 20.0
"""Activations alive at once for each token of a ubatch: fitted to seven shapes of hidden 256 to 1536, ffn 256 to 8960.
"""
ACTIVATION_ERROR = 0.4
"""Part by which they may be off: short ubatches keep a third more, whose blocks are too small to be given back."""

WEIGHTS_ERROR, ABSOLUTE_ERROR_BYTES = 0.02, 4_000_000
TABLE_ROWS_BYTES = 9_000_000
"""Pages of looked-up tables that a few tokens touch, at most."""
TOKENIZER_BYTES_PER_TOKEN = 300
"""As llama.cpp's, which is of the same kind; only the high end of a range holds it."""

_MEASURED_MATRICES = ("f32", "int4", "int8", "i8")


def predict_onnx(header: Header, settings: Settings, isa: str) -> MemoryBreakdown:
    """Bytes that `header`'s model takes under `settings`, with 90 % ranges of basis `predicted`. Raises EdgekitError
    for settings a graph cannot follow, and where nobody has measured.
    """
    _refuse_settings(header, settings)
    _refuse_unmeasured(header, isa)
    facts = dict(header.metadata)
    packed = sum(_packed_bytes(tensor) for tensor in header.tensors) + _number(facts, "onnx.transposed_bytes")
    tables = sum(tensor.size_bytes for tensor in header.tensors if tensor.role == "table")
    ubatch = min(settings.context_tokens, settings.batch_tokens, settings.ubatch_tokens)
    kv = 8 * settings.context_tokens * header.key_dim * sum(header.kv_heads)  # keys and values, four bytes each
    floats = FLOATS_PER_FFN * max(header.ffn) + FLOATS_PER_HIDDEN * header.hidden
    compute = int(4 * ubatch * floats)
    output = 4 * header.vocabulary * (1 if facts.get("onnx.logits_rows") == "last" else ubatch)
    private = packed + kv + compute + output + RUNTIME_BASE_BYTES
    error = WEIGHTS_ERROR * packed + ACTIVATION_ERROR * compute + ABSOLUTE_ERROR_BYTES
    tokenizer = TOKENIZER_BYTES_PER_TOKEN * header.vocabulary
    touched = min(tables, TABLE_ROWS_BYTES)
    # of the file only tables stay mapped: a matrix's pages are given back when it is packed
    return MemoryBreakdown(
        isa=isa,
        settings=settings,
        weights_bytes=tables,
        repacked_bytes=packed,
        dormant_bytes=tables - touched // 2,
        kv_bytes=kv,
        compute_bytes=compute,
        output_bytes=output,
        runtime_bytes=RUNTIME_BASE_BYTES,
        unevictable=_estimate(private, error, error + tokenizer),
        working_set=_estimate(private + touched // 2, error + touched // 2, error + touched // 2 + tokenizer),
        resident=_estimate(private + tables, error + tables, error + tokenizer + packed),
    )


def _refuse_settings(header: Header, settings: Settings) -> None:
    if settings.context_tokens > header.context_train:
        raise EdgekitError(
            f"the graph has positions for {header.context_train} tokens: `context_tokens = {settings.context_tokens}`",
            hint=f"`--context {header.context_train}` fits",
        )
    for name, high in (("context_tokens", MAX_CONTEXT), ("batch_tokens", MAX_BATCH), ("ubatch_tokens", MAX_BATCH)):
        if not 1 <= getattr(settings, name) <= high:
            raise EdgekitError(f"`{name}` must lie between 1 and {high}: `{getattr(settings, name)}`")
    for name, wanted in (("kv_type", "f16"), ("flash_attention", "auto"), ("mmap", True), ("repack", True)):
        if getattr(settings, name) != wanted:
            raise EdgekitError(
                f"an ONNX graph is not predicted with `{name} = {getattr(settings, name)}`",
                hint=f"the graph and onnxruntime decide it: leave `{name}` at `{wanted}`",
            )


def _refuse_unmeasured(header: Header, isa: str) -> None:
    if not isa.startswith("x86_64"):
        raise EdgekitError(
            f"onnxruntime's memory was measured on x86-64 alone, and other kernels pack weights differently: `{isa}`",
            hint="measure on the device: `edgekit bench MODEL --on-device NAME`",
        )
    facts = dict(header.metadata)
    kinds = {tensor.type for tensor in header.tensors if tensor.role == "matrix"}
    if not kinds <= set(_MEASURED_MATRICES):
        _unmeasured("matrices of type", ", ".join(sorted(kinds)))
    for key, wanted, what in (
        ("kv_type", "f32", "a KV cache of type"),
        ("kv_shared", "true", "a KV cache copied for every token, `past_present_share_buffer`"),
        ("logits_type", "f32", "logits of type"),
        ("accuracy_level", "4", "`accuracy_level`"),
        ("zero_points", "false", "zero points"),
    ):
        optional = key in ("accuracy_level", "zero_points")  # of block-quantized matrices only
        found = facts.get(f"onnx.{key}", wanted if optional else "unknown")
        if found != wanted:
            _unmeasured(what, found)


def _unmeasured(what: str, found: str) -> NoReturn:
    raise EdgekitError(
        f"nobody has measured what onnxruntime takes with {what}: `{found}`", hint="measure on the device"
    )


def _packed_bytes(tensor: TensorInfo) -> int:
    """Private bytes of a tensor. Matrices are packed and their source given back; of block-quantized ones the scales
    are packed too, and as many sums of blocks are kept beside them.
    """
    if tensor.role == "matrix":
        return tensor.size_bytes
    return 2 * tensor.size_bytes if tensor.role == "scale" else 0


def _number(facts: dict[str, str], key: str) -> int:
    text = facts.get(key, "0")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else 0


def _estimate(value: int, below: float, above: float) -> Estimate:
    return Estimate(value=value, low=max(0.0, value - below), high=value + above, basis="predicted")
