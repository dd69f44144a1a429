"""Speed of an artifact on a device that is not at hand, from the device's own published runs (design §5).

`calibration` holds the fitted model, `terms` states headers and anchors in its terms; here the answer becomes figures
with a 90 % range. Whatever nobody has measured is refused with what would settle it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.devices.anchors import is_llama_cpp
from edgekit.projection import calibration, typemix
from edgekit.projection.calibration import Point, Prior
from edgekit.projection.terms import (
    MIN_PROMPT,
    Target,
    decode_points,
    kernel_family,
    kv_bytes,
    prefill_points,
    target_of,
)
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
"""Tensor types under this share of the bytes (norms, biases) cannot move the speed."""

RANGE = 1.645
"""Standard deviations to either end of a 90 % range of a normal variable."""


def project_to(device: Device, header: Header, settings: Settings) -> Projection:
    """Decode, prefill, sustained and deep-context speed of `header`'s model on `device`, without running anything.

    Every figure is tokens/s with a 90 % range, or Unknown with the reason and what would settle it. `calibrated` is
    False with fewer than five devices behind the range.
    """
    target = target_of(device, header, settings)
    bound = _bandwidth_bound(device, target)
    refusal = _refusal(device, target)
    if refusal:
        return _refused(device, target, bound, refusal)
    fitted = calibration.load_fitted()
    anchors = tuple(filter(_is_cpu_run, device.anchors))
    decoded = tuple(filter(_is_decode_run, anchors))
    decode = _decode(fitted, device, target, decoded, bound)
    behind = _devices_behind(fitted["decode"], target.streamed_shares)
    return Projection(
        device=device.name,
        bytes_per_token=target.streamed,
        decode=decode,
        prefill=_prefill(fitted, device, target, anchors),
        sustained=_sustained(device, decode),
        depths=tuple(
            DepthPoint(depth=depth, tokens_per_s=_at_depth(fitted, target, settings, decode, depth)) for depth in DEPTHS
        ),
        bandwidth_bound=bound,
        method=_method(fitted, target, decoded, behind),
        anchors=tuple(anchor.id for anchor in decoded),
        devices_behind=behind,
        calibrated=behind >= NEEDED_DEVICES,
    )


def _is_cpu_run(anchor: Anchor) -> bool:
    return anchor.backend == "cpu" and is_llama_cpp(anchor.runtime) and typemix.known_label(anchor.quant) is not None


def _is_decode_run(anchor: Anchor) -> bool:
    return _is_cpu_run(anchor) and anchor.decode_tokens_per_s is not None


# ---- what is refused ------------------------------------------------------------------------------------------------


def _refusal(device: Device, target: Target) -> Unknown | None:
    measure = f"run llama-bench on the device, then `edgekit devices anchor {device.name} llama-bench.json`"
    if not device.isa.startswith(("arm64", "x86_64")):
        return Unknown(
            reason=f"no published run has kernels for this instruction set: `{device.isa}`", settle="measure on it"
        )
    if target.header.format != "gguf":
        return Unknown(
            reason=f"no published CPU run is behind this format: `{target.header.format}`",
            settle="measure on the device",
        )
    if any("per_layer_token_embd" in tensor.name for tensor in target.header.tensors):
        return Unknown(reason="models with per-layer embeddings fall outside the published fit", settle=measure)
    for tensor_type, share in target.unmeasured.items():
        if share > MINOR_SHARE:
            return Unknown(
                reason=f"nobody has published a CPU run of this tensor type: `{tensor_type}`",
                settle=f"{measure}; or choose q4_0, q4_k_m or q8_0",
            )
    if device.bandwidth_bytes_per_s is None and not any(map(_is_decode_run, device.anchors)):
        return Unknown(reason="neither a CPU run nor the memory bandwidth of this device is known", settle=measure)
    return None if target.streamed > 0 else Unknown(reason="the file holds no weights", settle="name another file")


def _refused(device: Device, target: Target, bound: Figure, why: Unknown) -> Projection:
    return Projection(
        device=device.name,
        bytes_per_token=target.streamed,
        decode=why,
        prefill=why,
        sustained=why,
        depths=tuple(DepthPoint(depth=depth, tokens_per_s=why) for depth in DEPTHS),
        bandwidth_bound=bound,
        method="refused",
    )


# ---- figures --------------------------------------------------------------------------------------------------------


def _bandwidth_bound(device: Device, target: Target) -> Figure:
    bandwidth = device.bandwidth_bytes_per_s
    if bandwidth is None or not target.streamed:
        return Unknown(reason="the profile states no memory bandwidth", settle="add `bandwidth_bytes_per_s`")
    return exact(_top(bandwidth) / target.streamed, "predicted", note="theoretical bandwidth ÷ bytes per token")


def _top(figure: Sourced) -> float:
    return max(figure.value, figure.high or figure.value)


def _bottom(figure: Sourced) -> float:
    return min(figure.value, figure.low or figure.value)


def _decode(
    fitted: Mapping[str, Any], device: Device, target: Target, anchors: Sequence[Anchor], bound: Figure
) -> Estimate:
    bandwidth = device.bandwidth_bytes_per_s
    reference = bandwidth.value / 1e9 if bandwidth else float(fitted["decode"]["reference_gbs"])
    points, asked = decode_points(fitted, target, anchors, reference)
    prior = _widened(calibration.prior_of(fitted["decode"], target.family), fitted["decode"], bandwidth)
    estimate = _estimate(fitted["decode"], prior, points, asked, reference * 1e9 / target.streamed)
    ceiling = bound.value if isinstance(bound, Estimate) else math.inf
    return Estimate(
        value=min(estimate.value, ceiling),
        low=min(estimate.low, ceiling),
        high=min(estimate.high, ceiling),
        basis="projected",
        note="" if anchors else "from memory bandwidth alone: no CPU run on this device is known",
    )


def _estimate(table: Mapping[str, Any], prior: Prior, points: Sequence[Point], asked: Point, unit: float) -> Estimate:
    """The projected rate in multiples of `unit`, its range scaled by the held-out residuals."""
    mean, deviation = calibration.predict(prior, points, asked)
    spread = math.exp(table["scale"]["anchored" if points else "bare"] * deviation)
    centre = unit * math.exp(mean)
    return Estimate(value=centre, low=centre / spread, high=centre * spread, basis="projected")


def _widened(prior: Prior, table: Mapping[str, Any], reference: Sourced | None) -> Prior:
    """The prior with the uncertainty of the device's own reference rate."""
    if reference is None:
        return calibration.widen_constant(prior, table["variances"]["no_reference"])
    width = math.log(_top(reference) / _bottom(reference)) / (2 * RANGE)
    return calibration.widen_constant(prior, width * width)


def _prefill(fitted: Mapping[str, Any], device: Device, target: Target, anchors: Sequence[Anchor]) -> Figure:
    timed = tuple(
        anchor for anchor in anchors if anchor.prefill_tokens_per_s and not 0 < anchor.prompt_tokens < MIN_PROMPT
    )
    settle = f"run llama-bench on the device, then `edgekit devices anchor {device.name} llama-bench.json`"
    if not timed:
        return Unknown(reason="no prefill run on this device is known, and bandwidth does not tell", settle=settle)
    behind = _devices_behind(fitted["prefill"], target.body_shares)
    if behind < NEEDED_DEVICES:
        return Unknown(
            reason=f"prefill of these tensor types was measured on too few devices: `{behind}`", settle=settle
        )
    points, asked = prefill_points(fitted, target, timed)
    prior = _widened(calibration.prior_of(fitted["prefill"], target.family), fitted["prefill"], None)
    return _estimate(fitted["prefill"], prior, points, asked, calibration.PREFILL_REFERENCE * 1e9 / target.body)


def _sustained(device: Device, decode: Estimate) -> Figure:
    kept = device.sustained_speed
    if kept is None:
        return Unknown(
            reason="the profile does not say how much of its speed the device keeps",
            settle="run `edgekit bench --sustained 10m` on the device",
        )
    return Estimate(
        value=decode.value * kept.value,
        low=decode.low * _bottom(kept),
        high=decode.high * _top(kept),
        basis="projected",
        note=f"burst × what is kept after ten minutes ({_bottom(kept):.0%} to {_top(kept):.0%})",
    )


def _at_depth(fitted: Mapping[str, Any], target: Target, settings: Settings, decode: Estimate, depth: int) -> Figure:
    """Decode with `depth` tokens cached: t(depth) = t(0) · (1 + factor · KV bytes ÷ weight bytes)."""
    ratio = kv_bytes(target.header, depth, settings.kv_type) / target.streamed
    cost = fitted["depth"]
    return Estimate(
        value=decode.value / (1 + cost["factor"] * ratio),
        low=decode.low / (1 + cost["high"] * ratio),
        high=decode.high / (1 + cost["low"] * ratio),
        basis="projected",
        note=f"its cache costs {cost['low']:.1f} to {cost['high']:.1f} × its bytes, by {cost['devices']} devices",
    )


def _devices_behind(table: Mapping[str, Any], shares: Mapping[str, float]) -> int:
    """Devices with a published run in the rarest kind of tensor that makes up a tenth of the target."""
    kinds: dict[str, float] = {}
    for tensor_type, share in shares.items():
        kind = calibration.kind_of(tensor_type) or ""
        kinds[kind] = kinds.get(kind, 0.0) + share
    floor = min(0.1, max(kinds.values()))
    measured = min(int(table["devices_by_kind"].get(kind, 0)) for kind, share in kinds.items() if share >= floor)
    return min(measured, int(table["devices_held_out"]))


def _method(fitted: Mapping[str, Any], target: Target, anchors: Sequence[Anchor], behind: int) -> str:
    if anchors:
        basis = f"from {len(anchors)} published run{'s' if len(anchors) > 1 else ''} on this device"
    else:
        basis = "from memory bandwidth alone"
    held_out = fitted["decode"]["devices_held_out"]
    doubt = "" if behind >= NEEDED_DEVICES else f"; uncalibrated: only {behind} devices measured these tensor types"
    return (
        f"{basis} and the {target.family} kernels' speed per tensor type; range from {held_out} held-out devices{doubt}"
    )


__all__ = ["DEPTHS", "kernel_family", "kv_bytes", "project_to"]
