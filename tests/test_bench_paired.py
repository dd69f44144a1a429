"""Ranges of retention: what they cover in simulated banks, and what must never be said."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.bench.paired import Pairs, lead_range, retention_ranges, share_range
from edgekit.intervals import share_interval
from edgekit.records import Answer

CHANCE = 0.25


def pairs(student: object, teacher: object, *, template: object = None, domain: object = None) -> Pairs:
    ours, theirs = np.asarray(student, float), np.asarray(teacher, float)
    size = len(ours)
    return Pairs(
        student=ours,
        teacher=theirs,
        chance=np.full(size, CHANCE),
        template=np.asarray(np.arange(size) if template is None else template),
        domain=np.asarray(np.zeros(size, int) if domain is None else domain),
    )


def joint(rng: np.random.Generator, right: object, lost: object, won: object) -> tuple[np.ndarray, np.ndarray]:
    """(student, teacher) of items that both answer rightly with probability `right`, only one with the others."""
    drawn = rng.random(len(np.asarray(right)))
    right, lost, won = map(np.asarray, (right, lost, won))
    student = (drawn < right) | ((drawn >= right + lost) & (drawn < right + lost + won))
    return student, drawn < right + lost


def bank(items: int, domains: int = 4, templates: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """(template, domain) of each item, spread evenly."""
    at = np.arange(items)
    domain = at % domains
    return domain * templates + at // domains % templates, domain


def simulate(runs: int, items: int, effect: float, *, domains: int = 4) -> tuple[float, float, float, float]:
    """(coverage of both, of items alone, median half-width of both, of items) where teacher 0.85, student 0.73 right,
    21 % of the items divide them, and a template's own share of lost items is spread by `effect`.
    """
    template, domain = bank(items, domains)
    hits, alone, widths, item_widths = 0, 0, [], []
    lost, won, both_right = 0.165, 0.045, 0.685
    truth = (both_right + won - CHANCE) / (both_right + lost - CHANCE)
    for run in range(runs):
        rng = np.random.default_rng(run)
        count = int(template.max()) + 1
        # what a template loses more it answers rightly less, the teacher's skill stays
        shift = rng.beta(lost / effect, (1 - lost) / effect, count) - lost if effect else np.zeros(count)
        shift = np.minimum(shift, both_right)[template]
        ranges = retention_ranges(
            pairs(*joint(rng, both_right - shift, lost + shift, np.full(items, won)), template=template, domain=domain)
        )
        hits += ranges.both.low <= truth <= ranges.both.high
        alone += ranges.items.low <= truth <= ranges.items.high
        widths.append(ranges.both.width / 2)
        item_widths.append(ranges.items.width / 2)
    return hits / runs, alone / runs, float(np.median(widths)), float(np.median(item_widths))


# ---- coverage -----------------------------------------------------------------------------------------------------
# 400 runs of each gave: 2000 items of 24 templates 94 % (±2.7 points), with a template's lost share spread by an
# intra-class correlation of 0.02 91 % (±4.0), of 0.1 89 % (±7.0); over items alone 92, 72 and 45 %. 500 items of one
# domain's six templates: 96 (±5.9), 93 and 88 %; over items alone 93, 75 and 44 %. 100 items: 90 %.


@pytest.mark.parametrize(
    ("items", "effect", "domains", "least"),
    [(2000, 0.0, 4, 0.88), (2000, 0.05, 4, 0.83), (500, 0.05, 1, 0.83), (100, 0.0, 1, 0.83)],
)
def test_ranges_cover(items: int, effect: float, domains: int, least: float) -> None:
    """90 % is meant; 120 runs know it to ± 5 points."""
    covered, alone, _, _ = simulate(120, items, effect, domains=domains)
    assert least <= covered <= 0.99
    if effect:  # what a range over items alone would have promised
        assert alone < 0.75


def test_two_thousand_items_are_enough_for_three_points() -> None:
    template, domain = bank(2000)
    half_widths = []
    for run in range(60):
        drawn = joint(np.random.default_rng(run), np.full(2000, 0.685), np.full(2000, 0.165), np.full(2000, 0.045))
        half_widths.append(retention_ranges(pairs(*drawn, template=template, domain=domain)).both.width / 2)
    assert np.median(half_widths) < 0.028
    assert np.quantile(half_widths, 0.95) < 0.033
    assert np.mean(np.asarray(half_widths) < 0.03) > 0.75


# ---- what ranges must be ------------------------------------------------------------------------------------------


def test_items_alone_are_the_paired_bootstrap() -> None:
    """Against resampling item by item."""
    rng = np.random.default_rng(3)
    student, teacher = joint(rng, np.full(300, 0.6), np.full(300, 0.25), np.full(300, 0.05))
    found = retention_ranges(pairs(student, teacher)).items
    drawn = rng.integers(0, 300, (4000, 300))
    quotients = (student[drawn].mean(1) - CHANCE) / (teacher[drawn].mean(1) - CHANCE)
    low, high = np.quantile(quotients, (0.05, 0.95))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)


def test_pairing_narrows() -> None:
    """The same shares, once where both fail at the same items, once each at its own."""
    size = 1000
    teacher = np.arange(size) < 850
    alike = np.arange(size) < 730
    apart = np.arange(size) >= 270
    together, separate = (retention_ranges(pairs(student, teacher)) for student in (alike, apart))
    assert together.both.value == separate.both.value
    assert together.both.width < 0.7 * separate.both.width


def test_the_mean_is_inside_and_one_seed_gives_one_range() -> None:
    student, teacher = joint(np.random.default_rng(4), np.full(200, 0.5), np.full(200, 0.4), np.full(200, 0.05))
    first, second = (retention_ranges(pairs(student, teacher)) for _ in range(2))
    assert first == second
    assert first.both.low <= first.items.low < first.items.value < first.items.high <= first.both.high


def test_a_lone_template_counts_its_items() -> None:
    student, teacher = joint(np.random.default_rng(5), np.full(400, 0.6), np.full(400, 0.25), np.full(400, 0.05))
    alone = retention_ranges(pairs(student, teacher, template=np.zeros(400, int)))
    assert alone.both.width < 1.1 * alone.items.width


def test_domains_do_not_vary() -> None:
    """A domain that was lost widens its own range; between domains nothing was drawn."""
    domain = np.repeat([0, 1], 500)
    template = np.arange(1000) // 30 % 5 + 5 * domain
    teacher = np.arange(1000) % 10 != 0
    student = teacher & ((domain == 0) | (np.arange(1000) % 3 == 0))
    ranges = retention_ranges(pairs(student, teacher, template=template, domain=domain))
    assert ranges.both.width < 1.3 * ranges.items.width


def test_shares_stay_shares() -> None:
    for right in (0, 1, 199, 200):
        student = np.arange(200) < right
        found = share_range(pairs(student, student, template=np.arange(200) % 4))
        assert 0 <= found.low <= found.value <= found.high <= 1
        low, high = share_interval(right, 200)
        assert found.low <= low < high <= found.high


def test_the_lead_over_chance_is_not_certain_where_all_are_right() -> None:
    found = lead_range(pairs(np.ones(40), np.ones(40)))
    assert found.value == 0.75
    assert found.low < 0.72


def test_answers_become_pairs() -> None:
    rows = [("a", "x", True), ("a", "y", False), ("b", "x", True)]
    made = [
        Answer(item=str(at), domain=domain, template=template, mode="choice", correct=correct, chance=0.5)
        for at, (domain, template, correct) in enumerate(rows)
    ]
    found = Pairs.of(made, [*made[:2], made[1]])
    assert found.student.tolist() == [1, 0, 1]
    assert found.teacher.tolist() == [1, 0, 0]
    assert found.discordant == pytest.approx(1 / 3)
    # templates of the same name in two domains are two
    assert (found.template.tolist(), found.domain.tolist(), found.templates) == ([0, 1, 2], [0, 0, 1], 3)
