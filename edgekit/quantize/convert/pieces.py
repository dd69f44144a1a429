"""SentencePiece BPE, as transformers writes it into tokenizer.json, for llama.cpp's `llama` tokenizer.

transformers merges listed pairs in the order of the list. llama.cpp joins any two neighbours whose text is a token,
the best score first (`llm_tokenizer_spm`). Both do the same where every way to cut a piece in two is listed and the
ways of one piece stand together, as in a list made from a SentencePiece model; that is checked and not believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import NoReturn

from edgekit.checkpoint import shown
from edgekit.quantize.convert.tokenizer_json import BYTE, NORMAL, SPACE, UNKNOWN, TokenizerJson

MAX_JOINED = 128
MAX_CUTS = 50_000_000
"""Characters squared over all pieces; Gemma's 262 144 have 14 million."""


def is_sentencepiece(tokenizer: TokenizerJson) -> bool:
    """Whether the tokenizer falls back on bytes, as SentencePiece does; byte-level BPE needs no fallback."""
    return tokenizer.model.get("byte_fallback") is True and "ByteLevel" not in str(
        tokenizer.parsed.get("pre_tokenizer")
    )


def mark_pieces(tokenizer: TokenizerJson) -> None:
    """Set the types of the unknown token and of the 256 bytes. Raises EdgekitError where llama.cpp would miss a byte:
    it asks for `<0x41>` and then for the character itself (`llama_vocab::byte_to_token`).
    """
    known = set(tokenizer.tokens)
    if not all(byte in known or (value < 128 and chr(value) in known) for value, byte in enumerate(_BYTES)):
        tokenizer.refuse("it lacks some of the 256 byte tokens that llama.cpp falls back on")
    unknown, types = tokenizer.model.get("unk_token"), tokenizer.types
    names = set(_BYTES)
    for number, token in enumerate(tokenizer.tokens):
        if token == unknown:
            types[number] = UNKNOWN
        elif token in names:
            types[number] = BYTE


def scores(tokenizer: TokenizerJson) -> tuple[float, ...]:
    """A score per token under which llama.cpp joins what the merges join, in their order: minus the rank of the piece.

    A piece that the merges never make gets its spaces written as plain spaces, which llama.cpp never looks up and
    prints alike. Raises EdgekitError where no scores say what the merges say.
    """
    _check_lengths(tokenizer)
    order: dict[str, int] = {}
    for left, right in tokenizer.merges:
        order.setdefault(left + right, len(order))
    _check_order(tokenizer, order)
    _check_cuts(tokenizer, order)
    bottom = -float(len(order) + 1)
    return tuple(-float(order[token]) if token in order else bottom for token in tokenizer.tokens)


def _check_lengths(tokenizer: TokenizerJson) -> None:
    """The checks below cut every piece everywhere and join runs three times as long: a stranger's list must not keep
    them at it for hours. The longest piece of published lists has 31 characters, joined ones included.
    """
    total = sum(len(piece) ** 2 for piece in tokenizer.pieces)
    longest = max((len(left) + len(right) for left, right in tokenizer.merges), default=0)
    if longest > MAX_JOINED or total > MAX_CUTS:
        tokenizer.refuse(f"its pieces are too long to be checked: one of `{longest}` characters is joined")


def _check_order(tokenizer: TokenizerJson, order: Mapping[str, int]) -> None:
    """All ways to make a piece must stand together in the list. Runs of one character may be mixed among themselves,
    as in Gemma's list, where the ranks and the scores are seen to join a run of any length alike.
    """
    spans: dict[str, list[int]] = {}
    for rank, (left, right) in enumerate(tokenizer.merges):
        spans.setdefault(left + right, []).append(rank)
    torn = [
        piece for piece, ranks in spans.items() if ranks[-1] - ranks[0] >= len(ranks) and _is_made(tokenizer, piece)
    ]
    if not torn:
        return
    first, last = min(spans[piece][0] for piece in torn), max(spans[piece][-1] for piece in torn)
    for left, right in tokenizer.merges[first : last + 1]:
        if len({*left, *right}) > 1 and _is_made(tokenizer, left + right):
            _refuse_order(tokenizer, torn[0])
    ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
    for character in {piece[0] for piece in torn}:
        for length in range(2, 3 * max(map(len, torn)) + 1):
            listed = join_run(character * length, lambda left, right: ranks.get((left, right)))
            scored = join_run(character * length, lambda left, right: order.get(left + right))
            if listed != scored:
                _refuse_order(tokenizer, character * length)


def join_run(text: str, rank: Callable[[str, str], int | None]) -> list[str]:
    """`text` after joining neighbours by the lowest rank, the first of equals, until none may be joined."""
    parts = list(text)
    while True:
        best: tuple[int, int] | None = None
        for at, (left, right) in enumerate(pairwise(parts)):
            found = rank(left, right)
            if found is not None and (best is None or found < best[0]):
                best = (found, at)
        if best is None:
            return parts
        at = best[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def _is_made(tokenizer: TokenizerJson, piece: str) -> bool:
    """Whether a piece is made by joining; the others are found in the raw text before, by both."""
    number = tokenizer.pieces.get(piece)
    if number is None:
        tokenizer.refuse(f"a merge makes what is no token: `{shown(piece, 40)}`")
    return tokenizer.types[number] == NORMAL


def _check_cuts(tokenizer: TokenizerJson, order: Mapping[str, int]) -> None:
    merges, pieces, hidden = set(tokenizer.merges), tokenizer.pieces, []
    for piece, number in pieces.items():
        if not _is_made(tokenizer, piece):
            continue
        for at in range(1, len(piece)):
            left, right = piece[:at], piece[at:]
            if left in pieces and right in pieces and (left, right) not in merges:
                if piece in order or SPACE not in piece:
                    _refuse_order(tokenizer, piece)
                hidden.append(number)
                break
    known = set(tokenizer.tokens)
    for number in hidden:
        plain = tokenizer.tokens[number].replace(SPACE, " ")
        if plain in known:
            _refuse_order(tokenizer, tokenizer.tokens[number])
        tokenizer.tokens[number] = plain


def space_prefix(tokenizer: TokenizerJson) -> bool:
    """Whether a space is put in front of a text, by the ways transformers writes it down. Raises EdgekitError for any
    other treatment of spaces.
    """
    normalizer, splitter = tokenizer.parsed.get("normalizer"), tokenizer.parsed.get("pre_tokenizer")
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    # Gemma: splitting at spaces after all of them were replaced splits nothing
    nothing = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    if splitter in (None, nothing):
        if normalizer == {"type": "Sequence", "normalizers": [prepend, replace]}:
            return True
        if normalizer in (replace, {"type": "Sequence", "normalizers": [replace]}):
            return False
    if normalizer is None and isinstance(splitter, Mapping) and splitter.get("type") == "Metaspace":
        scheme = splitter.get("prepend_scheme", "always" if splitter.get("add_prefix_space", True) else "never")
        sound = splitter.get("replacement") == SPACE and splitter.get("split", True) is False
        if sound and scheme in ("always", "never", "first"):
            # Metaspace puts a space only where none is, SentencePiece and llama.cpp always
            if scheme != "never":
                tokenizer.notes.append("a text that begins with a space gets another one in front")
            if scheme == "first":
                tokenizer.notes.append("after a special token inside a text a space is added")
            return bool(scheme != "never")
    return tokenizer.refuse(f"llama.cpp does not treat spaces as it asks: `{shown((normalizer, splitter), 300)}`")


def _refuse_order(tokenizer: TokenizerJson, piece: str) -> NoReturn:
    tokenizer.refuse(f"its merges are not those of a SentencePiece model, see the piece `{shown(piece, 40)}`")


_BYTES = tuple(f"<0x{value:02X}>" for value in range(256))
