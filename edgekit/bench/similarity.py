"""How alike two models' generations are on the same prompts: by letters, by shared words, and in their final answers.

Greedy generations part ways at the first token that differs, so two good models may share little: similarity says how
faithful a student is to its teacher, never how good it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal

from edgekit import corpus
from edgekit.bench.kinship import one_model
from edgekit.corpus import Prompt
from edgekit.intervals import share_interval
from edgekit.records import Answers, Estimate, Figure, Similarity, Unknown
from edgekit.summary import student_interval

FEWEST = 10
"""Prompts below which there is no range."""

READ_CHARACTERS = 4000
"""Of a response, which may come from a stranger's file: edit distance takes time with the square of it."""

LONGEST_GRAM = 3

_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")
_NUMBER = re.compile(r"(?:(?<![\w.])-)?\d{1,40}(?:,\d{3}){0,12}(?:\.\d{1,40})?")
_LEAD_INS = (
    ("the", "answer", "is"),
    ("answer", "is"),
    ("answer",),
    ("it", "is"),
    ("it", "s"),
    ("a",),
    ("an",),
    ("the",),
)
_WORDS_OF_AN_ANSWER = 3
_NAMED_NUMBERS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)

Pair = tuple[Prompt, str, str]


def compare_responses(student: Answers, teacher: Answers) -> Similarity:
    """The student's responses to `corpus.open_prompts()` against the teacher's, prompt by prompt; prompts on which the
    teacher says nothing are left out.

    `edit` is the mean of 1 − Levenshtein distance ÷ length of the longer text, in characters; `overlap` the mean F1 of
    the word n-grams that both hold (n = 1 to 3, averaged; as ROUGE-N, Lin 2004, without stemming); `agreement` the
    share of the same final answers among prompts on which the teacher gives one. Ranges are 90 % over prompts like
    these. `Unknown` for fewer than ten prompts, for stand-ins, and for one and the same artifact.
    """
    reason = _incomparable(student, teacher)
    pairs = [] if reason else _pairs(student, teacher)
    finals = [pair for pair in pairs if final_answer(pair[2], pair[0].final)]
    agreed = sum(
        final_answer(said, prompt.final) == final_answer(taught, prompt.final) for prompt, said, taught in finals
    )
    return Similarity(
        teacher=teacher.model,
        responses=len(pairs),
        edit=_mean(pairs, edit_similarity, reason),
        overlap=_mean(pairs, word_overlap, reason),
        agreement=_agreement(agreed, len(finals), reason),
    )


def _incomparable(student: Answers, teacher: Answers) -> str:
    """Why the two say nothing of each other; empty where they do."""
    if student.stand_in or teacher.stand_in:
        return "stand-in weights are random numbers: what they write is no answer"
    if one_model(student, teacher):
        return "the teacher's responses are the artifact's own"
    return ""


def _pairs(student: Answers, teacher: Answers) -> list[Pair]:
    """(prompt, what the student wrote, what the teacher wrote), in the prompts' order."""
    said, taught = ({one.prompt: one.text[:READ_CHARACTERS] for one in model.responses} for model in (student, teacher))
    return [
        (prompt, said[prompt.id], taught[prompt.id])
        for prompt in corpus.open_prompts()
        if prompt.id in said and taught.get(prompt.id, "").strip()
    ]


def _mean(pairs: Sequence[Pair], alike: Callable[[str, str], float], reason: str) -> Figure:
    if reason:
        return Unknown(reason=reason)
    if len(pairs) < FEWEST:
        return _too_few(len(pairs), "responses")
    return mean_likeness([alike(said, taught) for _, said, taught in pairs])


def mean_likeness(values: Sequence[float]) -> Estimate:
    """The mean of ten or more `values` from 0 to 1, with its 90 % range.

    The range is the wider, on either side, of Student's t and of what prompts unlike all that were asked could still
    change: with n prompts a kind that none of them showed may be as common as z² ÷ (n + z²) (Wilson's upper end of 0
    of n), and such a prompt may score 0 or 1. So even responses that are all the same keep a width. In 600 simulated
    lists each of 10, 28 and 56 prompts, of likenesses spread, at both ends, mostly 1, and seldom 0, it covered
    88–100 %, where Student's t alone and percentiles of the bootstrap fell to 27–81 % on the last.
    """
    between = student_interval(values)
    assert between is not None, "two values have an interval"
    mean = min(1.0, max(0.0, sum(values) / len(values)))
    unseen = share_interval(0, len(values))[1]
    return Estimate(
        value=mean,
        low=max(0.0, min(between[0], mean * (1 - unseen))),
        high=min(1.0, max(between[1], mean + (1 - mean) * unseen)),
        basis="measured-here",
    )


def _agreement(agreed: int, total: int, reason: str) -> Figure:
    if reason:
        return Unknown(reason=reason)
    if total < FEWEST:
        return _too_few(total, "final answers of the teacher")
    low, high = share_interval(agreed, total)
    return Estimate(value=agreed / total, low=low, high=high, basis="measured-here")


def _too_few(count: int, what: str) -> Unknown:
    return Unknown(
        reason=f"`{count}` {what} can be compared, too few for a range: ten are needed",
        settle="answer again, both, with this version of edgekit",
    )


# ---- two texts ----------------------------------------------------------------------------------------------------


def edit_similarity(one: str, other: str) -> float:
    """1 − Levenshtein distance ÷ length of the longer, over characters; white space at the ends does not count."""
    from rapidfuzz.distance import Levenshtein

    return float(Levenshtein.normalized_similarity(one.strip(), other.strip()))


def word_overlap(one: str, other: str) -> float:
    """Mean over n = 1 to 3 of the F1 of shared word n-grams, each counted as often as both hold it; without case.

    An n that is longer than both texts is left out; texts without a word are alike when they are the same.
    """
    some, others = _words(one), _words(other)
    scores = []
    for size in range(1, LONGEST_GRAM + 1):
        ours, theirs = _grams(some, size), _grams(others, size)
        total = ours.total() + theirs.total()
        if total:
            scores.append(2 * (ours & theirs).total() / total)
    return sum(scores) / len(scores) if scores else float(one.strip() == other.strip())


def final_answer(text: str, final: str) -> str:
    """What `text` gives as its answer of the kind `final`, in one spelling; empty where it gives none.

    `number`: the last number (as lm-evaluation-harness extracts GSM8K's, `flexible-extract`), or a word for one that
    stands alone; `word`: a whole answer of at most three words; `line`: the first line that is not blank.
    """
    if final == "number":
        return _number(text)
    if final == "word":
        return _short_answer(text)
    if final == "line":
        first = next(filter(str.strip, text.splitlines()), "")
        return " ".join(first.casefold().split()).rstrip(".")
    return ""


def _number(text: str) -> str:
    found = _NUMBER.findall(unicodedata.normalize("NFKC", text).replace("−", "-"))
    if found:
        value = Decimal(found[-1].replace(",", ""))
        return format(value.normalize() + 0, "f")  # 42.0 is 42, and −0 is 0
    word = _short_answer(text)
    return str(_NAMED_NUMBERS.index(word)) if word in _NAMED_NUMBERS else ""


def _short_answer(text: str) -> str:
    first = next(filter(str.strip, text.splitlines()), "")
    words = _words(first)
    for lead_in in _LEAD_INS:
        if tuple(words[: len(lead_in)]) == lead_in:
            words = words[len(lead_in) :]
    return " ".join(words) if 0 < len(words) <= _WORDS_OF_AN_ANSWER else ""


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _grams(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + size]) for at in range(len(words) - size + 1))
