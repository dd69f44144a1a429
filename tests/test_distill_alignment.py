"""Which vocabularies may be held against each other: padding and tokens at the end are fine, other tokens are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import CONFIG, weights, write_checkpoint
from checkpoints import tokenizer as bare_tokenizer

from edgekit.checkpoint import Checkpoint, open_checkpoint
from edgekit.distill.alignment import align
from edgekit.errors import EdgekitError


def tokenizer() -> dict[str, Any]:
    """As the `tokenizers` library wants it."""
    made = bare_tokenizer()
    made["added_tokens"][0]["single_word"] = False
    return made


def checkpoint(folder: Path, *, rows: int = 272, tokens: dict[str, Any] | None = None) -> Checkpoint:
    config = {**CONFIG, "vocab_size": rows}
    return open_checkpoint(
        write_checkpoint(folder, config=config, tensors=weights(config), tokens=tokens or tokenizer())
    )


def refused(teacher: Checkpoint, student: Checkpoint) -> EdgekitError:
    with pytest.raises(EdgekitError) as caught:
        align(teacher, student)
    return caught.value


def test_other_padding_is_cut_off(tmp_path: Path) -> None:
    found = align(checkpoint(tmp_path / "teacher", rows=304), checkpoint(tmp_path / "student"))
    assert (found.vocabulary, found.teacher_rows, found.student_rows) == (261, 304, 272)
    assert found.common(torch.zeros(2, 3, 304)).shape == (2, 3, 261) == found.common(torch.zeros(2, 3, 272)).shape


def test_a_head_without_the_padding_counts(tmp_path: Path) -> None:
    tensors = weights()
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:264]
    short = open_checkpoint(write_checkpoint(tmp_path / "short", tensors=tensors, tokens=tokenizer()))
    assert align(short, checkpoint(tmp_path / "student")).teacher_rows == 264


def test_a_teacher_of_a_few_tokens_more(tmp_path: Path) -> None:
    more = tokenizer()
    more["added_tokens"].append({**more["added_tokens"][0], "id": 261, "content": "<think>"})
    teacher, student = checkpoint(tmp_path / "teacher", tokens=more), checkpoint(tmp_path / "student")
    found = align(teacher, student)
    assert (found.vocabulary, found.teacher_tokens, found.student_tokens) == (261, 262, 261)
    assert found.sha256 == align(student, student).sha256
    found.check_ids(torch.tensor([[0, 260]]))
    with pytest.raises(EdgekitError, match=r"outside the 261 .*`261`"):
        found.check_ids(torch.tensor([[0, 261]]))
    with pytest.raises(EdgekitError, match="`-100`"):
        found.check_ids(torch.tensor([[0, -100]]))


def test_another_token_is_named(tmp_path: Path) -> None:
    other = tokenizer()
    vocab = other["model"]["vocab"]
    vocab["Ġthx"] = vocab.pop("Ġthe")
    other["model"]["merges"].remove(["Ġ", "the"])
    error = refused(checkpoint(tmp_path / "teacher"), checkpoint(tmp_path / "student", tokens=other))
    assert "token 258 is `Ġthe` of the teacher and `Ġthx` of the student" in error.message


def test_a_missing_token_in_between_is_named(tmp_path: Path) -> None:
    other = tokenizer()
    other["added_tokens"][0]["id"] = 261
    del other["model"]["vocab"]["in"]
    other["model"]["merges"].pop()
    other["model"]["vocab"]["zz"] = 260
    error = refused(checkpoint(tmp_path / "teacher"), checkpoint(tmp_path / "student", tokens=other))
    assert "token 259 is `in` of the teacher and nothing of the student" in error.message


def test_a_vocabulary_cut_short(tmp_path: Path) -> None:
    more = tokenizer()
    more["added_tokens"] += [{**more["added_tokens"][0], "id": 261 + n, "content": f"<{n}>"} for n in range(40)]
    error = refused(checkpoint(tmp_path / "teacher", rows=304, tokens=more), checkpoint(tmp_path / "student"))
    assert "token 261 is `<0>` of the teacher and is missing" in error.message


def test_other_merges(tmp_path: Path) -> None:
    other = tokenizer()
    merges = other["model"]["merges"]
    merges[0], merges[3] = merges[3], merges[0]
    error = refused(checkpoint(tmp_path / "teacher"), checkpoint(tmp_path / "student", tokens=other))
    assert "merge 1 is `t h` of the teacher and `i n` of the student" in error.message


def test_merges_of_older_files_are_the_same(tmp_path: Path) -> None:
    older = tokenizer()
    older["model"]["merges"] = [" ".join(pair) for pair in older["model"]["merges"]]
    student = checkpoint(tmp_path / "student")
    assert align(checkpoint(tmp_path / "teacher", tokens=older), student) == align(student, student)


def test_text_cut_differently(tmp_path: Path) -> None:
    other = tokenizer()
    split = other["pre_tokenizer"]["pretokenizers"][0]
    split["pattern"]["Regex"] = split["pattern"]["Regex"].replace("[^\\r\\n\\p{L}\\p{N}]?\\p{L}+", "\\p{L}+")
    error = refused(checkpoint(tmp_path / "teacher"), checkpoint(tmp_path / "student", tokens=other))
    assert 'they cut the text "the' in error.message.replace('" the', '"the')


def test_text_changed_before_it_is_cut(tmp_path: Path) -> None:
    other = tokenizer()
    other["normalizer"] = {"type": "Lowercase"}
    assert "they cut the text" in refused(checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b", tokens=other)).message


def test_a_tokenizer_too_large_for_its_embedding(tmp_path: Path) -> None:
    error = refused(checkpoint(tmp_path / "teacher", rows=260), checkpoint(tmp_path / "student"))
    assert "last token is 260, but the embedding has 260 rows" in error.message


def test_no_tokenizer(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "teacher")
    (folder / "tokenizer.json").unlink()
    assert "has no `tokenizer.json`" in refused(open_checkpoint(folder), checkpoint(tmp_path / "student")).message


@pytest.mark.parametrize("broken", ['{"model": 3}', '{"model": {"type": "BPE", "vocab": {"a": -1}}}', "[1]", "{"])
def test_no_tokenizer_inside(tmp_path: Path, broken: str) -> None:
    folder = write_checkpoint(tmp_path / "teacher")
    (folder / "tokenizer.json").write_text(broken)
    error = refused(open_checkpoint(folder), checkpoint(tmp_path / "student"))
    assert "tokenizer.json" in error.message
    assert "\n" not in error.message
