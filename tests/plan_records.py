"""Synthetic but realistic quantization plans for the tests of their reports."""

from __future__ import annotations

import math
from dataclasses import replace

from report_records import around

from edgekit.header.ggml import BLOCK
from edgekit.records import Budget, Estimate, ParetoPoint, PlannedOn, PlannedTensor, QuantPlan, Unknown

LAYERS = 28
KINDS = {
    "attn_q": 1536 * 1536,
    "attn_k": 1536 * 256,
    "attn_v": 1536 * 256,
    "attn_output": 1536 * 1536,
    "ffn_gate": 1536 * 8960,
    "ffn_up": 1536 * 8960,
    "ffn_down": 8960 * 1536,
}
COARSE_TO_FINE = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0")


def tensor(name: str, kind: str, weights: int, need: float) -> PlannedTensor:
    values, size_bytes = BLOCK[kind]
    bits = 8 * size_bytes / values
    return PlannedTensor(
        name=name, type=kind, size_bytes=weights * size_bytes // values, kld=1e-3 * need * math.exp(-1.2 * (bits - 3))
    )


def tensors(level: float) -> tuple[PlannedTensor, ...]:
    """Types around `level` (an index of `COARSE_TO_FINE`), finer at the ends and for values and down projections."""
    found = []
    for layer in range(LAYERS):
        ends = 1.0 if layer < 3 or layer > LAYERS - 4 else 0.0
        for kind, weights in KINDS.items():
            need = ends + (1.2 if kind in ("attn_v", "ffn_down") else 0.0) + ((layer * 7 + len(kind)) % 5) / 5
            index = max(0, min(len(COARSE_TO_FINE) - 1, round(level + need - 0.9)))
            found.append(tensor(f"blk.{layer}.{kind}.weight", COARSE_TO_FINE[index], weights, 0.1 + need))
    kind = COARSE_TO_FINE[max(0, min(5, round(level + 1)))]
    return (tensor("token_embd.weight", kind, 1536 * 151_936, 2.0), *found)


def plan(level: float = 2.0, *, device: bool = True) -> QuantPlan:
    chosen = tensors(level)
    size_bytes = sum(one.size_bytes for one in chosen) + 400_000
    weights = LAYERS * sum(KINDS.values()) + 1536 * 151_936 + 90_000
    kld = sum(one.kld for one in chosen)
    memory = size_bytes + 210e6
    on = tuple(
        PlannedOn(
            device=name,
            memory=Estimate(value=memory, low=memory * 0.97, high=memory * 1.03, basis="predicted"),
            limit_bytes=1.2e9,
            decode=around(speed * 9e8 / size_bytes, 1.15),
        )
        for name, speed in (("galaxy-s25", 34.0), ("oneplus-13", 44.0))
    )
    return QuantPlan(
        source_sha256="5c" * 32,
        imatrix_sha256="1a" * 32,
        text_sha256="7e" * 32,
        budget=Budget(memory_bytes=1.2e9) if device else Budget(bits_per_weight=4.5),
        device="smartphone" if device else "",
        min_decode=30.0 if device else 0.0,
        tensors=chosen,
        size_bytes=size_bytes,
        bits_per_weight=size_bytes * 8 / weights,
        kld=Estimate(
            value=kld, low=kld * 0.9, high=kld * 1.12, basis="measured-here", note="sum of the tensors' parts"
        ),
        kld_joint=Estimate(value=kld * 1.1, low=kld, high=kld * 1.2, basis="measured-here"),
        on=on if device else (),
        binding="memory" if device else "bits",
        used=0.9973,
        reason="no single upgrade fits",
    )


def front(*, device: bool = True) -> tuple[ParetoPoint, ...]:
    levels = [0.0, 0.5, 1.0, 1.4, 1.7, 2.0, 2.4, 3.0, 3.5, 4.0]
    return tuple(
        ParetoPoint(label=f"{one.size_bytes / 1e9:.2f} GB", plan=one)
        for one in (plan(at, device=device) for at in levels)
    )


def replayed() -> QuantPlan:
    """Read from a plan.toml: sizes are known, nothing was measured."""
    base = plan()
    unknown = Unknown(reason="the plan was read from a file", settle="run `edgekit evaluate` on what comes out")
    bare = tuple(replace(one, kld=0.0) for one in base.tensors)
    return replace(base, tensors=bare, kld=unknown, kld_joint=unknown, on=(), binding="", used=0.0, reason="")


def hostile_plan(text: str) -> QuantPlan:
    base = plan()
    strange = (
        replace(base.tensors[0], name=text, type=text),
        replace(base.tensors[1], name=f"blk.3.{text}.weight"),
        replace(base.tensors[2], name=f"blk.99999.{text}"),
    )
    on = tuple(replace(one, device=text, decode=Unknown(reason=text, settle=text)) for one in base.on)
    return replace(
        base,
        tensors=(*strange, *base.tensors[3:40]),
        device=text,
        on=on,
        reason=text,
        kld_joint=Unknown(reason=text, settle=text),
        source_sha256=text,
        imatrix_sha256=text,
        text_sha256=text,
    )


PLANS = {
    "device": lambda: (plan(), front()),
    "bits": lambda: (plan(1.5, device=False), ()),
    "replayed": lambda: (replayed(), ()),
}
