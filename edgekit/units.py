"""Formatting of SI values for people; nothing here computes or decides."""

from __future__ import annotations


def format_bytes(size_bytes: float) -> str:
    """Decimal units, as spec targets are stated: 1.2e9 → `1.20 GB`."""
    for limit, unit, digits in ((1e9, "GB", 2), (1e6, "MB", 0), (1e3, "kB", 0)):
        if abs(size_bytes) >= limit:
            return f"{size_bytes / limit:.{digits}f} {unit}"
    return f"{size_bytes:.0f} B"


def format_rate(tokens_per_s: float) -> str:
    """`48.3 tok/s`; three significant digits below a hundred."""
    digits = 0 if tokens_per_s >= 100 else 1 if tokens_per_s >= 10 else 2
    return f"{tokens_per_s:.{digits}f} tok/s"


def format_duration(seconds: float) -> str:
    """`3.2 ms`, `4.1 s`, `2 min 05 s`, `3.4 h`."""
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{seconds / 3600:.1f} h"


def format_percent(fraction: float, *, signed: bool = False) -> str:
    """0.123 → `12 %`; below ten percent one digit is kept."""
    sign = "+" if signed else ""
    percent = fraction * 100
    return f"{percent:{sign}.{1 if abs(percent) < 10 else 0}f} %"


def format_number(value: float, unit: str) -> str:
    """A value in the unit of a metric: `bytes`, `tok/s`, `s`, `h`, `fraction`, or the plain unit behind the number."""
    if unit == "bytes":
        return format_bytes(value)
    if unit == "tok/s":
        return format_rate(value)
    if unit == "s":
        return format_duration(value)
    if unit == "fraction":
        return format_percent(value)
    if unit:
        return f"{value:.3g} {unit}"
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.4g}"  # a perplexity is not 1.52e+05
