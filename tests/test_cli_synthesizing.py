"""synthesize as a user types it: what it would ask, what it writes, and one error line for what it cannot use."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
from students import task_teacher

pytest.importorskip("torch", reason="edgekit[distill] is not installed")
pytest.importorskip("transformers", reason="edgekit[distill] is not installed")

from edgekit.cli import main
from edgekit.cli.reading_synthesizing import show_report
from edgekit.distill.synthesis import read_samples
from edgekit.records.synthesis import DomainYield, SynthesisReport

folder = cache(task_teacher)
"""Of a model that answers; finding it takes seconds."""

SOME = ("--template", "capital", "--template", "group", "--each", "4", "--quiet", "--threads", "1")


def run(*arguments: object) -> int:
    return main(["synthesize", *map(str, arguments)])


@pytest.mark.slow
def test_it_says_what_it_would_ask_and_writes_what_it_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "samples.jsonl"
    assert run(folder(), "--out", out, *SOME, "--dry-run", "--json") == 0
    foreseen = json.loads(capsys.readouterr().out)
    assert (foreseen["questions"], foreseen["samples"], foreseen["written_tokens"]) == (8, 8, 8 * 32)
    assert not out.parent.exists()
    assert run(folder(), "--out", out, *SOME, "--temperature", "0") == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[-1] == str(out)
    samples = read_samples(out)
    right = {domain: sum(bool(one.correct) for one in samples if one.domain == domain) for domain in ("factual",)}
    assert f"factual: 4 questions, 4 different samples, {right['factual']} of 4 right" in lines
    assert len(lines) == 3
    assert "tok/s" in printed.err
    assert run(folder(), "--out", out, *SOME, "--temperature", "0") == 0
    assert "tok/s" not in capsys.readouterr().err  # nothing was asked again


def test_ones_own_questions_are_asked_and_test_items_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.jsonl"
    asked = ["Which colour is the gate? Answer:", "Which colour is the door? Answer:"]
    mine.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in asked))
    theirs = tmp_path / "theirs.jsonl"
    theirs.write_text(json.dumps({"prompt": asked[1], "answer": "red"}) + "\n")
    arguments = (folder(), "--out", tmp_path / "s.jsonl", "--prompts", mine, "--held-out", theirs)
    assert run(*arguments, "--samples", 3, "--dry-run", "--json") == 0
    foreseen = json.loads(capsys.readouterr().out)
    assert (foreseen["questions"], foreseen["samples"], foreseen["held_out"]) == (1, 3, 1)
    assert run(*arguments, "--quiet") == 2
    assert "2 questions have no known answer: telling by agreement takes 3 samples" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--domain", "histroy"), "unknown domain: `histroy`"),
        (("--template", "capitol"), "no such template in factual, reasoning, coding, conservation: `capitol`"),
        (("--style", "rational"), "unknown style of samples: `rational`"),
        (("--shard", "5/4"), "not a shard: `5/4`"),
        (("--shard", "1"), "not a shard: `1`"),
        (("--top-p", "0"), "`top_p` of a synthesis must be at least 0.01"),
        (("--samples", "2", "--temperature", "0"), "at temperature 0 all of a question's samples are the same"),
        (("--prompts", "{folder}/bad.jsonl"), "unknown key `promt`: `{folder}/bad.jsonl:2`"),
        (("--prompts", "{folder}/none.jsonl"), "cannot read questions (no such file or directory)"),
        (("--prompts", "{folder}/open.jsonl"), "1 questions have no known answer"),
        (("--held-out", "{folder}/open.jsonl"), "no `answer`: `{folder}/open.jsonl:1`"),
        (("--out", "{folder}/open.jsonl", "--each", "1"), "the output holds something else than a teacher's samples"),
        (("--out", "{folder}"), "the output is not a regular file"),
        (("--backend", "vllm"), "a library that this needs is not installed: `vllm`"),
    ],
)
def test_what_it_cannot_use_is_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"promt": "c"}\n')
    (tmp_path / "open.jsonl").write_text('{"prompt": "Why?"}\n')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    given = [one.format(folder=tmp_path) for one in arguments]
    if "--out" not in given:
        given += ["--out", str(tmp_path / "s.jsonl")]
    assert run(folder(), *given, "--quiet", "--threads", "1") == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith(f"error: {message.format(folder=tmp_path)}"), told
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_teachers_that_cannot_be_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "none", "--out", tmp_path / "s.jsonl") == 2
    assert "cannot open the checkpoint (no such folder)" in capsys.readouterr().err
    copied = shutil.copytree(folder(), tmp_path / "teacher")
    (copied / "tokenizer.json").unlink()
    assert run(copied, "--out", tmp_path / "s.jsonl") == 2
    assert "the checkpoint has no `tokenizer.json`" in capsys.readouterr().err
    assert not (tmp_path / "s.jsonl").exists()


def test_samples_of_no_use_are_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"checked": 3, "correct": 0, "agreed": 0}
    report = SynthesisReport(
        path="s.jsonl",
        sha256="",
        teacher_sha256="",
        key="",
        questions=4,
        samples=5,
        duplicates=0,
        wordless=0,
        unfinished=0,
        too_long=2,
        held_out=1,
        domains=(DomainYield(domain="own", questions=4, samples=5, **counts),),
        tokens=9,
        generated=9,
        seconds=3.0,
    )
    assert show_report(report, as_json=False) == 1
    printed = capsys.readouterr()
    assert printed.out == "own: 4 questions, 5 different samples, 0 of 3 right, 0 of 2 agreed on\ns.jsonl\n"
    assert [line.partition(":")[2].strip() for line in printed.err.splitlines()] == [
        "9 tokens in 3 s (3.00 tok/s)",
        "2 questions are too long for the teacher's context",
        "1 questions are asked in evaluations and were left out",
        "none of the samples is right or agreed on",
    ]
