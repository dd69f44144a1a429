"""Students and their tokenizers: formats that transformers opens, weights that have learned, one maker at a time."""

from __future__ import annotations

import json
import runpy
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from students import RECIPES, random_student, tiny_student

for module in ("torch", "transformers", "tokenizers", "sentencepiece"):
    pytest.importorskip(module, reason="edgekit[distill,quantize] is not installed")

from edgekit import corpus  # noqa: E402
from edgekit.distill import Recipe, make_student, students  # noqa: E402
from edgekit.distill import random_student as make_random  # noqa: E402
from edgekit.distill.students import RECORD, cache_dir  # noqa: E402
from edgekit.distill.tokenizing import LLAMA3_PATTERN, QWEN2_PATTERN  # noqa: E402
from edgekit.errors import EdgekitError  # noqa: E402

MICRO = replace(
    RECIPES["llama"],
    name="micro",
    hidden=64,
    layers=1,
    heads=2,
    kv_heads=1,
    head_dim=32,
    ffn=64,
    vocabulary=320,
    characters=0,
    steps=120,
    batch=4,
    length=64,
    learning_rate=1e-2,
)


def open_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # transformers leaves config.json open
        return AutoTokenizer.from_pretrained(folder)


def open_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(students, "LEARNED", 0.9)  # one thin layer in a second
    return tmp_path / "cache" / "edgekit" / "students"


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_a_tiny_student_has_learned(architecture: str) -> None:
    report = json.loads((tiny_student(architecture) / RECORD).read_text(encoding="utf-8"))
    assert 1e6 < report["parameters"] < 3e6
    assert report["held_out"]["loss"] < 0.7 * report["held_out_unigram_entropy"]
    assert report["held_out"]["top1"] > 0.25


@pytest.mark.parametrize("architecture", list(RECIPES))
def test_transformers_opens_every_architecture_and_its_norms_are_no_ones(architecture: str) -> None:
    import torch

    folder = random_student(architecture)
    model = open_model(folder)
    assert model.config.model_type == RECIPES[architecture].architecture
    for name, parameter in model.state_dict().items():
        if parameter.ndim == 1:
            assert float(parameter.min()) > 0.2, name
            assert float(parameter.max()) < 0.8, name
            assert float(parameter.std()) > 0.05, name
    with torch.no_grad():
        logits = model(torch.tensor([[5, 300, 77, 900]])).logits
    assert logits.shape == (1, 4, RECIPES[architecture].vocabulary)
    assert 0.1 < float(logits.std()) < 10


@pytest.mark.parametrize("architecture", list(RECIPES))
def test_transformers_reads_the_tokenizer_as_the_file_says(architecture: str) -> None:
    from tokenizers import Tokenizer

    folder = random_student(architecture)
    tokenizer, auto = Tokenizer.from_file(str(folder / "tokenizer.json")), open_tokenizer(folder)
    assert tokenizer.get_vocab_size() == RECIPES[architecture].vocabulary - RECIPES[architecture].spare
    text = corpus.text("evaluation", characters=8_000) + "\n\n  ünï ✓ 日本\t\t 12345 I'LL don't\r\n"
    marked = f"  {text} <|im_start|>user<|eot_id|> <think> <end_of_turn></s> <s> again"
    assert auto.encode(marked) == tokenizer.encode(marked).ids
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text
    said = auto.apply_chat_template([{"role": "user", "content": "hi there"}], tokenize=False)
    assert "hi there" in said
    assert len(said) > 15


def test_pre_tokenizers_are_the_published_ones() -> None:
    def first_step(architecture: str) -> Any:
        saved = json.loads((random_student(architecture) / "tokenizer.json").read_text(encoding="utf-8"))
        return saved["pre_tokenizer"]["pretokenizers"][0]

    assert first_step("qwen2")["pattern"] == {"Regex": QWEN2_PATTERN}
    assert first_step("llama")["pattern"] == {"Regex": LLAMA3_PATTERN}
    assert first_step("llama-tied") == {"type": "Digits", "individual_digits": True}


@pytest.mark.parametrize("architecture", ["llama-spm", "gemma3"])
def test_tokenizer_json_says_what_sentencepiece_says(architecture: str) -> None:
    import sentencepiece
    from tokenizers import Tokenizer

    folder = random_student(architecture)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    lines = [line for line in corpus.text("evaluation", characters=60_000).splitlines() if line.strip()]
    assert len(lines) > 500
    for line in lines:
        assert tokenizer.encode(line, add_special_tokens=False).ids == model.encode(line), line


def test_a_student_is_made_once(own_cache: Path) -> None:
    told: list[str] = []
    folder = make_student(MICRO, progress=lambda stage, done, total, detail="": told.append(stage))
    assert len(told) == MICRO.steps
    assert make_student(MICRO, progress=lambda *_: told.append("again")) == folder
    assert len(told) == MICRO.steps
    assert folder.parent == own_cache
    assert json.loads((folder / RECORD).read_text(encoding="utf-8"))["held_out"]["top1"] > 0.1
    assert make_student(replace(MICRO, steps=61)) != folder


def test_the_same_recipe_gives_the_same_bytes(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_student(MICRO)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    second = make_student(MICRO)
    assert first != second
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


class Killed(BaseException):
    """Nothing may catch it."""


def test_a_killed_maker_goes_on_from_its_checkpoint_to_the_same_bytes(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(stage: str, done: float, total: float, detail: str = "") -> None:
        if done == 53:
            raise Killed

    with pytest.raises(Killed):
        make_student(MICRO, progress=die)
    told: list[tuple[float, str]] = []
    folder = make_student(MICRO, progress=lambda stage, done, total, detail="": told.append((done, detail)))
    assert told[0] == (48, "from step 48")
    assert len(told) == MICRO.steps - 48 + 1
    assert {path.name for path in own_cache.iterdir() if path.suffix != ".lock"} == {folder.name}, "no checkpoint stays"
    found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    whole = make_student(MICRO)
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    same = json.loads((whole / RECORD).read_text(encoding="utf-8"))
    assert found["training_loss"] == same["training_loss"]
    assert found["training_seconds"] > 0


def test_checkpoints_of_another_version_are_left_behind(own_cache: Path) -> None:
    def die(stage: str, done: float, total: float, detail: str = "") -> None:
        if done == 30:
            raise Killed

    with pytest.raises(Killed):
        make_student(MICRO, progress=die)
    (record,) = own_cache.glob(".micro-*.training/checkpoint-00000024/rank-*.json")
    found = json.loads(record.read_text(encoding="utf-8"))
    found["key"]["start_sha256"] = "0b" * 32
    record.write_text(json.dumps(found), encoding="utf-8")
    told: list[tuple[float, str]] = []
    make_student(MICRO, progress=lambda stage, done, total, detail="": told.append((done, detail)))
    assert [done for done, _ in told] == list(range(1, MICRO.steps + 1))


def test_a_student_that_has_not_learned_is_refused_and_leaves_nothing(own_cache: Path) -> None:
    with pytest.raises(EdgekitError, match=r"did not learn: held-out loss .* nats against an entropy of .*: `micro`"):
        make_student(replace(MICRO, steps=1, learning_rate=1e-6))
    assert [path.name for path in own_cache.iterdir() if path.suffix != ".lock"] == []


def test_what_a_killed_maker_left_is_cleared(own_cache: Path) -> None:
    folder = make_random(MICRO)
    left = own_cache / f".{folder.name}.abcd.partial"
    left.mkdir()
    (folder / RECORD).unlink()
    assert make_random(MICRO) == folder
    assert not left.exists()


def test_weights_are_saved_as_asked(own_cache: Path) -> None:
    import torch

    folder = make_random(replace(MICRO, dtype="bfloat16"))
    assert {parameter.dtype for parameter in open_model(folder).parameters()} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"


def test_a_changed_corpus_is_another_student(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = students._key(MICRO)
    monkeypatch.setattr(students.corpus, "text", lambda *_, **__: "other text")
    assert students._key(MICRO) != before


def test_an_unwritable_cache_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache_dir() == tmp_path / "file" / "edgekit" / "students"
    with pytest.raises(EdgekitError, match="cannot write to the cache of students") as failure:
        make_random(MICRO)
    assert "XDG_CACHE_HOME" in failure.value.hint


def test_a_recipe_is_plain_data() -> None:
    assert isinstance(MICRO, Recipe)
    json.dumps(students.asdict(MICRO))


LARGER = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "make_students.py"))["RECIPES"]
FAMILIES = {recipe.tokenizer: architecture for architecture, recipe in RECIPES.items()}


@pytest.mark.parametrize("name", list(LARGER))
def test_the_larger_students_suit_k_quants(name: str) -> None:
    import torch
    from tokenizers import Tokenizer

    recipe = LARGER[name]
    assert recipe.name == name
    tokenizer = Tokenizer.from_file(str(random_student(FAMILIES[recipe.tokenizer]) / "tokenizer.json"))
    with torch.device("meta"):
        model = students._model(recipe, tokenizer)
    assert sum(parameter.numel() for parameter in model.parameters()) >= 10e6
    rows = {parameter.shape[-1] for parameter in model.parameters() if parameter.ndim == 2}
    assert all(row % 256 == 0 for row in rows)
    assert recipe.length >= 512


def test_the_larger_students_are_of_more_than_one_architecture() -> None:
    assert len(LARGER) >= 4
    assert len({recipe.architecture for recipe in LARGER.values()}) >= 2


def test_one_maker_at_a_time(own_cache: Path) -> None:
    folder = students.cache_dir() / f"{MICRO.name}-random-{students._key(MICRO)}"
    made: list[Path] = []
    maker = threading.Thread(target=lambda: made.append(make_random(MICRO)))
    with students._locked(folder):
        maker.start()
        maker.join(1)
        assert maker.is_alive()  # it waits for the lock
        (folder / "from-the-first-maker").mkdir(parents=True)
        (folder / RECORD).write_text("{}", encoding="utf-8")
    maker.join()
    assert made == [folder]
    assert (folder / "from-the-first-maker").is_dir()  # taken as it is, not made again
