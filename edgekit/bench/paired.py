"""90 % ranges of shares and of their quotient, over items that two models answered, in templates that items share.

Two things may be drawn anew: the items of a template, and the templates themselves. Items of one template stand and
fall together (a student that has lost long division has lost it in all of them), so a range over items alone says
how well *these templates'* answer is known and nothing of another ranger's questions. Of every figure both ranges are
computed, and the wider end is told on either side:

- over items: the paired bootstrap, items resampled within their domain, 4000 times, percentiles; for a share Wilson's.
- over templates: the residuals of the quotient (Cochran, Sampling Techniques, 1977, §6.4) summed by template, their
  spread within each domain, Student's t with Satterthwaite's degrees of freedom. A bootstrap of so few templates is
  too narrow (Cameron, Gelbach & Miller 2008): six templates are what a domain has.

Domains are fixed: their weights do not vary. A domain with a single template counts its items as templates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.intervals import share_interval
from edgekit.records import Answer
from edgekit.summary import student_t_95

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Codes = NDArray[np.intp]

RESAMPLES = 4000
_Z_95 = 1.6449


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A value and its 90 % range."""

    value: float
    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low

    def wider(self, other: Range) -> Range:
        """The wider end on either side."""
        return Range(value=self.value, low=min(self.low, other.low), high=max(self.high, other.high))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """Over `items` alone, and the wider end of that and the one over templates."""

    items: Range
    both: Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Items answered by both, one entry each: 1.0 where right; what guessing scores; codes of template and domain."""

    student: Floats
    teacher: Floats
    chance: Floats
    template: Codes
    domain: Codes

    @staticmethod
    def of(student: Sequence[Answer], teacher: Sequence[Answer]) -> Pairs:
        """Answers to the same items in the same order."""
        import numpy as np

        return Pairs(
            student=np.array([one.correct for one in student], np.float64),
            teacher=np.array([one.correct for one in teacher], np.float64),
            chance=np.array([one.chance for one in student], np.float64),
            template=_codes([(one.domain, one.template) for one in student]),
            domain=_codes([one.domain for one in student]),
        )

    @property
    def templates(self) -> int:
        return int(self.template.max()) + 1

    @property
    def discordant(self) -> float:
        """Share of the items that exactly one answers rightly."""
        return float((self.student != self.teacher).mean())


def _codes(names: Sequence[object]) -> Codes:
    import numpy as np

    known: dict[object, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], np.intp)


# ---- shares -------------------------------------------------------------------------------------------------------


def share_range(pairs: Pairs) -> Range:
    """Of the student's right answers. Within 0 to 1; a width is kept at either end."""
    value = float(pairs.student.mean())
    low, high = share_interval(round(pairs.student.sum()), len(pairs.student))
    half = _template_half_width(pairs, pairs.student)
    return Range(value=value, low=max(0.0, min(low, value - half)), high=min(1.0, max(high, value + half)))


def lead_range(pairs: Pairs) -> Range:
    """Of the teacher's share of right answers less that of guessing, over items alone: whether there is something to
    divide by.
    """
    lead = pairs.teacher - pairs.chance
    value, items = float(lead.mean()), len(lead)
    half = _Z_95 * float(lead.std(ddof=1)) / math.sqrt(items) if items > 1 else math.inf
    low, high = share_interval(round(pairs.teacher.sum()), items)  # all right, or all wrong, is no certainty
    guessed = float(pairs.chance.mean())
    return Range(value=value, low=min(value - half, low - guessed), high=max(value + half, high - guessed))


# ---- retention ----------------------------------------------------------------------------------------------------


def retention_ranges(pairs: Pairs) -> Ranges:
    """Of (student − chance) ÷ (teacher − chance); the teacher must be above chance (`lead_range`).

    Simulated in `tests/test_bench_paired.py`.
    """
    items = _resampled(pairs).wider(_at_least(pairs))
    return Ranges(items=items, both=items.wider(_over_templates(pairs)))


def _retained(pairs: Pairs) -> tuple[float, float]:
    """(retention, the teacher's lead over chance)."""
    lead = float((pairs.teacher - pairs.chance).mean())
    return float((pairs.student - pairs.chance).mean()) / lead, lead


def _resampled(pairs: Pairs) -> Range:
    """The paired bootstrap over items within domains. Items that are alike in all that counts are drawn together, as a
    multinomial: the same distribution in a thousandth of the time.
    """
    import numpy as np

    generator = np.random.default_rng(1)
    student, teacher = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    columns = np.stack([pairs.student - pairs.chance, pairs.teacher - pairs.chance], axis=1)
    for domain in range(int(pairs.domain.max()) + 1):
        cells, counts = np.unique(columns[pairs.domain == domain], axis=0, return_counts=True)
        drawn = generator.multinomial(counts.sum(), counts / counts.sum(), RESAMPLES)
        student += drawn @ cells[:, 0]
        teacher += drawn @ cells[:, 1]
    value = _retained(pairs)[0]
    sound = teacher > 0  # always, for a teacher that is above chance by its range
    low, high = np.quantile(student[sound] / teacher[sound], (0.05, 0.95))
    return Range(value=value, low=min(value, float(low)), high=max(value, float(high)))


def _at_least(pairs: Pairs) -> Range:
    """What must be left open even where the two never differed: Wilson's upper end of the share of items lost, and of
    items won, beyond what was seen.
    """
    value, lead = _retained(pairs)
    items = len(pairs.student)
    lost = int(((pairs.teacher == 1) & (pairs.student == 0)).sum())
    won = int(((pairs.teacher == 0) & (pairs.student == 1)).sum())
    down, up = (share_interval(count, items)[1] - count / items for count in (lost, won))
    return Range(value=value, low=value - down / lead, high=value + up / lead)


def _over_templates(pairs: Pairs) -> Range:
    value, lead = _retained(pairs)
    residuals = (pairs.student - pairs.chance) - value * (pairs.teacher - pairs.chance)
    half = _template_half_width(pairs, residuals) / lead
    return Range(value=value, low=value - half, high=value + half)


def _template_half_width(pairs: Pairs, values: Floats) -> float:
    """Of the 90 % range of the mean of `values`, had the templates been drawn from many."""
    spread = within = 0.0
    for domain in range(int(pairs.domain.max()) + 1):
        inside = pairs.domain == domain
        variance, freedom = _sum_variance(values[inside], pairs.template[inside])
        spread += variance
        within += variance**2 / freedom if freedom else 0.0
    if not within:
        return 0.0
    return student_t_95(max(1, math.floor(spread**2 / within))) * math.sqrt(spread) / len(values)


def _sum_variance(values: Floats, template: Codes) -> tuple[float, int]:
    """(variance of the sum of `values` over templates drawn anew, its degrees of freedom)."""
    import numpy as np

    names, codes = np.unique(template, return_inverse=True)
    if len(names) == 1:
        names, codes = template, np.arange(len(template))
    groups = len(names)
    if groups < 2:
        return 0.0, 0
    centred = np.bincount(codes, weights=values - values.mean(), minlength=groups)
    return float((centred**2).sum()) * groups / (groups - 1), groups - 1
