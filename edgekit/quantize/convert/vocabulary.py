"""tokenizer.json as llama.cpp's vocabulary: tokens, their kinds, merges or scores, and what is added in front.

Two families: byte-level BPE (llama.cpp's `gpt2`) and SentencePiece BPE as transformers writes it (`llama`). What
llama.cpp cannot do is refused by name; where it only differs on odd input the difference is a note in the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from edgekit.checkpoint import Checkpoint, parse_json, read_small, shown
from edgekit.errors import EdgekitError
from edgekit.quantize.convert.pretokenizers import pre_tokenizer
from edgekit.quantize.convert.specials import Specials, read_specials

MAX_TOKENIZER_BYTES, MAX_TOKENS = 256 * 2**20, 2**21
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama_token_type in llama.h
_SPACE = "▁"  # SentencePiece writes a space so
_BYTES = {f"<0x{value:02X}>" for value in range(256)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What goes under `tokenizer.ggml.*`. `tokens`, `types` and, for `llama`, `scores` have one entry per row of the
    embedding; `notes` say on which input llama.cpp will differ.
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
        _refuse(checkpoint, f"its model is `{kind}`", "edgekit converts BPE tokenizers, byte-level or SentencePiece")
    _check_model(checkpoint, model)
    ids, merges = _ids(checkpoint, model), _merges(checkpoint, model)
    added, notes = _added(checkpoint, parsed, rows)
    tokens, types = _table(checkpoint, ids, added, rows)
    specials = read_specials(
        checkpoint, parsed.get("post_processor"), {token: number for number, token in enumerate(tokens)}
    )
    if _is_sentencepiece(parsed, model):
        return _sentencepiece(checkpoint, parsed, model, (tokens, types), merges, specials, notes)
    return _byte_level(checkpoint, parsed, model, (tokens, types), merges, specials, notes)


Table = tuple[list[str], list[int]]
Merges = list[tuple[str, str]]


def _byte_level(
    checkpoint: Checkpoint,
    parsed: Mapping[str, Any],
    model: Mapping[str, Any],
    table: Table,
    merges: Merges,
    specials: Specials,
    notes: list[str],
) -> Vocabulary:
    pre = pre_tokenizer(parsed.get("pre_tokenizer"))
    if bool(model.get("ignore_merges")) != pre.ignore_merges:
        _refuse(checkpoint, f"`ignore_merges` is not what llama.cpp does for `{pre.name}`")
    normalizer = parsed.get("normalizer")
    if isinstance(normalizer, Mapping) and normalizer.get("type") == "NFC":
        notes = [
            *notes,
            "text that is not in Unicode's composed form (NFC) tokenizes as written: llama.cpp does not compose it",
        ]
    elif normalizer:
        _refuse(checkpoint, f"llama.cpp does not normalize as it asks: `{shown(normalizer)}`")
    if any(" " in part for pair in merges for part in pair):
        _refuse(checkpoint, "a merge contains a space")
    return Vocabulary(
        model="gpt2",
        pre=pre.name,
        tokens=tuple(table[0]),
        types=tuple(table[1]),
        merges=tuple(f"{left} {right}" for left, right in merges),
        specials=specials,
        notes=tuple(notes),
    )


def _sentencepiece(
    checkpoint: Checkpoint,
    parsed: Mapping[str, Any],
    model: Mapping[str, Any],
    table: Table,
    merges: Merges,
    specials: Specials,
    notes: list[str],
) -> Vocabulary:
    tokens, types = table
    prefix, prefix_notes = _space_prefix(checkpoint, parsed)
    unknown = model.get("unk_token")
    for number, token in enumerate(tokens):
        if token == unknown:
            types[number] = UNKNOWN
        elif token in _BYTES:
            types[number] = BYTE
    if not set(tokens) >= _BYTES:
        _refuse(checkpoint, "it lacks some of the 256 byte tokens that llama.cpp falls back on")
    return Vocabulary(
        model="llama",
        pre="default",
        tokens=tuple(tokens),
        types=tuple(types),
        scores=_scores(checkpoint, tokens, merges),
        space_prefix=prefix,
        specials=specials,
        notes=(*notes, *prefix_notes),
    )


def _scores(checkpoint: Checkpoint, tokens: Sequence[str], merges: Merges) -> tuple[float, ...]:
    """Scores under which llama.cpp joins what the merges join, in their order.

    SentencePiece joins the pair whose piece scores best; transformers wrote its merges sorted by that score, so all
    merges of a piece stand together. Where they do not, the merges are not SentencePiece's and no scores say the same.
    """
    order: dict[str, int] = {}
    last = ""
    for left, right in merges:
        piece = left + right
        if piece != last and piece in order:
            _refuse(checkpoint, f"its merges are not those of a SentencePiece model at `{shown(piece, 40)}`")
        order.setdefault(piece, len(order))
        last = piece
    bottom = -float(len(order) + 1)
    return tuple(-float(order[token]) if token in order else bottom for token in tokens)


def _is_sentencepiece(parsed: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    return model.get("byte_fallback") is True and "ByteLevel" not in str(parsed.get("pre_tokenizer"))


def _space_prefix(checkpoint: Checkpoint, parsed: Mapping[str, Any]) -> tuple[bool, tuple[str, ...]]:
    """Whether a space is put in front of a text, by the three ways transformers writes it down."""
    normalizer, splitter = parsed.get("normalizer"), parsed.get("pre_tokenizer")
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepend = {"type": "Prepend", "prepend": _SPACE}
    # Gemma: splitting at spaces after all of them were replaced splits nothing
    nothing = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    if splitter in (None, nothing):
        if normalizer == {"type": "Sequence", "normalizers": [prepend, replace]}:
            return True, ()
        if normalizer in (replace, {"type": "Sequence", "normalizers": [replace]}):
            return False, ()
    if normalizer is None and isinstance(splitter, Mapping) and splitter.get("type") == "Metaspace":
        scheme = splitter.get("prepend_scheme", "always" if splitter.get("add_prefix_space", True) else "never")
        if splitter.get("replacement") == _SPACE and splitter.get("split", True) is False and scheme in _SCHEMES:
            return _SCHEMES[scheme]
    return _refuse(checkpoint, f"llama.cpp does not treat spaces as it asks: `{shown((normalizer, splitter), 300)}`")


_SCHEMES: dict[str, tuple[bool, tuple[str, ...]]] = {
    "always": (True, ()),
    "never": (False, ()),
    "first": (True, ("after a special token inside a text llama.cpp adds a space, the checkpoint's tokenizer none",)),
}


def _check_model(checkpoint: Checkpoint, model: Mapping[str, Any]) -> None:
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            _refuse(checkpoint, f"llama.cpp does not do `{key}`")


def _ids(checkpoint: Checkpoint, model: Mapping[str, Any]) -> dict[str, int]:
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not 0 < len(vocab) <= MAX_TOKENS:
        _refuse(checkpoint, "it has no usable vocabulary")
    if not all(type(number) is int and 0 <= number < MAX_TOKENS for number in vocab.values()):
        _refuse(checkpoint, "its vocabulary has a token without a valid number")
    return vocab


def _merges(checkpoint: Checkpoint, model: Mapping[str, Any]) -> Merges:
    merges = model.get("merges")
    if not isinstance(merges, list) or not merges:
        _refuse(checkpoint, "it has no merges", "a BPE tokenizer needs its merges: save it again with transformers")
    pairs: Merges = []
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(p, str) and p for p in parts):
            _refuse(checkpoint, f"a merge is not a pair: `{shown(merge, 40)}`")
        pairs.append((parts[0], parts[1]))
    return pairs


def _added(
    checkpoint: Checkpoint, parsed: Mapping[str, Any], rows: int
) -> tuple[dict[int, tuple[str, bool]], list[str]]:
    """Added tokens by number: text and whether special; and notes on what llama.cpp does not do with them."""
    listed = parsed.get("added_tokens", [])
    if not isinstance(listed, list):
        _refuse(checkpoint, "its `added_tokens` are not a list")
    added: dict[int, tuple[str, bool]] = {}
    beyond, stripping = [], []
    for entry in listed:
        text, number = (entry.get("content"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        if (
            not isinstance(text, str)
            or not text
            or type(number) is not int
            or not 0 <= number < MAX_TOKENS
            or number in added
        ):
            _refuse(checkpoint, f"an added token is not valid: `{shown(entry)}`")
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
        notes.append(f"llama.cpp does not strip spaces around {shown(' '.join(stripping), 200)}")
    return added, notes


def _table(checkpoint: Checkpoint, ids: Mapping[str, int], added: Mapping[int, tuple[str, bool]], rows: int) -> Table:
    """Token and type of every row; rows without a token are padding of the embedding."""
    tokens = [""] * rows
    types = [UNUSED] * rows
    for token, number in ids.items():
        if number >= rows:
            _refuse(checkpoint, f"token {number} has no row in the embedding of {rows}")
        if tokens[number]:
            _refuse(checkpoint, f"token {number} is there twice")
        tokens[number], types[number] = token, NORMAL
    for number, (token, special) in added.items():
        if tokens[number] not in ("", token):
            _refuse(checkpoint, f"token {number} is both `{shown(tokens[number], 40)}` and `{shown(token, 40)}`")
        if tokens[number] and not special and not token.strip(_SPACE):
            continue  # a run of spaces: llama.cpp prints it as spaces only while it is a plain piece
        tokens[number], types[number] = token, CONTROL if special else USER_DEFINED
    for number, token in enumerate(tokens):
        if not token:
            tokens[number] = f"[PAD{number}]"
    if len(set(tokens)) < rows:  # llama.cpp aborts on two of the same text
        _refuse(checkpoint, "two tokens have the same text")
    return tokens, types


def _refuse(checkpoint: Checkpoint, reason: str, hint: str = "") -> NoReturn:
    raise EdgekitError(
        f"cannot convert the tokenizer ({reason}): `{checkpoint.path / 'tokenizer.json'}`",
        hint=hint or "edgekit refuses rather than tokenize otherwise than the checkpoint",
    )
