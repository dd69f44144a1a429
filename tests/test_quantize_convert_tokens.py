"""llama.cpp tokenizes with a converted vocabulary as the checkpoint's tokenizer.json does: 10 000 strings a family."""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit import corpus
from edgekit.checkpoint import open_checkpoint
from edgekit.quantize.convert import convert
from edgekit.quantize.convert.vocabulary import read_vocabulary

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")

STRINGS = 10_000
SPACES = (
    *(" ", "  ", "   ", "       ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r", " \n", "\n ", "    \n"),
    *("\u00a0", "\u2003", "\u3000", "\x0b", "\x0c", "\u0085", "\u2028", "\u200b", "\ufeff"),
)
ODD = (
    *("I'LL", "don't", "we'Re", "'S", "'", "1234567", "3.14", "1,000", "x=1;", "foo_bar", "!?", "...", "</a>", "{}"),
    *("你好", "العربية", "😀", "नि", "e\u0301", "naïve", "ß", "👨\u200d👩\u200d👧", "ﬁ", "Å", "İ", "ǅ", "²", "½", "Ⅷ"),
)


class LlamaVocabulary:
    """`llama_tokenize` on the vocabulary of a GGUF, its tensors not loaded."""

    def __init__(self, path: Path) -> None:
        import llama_cpp.llama_cpp as c

        c.llama_backend_init()
        params = c.llama_model_default_params()
        params.vocab_only = True
        self.c, self.model = c, c.llama_model_load_from_file(os.fsencode(path), params)
        assert self.model
        self.vocabulary = c.llama_model_get_vocab(self.model)

    def encode(self, text: str) -> list[int]:
        data = text.encode()
        room = (self.c.llama_token * (len(data) + 8))()
        count = self.c.llama_tokenize(self.vocabulary, data, len(data), room, len(room), True, True)
        assert count >= 0
        return list(room[:count])

    def decode(self, tokens: list[int]) -> str:
        array = (self.c.llama_token * len(tokens))(*tokens)
        room = ctypes.create_string_buffer(64 * len(tokens) + 64)
        count = self.c.llama_detokenize(self.vocabulary, array, len(tokens), room, len(room), False, True)
        assert count >= 0
        return room.raw[:count].decode("utf-8", "replace")

    def close(self) -> None:
        self.c.llama_model_free(self.model)


def letters() -> list[str]:
    """Every printable character of the first two planes that has a meaning."""
    return [chr(code) for code in range(0x20, 0x1FFFF) if unicodedata.category(chr(code))[0] in "LMNPSZ"]


def strings(words: list[str], seed: int = 1) -> Iterator[str]:
    """Prose, code, whitespace runs, any script at all, contractions and numbers, `words` anywhere: in equal parts."""
    generator = random.Random(seed)
    prose = corpus.text("evaluation", characters=100_000)
    code = corpus.text("evaluation", domains=("coding",), characters=100_000)
    every = letters()

    def piece(text: str, most: int) -> str:
        start = generator.randrange(len(text) - most)
        return text[start : start + generator.randrange(1, most)]

    def pick(*choices: Any) -> str:
        return str(generator.choice(generator.choice(choices)))

    kinds: tuple[Callable[[], str], ...] = (
        lambda: piece(prose, 300),
        lambda: piece(code, 300),
        lambda: "".join(pick(SPACES, SPACES, ODD, ("word", "The")) for _ in range(generator.randrange(1, 20))),
        lambda: "".join(generator.choice(every) for _ in range(generator.randrange(1, 30))),
        lambda: "".join(pick(ODD) + pick(("", " ", "  ")) for _ in range(generator.randrange(1, 10))),
        lambda: "".join(pick(words, ODD, SPACES, [piece(prose, 20)]) for _ in range(generator.randrange(1, 10))),
    )
    for number in range(STRINGS):
        yield kinds[number % len(kinds)]()


def student_tokenizer(architecture: str, folder: Path) -> Path:
    """The folder of a student with random weights; its files are copied where the test may change them."""
    students = pytest.importorskip("students")
    pytest.importorskip("transformers", reason="transformers is not installed")
    shutil.copytree(students.random_student(architecture), folder)
    return folder


def disagreements(folder: Path, *, fits: Callable[[str], bool] = lambda text: True) -> tuple[int, list[str]]:
    """How many of the strings that fit were compared, and the first few that differ."""
    parsed = json.loads((folder / "tokenizer.json").read_text())
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    composed = (parsed["normalizer"] or {}).get("type") == "NFC"
    words = [entry["content"] for entry in parsed["added_tokens"] if "▁" not in entry["content"]]
    found = LlamaVocabulary(convert(open_checkpoint(folder), folder / "model.gguf", type="f16"))
    compared, differ = 0, []
    try:
        for raw in strings(words):
            text = unicodedata.normalize("NFC", raw) if composed else raw
            if not fits(text):
                continue
            compared += 1
            expected, got = reference.encode(text).ids, found.encode(text)
            if expected != got and len(differ) < 3:
                differ.append(f"{text!r}: {expected} and not {got}")
    finally:
        found.close()
    return compared, differ


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "llama-tied", "qwen2", "qwen3", "gemma3"])
def test_tokens_are_the_checkpoints(architecture: str, tmp_path: Path) -> None:
    compared, differ = disagreements(student_tokenizer(architecture, tmp_path / "student"))
    assert not differ
    assert compared == STRINGS


def test_sentencepiece_with_a_space_before_every_part(tmp_path: Path) -> None:
    """Llama 2 as published: the normalizer adds the space, after special tokens too."""
    folder = student_tokenizer("llama-spm", tmp_path / "student")
    parsed = json.loads((folder / "tokenizer.json").read_text())
    prepend = {"type": "Prepend", "prepend": "▁"}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    parsed |= {"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": [prepend, replace]}}
    (folder / "tokenizer.json").write_text(json.dumps(parsed))
    compared, differ = disagreements(folder)
    assert not differ
    assert compared == STRINGS
    assert not read_vocabulary(open_checkpoint(folder), 2048).notes


def test_sentencepiece_as_transformers_5_saves_it(tmp_path: Path) -> None:
    """Its Metaspace differs from SentencePiece in two places, which the file's notes name."""
    folder = student_tokenizer("llama-spm", tmp_path / "student")
    parsed = json.loads((folder / "tokenizer.json").read_text())
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    (folder / "tokenizer.json").write_text(json.dumps(parsed | {"normalizer": None, "pre_tokenizer": metaspace}))

    def told(text: str) -> bool:
        return text.startswith(" ") or any(word in text for word in ("<s>", "</s>", "<unk>"))

    compared, differ = disagreements(folder, fits=lambda text: not told(text))
    assert not differ
    assert compared > STRINGS / 2
    notes = read_vocabulary(open_checkpoint(folder), 2048).notes
    assert notes == (
        "a text that begins with a space gets another one in front",
        "after a special token inside a text a space is added",
    )


def test_sentencepiece_with_mixed_runs(tmp_path: Path) -> None:
    """The list that transformers makes from Gemma's scores: user-defined runs all score 0 and stand mixed by length."""
    generate_merges = pytest.importorskip("transformers.tokenization_utils_base").generate_merges
    folder = student_tokenizer("gemma3", tmp_path / "student")
    parsed = json.loads((folder / "tokenizer.json").read_text())
    vocab = parsed["model"]["vocab"]
    words = {entry["content"] for entry in parsed["added_tokens"]}
    scores = {piece: 0.0 if piece in words else -float(number) for piece, number in vocab.items()}
    specials = {entry["content"] for entry in parsed["added_tokens"] if entry["special"]}
    parsed["model"]["merges"] = [list(pair) for pair in generate_merges(vocab, scores, specials)]
    made = [left + right for left, right in parsed["model"]["merges"]]
    assert [len(piece) for piece in made if not piece.strip("▁")] == [4, 4, 3, 4, 3, 2]
    (folder / "tokenizer.json").write_text(json.dumps(parsed))
    compared, differ = disagreements(folder)
    assert not differ
    assert compared == STRINGS


def test_text_comes_back(tmp_path: Path) -> None:
    """Also from a piece that merging never makes, whose text was rewritten to stay out of the way."""
    for architecture in ("gemma3", "qwen3"):
        folder = student_tokenizer(architecture, tmp_path / architecture)
        found = LlamaVocabulary(convert(open_checkpoint(folder), tmp_path / f"{architecture}.gguf"))
        reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        try:
            for text in ("def  f(x):\n    return x\n", "naïve 你好 😀", "a \t b"):
                assert found.decode([token for token in found.encode(text) if token > 2]) == text
            for token, number in reference.get_vocab().items():
                if not token.strip("▁"):
                    assert found.decode([number]) == " " * len(token)
        finally:
            found.close()
