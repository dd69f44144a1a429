"""The chat template a model brings along: read, compared with its parent's, and never run.

A build that loses it answers as if it had never been taught to, and no divergence on plain text shows that.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from edgekit.errors import EdgekitError
from edgekit.header import read_texts
from edgekit.header.container import clean
from edgekit.header.onnx_folder import GENAI, TRANSFORMERS, folder_of, is_onnx
from edgekit.records import ChatTemplate

DEFAULT = "default"
"""The name of the template that is used unasked; others serve tools or retrieval."""

MAX_TEMPLATE_BYTES, MAX_JSON_BYTES, MAX_TEMPLATES = 2**20, 64 * 2**20, 32
_KEY = "tokenizer.chat_template"
_ALONE, _FURTHER, _TOKENIZER = "chat_template.jinja", "additional_chat_templates", "tokenizer_config.json"
_LEGACY = "chat_template.json"
"""Of processors; transformers' tokenizers leave it alone, and llama.cpp's converter takes it."""

_BEFORE, _AFTER = 16, 40


def chat_templates_of(path: Path) -> dict[str, str]:
    """Every chat template of the model at `path` by its name, as a template engine reads it: Jinja and llama.cpp both
    take `\\r\\n` for `\\n` and drop one newline at the end. Names are written as GGUF's keys are.

    Raises EdgekitError when `path` is no model, or what stands in a template's place is no text or too long.
    """
    if is_onnx(path):
        found = folder_templates(folder_of(path))
    else:
        keys = read_texts(path, _KEY)
        named = {key.removeprefix(f"{_KEY}."): text for key, text in keys.items() if key.startswith(f"{_KEY}.")}
        found = named | ({DEFAULT: keys[_KEY]} if _KEY in keys else {})
    return {re.sub(r"[^A-Za-z0-9]", "_", name): _as_read(text) for name, text in found.items()}


def folder_templates(folder: Path) -> dict[str, str]:
    """Chat templates by name, from a checkpoint's or an ONNX model's folder, as transformers finds them: files of their
    own replace what `tokenizer_config.json` holds. Raises EdgekitError.
    """
    places = (TRANSFORMERS, GENAI, _TOKENIZER, _ALONE, _LEGACY)
    if not any((folder / name).is_file() for name in places):
        reason = "no such folder" if not folder.exists() else "it holds no configuration of a model"
        raise EdgekitError(f"cannot read the model ({reason}): `{folder}`", hint="give a model file or its folder")
    found: Mapping[str, Any] = _files(folder) or _inline(folder / _TOKENIZER) or _inline(folder / _LEGACY)
    if len(found) > MAX_TEMPLATES:
        _refuse(folder, f"it has {len(found)} of them, more than {MAX_TEMPLATES}")
    for name, text in found.items():
        if not isinstance(text, str) or len(text) > MAX_TEMPLATE_BYTES:
            _refuse(folder, f"`{clean(name, 40)}` is no text, or a text of more than a mebibyte")
    return dict(found)


def compare_templates(artifact: Path, parent: Path) -> ChatTemplate:
    """Whether `artifact` has the chat templates of `parent`, the model it was made of (GGUF, ONNX folder, checkpoint).

    `same` means every one of them, by name; the hashes are those of the default one (SHA-256 of its UTF-8, line ends
    as `chat_templates_of` gives them). Raises EdgekitError as that does.
    """
    ours, theirs = chat_templates_of(artifact), chat_templates_of(parent)
    status, detail = _compared(ours, theirs, _difference)
    return ChatTemplate(
        status=status,
        parent=parent.absolute().name,
        sha256=_sha256(ours.get(DEFAULT)),
        parent_sha256=_sha256(theirs.get(DEFAULT)),
        detail=detail,
    )


def template_hashes(path: Path) -> tuple[tuple[str, str], ...]:
    """Name and hash of every chat template of the model at `path`, to compare another with when it is gone. Raises
    EdgekitError as `chat_templates_of` does.
    """
    return tuple(sorted((name, _sha256(text)) for name, text in chat_templates_of(path).items()))


def compare_hashes(artifact: Path, parent_hashes: Sequence[tuple[str, str]], parent: str) -> ChatTemplate:
    """`compare_templates` with a parent called `parent` of which only `template_hashes` are known."""
    ours, theirs = dict(template_hashes(artifact)), dict(parent_hashes)
    status, detail = _compared(ours, theirs, lambda *_: "it is another text")
    return ChatTemplate(
        status=status,
        parent=parent,
        sha256=ours.get(DEFAULT, ""),
        parent_sha256=theirs.get(DEFAULT, ""),
        detail=detail,
    )


Status = Literal["same", "changed", "lost", "added", "none"]


def _compared(
    ours: Mapping[str, str], theirs: Mapping[str, str], difference: Callable[[str, str], str]
) -> tuple[Status, str]:
    if not ours and not theirs:
        return "none", ""
    if DEFAULT in theirs and DEFAULT not in ours:
        return "lost", f"the artifact has only {_names(ours)}" if ours else ""
    if DEFAULT in ours and DEFAULT not in theirs:
        return "added", f"the parent has only {_names(theirs)}" if theirs else ""
    for name in sorted({*ours, *theirs}, key=lambda name: (name != DEFAULT, name)):
        here = "" if name == DEFAULT else f"template {_names([name])}: "
        if name not in ours or name not in theirs:
            return "changed", here + ("the artifact lacks it" if name in theirs else "the parent has no such")
        if ours[name] != theirs[name]:
            return "changed", here + difference(ours[name], theirs[name])
    return "same", ""


def _difference(ours: str, theirs: str) -> str:
    """Where two texts part, and what stands there."""
    same = (one == other for one, other in zip(ours, theirs, strict=False))
    at = next((place for place, alike in enumerate(same) if not alike), min(len(ours), len(theirs)))
    line = ours.count("\n", 0, at) + 1
    return f"line {line} has {_excerpt(ours, at)} in the artifact, {_excerpt(theirs, at)} in the parent"


def _excerpt(text: str, at: int) -> str:
    begin = max(text.rfind("\n", 0, at) + 1, at - _BEFORE)
    return f"`{_shown(text[begin : at + _AFTER])}`" if at < len(text) else "its end"


def _names(names: Mapping[str, str] | list[str]) -> str:
    return ", ".join(f"`{_shown(name)}`" for name in sorted(names))


def _shown(text: str) -> str:
    return clean(text, 60).replace("`", "'")


def _as_read(text: str) -> str:
    return text.replace("\r\n", "\n").removesuffix("\n")


def _sha256(text: str | None) -> str:
    """Of the UTF-8; JSON can hold halves of characters, which have none."""
    return "" if text is None else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# ---- a folder's files -----------------------------------------------------------------------------------------------


def _files(folder: Path) -> dict[str, str]:
    """Templates in files of their own."""
    found = {}
    if (folder / _ALONE).exists():
        found[DEFAULT] = _read(folder / _ALONE, MAX_TEMPLATE_BYTES)
    try:
        further = sorted((folder / _FURTHER).glob("*.jinja"))[: MAX_TEMPLATES + 1]
    except OSError as error:
        _refuse(folder / _FURTHER, (error.strerror or "failed").lower())
    return found | {path.stem: _read(path, MAX_TEMPLATE_BYTES) for path in further}


def _inline(path: Path) -> dict[str, Any]:
    """Templates in the JSON file at `path`: one text is the default, a list names each."""
    if not path.exists():
        return {}
    try:
        content = json.loads(_read(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError):
        _refuse(path, "it is not JSON")
    if not isinstance(content, dict):
        _refuse(path, "it is not a JSON object")
    said = content.get("chat_template")
    if not isinstance(said, list):
        return {} if said is None else {DEFAULT: said}
    if not all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in said):
        _refuse(path, "one of several has no name")
    return {entry["name"]: entry.get("template") for entry in said}


def _read(path: Path, most_bytes: int) -> str:
    try:
        if not path.is_file():
            _refuse(path, "it is not a file")
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        _refuse(path, (error.strerror or "unreadable").lower())
    if len(data) > most_bytes:
        _refuse(path, f"it is larger than {most_bytes // 2**20} MiB")
    return data.decode("utf-8", "replace")


def _refuse(path: Path, reason: str) -> NoReturn:
    raise EdgekitError(f"cannot read the chat template ({reason}): `{path}`", hint="save the model's tokenizer again")
