"""The checkpoint's tokenizer as llama.cpp's vocabulary: tokens, their kinds, merges or scores, and what goes around.

Two families: byte-level BPE (llama.cpp's `gpt2`) and SentencePiece BPE (`llama`). What llama.cpp cannot do is refused
by name; where it only differs on odd input the difference is a note in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgekit.checkpoint import Checkpoint, shown
from edgekit.quantize.convert.pieces import is_sentencepiece, mark_pieces, scores, space_prefix
from edgekit.quantize.convert.pretokenizers import pre_tokenizer
from edgekit.quantize.convert.specials import Specials, read_specials
from edgekit.quantize.convert.tokenizer_json import TokenizerJson, read_tokenizer_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What goes under `tokenizer.ggml.*`. `tokens`, `types` and, for `llama`, `scores` have one entry per row of the
    embedding; `notes` say what llama.cpp does otherwise, and on which input.
    """

    model: Literal["gpt2", "llama"]
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    space_prefix: bool | None = None
    specials: Specials
    notes: tuple[str, ...] = ()


def read_vocabulary(checkpoint: Checkpoint, rows: int) -> Vocabulary:
    """The vocabulary of a checkpoint whose embedding has `rows` rows. Raises EdgekitError for what llama.cpp cannot
    do, and for a tokenizer that contradicts itself or the embedding.
    """
    tokenizer = read_tokenizer_json(checkpoint, rows)
    numbers = {token: number for number, token in enumerate(tokenizer.tokens)}
    specials = read_specials(checkpoint, tokenizer.parsed.get("post_processor"), numbers)
    family = _sentencepiece if is_sentencepiece(tokenizer) else _byte_level
    return family(tokenizer, specials)


def _byte_level(tokenizer: TokenizerJson, specials: Specials) -> Vocabulary:
    pre = pre_tokenizer(tokenizer.parsed.get("pre_tokenizer"))
    if bool(tokenizer.model.get("ignore_merges")) != pre.ignore_merges:
        tokenizer.refuse(f"`ignore_merges` is not what llama.cpp does for `{pre.name}`")
    normalizer = tokenizer.parsed.get("normalizer")
    if isinstance(normalizer, Mapping) and normalizer.get("type") == "NFC":
        tokenizer.notes.append("text that is not in Unicode's composed form (NFC) is tokenized as it stands")
    elif normalizer:
        tokenizer.refuse(f"llama.cpp does not normalize as it asks: `{shown(normalizer)}`")
    if any(" " in part for pair in tokenizer.merges for part in pair):
        tokenizer.refuse("a merge contains a space")
    return Vocabulary(
        model="gpt2",
        pre=pre.name,
        tokens=tuple(tokenizer.tokens),
        types=tuple(tokenizer.types),
        merges=tuple(f"{left} {right}" for left, right in tokenizer.merges),
        specials=specials,
        notes=tuple(tokenizer.notes),
    )


def _sentencepiece(tokenizer: TokenizerJson, specials: Specials) -> Vocabulary:
    mark_pieces(tokenizer)
    ranked = scores(tokenizer)  # may rewrite tokens
    prefix = space_prefix(tokenizer)
    return Vocabulary(
        model="llama",
        pre="default",
        tokens=tuple(tokenizer.tokens),
        types=tuple(tokenizer.types),
        scores=ranked,
        space_prefix=prefix,
        specials=specials,
        notes=tuple(tokenizer.notes),
    )
