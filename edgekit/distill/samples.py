"""What a teacher wrote, one JSON object a line, and how it is marked: right, agreed on, or neither."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.corpus.item import item_id, plain, share_of
from edgekit.errors import EdgekitError
from edgekit.jsonl import fields_of, lines_of, text_field
from edgekit.tables import number

KIND = "edgekit-samples"
VERSION = 1

MAX_BYTES = 512 * 2**20
MAX_SAMPLES = 1_000_000
LONGEST = {"prompt": 32_000, "completion": 64_000, "answer": 64_000, "gold": 2_000}
LONGEST |= {"domain": 60, "template": 200, "style": 20, "id": 240, "item": 200}
"""Characters: far above honest samples."""

REQUIRED = ("prompt", "completion")
EXAMPLE = '{"prompt": "What is 2 + 3? Answer:", "completion": "5"}'
MOST_TOKENS = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One completion of one prompt: the training line is `f"{prompt} {completion}"`.

    `answer` is the final answer within `completion` (all of it where nothing leads up to it, empty where it comes to
    none), `gold` the known right one, empty where none is. `correct` says whether they are the same; None where there
    is no `gold`. `agreement` is the share of the samples of this prompt that came to the same answer. `nats` is the
    teacher's own log-likelihood of the completion at temperature 1, `tokens` its length; `finished` is false where it
    was cut.
    """

    id: str
    item: str
    domain: str
    template: str
    style: str
    prompt: str
    completion: str
    answer: str
    gold: str = ""
    correct: bool | None = None
    agreement: float | None = None
    tokens: int = 0
    nats: float | None = None
    finished: bool = True

    @property
    def reasoning(self) -> str:
        """What stands in the completion before its answer."""
        return self.completion[: self.completion.rfind(self.answer)] if self.answer else self.completion

    @property
    def usable(self) -> bool:
        """Whether the teacher may be believed: it is right, or where nobody knows, most of its samples agree."""
        if not self.finished:
            return False
        return self.correct if self.correct is not None else (self.agreement or 0.0) > 0.5


KNOWN = tuple(Sample.__dataclass_fields__)


def _right(sample: Sample) -> bool:
    return sample.finished and bool(sample.answer) and plain(sample.answer) == plain(sample.gold)


def is_text(completion: str) -> bool:
    """Whether a completion says anything that a file can hold."""
    return bool(completion.strip()) and len(completion) <= LONGEST["completion"] and "\0" not in completion


def marked(samples: Sequence[Sample], *, asked: int) -> tuple[Sample, ...]:
    """The samples of one prompt, each told whether its answer is right and what share of the `asked` ones agrees; of
    those that say the same, the first that was finished. A sample that was cut, or gave no answer, agrees with nothing.
    """
    votes = Counter(plain(one.answer) for one in samples if one.finished and one.answer)
    found: dict[str, Sample] = {}
    for one in sorted(samples, key=lambda one: not one.finished):
        counts = one.finished and bool(one.answer)
        correct = _right(one) if one.gold else None
        share = votes[plain(one.answer)] / asked if counts else 0.0
        found.setdefault(plain(one.completion), replace(one, correct=correct, agreement=round(share, 4)))
    return tuple(found.values())


def golden(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """The same prompts with their known answers in place of what the teacher wrote, each once: what plain training on
    labels would learn from. Prompts that ask for reasoning have no such label and are left out.
    """
    found = {
        one.item: replace(
            one, id=f"{one.item}/gold", completion=one.gold, answer=one.gold, correct=True, agreement=None, nats=None
        )
        for one in samples
        if one.gold and one.style == "answer"
    }
    return tuple(found.values())


def to_line(sample: Sample) -> str:
    """One line of a file, without what says nothing new."""
    said = {key: value for key, value in asdict(sample).items() if value not in ("", None) and key != "answer"}
    return json.dumps(
        said | ({"answer": sample.answer} if sample.answer != sample.completion else {}), ensure_ascii=False
    )


def read_samples(path: Path, *, empty: bool = False) -> tuple[Sample, ...]:
    """The samples in a JSONL file, in its order: what `synthesize` wrote, or anybody's lines of `prompt` and
    `completion`. There `answer` is the whole completion unless it is given, and must stand in it; other fields are as
    `Sample` has them; `correct` is made from `gold` where there is one. Spaces around texts are dropped. With `empty` a
    file of ours may hold none.

    Raises EdgekitError that names the file and the line: no JSON object, an unknown key (with the nearest), a missing,
    empty or overlong text, a number out of range, an id that is there twice, nothing at all, too much.
    """
    found: dict[str, Sample] = {}
    ours = False
    for line_number, line in lines_of(path, what="samples", most_bytes=MAX_BYTES):
        where = f"{path}:{line_number}"
        if line_number == 1 and head_of(line) is not None:
            ours = True
            continue
        sample = _sample(fields_of(line, where, known=KNOWN, required=REQUIRED, example=EXAMPLE), where)
        if sample.id in found:
            if found[sample.id] == sample and sample.id.startswith("own-"):
                continue  # the same words twice teach nothing more
            raise EdgekitError(
                f"the id `{sample.id[:80]}` is taken by an earlier line: `{where}`", hint="ids must differ"
            )
        found[sample.id] = sample
        if len(found) > MAX_SAMPLES:
            raise EdgekitError(f"more than {MAX_SAMPLES} samples: `{path}`", hint="split the file")
    if not found and not (empty and ours):
        raise EdgekitError(f"no samples in `{path}`", hint=f"one JSON object a line: {EXAMPLE}")
    return tuple(found.values())


def head_of(line: str | bytes) -> dict[str, Any] | None:
    """The first line of a file of ours, None where it is no such line."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and content.get("kind") == KIND else None


def spread(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """In an order as if shuffled that depends on the ids alone, whoever wrote which of them when."""
    return tuple(sorted(samples, key=lambda one: (share_of(f"samples|{one.id}"), one.id)))


def _sample(fields: dict[str, Any], where: str) -> Sample:
    given = {key: fields[key] for key in LONGEST if key in fields and not (key == "answer" and fields[key] == "")}
    texts = {key: text_field(value, key, where, longest=LONGEST[key]) for key, value in given.items()}
    completion = texts["completion"]
    texts.setdefault("answer", "" if "answer" in fields else completion)
    if texts["answer"] not in completion:
        raise EdgekitError(f"the answer does not stand in the completion: `{where}`")
    own = item_id("own", f"{texts['prompt']}\0{completion}")
    texts = {"id": own, "item": own, "domain": "own", "template": "own", "style": "answer"} | texts
    found = Sample(
        **texts,  # type: ignore[arg-type]  # texts under the names of texts
        agreement=_number(fields, "agreement", where, 0.0, 1.0),
        tokens=int(_number(fields, "tokens", where, 0, MOST_TOKENS) or 0),
        nats=_number(fields, "nats", where, -1e9, 0.0),
        finished=_flag(fields, "finished", where, default=True),
    )
    found = replace(found, correct=_right(found)) if found.gold else found
    if "correct" in fields and _flag(fields, "correct", where, default=True) != found.correct:
        raise EdgekitError(f"`correct` is not what `answer` and `gold` say: `{where}`")
    return found


def _number(fields: dict[str, Any], key: str, where: str, low: float, high: float) -> float | None:
    return number(fields[key], where=f"`{key}` in {where}", low=low, high=high) if key in fields else None


def _flag(fields: dict[str, Any], key: str, where: str, *, default: bool) -> bool:
    found = fields.get(key, default)
    if not isinstance(found, bool):
        raise EdgekitError(f"`{key}` must be true or false: `{where}`")
    return found
