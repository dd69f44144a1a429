"""What a projection refuses, with the reason and what would settle it: whatever no published run speaks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.memory.repack import features_of, repacked_bytes
from edgekit.projection import calibration
from edgekit.projection.calibration import KINDS, Point
from edgekit.projection.terms import Target
from edgekit.records import Anchor, Device, Settings, Sourced, Unknown

NEEDED_DEVICES = 5
"""Fewer devices behind a projection than this and it is called uncalibrated (design §5)."""

NEEDED_KIN = 2
"""So many devices of the target's own kernel family must have run each kind of tensor: factors of other families
mislead. Five would leave no phone with a projection; the range itself is checked on held-out devices of all families,
phones among them.
"""

MINOR_SHARE = 0.02
"""Tensor types under this share of the bytes (norms, biases) cannot move the speed."""

MAJOR_SHARE = 0.1
"""Tensor kinds from this share of the bytes on need devices behind them."""

MIN_UBATCH = 128
"""No published prefill ran in smaller batches, and they are slower."""

NAMES = {"phone": "a phone or tablet", "sbc": "a single-board computer", "apple": "an Apple device", "x86": "an x86 PC"}


def to_measure(device: Device) -> str:
    """The command that adds the user's own runs to the anchors."""
    return f"run llama-bench on the device, then `edgekit devices anchor {device.name} llama-bench.json`"


def _on_device(device: Device, option: str) -> str:
    return f"measure on the device: `edgekit bench MODEL {option} --on-device {device.name}`"


# ---- the device and the file ----------------------------------------------------------------------------------------


def of_target(device: Device, target: Target, decoded: Sequence[Anchor]) -> Unknown | None:
    """Why nothing at all is projected; `decoded` are the device's usable decode runs."""
    measure = to_measure(device)
    if not device.isa.startswith(("arm64", "x86_64")):
        return Unknown(
            reason=f"no published run has kernels for this instruction set: `{device.isa}`", settle="measure on it"
        )
    if target.header.format != "gguf":
        return Unknown(
            reason="no published CPU run of this format can carry a projection, and llama.cpp's kernels are others: "
            f"`{target.header.format}`",
            settle=f"{_on_device(device, f'--device {device.name}')}; a GGUF of the same student can be projected",
        )
    if any("per_layer_token_embd" in tensor.name for tensor in target.header.tensors):
        return Unknown(reason="models with per-layer embeddings fall outside the published fit", settle=measure)
    for tensor_type, share in target.unmeasured.items():
        if share > MINOR_SHARE:
            return Unknown(
                reason=f"nobody has published a CPU run of this tensor type: `{tensor_type}`",
                settle=f"{measure}; or choose q4_0, q4_k_m or q8_0",
            )
    if device.bandwidth_bytes_per_s is None and not decoded:
        return Unknown(reason="neither a CPU run nor the memory bandwidth of this device is known", settle=measure)
    if target.streamed <= 0:
        return Unknown(reason="the file holds no weights", settle="name another file")
    return _of_anchors(device.bandwidth_bytes_per_s, decoded)


def _of_anchors(bandwidth: Sourced | None, decoded: Sequence[Anchor]) -> Unknown | None:
    if bandwidth is None:
        return None
    top = max(bandwidth.value, bandwidth.high or bandwidth.value)
    for anchor in decoded:
        rate = (anchor.decode_tokens_per_s or 0.0) * anchor.bytes_per_token
        if rate > top:
            return Unknown(
                reason=f"an anchor streams {rate / 1e9:.1f} GB/s, more than the memory bandwidth of "
                f"{top / 1e9:.1f} GB/s: `{anchor.id}`",
                settle="correct or remove it: check its bytes per token, backend and units, and the bandwidth",
            )
    return None


def too_fast() -> Unknown:
    """The whole range lies at the bandwidth or beyond, so that what it rests on cannot be right."""
    return Unknown(
        reason="the anchors exceed what the memory bandwidth allows",
        settle="check the anchors' bytes per token, backend and units, and the profile's bandwidth",
    )


# ---- the settings ---------------------------------------------------------------------------------------------------


def of_settings(device: Device, target: Target, settings: Settings, anchors: Sequence[Anchor]) -> Unknown | None:
    """Why neither decode nor prefill is projected under these settings; `anchors` are the runs of the one asked for."""
    if not settings.repack and _is_repacked(device, target):
        return Unknown(
            reason="the runs behind the projection repacked the weights, and these settings do not (`repack` is off)",
            settle=_on_device(device, "--no-repack"),
        )
    return _of_threads(device, settings.threads, [anchor.threads for anchor in anchors if anchor.threads])


def _of_threads(device: Device, threads: int, ran: Sequence[int]) -> Unknown | None:
    """`threads` is 0 where the settings leave it open; `ran` are the counts that the device's runs state."""
    cores = sum(cluster.cores for cluster in device.clusters)
    big_cores = sum(cluster.cores for cluster in device.clusters if cluster.big)
    usual = min(filter(None, (device.settings.threads, big_cores)), default=0)
    if not threads:
        return None
    if ran and threads < min(ran):
        reason = f"no known run on this device used fewer than {min(ran)} threads"
    elif not ran and threads < usual / 2:
        reason = f"the runs behind the projection used as many threads as are fastest, about {usual} here"
    elif cores and threads > max((cores, *ran)):
        reason = f"threads that share a core slow each other down, and the device has {cores}"
    else:
        return None
    return Unknown(reason=f"{reason}: `threads = {threads}`", settle=f"{to_measure(device)} (with `-t {threads}`)")


def of_prefill_settings(device: Device, settings: Settings) -> Unknown | None:
    """Why prefill in particular is not projected under these settings."""
    ubatch = min(settings.ubatch_tokens, settings.batch_tokens)
    if ubatch < MIN_UBATCH:
        return Unknown(
            reason=f"no published prefill ran in batches this small: `ubatch_tokens = {ubatch}`",
            settle=_on_device(device, f"--ubatch {ubatch}"),
        )
    return of_attention(device, settings)


def of_attention(device: Device, settings: Settings) -> Unknown | None:
    """Why nothing that attends to a long context is projected."""
    if settings.flash_attention != "off":
        return None
    return Unknown(
        reason="no published run tells what it costs to turn flash attention off (`flash_attention` is off)",
        settle=_on_device(device, "--flash-attention off"),
    )


def _is_repacked(device: Device, target: Target) -> bool:
    try:
        features = features_of(device.isa)
    except EdgekitError:
        return True  # a feature nobody knows: what its kernels repack is not known either
    copied = sum(
        repacked_bytes(tensor, features, expert=len(tensor.shape) == 3)
        for tensor in target.header.tensors
        if tensor.name != "token_embd.weight"
    )
    return copied > MINOR_SHARE * target.header.size_bytes


# ---- the devices behind it ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """Devices with a published run in the rarest kind of tensor that makes up a tenth of the target.

    `published` counts them in all families, `kin` in the target's own; `devices` are those the range may rest on, no
    more than were held out for it. `thin` names the kinds with fewer than two of the family and no run on this device,
    `unmeasured` those with none of it.
    """

    devices: int
    published: int
    kin: int
    thin: tuple[str, ...]
    unmeasured: tuple[str, ...]

    @property
    def calibrated(self) -> bool:
        """Whether a check may pass by this projection alone."""
        return self.devices >= NEEDED_DEVICES and not self.thin


def devices_behind(
    table: Mapping[str, Any], family: str, shares: Mapping[str, float], points: Sequence[Point]
) -> Behind:
    """What stands behind a projection; `points` are the device's own runs."""
    kinds: dict[str, float] = {}
    for tensor_type, share in shares.items():
        kind = calibration.kind_of(tensor_type) or ""
        kinds[kind] = kinds.get(kind, 0.0) + share
    floor = min(MAJOR_SHARE, max(kinds.values()))
    major = [kind for kind in KINDS if kinds.get(kind, 0.0) >= floor]
    of_family = table["devices_by_family"].get(family, {})
    kin = {kind: int(of_family.get(kind, 0)) for kind in major}
    foreign = [kind for kind in major if not any(_share(point, kind) >= MAJOR_SHARE for point in points)]
    published = min(int(table["devices_by_kind"].get(kind, 0)) for kind in major)
    return Behind(
        devices=min(int(table["devices_held_out"]), published),
        published=published,
        kin=min(kin.values()),
        thin=tuple(kind for kind in foreign if kin[kind] < NEEDED_KIN),
        unmeasured=tuple(kind for kind in foreign if not kin[kind]),
    )


def _share(point: Point, kind: str) -> float:
    return point.features[2 + KINDS.index(kind)]


def of_kinds(device: Device, target: Target, kinds: Sequence[str], what: str) -> Unknown | None:
    """Why tensors of these kinds are not projected, if there are any."""
    if not kinds:
        return None
    return Unknown(
        reason=f"{what} of these tensor types was published for too few devices such as this, "
        f"{NAMES[target.family]}: {', '.join(f'`{kind}`' for kind in kinds)}",
        settle=f"{to_measure(device)}; or choose q4_0, q4_k_m or q8_0",
    )
