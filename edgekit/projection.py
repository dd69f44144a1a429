"""Speed of an artifact on a device that is not at hand, from the device's own published runs (design §5).

What is fitted and how is in `edgekit.calibration`; this module turns a header and a profile into its terms and the
answer into figures with a 90 % range. Whatever nobody has measured is refused with the command that would settle it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekit import calibration, typemix
from edgekit.anchors import is_usable
from edgekit.calibration import Point, Prior
from edgekit.errors import EdgekitError
from edgekit.memory import streamed_bytes
from edgekit.records import (
    Anchor,
    DepthPoint,
    Device,
    Estimate,
    Figure,
    Header,
    Projection,
    Settings,
    Sourced,
    Unknown,
    exact,
)

DEPTHS: tuple[int, ...] = (1024, 4096)
NEEDED_DEVICES = 5
"""Fewer devices behind a projection than this and it is called uncalibrated (design §5)."""

MINOR_SHARE = 0.02
"""Tensor types under this share of the bytes (norms, biases) cannot move the speed and count as f16."""

KV_BYTES: dict[str, float] = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes per cached value (ggml-common.h block sizes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is asked for: the bytes a token streams, in which types, on which kernel family with how many threads."""

    header: Header
    streamed: float
    shares: dict[str, float]
    family: str
    threads: int


def project_to(device: Device, header: Header, settings: Settings) -> Projection:
    """Decode, prefill, sustained and deep-context speed of `header`'s model on `device`, without running anything.

    Every figure is tokens/s with a 90 % range, or Unknown with the reason and what would settle it. `calibrated` is
    False with fewer than five devices behind the range.
    """
    by_type = streamed_bytes(header)
    streamed = float(sum(size_bytes for _, size_bytes in by_type))
    bound = _bandwidth_bound(device, streamed)
    refusal = _refusal(device, header, by_type)
    if refusal:
        return _refused(device, streamed, bound, refusal)
    target = Target(
        header=header,
        streamed=streamed,
        shares=_measured_shares(by_type, streamed),
        family=kernel_family(device),
        threads=settings.threads or sum(cluster.cores for cluster in device.clusters if cluster.big),
    )
    fitted = calibration.load_fitted()
    anchors = tuple(anchor for anchor in device.anchors if is_usable(anchor) and typemix.known_label(anchor.quant))
    decode = _decode(fitted, device, target, anchors, bound)
    behind = _devices_behind(fitted, target)
    calibrated = behind >= NEEDED_DEVICES
    return Projection(
        device=device.name,
        bytes_per_token=streamed,
        decode=decode,
        prefill=Unknown(reason="prefill is not projected", settle=_anchor_command(device)),
        sustained=_sustained(device, decode),
        depths=tuple(
            DepthPoint(depth=depth, tokens_per_s=_at_depth(fitted, target, settings, decode, depth)) for depth in DEPTHS
        ),
        bandwidth_bound=bound,
        method=_method(target, anchors, behind, calibrated),
        anchors=tuple(anchor.id for anchor in anchors),
        devices_behind=behind,
        calibrated=calibrated,
    )


def kernel_family(device: Device) -> str:
    """Which of the fitted families the device's cores belong to (`phone`, `sbc`, `apple`, `x86`)."""
    if device.isa.startswith("x86"):
        return "x86"
    if "apple" in device.soc.lower() or device.os.lower().startswith(("ios", "ipados", "macos")):
        return "apple"
    return "sbc" if device.device_class == "sbc" else "phone"


# ---- what is refused ------------------------------------------------------------------------------------------------


def _refusal(device: Device, header: Header, by_type: Sequence[tuple[str, int]]) -> Unknown | None:
    if not device.isa.startswith(("arm64", "x86_64")):
        return Unknown(
            reason=f"no published run has kernels for this instruction set: `{device.isa}`", settle="measure on it"
        )
    if header.format != "gguf":
        return Unknown(
            reason=f"no published CPU run behind this format: `{header.format}`", settle="measure on the device"
        )
    if any("per_layer_token_embd" in tensor.name for tensor in header.tensors):
        return Unknown(
            reason="models with per-layer embeddings do not follow the bytes they stream",
            settle=_anchor_command(device),
        )
    total = sum(size_bytes for _, size_bytes in by_type)
    for tensor_type, size_bytes in by_type:
        if calibration.kind_of(tensor_type) is None and size_bytes > MINOR_SHARE * total:
            return Unknown(
                reason=f"nobody has published a CPU run of this quantization: `{tensor_type}`",
                settle=f"run llama-bench on the device, then `{_anchor_command(device)}`, or choose q4_0, q4_k_m, q8_0",
            )
    return None


def _refused(device: Device, streamed: float, bound: Figure, why: Unknown) -> Projection:
    return Projection(
        device=device.name,
        bytes_per_token=streamed,
        decode=why,
        prefill=why,
        sustained=why,
        depths=tuple(DepthPoint(depth=depth, tokens_per_s=why) for depth in DEPTHS),
        bandwidth_bound=bound,
        method="refused",
    )


def _anchor_command(device: Device) -> str:
    return f"edgekit devices anchor {device.name} llama-bench.json"


# ---- figures --------------------------------------------------------------------------------------------------------


def _bandwidth_bound(device: Device, streamed: float) -> Figure:
    bandwidth = device.bandwidth_bytes_per_s
    if bandwidth is None:
        return Unknown(reason="the profile states no memory bandwidth", settle="add `bandwidth_bytes_per_s`")
    return exact(_top(bandwidth) / streamed, "predicted", note="theoretical bandwidth ÷ bytes per token")


def _top(figure: Sourced) -> float:
    return max(figure.value, figure.high or figure.value)


def _measured_shares(by_type: Sequence[tuple[str, int]], streamed: float) -> dict[str, float]:
    shares: dict[str, float] = {}
    for tensor_type, size_bytes in by_type:
        name = tensor_type if calibration.kind_of(tensor_type) else "f16"
        shares[name] = shares.get(name, 0.0) + size_bytes / streamed
    return shares


def _decode(
    fitted: dict[str, Any], device: Device, target: Target, anchors: Sequence[Anchor], bound: Figure
) -> Estimate:
    reference = _reference_gbs(fitted, device)
    points = anchor_points(fitted, target, anchors, reference)
    point = Point(
        features=calibration.features_of(target.shares, target.streamed / 1e9),
        model=next((p.model for p, a in zip(points, anchors, strict=True) if _same_model(fitted, a, target)), "target"),
        label=target.header.quant,
        group=_target_group(target, points, anchors),
    )
    mean, deviation = calibration.predict(_device_prior(fitted, device, target.family), points, point)
    scale = fitted["decode"]["scale"]["anchored" if anchors else "bare"]
    centre = reference * 1e9 / target.streamed * math.exp(mean)
    spread = math.exp(scale * deviation)
    ceiling = bound.value if isinstance(bound, Estimate) else math.inf
    return Estimate(
        value=min(centre, ceiling),
        low=min(centre / spread, ceiling),
        high=min(centre * spread, ceiling),
        basis="projected",
        note="" if anchors else "from memory bandwidth alone: no run on this device is known",
    )


def _reference_gbs(fitted: dict[str, Any], device: Device) -> float:
    bandwidth = device.bandwidth_bytes_per_s
    return bandwidth.value / 1e9 if bandwidth else float(fitted["decode"]["reference_gbs"])


def _device_prior(fitted: dict[str, Any], device: Device, family: str) -> Prior:
    prior = calibration.prior_of(fitted, "decode", family)
    bandwidth = device.bandwidth_bytes_per_s
    if bandwidth is None:
        return calibration.widen_constant(prior, fitted["decode"]["variances"]["no_reference"])
    width = math.log(_top(bandwidth) / min(bandwidth.value, bandwidth.low or bandwidth.value)) / (2 * 1.645)
    return calibration.widen_constant(prior, width * width)


def anchor_points(
    fitted: dict[str, Any], target: Target, anchors: Sequence[Anchor], reference_gbs: float
) -> list[Point]:
    """The anchors in the fitted model's terms, their depth taken off."""
    return [_anchor_point(fitted, target, anchor, reference_gbs) for anchor in anchors]


def _anchor_point(fitted: dict[str, Any], target: Target, anchor: Anchor, reference_gbs: float) -> Point:
    label = typemix.known_label(anchor.quant)
    if label is None or anchor.decode_tokens_per_s is None:
        raise EdgekitError(f"not an anchor of CPU decode: `{anchor.id}`")
    streamed_gb = anchor.bytes_per_token / 1e9
    known = fitted["models"].get(anchor.model.lower())
    if _same_file(anchor, target):
        shares = target.shares
    else:
        shares = typemix.byte_shares(label, typemix.shape_of(**known) if known else typemix.GENERIC)
    depth = anchor.depth + anchor.generated_tokens / 2
    kv = 4.0 * known["layers"] * known["kv_heads"] * known["head_dim"] if known else 0.0
    cached = fitted["depth"]["factor"] * kv * depth / anchor.bytes_per_token
    return Point(
        features=calibration.features_of(shares, streamed_gb),
        model=_model_key(anchor),
        label=label,
        group=f"{anchor.runtime}, {anchor.threads} threads",
        log_rate=math.log(streamed_gb * anchor.decode_tokens_per_s * (1 + cached) / reference_gbs),
    )


def _model_key(anchor: Anchor) -> str:
    return calibration.model_key(anchor.model)


def _same_file(anchor: Anchor, target: Target) -> bool:
    return (
        typemix.known_label(anchor.quant) == target.header.quant
        and abs(anchor.bytes_per_token / target.streamed - 1) < 0.01
    )


def _same_model(fitted: dict[str, Any], anchor: Anchor, target: Target) -> bool:
    """Whether the anchor ran the same shape: same file size in the same type, or the same layout by name."""
    if _same_file(anchor, target):
        return True
    known = fitted["models"].get(anchor.model.lower())
    header = target.header
    return bool(known) and (known["layers"], known["width"], known["vocabulary"], known["kv_heads"]) == (
        header.layers,
        header.hidden,
        header.vocabulary,
        max(header.kv_heads),
    )


def _target_group(target: Target, points: Sequence[Point], anchors: Sequence[Anchor]) -> str:
    """The group (runtime and threads) the target would run in: the fastest of those with its thread count, or with an
    unstated one; a group of its own otherwise.
    """
    for wanted in ({target.threads}, {0}, set()) if target.threads else (set(),):
        fits = [p for p, a in zip(points, anchors, strict=True) if a.threads in wanted or not wanted]
        if fits and (wanted or not target.threads):
            return max(fits, key=lambda point: point.log_rate).group
    return "target"


def _sustained(device: Device, decode: Estimate) -> Figure:
    kept = device.sustained_speed
    if kept is None:
        return Unknown(
            reason="nobody has published how much of its speed this device keeps",
            settle="run `edgekit bench --sustained 10m` on the device",
        )
    low, high = min(kept.value, kept.low or kept.value), _top(kept)
    return Estimate(
        value=decode.value * kept.value,
        low=decode.low * low,
        high=decode.high * high,
        basis="projected",
        note=f"burst × what is kept after ten minutes ({low:.0%} to {high:.0%})",
    )


def _at_depth(fitted: dict[str, Any], target: Target, settings: Settings, decode: Estimate, depth: int) -> Figure:
    """Decode with `depth` tokens cached: t(depth) = t(0) · (1 + factor · KV bytes ÷ weight bytes)."""
    ratio = kv_bytes(target.header, depth, settings.kv_type) / target.streamed
    cost = fitted["depth"]
    return Estimate(
        value=decode.value / (1 + cost["factor"] * ratio),
        low=decode.low / (1 + cost["high"] * ratio),
        high=decode.high / (1 + cost["low"] * ratio),
        basis="projected",
        note=f"{cost['low']:.1f} to {cost['high']:.1f} times the cache's bytes, from {cost['devices']} devices",
    )


def kv_bytes(header: Header, depth: int, kv_type: str) -> float:
    """Bytes of keys and values that one token reads at `depth`, windows of sliding layers respected."""
    windows = header.sliding_window or (0,) * header.layers
    per_value = KV_BYTES[kv_type]
    return sum(
        heads * (header.key_dim + header.value_dim) * per_value * (min(depth, window) if window else depth)
        for heads, window in zip(header.kv_heads, windows, strict=True)
    )


def _devices_behind(fitted: dict[str, Any], target: Target) -> int:
    """Devices with a published run in the rarest tensor type that makes up a tenth of the target."""
    kinds: dict[str, float] = {}
    for tensor_type, share in target.shares.items():
        kind = calibration.kind_of(tensor_type) or ""
        kinds[kind] = kinds.get(kind, 0.0) + share
    counts = fitted["decode"]["devices_by_kind"]
    return min(int(counts.get(kind, 0)) for kind, share in kinds.items() if share >= min(0.1, max(kinds.values())))


def _method(target: Target, anchors: Sequence[Anchor], behind: int, calibrated: bool) -> str:
    if anchors:
        basis = f"{len(anchors)} published run{'s' if len(anchors) > 1 else ''} on this device"
    else:
        basis = "memory bandwidth alone"
    words = f"from {basis}, with type factors of the {target.family} kernels; range from {behind} devices left out"
    return words if calibrated else f"{words}; uncalibrated (fewer than {NEEDED_DEVICES})"


__all__ = ["DEPTHS", "kernel_family", "kv_bytes", "project_to"]
