from __future__ import annotations

import pytest
from bench_fakes import header

from edgekit.bench.plan import PRESETS, plan_run, split
from edgekit.records import Settings, Workload


@pytest.mark.parametrize(
    ("total", "parts", "shares"),
    [(10, 3, [4, 3, 3]), (10, 1, [10]), (9, 3, [3, 3, 3]), (2, 3, [1, 1]), (11, 3, [4, 4, 3])],
)
def test_shares_differ_by_one_at_most(total: int, parts: int, shares: list[int]) -> None:
    assert split(total, parts) == shares


def test_depths_beyond_the_training_context_are_left_out_and_named() -> None:
    plan = plan_run(PRESETS["thorough"], header(context_train=8192))
    depths = {step.depth for process in plan.main + plan.after for step in process.steps}
    assert depths == {0, 1024, 2048, 4096}
    note = next(note for note in plan.notes if note.code == "depth-left-out")
    assert "8192, 16384" in note.message


def test_a_training_context_that_is_not_stated_bounds_nothing() -> None:
    plan = plan_run(PRESETS["thorough"], header(context_train=0))
    assert max(step.depth for process in plan.after for step in process.steps) == 16384


def test_tests_longer_than_the_judged_context_are_left_out_and_named() -> None:
    plan = plan_run(Workload(settings=Settings(context_tokens=256), depths=()), header())
    assert {step.test for process in plan.main for step in process.steps} == {"tg128"}
    assert [note.code for note in plan.notes] == ["test-left-out"]


def test_depths_that_fit_need_no_process_of_their_own() -> None:
    plan = plan_run(Workload(settings=Settings(context_tokens=8192)), header())
    assert plan.after == ()
    assert all(process.judged and process.settings.context_tokens == 8192 for process in plan.main)


def test_the_larger_context_changes_nothing_else() -> None:
    settings = Settings(context_tokens=2048, ubatch_tokens=128, kv_type="q8_0", threads=3)
    (deep,) = plan_run(Workload(settings=settings), header()).after
    assert not deep.judged
    assert deep.settings == Settings(context_tokens=4352, ubatch_tokens=128, kv_type="q8_0", threads=3)


def test_warmup_is_short_and_marked() -> None:
    plan = plan_run(Workload(prompt_tokens=(64, 2048), depths=()), header())
    warmups = [step for step in plan.main[0].steps if step.warmup]
    assert [(step.test, step.prompt, step.generate) for step in warmups] == [
        ("pp64", 64, 0),
        ("pp2048", 128, 0),
        ("tg128", 0, 8),
    ]


def test_a_quick_run_warms_up_on_a_whole_ubatch_for_the_sake_of_its_peak() -> None:
    plan = plan_run(PRESETS["quick"], header())
    warmups = [[(step.test, step.prompt) for step in process.steps if step.warmup] for process in plan.main]
    assert warmups == [[("pp128", 512), ("tg32", 0)]] * 3
