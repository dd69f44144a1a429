"""What a recipe's students learn from, as windows: text and questions of the corpus, and the user's own files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit import corpus
from edgekit.corpus.item import share_of
from edgekit.distill.asking import bare, is_evaluated, may_be_evaluated
from edgekit.distill.questions import packed, questions
from edgekit.distill.recipe_parts import Data
from edgekit.distill.windows import Windows, windows_of
from edgekit.errors import EdgekitError, import_extra
from edgekit.files import read_text
from edgekit.jsonl import fields_of, lines_of, text_field
from edgekit.progress import Progress, silent

MAX_FILE_BYTES = 512 * 2**20
LONGEST_CHARACTERS = 1_000_000
"""Of one text of a file."""
HELD_OUT_SHARE = 0.05
"""Of the user's own lines, chosen by what they say: the same line is never on both sides."""
HELD_OUT_WINDOWS = 256
EXAMPLE = '{"prompt": "What is 2 + 3? Answer:", "answer": "5"} or {"text": "…"}'

Text = str | corpus.Item


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Material:
    """`windows` to learn from, and `sha256` of them; `notes` are what to say of them, `teacher_tokens` what the teacher
    read and wrote for them, in so many `seconds`.
    """

    windows: Windows
    origin: str
    sha256: str
    notes: tuple[str, ...] = ()
    teacher_tokens: int = 0
    seconds: float = 0.0


def training_material(
    data: Data, folder: Path, tokenizer: Any, *, length: int, prompt_weight: float, seed: int
) -> Material:
    """Windows of `length` tokens of everything that `data` names; of questions the prompts weigh `prompt_weight`.

    Files are relative to `folder`. Raises EdgekitError where there is nothing, or a file holds a bad line (its number).
    """
    items = _items(data, "train", data.questions, seed)
    text = corpus.text("train", seed=seed, characters=data.characters, **_domains(data)) if data.characters else ""
    own, left_out = _without_evaluated(own_texts(data, folder))
    mine = [one for one in own if not _is_held_out(one)]
    found = _material(tokenizer, items, [text] if text else [], mine, length, prompt_weight)
    note = f"{left_out} questions of the recipe's files are asked in evaluations and were left out"
    return replace(found, notes=(note,)) if left_out else found


def held_out_material(data: Data, folder: Path, tokenizer: Any, *, length: int, seed: int) -> Material:
    """The same of what no training sees: of questions and prompts only the answers count. At most 256 windows, evenly
    spread. Raises EdgekitError as `training_material`.
    """
    items = _items(data, "evaluation", data.held_out_questions, seed) if data.questions else []
    size = data.held_out_characters
    text = corpus.text("evaluation", seed=seed, characters=size, **_domains(data)) if data.characters else ""
    own = [one for one in _without_evaluated(own_texts(data, folder))[0] if _is_held_out(one)]
    if data.files and not own and not (items or text):
        raise EdgekitError(
            f"the recipe's files are too few to hold any out: `{', '.join(data.files)[:200]}`",
            hint=f"{HELD_OUT_SHARE:.0%} of their lines are kept apart; give some hundred lines, or `characters` too",
        )
    found = _material(tokenizer, items, [text] if text else [], own, length, 0.0)
    count = len(found.windows)
    if count <= HELD_OUT_WINDOWS:
        return found
    torch = import_extra("torch", extra="distill")
    chosen = torch.linspace(0, count - 1, HELD_OUT_WINDOWS).round().long()
    few = Windows(ids=found.windows.ids[chosen], weights=found.windows.weights[chosen])
    return Material(windows=few, origin=found.origin, sha256=few.sha256)


def held_out_questions(data: Data, folder: Path) -> frozenset[str]:
    """Questions that no teacher may be asked for training, bare: those that may be evaluated, and those of the recipe's
    files that are held out.
    """
    own = (one for one in own_texts(data, folder) if not isinstance(one, str) and _is_held_out(one))
    return may_be_evaluated() | {bare(one.prompt) for one in own}


def own_texts(data: Data, folder: Path, progress: Progress = silent) -> list[Text]:
    """The lines of the recipe's files: questions of `.jsonl`, texts of both. Raises EdgekitError with file and line."""
    found: list[Text] = []
    for number, name in enumerate(data.files):
        path = folder / name
        found += _lines(path) if path.suffix == ".jsonl" else _passages(read_text(path))
        progress("reading data", number + 1, len(data.files), path.name)
    return found


def _lines(path: Path) -> Iterator[Text]:
    some = False
    for number, line in lines_of(path, what="training texts", most_bytes=MAX_FILE_BYTES):
        where = f"{path}:{number}"
        fields = fields_of(line, where, known=("text", "prompt", "answer"), required=(), example=EXAMPLE)
        if set(fields) not in ({"text"}, {"prompt", "answer"}):
            raise EdgekitError(f"a line has `text`, or `prompt` and `answer`: `{where}`", hint=EXAMPLE)
        said = {key: text_field(fields[key], key, where, longest=LONGEST_CHARACTERS) for key in fields}
        some = True
        if "text" in said:
            yield said["text"]
        else:
            name = hashlib.sha256(line.encode()).hexdigest()[:12]
            yield corpus.Item(
                id=f"own-{name}", domain="own", template="own", prompt=said["prompt"], answer=said["answer"]
            )
    if not some:
        raise EdgekitError(f"no training texts in `{path}`", hint=EXAMPLE)


def _passages(text: str) -> list[Text]:
    """Blocks between blank lines."""
    return [block for block in text.split("\n\n") if block.strip()]


def _without_evaluated(own: Sequence[Text]) -> tuple[list[Text], int]:
    """(the texts without questions that a gate may ask, how many those were): a student that has seen them would pass
    for what it does not know.
    """
    kept: list[Text] = []
    left_out = 0
    for one in own:
        if not isinstance(one, str):
            known = is_evaluated(one.prompt)
            kept += [] if known else [one]
            left_out += known
            continue
        lines = one.split("\n")
        rest = [line for line in lines if not is_evaluated(line)]
        left_out += len(lines) - len(rest)
        kept += [one if len(rest) == len(lines) else "\n".join(rest)] if any(map(str.strip, rest)) else []
    return kept, left_out


def _is_held_out(one: Text) -> bool:
    return share_of(one if isinstance(one, str) else one.line) < HELD_OUT_SHARE


def _items(data: Data, split: corpus.Split, each: int, seed: int) -> list[corpus.Item]:
    if not data.questions:
        return []
    found = questions(split, each=each, templates=data.templates, seed=seed)
    return [item for item in found if not data.domains or item.domain in data.domains]


def _domains(data: Data) -> dict[str, Sequence[str]]:
    return {"domains": data.domains} if data.domains else {}


def _material(
    tokenizer: Any,
    items: Sequence[corpus.Item],
    texts: Sequence[str],
    own: Sequence[Text],
    length: int,
    prompt_weight: float,
) -> Material:
    asked = [*items, *(one for one in own if not isinstance(one, str))]
    prose = "\n\n".join([*texts, *(one for one in own if isinstance(one, str))])
    parts: list[Windows] = []
    if asked:
        ids, weights = packed(tokenizer, asked, length=length, prompt_weight=prompt_weight)
        parts += [windows_of(ids, weights, length)] if len(ids) > length else []
    if prose:
        ids = tokenizer.encode(prose, add_special_tokens=False).ids
        parts += [windows_of(ids, None, length)] if len(ids) > length else []
    if not parts:
        raise EdgekitError(
            f"the recipe has no data that fills a window of `{length}` tokens",
            hint="give `[data]` some `questions`, `characters` or `files`",
        )
    torch = import_extra("torch", extra="distill")
    windows = parts[0]
    if len(parts) > 1:
        windows = Windows(ids=torch.cat([one.ids for one in parts]), weights=torch.cat([one.weights for one in parts]))
    kinds = [f"{len(items)} questions"] if items else []
    kinds += ["text of edgekit's corpus"] if texts else []
    kinds += [f"{len(own)} texts of the recipe's files"] if own else []
    return Material(windows=windows, origin=", ".join(kinds), sha256=windows.sha256)
