"""Temperature schedules: where they begin and end, and what lies between."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from edgekit.distill.schedules import SCHEDULES, temperature_at
from edgekit.errors import EdgekitError


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_from_the_start_to_the_end_and_never_back(schedule: str) -> None:
    found = [temperature_at(step, 11, schedule=schedule, start=4, end=1) for step in range(11)]
    assert (found[0], found[-1], found[5]) == pytest.approx((4, 1, 2.5))
    assert found == sorted(found, reverse=True)


def test_linear_goes_in_even_steps_and_a_cosine_hurries_in_the_middle() -> None:
    linear, cosine = (
        [temperature_at(step, 9, schedule=schedule, start=5, end=1) for step in range(9)]
        for schedule in ("linear", "cosine")
    )
    assert [a - b for a, b in pairwise(linear)] == pytest.approx([0.5] * 8)
    assert cosine[1] == pytest.approx(3 + 2 * math.cos(math.pi / 8))
    assert cosine[0] - cosine[1] < 0.5 < cosine[3] - cosine[4]


def test_constant_stays() -> None:
    assert {temperature_at(step, 5, schedule="constant", start=2) for step in range(7)} == {2}


def test_a_rerun_past_the_end_and_a_single_step_stay_in_range() -> None:
    assert temperature_at(30, 10, schedule="linear", start=4, end=1) == 1
    assert temperature_at(0, 1, schedule="cosine", start=4, end=1) == 4


@pytest.mark.parametrize(
    ("schedule", "start", "end", "words"),
    [
        ("exponential", 2, 1, f"{', '.join(SCHEDULES)}): `exponential`"),
        ("linear", 2, None, "needs the temperature at its end: `linear`"),
        ("linear", 0, 1, "above zero, not `0`"),
        ("cosine", 2, -1, "above zero, not `-1`"),
        ("constant", math.nan, None, "above zero, not `nan`"),
    ],
)
def test_refusals(schedule: str, start: float, end: float | None, words: str) -> None:
    with pytest.raises(EdgekitError) as caught:
        temperature_at(0, 10, schedule=schedule, start=start, end=end)
    assert words in caught.value.message
