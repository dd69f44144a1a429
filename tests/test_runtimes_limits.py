"""A worker held to a device's share of memory. `systemd-run` is a shim here: no test machine has a user's manager."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_fakes import Fakes, artifact, died

from edgekit.bench import PRESETS, measure
from edgekit.bench.checks import limit_notes
from edgekit.gate import figures
from edgekit.pipeline import open_artifact
from edgekit.records import Finding, MemoryLimit, MemoryPeak, Settings
from edgekit.runtimes import Worker, WorkerDied, amx, choose_limit, limits, open_worker
from edgekit.runtimes.limits import cached_warning, explain_limited, group_limit, put_out
from edgekit.runtimes.protocol import Step

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")

SETTINGS = Settings(context_tokens=256, threads=1)
SCOPE = MemoryLimit(limit_bytes=10**9, means="scope", mapped=True, words="held")


def shim(folder: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> Path:
    """A `systemd-run` that notes how it was called and, like the real one, becomes the command it is given. The command
    that looks its limit up is told `says`.
    """
    program = folder / "bin/systemd-run"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {folder}/calls\nfor word; do shift; [ "$word" = -- ] && break; done\n'
        f'[ "$1" = sh ] && {{ echo "{says}"; exit 0; }}\nexec "$@"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return folder / "calls"


# ---- what holds ---------------------------------------------------------------------------------------------------


def group(root: Path, cgroup: str, **limits: str) -> Path:
    (root / "proc/7").mkdir(parents=True)
    (root / "proc/7/cgroup").write_text(cgroup)
    for path, text in limits.items():
        file = root / "sys/fs/cgroup" / path.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_the_tightest_group_counts(tmp_path: Path) -> None:
    names = {"a__memory_dot_max": "5000\n", "a__b__memory_dot_max": "max\n", "a__b__c__memory_dot_max": "9000\n"}
    assert group_limit(7, group(tmp_path / "two", "0::/a/b/c\n", **names)) == 5000
    first = {"memory__x__memory.limit_in_bytes": "7000\n", "memory__memory.limit_in_bytes": "9223372036854771712\n"}
    assert group_limit(7, group(tmp_path / "one", "4:memory:/x\n1:cpu:/\n0::/\n", **first)) == 7000
    assert group_limit(7, group(tmp_path / "free", "0::/a\n", a__memory_dot_max="max\n")) is None
    assert group_limit(7, tmp_path / "nothing") is None
    odd = group(tmp_path / "odd", "0::/../../a\n", a__memory_dot_max="1\n")
    assert group_limit(7, odd) == 1, "no path of a group leaves its mount"


@pytest.mark.parametrize(
    ("says", "means"),
    [("1000000000", "scope"), ("999997440", "scope"), ("max", "rlimit"), ("2000000000", "rlimit"), ("", "rlimit")],
)
def test_a_scope_is_believed_only_where_the_kernel_has_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, means: str
) -> None:
    shim(tmp_path, monkeypatch, says)
    found = choose_limit(10**9)
    assert (found.means, found.mapped) == (means, means == "scope")
    assert "1.00 GB" in found.words
    assert ("uncounted" in found.words) == (means == "rlimit"), "what it leaves is said"


# ---- workers under it ---------------------------------------------------------------------------------------------


def test_a_worker_in_a_scope_is_the_same_process(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = shim(tmp_path, monkeypatch, "1000000000")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    limit = choose_limit(10**9)
    with open_worker(tiny_gguf, SETTINGS, timeout_s=60, seed=1, limit=limit) as worker:
        environment = Path(f"/proc/{worker.pid}/environ").read_bytes()
        assert [one.tokens for one in worker.run(Step(test="tg4", generate=4))] == [4]
        assert worker.finish() is not None
    assert b"XDG_RUNTIME_DIR" not in environment, "the worker is not told where the user's manager listens"
    last = calls.read_text().splitlines()[-1]
    assert "--scope" in last
    assert "-p MemoryMax=1000000000 -p MemorySwapMax=0 --" in last


def test_private_memory_beyond_the_limit_is_a_result_and_no_bad_input(tiny_gguf: Path) -> None:
    limit = MemoryLimit(limit_bytes=40_000_000, means="rlimit", mapped=False, words="private memory held")
    settings = replace(SETTINGS, context_tokens=65536)
    with pytest.raises(WorkerDied) as caught, open_worker(tiny_gguf, settings, timeout_s=60, seed=1, limit=limit):
        pass
    assert caught.value.finding.code == "memory-limit"
    assert "does not fit into 40 MB" in caught.value.message
    assert caught.value.code == 4
    with open_worker(tiny_gguf, settings, timeout_s=60, seed=1):
        pass  # the same without the limit loads


def test_only_want_of_memory_is_blamed_on_the_limit() -> None:
    crash = died("worker-segfault")
    assert explain_limited(crash, SCOPE) is crash
    assert explain_limited(died("worker-out-of-memory"), SCOPE).finding.code == "memory-limit"
    refused = WorkerDied(Finding(level="fault", code="context-rejected", message="failed to allocate buffer"))
    assert explain_limited(refused, SCOPE).finding.code == "memory-limit"
    no_more = "llama.cpp aborted (call; ggml.c:1644: GGML_ASSERT(ctx->mem_buffer != NULL) failed)"
    aborted = WorkerDied(Finding(level="fault", code="worker-aborted", message=no_more))
    assert explain_limited(aborted, SCOPE).finding.code == "memory-limit"
    threadless = "the worker ended early with status `1` (Thread creation failed: Resource temporarily unavailable)"
    exited = WorkerDied(Finding(level="fault", code="worker-exited", message=threadless))
    assert explain_limited(exited, replace(SCOPE, means="rlimit")).finding.code == "memory-limit"
    assert explain_limited(exited, SCOPE) is exited, "a group counts no stack that nobody has used"


def test_threads_that_were_not_asked_for_do_not_count(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")  # what a CPU of as many cores starts with
    monkeypatch.setattr(amx, "_known", {"state": "allowed"})
    limit = MemoryLimit(limit_bytes=80_000_000, means="rlimit", mapped=False, words="private memory held")
    with open_worker(tiny_gguf, SETTINGS, timeout_s=60, seed=1, limit=limit) as worker:
        assert worker.runtime.threads == SETTINGS.threads


# ---- the page cache -----------------------------------------------------------------------------------------------


def test_cached_pages_are_put_out_or_told_of(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(4_000_000))
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    file.read_bytes()
    if put_out([file]) > 0.5:
        pytest.skip("this file system keeps what it was asked to forget (a memory file system?)")
    assert cached_warning(SCOPE, put_out([file])) is None
    file.write_bytes(os.urandom(4_000_000))
    assert put_out([file]) < 0.05, "what was just written is on the disk before it is forgotten"
    warned = cached_warning(SCOPE, 0.4)
    assert warned is not None
    assert "40 %" in warned.message
    assert cached_warning(replace(SCOPE, means="rlimit", mapped=False), 0.4) is None, "that limit never counted them"


def test_a_disk_whose_reads_do_not_count_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights"
    with file.open("wb") as opened:
        opened.write(os.urandom(4_000_000))
        opened.flush()
        os.fsync(opened.fileno())
    if put_out([file]) > 0.5:
        pytest.skip("this file system keeps what it was asked to forget (a memory file system?)")
    assert limits.watch_cache(SCOPE, [file]) is None
    assert put_out([file]) < 0.05, "the look itself leaves nothing in the cache"
    monkeypatch.setattr(limits, "_fetched", lambda: 4096)
    for means in ("scope", "group"):
        told = limits.watch_cache(replace(SCOPE, means=means), [file])
        assert told is not None
        assert told.code == "limit-reads-uncounted"
    assert limits.watch_cache(replace(SCOPE, means="rlimit", mapped=False), [file]) is None


def test_the_gate_knows_what_a_limit_missed() -> None:
    left, uncounted = cached_warning(SCOPE, 0.4), limits.uncounted_warning([Path("/proc/self/status")])
    assert left is not None
    assert uncounted is not None
    assert {left.code, uncounted.code} == set(figures._LEAKS)


# ---- what the bench makes of it -----------------------------------------------------------------------------------


def limited(read_bytes: float, limit: MemoryLimit = SCOPE) -> dict[str, str]:
    fakes = Fakes(read_bytes=read_bytes)
    run = measure(
        artifact(), PRESETS["quick"], open_worker=fakes.open_worker, clock=fakes.clock,  # type: ignore[arg-type]
        sleep=fakes.clock.sleep, root=Path("/nonexistent-root"), memory_limit=limit,
    )  # fmt: skip
    assert run.memory_limit == limit
    assert all(opened.limit == limit for opened in fakes.opened)
    assert all(isinstance(peak, MemoryPeak) and peak.read_bytes_per_token == read_bytes for peak in run.peaks)
    return {finding.code: finding.message for finding in run.findings}


def test_a_model_that_lives_on_the_disk_is_called_thrashing() -> None:
    assert "memory-limit-held" in limited(1000.0)
    assert "thrashing" not in limited(1000.0)
    assert "the model thrashes, so it does not fit" in limited(80_000_000.0)["thrashing"]
    private = replace(SCOPE, means="rlimit", mapped=False)
    assert "does not fit" not in limited(80_000_000.0, private)["thrashing"], "that limit took no weights away"
    peak = MemoryPeak(process=0, baseline_bytes=0, unevictable_bytes=1, working_set_bytes=1, read_bytes_per_token=8e7)
    routed = replace(artifact().header, experts=8, experts_used=2)
    assert [note.code for note in limit_notes(SCOPE, [peak], artifact().header)] == ["memory-limit-held", "thrashing"]
    assert [note.code for note in limit_notes(SCOPE, [peak], routed)] == ["memory-limit-held"]


@pytest.mark.parametrize(("largest", "level"), [(4352, "warning"), (1024, "fault")])
def test_a_context_beyond_the_judged_one_that_does_not_fit_is_left_out(largest: int, level: str) -> None:
    """What is judged ran; only the depths that need more room than it are missing."""
    workload = replace(PRESETS["quick"], depths=(4096,), settings=Settings(context_tokens=1024))

    def on_open(process: int) -> None:
        if fakes.opened[process].settings.context_tokens == largest:
            raise died("memory-limit")

    fakes = Fakes(on_open=on_open)
    run = measure(
        artifact(), workload, open_worker=fakes.open_worker, clock=fakes.clock,  # type: ignore[arg-type]
        sleep=fakes.clock.sleep, root=Path("/nonexistent-root"), memory_limit=SCOPE,
    )  # fmt: skip
    assert [finding.level for finding in run.findings if finding.code == "memory-limit"] == [level]
    assert bool(run.samples) == (level == "warning")


# ---- pages taken away for real ------------------------------------------------------------------------------------

PIDFD_MADVISE, MADV_PAGEOUT = 440, 21


class Vector(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def take_pages(pid: int, file: Path) -> int:
    """Have the kernel reclaim what `pid` has mapped of `file`, as under a group's limit; errno, 0 when done."""
    handle = os.pidfd_open(pid)
    try:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if not line.endswith(str(file)):
                continue
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            vector, libc = Vector(begin, end - begin), ctypes.CDLL(None, use_errno=True)
            one = ctypes.c_size_t(1)
            if libc.syscall(PIDFD_MADVISE, handle, ctypes.byref(vector), one, MADV_PAGEOUT, 0) < 0:
                return 0 if ctypes.get_errno() == errno.ESRCH else ctypes.get_errno()
    finally:
        os.close(handle)
    put_out([file])
    return 0


def test_a_model_whose_pages_are_taken_away_reads_them_again_and_does_not_fit(tiny_gguf: Path) -> None:
    errors: list[int] = []

    @contextmanager
    def starved(path: Path, settings: Settings, **options: Any) -> Iterator[Worker]:
        done = threading.Event()

        def take() -> None:
            while not done.wait(0.002) and not any(errors):
                with suppress(ProcessLookupError):  # it ends before this does
                    errors.append(take_pages(worker.pid, path))

        with open_worker(path, settings, **options) as worker:
            thread = threading.Thread(target=take)
            thread.start()
            try:
                yield worker
            finally:
                done.set()
                thread.join()

    small = replace(PRESETS["quick"], prompt_tokens=(32,), processes=1, repetitions_min=4, repetitions_max=4)
    workload = replace(small, settings=replace(SETTINGS, repack=False))
    limit = choose_limit(10**9)
    run = measure(open_artifact(tiny_gguf), workload, memory_limit=limit, open_worker=starved)
    if any(errors):
        pytest.skip(f"pages of another process may not be taken here: {os.strerror(max(errors))}")
    assert "thrashing" in {finding.code for finding in run.findings}, run.peaks
    fed = measure(open_artifact(tiny_gguf), workload, memory_limit=limit)
    assert "thrashing" not in {finding.code for finding in fed.findings}, fed.peaks
