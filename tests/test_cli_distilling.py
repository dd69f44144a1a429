"""`edgekit distill` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Cli

from edgekit.distill.recipe import SHIPPED


def test_a_dry_run_says_what_it_costs_and_whether_it_fits(cli: Cli) -> None:
    done = cli("distill", "zip-0428", "--dry-run", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert " 13,847–31,635 " in done.stdout, "a number is broken over two lines"
    assert "FITS  zip-0428 on 512 × NVIDIA H100 SXM5 80 GB" in done.stdout
    assert "72.7 B parameters" in done.stdout
    done = cli("distill", "tiny", "--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert (done.returncode, plan["kind"]) == (3, "distill-plan")
    assert plan["hours"]["reason"] == "the recipe names no accelerators"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tinny",), "error: unknown recipe: `tinny`"),
        (("zip-0428",), "says what its teacher is like and not where it is"),
        (("tiny", "--student", "prune:deep=0.5"), "pruning knows"),
    ],
)
def test_mistakes_end_with_one_line_and_a_hint(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    done = cli("distill", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_students_configuration_lies_where_the_user_is(cli: Cli, tmp_path: Path) -> None:
    config = {"model_type": "qwen3", "num_hidden_layers": 1, "hidden_size": 128, "intermediate_size": 256}
    mine = json.dumps(config | {"num_attention_heads": 2, "head_dim": 64})
    (tmp_path / "cwd" / "mine.json").write_text(mine, encoding="utf-8")
    done = cli("distill", "tiny", "--student", "config:mine.json", "--dry-run", "--json")
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["students"][0]["hidden"] == 128
    done = cli("distill", "tiny", "--student", "config:none.json", "--dry-run")
    assert done.stderr.startswith("error: the student's configuration does not exist: `")


@pytest.mark.parametrize("how", [("--dry-run",), ()])
def test_a_bad_line_of_ones_own_is_found_before_a_teacher_is_trained(
    cli: Cli, tmp_path: Path, how: tuple[str, ...]
) -> None:
    tiny = (SHIPPED / "tiny.toml").read_text(encoding="utf-8")
    mine = tmp_path / "mine.toml"
    mine.write_text(tiny.replace("[data]\n", '[data]\nfiles = ["own.jsonl"]\n'), encoding="utf-8")
    (tmp_path / "own.jsonl").write_text('{"text": "good"}\n{"text": \n', encoding="utf-8")
    done = cli("distill", mine, "--out", tmp_path / "out", *how, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 2
    assert "own.jsonl:2" in done.stderr
    assert "error: " in done.stderr.splitlines()[0]
    assert not list(tmp_path.glob("cache/**/*.safetensors"))


@pytest.mark.slow
def test_a_student_is_trained_and_told_of(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="edgekit[distill] is not installed")
    from test_distill_chain import SMALL

    from edgekit.distill import random_student

    (tmp_path / "mine.toml").write_text(
        f"""
        [teacher]
        path = "{random_student(SMALL)}"
        [data]
        questions = 4
        templates = ["capital"]
        [[student]]
        name = "half"
        from = "prune:depth=0.5"
        [[student.stage]]
        kind = "logits"
        steps = 4
        batch = 4
        length = 48
        learning_rate = 1e-3
        """,
        encoding="utf-8",
    )
    done = cli("distill", tmp_path / "mine.toml", "--out", tmp_path / "out", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "DISTILLED  half, " in done.stdout
    assert "half, logits" in done.stdout
    student = Path(done.stderr.strip().splitlines()[-1].removeprefix("student: "))
    assert (student / "model.safetensors").is_file()
    record = json.loads((tmp_path / "out" / "distillation.json").read_text(encoding="utf-8"))
    assert record["host"]["logical_cores"] > 0
