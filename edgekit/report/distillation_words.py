"""How many tokens, weights and operations, in letters that people read."""

from __future__ import annotations

from edgekit.records import Estimate, Figure

_SCALES = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_COUNTS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def flops_text(figure: Figure) -> str:
    """`1.20 P (1.15–1.31)`, for a table whose head says FLOP."""
    if not isinstance(figure, Estimate):
        return "unknown"
    scale, letter = next((one for one in _SCALES if figure.value >= one[0]), (1.0, ""))
    span = "" if figure.low == figure.high else f" ({figure.low / scale:.3g}–{figure.high / scale:.3g})"
    return f"{figure.value / scale:.3g} {letter}".rstrip() + span


def count_text(count: float) -> str:
    """`6.18 M`: how many, to three digits."""
    scale, letter = next((one for one in _COUNTS if count >= one[0]), (1.0, ""))
    return f"{count / scale:.3g} {letter}" if letter else f"{count:.0f}"
