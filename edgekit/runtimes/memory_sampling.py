"""A worker's memory as the kernel counts it, sampled from outside, so that nothing is added to what is measured.

Linux: `/proc/PID/status` at 100 Hz while memory moves, `smaps_rollup` at phase ends only (5 ms for 2 GB), and for the
working set the pages of the model file that decoding really touches: `clear_refs` takes the accessed marks off,
a few tokens are decoded, `smaps` tells which pages were read. macOS: the physical footprint of `proc_pid_rusage`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.records import Buffer, MemoryPeak
from edgekit.runtimes.mac_footprint import read_footprint

FAST_S, SLOW_S, STILL_AFTER_S = 0.01, 0.1, 0.5
_STILL_BYTES = 2**18

_FIELDS = (b"VmHWM:", b"VmRSS:", b"RssAnon:", b"RssShmem:", b"VmSwap:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at a process, in bytes; 0 where the OS does not tell."""

    unevictable: int
    rss: int
    hwm: int
    swap: int


class Sampler:
    """Peaks of one process. Errors while it dies are silence, not exceptions."""

    def __init__(self, pid: int, root: Path = Path("/proc")) -> None:
        self._pid = pid
        self._proc = root / str(pid)
        self._status = _open(self._proc / "status")
        self._io = _open(self._proc / "io")
        self.baseline: int | None = None
        self.readings = 0
        self._unevictable = self._rss = self._hwm = self._swap = self._pss = 0
        self._read_bytes = 0
        self._decoded_tokens = 0
        self._referenced: int | None = None
        self._huge: int | None = None
        self._last = 0
        self._moved_at = time.monotonic()

    def pause_s(self) -> float:
        """How long until the next look: 10 ms, and 100 ms once memory has stood still for half a second, because at
        100 Hz waking up takes 1 % of a core from a run that uses them all.
        """
        return FAST_S if time.monotonic() - self._moved_at < STILL_AFTER_S else SLOW_S

    def expect_movement(self) -> None:
        """Something new begins: look often again."""
        self._moved_at = time.monotonic()

    def sample(self) -> None:
        """Look once and remember the highest of each figure."""
        reading = self._look()
        if reading is None:
            return
        self.readings += 1
        if abs(reading.unevictable - self._last) > _STILL_BYTES:
            self._last = reading.unevictable
            self.expect_movement()
        self._unevictable = max(self._unevictable, reading.unevictable)
        self._rss, self._hwm = max(self._rss, reading.rss), max(self._hwm, reading.hwm)
        self._swap = max(self._swap, reading.swap)

    def take_baseline(self) -> None:
        """Call when the libraries are loaded and the model is not: what stands now is the worker's own."""
        reading = self._look()
        if reading is not None:
            self.baseline = reading.unevictable
            self._unevictable = self._rss = 0

    def _look(self) -> Reading | None:
        if sys.platform == "darwin":
            found = read_footprint(self._pid)
            return None if found is None else Reading(unevictable=found[0], rss=found[1], hwm=0, swap=0)
        try:
            text = os.pread(self._status, 4096, 0) if self._status >= 0 else b""
        except OSError:
            return None
        if b"RssAnon:" not in text:  # a zombie has no memory lines
            return None
        hwm, rss, anonymous, shared, swap = (_kilobytes(text, field) for field in _FIELDS)
        return Reading(unevictable=anonymous + shared + swap, rss=rss, hwm=hwm, swap=swap)

    def end_phase(self) -> None:
        """Read what is too dear to read at 100 Hz; the worker must be idle."""
        self.sample()
        with contextlib.suppress(OSError):
            text = (self._proc / "smaps_rollup").read_bytes()
            self._pss = max(self._pss, _kilobytes(text, b"\nPss:"))

    def read_bytes(self) -> int | None:
        """Bytes the process has had fetched from disk since it started; `None` where the OS does not tell."""
        try:
            text = os.pread(self._io, 1024, 0) if self._io >= 0 else b""
        except OSError:
            return None
        return int(text.split(b"\nread_bytes:")[1].split()[0]) if b"\nread_bytes:" in text else None

    def count_decode(self, read_before: int | None, tokens: int) -> None:
        """Book the disk reads since `read_before` on `tokens` decoded tokens."""
        now = self.read_bytes()
        if now is not None and read_before is not None and tokens > 0:
            self._read_bytes += now - read_before
            self._decoded_tokens += tokens

    def clear_references(self) -> bool:
        """Take the accessed marks off every page of the process; False where the kernel does not offer it."""
        try:
            (self._proc / "clear_refs").write_text("1\n", encoding="ascii")
        except OSError:
            return False
        return True

    def count_references(self, files: Sequence[Path]) -> None:
        """Count the bytes of `files`' mappings that were accessed since `clear_references`."""
        with contextlib.suppress(OSError):
            smaps = (self._proc / "smaps").read_bytes()
            self._referenced = mapped_bytes(smaps, files, b"Referenced:")
            if b"FilePmdMapped:" in smaps:
                fields = (b"FilePmdMapped:", b"ShmemPmdMapped:")  # the second on tmpfs
                self._huge = sum(mapped_bytes(smaps, files, field) for field in fields)

    def peak(self, process: int = 0, *, buffers: Sequence[Buffer] = ()) -> MemoryPeak | None:
        """The peaks so far; `None` when the process was never seen. `buffers` derive the working set where the kernel
        could not measure it.
        """
        if self.readings == 0:
            return None
        baseline = self.baseline or 0
        unevictable = max(0, self._unevictable - baseline)
        mapped, method = self._mapped_in_use(buffers)
        return MemoryPeak(
            process=process,
            baseline_bytes=baseline,
            unevictable_bytes=unevictable,
            working_set_bytes=None if mapped is None else unevictable + mapped,
            working_set_method=method,
            huge_mapped_bytes=self._huge,
            rss_bytes=self._rss,
            pss_bytes=self._pss or None,
            hwm_bytes=self._hwm or None,
            swap_bytes=self._swap,
            read_bytes_per_token=self._read_bytes / self._decoded_tokens if self._decoded_tokens else None,
        )

    def _mapped_in_use(self, buffers: Sequence[Buffer]) -> tuple[int | None, str]:
        """Mapped bytes that every token reads, and how that is known."""
        if self._referenced is not None:
            return self._referenced, "accessed pages of the model file, counted by the kernel (clear_refs)"
        if not buffers:
            return None, ""
        mapped = sum(buffer.size_bytes for buffer in buffers if buffer.mapped)
        dormant = sum(buffer.size_bytes for buffer in buffers if buffer.role == "repacked")
        return max(
            0, mapped - dormant
        ), "derived from llama.cpp's log: mapped weights less the sources of repacked ones"

    def close(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self._status, self._io):
            if descriptor >= 0:
                os.close(descriptor)
        self._status = self._io = -1


def mapped_bytes(smaps: bytes, files: Sequence[Path], field: bytes) -> int:
    """Sum of `field` (`Referenced:`, `FilePmdMapped:`) over the mappings of `files` in a `/proc/PID/smaps`."""
    wanted = {os.fsencode(str(file)) for file in files}
    total, inside = 0, False
    for line in smaps.splitlines():
        key = line.split(None, 1)[0] if line else b""
        if key.endswith(b":"):
            if inside and key == field:
                total += int(line.split()[1]) * 1024
        else:
            parts = line.split(None, 5)
            inside = len(parts) == 6 and parts[5].removesuffix(b" (deleted)") in wanted
    return total


def _kilobytes(text: bytes, field: bytes) -> int:
    """The figure behind `field`, in bytes; 0 when it is missing."""
    at = text.find(field)
    return int(text[at + len(field) :].split(None, 1)[0]) * 1024 if at >= 0 else 0


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
