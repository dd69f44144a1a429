"""What macOS says of a process: `proc_pid_rusage` of libproc, the figure that Activity Monitor and jetsam go by."""

from __future__ import annotations

import ctypes
import struct

_RUSAGE_INFO_V2 = 2
_RESIDENT_AT, _FOOTPRINT_AT = 64, 72  # struct rusage_info_v2 of <sys/resource.h>: a 16-byte uuid, then uint64 fields


def read_footprint(pid: int) -> tuple[int, int] | None:
    """(physical footprint, resident size) in bytes, or `None` when the process is gone or not ours."""
    info = ctypes.create_string_buffer(512)
    if ctypes.CDLL("/usr/lib/libproc.dylib").proc_pid_rusage(pid, _RUSAGE_INFO_V2, info) != 0:
        return None
    (resident,) = struct.unpack_from("=Q", info, _RESIDENT_AT)
    (footprint,) = struct.unpack_from("=Q", info, _FOOTPRINT_AT)
    return footprint, resident
