"""tokenizer.json read with caps and checked against itself and the embedding: a stranger's file of up to 256 MiB."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from edgekit.checkpoint import Checkpoint, parse_json, read_small, shown
from edgekit.errors import EdgekitError

MAX_TOKENIZER_BYTES, MAX_TOKENS = 256 * 2**20, 2**21
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama_token_type in llama.h
SPACE = "▁"  # SentencePiece writes a space so


@dataclass(slots=True, kw_only=True)
class TokenizerJson:
    """A BPE tokenizer.json. `tokens` and `types` have one entry per row of the embedding; `pieces` are the tokens that
    merging can make; `notes` collect on which input llama.cpp will differ.
    """

    path: Path
    parsed: Mapping[str, Any]
    tokens: list[str]
    types: list[int]
    pieces: Mapping[str, int]
    merges: list[tuple[str, str]]
    notes: list[str]

    @property
    def model(self) -> Mapping[str, Any]:
        table: Mapping[str, Any] = self.parsed["model"]
        return table

    def refuse(self, reason: str, hint: str = "") -> NoReturn:
        _refuse(self.path, reason, hint)


def read_tokenizer_json(checkpoint: Checkpoint, rows: int) -> TokenizerJson:
    """The tokenizer of a checkpoint whose embedding has `rows` rows. Raises EdgekitError where there is none, where it
    is not BPE, and where it contradicts itself or the embedding.
    """
    path = checkpoint.path / "tokenizer.json"
    if checkpoint.tokenizer != "tokenizer.json":
        raise EdgekitError(
            f"the checkpoint has no `tokenizer.json`: `{checkpoint.path}`",
            hint=f"write one: `AutoTokenizer.from_pretrained('{checkpoint.path.name}').save_pretrained(…)`",
        )
    parsed = parse_json(path, read_small(path, MAX_TOKENIZER_BYTES))
    model = parsed.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        kind = shown(model.get("type"), 40) if isinstance(model, dict) else "none"
        _refuse(path, f"its model is `{kind}`", "edgekit converts BPE tokenizers, byte-level or SentencePiece")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            _refuse(path, f"llama.cpp does not do `{key}`")
    pieces = _pieces(path, model)
    added, notes = _added(path, parsed, rows)
    tokens, types = _table(path, pieces, added, rows)
    merges = _merges(path, model)
    return TokenizerJson(
        path=path, parsed=parsed, tokens=tokens, types=types, pieces=pieces, merges=merges, notes=notes
    )


def _pieces(path: Path, model: Mapping[str, Any]) -> dict[str, int]:
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not 0 < len(vocab) <= MAX_TOKENS:
        _refuse(path, "it has no usable vocabulary")
    if not all(type(number) is int and 0 <= number < MAX_TOKENS for number in vocab.values()):
        _refuse(path, "its vocabulary has a token without a valid number")
    return {token: number for token, number in vocab.items() if token}  # nothing makes the empty one of Llama 2


def _merges(path: Path, model: Mapping[str, Any]) -> list[tuple[str, str]]:
    merges = model.get("merges")
    if not isinstance(merges, list) or not merges:
        _refuse(path, "it has no merges", "a BPE tokenizer needs its merges: save it again with transformers")
    pairs = []
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(p, str) and p for p in parts):
            _refuse(path, f"a merge is not a pair: `{shown(merge, 40)}`")
        pairs.append((parts[0], parts[1]))
    return pairs


def _added(path: Path, parsed: Mapping[str, Any], rows: int) -> tuple[dict[int, tuple[str, bool]], list[str]]:
    """Added tokens by number: text and whether special; and notes on what llama.cpp does not do with them."""
    listed = parsed.get("added_tokens", [])
    if not isinstance(listed, list):
        _refuse(path, "its `added_tokens` are not a list")
    added: dict[int, tuple[str, bool]] = {}
    beyond, stripping = [], []
    for entry in listed:
        text, number = (entry.get("content"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        if not isinstance(text, str) or not text or type(number) is not int or number < 0 or number in added:
            _refuse(path, f"an added token is not valid: `{shown(json.dumps(entry), 200)}`")
        if number >= rows:
            beyond.append(text)
            continue
        added[number] = (text, entry.get("special") is True)
        if entry.get("lstrip") or entry.get("rstrip") or entry.get("single_word"):
            stripping.append(text)
    notes = []
    if beyond:
        notes.append(f"left out, beyond the embedding's {rows} rows: {shown(' '.join(beyond), 200)}")
    if stripping:
        notes.append(f"llama.cpp takes no heed of what stands around {shown(' '.join(stripping), 200)}")
    return added, notes


def _table(
    path: Path, pieces: Mapping[str, int], added: Mapping[int, tuple[str, bool]], rows: int
) -> tuple[list[str], list[int]]:
    """Token and type of every row; rows without a token are padding of the embedding."""
    tokens, types = [""] * rows, [UNUSED] * rows
    for token, number in pieces.items():
        if number >= rows:
            _refuse(path, f"token {number} has no row in the embedding of {rows}")
        if tokens[number]:
            _refuse(path, f"token {number} is there twice")
        tokens[number], types[number] = token, NORMAL
    for number, (token, special) in added.items():
        if tokens[number] not in ("", token):
            _refuse(path, f"token {number} is both `{shown(tokens[number], 40)}` and `{shown(token, 40)}`")
        if tokens[number] and not special and not token.strip(SPACE):
            continue  # a run of spaces: llama.cpp prints it as spaces only while it is a plain piece
        tokens[number], types[number] = token, CONTROL if special else USER_DEFINED
    for number, token in enumerate(tokens):
        if not token:
            tokens[number] = f"[PAD{number}]"
    # llama.cpp aborts on two of the same text, and reads a text to its first zero byte
    if len({token.partition("\0")[0] or token for token in tokens}) < rows:
        _refuse(path, "two tokens have the same text")
    return tokens, types


def _refuse(path: Path, reason: str, hint: str = "") -> NoReturn:
    raise EdgekitError(
        f"cannot convert the tokenizer ({reason}): `{path}`",
        hint=hint or "edgekit refuses rather than tokenize otherwise than the checkpoint",
    )
