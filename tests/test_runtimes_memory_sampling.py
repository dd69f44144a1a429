"""The sampler on trees that look like /proc, and on a real process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.records import Buffer
from edgekit.runtimes.memory_sampling import Sampler, mapped_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SMAPS = b"""\
7f0000000000-7f0040000000 r--s 00000000 fe:00 77                        /models/my student.gguf
Size:            1048576 kB
Rss:              900000 kB
Referenced:       512000 kB
FilePmdMapped:    409600 kB
VmFlags: rd mr mw me ms sd
7f0050000000-7f0050100000 rw-p 00000000 00:00 0
Referenced:          900 kB
7f0060000000-7f0060100000 r-xp 00000000 fe:00 78                        /usr/lib/libllama.so
Referenced:          700 kB
7f0070000000-7f0070100000 r--s 40000000 fe:00 77                        /models/my student.gguf (deleted)
Referenced:         1000 kB
7f0080000000-7f0080100000 r--s 00000000 fe:00 79                        /models/my student.gguf.other
Referenced:         3000 kB
FilePmdMapped:      2048 kB
"""

REFERENCED, HUGE = b"Referenced:", b"FilePmdMapped:"


class Process:
    """A process folder whose figures the test sets, in kB."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "42"
        self.folder.mkdir()
        self.set(hwm=10, rss=10, anonymous=10, shared=0, swap=0)
        self.read(0)

    def set(self, **kilobytes: int) -> None:
        names = {"hwm": "VmHWM", "rss": "VmRSS", "anonymous": "RssAnon", "shared": "RssShmem", "swap": "VmSwap"}
        lines = [f"{names[name]}:\t{value:8d} kB" for name, value in kilobytes.items()]
        (self.folder / "status").write_text("Name:\tx\n" + "\n".join(lines) + "\n", encoding="ascii")

    def read(self, size_bytes: int) -> None:
        text = f"rchar: 9\nwchar: 9\nsyscr: 1\nsyscw: 1\nread_bytes: {size_bytes}\nwrite_bytes: 7\n"
        (self.folder / "io").write_text(text, encoding="ascii")


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path)


def test_peaks_are_the_highest_less_the_baseline(process: Process, tmp_path: Path) -> None:
    sampler = Sampler(42, tmp_path)
    process.set(hwm=100, rss=90, anonymous=30, shared=1, swap=0)
    sampler.take_baseline()
    process.set(hwm=900, rss=800, anonymous=300, shared=1, swap=50)
    sampler.sample()
    process.set(hwm=900, rss=500, anonymous=320, shared=1, swap=60)
    sampler.sample()
    process.set(hwm=900, rss=100, anonymous=20, shared=0, swap=0)
    sampler.sample()
    peak = sampler.peak(3)
    sampler.close()
    assert peak is not None
    assert peak.process == 3
    assert peak.baseline_bytes == 31 * 1024
    assert peak.unevictable_bytes == (320 + 1 + 60 - 31) * 1024
    assert peak.rss_bytes == 800 * 1024
    assert peak.hwm_bytes == 900 * 1024
    assert peak.swap_bytes == 60 * 1024
    assert peak.working_set_bytes is None


def test_working_set_from_accessed_pages(process: Process, tmp_path: Path) -> None:
    sampler = Sampler(42, tmp_path)
    assert sampler.clear_references()
    assert (process.folder / "clear_refs").read_text(encoding="ascii") == "1\n"
    process.set(hwm=900, rss=800, anonymous=300, shared=0, swap=0)
    sampler.sample()
    (process.folder / "smaps").write_bytes(SMAPS)
    sampler.count_references([Path("/models/my student.gguf")])
    peak = sampler.peak()
    sampler.close()
    assert peak is not None
    assert peak.working_set_bytes == (300 + 512000 + 1000) * 1024
    assert peak.huge_mapped_bytes == 409600 * 1024
    assert "clear_refs" in peak.working_set_method


def test_huge_pages_are_unknown_where_the_kernel_has_none(process: Process, tmp_path: Path) -> None:
    sampler = Sampler(42, tmp_path)
    sampler.sample()
    (process.folder / "smaps").write_bytes(b"\n".join(line for line in SMAPS.split(b"\n") if b"Pmd" not in line))
    sampler.count_references([Path("/models/my student.gguf")])
    peak = sampler.peak()
    sampler.close()
    assert peak is not None
    assert peak.working_set_bytes
    assert peak.huge_mapped_bytes is None


def test_working_set_from_the_log_where_the_kernel_cannot_tell(process: Process, tmp_path: Path) -> None:
    sampler = Sampler(42, tmp_path)
    sampler.sample()
    buffers = [
        Buffer(name="CPU_Mapped", role="weights", size_bytes=800, mapped=True),
        Buffer(name="CPU_REPACK", role="repacked", size_bytes=300),
        Buffer(name="CPU", role="kv", size_bytes=50),
    ]
    peak = sampler.peak(buffers=buffers)
    sampler.close()
    assert peak is not None
    assert peak.working_set_bytes == 10 * 1024 + 500
    assert "log" in peak.working_set_method


def test_only_the_models_mappings_count() -> None:
    assert mapped_bytes(SMAPS, [Path("/models/my student.gguf")], REFERENCED) == 513000 * 1024
    assert mapped_bytes(SMAPS, [Path("/models/other.gguf")], REFERENCED) == 0
    assert mapped_bytes(SMAPS, [Path("/models/my student.gguf")], HUGE) == 409600 * 1024
    assert mapped_bytes(b"", [], REFERENCED) == 0


def test_disk_reads_per_token(process: Process, tmp_path: Path) -> None:
    sampler = Sampler(42, tmp_path)
    sampler.sample()
    before = sampler.read_bytes()
    process.read(4096)
    sampler.count_decode(before, 4)
    peak = sampler.peak()
    sampler.close()
    assert peak is not None
    assert peak.read_bytes_per_token == 1024


def test_looks_less_often_while_memory_stands_still(
    process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    sampler = Sampler(42, tmp_path)
    assert sampler.pause_s() == 0.01
    now += 1
    sampler.sample()
    assert sampler.pause_s() == 0.1
    process.set(hwm=900, rss=800, anonymous=9000, shared=0, swap=0)
    sampler.sample()
    assert sampler.pause_s() == 0.01
    now += 1
    assert sampler.pause_s() == 0.1
    sampler.expect_movement()
    assert sampler.pause_s() == 0.01
    sampler.close()


def test_a_process_that_was_never_seen_has_no_peak(tmp_path: Path) -> None:
    sampler = Sampler(43, tmp_path)
    sampler.sample()
    sampler.take_baseline()
    assert not sampler.clear_references()
    sampler.count_references([])
    assert sampler.read_bytes() is None
    assert sampler.peak() is None
    sampler.close()


def test_a_zombie_is_not_an_empty_process(process: Process, tmp_path: Path) -> None:
    sampler = Sampler(42, tmp_path)
    sampler.sample()
    (process.folder / "status").write_text("Name:\tx\nState:\tZ (zombie)\n", encoding="ascii")
    sampler.sample()
    assert sampler.readings == 1
    sampler.close()


def test_private_pages_of_a_real_process_are_seen() -> None:
    program = "import sys; block = bytearray(b'x' * (64 << 20)); print('up', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        sampler = Sampler(child.pid)
        sampler.end_phase()
        child.stdin.close()
    peak = sampler.peak()
    sampler.close()
    assert peak is not None
    assert peak.unevictable_bytes is not None
    assert peak.pss_bytes is not None
    assert 64 << 20 < peak.unevictable_bytes < 120 << 20
    assert peak.pss_bytes > 60 << 20
