"""What an export may be asked for, and why some things are not offered."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from edgekit.errors import EdgekitError
from edgekit.quantize.onnx.blocks import METHODS

Precision = Literal["fp32", "int8", "int8-dynamic", "int4"]
Exporter = Literal["genai", "dynamo", "optimum"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
EXPORTERS: tuple[str, ...] = get_args(Exporter)
BLOCK_SIZES = (16, 32, 64, 128)

NOT_OFFERED = {
    "hqq": "its float zero points decode ten times slower in onnxruntime",
    "gptq": "onnxruntime's was worse than plain rounding (KLD 2.8e-4 against 6.4e-5)",
    "k_quant": "`search` does as well without its zero points",
}
"""Weight-only methods that were tried and why each is left out (measured in `benchmarks/LOG.md`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How weights are rounded and with what. `block_size` weights share a scale; `threads = 0` means every core."""

    block_size: int = 32
    method: str = "search"
    threads: int = 0
    python: str = ""
    """For `optimum`: the interpreter of the environment that has it; empty for `$EDGEKIT_OPTIMUM_PYTHON`, else this."""


def optimum_python(options: Options) -> str:
    """The interpreter that runs optimum; empty for this one."""
    return options.python or os.environ.get("EDGEKIT_OPTIMUM_PYTHON", "")


def check_choices(precision: str, exporter: str, options: Options) -> None:
    """Raise EdgekitError for a name or number that is not offered, listing those that are."""
    _check("ONNX precision", precision, PRECISIONS)
    _check("ONNX exporter", exporter, EXPORTERS)
    if options.method in NOT_OFFERED:
        raise EdgekitError(
            f"the method is not offered, {NOT_OFFERED[options.method]}: `{options.method}`",
            hint=f"choose one of {_listed(METHODS)}",
        )
    _check("quantization method", options.method, METHODS)
    _check("block size", options.block_size, BLOCK_SIZES)


def _check(what: str, value: object, known: Iterable[object]) -> None:
    if value not in known:
        raise EdgekitError(f"unknown {what}: `{value}`", hint=f"choose one of {_listed(known)}")


def _listed(known: Iterable[object]) -> str:
    return ", ".join(f"`{value}`" for value in known)
