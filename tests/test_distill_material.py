"""Training text on the disk: the windows that memory would hold, found again, and made anew where they are damaged."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="edgekit[distill] is not installed")
for module in ("accelerate", "safetensors", "transformers"):
    pytest.importorskip(module, reason="edgekit[distill] is not installed")

from students import random_student  # noqa: E402

from edgekit.checkpoint import open_checkpoint  # noqa: E402
from edgekit.corpus import task_bank  # noqa: E402
from edgekit.distill import material, own_texts, stored_windows  # noqa: E402
from edgekit.distill.material import held_out_material, training_material  # noqa: E402
from edgekit.distill.model_facts import tokenizer_of  # noqa: E402
from edgekit.distill.recipe import Data  # noqa: E402
from edgekit.errors import EdgekitError  # noqa: E402

DATA = Data(characters=60_000, questions=6, files=("mine.jsonl", "mine.txt"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows: list[dict[str, str]] = [{"prompt": f"What is {n} and {n}? Answer:", "answer": str(2 * n)} for n in range(90)]
    rows += [{"text": f"The {n}th heron waits at the weir until the eels come."} for n in range(90)]
    rows += [{"prompt": task_bank().items[0].prompt, "answer": "x"}]
    lines = (json.dumps(row) + "\n" for row in rows)
    (tmp_path / "mine.jsonl").write_text("".join(lines), encoding="utf-8")
    passages = (f"A note of day {n}.\nThe river rose by {n} inches.\n\n" for n in range(120))
    (tmp_path / "mine.txt").write_text("".join(passages), encoding="utf-8")
    return tmp_path


@pytest.fixture
def tokenizer() -> Any:
    return tokenizer_of(open_checkpoint(random_student("qwen3")))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """All data are large, files are read in pieces, text is cut in blocks."""
    monkeypatch.setattr(material, "STORED_CHARACTERS", 1000)
    monkeypatch.setattr(material, "BLOCK_CHARACTERS", 4000)
    monkeypatch.setattr(own_texts, "KEPT_BYTES", 100)
    monkeypatch.setattr(stored_windows, "_ROWS_AT_ONCE", 512)
    monkeypatch.setattr(stored_windows, "PART_BYTES", 4096)


def made(folder: Path, tokenizer: Any, place: Path | None, data: Data = DATA) -> Any:
    return training_material(data, folder, tokenizer, length=48, prompt_weight=0.1, seed=1, place=place)


def rows(found: Any) -> list[list[float]]:
    windows = found.windows
    return sorted(torch.cat([windows.ids.double(), windows.weights.double()], 1).tolist())


def test_windows_on_the_disk_are_those_of_memory(folder: Path, tokenizer: Any, request: pytest.FixtureRequest) -> None:
    own = replace(DATA, characters=0)
    whole = made(folder, tokenizer, folder / "windows", own)
    assert not (folder / "windows").exists(), "a small text stays in memory"
    corpus_too = len(made(folder, tokenizer, None).windows)
    request.getfixturevalue("large")
    assert len(made(folder, tokenizer, folder / "other").windows) == pytest.approx(corpus_too, rel=0.02)
    found = made(folder, tokenizer, folder / "windows", own)
    assert rows(found) == rows(whole)
    assert (found.origin, found.notes) == (whole.origin, whole.notes)
    assert "were left out" in found.notes[0]
    assert len(list((folder / "windows").iterdir())) == 1
    place = next((folder / "windows").iterdir())
    record = json.loads((place / "windows.json").read_text(encoding="utf-8"))
    assert len(record["parts"]) > 5
    assert found.sha256 == stored_windows.hash_rows(found.windows.ids, found.windows.weights)
    inputs, targets, weights = found.windows.part(found.windows.batch(0, 8, seed=1))
    assert (inputs.dtype, targets.dtype, weights.dtype) == (torch.int64, torch.int64, torch.float32)


@pytest.mark.usefixtures("large")
def test_windows_on_the_disk_are_cut_once(folder: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(folder, tokenizer, folder / "windows")
    before = rows(first)
    cut: list[str] = []
    real = material._write
    monkeypatch.setattr(material, "_write", lambda *given: cut.append("again") or real(*given))
    assert made(folder, tokenizer, folder / "windows").sha256 == first.sha256
    assert cut == []
    for name in ("ids.bin", "weights.bin"):
        path = next((folder / "windows").iterdir()) / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        again = made(folder, tokenizer, folder / "windows")
        assert again.sha256 == first.sha256
        assert rows(again) == before, "not what was damaged"
    assert cut == ["again"] * 2
    (folder / "mine.txt").write_text("Another text altogether. " * 400, encoding="utf-8")
    assert made(folder, tokenizer, folder / "windows").sha256 != first.sha256
    assert made(folder, tokenizer, folder / "windows", replace(DATA, held_out_questions=9)).sha256 != first.sha256
    assert cut == ["again"] * 3, "what is held out of the corpus changes nothing"


@pytest.mark.usefixtures("large")
def test_held_out_texts_of_large_files_are_not_learned(folder: Path, tokenizer: Any) -> None:
    learned = made(folder, tokenizer, folder / "windows")
    apart = held_out_material(DATA, folder, tokenizer, length=48, seed=1)
    seen = {line for text in map(tokenizer.decode, learned.windows.ids.tolist()) for line in text.split("\n")}
    unseen = {line for text in map(tokenizer.decode, apart.windows.ids.tolist()) for line in text.split("\n")}
    mine = {line for line in unseen if "heron" in line and line.startswith("The ") and line.endswith("come.")}
    assert mine
    assert not mine & seen


@pytest.mark.usefixtures("large")
def test_bad_lines_of_large_files_are_named(folder: Path, tokenizer: Any) -> None:
    good = (folder / "mine.jsonl").read_bytes()
    for bad, said in ((b'{"txt": "a"}\n', "unknown key `txt`"), (b"\xff\n", "not UTF-8")):
        (folder / "mine.jsonl").write_bytes(good + b"\n" + bad)
        with pytest.raises(EdgekitError, match=f"{said}: `.*mine.jsonl:183`"):
            made(folder, tokenizer, folder / "windows")
    (folder / "mine.jsonl").write_bytes(b'{"text": "%b"}' % (b"a" * 9_000_000))
    with pytest.raises(EdgekitError, match="a line is longer than"):
        made(folder, tokenizer, folder / "windows")
    assert not list((folder / "windows").glob("*")), "nothing half-written stays"


def test_what_a_small_file_says_is_read_once(folder: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = own_texts.lines_of
    monkeypatch.setattr(own_texts, "lines_of", lambda path, **said: read.append(path.name) or real(path, **said))
    own_texts.check_texts(DATA, folder)
    for length in (32, 48):
        training_material(DATA, folder, tokenizer, length=length, prompt_weight=0.1, seed=1)
    held_out_material(DATA, folder, tokenizer, length=48, seed=1)
    assert read == ["mine.jsonl"]
    (folder / "mine.jsonl").write_text('{"text": "something else"}\n', encoding="utf-8")
    own_texts.check_texts(DATA, folder)
    assert read == ["mine.jsonl"] * 2, "a changed file is another"


def test_small_files_that_are_large_together_are_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty-four of them would take gigabytes."""
    monkeypatch.setattr(own_texts, "KEPT_BYTES", max(path.stat().st_size for path in folder.iterdir()) + 1)
    own_texts._kept.cache_clear()
    own_texts.check_texts(DATA, folder)
    assert own_texts._kept.cache_info().currsize == 0
    own_texts.check_texts(replace(DATA, files=DATA.files[:1]), folder)
    assert own_texts._kept.cache_info().currsize == 1


def test_blank_lines_are_blank_in_files_from_windows(folder: Path) -> None:
    whole = [one.text for one in own_texts.own_texts(replace(DATA, files=("mine.txt",)), folder)]
    assert len(whole) == 120
    (folder / "theirs.txt").write_bytes((folder / "mine.txt").read_bytes().replace(b"\n", b"\r\n"))
    assert [one.text for one in own_texts.own_texts(replace(DATA, files=("theirs.txt",)), folder)] == whole


@pytest.mark.usefixtures("large")
def test_files_that_cannot_be_read_are_named_before_they_are_hashed(folder: Path, tokenizer: Any) -> None:
    os.mkfifo(folder / "pipe.txt")  # which would be waited for
    for name, said in (("gone.txt", "no such file or directory"), ("pipe.txt", "not a file")):
        with pytest.raises(EdgekitError, match=rf"cannot read training texts \({said}\): `.*{name}`"):
            made(folder, tokenizer, folder / "windows", replace(DATA, files=(*DATA.files, name)))
