"""Whether two checkpoints speak of the same tokens, and which of their logits may be held against each other.

A family's embeddings are padded to different widths (Qwen2.5: 152 064 rows from 7B up, 151 936 below, for 151 665
tokens), and later members have a few tokens more at the end. Both are fine: the distributions are compared over the
tokens that both have. A token that is another one in the other tokenizer is not, and neither are texts that the two
cut differently: the student would meet sequences that its teacher never judged.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from edgekit import corpus
from edgekit.checkpoint import Checkpoint, parse_json, read_small, shown
from edgekit.errors import EdgekitError, import_extra

if TYPE_CHECKING:
    import torch

MAX_TOKENIZER_BYTES = 128 * 2**20
MAX_ROWS = 2**24
"""Of an embedding; ids are kept in three bytes (`sparse_rows`)."""

_LEAST_COMMON = 0.9
"""Vocabularies of one family differ by padding and a few tokens at the end; less in common is another tokenizer cut
short."""

_PROBES = (
    " The quick  brown fox;\tjumps\r\nover 1234567.89 lazy dogs'll, don't they?!\n\n    return x == [y for y in z]\n",
    "Élan naïve café, Ünïcödé, e\u0301; 東京は晴れ。 Привет, мир! مرحبا 🦒🐘 ½ Ⅷ ﬁn\u00a0\u200b\ufeff",
)
_PROBE_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """What two vocabularies share: the first `vocabulary` ids. `teacher_rows` and `student_rows` are the widths of the
    embeddings, padding included; `teacher_tokens` and `student_tokens` how many ids stand for something; `sha256` is of
    the common tokens and how they merge.
    """

    vocabulary: int
    teacher_rows: int
    student_rows: int
    teacher_tokens: int
    student_tokens: int
    sha256: str

    def common(self, logits: torch.Tensor) -> torch.Tensor:
        """The part of either model's `logits` (…, rows) that is compared, (…, vocabulary); a view."""
        return logits[..., : self.vocabulary]

    def check_ids(self, ids: torch.Tensor) -> None:
        """Raise EdgekitError where `ids` has a token that not both models know."""
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary:
            strange = int(ids.max()) if int(ids.max()) >= self.vocabulary else int(ids.min())
            raise EdgekitError(
                f"the training text holds a token outside the {self.vocabulary} that teacher and student share:"
                f" `{strange}`",
                hint="tokenize the text with the student's tokenizer, or leave those sequences out",
            )


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """A checkpoint's tokens by id, the width of its embedding, and its tokenizer."""

    checkpoint: Checkpoint
    rows: int
    tokens: dict[int, str]
    merges: tuple[str, ...]
    tokenizer: Any

    @property
    def end(self) -> int:
        """The first id after which nothing stands for a token."""
        return max(self.tokens) + 1


def align(teacher: Checkpoint, student: Checkpoint) -> Alignment:
    """What the vocabularies of two checkpoints share.

    Raises EdgekitError where they have different tokenizers, with the first token (or merge, or passage) that differs;
    where a checkpoint has no `tokenizer.json`, or more tokens than its embedding has rows.
    """
    left, right = _vocabulary(teacher), _vocabulary(student)
    shared = min(left.end, right.end, left.rows, right.rows)
    for token in range(shared):
        if left.tokens.get(token) != right.tokens.get(token):
            _refuse(left, right, f"token {token} is {_named(left, token)} of the teacher and {_named(right, token)}")
    if shared < _LEAST_COMMON * max(left.end, right.end):
        longer, whose = (left, "teacher") if left.end > right.end else (right, "student")
        _refuse(left, right, f"token {shared} is {_named(longer, shared)} of the {whose} and is missing")
    _compare_merges(left, right)
    _compare_cuts(left, right)
    digest = hashlib.sha256(json.dumps([[left.tokens.get(token) for token in range(shared)], left.merges]).encode())
    return Alignment(
        vocabulary=shared,
        teacher_rows=left.rows,
        student_rows=right.rows,
        teacher_tokens=len(left.tokens),
        student_tokens=len(right.tokens),
        sha256=digest.hexdigest(),
    )


def _vocabulary(checkpoint: Checkpoint) -> _Vocabulary:
    if checkpoint.tokenizer != "tokenizer.json":
        raise EdgekitError(
            f"the checkpoint has no `tokenizer.json`: `{checkpoint.path}`",
            hint="save its fast tokenizer beside it: `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`",
        )
    path = checkpoint.path / "tokenizer.json"
    raw = read_small(path, MAX_TOKENIZER_BYTES)
    parsed = parse_json(path, raw)
    tokenizers = import_extra("tokenizers", extra="distill")
    try:
        tokenizer = tokenizers.Tokenizer.from_str(raw.decode())
    except Exception as error:  # the library raises bare Exceptions for whatever it does not understand
        raise EdgekitError(f"not a usable tokenizer ({shown(error)}): `{path}`") from None
    # sorted, so that where two claim one id it is always the same that has it
    tokens = {number: token for token, number in sorted(tokenizer.get_vocab(with_added_tokens=True).items())}
    rows = _rows(checkpoint)
    if not tokens or max(tokens) >= rows:
        raise EdgekitError(
            f"the tokenizer's last token is {max(tokens, default=-1)}, but the embedding has {rows} rows:"
            f" `{checkpoint.path}`",
            hint="the tokenizer is of another model",
        )
    model = parsed.get("model")
    return _Vocabulary(checkpoint, rows, tokens, _merges(model if isinstance(model, dict) else {}), tokenizer)


def _rows(checkpoint: Checkpoint) -> int:
    """Rows of the input embedding, which every causal model has, or of an output head that has fewer."""
    found = [
        tensor.shape[0]
        for tensor in checkpoint.tensors
        if tensor.name.endswith(("embed_tokens.weight", "lm_head.weight")) and len(tensor.shape) == 2
    ]
    if not found:
        raise EdgekitError(f"the checkpoint has no tensor `embed_tokens.weight`: `{checkpoint.path}`")
    if max(found) > MAX_ROWS:
        raise EdgekitError(f"the embedding has more than {MAX_ROWS} rows: `{checkpoint.path}`")
    return min(found)


def _merges(model: dict[str, Any]) -> tuple[str, ...]:
    """Merges as `left right`, which older files have as such and newer ones as pairs; none of a Unigram model."""
    merges = model.get("merges")
    if not isinstance(merges, list):
        return ()
    return tuple(" ".join(map(str, merge)) if isinstance(merge, list) else str(merge) for merge in merges)


def _compare_merges(left: _Vocabulary, right: _Vocabulary) -> None:
    if left.merges == right.merges:
        return
    pairs = zip(left.merges, right.merges, strict=False)
    place = next(
        (at for at, (one, other) in enumerate(pairs) if one != other), min(len(left.merges), len(right.merges))
    )
    one, other = (shown(side.merges[place]) if place < len(side.merges) else "missing" for side in (left, right))
    _refuse(left, right, f"merge {place + 1} is `{one}` of the teacher and `{other}`")


def _compare_cuts(left: _Vocabulary, right: _Vocabulary) -> None:
    """What neither list shows (how text is normalized and split first) shows in texts."""
    for text in (*_PROBES, _probe_text()):
        one = left.tokenizer.encode(text, add_special_tokens=False)
        other = right.tokenizer.encode(text, add_special_tokens=False)
        if one.ids == other.ids:
            continue
        pairs = zip(one.ids, other.ids, strict=False)
        place = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one.ids), len(other.ids)))
        begin = one.offsets[min(place, len(one.ids) - 1)][0] if one.ids else 0
        passage = shown(json.dumps(text[begin : begin + 20], ensure_ascii=False), 30)
        _refuse(left, right, f"they cut the text {passage} differently, the teacher's")


@cache
def _probe_text() -> str:
    return corpus.text("train", characters=_PROBE_CHARACTERS)


def _named(side: _Vocabulary, token: int) -> str:
    return f"`{shown(side.tokens[token], 40)}`" if token in side.tokens else "nothing"


def _refuse(left: _Vocabulary, right: _Vocabulary, what: str) -> None:
    raise EdgekitError(
        f"teacher and student have different tokenizers: {what} of the student: `{right.checkpoint.path}`",
        hint=f"choose a student of the teacher's family, or one carved out of it: `{left.checkpoint.path}`",
    )
