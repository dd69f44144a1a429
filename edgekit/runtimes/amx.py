"""Whether this llama.cpp build's AMX kernels work on this CPU, found out once and remembered.

GCC before 14 drops the stores that configure AMX tiles (its `_tile_loadconfig` names 8 of 64 bytes as input), and
llama.cpp built with it dies of SIGILL at the first batch. A worker that dies so is begun anew without AMX, which takes
as long as loading the model twice: what was found is noted in the user's cache, under the very library files and CPU.
Only that kernels are broken is noted. A stale note costs speed and no run, where a stale "they work" would cost runs.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from edgekit.errors import EdgekitError
from edgekit.records import Finding

State = Literal["allowed", "denied"]

_known: dict[str, State] = {}
_MAX_NOTES_BYTES = 2**16
_CPU_FIELDS = ("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags")

_DENIED = Finding(
    level="warning",
    code="amx-broken",
    message="this llama.cpp build's AMX kernels die on this CPU: the run went without them",
    hint="a build by GCC 14 or clang has working ones; speed and memory here are those of the kernels that ran",
)


def amx_state() -> State:
    """What is known: the start command of a worker carries it."""
    if "state" not in _known:
        _known["state"] = "denied" if _key() in _notes() else "allowed"
    return _known["state"]


def deny_amx() -> None:
    """From now on, in this process: no AMX."""
    _known["state"] = "denied"


def note_broken_amx() -> None:
    """Tell processes to come. Best effort: without a cache each finds out by itself."""
    from edgekit.files import replacing  # here and below: what the worker does not need it does not load

    key, notes = _key(), _notes()
    if not key or key in notes:
        return
    with suppress(EdgekitError), replacing(notes_path()) as temporary:
        temporary.write_text("\n".join([*notes, key]) + "\n", encoding="ascii")


def amx_findings() -> tuple[Finding, ...]:
    """What a record should say about AMX."""
    return (_DENIED,) if amx_state() == "denied" else ()


def notes_path() -> Path:
    """Where notes are kept: a line for each build and CPU. Raises EdgekitError where there is no home."""
    from edgekit.shapes.stand_in import cache_dir

    return cache_dir().parent / "broken-amx.txt"


def _notes() -> list[str]:
    with suppress(EdgekitError, OSError, UnicodeDecodeError):
        path = notes_path()
        if path.stat().st_size <= _MAX_NOTES_BYTES:
            return path.read_text(encoding="ascii").split()
    return []


def _key() -> str:
    """Names ggml's library files, as they are on disk, and the CPU; empty where either cannot be told."""
    import hashlib

    spec = find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations or sys.platform != "linux":
        return ""
    try:
        files = sorted(Path(spec.submodule_search_locations[0]).glob("lib/*ggml*"))
        stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return ""
    fields = [line for line in cpu.splitlines() if line.split("\t")[0].strip() in _CPU_FIELDS]
    return hashlib.sha256(repr((stats, fields)).encode()).hexdigest() if stats and fields else ""
