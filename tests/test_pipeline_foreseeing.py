"""What `bench --dry-run` says of quality: each part, who has to run for it, and that it is counted once."""

from __future__ import annotations

from pathlib import Path

import pytest
from quality_records import answers

from edgekit import corpus, pipeline
from edgekit.bench import PRESETS, save_reference
from edgekit.corpus.bank import Bank
from edgekit.pipeline import open_artifact
from edgekit.pipeline.asking import Asked, Prepared, Tasks, Text, prepare
from edgekit.pipeline.foreseeing import foresee_quality
from edgekit.records import Settings
from edgekit.runtimes import llamacpp

BANDWIDTH = 20e9


@pytest.fixture(scope="module")
def text() -> Text:
    return Text(content=corpus.text("evaluation", characters=20_000), origin="a text")


def test_the_chunks_lie_in_the_range(tiny_gguf: Path, text: Text) -> None:
    found = foresee_quality(tiny_gguf, Prepared(asked=Asked(text=text, context_tokens=64)), BANDWIDTH)
    (line,) = found.lines
    fewest, most = (int(word) for word in line.split() if word.isdecimal() and word != "64")
    session = llamacpp.open_session(tiny_gguf, Settings(context_tokens=64, batch_tokens=64, threads=1, repack=False))
    chunks = len(session.tokenize(text.content)) // 64
    session.close()
    assert fewest <= chunks <= most <= 5 * fewest
    assert line.endswith("chunks of 64 tokens of a text")
    assert 0 < found.low_s < found.high_s


def test_a_reference_that_runs_costs_what_a_saved_one_does_not(tiny_gguf: Path, text: Text, tmp_path: Path) -> None:
    asked = Asked(text=text, context_tokens=64, chunks=4)
    alone = foresee_quality(tiny_gguf, Prepared(asked=asked), BANDWIDTH)
    live = foresee_quality(
        tiny_gguf, prepare(Asked(text=text, context_tokens=64, chunks=4, reference=tiny_gguf)), BANDWIDTH
    )
    assert alone.lines == ("score 4 chunks of 64 tokens of a text",)
    assert live.lines == (f"score 4 chunks of 64 tokens of a text beside {tiny_gguf.name}",)
    assert live.high_s == pytest.approx(2 * alone.high_s)

    kept = tmp_path / "kept.ref"
    save_reference(open_artifact(tiny_gguf), text.content, kept, context_tokens=64, chunks=3, threads=2)
    saved = foresee_quality(tiny_gguf, prepare(Asked(text=text, context_tokens=64, reference=kept)), BANDWIDTH)
    assert saved.lines == ("score 3 chunks of 64 tokens of a text beside kept.ref",)
    assert saved.high_s < alone.high_s


def test_a_teacher_that_runs_costs_what_saved_answers_do_not(tiny_gguf: Path) -> None:
    bank = corpus.task_bank(items=20)
    prompts = len(corpus.open_prompts()) + len(corpus.identity_prompts())
    asked = Asked(tasks=Tasks(items=20))
    both = foresee_quality(tiny_gguf, Prepared(asked=asked, bank=bank, teacher=tiny_gguf), BANDWIDTH)
    assert both.lines == (f"ask 20 questions and {prompts} prompts of the model and of {tiny_gguf.name}",)
    kept = answers(1, "teacher", "0" * 64)
    saved = foresee_quality(tiny_gguf, Prepared(asked=asked, bank=bank, teacher=kept), BANDWIDTH)
    assert saved.lines == (f"ask 20 questions and {prompts} prompts of the model",)
    assert both.high_s == pytest.approx(2 * saved.high_s)
    more = Prepared(asked=asked, bank=Bank(name="own", items=corpus.task_bank(items=200).items))
    assert foresee_quality(tiny_gguf, more, BANDWIDTH).high_s > saved.high_s


def test_devices_judged_alike_count_it_once(tiny_gguf: Path, text: Text) -> None:
    prepared, devices = Prepared(asked=Asked(text=text, chunks=4)), ("smartphone", "tablet")
    plain, asked = (
        pipeline.plan(tiny_gguf, devices, workload=PRESETS["quick"], prepared=one) for one in (None, prepared)
    )
    assert [len(intent.quality) for intent in plain] == [0, 0]
    assert [intent.quality for intent in asked] == [("score 4 chunks of 512 tokens of a text",), ()]
    (apart,) = pipeline.plan(tiny_gguf, ["tablet"], workload=PRESETS["quick"], prepared=prepared)
    assert len(apart.quality) == 1
