"""The parent survives whatever a worker does: it dies, hangs, floods, lies; no process is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from edgekit import runtimes
from edgekit.errors import EdgekitError, ExitCode
from edgekit.records import Settings
from edgekit.runtimes.death import explain_exit
from edgekit.runtimes.process import scrubbed_environment
from edgekit.runtimes.protocol import Step

PRELUDE = """
import json, os, signal, sys, time
out = os.fdopen(int(sys.argv[1]), "wb", buffering=0)
def say(**content): out.write(json.dumps(content).encode() + b"\\n")
def hear(): return json.loads(sys.stdin.buffer.readline())
def ready(): say(type="ready", build="b", cpu_features="", isolation="")
def loaded(): say(type="loaded", load_ns=1, vocabulary=32, context_tokens=4096, threads=1)
def timed(repetition=0): say(type="timed", repetition=repetition, tokens=2, elapsed_ns=9, token_ns=[4, 4])
def up_to_run(): hear(); ready(); hear(); loaded(); hear()
"""
STEP = Step(test="tg2", generate=2, repetitions=2)
Rogue = Callable[[str], list[str]]


@pytest.fixture
def rogue(tmp_path: Path) -> Rogue:
    """A worker that does what the test says."""

    def write(body: str) -> list[str]:
        script = tmp_path / "rogue.py"
        script.write_text(PRELUDE + textwrap.dedent(body), encoding="utf-8")
        return [sys.executable, "-I", "-S", str(script)]

    return write


def children() -> set[int]:
    """Processes that have this one as their parent, zombies too."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(stat.parent.name))
    return found


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    children_before = children()
    descriptors_before = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()
    yield
    assert children() <= children_before
    if sys.platform == "linux":
        assert set(os.listdir("/proc/self/fd")) <= descriptors_before


def run_rogue(command: list[str], tmp_path: Path, timeout_s: float = 20.0) -> tuple[int, runtimes.WorkerDied]:
    """Run `STEP` on the rogue; how many samples came, and how it ended."""
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    samples = 0
    try:
        with runtimes.open_worker(model, Settings(), timeout_s=timeout_s, seed=1, command=command) as worker:
            for _ in worker.run(STEP):
                samples += 1
            worker.finish()
    except runtimes.WorkerDied as death:
        return samples, death
    raise AssertionError("the rogue came through")


def test_an_honest_worker_passes(rogue: Rogue, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    body = """
    hear(); ready(); hear(); loaded()
    while (command := hear())["op"] == "run":
        for repetition in range(command["step"]["repetitions"]):
            tokens = command["step"]["generate"]
            say(type="timed", repetition=repetition, tokens=tokens, elapsed_ns=9 * tokens, token_ns=[8] * tokens)
        say(type="done")
    """
    with runtimes.open_worker(model, Settings(), timeout_s=20, seed=1, command=rogue(body)) as worker:
        assert [sample.repetition for sample in worker.run(STEP)] == [0, 1]
        assert len(list(worker.run(STEP))) == 2
        next(iter(worker.run(STEP)))  # leaving early does not confuse the next step
        assert len(list(worker.run(STEP))) == 2
        peak = worker.finish(process=2)
    if sys.platform == "linux":
        assert peak is not None
        assert peak.process == 2
        assert peak.rss_bytes


@pytest.mark.parametrize(
    ("body", "code", "samples"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "worker-killed", 0),
        ("up_to_run(); timed(); os.kill(os.getpid(), signal.SIGKILL)", "worker-killed", 1),
        ("up_to_run(); timed(); os.abort()", "worker-aborted", 1),
        ("up_to_run(); os.kill(os.getpid(), signal.SIGSEGV)", "worker-segfault", 0),
        ("up_to_run(); os.kill(os.getpid(), signal.SIGBUS)", "worker-bus-error", 0),
        ("up_to_run(); os.kill(os.getpid(), signal.SIGILL)", "worker-illegal-instruction", 0),
        ("up_to_run(); os.kill(os.getpid(), signal.SIGFPE)", "worker-aborted", 0),
        ("up_to_run(); os.kill(os.getpid(), signal.SIGRTMIN + 3)", "worker-killed", 0),
        ("up_to_run(); timed(); sys.exit(0)", "worker-exited", 1),
        ("up_to_run(); sys.exit(7)", "worker-exited", 0),
        ("hear(); ready(); hear(); say(type='refused', stage='model', message='bad file')", "model-rejected", 0),
        ("hear(); ready(); hear(); say(type='refused', stage='context', message='no room')", "context-rejected", 0),
        ("hear(); ready(); hear(); say(type='refused', stage='nonsense', message='x')", "worker-exited", 0),
        ("up_to_run(); out.write(b'not json\\n')", "worker-protocol", 0),
        ('up_to_run(); timed(); out.write(b\'{"type":"timed","elapsed_ns":NaN}\\n\')', "worker-protocol", 1),
        ("up_to_run(); out.write(b'x' * 3_000_000)", "worker-protocol", 0),
        ("up_to_run(); out.write(b'[' * 900_000 + b'\\n')", "worker-protocol", 0),
        ("up_to_run()\nfor n in range(10**6): timed(n)", "worker-protocol", 2),
        ("up_to_run(); loaded()", "worker-protocol", 0),
        ("loaded()", "worker-protocol", 0),
        ("up_to_run(); say(type='timed', repetition=0, tokens=9, elapsed_ns=1, token_ns=[1]*9)", "worker-protocol", 0),
    ],
)
def test_every_end_is_a_finding(rogue: Rogue, tmp_path: Path, body: str, code: str, samples: int) -> None:
    seen, death = run_rogue(rogue(body), tmp_path)
    assert (death.finding.code, seen) == (code, samples)
    assert death.finding.level == "fault"
    assert death.code == (ExitCode.USAGE if code.endswith("-rejected") else ExitCode.BROKE)
    assert "\n" not in death.message
    assert death.message[0].islower()


@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(600)",
        "up_to_run(); timed(); time.sleep(600)",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); up_to_run(); time.sleep(600)",
        "up_to_run(); out.close(); time.sleep(600)",
        "up_to_run()\nwhile True: os.write(2, b'chatter\\n' * 100)",
    ],
    ids=("at the start", "in a step", "deaf to SIGTERM", "silent with a closed pipe", "chattering"),
)
def test_hangs_end_at_the_timeout(rogue: Rogue, tmp_path: Path, body: str) -> None:
    started = time.monotonic()
    _, death = run_rogue(rogue(body), tmp_path, timeout_s=1.0)
    assert death.finding.code in ("worker-timeout", "worker-protocol")
    assert time.monotonic() - started < 15


def test_grandchildren_die_too(rogue: Rogue, tmp_path: Path) -> None:
    note = tmp_path / "grandchild"
    body = f"""
    child = os.fork()
    if child == 0: time.sleep(600)
    open({str(note)!r}, "w").write(str(child))
    up_to_run(); time.sleep(600)
    """
    run_rogue(rogue(body), tmp_path, timeout_s=1.0)
    deadline = time.monotonic() + 10
    grandchild = Path("/proc") / note.read_text(encoding="ascii") / "stat"
    while time.monotonic() < deadline and grandchild.exists() and ") Z " not in grandchild.read_text():
        time.sleep(0.01)
    assert not grandchild.exists() or ") Z " in grandchild.read_text()


def test_the_log_says_what_was_at_fault(rogue: Rogue, tmp_path: Path) -> None:
    body = r"""
    os.write(2, b"llama_model_load: error loading model: missing tensor 'blk.0.attn_q.weight'\n")
    hear(); ready(); hear(); say(type="refused", stage="model", message="llama.cpp could not load the model")
    """
    _, death = run_rogue(rogue(body), tmp_path)
    assert "missing tensor 'blk.0.attn_q.weight'" in death.message
    assert "converted completely" in death.hint


def test_broken_amx_kernels_are_found_out_and_avoided(
    rogue: Rogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.runtimes import amx

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(amx, "_known", {})
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    body = """
    start = hear()
    say(type="ready", build="b", cpu_features="AVX2 AMX_INT8", isolation="")
    hear()
    if start["amx"] != "denied": os.kill(os.getpid(), signal.SIGILL)
    loaded(); hear()
    """
    for _ in range(2):
        with runtimes.open_worker(model, Settings(), timeout_s=20, seed=1, command=rogue(body)) as worker:
            assert [finding.code for finding in worker.findings] == ["amx-broken"]
            assert worker.runtime.cpu_features == "AVX2"
    # the next process knows it at once: its worker may die no more
    monkeypatch.setattr(amx, "_known", {})
    if sys.platform == "linux":
        assert amx.amx_state() == "denied"
        assert amx.notes_path().read_text().count("\n") == 1
    amx.deny_amx()
    # a death by SIGILL without AMX is not its fault, and is told as it is
    _, death = run_rogue(rogue("hear(); ready(); hear(); os.kill(os.getpid(), signal.SIGILL)"), tmp_path)
    assert death.finding.code == "worker-illegal-instruction"


def test_nothing_is_noted_of_amx_when_a_worker_dies_without_it_too(
    rogue: Rogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.runtimes import amx

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(amx, "_known", {})
    _, death = run_rogue(rogue("hear(); ready(); hear(); os.kill(os.getpid(), signal.SIGILL)"), tmp_path)
    assert death.finding.code == "worker-illegal-instruction"
    assert not amx.notes_path().exists()


@pytest.mark.parametrize("notes", [b"", b"0123abcd\n", b"\xff\xfe", b"0123 " * 20_000])
def test_notes_of_other_machines_or_of_nobody_deny_nothing(
    notes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.runtimes import amx

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(amx, "_known", {})
    amx.notes_path().parent.mkdir()
    amx.notes_path().write_bytes(notes)
    assert amx.amx_state() == "allowed"
    assert amx.amx_findings() == ()
    amx.note_broken_amx()
    monkeypatch.setattr(amx, "_known", {})
    assert amx.amx_state() == ("denied" if sys.platform == "linux" else "allowed")


def test_an_oom_kill_is_told_from_another_kill() -> None:
    assert explain_exit(-signal.SIGKILL, "", out_of_memory=True).code == "worker-out-of-memory"
    assert explain_exit(-signal.SIGKILL, "", out_of_memory=False).code == "worker-killed"
    assert explain_exit(-signal.SIGSEGV, "", out_of_memory=True).code == "worker-segfault"


def test_ctrl_c_ends_the_worker(rogue: Rogue, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    command = rogue("up_to_run(); timed(); os.kill(os.getppid(), signal.SIGINT); time.sleep(600)")
    with (
        pytest.raises(KeyboardInterrupt),
        runtimes.open_worker(model, Settings(), timeout_s=30, seed=1, command=command) as worker,
    ):
        list(worker.run(STEP))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a worker with its parent at once")
def test_the_worker_dies_with_its_parent(tiny_gguf: Path) -> None:
    program = f"""
from pathlib import Path
from edgekit import runtimes
from edgekit.records import Settings
with runtimes.open_worker(Path({str(tiny_gguf)!r}), Settings(context_tokens=512), timeout_s=60, seed=1) as worker:
    print(worker.pid, flush=True)
    list(worker.run(runtimes.Step(test="s", duration_s=50)))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGSTOP)  # it cannot notice by itself now
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 10
        stat = Path(f"/proc/{pid}/stat")
        while time.monotonic() < deadline and stat.exists() and " Z " not in stat.read_text():
            time.sleep(0.01)
        assert not stat.exists() or " Z " in stat.read_text()


def test_the_environment_is_scrubbed(rogue: Rogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("LD_PRELOAD", "")
    body = "os.write(2, ('error ' + ' '.join(sorted(os.environ)) + '\\n').encode()); sys.exit(1)"
    _, death = run_rogue(rogue(body), tmp_path)
    names = set(re.findall(r"\b[A-Z_]{3,}\b", death.message))
    assert {"PATH", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"} <= names
    assert not {"AWS_SECRET_ACCESS_KEY", "HOME", "LD_PRELOAD"} & names


def test_openmp_spins_unless_told_otherwise() -> None:
    assert "OMP_WAIT_POLICY" not in scrubbed_environment({"SHELL": "x"})
    assert scrubbed_environment({"OMP_WAIT_POLICY": "PASSIVE"})["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize(
    "step",
    [
        Step(test="pp5000", prompt=5000),
        Step(test="tg16@d4096", generate=16, depth=4096),
        Step(test="nothing"),
        Step(test="negative", prompt=-1, generate=5),
        Step(test="never", prompt=1, repetitions=0),
        Step(test="sustained", duration_s=1, depth=4096),
    ],
    ids=lambda step: step.test,
)
def test_impossible_steps_are_refused_before_they_are_sent(rogue: Rogue, tmp_path: Path, step: Step) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    command = rogue("hear(); ready(); hear(); loaded(); hear()")
    with (
        pytest.raises(EdgekitError, match=step.test) as caught,
        runtimes.open_worker(model, Settings(), timeout_s=20, seed=1, command=command) as worker,
    ):
        list(worker.run(step))
    assert not isinstance(caught.value, runtimes.WorkerDied)


def test_a_missing_model_starts_nothing(tmp_path: Path) -> None:
    missing = tmp_path / "missing.gguf"
    with (
        pytest.raises(EdgekitError, match=r"missing\.gguf"),
        runtimes.open_worker(missing, Settings(), timeout_s=20, seed=1, command=["/nonexistent"]),
    ):
        pass


def test_all_shards_are_wanted(tmp_path: Path) -> None:
    from edgekit.runtimes.handle import model_files

    first, second = (tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2))
    first.touch()
    with pytest.raises(EdgekitError, match=r"m-00002-of-00002\.gguf"):
        model_files(first)
    second.touch()
    assert model_files(first) == (first, second)


def test_signal_numbers_are_negative_statuses() -> None:
    """`subprocess` reports a death by signal as a negative status; the findings are read from it."""
    done = subprocess.run([sys.executable, "-c", "import os; os.abort()"], check=False, stderr=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGABRT
