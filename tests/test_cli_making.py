"""quantize, evaluate, parity and sweep as a user runs them, on a tiny student that has learned."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from students import tiny_student

from edgekit.header import read_header

pytestmark = pytest.mark.slow

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def student() -> Path:
    return tiny_student("qwen3")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the tests of this file fill one after the other, as a user's would."""
    return tmp_path_factory.mktemp("models")


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_a_dry_run_foresees_the_sizes(cli: Cli, student: Path, models: Path) -> None:
    """Before anything is made; what is made next must be of that size."""
    done = cli("quantize", student, "--to", "gguf:q4_k_m", "--to", "gguf:f16", "--dry-run", "--json", "--out", models)
    needy = cli("quantize", student, "--to", "gguf:iq2_xs", "--dry-run", "--out", models)
    assert needy.returncode == 0, needy.stderr
    assert done.returncode == 0, done.stderr
    assert not list(models.iterdir())
    foreseen = [json.loads(line) for line in done.stdout.splitlines()]
    (models / "..foreseen.json").write_text(json.dumps({one["place"]: one["size_bytes"] for one in foreseen}))


def test_quantize_leaves_artifacts_with_records(cli: Cli, student: Path, models: Path) -> None:
    done = cli("quantize", student, "--to", "gguf:q4_k_m", "--to", "gguf:f16", "--out", models, "--threads", "2")
    assert done.returncode == 0, done.stderr
    q4, f16 = (Path(line) for line in done.stdout.split())
    assert (read_header(q4).quant, read_header(f16).quant) == ("q4_k_m", "f16")
    for path, size_bytes in json.loads((models / "..foreseen.json").read_text()).items():
        assert sum(tensor.size_bytes for tensor in read_header(Path(path)).tensors) == size_bytes
    record = json.loads(q4.with_name(f"{q4.name}.json").read_text())
    assert record["target"] == "gguf:q4_k_m"
    assert record["size_bytes"] == q4.stat().st_size
    assert not [path for path in models.iterdir() if path.name.endswith(".partial")]
    keys = dict(read_header(q4).metadata)
    assert keys["edgekit.imatrix.sha256"] == dict(record["options"])["imatrix_sha256"]


def test_an_existing_output_stands(cli: Cli, student: Path, models: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in models.glob("*q4_k_m*")}
    assert before
    done = cli("quantize", student, "--to", "gguf:q4_k_m", "--out", models)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in models.glob("*q4_k_m*")} == before


def test_evaluate_says_what_quantizing_cost(cli: Cli, models: Path, tmp_path: Path) -> None:
    (q4,), (f16,) = models.glob("*q4_k_m.gguf"), models.glob("*f16.gguf")
    out = tmp_path / "quality.json"
    done = cli("evaluate", q4, "--reference", f16, "--chunks", "12", "--threads", "2", "--json", "--out", out)
    assert done.returncode == 0, done.stderr
    quality = json.loads(done.stdout)
    assert quality == json.loads(out.read_text())
    kld, same = quality["kld_mean"], quality["top1_agreement"]
    assert 0 < kld["low"] <= kld["value"] <= kld["high"] < 0.05
    assert 0.9 < same["value"] <= 1
    assert len(quality["chunks"]) == 12


def test_a_gate_on_quality_is_judged_by_the_record(cli: Cli, models: Path, tmp_path: Path) -> None:
    """Unknown without a record, judged with the file's own, and unknown again with another file's."""
    (q4,), (f16,) = models.glob("*q4_k_m.gguf"), models.glob("*f16.gguf")
    (tmp_path / "gates.toml").write_text("[gates]\nkld_mean = { max = 0.05 }\n")
    bench = ("bench", q4, "-d", "pixel-8", "--quick", "--max-repetitions", "10", "--gates", tmp_path / "gates.toml")
    assert cli(*bench, "--threads", "2", "--out", tmp_path / "bench", "-q").returncode == 3
    for model in (q4, f16):
        out = tmp_path / f"{model.stem}.json"
        done = cli("evaluate", model, "-r", f16, "--chunks", "12", "--threads", "2", "--out", out, "-q")
        assert done.returncode == 0, done.stderr
    gate = ("gate", tmp_path / "bench" / "evidence.json", "-d", "pixel-8", "--gates", tmp_path / "gates.toml")
    assert cli(*gate, "--quality", tmp_path / f"{q4.stem}.json").returncode == 0
    assert cli(*gate, "--quality", tmp_path / f"{f16.stem}.json").returncode == 3
    few = tmp_path / "few.json"
    assert cli("evaluate", q4, "-r", f16, "--chunks", "4", "--threads", "2", "--out", few, "-q").returncode == 0
    done = cli(*gate, "--quality", few)
    assert done.returncode == 3
    assert "4 chunks" in done.stdout


def test_a_model_agrees_with_itself(cli: Cli, models: Path) -> None:
    (f16,) = models.glob("*f16.gguf")
    done = cli("parity", f16, f16, "--chunks", "3", "--threads", "2", "--json")
    assert done.returncode == 0, done.stderr
    quality = json.loads(done.stdout)["quality"]
    assert abs(quality["kld_mean"]["value"]) < 1e-6
    assert quality["top1_agreement"]["value"] == 1


def test_a_budget_is_kept_and_solved_again_without_measuring(cli: Cli, student: Path, models: Path) -> None:
    arguments = ("--minutes", "0.3", "--threads", "2", "--out", models)
    first = Path(last_line(cli("quantize", student, "--bpw", "4.6", *arguments)))
    bits = 8 * sum(tensor.size_bytes for tensor in read_header(first).tensors)
    weights = sum(_count(tensor.shape) for tensor in read_header(first).tensors)
    assert 0.97 * 4.6 < bits / weights <= 4.6
    (measured,) = models.glob("*.sensitivities.json")
    stamp = measured.stat().st_mtime_ns
    second = Path(last_line(cli("quantize", student, "--bpw", "5.5", *arguments)))
    assert measured.stat().st_mtime_ns == stamp
    assert second.stat().st_size > first.stat().st_size
    # the plan that was written gives the same types when it is followed
    (plan,) = models.glob("*-4.6bpw.plan.toml")
    replayed = plan.with_name("again.plan.toml")
    replayed.write_text(plan.read_text())
    third = Path(last_line(cli("quantize", student, "--plan", replayed, "--threads", "2", "--out", models)))
    types = [[(t.name, t.type) for t in read_header(path).tensors] for path in (first, third)]
    assert types[0] == types[1]


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


def test_a_sweep_goes_on_where_it_stopped(cli: Cli, student: Path, models: Path) -> None:
    targets = ("--to", "gguf:q4_k_m", "--to", "gguf:tq1_0")
    arguments = ("sweep", student, "-d", "smartphone", *targets, "--chunks", "8", "--threads", "2", "--out", models)
    done = cli(*arguments)
    assert done.returncode in (0, 1, 3), done.stderr
    sweep = json.loads((models / "sweep.json").read_text())
    assert [row["target"] for row in sweep["rows"]] == ["gguf:q4_k_m", "gguf:tq1_0"]
    assert all(row["report"] or row["failed"] for row in sweep["rows"])
    assert sweep["rows"][0]["report"]["evidence"]["quality"]["kld_mean"]["value"] > 0
    assert sweep["recommended"] == "" or done.returncode == 0
    (report,) = models.glob("*q4_k_m.gguf.smartphone.report.json")
    stamp = report.stat().st_mtime_ns
    again = cli(*arguments)
    assert again.returncode == done.returncode
    assert report.stat().st_mtime_ns == stamp, "measured again what had been measured"
    assert "gguf:q4_k_m" in (models / "sweep.html").read_text()
