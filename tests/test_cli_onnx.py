"""ONNX folders through the real command line: measured, judged, reported; hostile ones refused in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx_models import make_weights, write_model

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'edgekit[onnx]'")

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "student", make_weights(context=4096))


@pytest.mark.slow
def test_bench_ends_with_every_report(cli: Cli, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = cli("bench", folder, "--device", "smartphone", "--quick", "--threads", 1, "--out", out, "--json")
    assert run.returncode == 3, run.stderr
    report = json.loads(run.stdout)
    evidence = report["evidence"]
    assert evidence["artifact"]["header"]["format"] == "onnx"
    assert evidence["measurement"]["runtime"]["name"] == "onnxruntime"
    assert evidence["measurement"]["artifact_sha256"] == evidence["artifact"]["sha256"]
    assert {sample["test"] for sample in evidence["measurement"]["samples"]} == {"pp128", "tg32"}
    checks = {check["metric"]: check for check in report["verdicts"][0]["members"][0]["checks"]}
    assert checks["memory_bytes"]["status"] == checks["decode_tokens_per_s"]["status"] == "unknown"
    assert "x86-64 alone" in checks["memory_bytes"]["reason"]
    assert "llama.cpp's kernels are others" in checks["decode_tokens_per_s"]["reason"]

    assert json.loads((out / "report.json").read_text()) == report
    assert ElementTree.parse(out / "junit.xml").getroot().tag == "testsuites"
    page, markdown = (out / "report.html").read_text(), (out / "report.md").read_text()
    for text in (page, markdown):
        assert "onnx fp32" in text
        assert "CPUExecutionProvider" in text
        assert "KV f16" not in text  # llama.cpp's words for what the graph decides

    again = cli("gate", out / "evidence.json", "--device", "laptop-i7-12700h", "--json")
    verdict = json.loads(again.stdout)["verdicts"][0]
    assert next(check for check in verdict["checks"] if check["metric"] == "memory_bytes")["status"] != "fail"


def test_fit_answers_where_memory_was_measured_and_says_unknown_elsewhere(cli: Cli, folder: Path) -> None:
    laptop = cli("fit", folder, "--device", "laptop-i7-12700h")
    assert laptop.returncode == 0, laptop.stderr
    assert "FITS" in laptop.stdout
    phone = cli("fit", folder, "--device", "pixel-8")
    assert phone.returncode == 3, phone.stderr
    assert "what would fit: unknown" in phone.stdout


def test_dry_run(cli: Cli, folder: Path) -> None:
    run = cli("bench", folder, "--device", "smartphone", "--quick", "--dry-run")
    assert run.returncode == 0, run.stderr
    assert "pp128" in run.stdout


def truncated(path: Path) -> None:
    content = (path / "model.onnx").read_bytes()
    (path / "model.onnx").write_bytes(content[: len(content) // 2])


def outside(path: Path) -> None:
    import onnx

    model = onnx.load(path / "model.onnx", load_external_data=False)
    entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
    for entry in entries:
        if entry.key == "location":
            entry.value = "../../../../etc/passwd"
    onnx.save(model, path / "model.onnx")


def contradicting(path: Path) -> None:
    content = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**content, "num_hidden_layers": 40}))


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated graph": (truncated, "truncated"),
    "data outside": (outside, "outside the folder"),
    "contradiction": (contradicting, "`num_hidden_layers` 2 and `config.json` says 40"),
    "no data": (lambda path: (path / "model.onnx.data").unlink(), "is missing"),
    "no graph": (lambda path: (path / "model.onnx").unlink(), "holds no ONNX graph"),
    "pipe for a file": (lambda path: __import__("os").mkfifo(path / "pipe"), "not a regular file"),
    "no JSON": (lambda path: (path / "genai_config.json").write_text("{"), "is not JSON"),
}


@pytest.mark.parametrize("verb", ["fit", "bench"])
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_folder(cli: Cli, folder: Path, tmp_path: Path, case: str, verb: str) -> None:
    change, reason = HOSTILE[case]
    copy = Path(shutil.copytree(folder, tmp_path / "student"))
    change(copy)
    run = cli(verb, copy, "--device", "smartphone")
    assert run.returncode == 2
    assert run.stdout == ""
    error, blank, hint = run.stderr.removesuffix("\n").rsplit("\n", 2)
    assert error.splitlines()[-1].startswith("error: ")
    assert reason in error
    assert (blank, hint[:6]) == ("", "hint: ")


def test_settings_that_a_graph_cannot_follow(cli: Cli, folder: Path) -> None:
    run = cli("bench", folder, "--device", "smartphone", "--quick", "--kv-type", "q8_0")
    assert run.returncode == 2
    assert "`kv_type = q8_0`" in run.stderr
