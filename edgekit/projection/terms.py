"""Headers and anchors in the fitted model's terms: bytes a token streams, weights a prompt token meets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.header.ggml import BLOCK
from edgekit.memory import streamed_bytes
from edgekit.projection import calibration, typemix
from edgekit.projection.calibration import Point
from edgekit.records import Anchor, Device, Header, Settings, TensorInfo

MIN_PROMPT = 64
"""Anchors with a shorter prompt time the start of a batch, not prefill."""

LOOKED_UP = ("token_embd.weight", "output.weight")
"""Tensors that prefill does not multiply by every prompt token: rows are looked up, logits wanted for the last only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is asked for: bytes streamed per decoded token and weights met per prompt token, with the share of each
    type. `unmeasured` holds the byte share of every type that no published run has.
    """

    header: Header
    streamed: float
    streamed_shares: Mapping[str, float]
    body: float
    body_shares: Mapping[str, float]
    unmeasured: Mapping[str, float]
    family: str
    threads: int


def target_of(device: Device, header: Header, settings: Settings) -> Target:
    """The target's terms. Threads that the settings leave open are the cores of the big clusters."""
    by_type = dict(streamed_bytes(header))
    body: dict[str, float] = {}
    for tensor in header.tensors:
        if len(tensor.shape) >= 2 and tensor.name not in LOOKED_UP:
            body[tensor.type] = body.get(tensor.type, 0.0) + _weights_met(tensor, header)
    return Target(
        header=header,
        streamed=float(sum(by_type.values())),
        streamed_shares=_known_shares(by_type),
        body=sum(body.values()),
        body_shares=_known_shares(body),
        unmeasured={kind: share for kind, share in _shares(by_type).items() if calibration.kind_of(kind) is None},
        family=kernel_family(device),
        threads=settings.threads or sum(cluster.cores for cluster in device.clusters if cluster.big),
    )


def kernel_family(device: Device) -> str:
    """Which of the fitted families the device's cores belong to (`phone`, `sbc`, `apple`, `x86`)."""
    if device.isa.startswith("x86"):
        return "x86"
    if "apple" in device.soc.lower() or device.os.lower().startswith(("ios", "ipados", "macos")):
        return "apple"
    return "sbc" if device.device_class == "sbc" else "phone"


def _weights_met(tensor: TensorInfo, header: Header) -> float:
    weights = float(math.prod(tensor.shape))
    routed = header.experts and len(tensor.shape) == 3 and tensor.shape[2] == header.experts
    return weights * header.experts_used / header.experts if routed else weights


def _shares(amounts: Mapping[str, float]) -> dict[str, float]:
    total = sum(amounts.values())
    return {kind: amount / total for kind, amount in amounts.items()} if total else {}


def _known_shares(amounts: Mapping[str, float]) -> dict[str, float]:
    """Types that no run has count as f16 here; whether there is too much of them is `Target.unmeasured`'s to say."""
    shares: dict[str, float] = {}
    for kind, share in _shares(amounts).items():
        name = kind if calibration.kind_of(kind) else "f16"
        shares[name] = shares.get(name, 0.0) + share
    return shares


def kv_bytes(header: Header, depth: int, kv_type: str) -> float:
    """Bytes of keys and values that one token reads at `depth`, windows of sliding layers respected."""
    windows = header.sliding_window or (0,) * header.layers
    values, size_bytes = BLOCK[kv_type]
    per_value = size_bytes / values
    return sum(
        heads * (header.key_dim + header.value_dim) * per_value * (min(depth, window) if window else depth)
        for heads, window in zip(header.kv_heads, windows, strict=True)
    )


# ---- decode ---------------------------------------------------------------------------------------------------------


def decode_points(
    fitted: Mapping[str, Any], target: Target, anchors: Sequence[Anchor], reference_gbs: float
) -> tuple[list[Point], list[Point]]:
    """The anchors' decode runs, their depth taken off, and the run asked for, once in each group it may belong to."""
    points = []
    for anchor in anchors:
        assert anchor.decode_tokens_per_s is not None
        label, known = typemix.known_label(anchor.quant) or "", _layout(fitted, anchor)
        shares = (
            target.streamed_shares if _same_file(anchor, target) else typemix.byte_shares(label, _shape(known, anchor))
        )
        kv = 4.0 * known["layers"] * known["kv_heads"] * known["head_dim"] if known else 0.0
        depth = anchor.depth + anchor.generated_tokens / 2
        cached = fitted["depth"]["anchor_factor"] * kv * depth / anchor.bytes_per_token
        rate = anchor.bytes_per_token / 1e9 * anchor.decode_tokens_per_s * (1 + cached) / reference_gbs
        points.append(_point(calibration.features_of(shares, anchor.bytes_per_token / 1e9), anchor, rate))
    features = calibration.features_of(target.streamed_shares, target.streamed / 1e9)
    return points, _asked(fitted, features, target, anchors, points)


def prefill_points(
    fitted: Mapping[str, Any], target: Target, anchors: Sequence[Anchor]
) -> tuple[list[Point], list[Point]]:
    """The anchors' prefill runs and the run asked for, once in each group it may belong to."""
    points = []
    for anchor in anchors:
        assert anchor.prefill_tokens_per_s is not None
        label, shape = typemix.known_label(anchor.quant) or "", _shape(_layout(fitted, anchor), anchor)
        if _same_file(anchor, target):
            body, shares = target.body, target.body_shares
        else:
            body, shares = shape.body, typemix.body_shares(label, shape)
        rate = anchor.prefill_tokens_per_s * body / 1e9 / calibration.PREFILL_REFERENCE
        points.append(_point(calibration.features_of(shares, body / 1e9), anchor, rate))
    features = calibration.features_of(target.body_shares, target.body / 1e9)
    return points, _asked(fitted, features, target, anchors, points)


def _point(features: tuple[float, ...], anchor: Anchor, rate: float) -> Point:
    return Point(
        features=features,
        model=calibration.model_key(anchor.model),
        label=typemix.known_label(anchor.quant) or "",
        group=f"{anchor.runtime}, {anchor.threads} threads",
        log_rate=math.log(rate),
    )


def _asked(
    fitted: Mapping[str, Any],
    features: tuple[float, ...],
    target: Target,
    anchors: Sequence[Anchor],
    points: Sequence[Point],
) -> list[Point]:
    same = (p.model for p, anchor in zip(points, anchors, strict=True) if _same_model(fitted, anchor, target))
    model = next(same, "asked for")
    return [
        Point(features=features, model=model, label=target.header.quant, group=group)
        for group in _groups_for(target, points, anchors)
    ]


def _groups_for(target: Target, points: Sequence[Point], anchors: Sequence[Anchor]) -> list[str]:
    """The groups (runtime and threads) the target may run in: those with its thread count, else with an unstated one,
    else one of its own. Which of several builds will ship is not known, and the fastest is no better a guess.
    """
    wanted = (target.threads, 0) if target.threads else (None,)
    for threads in wanted:
        fits = [p for p, anchor in zip(points, anchors, strict=True) if threads is None or anchor.threads == threads]
        if fits:
            return sorted({point.group for point in fits})
    return ["asked for"]


def _layout(fitted: Mapping[str, Any], anchor: Anchor) -> Mapping[str, Any] | None:
    layout: Mapping[str, Any] | None = fitted["models"].get(anchor.model.lower())
    return layout


def _shape(known: Mapping[str, Any] | None, anchor: Anchor) -> typemix.Shape:
    """The shape of the anchor's model: by its name where the data know it, a typical one of its size otherwise."""
    if known:
        return typemix.shape_of(**known)
    bits = typemix.BITS[typemix.LABELS[typemix.known_label(anchor.quant) or "q4_0"].main]
    return typemix.generic_shape(anchor.parameters or 8 * anchor.bytes_per_token / bits)


def _same_file(anchor: Anchor, target: Target) -> bool:
    """Whether the anchor ran a file like the target's: the same label, and bytes per token within 1 %."""
    label = typemix.known_label(anchor.quant)
    return label == target.header.quant and abs(anchor.bytes_per_token / target.streamed - 1) < 0.01


def _same_model(fitted: Mapping[str, Any], anchor: Anchor, target: Target) -> bool:
    """Whether the anchor ran the target's shape, in whatever quantization."""
    if _same_file(anchor, target):
        return True
    known, header = _layout(fitted, anchor), target.header
    if known is None:
        return False
    anchored = tuple(known[name] for name in ("layers", "width", "vocabulary", "kv_heads"))
    return anchored == (header.layers, header.hidden, header.vocabulary, max(header.kv_heads))
