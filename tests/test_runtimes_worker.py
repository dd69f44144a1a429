"""A real model in a real worker: it runs, it is fenced in, and files that break it break nothing else."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit import runtimes
from edgekit.records import MemoryPeak, Settings
from edgekit.runtimes.process import worker_command
from edgekit.runtimes.protocol import Step

SETTINGS = Settings(context_tokens=512, batch_tokens=128, ubatch_tokens=64, threads=2)
MIB = 2**20


def run_model(path: Path, settings: Settings = SETTINGS, memory_limit_bytes: int = 0) -> MemoryPeak | None:
    with runtimes.open_worker(path, settings, timeout_s=60, seed=1, memory_limit_bytes=memory_limit_bytes) as worker:
        for step in (Step(test="pp64", prompt=64), Step(test="tg4", generate=4)):
            assert len(list(worker.run(step))) == 1
        return worker.finish()


def test_tests_run_and_say_what_ran(tiny_gguf: Path) -> None:
    with runtimes.open_worker(tiny_gguf, SETTINGS, timeout_s=60, seed=1) as worker:
        assert worker.load_s > 0
        assert worker.context_tokens == 512
        assert worker.runtime.name == "llama.cpp"
        assert worker.runtime.threads == 2
        assert worker.runtime.backend.startswith("cpu")
        assert worker.runtime.flash_attention is True
        assert worker.runtime.build.startswith("llama.cpp ")
        assert worker.runtime.cpu_features
        assert {buffer.role for buffer in worker.buffers} >= {"weights", "kv", "compute"}

        (prefill,) = worker.run(Step(test="pp200", prompt=200))
        assert (prefill.tokens, prefill.token_s, prefill.warmup) == (200, (), False)
        assert prefill.elapsed_s > 0
        decode = list(worker.run(Step(test="tg5@d100", generate=5, depth=100, repetitions=3, warmup=True)))
        assert [sample.repetition for sample in decode] == [0, 1, 2]
        assert all(sample.warmup and len(sample.token_s) == 5 for sample in decode)
        assert all(sum(sample.token_s) == pytest.approx(sample.elapsed_s) for sample in decode)
        sustained = list(worker.run(Step(test="sustained", generate=16, duration_s=1.5)))
        assert len(sustained) >= 2


@pytest.mark.parametrize(
    "change",
    [
        {"mmap": False},
        {"repack": False},
        {"kv_type": "q8_0"},
        {"kv_type": "q4_0", "flash_attention": "on"},
        {"flash_attention": "off"},
        {"output_rows": 1},
    ],
    ids=str,
)
def test_settings_reach_llama_cpp(tiny_gguf: Path, change: dict[str, object]) -> None:
    settings = dataclasses.replace(SETTINGS, **change)  # type: ignore[arg-type]
    with runtimes.open_worker(tiny_gguf, settings, timeout_s=60, seed=1) as worker:
        list(worker.run(Step(test="tg2@d70", generate=2, depth=70)))
        buffers, runtime = worker.buffers, worker.runtime
    assert any(buffer.mapped for buffer in buffers) == settings.mmap
    assert bool(runtime.repacked_tensors) == settings.repack
    assert any(buffer.role == "repacked" for buffer in buffers) == settings.repack
    assert runtime.flash_attention == (settings.flash_attention != "off")


def test_the_kv_type_changes_the_cache(tiny_gguf: Path) -> None:
    def kv_bytes(settings: Settings) -> int:
        with runtimes.open_worker(tiny_gguf, settings, timeout_s=60, seed=1) as worker:
            return sum(buffer.size_bytes for buffer in worker.buffers if buffer.role == "kv")

    # q8_0 holds 32 values in 34 bytes, f16 in 64
    f16, q8 = kv_bytes(SETTINGS), kv_bytes(dataclasses.replace(SETTINGS, kv_type="q8_0"))
    assert q8 == pytest.approx(f16 * 34 / 64, rel=0.02)


def test_a_quantized_cache_needs_flash_attention(tiny_gguf: Path) -> None:
    settings = dataclasses.replace(SETTINGS, kv_type="q8_0", flash_attention="off")
    with pytest.raises(runtimes.WorkerDied) as caught:
        run_model(tiny_gguf, settings)
    assert caught.value.finding.code == "context-rejected"
    assert "flash_attn" in caught.value.finding.message
    assert caught.value.hint


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_peaks(tiny_gguf: Path) -> None:
    size = tiny_gguf.stat().st_size
    mapped = run_model(tiny_gguf, dataclasses.replace(SETTINGS, repack=False))
    private = run_model(tiny_gguf, dataclasses.replace(SETTINGS, repack=False, mmap=False))
    for peak in (mapped, private):
        assert peak is not None
        assert peak.unevictable_bytes is not None
        assert peak.working_set_bytes is not None
        assert peak.rss_bytes is not None
        assert 0 < peak.baseline_bytes < 60 * MIB
        assert peak.working_set_bytes >= peak.unevictable_bytes
        assert peak.read_bytes_per_token is not None
    assert mapped is not None
    assert private is not None
    # the weights are in the page cache with mmap, in private memory without
    gap = (private.unevictable_bytes or 0) - (mapped.unevictable_bytes or 0)
    assert 0.8 * size < gap < 1.3 * size
    in_use = (mapped.working_set_bytes or 0) - (mapped.unevictable_bytes or 0)
    assert 0.5 * size < in_use <= 1.05 * size


@pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")
def test_a_memory_limit_makes_the_load_fail_in_good_order(tiny_gguf: Path) -> None:
    settings = dataclasses.replace(SETTINGS, mmap=False, context_tokens=400_000)
    with pytest.raises(runtimes.WorkerDied) as caught:
        run_model(tiny_gguf, settings, memory_limit_bytes=400 * MIB)
    assert caught.value.finding.code in ("model-rejected", "context-rejected")
    assert "less" in caught.value.hint
    assert "alloc" in caught.value.message


def test_truncated_files_are_rejected(tiny_gguf: Path, tmp_path: Path) -> None:
    data = tiny_gguf.read_bytes()
    path = tmp_path / "cut.gguf"
    for keep in (0, 3, 24, 1000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:keep])
        with pytest.raises(runtimes.WorkerDied) as caught:
            run_model(path)
        assert caught.value.finding.code == "model-rejected", keep
        assert "cut.gguf" in caught.value.message


def test_other_files_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for content in (b"not a model at all" * 100, b"GGUF" + b"\xff" * 4000, bytes(5000)):
        path.write_bytes(content)
        with pytest.raises(runtimes.WorkerDied) as caught:
            run_model(path)
        assert caught.value.finding.code == "model-rejected"


@pytest.mark.slow
def test_flipped_bytes_reach_only_the_worker(tiny_gguf: Path, tmp_path: Path) -> None:
    """Seeded mutations of header, tensor infos and weights: each run ends well or in a finding."""
    data = tiny_gguf.read_bytes()
    source = random.Random(7)
    path = tmp_path / "flipped.gguf"
    ends = []
    for trial in range(40):
        mutant = bytearray(data)
        span = len(data) if trial % 4 == 0 else 3000
        for _ in range(source.randint(1, 20)):
            mutant[source.randrange(span)] = source.randrange(256)
        path.write_bytes(mutant)
        try:
            run_model(path)
            ends.append("ran")
        except runtimes.WorkerDied as death:
            ends.append(death.finding.code)
    assert len(set(ends)) >= 2, ends


PROBE = """
import json, os, socket, subprocess, sys
from pathlib import Path
from edgekit.runtimes import sandbox
parts = sandbox.fence_in([Path(sys.argv[1])], sandbox.Limits())
def attempt(act):
    try: act()
    except OSError as error: return type(error).__name__
    return "done"
import threading
thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
print(json.dumps({
    "parts": parts,
    "read model": attempt(lambda: open(sys.argv[1], "rb").read(1)),
    "read secret": attempt(lambda: open(sys.argv[2], "rb").read(1)),
    "write": attempt(lambda: open(sys.argv[1] + ".new", "wb").write(b"1")),
    "overwrite": attempt(lambda: open(sys.argv[1], "r+b")),
    "unlink": attempt(lambda: os.unlink(sys.argv[1])),
    "list": attempt(lambda: os.listdir(os.path.dirname(sys.argv[1]))),
    "socket": attempt(lambda: socket.socket()),
    "unix socket": attempt(lambda: socket.socket(socket.AF_UNIX)),
    "fork": attempt(os.fork),
    "exec": attempt(lambda: os.execv("/bin/true", ["true"])),
    "run": attempt(lambda: subprocess.run(["/bin/true"])),
    "kill": attempt(lambda: os.kill(os.getppid(), 0)),
}))
sys.stdout.flush()
os.abort()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the fence's inner parts are Linux's")
def test_the_fence_holds(tmp_path: Path) -> None:
    model, secret = tmp_path / "model.gguf", tmp_path / "secret"
    model.write_bytes(b"GGUF")
    secret.write_bytes(b"key")
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(model), str(secret)], capture_output=True, text=True, check=False, timeout=60
    )
    seen = json.loads(done.stdout)
    parts = " ".join(seen.pop("parts"))
    assert "rlimits" in parts
    assert done.returncode == -6, "abort must still work: it is how llama.cpp gives up"
    assert seen.pop("read model") == "done"
    if "seccomp" not in parts or "landlock" not in parts:
        pytest.skip(f"this kernel offers only: {parts}")
    assert seen == dict.fromkeys(seen, "PermissionError")


def test_the_worker_says_what_fences_it_in(tiny_gguf: Path) -> None:
    with runtimes.open_worker(tiny_gguf, SETTINGS, timeout_s=60, seed=1) as worker:
        assert "rlimits" in worker.runtime.isolation
        if sys.platform != "linux":
            return
        status = Path(f"/proc/{worker.pid}/status").read_text(encoding="ascii")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["NoNewPrivs"] == "1"
    assert ("seccomp" in worker.runtime.isolation) == (fields["Seccomp"].strip() == "2")


def test_the_worker_imports_little() -> None:
    """What it imports is its baseline and its start time."""
    command = worker_command()
    program = command[-1].partition("import edgekit.runtimes.worker")[0] + (
        "import edgekit.runtimes.worker as w; w.llamacpp.import_bindings_alone(); w.llamacpp.describe_build();"
        "print(*sys.modules)"
    )
    done = subprocess.run([*command[:-1], program], capture_output=True, text=True, check=True, timeout=60)
    heavy = {"numpy", "pydantic", "scipy", "psutil", "rich", "jinja2", "llama_cpp.llama", "multiprocessing"}
    assert not heavy & set(done.stdout.split())
