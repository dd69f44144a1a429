"""What a quantization plan says, as rows for every format: tensors by kind and type, the budget, the front."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.header.ggml import BLOCK
from edgekit.records import Estimate, Figure, ParetoPoint, PlannedOn, PlannedTensor, QuantPlan, Unknown
from edgekit.report.words import Fact, clean, figure_text
from edgekit.units import format_bytes, format_percent, format_rate

_BLOCK_TENSOR = re.compile(r"blk\.(\d{1,5})\.(.+)")
BINDING = {
    "memory": "memory at run time",
    "file": "file size",
    "bits": "bits per weight",
    "speed": "decode speed",
    "types": "the types on offer",
    "": "nothing",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The tensors of one kind (`ffn_down`) that take one type. `share` is their part of the plan's summed KLD; `None`
    where that is not known.
    """

    kind: str
    type: str
    count: int
    layers: str
    size_bytes: int
    bits: float | None
    share: float | None

    @property
    def bits_text(self) -> str:
        return "unknown" if self.bits is None else f"{self.bits:.4g}"

    @property
    def share_text(self) -> str:
        return "unknown" if self.share is None else format_percent(self.share)


def groups(plan: QuantPlan) -> tuple[Group, ...]:
    """A row for each kind and type: kinds by their bytes, largest first, the types of a kind from coarse to fine."""
    found: dict[tuple[str, str], list[PlannedTensor]] = {}
    weight: dict[str, int] = {}
    for tensor in plan.tensors:
        kind = kind_of(tensor.name)
        found.setdefault((kind, tensor.type), []).append(tensor)
        weight[kind] = weight.get(kind, 0) + tensor.size_bytes
    total = sum(tensor.kld for tensor in plan.tensors) if isinstance(plan.kld, Estimate) else 0.0
    rows = [_group(kind, name, tensors, total) for (kind, name), tensors in found.items()]
    return tuple(sorted(rows, key=lambda row: (-weight[row.kind], row.kind, row.bits or 0.0, row.type)))


def _group(kind: str, name: str, tensors: Sequence[PlannedTensor], total: float) -> Group:
    return Group(
        kind=kind,
        type=clean(name, 24),
        count=len(tensors),
        layers=layers_text([layer for tensor in tensors if (layer := layer_of(tensor.name)) is not None]),
        size_bytes=sum(tensor.size_bytes for tensor in tensors),
        bits=bits_of(name),
        share=sum(tensor.kld for tensor in tensors) / total if total > 0 else None,
    )


def kind_of(name: str) -> str:
    """`blk.7.ffn_down.weight` → `ffn_down`, `token_embd.weight` → `token_embd`."""
    found = _BLOCK_TENSOR.fullmatch(name)
    return clean((found[2] if found else name).removesuffix(".weight"), 40)


def layer_of(name: str) -> int | None:
    """The layer a tensor belongs to, `None` outside of them."""
    found = _BLOCK_TENSOR.fullmatch(name)
    return int(found[1]) if found else None


def bits_of(type_name: str) -> float | None:
    """Bits per weight of a ggml type; `None` for a name that ggml does not know."""
    values, size_bytes = BLOCK.get(type_name, (0, 0))
    return 8 * size_bytes / values if values else None


def layers_text(layers: Sequence[int]) -> str:
    """`0–3, 7, 24–27`."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in runs)


def layers_short(row: Group) -> str:
    """The same where it is short, else how many between the first and the last."""
    if len(row.layers) <= 22:
        return row.layers
    first, last = re.match(r"\d+", row.layers), re.search(r"\d+$", row.layers)
    return f"{row.count} from {first[0] if first else ''} to {last[0] if last else ''}"


# ---- what it comes to ---------------------------------------------------------------------------------------------


def headline(plan: QuantPlan) -> str:
    """Bits and quality in a sentence."""
    kld = plan.kld_joint if isinstance(plan.kld_joint, Estimate) else plan.kld
    how = "measured as a whole" if kld is plan.kld_joint else "summed over its tensors"
    said = f"KLD {figure_text(kld, 'nat')}, {how}" if isinstance(kld, Estimate) else "KLD unknown"
    return f"{plan.bits_per_weight:.3f} bits per weight, {said}"


def budget_text(plan: QuantPlan) -> str:
    """The limits that were asked for."""
    budget = plan.budget
    limits = (
        f"memory at run time ≤ {format_bytes(budget.memory_bytes)}" if budget.memory_bytes is not None else "",
        f"file ≤ {format_bytes(budget.file_bytes)}" if budget.file_bytes is not None else "",
        f"≤ {budget.bits_per_weight:g} bits per weight" if budget.bits_per_weight is not None else "",
        f"decode ≥ {format_rate(plan.min_decode)}" if plan.min_decode else "",
        f"what `{clean(plan.device, 60)}` may hold" if plan.device and budget.memory_bytes is None else "",
    )
    return ", ".join(limit for limit in limits if limit) or "none"


def binding_text(plan: QuantPlan) -> str:
    """What stops the plan from being better, and how much of that limit it uses."""
    if not plan.binding:
        return clean(plan.reason)
    used = f", {plan.used * 100:.1f} % of it used" if plan.used else ""
    return f"{BINDING[plan.binding]}{used}" + (f": {clean(plan.reason)}" if plan.reason else "")


def facts(plan: QuantPlan) -> tuple[Fact, ...]:
    """The plan's figures and what it rests on; nothing empty."""
    rows = (
        ("size", f"{format_bytes(plan.size_bytes)}, {plan.bits_per_weight:.3f} bits per weight over all tensors"),
        ("KLD, sum of the parts", _figure(plan.kld)),
        ("KLD, measured as a whole", _figure(plan.kld_joint)),
        ("budget", budget_text(plan)),
        ("what binds", binding_text(plan)),
        *((f"on {clean(one.device, 60)}", on_text(one)) for one in plan.on),
        ("source", _digest(plan.source_sha256)),
        ("importance matrix", _digest(plan.imatrix_sha256) or "none"),
        ("text", _digest(plan.text_sha256)),
    )
    return tuple(Fact(label=label, value=clean(value)) for label, value in rows if value)


def _figure(figure: Figure) -> str:
    if isinstance(figure, Unknown):
        return f"unknown: {figure.reason}" + (f"; {figure.settle}" if figure.settle else "")
    return figure_text(figure, "nat") + (f"; {figure.note}" if figure.note else "")


def _digest(sha256: str) -> str:
    return f"sha256 {sha256[:16]}" if sha256 else ""


def on_text(one: PlannedOn) -> str:
    """Memory against the limit, and decode speed."""
    decode = figure_text(one.decode, "tok/s") if isinstance(one.decode, Estimate) else f"unknown ({one.decode.reason})"
    return f"memory {figure_text(one.memory, 'bytes')} of {format_bytes(one.limit_bytes)}, decode {decode}"


# ---- the front ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A point of the front. On several devices the memory and the speed of the one that is worst off."""

    label: str
    size_bytes: int
    bits_per_weight: float
    kld: Figure
    memory: Figure
    decode: Figure
    chosen: bool = False


def steps(plan: QuantPlan, front: Sequence[ParetoPoint]) -> tuple[Step, ...]:
    """The front by rising size, the plan itself among it."""
    points = [
        _step(clean(point.label, 40), plan, chosen=True)
        if _same(point.plan, plan)
        else _step(clean(point.label, 40), point.plan, chosen=False)
        for point in front
    ]
    if front and not any(step.chosen for step in points):
        points.append(_step("this plan", plan, chosen=True))
    return tuple(sorted(points, key=lambda step: (step.size_bytes, not step.chosen)))


def front_steps(front: Sequence[ParetoPoint]) -> tuple[Step, ...]:
    """The front alone, by rising size."""
    points = (_step(clean(point.label, 40), point.plan, chosen=False) for point in front)
    return tuple(sorted(points, key=lambda step: step.size_bytes))


def _same(one: QuantPlan, other: QuantPlan) -> bool:
    return [(t.name, t.type) for t in one.tensors] == [(t.name, t.type) for t in other.tensors]


def _step(label: str, plan: QuantPlan, *, chosen: bool) -> Step:
    nothing = Unknown(reason="no device was named")
    memory = max((one.memory for one in plan.on), key=lambda figure: figure.high, default=nothing)
    unknown = next((one.decode for one in plan.on if isinstance(one.decode, Unknown)), nothing)
    speeds = [one.decode for one in plan.on if isinstance(one.decode, Estimate)]
    slowest = min(speeds, key=lambda figure: figure.low) if len(speeds) == len(plan.on) and speeds else unknown
    return Step(
        label=label,
        size_bytes=plan.size_bytes,
        bits_per_weight=plan.bits_per_weight,
        kld=plan.kld,
        memory=memory,
        decode=slowest,
        chosen=chosen,
    )
