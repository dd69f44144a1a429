"""Device profiles: `devices/*.toml` or a user's own file → `Device`.

A *class* profile (`smartphone`) stands for a population and holds the gates, the reference student and defaults that
its devices inherit. Every hardware figure names its source; one from background knowledge begins `assumed:`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from edgekit.devices import anchors as anchor_rows
from edgekit.errors import EdgekitError
from edgekit.files import replacing
from edgekit.gate.gates import parse_gates
from edgekit.records import Anchor, Cluster, Device, FlashAttention, Gates, KvType, Settings, Sourced
from edgekit.tables import (
    choice_at,
    flag_at,
    nearest,
    number,
    optional_number,
    parse_toml,
    read_file,
    refuse_unknown,
    table_at,
    tables_at,
    text_at,
    whole_at,
)

MAX_PROFILE_BYTES = 4 * 2**20
FIGURES: dict[str, tuple[float, float]] = {
    "ram_bytes": (2**26, 2**44),
    "process_share": (0.01, 1.0),
    "bandwidth_bytes_per_s": (1e8, 1e14),
    "read_bandwidth_bytes_per_s": (1e8, 1e14),
    "battery_wh": (0.1, 1000.0),
    "battery_usable": (0.1, 1.0),
    "idle_power_w": (0.0, 500.0),
    "sustained_power_w": (0.05, 2000.0),
    "sustained_speed": (0.01, 1.0),
}
"""Sourced figures with the range that catches a wrong unit (GB for bytes, per cent for a fraction)."""
INHERITED = ("process_share", "battery_usable", "idle_power_w", "sustained_power_w", "sustained_speed")
"""Figures a device takes from its class where it has none of its own: habits of the kind of device, never its
hardware. What else is missing stays unknown.
"""
PROFILE_KEYS = (
    *("title", "tier", "class", "population", "soc", "os", "isa", "source", "calibration", "clusters"),
    *("reference_student", "workload", "memory_metric", "anchors", "gates", "waivers", *FIGURES),
)
ISA_BASES = ("arm64", "x86_64", "riscv64")


@dataclass(frozen=True, slots=True)
class _Profile:
    """A profile file as read: its table is not yet checked."""

    name: str
    origin: str
    text: bytes
    table: dict[str, Any]


def load_device(name_or_path: str) -> Device:
    """The device of a packaged name (`galaxy-s25`) or of a file (`./my-phone.toml`: ends in .toml or has a separator).

    Raises EdgekitError for unknown names (with the nearest ones) and for anything wrong in the file.
    """
    if name_or_path.endswith(".toml") or "/" in name_or_path or os.sep in name_or_path:
        return check_device(Path(name_or_path))
    path = profile_folder() / f"{name_or_path}.toml"
    if name_or_path not in _names():
        slug = re.sub(r"[^a-z0-9]+", "-", name_or_path.lower()).strip("-")
        hint = f"{_suggest(slug)}; `edgekit devices` lists them, a file of your own ends in .toml"
        raise EdgekitError(f"unknown device: `{name_or_path[:80]}`", hint=hint)
    device = _build(_read(path, packaged=True))
    return _with_members(device, _build_all(f'"{device.name}"').values()) if device.tier == "class" else device


def list_devices() -> tuple[Device, ...]:
    """Every packaged device: class profiles first, then by class and name."""
    everyone = _build_all().values()
    devices = [_with_members(device, everyone) if device.tier == "class" else device for device in everyone]
    return tuple(sorted(devices, key=lambda device: (device.tier != "class", device.device_class, device.name)))


def check_device(path: Path) -> Device:
    """The device in a user's own file, checked as the packaged ones are. Raises EdgekitError at the first fault."""
    return _build(_read(Path(path), packaged=False))


def class_members(device: Device) -> tuple[Device, ...]:
    """The anchored devices a class is judged on, with the RAM of the class in place of their own: the class asks what
    this SoC would do in a device of that size. Empty for a concrete device.
    """
    return tuple(replace(load_device(name), ram_bytes=device.ram_bytes) for name in device.members)


def profile_folder() -> Path:
    """Where the packaged profiles lie: inside the package in a wheel, beside it in a checkout."""
    inside = Path(__file__).parent.parent / "data" / "devices"
    return inside if inside.is_dir() else Path(__file__).parent.parent.parent / "devices"


# ---- user anchors ---------------------------------------------------------------------------------------------------


def add_anchors(name: str, results: Path, out: Path | None = None, *, bytes_per_token: float | None = None) -> Path:
    """Append the runs in `results` (`llama-bench -o json` or `jsonl`, or edgekit's own evidence of a run on the device)
    to a profile of the user's; returns its path.

    `name` is the user's own file, which is extended, or a packaged device, whose profile is copied to `out` (default
    `./NAME.toml`) first; packaged files are never written. `bytes_per_token` (from the model's header) replaces
    llama-bench's model size, which is too high for untied embeddings. Comments stay. Raises EdgekitError when a run is
    there already, for a class profile, and when the result would not load.
    """
    from edgekit.devices.own_runs import read_evidence

    device = load_device(name)
    if device.tier == "class":
        hint = f'write a file with `class = "{device.name}"`, `isa` and `ram_bytes`, or name a device of it'
        raise EdgekitError(f"a class has no anchors of its own: `{device.name}`", hint=hint)
    own_file = None if name in _names() else Path(name)
    target = out or own_file or Path(f"{device.name}.toml")
    if target.resolve().parent == profile_folder().resolve():
        raise EdgekitError(f"packaged profiles are not written to: `{target}`", hint="name another file with `--out`")
    start = target if target.exists() else own_file or profile_folder() / f"{device.name}.toml"
    text = read_file(start, what="device profile", max_bytes=MAX_PROFILE_BYTES)
    present = {anchor.id for anchor in check_device(start).anchors}
    new = read_evidence(results, device) or anchor_rows.read_llama_bench(results, bytes_per_token=bytes_per_token)
    for anchor in new:
        if anchor.id in present:
            raise EdgekitError(f"`{target}` has this run already: `{anchor.id}`")
        present.add(anchor.id)
    blocks = "\n".join(map(anchor_rows.anchor_toml, new))
    extended = text.rstrip(b"\n") + f"\n\n# added by `edgekit devices anchor`\n\n{blocks}".encode()
    _build(_parse(target, extended, origin=str(target)))
    with replacing(target) as temporary:
        temporary.write_bytes(extended)
    return target


# ---- reading --------------------------------------------------------------------------------------------------------


def _names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in profile_folder().glob("*.toml")))


def _suggest(slug: str) -> str:
    names = _names()
    inside = [name for name in names if slug and (slug in name or name in slug)]
    return f"did you mean {' or '.join(f'`{name}`' for name in inside[:3])}?" if inside else nearest(slug, names)


def _read(path: Path, *, packaged: bool) -> _Profile:
    text = read_file(path, what="device profile", max_bytes=MAX_PROFILE_BYTES)
    return _parse(path, text, origin=f"devices/{path.name}" if packaged else str(path))


def _parse(path: Path, text: bytes, *, origin: str) -> _Profile:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.")[:64] or "device"
    return _Profile(name, origin, text, parse_toml(text, what="device profile", origin=origin))


def _build_all(mention: str = "") -> dict[str, Device]:
    """Every packaged device whose file holds the word `mention`; parsing all of them takes a quarter of a second."""
    paths = {name: profile_folder() / f"{name}.toml" for name in _names()}
    return {
        name: _build(_read(path, packaged=True))
        for name, path in paths.items()
        if mention.encode() in path.read_bytes()
    }


def _class_of(profile: _Profile) -> _Profile | None:
    where = f"`{profile.origin}`"
    if choice_at(profile.table, "tier", ("class", "device"), where=where, default="device") == "class":
        if "class" in profile.table:
            raise EdgekitError(f"a class profile cannot have a class of its own: {where}")
        return None
    name = text_at(profile.table, "class", where=where, default="")
    if not name:
        return None
    if name in _names():
        found = _read(profile_folder() / f"{name}.toml", packaged=True)
        if found.table.get("tier") == "class":
            return found
    classes = [known for known, device in _build_all('"class"').items() if device.tier == "class"]
    raise EdgekitError(f"unknown class in {where}: `{name[:80]}`", hint=nearest(name, classes))


# ---- building -------------------------------------------------------------------------------------------------------


def _build(profile: _Profile) -> Device:
    """The checked device; what only its class holds is taken from there. Members of a class are not looked for."""
    table, where = profile.table, f"`{profile.origin}`"
    refuse_unknown(table, PROFILE_KEYS, where=where)
    calibration = table.get("calibration", [])  # for benchmarks/make_anchors.py alone
    if not isinstance(calibration, list) or not all(isinstance(name, str) for name in calibration):
        raise EdgekitError(f"`calibration` in {where} must be an array of texts")
    parent = _class_of(profile)
    base = _build(parent) if parent else None
    is_class = table.get("tier") == "class"
    rows = tables_at(table, "anchors", where=where)
    clusters = tuple(_cluster(row, where=where) for row in tables_at(table, "clusters", where=where))
    student = base.reference_student if base else ""
    return Device(
        name=profile.name,
        title=text_at(table, "title", where=where, default=profile.name),
        tier="class" if is_class else "device",
        device_class=profile.name if is_class else parent.name if parent else "",
        population=text_at(table, "population", where=where, default=None if is_class else ""),
        soc=text_at(table, "soc", where=where, default=""),
        os=text_at(table, "os", where=where, default=""),
        isa=_isa(table, where=where),
        clusters=clusters,
        reference_student=text_at(table, "reference_student", where=where, default=student),
        settings=_settings(table, base.settings if base else Settings(), clusters, where=where),
        memory_metric=_memory_metric(table, base, where=where),
        anchors=_unique(anchor_rows.parse_anchors(rows, origin=profile.origin), where=where),
        gates=_gates(table, base, origin=profile.origin),
        source=text_at(table, "source", where=where),
        origin=profile.origin,
        sha256=hashlib.sha256(profile.text + b"\0" + parent.text if parent else profile.text).hexdigest(),
        **_figures(table, base, where=where),
    )


def _figures(table: Mapping[str, Any], base: Device | None, *, where: str) -> dict[str, Any]:
    figures = {key: _figure(table, key, where=where) for key in FIGURES}
    if base:
        figures |= {key: getattr(base, key) for key in INHERITED if figures[key] is None}
    for key in ("ram_bytes", "process_share"):
        if figures[key] is None:
            raise EdgekitError(
                f"device profile {where} lacks a key: `{key}`",
                hint=f'write `{key} = {{ value = …, source = "…" }}`; `class = "smartphone"` brings a process share',
            )
    return figures


def _figure(table: Mapping[str, Any], key: str, *, where: str) -> Sourced | None:
    if key not in table:
        return None
    here = f"`{key}` of {where}"
    row = table_at(table, key, where=where)
    refuse_unknown(row, ("value", "low", "high", "source"), where=here)
    if "value" not in row:
        raise EdgekitError(f"{here} lacks a key: `value`")
    low_limit, high_limit = FIGURES[key]
    value = number(row["value"], where=here, low=low_limit, high=high_limit)
    low, high = (optional_number(row, end, where=here, low=low_limit, high=high_limit) for end in ("low", "high"))
    if (low is not None and low > value) or (high is not None and high < value):
        raise EdgekitError(f"{here} must lie between its `low` and `high`, not at `{value:g}`")
    return Sourced(value=value, low=low, high=high, source=text_at(row, "source", where=here))


def _isa(table: Mapping[str, Any], *, where: str) -> str:
    isa = text_at(table, "isa", where=where).lower()
    if not re.fullmatch(r"[a-z0-9_]+(\+[a-z0-9_]+)*", isa) or isa.split("+")[0] not in ISA_BASES:
        hint = "such as `arm64+dotprod+i8mm` or `x86_64+avx2`: architecture, then features joined by `+`"
        raise EdgekitError(f"`isa` in {where} is not known: `{isa[:60]}`", hint=hint)
    return isa


def _cluster(row: Mapping[str, Any], *, where: str) -> Cluster:
    here = f"a cluster of {where}"
    refuse_unknown(row, ("name", "cores", "max_ghz", "big"), where=here)
    return Cluster(
        name=text_at(row, "name", where=here),
        cores=whole_at(row, "cores", where=here, default=0, low=1, high=1024),
        max_ghz=optional_number(row, "max_ghz", where=here, low=0.1, high=10.0),
        big=flag_at(row, "big", where=here, default=False),
    )


_COUNTS = {
    "context_tokens": 2**24,
    "batch_tokens": 2**20,
    "ubatch_tokens": 2**20,
    "threads": 1024,
    "output_rows": 2**20,
}


def _settings(table: Mapping[str, Any], inherited: Settings, clusters: tuple[Cluster, ...], *, where: str) -> Settings:
    """The judged configuration; threads default to the cores of the clusters marked `big`."""
    row, here = table_at(table, "workload", where=where), f"`[workload]` of {where}"
    refuse_unknown(row, [field.name for field in fields(Settings)], where=here)
    big_cores = sum(cluster.cores for cluster in clusters if cluster.big)
    counts = {
        key: whole_at(row, key, where=here, default=getattr(inherited, key), low=key.endswith("_tokens"), high=high)
        for key, high in _COUNTS.items()
    }
    if "threads" not in row and big_cores:
        counts["threads"] = big_cores
    kv_type = choice_at(row, "kv_type", get_args(KvType), where=here, default=inherited.kv_type)
    flash = choice_at(row, "flash_attention", get_args(FlashAttention), where=here, default=inherited.flash_attention)
    return Settings(
        kv_type=cast("KvType", kv_type),
        flash_attention=cast("FlashAttention", flash),
        mmap=flag_at(row, "mmap", where=here, default=inherited.mmap),
        repack=flag_at(row, "repack", where=here, default=inherited.repack),
        **counts,
    )


def _memory_metric(
    table: Mapping[str, Any], base: Device | None, *, where: str
) -> Literal["working_set", "unevictable"]:
    default = base.memory_metric if base else "working_set"
    chosen = choice_at(table, "memory_metric", ("working_set", "unevictable"), where=where, default=default)
    return cast('Literal["working_set", "unevictable"]', chosen)


def _gates(table: Mapping[str, Any], base: Device | None, *, origin: str) -> Gates:
    own = "gates" in table or "waivers" in table
    if base is None:
        return parse_gates(table, origin=origin)
    return parse_gates(table, origin=f"{base.origin} + {origin}" if own else base.origin, inherited=base.gates)


def _unique(anchors: tuple[Anchor, ...], *, where: str) -> tuple[Anchor, ...]:
    seen: set[str] = set()
    for anchor in anchors:
        if anchor.id in seen:
            raise EdgekitError(f"two anchors in {where} share an id: `{anchor.id[:80]}`")
        seen.add(anchor.id)
    return anchors


def _with_members(device: Device, everyone: Iterable[Device]) -> Device:
    """A class with its members: packaged devices of the class with a usable anchor and at least the class's RAM."""
    members = (
        other.name
        for other in everyone
        if other.tier == "device"
        and other.device_class == device.name
        and other.ram_bytes.value >= device.ram_bytes.value
        and any(map(anchor_rows.is_usable, other.anchors))
    )
    return replace(device, members=tuple(sorted(members)))
