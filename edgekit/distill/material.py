"""What a recipe's students learn from, as windows: text and questions of the corpus, and the user's own files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgekit import corpus
from edgekit.distill import stored_windows
from edgekit.distill.asking import bare, may_be_evaluated
from edgekit.distill.own_texts import HELD_OUT_SHARE, file_bytes, own_texts, unreadable
from edgekit.distill.questions import packed, packing, parts_of, questions
from edgekit.distill.recipe_parts import Data
from edgekit.distill.windows import Windows, windows_of
from edgekit.errors import EdgekitError, import_extra
from edgekit.files import hash_file
from edgekit.progress import Progress, silent

HELD_OUT_WINDOWS = 256
STORED_CHARACTERS = 2**23
"""Of text, about: where there is more, its windows are kept on the disk. (Cut into tokens at once, 30 MB of text take
4.4 GB of memory, in blocks 0.3 GB.)"""
STORED_VERSION = 2
"""Raised when the same data give other windows there."""
BLOCK_CHARACTERS = 2**18
"""Of text that is cut into tokens at a time, where it is too much for one."""
_KEY_CHARACTERS = 60_000


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
    data: Data,
    folder: Path,
    tokenizer: Any,
    *,
    length: int,
    prompt_weight: float,
    seed: int,
    place: Path | None = None,
    progress: Progress = silent,
) -> Material:
    """Windows of `length` tokens of everything that `data` names; of questions the prompts weigh `prompt_weight`.

    Files are relative to `folder`. Of text that is long (`is_large`) they are written into `place`, read piece by piece
    and mapped from there: the same call finds them again. Raises EdgekitError where there is nothing, or a file holds a
    bad line (its number).
    """
    asked = _Asked(data, folder, tokenizer, length, prompt_weight, seed)
    if place is not None and is_large(data, folder):
        return _stored(asked, place, progress)
    items, own = asked.items(), list(own_texts(data, folder))
    text = asked.text()
    mine = [one.text for one in own if one.text is not None and not one.held_out]
    found = _material(tokenizer, items, [text] if text else [], mine, length, prompt_weight)
    return replace(found, notes=_notes(sum(one.left_out for one in own)))


def held_out_material(data: Data, folder: Path, tokenizer: Any, *, length: int, seed: int) -> Material:
    """The same of what no training sees: of questions and prompts only the answers count. At most 256 windows, evenly
    spread, where the data are large over the first held-out texts of the files. Raises EdgekitError as
    `training_material`.
    """
    items = _items(data, "evaluation", data.held_out_questions, seed) if data.questions else []
    size = data.held_out_characters
    text = corpus.text("evaluation", seed=seed, characters=size, **_domains(data)) if data.characters else ""
    own = _some(
        (one.text for one in own_texts(data, folder) if one.held_out and one.text is not None), STORED_CHARACTERS
    )
    if data.files and not own and not (items or text):
        raise EdgekitError(
            f"the recipe's files are too few to hold any out: `{', '.join(data.files)[:200]}`",
            hint=f"{HELD_OUT_SHARE:.0%} of their lines (of plain text: what stands between blank lines) are kept apart;"
            " give some hundred, or `characters` too",
        )
    found = _material(tokenizer, items, [text] if text else [], own, length, 0.0)
    count = len(found.windows)
    if count <= HELD_OUT_WINDOWS:
        return found
    few = some_windows(found.windows, HELD_OUT_WINDOWS)
    return Material(windows=few, origin=found.origin, sha256=few.sha256)


def held_out_questions(data: Data, folder: Path) -> frozenset[str]:
    """Questions that no teacher may be asked for training, bare: those that may be evaluated, and those of the recipe's
    files that are held out.
    """
    own = (one.text for one in own_texts(data, folder) if one.held_out)
    return may_be_evaluated() | {bare(one.prompt) for one in own if isinstance(one, corpus.Item)}


def some_windows(windows: Windows, count: int) -> Windows:
    """So many of them, evenly spread, in memory."""
    torch = import_extra("torch", extra="distill")
    chosen = torch.linspace(0, len(windows) - 1, count).round().long()
    return Windows(ids=windows.ids[chosen].long(), weights=windows.weights[chosen])


def is_large(data: Data, folder: Path) -> bool:
    """Whether windows of these data are kept on the disk: by the size of the files and of the text of the corpus."""
    return file_bytes(data, folder) + data.characters > STORED_CHARACTERS


# ---- in memory ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """What windows are made of."""

    data: Data
    folder: Path
    tokenizer: Any
    length: int
    prompt_weight: float
    seed: int

    def items(self) -> list[corpus.Item]:
        return _items(self.data, "train", self.data.questions, self.seed)

    def text(self) -> str:
        if not self.data.characters:
            return ""
        return corpus.text("train", seed=self.seed, characters=self.data.characters, **_domains(self.data))

    def passages(self) -> Iterator[str]:
        if not self.data.characters:
            return iter(())
        size = self.data.characters
        return corpus.passages("train", seed=self.seed, characters=size, **_domains(self.data))


def _items(data: Data, split: corpus.Split, each: int, seed: int) -> list[corpus.Item]:
    if not data.questions:
        return []
    found = questions(split, each=each, templates=data.templates, seed=seed)
    return [item for item in found if not data.domains or item.domain in data.domains]


def _domains(data: Data) -> dict[str, Sequence[str]]:
    return {"domains": data.domains} if data.domains else {}


def _notes(left_out: int) -> tuple[str, ...]:
    if not left_out:
        return ()
    return (f"{left_out} questions of the recipe's files are asked in evaluations and were left out",)


def _origin(items: int, text: bool, own: int) -> str:
    kinds = [f"{items} questions"] if items else []
    kinds += ["text of edgekit's corpus"] if text else []
    kinds += [f"{own} texts of the recipe's files"] if own else []
    return ", ".join(kinds)


def _some(texts: Iterable[str | corpus.Item], characters: int | None) -> list[str | corpus.Item]:
    """The first of them, of so many characters together; None: all."""
    found: list[str | corpus.Item] = []
    size = 0
    for one in texts:
        size += len(one if isinstance(one, str) else one.line)
        if characters is not None and size > characters:
            break
        found.append(one)
    return found


def _material(
    tokenizer: Any,
    items: Sequence[corpus.Item],
    texts: Sequence[str],
    own: Sequence[str | corpus.Item],
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
        raise _nothing(length)
    torch = import_extra("torch", extra="distill")
    windows = parts[0]
    if len(parts) > 1:
        windows = Windows(ids=torch.cat([one.ids for one in parts]), weights=torch.cat([one.weights for one in parts]))
    return Material(windows=windows, origin=_origin(len(items), bool(texts), len(own)), sha256=windows.sha256)


def _nothing(length: int) -> EdgekitError:
    return EdgekitError(
        f"the recipe has no data that fills a window of `{length}` tokens",
        hint="give `[data]` some `questions`, `characters` or `files`",
    )


# ---- on the disk ----------------------------------------------------------------------------------------------------


def _stored(asked: _Asked, place: Path, progress: Progress) -> Material:
    """What lies in `place` of these very data, or is written there now."""
    key = _key(asked)
    folder = place / f"{asked.length}-{key[:16]}"
    found = stored_windows.stored(folder, key)
    if found is None:
        stored_windows.store(folder, key, asked.length, lambda writing: _write(asked, writing, progress))
        found = stored_windows.stored(folder, key)
    if found is None:
        raise _nothing(asked.length)
    windows, record = found
    return Material(windows=windows, origin=record.origin, sha256=windows.sha256, notes=record.notes)


def _write(asked: _Asked, writing: stored_windows.Writing, progress: Progress) -> tuple[str, tuple[str, ...]]:
    """Cut all that is asked into windows, in one pass over the files; gives origin and notes."""
    items, left_out, texts = asked.items(), 0, 0
    answered, prose = (stored_windows.Cutting(asked.length, writing) for _ in range(2))
    blocks = _Blocks(asked.tokenizer, prose)

    def lines() -> Iterator[Sequence[tuple[str, float]]]:
        nonlocal left_out, texts
        yield from (parts_of(item, asked.prompt_weight) for item in items)
        for own in own_texts(asked.data, asked.folder, progress):
            left_out += own.left_out
            if own.text is None or own.held_out:
                continue
            texts += 1
            if isinstance(own.text, str):
                blocks.add(own.text)
            else:
                yield parts_of(own.text, asked.prompt_weight)
            if texts % _TOLD == 0:
                progress("cutting text into windows", writing.windows, 0)

    for passage in asked.passages():
        blocks.add(passage)
        progress("cutting text into windows", writing.windows, 0)
    for ids, weights in packing(asked.tokenizer, lines(), length=asked.length):
        answered.add(ids, weights)
    blocks.end()
    for stream in (answered, prose):
        stream.flush()
    return _origin(len(items), bool(asked.data.characters), texts), _notes(left_out)


_TOLD = 1000


class _Blocks:
    """Passages with a blank line between them, cut into tokens some at a time. A tokenizer that looks across blank
    lines may cut otherwise there than it would the whole.
    """

    def __init__(self, tokenizer: Any, out: stored_windows.Cutting) -> None:
        self.tokenizer, self.out = tokenizer, out
        self.held: list[str] = []
        self.size = 0

    def add(self, passage: str) -> None:
        if self.size > BLOCK_CHARACTERS:
            self._cut("\n\n")
        self.held.append(passage)
        self.size += len(passage) + 2

    def end(self) -> None:
        self._cut("")

    def _cut(self, after: str) -> None:
        if self.held:
            self.out.add(self.tokenizer.encode("\n\n".join(self.held) + after, add_special_tokens=False).ids)
        self.held, self.size = [], 0


def _key(asked: _Asked) -> str:
    """Of all that the windows are made of; of the corpus its beginning, which differs where its sources do."""
    data = asdict(asked.data)
    for name in ("note", "prompt_weight", "held_out_questions", "held_out_characters"):
        del data[name]
    beginning = replace(asked.data, characters=min(asked.data.characters, _KEY_CHARACTERS))
    items = _items(asked.data, "train", min(asked.data.questions, 10), asked.seed)
    made = {
        "version": STORED_VERSION,
        "data": data,
        "files": [_hash(asked.folder / name) for name in asked.data.files],
        "tokenizer": hashlib.sha256(asked.tokenizer.to_str().encode()).hexdigest(),
        "corpus": [replace(asked, data=beginning).text(), *(item.line for item in items)],
        "evaluated": hashlib.sha256("\0".join(sorted(may_be_evaluated())).encode()).hexdigest(),
        "length": asked.length,
        "prompt_weight": asked.prompt_weight,
        "seed": asked.seed,
    }
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def _hash(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError as error:
        raise unreadable(path, error) from None


__all__ = ["Material", "held_out_material", "held_out_questions", "is_large", "some_windows", "training_material"]
