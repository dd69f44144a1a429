"""The whole walk: what is refused before anything is trained, what a second walk takes from the first, and one walk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from lineage_records import distilled
from students import random_student

from edgekit.checkpoint import hash_checkpoint, open_checkpoint
from edgekit.cli import main
from edgekit.distill.recipe import load_recipe
from edgekit.distill.recipe_parts import DistillRecipe, Exporting
from edgekit.errors import EdgekitError
from edgekit.pipeline import walking
from edgekit.pipeline.walk_job import check_answers, prepare_job
from edgekit.pipeline.walk_plan import foresee
from edgekit.quantize import workshop
from edgekit.records import Answers, Report, Sweep, SweepRow, Unknown, Walk
from edgekit.storage import load_record, write_record


def smoke(**gate: object) -> DistillRecipe:
    recipe = load_recipe("smoke")
    return replace(recipe, gate=replace(recipe.gate, **gate))  # type: ignore[arg-type]


# ---- before anything is trained ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (smoke(device="smartfone"), "smartfone"),
        (smoke(gates="none.toml"), "none.toml"),
        (smoke(answers="none.json"), "none.json"),
        (smoke(items=5000, templates=("capital",)), "give only"),
        (smoke(items=900_000, templates=()), "can be drawn"),
        (replace(smoke(), export=Exporting(to=())), "makes nothing"),
        (replace(smoke(), export=Exporting(to=("gguf:q4_k_n",))), "q4_k_n"),
    ],
    ids=["device", "gates", "answers", "items", "bank", "nothing", "target"],
)
def test_what_cannot_end_well_is_refused_before_training(
    recipe: DistillRecipe, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walking, "distill", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(EdgekitError, match=said):
        walking.run(recipe, tmp_path / "out")
    with pytest.raises(EdgekitError, match=said):
        foresee(recipe, tmp_path / "out")


def test_a_teachers_answers_to_other_items_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walking, "distill", lambda *_, **__: pytest.fail("trained"))
    other = Answers(edgekit_version="0", model="t", artifact_sha256="a", bank="own", bank_sha256="b", answers=())
    write_record(tmp_path / "teacher.json", other)
    with pytest.raises(EdgekitError, match="answer"):
        walking.run(replace(smoke(answers="teacher.json"), folder=tmp_path), tmp_path / "out")


def test_saved_answers_of_another_teacher_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = random_student("llama")
    monkeypatch.setattr(walking, "prepare", lambda asked: None)
    monkeypatch.setattr(walking, "distill", lambda *_, **__: pytest.fail("trained"))
    answers = Answers(edgekit_version="0", model="t", artifact_sha256="a", bank="own", bank_sha256="b", answers=())
    recipe = replace(smoke(answers="teacher.json"), folder=tmp_path)
    write_record(tmp_path / "teacher.json", replace(answers, checkpoint_sha256="0b" * 32))
    with pytest.raises(EdgekitError, match=r"are of another teacher than the recipe's \(checkpoint 0b0b0b0b0b0b"):
        walking.run(recipe, tmp_path / "out", teacher=teacher)
    with pytest.raises(EdgekitError, match="are of another teacher than the recipe's"):
        foresee(recipe, tmp_path / "out", teacher=teacher)
    own = hash_checkpoint(open_checkpoint(teacher))
    for known in (own, ""):  # what does not say whose it is leaves the gate without retention
        write_record(tmp_path / "teacher.json", replace(answers, checkpoint_sha256=known))
        check_answers(recipe, own)
    check_answers(recipe, "")  # the teacher is still to be trained


def test_a_plan_names_every_stage_and_artifact_and_writes_nothing(tmp_path: Path) -> None:
    plan = foresee(smoke(), tmp_path / "out")
    said = "\n".join(step.what for step in plan.steps)
    for part in ("train the teacher", "logits", "features", "task", "gguf:f16", "gguf:q4_k_m, ships", "onnx:int4"):
        assert part in said
    assert not any(step.done for step in plan.steps[1:]), "the teacher alone may be in the cache"
    assert list(tmp_path.iterdir()) == []


def test_a_plan_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "smoke", "--dry-run", "--json", "--out", str(tmp_path / "x")]) == 3  # on which machine?
    plan = json.loads(capsys.readouterr().out)
    assert plan["recipe"] == "smoke"
    assert main(["run", "smok", "--dry-run"]) == 2
    assert "`smoke`" in capsys.readouterr().err


def test_the_items_are_of_the_recipes_templates(tmp_path: Path) -> None:
    job = prepare_job(smoke(items=40, templates=("capital", "syllogism")), tmp_path, 1)
    assert job.tasks.file is not None
    rows = [json.loads(line) for line in job.tasks.file.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 40
    assert {row["template"] for row in rows} == {"capital", "syllogism"}


def test_a_recipe_names_files_from_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "gates.toml").write_text("[gates]\nmemory_bytes = { max = 1e9 }\n", encoding="utf-8")
    recipe = replace(smoke(gates="gates.toml"), folder=tmp_path)
    job = prepare_job(recipe, tmp_path / "out", 1)
    assert job.judging.gates is not None
    assert [gate.metric for gate in job.judging.gates.gates] == ["memory_bytes"]


# ---- what is left --------------------------------------------------------------------------------------------------


def left(tmp_path: Path, *rows: SweepRow, report: Report | None) -> Walk:
    sweep = Sweep(
        edgekit_version="0",
        created_at="",
        source="s",
        source_sha256="",
        device="d",
        device_title="D",
        rows=rows,
        reason="",
    )
    return walking._leave(prepare_job(smoke(), tmp_path, 1), sweep, report, ())


def test_the_exit_code_is_the_gates_unless_something_was_not_made(tmp_path: Path) -> None:
    good = SweepRow(target="gguf:q4_k_m", report=distilled())
    bad = SweepRow(target="onnx:int4", failed=Unknown(reason="no room"))
    assert left(tmp_path / "a", good, report=distilled()).exit_code == 0
    assert left(tmp_path / "b", good, bad, report=distilled()).exit_code == 4
    assert left(tmp_path / "c", bad, report=None).exit_code == 4
    assert not (tmp_path / "c" / "report.html").exists()
    assert load_record(tmp_path / "b" / "walk.json", Walk).sweep.rows[1].failed == Unknown(reason="no room")


def test_one_walk_at_a_time_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text("the items of the walk at work", encoding="utf-8")
    with walking._alone(tmp_path), pytest.raises(EdgekitError, match="another walk"):
        walking.run(smoke(), tmp_path)
    assert (tmp_path / "tasks.jsonl").read_text(encoding="utf-8") == "the items of the walk at work"


def test_a_report_of_an_earlier_walk_does_not_pass_for_this_ones(tmp_path: Path) -> None:
    good = SweepRow(target="gguf:q4_k_m", report=distilled())
    left(tmp_path, good, report=distilled())
    assert (tmp_path / "report.html").exists()
    left(tmp_path, SweepRow(target="gguf:q4_k_m", failed=Unknown(reason="no room")), report=None)
    assert {path.name for path in tmp_path.iterdir()} == {"walk.json", "tasks.jsonl"}


def test_what_was_made_is_found_where_it_was_moved_to(tmp_path: Path) -> None:
    source = workshop.Source(path=tmp_path / "student", name="m", sha256="5a" * 32)
    (tmp_path / "old").mkdir()

    def work() -> Path:
        (tmp_path / "old" / "m.gguf").write_bytes(b"made")
        return tmp_path / "old" / "m.gguf"

    made = workshop.make(tmp_path / "old" / "m.gguf", source, "gguf:f16", (), work, resume=True)
    (tmp_path / "old").rename(tmp_path / "new")
    place = tmp_path / "new" / "m.gguf"
    again = workshop.make(place, source, "gguf:f16", (), lambda: pytest.fail("made again"), resume=True)
    assert again == replace(made, path=str(place))


# ---- a walk --------------------------------------------------------------------------------------------------------


def killed_once(out: Path, sign: str) -> None:
    """Start the walk in a process of its own and kill it as soon as `sign` stands."""
    command = [sys.executable, "-m", "edgekit", "run", "smoke", "--out", str(out), "--threads", "2", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE)
    try:
        while not (out / sign).exists():
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            time.sleep(0.05)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stderr:
        process.stderr.close()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_smoke_walk_killed_on_the_way_goes_on_to_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Teacher trained, student carved out and taught in three stages, made, measured, evaluated, judged, reported."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    out = tmp_path / "walk"
    killed_once(out, "models/smoke-student-q4_k_m.gguf.json")
    assert not (out / "walk.json").exists()
    stood = {path: path.stat().st_mtime_ns for path in out.rglob("stage.json")} | {
        out / "teacher.json": (out / "teacher.json").stat().st_mtime_ns
    }
    assert len(stood) == 4
    code = main(["run", "smoke", "--out", str(out), "--threads", "2", "--quiet", "--json"])
    walk = load_record(out / "walk.json", Walk)
    assert json.loads(capsys.readouterr().out)["kind"] == "walk"
    assert {path: path.stat().st_mtime_ns for path in stood} == stood, "what stood was not made again"
    assert code == walk.exit_code
    check_walk(walk, out)


def check_walk(walk: Walk, out: Path) -> None:
    assert [row.target for row in walk.sweep.rows] == ["gguf:q4_k_m", "onnx:int4"]
    assert all(row.report is not None for row in walk.sweep.rows), [row.failed for row in walk.sweep.rows]
    assert walk.report is not None
    assert walk.exit_code == walk.report.exit_code in (0, 1, 3)
    evidence, found = walk.report.evidence, walk.report.evidence.lineage
    assert found is not None
    assert found.teacher is not None
    chain = found.distillation
    assert evidence.artifact.provenance is not None
    assert evidence.artifact.provenance.checkpoint_sha256 == chain.student.sha256
    assert [stage.kind for stage in chain.links[0].stages] == ["logits", "features", "task"]
    assert {change.metric for change in found.changes} >= {"decode", "prefill", "size"}
    for row in walk.sweep.rows:
        assert row.report is not None
        assert row.report.evidence.lineage is not None
        assert row.report.evidence.lineage.distillation == chain
        quality = row.report.evidence.quality
        assert quality is not None
        assert quality.tasks is not None
        assert quality.tasks.teacher is not None
        assert quality.tasks.teacher.artifact_sha256 == found.teacher.artifact.sha256
        assert len(quality.tasks.answers.answers) == 200
    page = (out / "report.html").read_text(encoding="utf-8")
    for said in ("Distillation", "Cost of the training", "What it brought", "smoke-teacher"):
        assert said in page
    assert not list(out.glob(".*.answered.jsonl")), "no journal is left"
