"""What this machine can measure: every counter, limit and fence that a run would use, tried and not only looked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from edgekit import __version__
from edgekit.bench.host import probe_host
from edgekit.bench.noise import read_counters
from edgekit.bench.thermal import read_thermal
from edgekit.energy.counters import find_counters
from edgekit.progress import Progress, silent
from edgekit.records import Ability, Examination, Host
from edgekit.runtimes import big_cores, choose_limit
from edgekit.runtimes.memory_sampling import Sampler
from edgekit.runtimes.process import isolated_python
from edgekit.units import format_bytes

ROOT = Path("/")
_CHILD_S = 60.0
"""More than loading llama.cpp's libraries from a slow disk takes."""

_PROBED_BYTES = 2**26
_LIMITS = {
    "scope": "a control group of systemd's, mapped weights included",
    "group": "the control group that edgekit runs in, mapped weights included",
    "rlimit": "RLIMIT_DATA, which leaves mapped weights",
}

_BUILD = "from edgekit.runtimes import {0} as r; print(' | '.join(r.describe_build()))"
_FENCE = "from edgekit.runtimes.sandbox import *; print(', '.join(fence_in([], Limits())))"


def examine(root: Path = ROOT, *, progress: Progress = silent) -> Examination:
    """Try everything once; about a second. `root` serves fixture trees: what needs the live kernel is left out then."""
    host = probe_host(root)
    parts: list[Callable[[], Iterator[Ability]]] = [
        partial(_cpu, host, root),
        partial(_noise, root),
        partial(_energy, root),
    ]
    if root == ROOT:
        parts = [_runtimes, *parts, _memory, _limits, _fence]
    abilities: list[Ability] = []
    for index, part in enumerate(parts):
        progress("examining", index, len(parts))
        abilities += part()
    return Examination(edgekit_version=__version__, host=host, abilities=tuple(abilities))


def _ability(
    area: Literal["runtime", "cpu", "memory", "noise", "energy", "fence"],
    name: str,
    state: bool | Literal["yes", "partly", "no"],
    found: str,
    *,
    without: str = "",
    enable: str = "",
) -> Ability:
    """What is lost, and how to have it, is said only where something is."""
    word: Literal["yes", "partly", "no"] = state if isinstance(state, str) else "yes" if state else "no"
    whole = word == "yes"
    return Ability(
        area=area,
        name=name,
        state=word,
        found=found,
        without="" if whole else without,
        enable="" if whole else enable,
    )


# ---- runtimes -------------------------------------------------------------------------------------------------------


def _runtimes() -> Iterator[Ability]:
    said = _from_child(_BUILD.format("llamacpp"))
    yield _ability(
        "runtime",
        "llama.cpp",
        bool(said),
        said or "its libraries do not load",
        without="no GGUF can be run",
        enable="pip install --force-reinstall --no-binary :all: llama-cpp-python (a build for this very CPU)",
    )
    found = _version("onnxruntime")
    yield _ability(
        "runtime",
        "ONNX Runtime",
        bool(found),
        found or "not installed",
        without="no ONNX model can be run",
        enable="pip install 'edgekit[onnx]'",
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _from_child(code: str) -> str:
    """What a Python of its own prints, isolated from the current folder: libraries that crash, and fences, cannot be
    tried in this process.
    """
    try:
        done = subprocess.run(isolated_python(code), capture_output=True, text=True, timeout=_CHILD_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 and done.stdout.strip() else ""


# ---- CPU and its quiet ----------------------------------------------------------------------------------------------


def _cpu(host: Host, root: Path) -> Iterator[Ability]:
    threads = big_cores(root)
    cores = f"{threads} of {host.physical_cores} physical cores are the big ones a run may use"
    yield _ability("cpu", "cores", True, f"{host.cpu_model or 'unnamed'}, {host.isa}; {cores}")
    yield _ability(
        "cpu",
        "frequency governor",
        "yes" if host.governor == "performance" else "partly",
        host.governor or "not shown",
        without="the clock follows the load: runs scatter",
        enable="sudo cpupower frequency-set -g performance",
    )
    yield _ability(
        "cpu",
        "power source",
        host.power_source != "battery",
        host.power_source or "not shown",
        without="most systems lower the clock on battery; energy is measured there, speed on mains",
        enable="plug it in",
    )
    yield _ability(
        "cpu",
        "own hardware",
        "partly" if host.virtualized else "yes",
        host.virtualized or "no hypervisor seen",
        without="neighbours take time unseen, clocks and temperatures are hidden",
        enable="run on the machine itself",
    )
    point = read_thermal(0.0, root)
    shown = [] if point is None else [point.frequency_mhz, point.temperature_c]
    both = len(shown) == 2 and None not in shown
    clock = f"{point.frequency_mhz:.0f} MHz" if point and point.frequency_mhz else "no clock"
    heat = f"{point.temperature_c:.0f} °C" if point and point.temperature_c else "no temperature"
    yield _ability(
        "cpu",
        "clock and temperature",
        "yes" if both else "partly" if any(shown) else "no",
        f"{clock}, {heat}",
        without="throttling shows in the speed alone",
        enable="load the sensor driver (coretemp, k10temp); a virtual machine has none",
    )


def _noise(root: Path) -> Iterator[Ability]:
    counters = read_counters(root)
    yield _ability(
        "noise",
        "others' CPU time",
        counters is not None,
        "counted" if counters else "/proc/stat cannot be read",
        without="a busy machine goes unnoticed but for the scatter it makes",
    )
    pressed = counters is not None and counters.pressure_s is not None
    yield _ability(
        "noise",
        "CPU pressure (PSI)",
        pressed,
        "counted" if pressed else "no /proc/pressure/cpu",
        without="waiting for a CPU during the run goes unnoticed",
        enable="boot with psi=1 (Linux 4.20 or later)",
    )


def _energy(root: Path) -> Iterator[Ability]:
    counters = find_counters(root)
    for counter in counters:
        yield _ability(
            "energy",
            counter.name,
            not counter.unavailable,
            counter.unavailable or f"{counter.counts}, sees the {counter.scope}",
            without="energy is estimated from a model",
        )
    if not counters:
        yield _ability(
            "energy",
            "energy counters",
            False,
            "none",
            without="energy is estimated from a model",
            enable="a laptop on battery, RAPL on bare metal, or a meter",
        )


# ---- memory, limits, fence ------------------------------------------------------------------------------------------


def _memory() -> Iterator[Ability]:
    sampler = Sampler(os.getpid())
    sampler.sample()
    yield _ability(
        "memory",
        "peaks of a process",
        sampler.readings > 0,
        "sampled at 100 Hz" if sampler.readings else "the OS does not tell",
        without="memory is predicted from the header and not measured",
    )
    marks = sys.platform == "linux" and _marks_can_be_cleared()
    yield _ability(
        "memory",
        "pages that a token reads",
        marks,
        "counted by the kernel (clear_refs)" if marks else "cannot be counted",
        without="the working set counts every mapped page of the model",
        enable="Linux with CONFIG_PROC_PAGE_MONITOR",
    )
    read = sampler.read_bytes() is not None
    yield _ability(
        "memory",
        "bytes read from disk",
        read,
        "counted" if read else "/proc/PID/io cannot be read",
        without="a model that thrashes shows as slow and not as thrashing",
        enable="Linux with CONFIG_TASK_IO_ACCOUNTING",
    )


def _marks_can_be_cleared() -> bool:
    """On a process of its own: clearing this one's marks would disturb whoever measures it."""
    code = "open('/proc/self/clear_refs','w').write('1'); print('Referenced:' in open('/proc/self/smaps').read())"
    return _from_child(code) == "True"


def _limits() -> Iterator[Ability]:
    limit = choose_limit(_PROBED_BYTES) if sys.platform == "linux" else None
    yield _ability(
        "memory",
        "a device's memory as a limit",
        "no" if limit is None else "yes" if limit.mapped else "partly",
        "none" if limit is None else _LIMITS[limit.means],
        without="a run cannot be held to a device's share of memory as a whole",
        enable="a user session of systemd with the memory controller",
    )
    free = shutil.disk_usage(Path.home()).free
    yield _ability("memory", "disk", free > 10 * 2**30, f"{format_bytes(free)} free", without="big models do not fit")


def _fence() -> Iterator[Ability]:
    held = _from_child(_FENCE)
    missing = [part for part in ("landlock", "seccomp") if part not in held] if sys.platform == "linux" else []
    yield _ability(
        "fence",
        "worker's fence",
        "no" if not held else "partly" if missing else "yes",
        held or "none",
        without=f"strangers' models run with fewer walls around them (no {', '.join(missing) or 'fence at all'})",
        enable="Linux 5.13 or later with Landlock and seccomp; some container runtimes forbid them",
    )
