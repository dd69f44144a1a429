"""What a recipe would cost: models counted as transformers makes them, figures that can be recomputed by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.distill import costs
from edgekit.distill.accelerators import accelerators
from edgekit.distill.model_facts import facts_of, facts_of_shape
from edgekit.distill.planning import plan_distillation
from edgekit.distill.recipe import Machines, Student, Teacher, load_recipe, with_student
from edgekit.errors import EdgekitError
from edgekit.records import DistillPlan, Estimate, Unknown
from edgekit.shapes import SHAPES, load_shape
from edgekit.storage import from_json, to_json


def test_published_sizes_are_counted() -> None:
    plan = plan_distillation(load_recipe("zip-0428"))
    counted = [round(model.parameters / 1e9, 2) for model in (plan.teacher, *plan.students)]
    # as the model cards of Qwen2.5-72B, -14B, -7B, -3B and -1.5B say, two digits
    assert counted == [72.71, 14.77, 7.62, 3.09, 1.54]
    assert facts_of_shape(SHAPES["nano-0.6b"]).parameters == 596_049_920  # Qwen3-0.6B


def test_the_specified_chain_costs_what_a_hand_computes() -> None:
    recipe = load_recipe("zip-0428")
    plan = plan_distillation(recipe)
    first = plan.stages[0]
    tokens, student, teacher = first.tokens, 14_770_033_664 - 152_064 * 5120, 72_706_203_648 - 152_064 * 8192
    assert first.student_flops.low == pytest.approx(8 * student * tokens)  # with checkpointing
    assert first.teacher_flops.low == pytest.approx(2 * teacher * tokens)
    assert isinstance(first.accelerator_hours, Estimate)
    assert first.accelerator_hours.low == pytest.approx((6 * student + 2 * teacher) * tokens / (0.46 * 989.4e12 * 3600))
    assert first.accelerator_hours.basis == "claimed"  # the peak is
    assert isinstance(plan.hours, Estimate)
    assert isinstance(plan.accelerator_hours, Estimate)
    assert plan.hours.value == pytest.approx(plan.accelerator_hours.value / 512)
    assert first.memory.optimizer == pytest.approx(8 * 14_770_033_664 / 512)
    assert first.memory.teacher == pytest.approx(4 * 72_706_203_648 / 512)
    assert plan.fits == "yes"
    assert any("repeated distillation degrades" in note for note in plan.notes)
    assert from_json(to_json(plan), DistillPlan, origin="a plan") == plan


@pytest.mark.parametrize(
    ("count", "accelerator", "fits", "said"),
    [
        (512, "h100-80gb", "yes", ""),
        (4, "h100-80gb", "no", "it takes .* of 80.00 GB on each"),
        (384, "h100-80gb", "no", "cannot share a batch of 1024 windows evenly"),
        (128, "a100-40gb", "no", "it takes .* of 40.00 GB on each"),
    ],
)
def test_what_does_not_fit_says_why(count: int, accelerator: str, fits: str, said: str) -> None:
    recipe = load_recipe("zip-0428")
    stage = replace(recipe.students[0].stages[0], micro_batch=2)
    plan = plan_distillation(
        replace(
            recipe,
            students=(replace(recipe.students[0], stages=(stage,)),),
            cluster=Machines(accelerator=accelerator, count=count),
        )
    )
    assert plan.fits == fits
    assert bool(plan.stages[0].reason) == bool(said)
    assert re.search(said, plan.stages[0].reason)


def test_without_machines_time_is_unknown_and_nothing_is_said_to_fit() -> None:
    plan = plan_distillation(load_recipe("tiny"))
    assert isinstance(plan.hours, Unknown)
    assert plan.fits == "unknown"
    assert plan.flops.value > 1e12
    recipe = load_recipe("tiny")
    with pytest.raises(EdgekitError, match="unknown accelerator: `h100`") as refused:
        plan_distillation(replace(recipe, cluster=Machines(accelerator="h100", count=1)))
    assert "h100-80gb" in refused.value.hint


def test_a_student_that_is_no_smaller_is_refused() -> None:
    recipe = load_recipe("zip-0428")
    with pytest.raises(
        EdgekitError, match=r"the student `14b` has 14770033664 parameters, its teacher `nano-0.6b` only"
    ):
        plan_distillation(replace(recipe, teacher=Teacher(shape=load_shape("nano-0.6b"))))


def test_accelerators_have_sources() -> None:
    for one in accelerators().values():
        assert 20e9 < one.memory_bytes < 300e9
        assert 100e12 < one.bfloat16_flops < 3e15
        assert len(one.source) > 20


def test_memory_is_foreseen_for_the_chunks_that_losses_take() -> None:
    pytest.importorskip("torch", reason="edgekit[distill] is not installed")
    from edgekit.distill import chunked, training_memory

    assert training_memory.CHUNK_BYTES == chunked.CHUNK_BYTES


def test_a_token_costs_six_flops_a_weight() -> None:
    facts = facts_of_shape(SHAPES["base-7b"])
    found = costs.training_flops(facts, 10, 1024)
    assert found.low == 6 * 10 * (facts.parameters - 152_064 * 3584)  # the table is looked up
    assert found.high - found.low == 12 * 28 * 28 * 128 * 1024 * 10  # PaLM's 12 LHQT
    assert costs.forward_flops(facts, 10, 1024).value == pytest.approx(found.value / 3)


@pytest.mark.parametrize(
    ("architecture", "spec"),
    [
        (architecture, spec)
        for architecture in ("llama", "qwen3", "qwen2", "gemma3")
        for spec in ("prune:depth=0.5", "prune:depth=0.3,width=0.6", "prune:ffn=0.4", "prune:heads=0.5")
        if (architecture, spec) != ("qwen2", "prune:heads=0.5")  # it keeps its heads
    ],
)
def test_a_carved_student_is_foreseen_as_it_becomes(tmp_path: Path, architecture: str, spec: str) -> None:
    pytest.importorskip("transformers", reason="edgekit[distill] is not installed")
    import torch
    from students import random_student

    from edgekit.distill.pruning import carve
    from edgekit.distill.windows import Windows

    folder = random_student(architecture)
    some = Windows(ids=torch.arange(300, 366).view(2, 33), weights=torch.ones(2, 33))
    carve(folder, spec, tmp_path / "student", windows=some)
    made = facts_of(tmp_path / "student", "student", hashed=False)
    recipe = load_recipe("smoke")
    plan = plan_distillation(with_student(recipe, spec), teacher=folder)
    (foreseen,) = plan.students
    unlike = ("name", "path", "sha256", "made")
    told = [{key: getattr(one, key) for key in one.__slots__ if key not in unlike} for one in (made, foreseen)]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("prune:heads=0.1", "none would be left"),
        ("prune:depth=0.1", "none would be left"),
        ("prune:depth=0.9", "nothing"),
    ],
)
def test_a_student_that_cannot_be_carved_is_refused_before_it_is_tried(spec: str, said: str) -> None:
    with pytest.raises(EdgekitError, match=said):
        plan_distillation(with_student(load_recipe("smoke"), spec))


def test_a_configuration_is_foreseen_too(tmp_path: Path) -> None:
    recipe = load_recipe("tiny")
    config = {
        "model_type": "qwen3",
        "num_hidden_layers": 1,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 2,
        "head_dim": 64,
    }
    (tmp_path / "small.json").write_text(json.dumps(config), encoding="utf-8")
    student = Student(name="small", source="config:small.json", stages=recipe.students[0].stages)
    plan = plan_distillation(replace(recipe, students=(student,), folder=tmp_path))
    assert plan.students[0].vocabulary == plan.teacher.vocabulary
    (tmp_path / "small.json").write_text(json.dumps(config | {"hidden_size": "many"}), encoding="utf-8")
    with pytest.raises(EdgekitError, match="its `hidden_size` is no size"):
        plan_distillation(replace(recipe, students=(student,), folder=tmp_path))
