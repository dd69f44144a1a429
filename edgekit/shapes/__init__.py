"""Reference students and their stand-ins: exact shapes, random weights (design §7).

`load_shape` gives the dimensions, `plan_tensors` what llama-quantize would make of them, `write_stand_in` a GGUF file
that has their true memory and speed and no quality at all.
"""

from __future__ import annotations

from edgekit.shapes.mix import QUANTS, plan_header, plan_tensors
from edgekit.shapes.shape import SHAPES, Shape, load_shape, shape_of
from edgekit.shapes.stand_in import cached_stand_in, planned_bytes, write_stand_in

__all__ = [
    "QUANTS",
    "SHAPES",
    "Shape",
    "cached_stand_in",
    "load_shape",
    "plan_header",
    "plan_tensors",
    "planned_bytes",
    "shape_of",
    "write_stand_in",
]
