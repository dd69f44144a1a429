"""What an artifact can be made into: `gguf:q4_k_m`, `onnx:int4`."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from edgekit.errors import EdgekitError
from edgekit.quantize.ggml_types import FILE_TYPES, PLAIN
from edgekit.quantize.onnx.options import PRECISIONS

TARGETS: dict[str, tuple[str, ...]] = {"gguf": tuple(FILE_TYPES), "onnx": PRECISIONS}
"""Format → its types, as `--to FORMAT:TYPE` takes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A format and one of its types."""

    format: Literal["gguf", "onnx"]
    type: str

    def __str__(self) -> str:
        return f"{self.format}:{self.type}"

    @property
    def plain(self) -> bool:
        """A GGUF of floats: converted and not quantized."""
        return self.format == "gguf" and self.type in PLAIN


def parse_target(text: str) -> Target:
    """The target written as `FORMAT:TYPE`, in any case. Raises EdgekitError with the nearest and all known ones."""
    form, _, kind = text.strip().lower().partition(":")
    if form in TARGETS and kind in TARGETS[form]:
        return Target(format="gguf" if form == "gguf" else "onnx", type=kind)
    known = [f"{name}:{one}" for name, kinds in TARGETS.items() for one in kinds]
    near = get_close_matches(f"{form}:{kind}" if kind else f"gguf:{form}", known, n=1, cutoff=0.6)
    nearest = f"did you mean `{near[0]}`? " if near else ""
    raise EdgekitError(f"unknown target: `{text[:40]}`", hint=f"{nearest}known targets: {', '.join(known)}")
