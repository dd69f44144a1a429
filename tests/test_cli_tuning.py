"""`tune` through the real command line."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.slow
def test_a_model_on_this_host(cli: Cli, tiny_gguf: Path, tmp_path: Path) -> None:
    """What is fastest is the machine's to say; that every trial fits, is kept raw and comes out as flags is ours."""
    done = cli(
        *("tune", tiny_gguf, "--threads", 1, "--context", 256, "--flash-attention", "auto", "--kv-type", "f16"),
        *("--no-mmap", "--trials", 5, "--json", "--out", tmp_path / "tuning.json"),
        OMP_WAIT_POLICY="PASSIVE",
    )
    assert done.returncode in (0, 3), done.stderr  # 3: the machine was not quiet
    found = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "tuning.json").read_text())
    assert (found["settings"]["threads"], found["settings"]["mmap"]) == (1, False)
    assert 0 < len(found["trials"]) <= 5
    assert all(trial["peak"]["unevictable_bytes"] > 0 for trial in found["trials"])
    assert [flags["tool"] for flags in found["flags"]] == ["llama.cpp", "llama-cpp-python", "ollama"]
    assert found["targets"][0]["status"] == "pass"


def test_a_dry_run_runs_nothing(cli: Cli, tiny_gguf: Path) -> None:
    done = cli("tune", tiny_gguf, "--device", "raspberry-pi-5", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "tried here, at most 20 points: mmap, output_rows, ubatch_tokens" in done.stdout
    assert "expected:" in done.stdout
    assert json.loads(cli("tune", tiny_gguf, "--dry-run", "--json").stdout)["kind"] == "tuning-plan"


def test_what_cannot_fit_exits_with_one(cli: Cli, tiny_gguf: Path) -> None:
    done = cli("tune", tiny_gguf, "--memory", "1MB")
    assert done.returncode == 1, done.stderr
    assert "nothing of this file fits: even a context of 512 needs" in " ".join(done.stdout.split())
    dry = cli("tune", tiny_gguf, "--memory", "1MB", "--dry-run")
    assert dry.returncode == 1
    assert "nothing would be run" in dry.stdout


BAD: dict[str, tuple[str, ...]] = {
    "no such model": ("{folder}/nowhere.gguf",),
    "not a model": ("{folder}/text.gguf",),
    "unknown device": ("{model}", "--device", "no-such-phone"),
    "on a device that is not named": ("{model}", "--on-device", "pixel-8"),
    "on another device": ("{model}", "--device", "pixel-8", "--on-device", "raspberry-pi-5"),
    "not this machine": ("{model}", "--device", "pixel-8", "--on-device", "pixel-8"),
    "a class": ("{model}", "--device", "smartphone", "--on-device", "smartphone"),
    "not a size": ("{model}", "--memory", "much"),
    "no unit": ("{model}", "--memory", "1200"),
    "no memory": ("{model}", "--memory", "0MB"),
    "too few trials": ("{model}", "--trials", "1"),
    "not a share": ("{model}", "--max-prefill-loss", "0.1"),
    "more than everything": ("{model}", "--max-prefill-loss", "100%"),
    "a cache without attention": ("{model}", "--kv-type", "q8_0", "--flash-attention", "off"),
    "an absurd context": ("{model}", "--context", "99999999"),
    "output exists": ("{model}", "--out", "{folder}/text.gguf"),
    "output is a folder": ("{model}", "--out", "{folder}"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_error_and_a_hint(name: str, cli: Cli, tiny_gguf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    shutil.copy(tiny_gguf, folder / "model.gguf")
    (folder / "text.gguf").write_text("no model")
    before = sorted(folder.iterdir())
    done = cli("tune", *(part.format(model=folder / "model.gguf", folder=folder) for part in BAD[name]))
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("error:") == 1
    assert done.stderr.count("hint:") == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(folder.iterdir()) == before
