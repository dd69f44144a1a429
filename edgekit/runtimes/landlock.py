"""Landlock: from now on this process sees the model, system libraries and what describes the machine, read only.

Numbers from Linux's `include/uapi/linux/landlock.h`; the three system calls have the same numbers everywhere.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_FILE_RIGHTS = _EXECUTE | _READ_FILE
_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_NET_TCP = 0b11  # bind and connect, since version 4
_SCOPES = 0b11  # abstract unix sockets and signals, since version 6

_MACHINE = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system", "/dev/null")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")


def restrict(readable: Sequence[Path], writable: Sequence[Path] = ()) -> int:
    """Restrict this thread and all it will start to reading `readable` and the libraries, and to writing the files
    `writable`, which exist; the Landlock version in force, 0 where the kernel has none. Needs `no_new_privs`.
    """
    libc = ctypes.CDLL(None)
    version = int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG))
    if version < 1:
        return 0
    attributes = struct.pack(
        "=QQQ", _RIGHTS_BY_ABI[min(version, 5)], _NET_TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0
    )
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = int(libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0))
    if ruleset < 0:
        return 0
    try:
        for path in [*readable, *map(Path, _MACHINE), *map(Path, _LIBRARIES), *map(Path, sys.path)]:
            _allow(libc, ruleset, path)
        writing = (_READ_FILE | _WRITE_FILE | _TRUNCATE) & _RIGHTS_BY_ABI[min(version, 5)]
        for path in writable:
            _allow(libc, ruleset, path, writing)
        return version if libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int = 0) -> None:
    """Allow `rights` (reading, where none are named) to `path` and what is beneath it; what does not exist needs no
    rule.
    """
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        rights = rights or _FILE_RIGHTS | (_READ_DIR if directory else 0)
        libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)
