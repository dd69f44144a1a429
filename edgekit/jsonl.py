"""JSON Lines of strangers, one checked object a line: every refusal names the file and the line."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.files import read_whole
from edgekit.units import format_bytes


def lines_of(path: Path, *, what: str, most_bytes: int) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of every line that is not blank. `what` says in the plural what the file should hold.

    Raises EdgekitError when the file cannot be read, is larger than `most_bytes`, or is not UTF-8 (with the line).
    """
    try:
        data = read_whole(path, most_bytes)
    except OSError as error:
        raise EdgekitError(f"cannot read {what} ({(error.strerror or 'unreadable').lower()}): `{path}`") from None
    if data is None:
        raise EdgekitError(f"{what} are larger than {format_bytes(most_bytes)}: `{path}`", hint="split the file")
    try:
        lines = data.decode("utf-8-sig").split("\n")  # not splitlines: JSON strings may hold U+2028
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise EdgekitError(f"not UTF-8: `{path}:{number}`", hint="convert the file with `iconv -t utf-8`") from None
    yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def fields_of(
    line: str, where: str, *, known: Sequence[str], required: Collection[str], example: str
) -> dict[str, Any]:
    """The object in `line`, its values unchecked. Raises EdgekitError for what is no JSON object, for an unknown (with
    the nearest known one) or repeated key, and for a required one that is missing.
    """
    hint = f"one JSON object a line: {example}"
    try:
        found = json.loads(line, object_pairs_hook=lambda pairs: pairs)
    except json.JSONDecodeError as error:
        raise EdgekitError(f"not JSON ({error.msg.lower()} at column {error.colno}): `{where}`", hint=hint) from None
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets without end
        raise EdgekitError(f"not JSON that is read here: `{where}`", hint=hint) from None
    # with that hook an object is a list of pairs and an array a list of anything else; `{}` and `[]` look alike
    if not line.lstrip().startswith("{"):
        raise EdgekitError(f"not a JSON object: `{where}`", hint=hint)
    keys = [key for key, _ in found]
    for key in keys:
        if key not in known:
            near = get_close_matches(key.lower(), known, n=1, cutoff=0.5)
            meant = f"did you mean `{near[0]}`? " if near else ""
            raise EdgekitError(f"unknown key `{key[:40]}`: `{where}`", hint=f"{meant}known: {', '.join(known)}")
        if keys.count(key) > 1:
            raise EdgekitError(f"the key `{key}` stands twice: `{where}`")
    missing = [key for key in required if key not in keys]
    if missing:
        raise EdgekitError(f"no `{missing[0]}`: `{where}`", hint=hint)
    return dict(found)


def text_field(found: object, key: str, where: str, *, longest: int) -> str:
    """`found` as text without the spaces around it. Raises EdgekitError when it is none, empty, longer than `longest`
    characters, or cannot be written again.
    """
    if not isinstance(found, str):
        raise EdgekitError(f"`{key}` must be text in quotes: `{where}`")
    text = found.strip()
    if not text:
        raise EdgekitError(f"`{key}` is empty: `{where}`")
    if len(text) > longest:
        raise EdgekitError(f"`{key}` has {len(text)} characters, more than {longest}: `{where}`")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise EdgekitError(f"`{key}` holds characters that are no text: `{where}`")
    return text
