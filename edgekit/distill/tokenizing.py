"""Small tokenizers with the exact machinery of the real families: pre-tokenizer regexes, special tokens, templates.

Sources: the regexes and special tokens are those of the published `tokenizer.json` of Qwen2.5, Qwen3, Llama 3,
SmolLM2, Llama 2 and Gemma 3.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from edgekit.errors import import_extra

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_PATTERN = QWEN2_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

QWEN_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN3_WORDS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
"""Added tokens of Qwen3 that are not special: they are matched in any text and never skipped in decoding."""
LLAMA3_SPECIALS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
SMOLLM_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
GEMMA_WORDS = ("<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁▁", "▁▁▁", "<table>", "</table>")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3_CHAT = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA2_CHAT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token }}[INST] {{ message['content'] }} [/INST]"
    "{% else %} {{ message['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA_CHAT = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def write_tokenizer(family: str, text: str, vocabulary: int, folder: Path) -> Any:
    """Train the tokenizer of `family` on `text` and write its files into `folder`; gives the `tokenizers.Tokenizer`.

    It has at most `vocabulary` tokens, special ones included. Families: see FAMILIES.
    """
    FAMILIES[family](text, vocabulary, folder)
    tokenizers = import_extra("tokenizers", extra="distill")
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def _qwen2(text: str, vocabulary: int, folder: Path) -> None:
    _qwen(text, vocabulary, folder, ())


def _qwen3(text: str, vocabulary: int, folder: Path) -> None:
    _qwen(text, vocabulary, folder, QWEN3_WORDS)


def _qwen(text: str, vocabulary: int, folder: Path, words: tuple[str, ...]) -> None:
    tokenizers = import_extra("tokenizers", extra="distill")
    tokenizer = _byte_level(tokenizers, QWEN2_PATTERN)
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False, add_prefix_space=False)
    _train(tokenizer, text, vocabulary - len(QWEN_SPECIALS) - len(words))
    tokenizer.add_special_tokens(list(QWEN_SPECIALS))
    tokenizer.add_tokens([tokenizers.AddedToken(word, normalized=False) for word in words])
    marks = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None, "unk_token": None}
    _write(tokenizer, folder, "Qwen2Tokenizer", CHATML, marks, add_bos_token=False)


def _llama3(text: str, vocabulary: int, folder: Path) -> None:
    tokenizers = import_extra("tokenizers", extra="distill")
    tokenizer = _byte_level(tokenizers, LLAMA3_PATTERN, ignore_merges=True)
    _train(tokenizer, text, vocabulary - len(LLAMA3_SPECIALS))
    tokenizer.add_special_tokens(list(LLAMA3_SPECIALS))
    begin = LLAMA3_SPECIALS[0]
    numbers = [(begin, tokenizer.token_to_id(begin))]
    tokenizer.post_processor = tokenizers.processors.Sequence(
        [
            tokenizers.processors.ByteLevel(trim_offsets=False, add_prefix_space=True),
            tokenizers.processors.TemplateProcessing(
                single=f"{begin} $A", pair=f"{begin} $A {begin} $B:1", special_tokens=numbers
            ),
        ]
    )
    _write(tokenizer, folder, "PreTrainedTokenizerFast", LLAMA3_CHAT, {"bos_token": begin, "eos_token": "<|eot_id|>"})


def _smollm(text: str, vocabulary: int, folder: Path) -> None:
    tokenizers = import_extra("tokenizers", extra="distill")
    tokenizer = _byte_level(tokenizers, None)
    # as published: special tokens come first, digits stand alone
    _train(tokenizer, text, vocabulary, specials=SMOLLM_SPECIALS)
    marks = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": None}
    _write(tokenizer, folder, "PreTrainedTokenizerFast", CHATML, marks)


def _llama2(text: str, vocabulary: int, folder: Path) -> None:
    vocab, merges = _sentencepiece(
        text, folder, vocab_size=vocabulary, unk_id=0, bos_id=1, eos_id=2, add_dummy_prefix=True
    )
    tokenizers = import_extra("tokenizers", extra="distill")
    unknown = next(iter(vocab))
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    # as published; what transformers 5 writes instead (Metaspace) forgets the prefix before a leading space
    change, undo = tokenizers.normalizers, tokenizers.decoders
    tokenizer.normalizer = change.Sequence([change.Prepend("▁"), change.Replace(" ", "▁")])
    tokenizer.decoder = undo.Sequence(
        [undo.Replace("▁", " "), undo.ByteFallback(), undo.Fuse(), undo.Strip(content=" ", left=1, right=0)]
    )
    tokenizer.add_special_tokens([unknown, "<s>", "</s>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", vocab["<s>"])]
    )
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}
    _write(tokenizer, folder, "PreTrainedTokenizerFast", LLAMA2_CHAT, marks, add_bos_token=True, add_eos_token=False)


def _gemma(text: str, vocabulary: int, folder: Path) -> None:
    ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    marks = {"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>", "unk_piece": "<unk>"}
    words = ",".join(("<mask>", *GEMMA_WORDS))
    vocab, merges = _sentencepiece(
        text, folder, vocab_size=vocabulary, add_dummy_prefix=False, user_defined_symbols=words, **ids, **marks
    )
    transformers = import_extra("transformers", extra="distill")
    tokenizers = import_extra("tokenizers", extra="distill")
    tokenizer = transformers.GemmaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)
    tokenizer.add_tokens([tokenizers.AddedToken(word, normalized=False) for word in GEMMA_WORDS])
    tokenizer.chat_template = GEMMA_CHAT
    tokenizer.save_pretrained(folder)


FAMILIES: dict[str, Callable[[str, int, Path], None]] = {
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "llama3": _llama3,
    "smollm": _smollm,
    "llama2": _llama2,
    "gemma": _gemma,
}


def _byte_level(tokenizers: Any, pattern: str | None, *, ignore_merges: bool = False) -> Any:
    """Byte-level BPE split by `pattern`, or by GPT-2's own with every digit apart (SmolLM)."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=ignore_merges))
    before = tokenizers.pre_tokenizers
    if pattern is None:
        first, rest = before.Digits(individual_digits=True), before.ByteLevel(add_prefix_space=False)
    else:
        first = before.Split(tokenizers.Regex(pattern), behavior="isolated")
        rest = before.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = before.Sequence([first, rest])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def _train(tokenizer: Any, text: str, vocabulary: int, specials: tuple[str, ...] = ()) -> None:
    tokenizers = import_extra("tokenizers", extra="distill")
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(specials),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_passages(text), trainer)


def _passages(text: str) -> Iterator[str]:
    for passage in text.split("\n\n"):
        yield passage + "\n\n"


def _write(
    tokenizer: Any, folder: Path, class_name: str, template: str, marks: dict[str, str | None], **extra: Any
) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(number): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for number, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    config = {
        **extra,
        **marks,
        "added_tokens_decoder": added,
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "tokenizer_class": class_name,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")


def _sentencepiece(text: str, folder: Path, **options: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train SentencePiece BPE with byte fallback and write `tokenizer.model`; gives its vocabulary and merges."""
    sentencepiece = import_extra("sentencepiece", extra="quantize")
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for line in text.splitlines() if line),
        model_writer=model,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=0.9995,
        max_sentence_length=16384,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = {processor.id_to_piece(number): number for number in range(processor.get_piece_size())}
    return pieces, _merges([piece for piece, number in pieces.items() if not _atomic(processor, number)], pieces)


def _atomic(processor: Any, number: int) -> bool:
    """Whether a piece is never made by merging: bytes, marks, and GEMMA_WORDS but for their runs of spaces, which
    SentencePiece matches whole and `tokenizers` makes of single spaces.
    """
    piece = processor.id_to_piece(number)
    marked = processor.is_control(number) or processor.is_unknown(number) or processor.is_byte(number)
    return marked or piece == "<mask>" or (piece in GEMMA_WORDS and bool(piece.strip("▁")))


def _merges(pieces: list[str], vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Merges that stand for SentencePiece's scores: a piece is made by any two pieces it can be cut into, and earlier
    pieces are merged first (their score is minus their rank).
    """
    return [
        (piece[:at], piece[at:])
        for piece in pieces
        for at in range(1, len(piece))
        if piece[:at] in vocab and piece[at:] in vocab
    ]
