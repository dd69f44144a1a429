"""Speed of an artifact on a device that is not at hand, from the device's own published runs (design §5).

`calibration` holds the fitted model, `terms` states headers and anchors in its terms; here the answer becomes figures
with a 90 % range. Whatever nobody has measured is refused with what would settle it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgekit.devices.anchors import is_llama_cpp
from edgekit.projection import calibration, refusals, typemix
from edgekit.projection.calibration import Point, Prior
from edgekit.projection.refusals import NEEDED_DEVICES, Behind
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
AT_THE_BOUND = 0.95
"""A range that begins this close to the bandwidth bound says that what it rests on is wrong."""

ALIKE = 1 + 1e-6
"""A run's size is read back from its features, off by a rounding; such a run of this very model is no smaller one."""

BARE = "from memory bandwidth alone: no CPU run on this device is known"

RANGE = 1.645
"""Standard deviations to either end of a 90 % range of a normal variable."""


def project_to(device: Device, header: Header, settings: Settings) -> Projection:
    """Decode, prefill, sustained and deep-context speed of `header`'s model on `device`, without running anything.

    Every figure is tokens/s with a 90 % range, or Unknown with the reason and what would settle it. `calibrated` is
    False with fewer than five devices behind the range, or fewer than two of this kernel family and no run of its own.
    """
    target = target_of(device, header, settings)
    bound = _bandwidth_bound(device, target)
    anchors = tuple(filter(_is_cpu_run, device.anchors))
    decoded = tuple(anchor for anchor in anchors if anchor.decode_tokens_per_s is not None)
    refusal = refusals.of_target(device, target, decoded)
    if refusal:
        return _refused(device, target, bound, refusal)
    fitted = calibration.load_fitted()
    points, asked = decode_points(fitted, target, decoded, _reference_gbs(fitted, device))
    behind = refusals.devices_behind(fitted["decode"], target.family, target.streamed_shares, points)
    decode = (
        refusals.of_settings(device, target, settings, decoded)
        or refusals.of_kinds(device, target, behind.unmeasured, "decode")
        or _decode(fitted, device, target, points, asked, bound)
    )
    return Projection(
        device=device.name,
        bytes_per_token=target.streamed,
        decode=decode,
        prefill=_prefill(fitted, device, target, settings, anchors),
        sustained=_sustained(device, decode),
        depths=tuple(
            DepthPoint(depth=depth, tokens_per_s=_at_depth(fitted, device, target, settings, decode, depth))
            for depth in DEPTHS
        ),
        bandwidth_bound=bound,
        method=_method(fitted, target, decoded, behind),
        anchors=tuple(anchor.id for anchor in decoded),
        devices_behind=behind.devices,
        calibrated=behind.calibrated,
    )


def _is_cpu_run(anchor: Anchor) -> bool:
    return anchor.backend == "cpu" and is_llama_cpp(anchor.runtime) and typemix.known_label(anchor.quant) is not None


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


def _reference_gbs(fitted: Mapping[str, Any], device: Device) -> float:
    """What decode rates are stated over: the theoretical bandwidth, a typical one where nobody states it."""
    bandwidth = device.bandwidth_bytes_per_s
    return bandwidth.value / 1e9 if bandwidth else float(fitted["decode"]["reference_gbs"])


def _decode(
    fitted: Mapping[str, Any],
    device: Device,
    target: Target,
    points: Sequence[Point],
    asked: Sequence[Point],
    bound: Figure,
) -> Figure:
    table = fitted["decode"]
    prior = _widened(calibration.prior_of(table, target.family), table, device.bandwidth_bytes_per_s)
    estimate = _sized(table, prior, points, asked, _reference_gbs(fitted, device) * 1e9, target.streamed)
    ceiling = bound.high if isinstance(bound, Estimate) else math.inf
    if estimate.low >= AT_THE_BOUND * ceiling:
        return refusals.too_fast()
    return Estimate(
        value=min(estimate.value, ceiling),
        low=estimate.low,
        high=min(estimate.high, ceiling),
        basis="projected",
        note="; ".join(filter(None, (estimate.note, "" if points else BARE))),
    )


def _sized(
    table: Mapping[str, Any], prior: Prior, points: Sequence[Point], asked: Sequence[Point], rate: float, size: float
) -> Estimate:
    """The projected tokens/s at `rate` bytes or weights a second for `size` of them.

    Below the smallest that was ever run, a token takes at most as long as there, and at least what the fit says of so
    little; what it costs beside its bytes nobody has published. The value is the geometric middle.
    """
    found = _estimate(table, prior, points, asked, rate / size)
    least = min([float(table["smallest"]), *(1e9 * calibration.amount_of(point.features) for point in points)])
    if size * ALIKE >= least:
        return found
    there = [replace(point, features=calibration.resized(point.features, least / 1e9)) for point in asked]
    known = _estimate(table, prior, points, there, rate / least)
    return replace(
        found,
        value=math.sqrt(found.value * known.value),
        low=min(found.low, known.low),
        high=max(found.high, known.high),
        note=f"{least / size:.3g} × smaller than any model that was run: its tokens may take as long as that one's",
    )


def _estimate(
    table: Mapping[str, Any], prior: Prior, points: Sequence[Point], asked: Sequence[Point], unit: float
) -> Estimate:
    """The projected rate in multiples of `unit`, its range scaled by the held-out residuals."""
    mean, deviation = calibration.predict_mean(prior, points, asked)
    spread = math.exp(table["scale"]["anchored" if points else "bare"] * deviation)
    centre = unit * math.exp(mean)
    return Estimate(value=centre, low=centre / spread, high=centre * spread, basis="projected")


def _widened(prior: Prior, table: Mapping[str, Any], reference: Sourced | None) -> Prior:
    """The prior with the uncertainty of the device's own reference rate."""
    if reference is None:
        return calibration.widen_constant(prior, table["variances"]["no_reference"])
    width = math.log(_top(reference) / _bottom(reference)) / (2 * RANGE)
    return calibration.widen_constant(prior, width * width)


def _prefill(
    fitted: Mapping[str, Any], device: Device, target: Target, settings: Settings, anchors: Sequence[Anchor]
) -> Figure:
    table = fitted["prefill"]
    timed = tuple(
        anchor for anchor in anchors if anchor.prefill_tokens_per_s and not 0 < anchor.prompt_tokens < MIN_PROMPT
    )
    if not timed:
        return Unknown(
            reason="no prefill run on this device is known, and bandwidth does not tell",
            settle=refusals.to_measure(device),
        )
    points, asked = prefill_points(fitted, target, timed)
    behind = refusals.devices_behind(table, target.family, target.body_shares, points)
    refusal = (
        refusals.of_settings(device, target, settings, timed)
        or refusals.of_prefill_settings(device, settings)
        or refusals.of_kinds(device, target, behind.thin, "prefill")
    )
    if refusal:
        return refusal
    if behind.devices < NEEDED_DEVICES:
        return Unknown(
            reason=f"prefill of these tensor types was measured on too few devices: `{behind.devices}`",
            settle=refusals.to_measure(device),
        )
    prior = _widened(calibration.prior_of(table, target.family), table, None)
    return _sized(table, prior, points, asked, calibration.PREFILL_REFERENCE * 1e9, target.body)


def _sustained(device: Device, decode: Figure) -> Figure:
    kept = device.sustained_speed
    if isinstance(decode, Unknown):
        return decode
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


def _at_depth(
    fitted: Mapping[str, Any], device: Device, target: Target, settings: Settings, decode: Figure, depth: int
) -> Figure:
    """Decode with `depth` tokens cached: t(depth) = t(0) · (1 + factor · KV bytes ÷ weight bytes).

    A quantized cache counts as one in f16: it is smaller and must be unpacked, and no published run tells which wins.
    """
    if isinstance(decode, Unknown):
        return decode
    refusal = refusals.of_attention(device, settings)
    if refusal:
        return refusal
    ratio = kv_bytes(target.header, depth, "f16") / target.streamed
    cost = fitted["depth"]
    counted = "" if settings.kv_type == "f16" else f"; {settings.kv_type} counts as f16, nobody has timed it"
    return Estimate(
        value=decode.value / (1 + cost["factor"] * ratio),
        low=decode.low / (1 + cost["high"] * ratio),
        high=decode.high / (1 + cost["low"] * ratio),
        basis="projected",
        note=f"its cache costs {cost['low']:.1f} to {cost['high']:.1f} × its bytes, by {cost['devices']} devices"
        + counted,
    )


def _method(fitted: Mapping[str, Any], target: Target, anchors: Sequence[Anchor], behind: Behind) -> str:
    if anchors:
        basis = f"from {len(anchors)} published run{'s' if len(anchors) > 1 else ''} on this device"
    else:
        basis = "from memory bandwidth alone"
    doubt = "" if behind.calibrated else "; uncalibrated"
    return (
        f"{basis} and the {target.family} kernels' speed per tensor type; range from "
        f"{fitted['decode']['devices_held_out']} held-out devices; its rarest tensor types were run on "
        f"{behind.published} devices, {behind.kin} of the {target.family} family{doubt}"
    )


__all__ = ["DEPTHS", "kernel_family", "kv_bytes", "project_to"]
