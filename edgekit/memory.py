"""Memory of a GGUF model under llama.cpp's CPU backend, predicted from the header alone; nothing is loaded or run.

What is counted follows llama.cpp 0c1e57098: weights and their repacked copies (`edgekit.repack`), the KV cache
(`src/llama-kv-cache*.cpp`), compute and output buffers (`src/llama-context.cpp`, `ggml/src/ggml-alloc.c`) and the
tokenizer. The prediction is for a context filled to the end by a prompt of at least one ubatch, of which only the last
token's logits are asked, as chat and llama-bench do. `benchmarks/memory.py` compares it with measurements.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from edgekit.errors import EdgekitError
from edgekit.ggml import BLOCK
from edgekit.records import Estimate, Header, MemoryBreakdown, Settings, TensorInfo
from edgekit.repack import features_of, repacked_bytes

PAGE_BYTES = 4096
MAX_CONTEXT, MAX_BATCH = 2**24, 2**20

TOKENIZER_BYTES_PER_TOKEN = 295
"""Tables of a byte-pair vocabulary and its merges (`src/llama-vocab.cpp`), measured."""
RUNTIME_BASE_BYTES = 2_500_000
"""What llama.cpp holds besides, measured on a model with a vocabulary of 1024."""

RELATIVE_ERROR, ABSOLUTE_ERROR_BYTES = 0.01, 6_000_000
"""Half-width of the 90 % range where the predictor was checked (x86-64 Linux): residuals of `benchmarks/memory.py`."""
UNCHECKED_WIDENING = 2.0
"""On an instruction set no measurement has checked, ranges are this much wider."""


@dataclass(frozen=True, slots=True)
class _Weights:
    stored: int  # every tensor, as in the file
    repacked: int  # private copies in the kernels' layout
    read: int  # used as stored, on every token
    idle: int  # the token table where it is only looked up: one row per token


def predict_memory(header: Header, settings: Settings, isa: str) -> MemoryBreakdown:
    """Bytes that `header`'s model takes under `settings` on `isa`, with 90 % ranges of basis `predicted`.

    Raises EdgekitError for settings llama.cpp refuses and for an instruction set edgekit does not know.
    """
    check_settings(header, settings)
    weights = _weights(header, settings, isa)
    kv = kv_bytes(header, settings)
    touched, reserved = _compute(header, settings)
    output = header.vocabulary * 4
    runtime = RUNTIME_BASE_BYTES + TOKENIZER_BYTES_PER_TOKEN * header.vocabulary
    private = weights.repacked + kv + touched + output + runtime
    dormant = 0
    if settings.mmap:
        dormant = weights.stored - weights.read
        unevictable, working_set, resident = private, private + weights.read, private + weights.stored
    else:
        unevictable = working_set = resident = private + weights.read + weights.idle
    return MemoryBreakdown(
        isa=isa,
        settings=settings,
        weights_bytes=weights.stored,
        repacked_bytes=weights.repacked,
        dormant_bytes=dormant,
        kv_bytes=kv,
        compute_bytes=touched,
        reserved_bytes=max(reserved - touched, 0),
        output_bytes=output,
        runtime_bytes=runtime,
        unevictable=_estimate(unevictable, isa),
        working_set=_estimate(working_set, isa),
        resident=_estimate(resident, isa),
    )


def streamed_bytes(header: Header) -> tuple[tuple[str, int], ...]:
    """Weight bytes read per decoded token by ggml type, most bytes first.

    A tied embedding counts once, as output matrix; an untied input embedding is looked up and does not count; of the
    experts only those a token is routed to (design §5).
    """
    total: Counter[str] = Counter()
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight" and not header.tied_embedding:
            continue
        share = header.experts_used / header.experts if _is_expert(tensor) else 1.0
        total[tensor.type] += round(tensor.size_bytes * share)
    return tuple(total.most_common())


def kv_bytes(header: Header, settings: Settings) -> int:
    """Size of the KV cache: every layer holds the padded context, sliding-window layers window + ubatch."""
    full, window = _cells(header, settings)
    total = 0
    for layer, kv_heads in enumerate(header.kv_heads):
        cells = window if header.sliding_window and header.sliding_window[layer] else full
        total += cells * sum(_row_bytes(settings.kv_type, kv_heads * dim) for dim in (header.key_dim, header.value_dim))
    return total


def check_settings(header: Header, settings: Settings) -> None:
    """Raise EdgekitError for settings that llama.cpp would refuse for this model, or that make no sense."""
    limits = {"context_tokens": MAX_CONTEXT, "batch_tokens": MAX_BATCH, "ubatch_tokens": MAX_BATCH}
    for name, high in limits.items():
        value = getattr(settings, name)
        if not 1 <= value <= high:
            raise EdgekitError(f"`{name}` must lie between 1 and {high}: `{value}`")
    if settings.output_rows < 0:
        raise EdgekitError(f"`output_rows` must not be negative: `{settings.output_rows}`")
    if settings.kv_type == "f16":
        return
    if settings.flash_attention == "off":
        raise EdgekitError(
            f"a quantized KV cache needs flash attention: `{settings.kv_type}`",
            hint="leave flash attention on `auto`, or use a KV cache of type `f16`",
        )
    if header.key_dim % 32 or header.value_dim % 32:
        raise EdgekitError(
            f"heads of {header.key_dim} values do not divide into blocks of a KV cache of type `{settings.kv_type}`",
            hint="use a KV cache of type `f16`",
        )


def _weights(header: Header, settings: Settings, isa: str) -> _Weights:
    features = features_of(isa)
    stored = repacked = read = idle = 0
    for tensor in header.tensors:
        stored += tensor.size_bytes
        is_table = tensor.name == "token_embd.weight"
        is_matrix = tensor.name.endswith(".weight") and (not is_table or header.tied_embedding)
        copy = repacked_bytes(tensor, features, expert=_is_expert(tensor)) if settings.repack and is_matrix else 0
        repacked += copy
        if is_table and (copy or not header.tied_embedding):
            # looked up as stored; its repacked copy, if any, is the output matrix
            idle += tensor.size_bytes
        elif not copy:
            read += tensor.size_bytes
    return _Weights(stored, repacked, read, idle)


def _is_expert(tensor: TensorInfo) -> bool:
    return tensor.name.endswith("_exps.weight")


def _cells(header: Header, settings: Settings) -> tuple[int, int]:
    """KV cells of a full-attention layer and of a sliding-window layer (`llama_kv_cache_iswa`), padded to 256."""
    full = _pad(settings.context_tokens)
    window = max(header.sliding_window, default=0)
    return full, _pad(min(full, window + _ubatch(settings))) if window else 0


def _ubatch(settings: Settings) -> int:
    return min(settings.context_tokens, settings.batch_tokens, settings.ubatch_tokens)


def _pad(tokens: int) -> int:
    return -(-tokens // 256) * 256


def _row_bytes(kind: str, values: int) -> int:
    block, size = BLOCK[kind]
    return values // block * size


def _compute(header: Header, settings: Settings) -> tuple[int, int]:
    """Bytes of the compute buffer that generation touches, and that llama.cpp reserves.

    Reserved is the larger of a layer's peak and the logits of all output rows; with one row asked the logits part
    stays untouched. Floats per token, from the buffer sizes llama.cpp logs over shapes, contexts and ubatches.
    """
    ubatch = _ubatch(settings)
    hidden, ffn = header.hidden, max(header.ffn)
    query = max(header.heads) * header.key_dim
    kv = max(header.kv_heads) * (header.key_dim + header.value_dim)
    full, window = _cells(header, settings)
    flash = settings.flash_attention != "off"  # `auto` is on for the CPU
    mask = (full + window) / (2 if flash else 1)  # f16, else f32
    scores = 0 if flash else max(header.heads) * full
    attention = 3 * hidden + 2 * query + kv + scores
    feed_forward = (3 * ffn + 4 * hidden) if not header.experts else _expert_floats(header)
    layer = 4 * ubatch * (mask + max(attention, feed_forward))
    rows = min(ubatch, settings.output_rows or ubatch)
    logits = 4 * (rows * header.vocabulary + ubatch * (2 * hidden + mask))
    # ggml's work buffer: activations quantized for the kernels (q8_K: 292 bytes per 256 values)
    work = ubatch * max(ffn, query) * 292 / 256
    return int(layer + work), int(max(layer, logits) + work)


def _expert_floats(header: Header) -> float:
    return header.experts_used * (3 * max(header.ffn) + header.hidden) + 4 * header.hidden + 3 * header.experts


def _estimate(value: int, isa: str) -> Estimate:
    half = value * RELATIVE_ERROR + ABSOLUTE_ERROR_BYTES
    if not isa.startswith("x86_64"):
        half *= UNCHECKED_WIDENING
    return Estimate(value=value, low=max(value - half, 0), high=value + half, basis="predicted")
