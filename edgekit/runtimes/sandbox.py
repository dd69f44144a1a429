"""The fence around the worker, put up by the worker itself once its libraries are loaded and before it opens the
model: memory limits, no new privileges, a system call filter, a read-only view of a few files. Each part is best
effort, and the worker reports which ones hold. None costs anything in the timed loop, which makes hardly a system
call.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgekit.runtimes import landlock, seccomp

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Memory the worker may take and the longest file it may write, in bytes; 0 leaves memory as it is and writes
    nothing.
    """

    address_space_bytes: int = 0
    data_bytes: int = 0
    file_bytes: int = 0


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when edgekit dies (Linux); leave at once if it is already gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def deny_amx() -> None:
    """Have ggml find no AMX: it asks the kernel for the permission when it starts, and that call fails from now on."""
    if _no_new_privileges():
        seccomp.install(seccomp.without_amx())


def fence_in(readable: Sequence[Path], limits: Limits, writable: Sequence[Path] = ()) -> tuple[str, ...]:
    """Give up what running a model does not need; the names of the parts that hold.

    `readable` are the model's files, `writable` existing files that the work is to fill. Threads can still be made;
    programs, sockets and files cannot.
    """
    parts = []
    if _limit_resources(limits):
        parts.append("rlimits")
    if sys.platform == "darwin" and _enter_seatbelt(writable):
        parts.append("seatbelt")
    if sys.platform != "linux":
        return tuple(parts)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
        parts.append("first to go when memory runs out")
    if _no_new_privileges():
        parts.append("no new privileges")
        abi = landlock.restrict(readable, writable)
        if abi:
            parts.append(f"landlock {abi}")
        if seccomp.install(seccomp.worker_filter()):
            parts.append("seccomp")
        elif ctypes.CDLL(None).unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
            parts.append("own network namespace")
    return tuple(parts)


def _enter_seatbelt(writable: Sequence[Path]) -> bool:
    """macOS: no network, no programs, no file writes but to `writable`, by `sandbox_init` (deprecated for ten years,
    still what Chromium uses).
    """
    profile = b"(version 1)(allow default)(deny network*)(deny process-exec*)(deny process-fork)(deny file-write*)"
    for path in writable:
        literal = str(path.resolve()).replace("\\", "\\\\").replace('"', '\\"')
        profile += f'(allow file-write* (literal "{literal}"))'.encode()
    initialise = getattr(ctypes.CDLL(None), "sandbox_init", None)
    error = ctypes.c_char_p()
    return initialise is not None and bool(initialise(profile, ctypes.c_uint64(0), ctypes.byref(error)) == 0)


def _no_new_privileges() -> bool:
    return sys.platform == "linux" and bool(ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)


def _limit_resources(limits: Limits) -> bool:
    """No core dump (it would hold the weights), no file growth and no memory beyond `limits`."""
    import resource

    wanted = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, limits.file_bytes)]
    if limits.address_space_bytes:
        wanted.append((resource.RLIMIT_AS, limits.address_space_bytes))
    if limits.data_bytes and sys.platform == "linux":
        wanted.append((resource.RLIMIT_DATA, limits.data_bytes))
    held = True
    for limit, value in wanted:
        try:
            hard = resource.getrlimit(limit)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (value, value))
        except (OSError, ValueError):
            held = False
    return held
