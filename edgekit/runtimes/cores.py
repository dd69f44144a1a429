"""How many threads inference should use on this machine: the physical cores of the big cluster, no more.

Threads on hyperthreads, little cores or beyond a container's quota make OpenMP's spinning barriers up to 30 × slower.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edgekit.errors import EdgekitError

MOST_TIMES = 4
"""Threads for each logical core that are still taken; llama.cpp spins in each, and dies where it cannot make them."""


def check_threads(threads: int) -> None:
    """Raise EdgekitError for more threads than this machine can have a use for, or fewer than none."""
    most = MOST_TIMES * (os.cpu_count() or 1)
    if not 0 <= threads <= most:
        raise EdgekitError(
            f"this machine runs at most {most} threads, {MOST_TIMES} for each of its logical cores: `{threads}`",
            hint=f"leave `--threads` out: the big cores, {big_cores()} here, are the fastest",
        )


def big_cores(root: Path = Path("/")) -> int:
    """Physical cores of the fastest cluster that this process may use, at least 1. `root` serves fixture trees."""
    if sys.platform == "darwin":
        return _mac_performance_cores()
    cpus = root / "sys/devices/system/cpu"
    allowed = _allowed_cpus(cpus, use_affinity=root == Path("/"))
    speeds = {cpu: _speed(cpus / f"cpu{cpu}") for cpu in allowed}
    # a tenth apart is the same cluster: prime and big cores of one chip differ, favoured cores of a desktop too
    fastest = max(speeds.values(), default=0)
    big = [cpu for cpu in allowed if speeds[cpu] >= 0.75 * fastest]
    physical = {_siblings(cpus / f"cpu{cpu}", cpu) for cpu in big}
    return max(1, min(len(physical), _quota(root, len(physical))))


def _allowed_cpus(cpus: Path, *, use_affinity: bool) -> list[int]:
    if use_affinity and hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    found = [path.name[3:] for path in cpus.glob("cpu[0-9]*")]
    return sorted(int(number) for number in found if number.isdigit()) or list(range(os.cpu_count() or 1))


def _speed(cpu: Path) -> int:
    """Relative capacity (Arm) or the highest clock; 0 where neither is known, which makes all cores equal."""
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        text = _read(cpu / name)
        if text.isdigit():
            return int(text)
    return 0


def _siblings(cpu: Path, number: int) -> str:
    return _read(cpu / "topology/thread_siblings_list") or str(number)


def _quota(root: Path, otherwise: int) -> int:
    """CPUs the control group may use (cgroup v2 `cpu.max`), rounded down."""
    parts = _read(root / "sys/fs/cgroup/cpu.max").split()
    if len(parts) == 2 and parts[0].isdigit() and parts[1].isdigit() and int(parts[1]) > 0:
        return max(1, int(parts[0]) // int(parts[1]))
    return otherwise


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _mac_performance_cores() -> int:
    """`hw.perflevel0.physicalcpu` on Apple silicon, physical cores elsewhere."""
    import ctypes

    libc = ctypes.CDLL(None)
    for name in (b"hw.perflevel0.physicalcpu", b"hw.physicalcpu"):
        value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
        if libc.sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, 0) == 0 and value.value > 0:
            return value.value
    return os.cpu_count() or 1
