"""The machine a measurement ran on, as far as its OS tells; no names, serials or addresses."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from edgekit.records import Host, Runtime

PowerSource = Literal["mains", "battery", ""]

_X86_FEATURES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("avx2", ("avx2",)),
    ("avx512", ("avx512f", "avx512")),
    ("vnni", ("avx512_vnni", "avx_vnni")),
    ("amx", ("amx_int8",)),
)
_ARM_FEATURES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("dotprod", ("asimddp", "dotprod", "hw.optional.arm.FEAT_DotProd")),
    ("i8mm", ("i8mm", "matmul_int8", "hw.optional.arm.FEAT_I8MM")),
    ("sve", ("sve",)),
)
_ARCHITECTURES = {"aarch64": "arm64", "arm64": "arm64", "x86_64": "x86_64", "amd64": "x86_64"}


def probe_host(root: Path = Path("/")) -> Host:
    """This machine. Empty strings and zeros where the OS does not tell; `root` serves fixture trees."""
    machine = _ARCHITECTURES.get(platform.machine().lower(), platform.machine().lower())
    if platform.system() == "Darwin":
        return _probe_mac(machine)
    return _probe_linux(machine, root)


def probe_tree(root: Path, *, system: str, release: str, machine: str) -> Host:
    """The machine whose /proc and /sys were brought here under `root`; the rest is what its `uname` said."""
    known = _ARCHITECTURES.get(machine, machine)
    logical = len(re.findall(r"^processor\s*:", _text(root / "proc/cpuinfo"), re.MULTILINE))
    seen = replace(_probe_linux(known, root), system=system, release=release, logical_cores=logical)
    return replace(seen, physical_cores=_physical_cores(root) or logical)


def isa_of(machine: str, flags: frozenset[str]) -> str:
    """Architecture and the features that decide which tensors repack: `x86_64+avx2`, `arm64+dotprod+i8mm`.

    `flags` are the kernel's words or ggml's (`AVX512_VNNI`, `MATMUL_INT8`), lower case.
    With AVX-512 the names stand as profiles write them: `x86_64+avx512+vnni`, as AVX-512 implies AVX2.
    """
    table = {"x86_64": _X86_FEATURES, "arm64": _ARM_FEATURES}.get(machine, ())
    features = [name for name, any_of in table if flags.intersection(any_of)]
    if {"avx2", "avx512"} <= set(features):
        features.remove("avx2")
    return "+".join([machine, *features])


def isa_that_ran(host: Host, runtime: Runtime) -> str:
    """The host's ISA as far as the runtime's build uses it: a generic build, or one whose AMX is switched off, repacks
    like a lesser CPU.
    """
    words = frozenset(runtime.cpu_features.lower().split())
    return isa_of(host.machine, words) if words else host.isa


def _probe_linux(machine: str, root: Path) -> Host:
    cpu = _cpuinfo(root)
    flags = frozenset((cpu.get("flags") or cpu.get("Features") or "").split())
    logical = os.cpu_count() or 0
    return Host(
        system=platform.system(),
        release=platform.release(),
        machine=machine,
        cpu_model=(cpu.get("model name") or cpu.get("Hardware") or _text(root / "proc/device-tree/model")).strip("\0 "),
        isa=isa_of(machine, flags),
        physical_cores=_physical_cores(root) or logical,
        logical_cores=logical,
        ram_bytes=_ram_bytes(root),
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        virtualized=_virtualized(root, flags),
        power_source=_power_source(root),
    )


def _cpuinfo(root: Path) -> Mapping[str, str]:
    """The fields of the first processor; `Features` of Arm is the same on every core."""
    fields: dict[str, str] = {}
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields


def _physical_cores(root: Path) -> int:
    """Cores, not hyperthreads, of all clusters: distinct sibling lists."""
    siblings = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")
    return len({text for text in map(_text, siblings) if text})


def _ram_bytes(root: Path) -> int:
    match = re.search(r"^MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _virtualized(root: Path, flags: frozenset[str]) -> str:
    """`virtual machine`, `container`, both, or nothing. Neither shows the machine's true clock and neighbours."""
    kinds = []
    if "hypervisor" in flags or (root / "sys/hypervisor/type").exists():
        kinds.append("virtual machine")
    if any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv")):
        kinds.append("container")
    return ", ".join(kinds)


def _power_source(root: Path) -> PowerSource:
    """Battery while one discharges; mains when a charger is online; nothing where there is no power supply to ask."""
    supplies = list((root / "sys/class/power_supply").glob("*"))
    if any(_text(supply / "online") == "1" for supply in supplies if _text(supply / "type") != "Battery"):
        return "mains"
    batteries = [s for s in supplies if _text(s / "type") == "Battery" and _text(s / "scope") != "Device"]
    if any(_text(battery / "status") == "Discharging" for battery in batteries):
        return "battery"
    return "mains" if batteries else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _probe_mac(machine: str) -> Host:
    arm = [name for _, names in _ARM_FEATURES for name in names if name.startswith("hw.")]
    x86 = " ".join(_sysctl(f"machdep.cpu.{name}") for name in ("features", "leaf7_features")).lower().split()
    flags = frozenset([name for name in arm if _sysctl(name) == "1"] + x86)
    return Host(
        system="macOS",
        release=platform.mac_ver()[0],
        machine=machine,
        cpu_model=_sysctl("machdep.cpu.brand_string"),
        isa=isa_of(machine, flags),
        physical_cores=int(_sysctl("hw.physicalcpu") or 0),
        logical_cores=int(_sysctl("hw.logicalcpu") or 0),
        ram_bytes=int(_sysctl("hw.memsize") or 0),
        virtualized="virtual machine" if _sysctl("kern.hv_vmm_present") == "1" else "",
        power_source=_mac_power_source(),
    )


def _sysctl(name: str) -> str:
    return _output("sysctl", "-n", name)


def _mac_power_source() -> PowerSource:
    text = _output("pmset", "-g", "batt")
    return "battery" if "'Battery Power'" in text else "mains" if "'AC Power'" in text else ""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
