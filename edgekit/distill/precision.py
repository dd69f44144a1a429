"""In what precision a training multiplies: bfloat16 where the machine has it in hardware."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from edgekit.errors import import_extra

if TYPE_CHECKING:
    import torch


def bfloat16_is_native() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware: elsewhere torch emulates them and is slower than
    float32.
    """
    torch = import_extra("torch", extra="distill")
    # private, but there is no public question; torch uses them for its own dispatch
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))


def chosen(precision: str, device: torch.device) -> str:
    """`float32` or `bfloat16`: what `auto` is on this device, else the precision itself."""
    torch = import_extra("torch", extra="distill")
    if precision != "auto":
        return precision
    if device.type == "cpu":
        return "bfloat16" if bfloat16_is_native() else "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """What products are computed in inside of it; `precision` is one of `chosen`'s."""
    torch = import_extra("torch", extra="distill")
    context: AbstractContextManager[Any] = torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"
    )
    return context
