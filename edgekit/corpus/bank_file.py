"""Users' own questions: one JSON object a line, read as a stranger's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.corpus.bank import Bank
from edgekit.corpus.item import Item, item_id
from edgekit.errors import EdgekitError
from edgekit.jsonl import fields_of, lines_of, text_field

KEYS = ("prompt", "answer", "choices", "domain", "template", "id")
REQUIRED = ("prompt", "answer")
EXAMPLE = '{"prompt": "Is a bat a bird? Answer:", "answer": "no", "choices": ["yes", "no"]}'

MAX_BYTES = 64 * 2**20
MAX_ITEMS = 100_000
MAX_CHOICES = 26
LONGEST = {"prompt": 32_000, "answer": 2_000, "choices": 2_000, "domain": 60, "template": 200, "id": 200}
"""Characters: far above honest questions, and what a report can still show."""


def read_bank(path: Path, *, answered: bool = True) -> Bank:
    """The questions of a JSONL file, in its order; the bank is called like the file.

    Each line holds `prompt` and `answer`; with `choices` (the answer among them, once) the model's likeliest choice
    counts, without them what it generates up to the end of the line. `domain` is `own` where it is left out; a
    `template` gathers questions that stand or fall together, and without one a question stands for itself; `id` is
    made from the text. Spaces around texts are dropped. Without `answered` the `answer` may be missing, which leaves it
    empty: such questions can be asked and not judged.

    Raises EdgekitError that names the file and the line: not UTF-8, no JSON object, an unknown or repeated key, a
    missing, empty or overlong text, an answer that is no choice, a repeated id or question, nothing at all, too much.
    """
    items: dict[str, Item] = {}
    questions: dict[tuple[str, str], int] = {}
    for number, line in lines_of(path, what="questions", most_bytes=MAX_BYTES):
        where = f"{path}:{number}"
        required = REQUIRED if answered else REQUIRED[:1]
        item = _item(fields_of(line, where, known=KEYS, required=required, example=EXAMPLE), where)
        asked_on = questions.setdefault((item.domain, item.prompt), number)
        if asked_on != number:
            raise EdgekitError(f"line {number} asks what line {asked_on} asks: `{where}`", hint="leave one of them out")
        if item.id in items:
            raise EdgekitError(f"the id `{item.id}` is taken by an earlier line: `{where}`", hint="ids must differ")
        items[item.id] = item
        if len(items) > MAX_ITEMS:
            raise EdgekitError(f"more than {MAX_ITEMS} questions: `{path}`", hint="split the file")
    if not items:
        raise EdgekitError(f"no questions in `{path}`", hint=f"one JSON object a line: {EXAMPLE}")
    return Bank(name=path.name, items=tuple(items.values()))


def _item(fields: dict[str, Any], where: str) -> Item:
    prompt, answer = (_text(fields[key], key, where) if key in fields else "" for key in REQUIRED)
    domain = _text(fields["domain"], "domain", where) if "domain" in fields else "own"
    choices = _choices(fields["choices"], answer, where) if "choices" in fields else ()
    if not choices and "\n" in answer:
        raise EdgekitError(
            f"an answer of several lines cannot be generated up to the end of a line: `{where}`", hint="give choices"
        )
    own = _text(fields["id"], "id", where) if "id" in fields else item_id("own", f"{domain}\0{prompt}\0{answer}")
    return Item(
        id=own,
        domain=domain,
        template=_text(fields["template"], "template", where) if "template" in fields else own,
        prompt=prompt,
        answer=answer,
        choices=choices,
        mode="choice" if choices else "generate",
    )


def _choices(found: object, answer: str, where: str) -> tuple[str, ...]:
    hint = "two or more different texts, the answer among them"
    if not isinstance(found, list) or not 2 <= len(found) <= MAX_CHOICES:
        raise EdgekitError(f"`choices` must be a list of 2 to {MAX_CHOICES} texts: `{where}`", hint=hint)
    choices = tuple(_text(choice, "choices", where) for choice in found)
    if len(set(choices)) < len(choices):
        raise EdgekitError(f"`choices` holds the same text twice: `{where}`", hint=hint)
    if answer not in choices:
        raise EdgekitError(f"the answer is none of the choices: `{where}`", hint=hint)
    return choices


def _text(found: object, key: str, where: str) -> str:
    return text_field(found, key, where, longest=LONGEST[key])
