"""`evaluate` and `bench` on tasks and against a teacher, as a user runs them, on models that really answer."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from students import task_file, task_student, task_teacher

pytestmark = pytest.mark.slow

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
ITEMS = 120


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GGUFs of a teacher and a student, and questions that the teacher was taught the kinds of."""
    from edgekit.checkpoint import open_checkpoint
    from edgekit.quantize.convert import convert
    from edgekit.quantize.llama_quantize import quantize_gguf

    folder = tmp_path_factory.mktemp("models")
    for name, make in (("teacher", task_teacher), ("student", task_student)):
        convert(open_checkpoint(make()), folder / f"{name}-f16.gguf")
    quantize_gguf(folder / "student-f16.gguf", folder / "student-q8_0.gguf", "q8_0")
    task_file(folder, ITEMS)
    return folder


def questions(models: Path) -> Path:
    return next(models.glob("*.jsonl"))


def saved(cli: Cli, models: Path) -> Path:
    """The teacher's answers, asked once."""
    place = models / "teacher.json"
    if not place.exists():
        done = cli(
            "evaluate", models / "teacher-f16.gguf", "--tasks", questions(models), "--save", place, "-t", 2, "-q"
        )
        assert done.returncode == 0, done.stderr
    return place


def test_a_teacher_is_asked_once_and_its_answers_judge_the_student(cli: Cli, models: Path, tmp_path: Path) -> None:
    answers = json.loads(saved(cli, models).read_text())
    assert (answers["kind"], len(answers["answers"])) == ("answers", ITEMS)
    assert not [path for path in models.iterdir() if path.name.startswith(".")]
    out = tmp_path / "quality.json"
    done = cli(
        *("evaluate", models / "student-q8_0.gguf", "--teacher", saved(cli, models), "--tasks"),
        *(questions(models), "--reference"),
        *(models / "student-f16.gguf", "--chunks", 10, "-t", 2, "--out", out, "-q"),
    )
    assert done.returncode == 0, done.stderr
    quality = json.loads(out.read_text())
    overall = quality["tasks"]["overall"]
    assert overall["items"] == ITEMS
    assert overall["retention"]["low"] < overall["retention"]["value"] < overall["retention"]["high"]
    assert {domain["domain"] for domain in quality["tasks"]["domains"]} == {
        "factual",
        "reasoning",
        "coding",
        "conservation",
    }
    assert quality["template"]["status"] in ("same", "none")
    assert quality["similarity"]["responses"] > 0
    assert quality["identity"]["prompts"] > 0
    assert quality["kld_mean"]["value"] < 0.01
    assert "retained" in done.stdout


def test_answers_that_were_edited_are_refused(cli: Cli, models: Path, tmp_path: Path) -> None:
    """A teacher made worse by hand would make any student good."""
    answers = json.loads(saved(cli, models).read_text())
    for one in answers["answers"][:40]:
        one["correct"] = False
    (tmp_path / "weak.json").write_text(json.dumps(answers))
    done = cli(
        *("evaluate", models / "student-q8_0.gguf", "--teacher", tmp_path / "weak.json"),
        *("--tasks", questions(models), "-t", 2, "-q"),
    )
    assert done.returncode == 2
    assert "were edited" in done.stderr


def test_bench_judges_retention(cli: Cli, models: Path, tmp_path: Path) -> None:
    """All of it in one call, and the class's own gate is judged; the student is nobody's 1.5B, so memory clears."""
    gates = tmp_path / "gates.toml"
    gates.write_text("[gates]\nquality_retention = { min = 0.01 }\nkld_mean = { max = 0.05 }\n")
    done = cli(
        *("bench", models / "student-q8_0.gguf", "-d", "pixel-8", "--quick", "--max-repetitions", 10, "-q"),
        *("--reference", models / "student-f16.gguf", "--teacher", saved(cli, models), "--gates", gates),
        *("--tasks", questions(models)),
        *("--threads", 2, "--out", tmp_path / "report"),
    )
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    states = {check["metric"]: check["status"] for check in report["verdicts"][0]["checks"]}
    assert states["quality_retention"] in ("pass", "unknown"), done.stdout
    assert report["evidence"]["quality"]["tasks"]["overall"]["retention"]["value"] > 0.01
    assert "retention" in (tmp_path / "report" / "report.html").read_text()


def test_own_tasks(cli: Cli, models: Path, tmp_path: Path) -> None:
    items = [
        {"prompt": f"What is {a} + 2? Answer:", "answer": str(a + 2), "choices": [str(a + 2), str(a + 3)]}
        for a in range(40)
    ]
    own = tmp_path / "own.jsonl"
    own.write_text("\n".join(map(json.dumps, items)) + "\n")
    done = cli("evaluate", models / "student-q8_0.gguf", "--tasks", own, "-t", 2, "--json", "-q")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tasks"]["overall"]["items"] == 40


def test_a_kept_reference_stands_for_the_model(cli: Cli, models: Path, tmp_path: Path) -> None:
    kept = tmp_path / "student.ekref"
    text = tmp_path / "text.txt"
    text.write_text("The heron waits in the reeds. " * 600)
    made = cli(
        *("evaluate", models / "student-f16.gguf", "--text", text, "--chunks", 6, "--save-reference", kept),
        *("-t", 2, "-q"),
    )
    assert made.returncode == 0, made.stderr
    assert "what student-f16.gguf says of text.txt, 6 chunks of 512 tokens" in made.stderr
    both = []
    for reference in (models / "student-f16.gguf", kept):
        done = cli(
            *("evaluate", models / "student-q8_0.gguf", "-r", reference, "--text", text, "--chunks", 6),
            *("-t", 2, "--json", "-q"),
        )
        assert done.returncode == 0, done.stderr
        both.append(json.loads(done.stdout))
    live, compact = both
    assert (live["reference_form"], compact["reference_form"]) == ("live", "compact")
    assert compact["kld_mean"]["value"] == pytest.approx(live["kld_mean"]["value"], rel=0.1, abs=1e-6)
    assert compact["kld_lower"]["value"] <= compact["kld_mean"]["value"] + 1e-9


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_run_goes_on(cli: Cli, models: Path, tmp_path: Path) -> None:
    save = tmp_path / "answers.json"
    command = [sys.executable, "-m", "edgekit", "evaluate", str(models / "student-f16.gguf"), "--items", "400"]
    command += ["--save", str(save), "-t", "2", "-q"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = save.with_name(f".{save.name}.answered.jsonl")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (journal.exists() and journal.read_bytes().count(b"\n") > 20):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    answered = journal.read_bytes().count(b"\n")
    assert answered > 20
    assert not save.exists()
    done = cli(*command[3:])
    assert done.returncode == 0, done.stderr
    assert len(json.loads(save.read_text())["answers"]) == 400
    assert not journal.exists()
