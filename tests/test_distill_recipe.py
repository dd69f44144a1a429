"""Recipes: what is shipped loads, and every mistake is named, with the nearest right word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.distill.recipe import load_recipe, shipped, with_student
from edgekit.errors import EdgekitError
from edgekit.pipeline.distilling import foresee_distillation

BASE = """
[teacher]
path = "teacher"

[data]
questions = 5

[[student]]
name = "half"
from = "prune:depth=0.5"

[[student.stage]]
kind = "logits"
steps = 10
batch = 4
length = 32
learning_rate = 1e-3
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_recipes_load_and_differ() -> None:
    recipes = [load_recipe(name) for name in shipped()]
    assert {"tiny", "smoke", "zip-0428"} <= {recipe.name for recipe in recipes}
    assert len({recipe.sha256 for recipe in recipes}) == len(recipes)
    for recipe in recipes:
        assert {stage.kind for student in recipe.students for stage in student.stages} == {"logits", "features", "task"}


def test_the_specified_chain_has_its_budgets() -> None:
    recipe = load_recipe("zip-0428")
    budgets = [(one.name, stage.kind, stage.tokens / 1e9) for one in recipe.students for stage in one.stages]
    assert [(name, kind) for name, kind, _ in budgets] == [
        ("14b", "logits"),
        ("7b", "logits"),
        ("3b", "features"),
        ("1.5b", "task"),
    ]
    assert [tokens for *_, tokens in budgets[:3]] == pytest.approx([100, 100, 50], rel=1e-4)


def test_the_hash_is_of_what_is_said(tmp_path: Path) -> None:
    one = load_recipe(written(tmp_path, BASE))
    (tmp_path / "other").mkdir()
    same = load_recipe(written(tmp_path / "other", f"# a comment\n{BASE}"))
    assert one.sha256 == same.sha256
    assert one.sha256 != load_recipe(written(tmp_path, BASE.replace("1e-3", "2e-3"))).sha256


STAGE = "steps = 10\n"


@pytest.mark.parametrize(
    ("old", "new", "said", "hint"),
    [
        ("questions = 5", "question = 5", "unknown key in `data` of recipe `mine.toml`: `question`", "`questions`"),
        ("learning_rate", "lerning_rate", "`lerning_rate`", "`learning_rate`"),
        ('kind = "logits"', 'kind = "logit"', "`kind` in stage 1 of student 1", "`logits`"),
        ('kind = "logits"', 'kind = "logits"\nmapping = "learned"', "unknown key in stage 1", "known"),
        (STAGE, "steps = 10\ntokens = 100\n", "exactly one of its keys: `steps` or `tokens`", ""),
        (STAGE, "", "exactly one of its keys: `steps` or `tokens`", ""),
        (STAGE, "steps = 0\n", "`steps` in stage 1 .* at least 1, not `0`", ""),
        (STAGE, "steps = 1.5\n", "must be a whole number", ""),
        ("batch = 4\n", "", "lacks a key: `batch`", ""),
        (STAGE, "steps = 10\nalpha = 1.5\n", "at most 1, not `1.5`", ""),
        (STAGE, "steps = 10\nweight_decay = 2\n", "at most 1, not `2`", ""),
        (STAGE, "steps = 10\nalpha = nan\n", "must be finite", ""),
        (STAGE, "steps = 10\nmicro_batch = 8\n", "larger than its `batch`: `8`", ""),
        (STAGE, "steps = 10\nmix = 0.3\n", "not `forward_kl`", ""),
        (STAGE, 'steps = 10\nloss = "reverse_kl"\ncache = "offline"\n', "forward_kl alone, not `reverse_kl`", ""),
        (STAGE, 'steps = 10\ntemperature = 8\ncache = "offline"\n', "temperatures from 1 to 4, not `8`", ""),
        (STAGE, 'steps = 10\ntemperature = { schedule = "linear", start = 4 }\n', "needs its `end`: `linear`", ""),
        (STAGE, "steps = 10\n[student.stage.synthesis]\neach = 5\n", "unknown key in stage 1", ""),
        ("prune:depth=0.5", "prune:deep=0.5", "pruning knows .* not `deep`", "`depth`"),
        ("prune:depth=0.5", "prune:depth=1.5", "between 0 and 1", ""),
        ("prune:depth=0.5", "half of it", "cannot be made of `half of it`", "shape:nano-0.6b"),
        ("prune:depth=0.5", "shape:nano-0.7b", "unknown shape", "nano-0.6b"),
        ('name = "half"', 'name = "../half"', "may hold letters", ""),
        ('path = "teacher"', "", "exactly one of `path`, `make` and `shape`", ""),
        ('path = "teacher"', 'path = "teacher"\nshape = "base-7b"', "exactly one", ""),
        ("[data]", '[cluster]\naccelerator = "h100-80gb"\n[data]', "lacks a key: `count`", ""),
        ("questions = 5", 'templates = ["capitol"]', "cannot hold `capitol`", "`capital`"),
        ("[[student]]", "[[students]]", "unknown key in recipe", "`student`"),
        ("[data]", "seed = 2\n[data]", "unknown key in `teacher`", ""),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, said: str, hint: str) -> None:
    assert old in BASE
    with pytest.raises(EdgekitError, match=said) as refused:
        load_recipe(written(tmp_path, BASE.replace(old, new, 1)))
    assert hint in refused.value.hint


TASK = BASE.replace('"logits"', '"task"') + "[student.stage.synthesis]\nsamples = 5\n"


def test_a_task_stage_asks_questions_of_ones_own(tmp_path: Path) -> None:
    own = 'prompts = "mine.jsonl"\nheld_out = ["test.jsonl"]\nchat = true\n'
    recipe = load_recipe(written(tmp_path, TASK + own))
    synthesis = recipe.students[0].stages[0].synthesis
    assert synthesis.asked.samples == 5
    questions = synthesis.questions(recipe.folder)
    assert (questions.prompts, questions.held_out) == (tmp_path / "mine.jsonl", (tmp_path / "test.jsonl",))
    assert questions.chat
    assert recipe.sha256 != load_recipe(written(tmp_path, TASK)).sha256
    with pytest.raises(EdgekitError, match=r"unknown key in `synthesis` of stage 1 .*: `promts`") as refused:
        load_recipe(written(tmp_path, TASK + own.replace("prompts", "promts")))
    assert "`prompts`" in refused.value.hint
    with pytest.raises(EdgekitError, match=r"asks your own questions .* left out by: `each`"):
        load_recipe(written(tmp_path, TASK + own + "each = 5\n"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"promt": "a"}', "unknown key `promt`: `{}/mine.jsonl:1`"),
        ('{"prompt": "Who is there? Answer:"}', "1 questions have no known answer"),
    ],
)
def test_own_questions_are_refused_before_training(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "mine.jsonl").write_text(line + "\n", encoding="utf-8")
    own = TASK.replace("samples = 5", 'samples = 1\nprompts = "mine.jsonl"')
    with pytest.raises(EdgekitError) as refused:
        foresee_distillation(load_recipe(written(tmp_path, own)))
    assert said.format(tmp_path) in refused.value.message


@pytest.mark.parametrize(("kind", "table"), [("task", "synthesis"), ("on-policy", "on_policy")])
def test_templates_of_other_domains_are_refused_before_training(tmp_path: Path, kind: str, table: str) -> None:
    """A stage that names domains takes the data's templates, which may be of others."""
    text = BASE.replace("questions = 5", 'questions = 5\ntemplates = ["capital"]').replace("logits", kind)
    asked = f'[student.stage.{table}]\nmost_tokens = 8\ndomains = ["reasoning"]\n'
    with pytest.raises(EdgekitError, match="no such template in reasoning: `capital`"):
        foresee_distillation(load_recipe(written(tmp_path, text + asked)))
    own = asked + 'templates = ["syllogism"]\n'
    with pytest.raises(EdgekitError, match="cannot open the checkpoint"):  # the next that is wrong
        foresee_distillation(load_recipe(written(tmp_path, text + own)))


def test_names_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="unknown recipe: `tinny`") as refused:
        load_recipe("tinny")
    assert "`tiny`" in refused.value.hint
    with pytest.raises(EdgekitError, match="does not exist"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(EdgekitError, match="not valid TOML"):
        load_recipe(written(tmp_path, "[teacher"))


def test_a_student_of_ones_own(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, BASE))
    assert with_student(recipe, "prune:depth=0.25").students[0].source == "prune:depth=0.25"
    with pytest.raises(EdgekitError, match="between 0 and 1"):
        with_student(recipe, "prune:depth=2")
    two = replace(recipe, students=(*recipe.students, replace(recipe.students[0], name="other")))
    with pytest.raises(EdgekitError, match=r"the recipe has 2 students \(half, other\)"):
        with_student(two, "prune:depth=0.25")


def test_a_configuration_on_the_command_line_lies_where_the_user_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = with_student(load_recipe("smoke"), "config:mine.json")
    assert recipe.students[0].source == f"config:{tmp_path / 'mine.json'}"
    assert recipe.folder / recipe.students[0].source.removeprefix("config:") == tmp_path / "mine.json"


@pytest.mark.parametrize("line", ['shape = "own.toml"', 'from = "shape:own.toml"'])
def test_a_shape_lies_beside_its_recipe(tmp_path: Path, line: str) -> None:
    (tmp_path / "own.toml").write_text(
        'architecture = "qwen3"\nlayers = 2\nhidden = 64\nheads = 2\nkv_heads = 1\nhead_dim = 32\nffn = 128\n'
        "vocabulary = 600\ntied_embedding = true\n",
        encoding="utf-8",
    )
    recipe = load_recipe(written(tmp_path, BASE.replace('from = "prune:depth=0.5"', line)))
    assert recipe.students[0].shape is not None
    assert recipe.students[0].shape.hidden == 64
