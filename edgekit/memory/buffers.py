"""Sizes of the buffers llama.cpp's CPU backend fills besides the weights: KV cache and compute buffer.

From llama.cpp 0c1e57098: `src/llama-kv-cache.cpp`, `src/llama-kv-cache-iswa.cpp`, `src/llama-context.cpp`; the compute
formula was read off the buffer sizes it logs, and is checked against them in `tests/test_memory.py`.
"""

from __future__ import annotations

from edgekit.errors import EdgekitError
from edgekit.header.ggml import BLOCK
from edgekit.records import Header, Settings

MAX_CONTEXT, MAX_BATCH = 2**24, 2**20


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


def kv_bytes(header: Header, settings: Settings) -> int:
    """Size of the KV cache: every layer holds the padded context, sliding-window layers window + ubatch."""
    full, window = _cells(header, settings)
    total = 0
    for layer, kv_heads in enumerate(header.kv_heads):
        cells = window if header.sliding_window and header.sliding_window[layer] else full
        total += cells * sum(_row_bytes(settings.kv_type, kv_heads * dim) for dim in (header.key_dim, header.value_dim))
    return total


def _cells(header: Header, settings: Settings) -> tuple[int, int]:
    """KV cells of a full-attention layer and of a sliding-window layer (`llama_kv_cache_iswa`), padded to 256."""
    full = _pad(settings.context_tokens)
    window = max(header.sliding_window, default=0)
    return full, _pad(min(full, window + ubatch_tokens(settings))) if window else 0


def ubatch_tokens(settings: Settings) -> int:
    return min(settings.context_tokens, settings.batch_tokens, settings.ubatch_tokens)


def _pad(tokens: int) -> int:
    return -(-tokens // 256) * 256


def _row_bytes(kind: str, values: int) -> int:
    block, size = BLOCK[kind]
    return values // block * size


def compute_bytes(header: Header, settings: Settings) -> tuple[int, int]:
    """Bytes of the compute buffer that generation touches, and that llama.cpp reserves.

    Reserved is the larger of a layer's peak and the logits of all output rows; with one row asked the logits part
    stays untouched. Floats per token, from the buffer sizes llama.cpp logs over shapes, contexts and ubatches.
    """
    ubatch = ubatch_tokens(settings)
    hidden, ffn = header.hidden, max(header.ffn)
    query = max(header.heads) * header.key_dim
    kv = max(header.kv_heads) * (header.key_dim + header.value_dim)
    full, window = _cells(header, settings)
    flash = settings.flash_attention != "off"  # `auto` is on for the CPU
    # one mask in f16, else f32; a model with sliding windows holds two at times
    mask = full * (2 if window else 1) / (2 if flash else 1)
    scores = 0 if flash else max(header.heads) * full
    attention = 3 * hidden + 2 * query + kv + scores
    feed_forward = (3 * ffn + 4 * hidden) if not header.experts else _expert_floats(header)
    layer = 4 * ubatch * (mask + max(attention, feed_forward))
    rows = min(ubatch, settings.output_rows or ubatch)
    logits = 4 * (rows * header.vocabulary + ubatch * 2 * hidden)
    # ggml's work buffer: activations quantized for the kernels (q8_K: 292 bytes per 256 values), or the scores in f16
    work = ubatch * max(max(ffn, query) * 292 / 256, scores * 2)
    return int(layer + work), int(max(layer, logits) + work)


def _expert_floats(header: Header) -> float:
    return header.experts_used * (3 * max(header.ffn) + header.hidden) + 4 * header.hidden + 3 * header.experts
