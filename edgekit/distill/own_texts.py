"""The files that a recipe names, line by line: each line checked, on its side of the split, without what is evaluated.

What small files say is kept, so that a chain reads and checks them once. Where all of them together are large they are
read again by each who needs them, and a large one is never held whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from edgekit import corpus
from edgekit.corpus.item import share_of
from edgekit.distill.asking import is_evaluated
from edgekit.distill.recipe_parts import Data
from edgekit.errors import EdgekitError
from edgekit.files import open_file, read_text
from edgekit.jsonl import fields_of, lines_of, text_field
from edgekit.progress import Progress, silent
from edgekit.units import format_bytes

KEPT_BYTES = 2**25
"""Of a file that is read whole, and of all files together whose texts are kept."""
MAX_FILE_BYTES = 2**40
LONGEST_CHARACTERS = 1_000_000
"""Of one text of a file."""
HELD_OUT_SHARE = 0.05
"""Of the user's own lines, chosen by what they say: the same line is never on both sides."""
EXAMPLE = '{"prompt": "What is 2 + 3? Answer:", "answer": "5"} or {"text": "…"}'
_LONGEST_LINE = 8 * LONGEST_CHARACTERS
"""Bytes: a character takes up to six as JSON writes it."""

Text = str | corpus.Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """A line or passage; `text` is None where nothing is left of it, `left_out` how many questions of it are asked in
    evaluations.
    """

    text: Text | None
    held_out: bool = False
    left_out: int = 0


def own_texts(data: Data, folder: Path, progress: Progress = silent) -> Iterator[Own]:
    """What the recipe's files hold: questions of `.jsonl`, texts of both. Raises EdgekitError with file and line."""
    few = file_bytes(data, folder) <= KEPT_BYTES
    for number, name in enumerate(data.files):
        path = folder / name
        try:
            found = path.stat()
        except OSError as error:
            raise unreadable(path, error) from None
        if few:
            yield from _kept(path, found.st_size, found.st_mtime_ns)
        else:
            yield from _judged(_texts(path, large=found.st_size > KEPT_BYTES))
        progress("reading data", number + 1, len(data.files), path.name)


def check_texts(data: Data, folder: Path, progress: Progress = silent) -> None:
    """Read them all. Raises EdgekitError with file and line."""
    for _ in own_texts(data, folder, progress):
        pass


def file_bytes(data: Data, folder: Path) -> int:
    """Of all the recipe's files; those that are not there are found out where they are read."""
    return sum(path.stat().st_size for name in data.files if (path := folder / name).is_file())


def unreadable(path: Path, error: OSError) -> EdgekitError:
    """What to raise where a file cannot be read."""
    return EdgekitError(f"cannot read {_WHAT} ({(error.strerror or 'unreadable').lower()}): `{path}`")


@lru_cache(maxsize=64)
def _kept(path: Path, *stamp: int) -> tuple[Own, ...]:  # noqa: ARG001 - part of the cache's key
    """Of a file of this size and time."""
    return tuple(_judged(_texts(path, large=False)))


def _judged(texts: Iterable[Text]) -> Iterator[Own]:
    """Without questions that a gate may ask: a student that has seen them would pass for what it does not know."""
    for one in texts:
        if not isinstance(one, str):
            known = is_evaluated(one.prompt)
            yield Own(text=None if known else one, held_out=_is_held_out(one), left_out=int(known))
            continue
        lines = one.split("\n")
        rest = [line for line in lines if not is_evaluated(line)]
        dropped = len(lines) - len(rest)
        left = "\n".join(rest) if dropped else one
        kept = left if left.strip() else None
        yield Own(text=kept, held_out=kept is not None and _is_held_out(kept), left_out=dropped)


def _is_held_out(one: Text) -> bool:
    return share_of(one if isinstance(one, str) else one.line) < HELD_OUT_SHARE


def _texts(path: Path, *, large: bool) -> Iterator[Text]:
    if path.suffix == ".jsonl":
        return _lines(path, _streamed(path) if large else lines_of(path, what=_WHAT, most_bytes=KEPT_BYTES))
    if large:
        return _passages(_streamed(path))
    text = read_text(path).replace("\r\n", "\n")  # else no line of a file from Windows is blank
    return (one for one in text.split("\n\n") if one.strip())


_WHAT = "training texts"


def _lines(path: Path, numbered: Iterable[tuple[int, str]]) -> Iterator[Text]:
    some = False
    for number, line in numbered:
        if not line.strip():
            continue
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


def _streamed(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of every line, blank ones too, without its end."""
    try:
        with open_file(path) as stream:
            number = 0
            while raw := stream.readline(_LONGEST_LINE + 1):
                number += 1
                if len(raw) > _LONGEST_LINE:
                    raise EdgekitError(f"a line is longer than {format_bytes(_LONGEST_LINE)}: `{path}:{number}`")
                if stream.tell() > MAX_FILE_BYTES:
                    raise EdgekitError(
                        f"{_WHAT} are larger than {format_bytes(MAX_FILE_BYTES)}: `{path}`", hint="split the file"
                    )
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        raise EdgekitError(f"not UTF-8: `{path}:{number}`", hint="convert the file with `iconv -t utf-8`") from None
    except OSError as error:
        raise unreadable(path, error) from None


def _passages(numbered: Iterable[tuple[int, str]]) -> Iterator[str]:
    """Blocks between blank lines; one longer than a text may be is cut at the end of a line."""
    block: list[str] = []
    size = 0
    for _, line in numbered:
        if block and (not line.strip() or size + len(line) > LONGEST_CHARACTERS):
            yield "\n".join(block)
            block, size = [], 0
        if line.strip():
            block.append(line)
            size += len(line) + 1
    if block:
        yield "\n".join(block)
