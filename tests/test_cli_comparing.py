"""`compare` and `doctor` through the real command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from report_records import evidence, measurement

from edgekit.storage import write_record

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.slow
def test_a_build_against_itself(cli: Cli, tiny_gguf: Path, tmp_path: Path) -> None:
    """Memory and size are settled whatever the machine does; a wide limit keeps the run short."""
    done = cli(
        *("compare", tiny_gguf, tiny_gguf, "--max-regress", "memory=5%,size=0%", "--threads", 1, "--json"),
        *("--out", tmp_path / "comparison.json", "--markdown", tmp_path / "comparison.md"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "comparison.json").read_text())
    assert {change["metric"]: change["status"] for change in found["changes"]} == {
        "decode": "unknown",
        "prefill": "unknown",
        "memory": "pass",
        "load": "unknown",
        "size": "pass",
    }
    assert len({pair["pair"] for pair in found["pairs"]}) == 10
    assert "**PASS**" in (tmp_path / "comparison.md").read_text()


def test_recorded_runs(cli: Cli, tmp_path: Path) -> None:
    ours = replace(measurement(), artifact_sha256=evidence().artifact.sha256)
    write_record(tmp_path / "base.json", evidence(measured=ours))
    done = cli("compare", tmp_path / "base.json", tmp_path / "base.json", "--max-regress", "memory=1%")
    assert done.returncode == 0, done.stderr
    assert "recorded runs, not in turn" in done.stdout


BAD: dict[str, tuple[str, ...]] = {
    "not a limit": ("{model}", "{model}", "--max-regress", "decode"),
    "not percent": ("{model}", "{model}", "--max-regress", "decode=0.03"),
    "unknown metric": ("{model}", "{model}", "--max-regress", "speed=3%"),
    "limited twice": ("{model}", "{model}", "--max-regress", "decode=3%,decode=4%"),
    "too small a change": ("{model}", "{model}", "--max-regress", "decode=0.1%"),
    "more than everything": ("{model}", "{model}", "--max-regress", "decode=150%"),
    "no such model": ("{model}", "{folder}/nowhere.gguf"),
    "a model and a record": ("{model}", "{folder}/record.json"),
    "no record": ("{folder}/nowhere.json", "{folder}/record.json"),
    "a record of something else": ("{folder}/other.json", "{folder}/record.json"),
    "no measurement": ("{folder}/record.json", "{folder}/record.json"),
    "not a model": ("{model}", "{folder}/text.gguf"),
    "output exists": ("{model}", "{model}", "--out", "{folder}/record.json"),
    "one output for both": ("{model}", "{model}", "--out", "{folder}/a.json", "--markdown", "{folder}/a.json"),
    "output is an input": ("{model}", "{folder}/model.gguf", "--out", "{folder}/model.gguf", "--force"),
    "output is a folder": ("{model}", "{model}", "--markdown", "{folder}"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_error_and_a_hint(name: str, cli: Cli, tiny_gguf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    shutil.copy(tiny_gguf, folder / "model.gguf")
    write_record(folder / "record.json", evidence())
    (folder / "other.json").write_text('{"kind": "gates", "version": 1}')
    (folder / "text.gguf").write_text("no model")
    before = sorted(folder.iterdir())
    arguments = [part.format(model=folder / "model.gguf", folder=folder) for part in BAD[name]]
    done = cli("compare", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("error:") == 1
    assert done.stderr.count("hint:") == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(folder.iterdir()) == before


def test_doctor(cli: Cli) -> None:
    done = cli("doctor")
    assert done.returncode == 0, done.stderr
    assert "llama.cpp" in done.stdout
    assert "worker's fence" in done.stdout
    assert json.loads(cli("doctor", "--json").stdout)["kind"] == "examination"


def test_doctor_runs_nothing_of_the_folder_it_stands_in(tmp_path: Path) -> None:
    """A downloaded model's folder may hold a `numpy.py`; `python -m` would look there by itself."""
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name in ("numpy", "llama_cpp", "json"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    program = Path(sys.executable).with_name("edgekit")
    done = subprocess.run([program, "doctor"], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert "llama.cpp" in done.stdout, done.stderr
    assert not (tmp_path / "ran").exists()
