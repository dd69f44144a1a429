"""The pair that answers: figures through the same doors as a shipped artifact, GGUF and fenced process included."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest
from students import TAUGHT, task_file, task_questions, task_student, task_teacher

pytest.importorskip("torch", reason="edgekit[distill] is not installed")
pytest.importorskip("transformers", reason="edgekit[distill] is not installed")
pytest.importorskip("gguf", reason="edgekit[quantize] is not installed")

from edgekit import corpus, open_artifact
from edgekit.bench import answer
from edgekit.checkpoint import open_checkpoint
from edgekit.quantize.convert import convert
from edgekit.records import Answers, Settings

ITEMS = 200


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answers]:
    folder = tmp_path_factory.mktemp("pair")
    models = {"teacher": task_teacher(), "student": task_student()}
    return {name: asked(model, folder / f"{name}-f16.gguf") for name, model in models.items()}


def asked(model: Path, path: Path) -> Answers:
    artifact = open_artifact(convert(open_checkpoint(model), path, type="f16"))
    return answer(artifact, task_questions(ITEMS), settings=Settings(repack=False), threads=2)


def above_chance(found: Answers, domain: str = "") -> float:
    mine = [one for one in found.answers if domain in ("", one.domain)]
    return mean(one.correct for one in mine) - mean(one.chance for one in mine)


def test_the_questions_are_of_every_domain_and_held_out() -> None:
    bank = task_questions(400)
    assert bank.domains == corpus.DOMAINS
    assert {item.template for item in bank.items} == set(TAUGHT)
    assert len({item.id for item in bank.items}) == 400
    assert {item.mode for item in bank.items} == {"choice", "generate"}
    assert task_questions(40).items == bank.items[:40]


def test_as_a_users_file_they_are_the_same_questions(tmp_path: Path) -> None:
    bank = corpus.read_bank(task_file(tmp_path, 200))
    assert bank.items == task_questions(200).items
    assert (bank.name, bank.sha256) == ("taught.jsonl", task_questions(200).sha256)


@pytest.mark.slow
def test_the_teacher_answers_far_better_than_chance(answers: dict[str, Answers]) -> None:
    assert above_chance(answers["teacher"]) > 0.3
    assert sum(above_chance(answers["teacher"], domain) > 0.2 for domain in corpus.DOMAINS) >= 2


@pytest.mark.slow
def test_the_student_stands_between_chance_and_its_teacher(answers: dict[str, Answers]) -> None:
    teacher, student = above_chance(answers["teacher"]), above_chance(answers["student"])
    assert 0.1 < student < teacher - 0.08


@pytest.mark.slow
def test_both_read_the_same_tokens() -> None:
    assert (task_teacher() / "tokenizer.json").read_bytes() == (task_student() / "tokenizer.json").read_bytes()
