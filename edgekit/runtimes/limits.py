"""A worker held to a device's share of memory: by a control group where this user may have one, else by RLIMIT_DATA.

What holds is looked up in the kernel's files and not believed: systemd accepts `MemoryMax` and ignores it where the
memory controller was not handed to the user. Pages of a file count against the group that first touched them, so the
model is put out of the page cache before a worker in a group loads it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.records import Finding, MemoryLimit
from edgekit.runtimes.death import WorkerDied
from edgekit.units import format_bytes, format_percent

_WAIT_S = 15.0
_ROUNDING_BYTES = 2**16
"""Kernels round limits to pages, of up to 64 KiB."""

_SESSION = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
"""Where `systemd-run --user` finds the user's manager; the worker itself is not told."""

_PROBED_BYTES = 2**20

STILL_CACHED = 0.05
"""Part of the model that may stay in the page cache before the group cannot be said to count the weights."""

_SAY_LIMIT = """
p=$(sed -n 's/^0:://p' /proc/self/cgroup); cat "/sys/fs/cgroup$p/memory.max"
"""


def choose_limit(limit_bytes: int) -> MemoryLimit:
    """The strongest limit of `limit_bytes` that a worker can have here, tried; its words say what it leaves.

    Raises EdgekitError where the system enforces none.
    """
    if sys.platform != "linux":
        raise EdgekitError("memory can be limited on Linux alone: `--limit-memory`", hint="`edgekit fit` predicts it")
    size = format_bytes(limit_bytes)
    if scope_holds(limit_bytes):
        words = f"held to {size} by a control group of systemd's, mapped weights included, without swap"
        return MemoryLimit(limit_bytes=limit_bytes, means="scope", mapped=True, words=words)
    around = group_limit()
    if around is not None and around <= limit_bytes + _ROUNDING_BYTES:
        words = (
            f"held to {format_bytes(around)} by the control group that edgekit itself runs in, mapped weights included"
        )
        return MemoryLimit(limit_bytes=around, means="group", mapped=True, words=words)
    words = (
        f"private memory held to {size} by RLIMIT_DATA, which counts what is reserved and leaves mapped weights "
        "uncounted: no control group may be made here"
    )
    return MemoryLimit(limit_bytes=limit_bytes, means="rlimit", mapped=False, words=words)


def in_scope(limit: MemoryLimit, command: Sequence[str]) -> list[str]:
    """`command` in a scope of its own. `systemd-run` asks for the scope and then becomes the command, so process id,
    parent and pipes stay what they are.
    """
    return [*_systemd_run(limit.limit_bytes), "env", *(f"--unset={name}" for name in _SESSION), *command]


def session_environment() -> dict[str, str]:
    """What `systemd-run` must know to find the user's manager."""
    return {name: os.environ[name] for name in _SESSION if name in os.environ}


def _systemd_run(limit_bytes: int) -> list[str]:
    whose = ["--user"] if os.getuid() else []
    limits = ["-p", f"MemoryMax={limit_bytes}", "-p", "MemorySwapMax=0"]
    return ["systemd-run", *whose, "--scope", "--quiet", "--collect", *limits, "--"]


def scope_holds(limit_bytes: int) -> bool:
    """Whether a scope can be had, and its kernel group has the limit that was asked for."""
    if sys.platform != "linux" or shutil.which("systemd-run") is None:
        return False
    command = [*_systemd_run(limit_bytes), "sh", "-c", _SAY_LIMIT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    said = done.stdout.strip()
    return done.returncode == 0 and said.isdigit() and 0 < int(said) <= limit_bytes + _ROUNDING_BYTES


def group_limit(pid: int | str = "self", root: Path = Path("/")) -> int | None:
    """The tightest memory limit among the control groups around a process, in bytes; `None` where there is none."""
    try:
        lines = (root / f"proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            found += _limits_upwards(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            found += _limits_upwards(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
    return min(found, default=None)


_UNLIMITED = 2**60
"""Version 1 says `no limit` as a number near 2**63."""


def _limits_upwards(mount: Path, path: str, name: str) -> list[int]:
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    found = []
    for count in range(len(parts) + 1):
        try:
            text = mount.joinpath(*parts[:count], name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < _UNLIMITED:
            found.append(int(text))
    return found


# ---- the page cache -----------------------------------------------------------------------------------------------


def watch_cache(limit: MemoryLimit, files: Sequence[Path]) -> Finding | None:
    """Make the limit count the weights, and reading them again show; why it does not, where that cannot be had."""
    if not limit.mapped:
        return None
    return cached_warning(limit, put_out(files)) or uncounted_warning(files)


def put_out(files: Sequence[Path]) -> float:
    """Have the kernel forget the cached pages of `files`; the part of them that is cached nevertheless."""
    total = cached = 0.0
    for file in files:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            with suppress(OSError):
                os.fsync(descriptor)  # what is only in memory yet cannot be forgotten
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            total, cached = total + size, cached + size * _cached_part(descriptor, size)
        finally:
            os.close(descriptor)
    return cached / total if total else 0.0


def _cached_part(descriptor: int, size: int) -> float:
    """Of a file's pages, the part in the page cache, by `mincore`: unlike a read that must not wait, looking that way
    starts no reading. All of them where the kernel does not say.
    """
    if size == 0:
        return 0.0
    libc, pages = ctypes.CDLL(None, use_errno=True), -(-size // mmap.PAGESIZE)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        return 1.0
    seen = ctypes.create_string_buffer(pages)
    failed = libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), seen)
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
    return 1.0 if failed else sum(byte & 1 for byte in seen.raw) / pages


def reads_count(file: Path) -> bool:
    """Whether what is fetched of `file` shows in /proc/PID/io: over some network and user-space file systems it does
    not. Reads the beginning, which was put out, and puts it out again.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        before = _fetched()
        got = len(os.pread(descriptor, _PROBED_BYTES, 0))
        after = _fetched()
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return before is not None and after is not None and after - before >= got / 10  # a disk may hold it compressed


def _fetched(io: Path = Path("/proc/self/io")) -> int | None:
    try:
        found = re.search(r"^read_bytes: (\d+)$", io.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def uncounted_warning(files: Sequence[Path]) -> Finding | None:
    """That weights which are read again would not be seen to be."""
    if all(map(reads_count, files)):
        return None
    return Finding(
        level="warning",
        code="limit-reads-uncounted",
        message="what is fetched of the model from its disk is not counted here: whether it was read again under the "
        "limit is not known",
        hint="copy the model to a local disk, and run again",
    )


def cached_warning(limit: MemoryLimit, part: float) -> Finding | None:
    """That weights already in the page cache escaped the limit."""
    if not limit.mapped or part <= STILL_CACHED:
        return None
    return Finding(
        level="warning",
        code="limit-leaves-cache",
        message=f"{format_percent(part)} of the model stayed in the page cache, which the limit of "
        f"{format_bytes(limit.limit_bytes)} does not count: what it holds of the weights is not known",
        hint="does another program keep the file open? end it, and run again",
    )


# ---- the end of a worker under a limit ----------------------------------------------------------------------------

_WANT_OF_MEMORY = re.compile(
    r"unable to allocate|failed to allocate|cannot allocate|bad_alloc|out of memory|memoryerror"
    r"|mem_buffer != NULL",  # what ggml_init asserts where malloc gave nothing
    re.IGNORECASE,
)

_WANT_OF_A_STACK = re.compile(r"thread creation failed|can't start new thread", re.IGNORECASE)
"""A thread's stack is reserved memory, which RLIMIT_DATA counts. A control group does not: there they are too many."""


def explain_limited(died: WorkerDied, limit: MemoryLimit) -> WorkerDied:
    """`died` as the finding that the model does not fit, where that is what ended it: no bad input but a result."""
    found = died.finding
    wanted = found.code == "worker-out-of-memory" or _WANT_OF_MEMORY.search(found.message)
    if not wanted and not (limit.means == "rlimit" and _WANT_OF_A_STACK.search(found.message)):
        return died
    return WorkerDied(
        Finding(
            level="fault",
            code="memory-limit",
            message=f"the model does not fit into {format_bytes(limit.limit_bytes)} ({limit.words}): {found.message}",
            hint="a smaller context, ubatch, KV type or quant needs less memory",
        ),
        died.peak,
    )
