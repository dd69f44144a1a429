"""Thread counts on trees that look like other machines."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError, ExitCode
from edgekit.records import Settings
from edgekit.runtimes import open_answerer, open_scorer, open_worker
from edgekit.runtimes.cores import MOST_TIMES, big_cores, check_threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /sys")


def machine(root: Path, cores: list[tuple[str, int]], siblings: int = 1, quota: str = "") -> Path:
    """A /sys with one CPU per entry: (file that tells its speed, value)."""
    for number, (name, value) in enumerate(cores):
        cpu = root / f"sys/devices/system/cpu/cpu{number}"
        (cpu / "topology").mkdir(parents=True)
        first = number - number % siblings
        (cpu / "topology/thread_siblings_list").write_text(f"{first}-{first + siblings - 1}\n", encoding="ascii")
        if name:
            (cpu / name).parent.mkdir(exist_ok=True)
            (cpu / name).write_text(f"{value}\n", encoding="ascii")
    if quota:
        (root / "sys/fs/cgroup").mkdir(parents=True)
        (root / "sys/fs/cgroup/cpu.max").write_text(f"{quota}\n", encoding="ascii")
    return root


CLOCK, CAPACITY = "cpufreq/cpuinfo_max_freq", "cpu_capacity"


@pytest.mark.parametrize(
    ("cores", "siblings", "quota", "expected"),
    [
        ([(CAPACITY, 325)] * 4 + [(CAPACITY, 870)] * 3 + [(CAPACITY, 1024)], 1, "", 4),
        ([(CLOCK, 1_800_000)] * 4 + [(CLOCK, 2_850_000)] * 4, 1, "", 4),
        ([(CLOCK, 2_400_000)] * 4, 1, "", 4),
        ([("", 0)] * 8, 2, "", 4),
        ([(CLOCK, 5_400_000)] * 8 + [(CLOCK, 5_700_000)] * 8, 2, "", 8),
        ([("", 0)] * 16, 2, "300000 100000", 3),
        ([("", 0)] * 16, 2, "max 100000", 8),
        ([("", 0)] * 2, 1, "50000 100000", 1),
        ([("", 0)] * 2, 1, "nonsense", 2),
    ],
    ids=["phone", "clocks", "pi5", "smt", "favoured", "quota", "unlimited", "half", "odd"],
)
def test_big_cores(tmp_path: Path, cores: list[tuple[str, int]], siblings: int, quota: str, expected: int) -> None:
    assert big_cores(machine(tmp_path, cores, siblings, quota)) == expected


def test_no_sys_at_all(tmp_path: Path) -> None:
    assert big_cores(tmp_path) == os.cpu_count()


def test_here() -> None:
    assert 1 <= big_cores() <= len(os.sched_getaffinity(0))


# ---- how many are taken ---------------------------------------------------------------------------------------------

MOST = MOST_TIMES * (os.cpu_count() or 1)


def test_as_many_threads_as_can_help_are_taken() -> None:
    for threads in (0, 1, MOST):
        check_threads(threads)
    for threads in (-1, MOST + 1):
        with pytest.raises(EdgekitError, match=f"at most {MOST} threads.*`{threads}`") as caught:
            check_threads(threads)
        assert caught.value.code == ExitCode.USAGE


def test_no_worker_is_started_with_more(tiny_gguf: Path) -> None:
    """llama.cpp would die of them, and the death be called its own."""
    settings = Settings(context_tokens=64, threads=100_000)
    with ExitStack() as stack:
        for entered in (
            open_worker(tiny_gguf, settings, timeout_s=60, seed=1),
            open_scorer(tiny_gguf, None, settings, text="a text", vocabulary=1000),
            open_answerer(tiny_gguf, settings),
        ):
            with pytest.raises(EdgekitError, match="at most"):
                stack.enter_context(entered)


def test_nothing_is_made_with_more(tiny_gguf: Path, tmp_path: Path) -> None:
    from edgekit.quantize.imatrix import compute_imatrix

    with pytest.raises(EdgekitError, match="at most"):
        compute_imatrix(tiny_gguf, "words " * 5000, tmp_path / "imatrix.gguf", threads=100_000)
    assert not list(tmp_path.iterdir())
