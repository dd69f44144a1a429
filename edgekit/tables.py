"""Strict reading of TOML files that strangers wrote: device profiles, gates, anchors.

Whatever is not known, finite and in range is refused by name, with the nearest known name as the hint.
"""

from __future__ import annotations

import difflib
import math
import tomllib
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError

MAX_TEXT = 2000
"""Longest text kept from a profile; the longest honest source is under 500 characters."""


def read_file(path: Path, *, what: str, max_bytes: int) -> bytes:
    """The bytes of a small file. Raises EdgekitError when it is missing, not a plain file, or too large."""
    try:
        if path.is_dir():
            raise EdgekitError(f"{what} is a directory: `{path}`", hint="name the file itself")
        if not path.is_file():
            state = "is not a plain file" if path.exists() else "does not exist"
            raise EdgekitError(f"{what} {state}: `{path}`")
        if path.stat().st_size > max_bytes:
            raise EdgekitError(f"{what} is larger than {max_bytes // 1024} KiB: `{path}`", hint="is this another file?")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (getattr(error, "strerror", None) or "unreadable").lower()
        raise EdgekitError(f"cannot read {what} ({reason}): `{path}`") from None


def parse_toml(text: bytes, *, what: str, origin: str) -> dict[str, Any]:
    """The table in `text`. Raises EdgekitError that says where it is not TOML."""
    try:
        return tomllib.loads(text.decode("utf-8"))
    except UnicodeDecodeError:
        raise EdgekitError(f"{what} is not UTF-8 text: `{origin}`") from None
    except RecursionError:
        raise EdgekitError(f"{what} is nested too deeply: `{origin}`") from None
    except ValueError as error:  # TOMLDecodeError, and integers too long for Python
        reason = str(error).splitlines()[0][:200].rstrip(".")
        raise EdgekitError(f"{what} is not valid TOML ({reason[:1].lower()}{reason[1:]}): `{origin}`") from None


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean …` or the known names; for hints."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.55)
    if close:
        return f"did you mean {' or '.join(f'`{match}`' for match in close)}?"
    return f"known: {', '.join(f'`{known_name}`' for known_name in names)}"


def refuse_unknown(table: Mapping[str, Any], known: Collection[str], *, where: str) -> None:
    """Raise EdgekitError for the first key of `table` that is not `known`."""
    for key in table:
        if key not in known:
            raise EdgekitError(f"unknown key in {where}: `{key[:80]}`", hint=nearest(key, known))


def table_at(table: Mapping[str, Any], key: str, *, where: str) -> dict[str, Any]:
    """The table under `key`, empty where there is none."""
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise EdgekitError(f"`{key}` in {where} must be a table, not `{value!r:.60}`")
    return value


def tables_at(table: Mapping[str, Any], key: str, *, where: str) -> list[dict[str, Any]]:
    """The array of tables under `key`, empty where there is none."""
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise EdgekitError(f"`{key}` in {where} must be an array of tables", hint=f"write `[[{key}]]`")
    return value


def text_at(table: Mapping[str, Any], key: str, *, where: str, default: str | None = None) -> str:
    """One line of text without control characters (it is printed to terminals). Required where no default is given."""
    value = table.get(key, default)
    if value is None:
        raise EdgekitError(f"{where} lacks a key: `{key}`")
    if not isinstance(value, str):
        raise EdgekitError(f"`{key}` in {where} must be text, not `{value!r:.60}`")
    if not value.strip() and default is None:
        raise EdgekitError(f"{where} has an empty key: `{key}`")
    if len(value) > MAX_TEXT:
        raise EdgekitError(f"text in {where} is longer than {MAX_TEXT} characters: `{key}`")
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for character in value):
        raise EdgekitError(f"text in {where} holds control characters: `{key}`")
    return value


def choice_at(table: Mapping[str, Any], key: str, known: Collection[str], *, where: str, default: str) -> str:
    """One of the `known` words."""
    value = text_at(table, key, where=where, default=default)
    if value not in known:
        raise EdgekitError(f"`{key}` in {where} cannot be `{value[:60]}`", hint=nearest(value, known))
    return value


def flag_at(table: Mapping[str, Any], key: str, *, where: str, default: bool) -> bool:
    """True or false."""
    value = table.get(key, default)
    if not isinstance(value, bool):
        raise EdgekitError(f"`{key}` in {where} must be true or false, not `{value!r:.60}`")
    return value


def number(value: object, *, where: str, low: float = 0.0, high: float = 1e18) -> float:
    """A finite number with low ≤ number ≤ high. Raises EdgekitError otherwise; booleans are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EdgekitError(f"{where} must be a number, not `{value!r:.60}`")
    if isinstance(value, float) and not math.isfinite(value):
        raise EdgekitError(f"{where} must be finite, not `{value}`")
    if value < low:
        raise EdgekitError(f"{where} must be at least {low:.15g}, not `{_short(value)}`")
    if value > high:
        raise EdgekitError(f"{where} must be at most {high:.15g}, not `{_short(value)}`")
    return float(value)


def _short(value: int | float) -> str:
    text = f"{value:.15g}" if isinstance(value, float) or abs(value) < 10**15 else "a far larger number"
    return text if value >= 0 or abs(value) < 10**15 else "a far smaller number"


def optional_number(
    table: Mapping[str, Any], key: str, *, where: str, low: float = 0.0, high: float = 1e18
) -> float | None:
    """The number under `key`, `None` where there is none."""
    return number(table[key], where=f"`{key}` in {where}", low=low, high=high) if key in table else None


def whole_at(table: Mapping[str, Any], key: str, *, where: str, default: int, low: int = 0, high: int = 2**31) -> int:
    """A whole number with low ≤ number ≤ high."""
    value = table.get(key, default)
    checked = number(value, where=f"`{key}` in {where}", low=low, high=high)
    if not checked.is_integer():
        raise EdgekitError(f"`{key}` in {where} must be a whole number, not `{value}`")
    return int(checked)
