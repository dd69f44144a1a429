"""What settings cost the user against others, in words: nothing that was given up is left out."""

from __future__ import annotations

from edgekit.records import Estimate, Figure, Settings, Unknown
from edgekit.units import format_percent


def costs_of(settings: Settings, default: Settings, prefill: Figure, kv_kld: Figure) -> tuple[str, ...]:
    """One line for every change that may be felt. `prefill` is settings ÷ default, `kv_kld` the mean KL divergence in
    nats that the smaller cache alone brings.
    """
    found = [
        (settings.context_tokens != default.context_tokens, _context(settings, default)),
        (settings.kv_type != "f16", _kv(settings, kv_kld)),
        (settings.ubatch_tokens != default.ubatch_tokens, f"ubatch {settings.ubatch_tokens}: {_prefill(prefill)}"),
        (
            settings.output_rows not in (0, default.output_rows),
            _rows(settings),
        ),
        (
            default.mmap and not settings.mmap,
            "no mmap: the weights are read in at every start and the OS cannot drop them under pressure",
        ),
        (
            settings.mmap and not default.mmap,
            "mmap: pages of the weights may be dropped under pressure and are read again from disk",
        ),
        (default.repack and not settings.repack, "no repacking: the kernels of another layout run"),
        (
            settings.flash_attention == "off" and default.flash_attention != "off",
            "no flash attention: memory and time of long contexts grow, and a quantized cache is refused",
        ),
    ]
    return tuple(words for changed, words in found if changed)


def _context(settings: Settings, default: Settings) -> str:
    return (
        f"a context of {settings.context_tokens} tokens instead of {default.context_tokens}: another product, as the "
        "one asked for does not fit"
    )


def _rows(settings: Settings) -> str:
    return (
        f"logits for {settings.output_rows} position an evaluation: enough for chat; scoring a text, drafts and "
        "parallel slots need more"
    )


def _kv(settings: Settings, kld: Figure) -> str:
    if isinstance(kld, Unknown):
        return f"a {settings.kv_type} KV cache changes the answers; by how much is unknown: {kld.reason}; {kld.settle}"
    return (
        f"a {settings.kv_type} KV cache changes the answers: KLD {kld.value:.2g} nat a token ({kld.low:.2g} – "
        f"{kld.high:.2g}, {kld.basis}) against the same file with an f16 cache"
    )


def _prefill(ratio: Figure) -> str:
    if not isinstance(ratio, Estimate):
        return f"prompts may take longer; by how much is unknown: {ratio.reason}"
    low, value, high = (format_percent(one - 1, signed=True) for one in (ratio.low, ratio.value, ratio.high))
    return f"prefill {value} ({low} – {high}, {ratio.basis})"
