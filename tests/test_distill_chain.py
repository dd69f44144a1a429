"""The whole chain on models of a hundred thousand weights: what it leaves, that it goes on, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="edgekit[distill] is not installed")
for module in ("accelerate", "safetensors", "transformers"):
    pytest.importorskip(module, reason="edgekit[distill] is not installed")

from students import RECIPES, random_student, task_teacher  # noqa: E402

from edgekit.checkpoint import open_checkpoint  # noqa: E402
from edgekit.corpus import task_bank, templates  # noqa: E402
from edgekit.distill import Recipe  # noqa: E402
from edgekit.distill import random_student as make_random  # noqa: E402
from edgekit.distill.asking import bare  # noqa: E402
from edgekit.distill.chain import distill_student  # noqa: E402
from edgekit.distill.loading import load_model  # noqa: E402
from edgekit.distill.material import held_out_material, held_out_questions, training_material  # noqa: E402
from edgekit.distill.model_facts import tokenizer_of  # noqa: E402
from edgekit.distill.recipe import Data, DistillRecipe, Stage, Student, Synthesizing, Teacher  # noqa: E402
from edgekit.distill.samples import golden, read_samples  # noqa: E402
from edgekit.distill.stages import spent  # noqa: E402
from edgekit.distill.synthesis import Synthesis  # noqa: E402
from edgekit.distill.task_material import task_material  # noqa: E402
from edgekit.errors import EdgekitError, ExitCode  # noqa: E402
from edgekit.progress import silent  # noqa: E402
from edgekit.records import Distillation, Estimate, Unknown  # noqa: E402
from edgekit.storage import load_record  # noqa: E402

SMALL: Recipe = replace(
    RECIPES["qwen3"], name="chain-teacher", hidden=64, layers=4, heads=2, kv_heads=1, head_dim=32, ffn=96,
    vocabulary=400, spare=0, characters=0,
)  # fmt: skip
STAGE = Stage(kind="logits", steps=6, batch=4, length=48, learning_rate=1e-3, checkpoint_every=2, precision="float32")
STAGES = (
    replace(STAGE, cache="offline"),
    replace(STAGE, kind="features", mapping="learned", feature_weight=2.0, gradient_checkpointing=True, micro_batch=2),
)
DATA = Data(questions=4, templates=("capital", "continent"), held_out_questions=10)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(*students: Student, **changed: Any) -> DistillRecipe:
    given = students or (Student(name="half", source="prune:depth=0.5", stages=STAGES),)
    teacher = Teacher(path=str(make_random(SMALL)))
    return DistillRecipe(**{"name": "test", "teacher": teacher, "data": DATA, "students": given, **changed})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Distillation, Path]:
    """One chain of two students, run without a break."""
    out = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    second = Student(name="quarter", source="prune:depth=0.5", taught_by="previous", stages=STAGES[:1])
    first = Student(name="half", source="prune:depth=0.5", stages=STAGES)
    return distill_student(recipe(first, second), out), out


def test_a_chain_leaves_its_students_and_its_record(whole: tuple[Distillation, Path]) -> None:
    chain, out = whole
    assert load_record(out / "distillation.json", Distillation) == chain
    assert [(link.student.name, link.taught_by) for link in chain.links] == [
        ("half", chain.teacher.name),
        ("quarter", "half"),
    ]
    assert (chain.teacher.layers, [link.student.layers for link in chain.links]) == (4, [2, 1])
    for link in chain.links:
        model = load_model(Path(link.student.path))
        assert sum(parameter.numel() for parameter in model.parameters()) == link.student.parameters
        assert (Path(link.student.path) / "tokenizer.json").is_file()
        for stage in link.stages:
            assert [step for step, _ in stage.training.losses] == list(range(1, 7)), "every step is logged"
            for figure in (stage.held_out.loss, stage.held_out.kld, stage.held_out.top1):
                assert isinstance(figure, Estimate)
            assert stage.held_out.teacher == chain.teacher.name  # always the first, whoever taught
    assert isinstance(chain.teacher_held_out.kld, Unknown)


def test_a_chain_counts_what_it_cost(whole: tuple[Distillation, Path]) -> None:
    chain, out = whole
    cached, features = (stage.cost for stage in chain.links[0].stages)
    assert cached.tokens == features.tokens == features.teacher_tokens == 6 * 4 * 48
    windows = json.loads((out / "1-half" / "1-logits" / "cache" / "cache.json").read_text(encoding="utf-8"))["windows"]
    assert cached.teacher_tokens == windows * 48  # each window once, however often the student saw it
    table = 400 * 64  # tied: looked up and multiplied with
    layers = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96 + 2 * 64 + 2 * 32) + 64
    assert chain.links[0].student.parameters == layers + table
    assert cached.student_flops.low == 6 * (layers + table) * cached.tokens
    assert features.student_flops.low == 8 * (layers + table) * cached.tokens  # checkpointing computes it again
    attention = 6 * 2 * 2 * 64 * 48 * cached.tokens
    assert cached.student_flops.high == cached.student_flops.low + attention
    assert chain.cost.tokens == 3 * cached.tokens
    assert chain.cost.seconds > 0


def test_feature_stages_tell_which_layers_taught(whole: tuple[Distillation, Path]) -> None:
    link = whole[0].links[0]
    learned = link.stages[1].layer_map
    assert learned is not None
    assert learned == link.layer_map
    assert [max(range(4), key=row.__getitem__) for row in learned.weights] == list(link.kept_layers)
    assert whole[0].links[1].layer_map.mapping == "carved"  # type: ignore[union-attr]


class Stop(BaseException):
    """What a Ctrl-C is."""


def stopping(after: int, where: str) -> Callable[..., None]:
    seen = 0

    def tell(stage: str, done: float, total: float, detail: str = "") -> None:
        nonlocal seen
        seen += where in stage
        if seen > after:
            raise Stop

    return tell


@pytest.mark.parametrize(("after", "where"), [(3, "1-logits"), (4, "2-features")])
def test_a_stopped_chain_goes_on_to_the_same_weights(
    whole: tuple[Distillation, Path], tmp_path: Path, after: int, where: str
) -> None:
    with pytest.raises(Stop):
        distill_student(recipe(), tmp_path / "out", progress=stopping(after, where))
    told: list[str] = []
    chain = distill_student(recipe(), tmp_path / "out", progress=lambda stage, *_: told.append(stage))
    assert chain.student.sha256 == whole[0].links[0].student.sha256
    assert any("2-features" in stage for stage in told)
    assert where != "2-features" or not any(stage == "half 1-logits" for stage in told), "a finished stage stays"


def test_a_finished_chain_is_taken_as_it_stands_and_another_is_refused(tmp_path: Path) -> None:
    one = recipe(Student(name="half", source="prune:depth=0.5", stages=STAGES[:1]))
    first = distill_student(one, tmp_path)
    told: list[str] = []
    assert distill_student(one, tmp_path, progress=lambda stage, *_: told.append(stage)) == first
    assert not any("half" in stage for stage in told)
    other = replace(one.students[0], stages=(replace(STAGES[0], learning_rate=2e-3),))
    with pytest.raises(EdgekitError, match="holds a stage that was made of something else"):
        distill_student(replace(one, students=(other,)), tmp_path)
    with pytest.raises(EdgekitError, match="holds a student that was made of something else"):
        distill_student(replace(one, data=replace(DATA, prompt_weight=0.5)), tmp_path)
    damaged = Path(first.student.path) / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    with pytest.raises(EdgekitError, match="the student is not the one of its record"):
        distill_student(one, tmp_path)


def test_what_the_teacher_took_before_a_kill_counts(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        distill_student(recipe(), tmp_path, progress=stopping(3, "1-logits"))
    kept = tmp_path / "1-half" / "1-logits" / "teacher-seconds.json"
    assert json.loads(kept.read_text(encoding="utf-8"))["cache"] > 0
    kept.write_text('{"cache": 1000.0}', encoding="utf-8")
    stage = distill_student(recipe(), tmp_path).links[0].stages[0]
    assert stage.cost.seconds == pytest.approx(1000 + stage.training.seconds)
    for damaged in ("{", "[]", '{"cache": "x"}', '{"cache": -5}', '{"cache": Infinity}'):
        kept.write_text(damaged, encoding="utf-8")
        assert spent(kept.parent, "cache", 2.0) == 2.0
        assert spent(kept.parent, "cache", 1.0) == 2.0


def test_a_chain_that_was_moved_is_found_where_it_is(tmp_path: Path) -> None:
    first = distill_student(recipe(), tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    moved = distill_student(recipe(), tmp_path / "new")
    assert moved.student.sha256 == first.student.sha256
    assert Path(moved.student.path).is_relative_to(tmp_path / "new")
    assert all(Path(stage.path).is_relative_to(tmp_path / "new") for stage in moved.links[0].stages)


def test_a_stage_is_scored_anew_on_another_text_and_against_another_teacher(tmp_path: Path) -> None:
    """Neither changes what the stage learned from: its labels."""
    config = json.loads((make_random(SMALL) / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "small.json").write_text(
        json.dumps(config | {"num_hidden_layers": 1, "layer_types": None}), encoding="utf-8"
    )
    small = Student(name="small", source=f"config:{tmp_path / 'small.json'}", stages=(replace(STAGE, alpha=0.0),))
    first = distill_student(recipe(small), tmp_path / "out").links[0].stages[0].held_out
    longer = distill_student(recipe(small, data=replace(DATA, held_out_questions=20)), tmp_path / "out")
    (stage,) = longer.links[0].stages
    assert stage.held_out.tokens > first.tokens
    assert stage.held_out.text_sha256 == longer.links[0].start.text_sha256 == longer.teacher_held_out.text_sha256
    other = tmp_path / "teacher"
    shutil.copytree(make_random(SMALL), other)
    torch.manual_seed(9)
    model = load_model(other)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(other)
    shutil.rmtree(tmp_path / "out" / "1-small" / "start")  # it knows its teacher, and begins alike
    again = distill_student(recipe(small), tmp_path / "out", teacher=other).links[0]
    assert again.stages[0].training == stage.training, "nothing is trained again"
    assert isinstance(again.stages[0].held_out.kld, Estimate)
    assert isinstance(first.kld, Estimate)
    assert again.stages[0].held_out.loss == first.loss
    assert again.stages[0].held_out.kld.value != pytest.approx(first.kld.value, rel=1e-3)


def test_a_diverged_stage_says_so_and_keeps_the_rest(tmp_path: Path) -> None:
    wild = replace(STAGE, steps=60, learning_rate=1e30, warmup=0.0, gradient_norm=1e6, weight_decay=0.0)
    student = Student(name="half", source="prune:depth=0.5", stages=(STAGES[0], wild))
    with pytest.raises(EdgekitError, match=r"the logits stage stopped: .*`.*2-logits`") as refused:
        distill_student(recipe(student), tmp_path)
    assert refused.value.code == ExitCode.BROKE
    assert (tmp_path / "1-half" / "1-logits" / "stage.json").is_file()
    assert not (tmp_path / "1-half" / "2-logits" / "stage.json").exists()


def test_what_cannot_be_is_refused_before_training(tmp_path: Path) -> None:
    large = Student(name="large", source=f"config:{random_student('qwen3') / 'config.json'}", stages=STAGES[:1])
    with pytest.raises(EdgekitError, match="parameters, its teacher"):
        distill_student(recipe(large), tmp_path / "2")
    with pytest.raises(EdgekitError, match="no such folder"):
        distill_student(recipe(), tmp_path / "3", teacher=tmp_path / "nowhere")
    with pytest.raises(EdgekitError, match="no data that fills a window of `48` tokens"):
        distill_student(recipe(data=Data()), tmp_path / "4")
    assert not (tmp_path / "3").exists()


def test_a_student_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    other = make_random(replace(SMALL, name="chain-other", tokenizer="llama3", architecture="llama"))
    with pytest.raises(Stop):
        distill_student(recipe(), tmp_path, progress=stopping(0, "1-logits"))
    shutil.copy(other / "tokenizer.json", tmp_path / "1-half" / "start" / "tokenizer.json")
    with pytest.raises(EdgekitError, match=r"teacher and student have different tokenizers: token .* is `"):
        distill_student(recipe(), tmp_path)


def test_own_files_are_read_line_by_line_and_some_are_held_out(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(open_checkpoint(make_random(SMALL)))
    asked = [{"prompt": f"What is {n} + {n}? Answer:", "answer": str(2 * n)} for n in range(300)]
    lines = [json.dumps(one) for one in (*asked, {"text": "The river is high in spring. " * 40})]
    (tmp_path / "own.jsonl").write_text("\n".join(lines), encoding="utf-8")
    data = Data(files=("own.jsonl",))
    learned = training_material(data, tmp_path, tokenizer, length=48, prompt_weight=0.1, seed=1)
    apart = held_out_material(data, tmp_path, tokenizer, length=48, seed=1)
    assert {0.0, 1.0} < {round(weight, 3) for weight in learned.windows.weights.unique().tolist()}
    assert set(apart.windows.weights.unique().tolist()) == {0.0, 1.0}
    seen = {line for text in map(tokenizer.decode, learned.windows.ids.tolist()) for line in text.split("\n")}
    unseen = {line for text in map(tokenizer.decode, apart.windows.ids.tolist()) for line in text.split("\n")}
    questions = {f"{one['prompt']} {one['answer']}" for one in asked}
    assert len(questions & unseen) > 3
    assert not questions & seen & unseen
    assert learned.sha256 == learned.windows.sha256 != apart.sha256
    for number, (bad, said) in enumerate(
        [('{"prompt": "a"}', "a line has `text`, or"), ("{", "not JSON"), ('{"text": ""}', "`text` is empty")], 1
    ):
        (tmp_path / "bad.jsonl").write_text("\n".join([*lines[:number], bad]), encoding="utf-8")
        with pytest.raises(EdgekitError, match=f"{said}.*bad.jsonl:{number + 1}`"):
            training_material(Data(files=("bad.jsonl",)), tmp_path, tokenizer, length=48, prompt_weight=0, seed=1)


def test_what_a_gate_asks_is_not_learned_from_own_files(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(open_checkpoint(make_random(SMALL)))
    evaluated = [*task_bank(items=6).items, *islice(templates("evaluation", "factual")["capital"], 9)]
    asked = [{"prompt": one.prompt.upper(), "answer": one.answer} for one in evaluated]
    said = [{"text": f"Before.\n{one.line}\nAfter."} for one in evaluated[:2]]
    own = [{"prompt": f"Who sleeps in tent {n}? Answer:", "answer": f"guest {n}"} for n in range(40)]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, [*asked, *said, *own])), encoding="utf-8")
    data = Data(files=("own.jsonl",))
    learned = training_material(data, tmp_path, tokenizer, length=48, prompt_weight=0.1, seed=1)
    (tmp_path / "own.jsonl").write_text(
        "\n".join(map(json.dumps, [*([{"text": "Before.\nAfter."}] * 2), *own])), encoding="utf-8"
    )
    clean = training_material(data, tmp_path, tokenizer, length=48, prompt_weight=0.1, seed=1)
    assert learned.sha256 == clean.sha256
    assert learned.notes == ("17 questions of the recipe's files are asked in evaluations and were left out",)
    assert clean.notes == ()


def test_a_task_stage_of_own_questions_leaves_out_what_is_held_out(tmp_path: Path) -> None:
    """Of evaluations, of the recipe's own test files, and of the held-out share of its training files."""
    rows = [{"prompt": f"What comes after {n}? Answer:", "answer": str(n + 1)} for n in range(60)]
    asked_in_evaluations = {"prompt": task_bank().items[0].prompt, "answer": "x"}

    def write(name: str, some: list[dict[str, str]]) -> None:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")

    write("prompts.jsonl", [*rows, asked_in_evaluations])
    write("test.jsonl", rows[50:])
    write("learned.jsonl", rows[:50])
    apart = held_out_questions(Data(files=("learned.jsonl",)), tmp_path)
    held = [row for row in rows[:50] if bare(row["prompt"]) in apart]
    assert 0 < len(held) < 20
    teacher = make_random(SMALL)
    tokenizer = tokenizer_of(open_checkpoint(teacher))
    own = Synthesizing(
        asked=Synthesis(domains=(), temperature=0.0, most_tokens=2),
        prompts="prompts.jsonl",
        held_out=("test.jsonl",),
        gold=True,
    )
    found = task_material(
        own, teacher, teacher, tokenizer, tmp_path / "out" / "samples.jsonl", teacher_sha256="7e" * 32, templates=(),
        folder=tmp_path, besides=apart, length=64, prompt_weight=0.05, seed=1, progress=silent,
    )  # fmt: skip
    taught = tokenizer.decode(found.windows.ids.flatten().tolist())
    for row in rows:
        learned = row in rows[:50] and row not in held
        assert (f"{row['prompt']} {row['answer']}\n" in taught) == learned, row
    assert asked_in_evaluations["prompt"] not in taught


@pytest.mark.slow
def test_a_real_teacher_writes_for_its_student(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    task = replace(
        STAGE, kind="task", steps=30, length=96, alpha=0.0, learning_rate=2e-3,
        synthesis=Synthesizing(asked=Synthesis(domains=(), each=20, most_tokens=8)),
    )  # fmt: skip
    stages = (replace(STAGE, steps=40, length=96, learning_rate=2e-3), task)
    data = Data(questions=60, templates=("capital", "continent", "language"))
    student = Student(name="half", source="prune:depth=0.5,width=0.5", stages=stages)
    chain = distill_student(recipe(student, data=data), tmp_path, teacher=task_teacher())
    (link,) = chain.links
    assert all(isinstance(figure, Estimate) for figure in (link.start.kld, link.stages[0].held_out.kld))
    assert link.stages[0].held_out.kld.value < 0.8 * link.start.kld.value  # type: ignore[union-attr]
    assert "of them right or agreed on" in link.stages[1].notes[0]
    assert link.stages[1].cost.teacher_tokens > 0
    samples = tmp_path / "1-half" / "2-task" / "samples.jsonl"
    control = task_material(
        replace(task.synthesis, gold=True),
        task_teacher(),
        Path(chain.student.path),
        tokenizer_of(open_checkpoint(task_teacher())),
        samples,
        teacher_sha256=chain.teacher.sha256,
        templates=data.templates,
        folder=tmp_path,
        length=96,
        prompt_weight=0.05,
        seed=1,
        progress=silent,
    )
    asked = golden(read_samples(samples))
    taught = tokenizer_of(open_checkpoint(task_teacher())).decode(control.windows.ids.flatten().tolist())
    assert len(asked) == 60  # all that were asked, whatever the teacher made of them
    assert all(f"{one.prompt} {one.gold}\n" in taught for one in asked)


TWO = """
import json, os, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_distill_chain import STAGES, recipe
from edgekit.distill.chain import distill_student
from edgekit.distill.recipe import Student

distill_student(recipe(Student(name="half", source="prune:depth=0.5", stages=STAGES)), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_two_processes_share_a_chain(whole: tuple[Distillation, Path], tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, tmp_path / "two.py", tmp_path / "out", Path(__file__).parent],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    alone, shared = whole[0].links[0], load_record(tmp_path / "out" / "distillation.json", Distillation).links[0]
    for one, other in zip(alone.stages, shared.stages, strict=True):
        assert [loss for _, loss in other.training.losses] == pytest.approx(
            [loss for _, loss in one.training.losses], rel=1e-5
        )
        for name in ("loss", "kld"):
            assert getattr(other.held_out, name).value == pytest.approx(getattr(one.held_out, name).value, rel=1e-4)
    assert load_model(Path(shared.student.path)).config.tie_word_embeddings
