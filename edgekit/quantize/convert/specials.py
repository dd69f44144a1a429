"""Special tokens, what is put around a text, and the chat template: strangers' words, stored and never run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from edgekit.checkpoint import Checkpoint, parse_json, read_small, shown
from edgekit.errors import EdgekitError
from edgekit.header.chat_template import folder_templates

MAX_FILE_BYTES = 64 * 2**20
KINDS = ("bos", "eos", "unk", "pad")


@dataclass(frozen=True, slots=True, kw_only=True)
class Specials:
    """`ids` by kind (`bos`, `eos`, `unk`, `pad`); `templates` by name, `default` the one that is used unasked."""

    ids: tuple[tuple[str, int], ...]
    add_bos: bool
    add_eos: bool
    templates: tuple[tuple[str, str], ...] = ()


def read_specials(checkpoint: Checkpoint, post_processor: Any, numbers: Mapping[str, int]) -> Specials:
    """From `tokenizer_config.json`, else `config.json`; `numbers` gives the number of each token that has a row.

    Raises EdgekitError for a special token that is not in the vocabulary and for a template around the text that is
    more than a token in front or behind.
    """
    path = checkpoint.path / "tokenizer_config.json"
    settings = parse_json(path, read_small(path, MAX_FILE_BYTES)) if path.is_file() else {}
    ids: dict[str, int] = {}
    for kind in KINDS:
        number = _named(path, kind, settings, numbers)
        if number is None:
            number = _numbered(checkpoint, kind, len(numbers))
        if number is not None:
            ids[kind] = number
    before, behind = _around(path, post_processor, settings, ids)
    return Specials(
        ids=tuple(ids.items()),
        add_bos=before,
        add_eos=behind,
        templates=_templates(checkpoint.path),
    )


def _named(path: Path, kind: str, settings: Mapping[str, Any], numbers: Mapping[str, int]) -> int | None:
    token = settings.get(f"{kind}_token")
    text = token.get("content") if isinstance(token, Mapping) else token
    if text is None:
        return None
    if not isinstance(text, str) or text not in numbers:
        _refuse(path, f"`{kind}_token` is not in the vocabulary: {shown(text, 40)}")
    return numbers[text]


def _numbered(checkpoint: Checkpoint, kind: str, rows: int) -> int | None:
    """The number that `config.json` gives; of several ends the first, llama.cpp finds the others by their text."""
    number = checkpoint.config.get(f"{kind}_token_id")
    number = number[0] if isinstance(number, list) and number else number
    return number if type(number) is int and 0 <= number < rows else None


def _around(path: Path, post_processor: Any, settings: Mapping[str, Any], ids: Mapping[str, int]) -> tuple[bool, bool]:
    """Whether `bos` goes in front and `eos` behind: transformers' explicit settings win over the post-processor."""
    template = _template_steps(path, post_processor)
    found = {}
    for kind, added in (("bos", template[0]), ("eos", template[1])):
        said = settings.get(f"add_{kind}_token")
        if added and added != [ids.get(kind)]:
            _refuse(path.with_name("tokenizer.json"), f"it adds other tokens than `{kind}` around a text: {added}")
        found[kind] = (said if isinstance(said, bool) else bool(added)) and kind in ids
    return found["bos"], found["eos"]


def _template_steps(path: Path, post_processor: Any) -> tuple[list[int], list[int]]:
    """Token numbers that the post-processor puts before and behind the text."""
    if not isinstance(post_processor, Mapping):
        return [], []
    kind = post_processor.get("type")
    if kind == "ByteLevel":
        return [], []
    if kind == "Sequence" and isinstance(post_processor.get("processors"), list):
        before: list[int] = []
        behind: list[int] = []
        for part in post_processor["processors"]:
            first, last = _template_steps(path, part)
            before, behind = [*first, *before], [*behind, *last]
        return before, behind
    if kind != "TemplateProcessing":
        _refuse(path.with_name("tokenizer.json"), f"llama.cpp does not do its post-processor `{shown(kind, 40)}`")
    try:
        numbers = post_processor["special_tokens"]
        sides: list[list[int]] = [[]]
        for step in post_processor["single"]:
            if "SpecialToken" in step:
                sides[-1] += [int(number) for number in numbers[step["SpecialToken"]["id"]]["ids"]]
            else:
                sides.append([])
        before, behind = sides
    except (KeyError, TypeError, ValueError):
        _refuse(path.with_name("tokenizer.json"), "its post-processor is not a template around one text")
    return before, behind


def _templates(folder: Path) -> tuple[tuple[str, str], ...]:
    """Chat templates by name, where a GGUF can carry the name."""
    found = folder_templates(folder)
    for name in found:
        if not re.fullmatch(r"[A-Za-z0-9_]{1,64}", name):
            _refuse(folder / "tokenizer_config.json", f"a GGUF cannot name its chat template `{shown(name, 40)}`")
    return tuple(found.items())


def _refuse(path: Path, reason: str) -> NoReturn:
    raise EdgekitError(
        f"cannot convert the tokenizer ({reason}): `{path}`",
        hint="edgekit refuses rather than tokenize otherwise than the checkpoint",
    )
