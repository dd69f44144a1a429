"""Which tensor types a quantization label stands for.

A published run says `Q4_K_M` and little else; speed depends on the types inside. A label is unfolded into the byte
share of each ggml type by llama-quantize's own rules (llama.cpp `src/llama-quant.cpp`, `llama_tensor_get_type_impl`
and `tensor_type_fallback`): the output matrix takes q6_k, half of the `ffn_down` and `attn_v` tensors take a larger
type, and rows that are not a multiple of 256 fall back to 32-blocks, which makes a gemma-3-1b "Q6_K" mostly q8_0.
"""

from __future__ import annotations

from dataclasses import dataclass

BITS: dict[str, float] = {
    "f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q6_k": 6.5625, "q5_k": 5.5, "q5_1": 6.0, "q5_0": 5.5,
    "q4_k": 4.5, "q4_1": 5.0, "q4_0": 4.5, "iq4_nl": 4.5, "iq4_xs": 4.25, "mxfp4": 4.25, "nvfp4": 4.5,
    "q3_k": 3.4375, "iq3_s": 3.4375, "iq3_xxs": 3.0625, "q2_k": 2.625, "iq2_s": 2.5625, "iq2_xs": 2.3125,
    "iq2_xxs": 2.0625, "iq1_m": 1.75, "iq1_s": 1.5625, "tq2_0": 2.0625, "tq1_0": 1.6875,
}  # fmt: skip
"""Bits per weight of ggml's block types (ggml-common.h), scales included."""

FALLBACK: dict[str, str] = {
    "q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "iq4_xs": "iq4_nl",
    "iq3_s": "iq4_nl", "iq3_xxs": "iq4_nl", "iq2_s": "iq4_nl", "iq2_xs": "iq4_nl", "iq2_xxs": "iq4_nl",
    "iq1_s": "iq4_nl", "iq1_m": "iq4_nl",
}  # fmt: skip
"""What a 256-block type becomes where the row length does not divide (llama-quant.cpp, tensor_type_fallback)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A label's recipe: the type of most tensors, and what llama-quantize gives the others. A share is the part of
    the layers that get the larger type.
    """

    main: str
    output: str = "q6_k"
    down: str = ""
    down_share: float = 0.0
    value: str = ""
    value_share: float = 0.0


LABELS: dict[str, Body] = {
    "f32": Body(main="f32", output="f32"),
    "f16": Body(main="f16", output="f16"),
    "bf16": Body(main="bf16", output="bf16"),
    "q8_0": Body(main="q8_0", output="q8_0"),
    "q6_k": Body(main="q6_k"),
    "q5_k_m": Body(main="q5_k", down="q6_k", down_share=0.5, value="q6_k", value_share=0.5),
    "q5_k_s": Body(main="q5_k"),
    "q5_k": Body(main="q5_k"),
    "q5_1": Body(main="q5_1"),
    "q5_0": Body(main="q5_0"),
    "q4_k_m": Body(main="q4_k", down="q6_k", down_share=0.5, value="q6_k", value_share=0.5),
    "q4_k_s": Body(main="q4_k", down="q5_k", down_share=0.125),
    "q4_k": Body(main="q4_k"),
    "q4_1": Body(main="q4_1"),
    "q4_0": Body(main="q4_0"),
    "iq4_nl": Body(main="iq4_nl", value="q5_k", value_share=1.0),
    "iq4_xs": Body(main="iq4_xs", value="q5_k", value_share=1.0),
    "mxfp4_moe": Body(main="mxfp4", output="q8_0"),
    "q3_k_l": Body(main="q3_k", down="q5_k", down_share=1.0, value="q5_k", value_share=1.0),
    "q3_k_m": Body(main="q3_k", down="q4_k", down_share=1.0, value="q4_k", value_share=1.0),
    "q3_k_s": Body(main="q3_k"),
    "q3_k": Body(main="q3_k"),
    "q2_k": Body(main="q2_k", down="q3_k", down_share=1.0, value="q4_k", value_share=1.0),
    "q2_k_s": Body(main="q2_k", value="q4_k", value_share=1.0),
    "iq3_m": Body(main="iq3_s", down="q4_k", down_share=0.125, value="q4_k", value_share=1.0),
    "iq3_s": Body(main="iq3_s", value="q4_k", value_share=1.0),
    "iq3_xs": Body(main="iq3_s", value="q4_k", value_share=1.0),
    "iq3_xxs": Body(main="iq3_xxs", output="q5_k", value="q4_k", value_share=1.0),
    "iq2_m": Body(main="iq2_s", output="q5_k", down="iq3_s", down_share=0.125, value="q4_k", value_share=1.0),
    "iq2_s": Body(main="iq2_xs", output="q5_k", down="iq3_s", down_share=0.125, value="q4_k", value_share=1.0),
    "iq2_xs": Body(main="iq2_xs", output="q5_k", down="q2_k", down_share=0.125, value="q4_k", value_share=1.0),
    "iq2_xxs": Body(main="iq2_xxs", output="q5_k", down="q2_k", down_share=0.125, value="q4_k", value_share=1.0),
    "iq1_m": Body(main="iq1_m", output="q5_k", value="q4_k", value_share=1.0),
    "iq1_s": Body(main="iq1_s", output="q5_k", value="q4_k", value_share=1.0),
}

ALIASES: dict[str, str] = {
    "q4_k - medium": "q4_k_m", "q5_k - medium": "q5_k_m", "q3_k - medium": "q3_k_m", "q4_k - small": "q4_k_s",
    "q4_0_8_8": "q4_0", "q4_0_4_4": "q4_0", "q4_0_4_8": "q4_0", "fp16": "f16",
}  # fmt: skip
"""Other spellings of a label, lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The little of a model's shape that decides the mix, in weights; `width` is the row length outside `ffn_down`."""

    output: float
    body: float
    down: float
    value: float
    width: int


def generic_shape(parameters: float) -> Shape:
    """A student of 1–3 B, for runs that name no shape: what part of the weights lies where."""
    return Shape(
        output=0.12 * parameters,
        body=0.88 * parameters,
        down=0.26 * parameters,
        value=0.025 * parameters,
        width=2048,
    )


def known_label(label: str) -> str | None:
    """The canonical label (`q4_k_m`) of any spelling, or None for one that llama.cpp does not have."""
    plain = ALIASES.get(label.strip().lower(), label.strip().lower())
    return plain if plain in LABELS else None


def shape_of(
    *, parameters: float, layers: int, width: int, kv_heads: int, heads: int, head_dim: int, vocabulary: int, tied: bool
) -> Shape:
    """The mix-relevant shape of a dense transformer with three FFN matrices, its FFN width from what is left over."""
    output = float(vocabulary * width)
    attention = layers * width * head_dim * (2 * heads + 2 * kv_heads)
    ffn_total = max(parameters - output * (1 if tied else 2) - attention, 0.1 * parameters)
    return Shape(
        output=output,
        body=attention + ffn_total,
        down=ffn_total / 3,
        value=float(layers * width * head_dim * kv_heads),
        width=width,
    )


def byte_shares(label: str, shape: Shape) -> dict[str, float]:
    """The share of the bytes streamed per decoded token in each tensor type for a canonical `label`; sums to 1."""
    return _normal({kind: amount * BITS[kind] for kind, amount in _weights(label, shape, output=True).items()})


def body_shares(label: str, shape: Shape) -> dict[str, float]:
    """The share of the weights that every prompt token meets (all but the output matrix) in each type; sums to 1."""
    return _normal(_weights(label, shape, output=False))


def _weights(label: str, shape: Shape, *, output: bool) -> dict[str, float]:
    body = LABELS[label]
    down, value = shape.down * body.down_share, shape.value * body.value_share
    weights: dict[str, float] = {}

    def add(kind: str, amount: float, row: int = 256) -> None:
        final = FALLBACK.get(kind, kind) if row % 256 else kind
        weights[final] = weights.get(final, 0.0) + amount

    if output:
        whole_blocks = shape.width % 256 == 0 or BITS[body.output] >= 8
        add(body.output if whole_blocks else "q8_0", shape.output, shape.width)
    # FFN widths are multiples of 256 in every student we know of, hidden sizes are not
    add(body.down or body.main, down)
    add(body.main, shape.down - down)
    add(body.value or body.main, value, shape.width)
    add(body.main, shape.body - shape.down - value, shape.width)
    return {kind: amount for kind, amount in weights.items() if amount > 0}


def _normal(amounts: dict[str, float]) -> dict[str, float]:
    total = sum(amounts.values())
    return {kind: amount / total for kind, amount in amounts.items()}
