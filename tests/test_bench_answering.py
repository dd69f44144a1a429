"""A bank put to a model: what counts as right, what is kept of a run that is killed, and a student that has learned."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bench_fakes import RUNTIME
from bench_fakes import artifact as fake_artifact
from onnx_models import write_model
from students import tiny_student

from edgekit import open_artifact
from edgekit.bench import answer, answering
from edgekit.checkpoint import open_checkpoint
from edgekit.corpus import Bank, Item
from edgekit.corpus.prompts import Prompt
from edgekit.errors import EdgekitError, ExitCode
from edgekit.quantize.convert import convert
from edgekit.quantize.llama_quantize import quantize_gguf
from edgekit.records import Answer, Answers, Artifact, Response, Runtime, Settings
from edgekit.runtimes import ChoiceScore, Generated, Question, Reply, Weigh, WorkerDied
from edgekit.storage import from_json, to_json

CAPITALS = {"Kenya": "Nairobi", "Ghana": "Accra", "Peru": "Lima", "Chad": "N'Djamena"}


def choice(item: str, answer: str, choices: Sequence[str], **changes: Any) -> Item:
    made = Item(
        id=item, domain="factual", template="capital", prompt=f"Q {item}:", answer=answer, choices=tuple(choices)
    )
    return replace(made, **changes)


def words(item: str, answer: str) -> Item:
    return Item(id=item, domain="coding", template="value", prompt=f"W {item}:", answer=answer, mode="generate")


def bank(*items: Item, name: str = "own.jsonl") -> Bank:
    return Bank(name=name, items=items)


Replies = Callable[[Question], Reply]


def asking(reply: Replies, asked: list[Question] | None = None, *, runtime: Runtime = RUNTIME) -> Any:
    """Stands in for `open_answerer`: one that answers with `reply` and notes what it was asked."""

    @contextmanager
    def open_answerer(path: Path, settings: Settings) -> Iterator[Any]:
        def ask(questions: Sequence[Question]) -> Iterator[Reply]:
            for question in questions:
                if asked is not None:
                    asked.append(question)
                yield reply(question)

        yield SimpleNamespace(ask=ask, runtime=runtime, findings=(), settings=settings)

    return open_answerer


def scores(*nats: float, bytes: Sequence[int] = (), broken: bool = False) -> tuple[ChoiceScore, ...]:  # noqa: A002
    sizes = bytes or [4] * len(nats)
    return tuple(
        ChoiceScore(nats=one, tokens=1, bytes=size, broken=broken) for one, size in zip(nats, sizes, strict=True)
    )


def said(text: str) -> Generated:
    return Generated(text=text, tokens=len(text.split()), stopped=True)


def ask(items: Sequence[Item], reply: Replies, **options: Any) -> Answers:
    return answer(fake_artifact(), bank(*items), open_answerer=asking(reply), **options)


# ---- what counts as right -----------------------------------------------------------------------------------------


def test_the_likeliest_choice_a_byte_is_picked() -> None:
    """A sum would take the short one."""
    item = choice("1", "a much longer answer", ("no", "a much longer answer"))
    made = ask([item], lambda _: scores(-4, -12, bytes=(2, 20)))
    (one,) = made.answers
    assert (one.correct, one.picked, one.chance, one.mode) == (True, "a much longer answer", 0.5, "choice")
    assert one.margin_nats == -8
    assert (one.item, one.domain, one.template) == ("1", "factual", "capital")


def test_of_equals_the_first_is_picked() -> None:
    item = choice("1", "b", ("a", "b"))
    assert ask([item], lambda _: scores(-1, -1)).answers[0].picked == "a"


def test_choices_follow_the_prompt_after_a_space() -> None:
    asked: list[Question] = []
    item = choice("1", "b", ("a", "b"))
    answer(fake_artifact(), bank(item), open_answerer=asking(lambda _: scores(-2, -1), asked))
    assert asked == [Weigh(prompt="Q 1:", continuations=(" a", " b"))]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (" 42", True),
        ("42.", True),
        ("  forty  two ", False),
        ("", False),
        ("42 or 43", False),
        ("420", False),
    ],
)
def test_own_words_must_be_the_answer(text: str, right: bool) -> None:
    made = ask([words("1", "42")], lambda _: said(text)).answers[0]
    assert (made.correct, made.picked, made.margin_nats, made.chance) == (right, text.strip(), None, 0.0)


def test_spaces_case_and_a_final_period_do_not_matter() -> None:
    assert ask([words("1", "Dar es  Salaam")], lambda _: said(" dar ES Salaam. ")).answers[0].correct
    assert not ask([words("1", "1.5")], lambda _: said("15")).answers[0].correct


def test_own_words_end_with_the_line_and_soon_after_the_answer() -> None:
    asked: list[Any] = []
    answer(fake_artifact(), bank(words("1", "otter")), open_answerer=asking(lambda _: said("x"), asked))
    assert asked[0].stop == ("\n",)
    assert 6 <= asked[0].max_tokens <= 20


def test_answers_come_in_the_banks_order_and_prompts_are_responded_to() -> None:
    items = [choice("z", "a", ("a", "b")), words("m", "x"), choice("a", "a", ("a", "b"))]
    prompt = Prompt(id="p1", domain="factual", prompt="Tell of okapi.", max_tokens=20)
    asked: list[Question] = []

    def reply(question: Question) -> Reply:
        return scores(-1, -2) if isinstance(question, Weigh) else said(" it said\nthis")

    made = answer(fake_artifact(), bank(*items), prompts=[prompt], open_answerer=asking(reply, asked))
    assert [one.item for one in made.answers] == ["z", "m", "a"]
    assert [(one.prompt, one.text, one.stopped) for one in made.responses] == [("p1", " it said\nthis", True)]
    # side by side where they begin alike
    assert [question.prompt for question in asked if not hasattr(question, "text")] == [
        "Q a:",
        "Q z:",
        "Tell of okapi.",
        "W m:",
    ]
    assert from_json(to_json(made), Answers, origin="test") == made


def test_logits_that_are_no_numbers_answer_wrongly() -> None:
    items = [choice("1", "a", ("a", "b")), choice("2", "a", ("a", "b"))]
    bad = scores(float("-inf"), float("-inf"), broken=True)
    made = ask(items, lambda question: bad if question.prompt == "Q 1:" else scores(-1, -2))  # type: ignore[union-attr]
    assert [(one.correct, one.picked, one.margin_nats) for one in made.answers] == [(False, "", None), (True, "a", 1)]
    (finding,) = made.findings
    assert finding.code == "broken-logits"
    assert "1 of 2" in finding.message
    to_json(made)


def test_the_record_says_what_was_asked_and_how() -> None:
    items = [choice("1", "a", ("a", "b"))]
    made = ask(items, lambda _: scores(-1, -2), settings=Settings(kv_type="q8_0"), threads=3)
    assert made.bank == "own.jsonl"
    assert made.artifact_sha256 == "11" * 32
    assert made.settings is not None
    assert (made.settings.kv_type, made.settings.threads) == ("q8_0", 3)
    assert made.settings.context_tokens == 512
    renamed = answer(fake_artifact(), bank(*items, name="other"), open_answerer=asking(lambda _: scores(-1, -2)))
    other = ask([replace(items[0], prompt="Q 1?")], lambda _: scores(-1, -2))
    assert renamed.bank_sha256 == made.bank_sha256 != other.bank_sha256
    assert made.bank_sha256 != bank(*items).sha256


def test_a_stand_in_is_told() -> None:
    artifact = fake_artifact()
    artifact = replace(artifact, header=replace(artifact.header, stand_in=True))
    made = answer(artifact, bank(choice("1", "a", ("a", "b"))), open_answerer=asking(lambda _: scores(-1, -2)))
    assert made.stand_in
    assert [finding.code for finding in made.findings] == ["stand-in-quality"]


def test_nothing_and_the_same_twice_are_refused() -> None:
    with pytest.raises(EdgekitError, match="nothing is asked"):
        ask([], lambda _: scores(-1))
    twice = choice("1", "a", ("a", "b"))
    with pytest.raises(EdgekitError, match="same id"):
        ask([twice, replace(twice, prompt="another")], lambda _: scores(-1, -2))


def test_progress_tells_how_many_are_right() -> None:
    seen: list[tuple[float, float, str]] = []
    items = [choice(str(at), "a", ("a", "b")) for at in range(3)]
    ask(items, lambda _: scores(-1, -2), progress=lambda _, done, total, detail="": seen.append((done, total, detail)))
    assert seen == [(0, 3, "loading"), (1, 3, "1 of 1 right"), (2, 3, "2 of 2 right"), (3, 3, "3 of 3 right")]


# ---- a run that is killed -----------------------------------------------------------------------------------------

ITEMS = tuple(choice(f"{at:03}", "a", ("a", "b")) for at in range(80))


def killed(after: int) -> Replies:
    asked = 0

    def reply(question: Question) -> Reply:
        nonlocal asked
        asked += 1
        if asked > after:
            raise KeyboardInterrupt
        return scores(-1 - asked, -2)

    return reply


def test_a_killed_run_goes_on_where_it_stood(tmp_path: Path) -> None:
    journal = tmp_path / "deep" / "teacher.json.partial"
    with pytest.raises(KeyboardInterrupt):
        ask(ITEMS, killed(70), resume=journal)
    kept = journal.read_text().splitlines()
    assert len(kept) == 1 + 64  # two commands' worth
    asked: list[Question] = []
    made = answer(fake_artifact(), bank(*ITEMS), resume=journal, open_answerer=asking(lambda _: scores(-1, -2), asked))
    assert len(asked) == 16
    assert len(made.answers) == 80
    assert [one.correct for one in made.answers[:64]] == [True] + [False] * 63  # as the first run had it
    again: list[Question] = []
    assert (
        answer(fake_artifact(), bank(*ITEMS), resume=journal, open_answerer=asking(killed(0), again)).answers
        == made.answers
    )
    assert again == []


def test_a_line_cut_short_is_asked_again(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    first = ask(ITEMS, lambda _: scores(-1, -2), resume=journal)
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-30])
    asked: list[Question] = []
    second = answer(
        fake_artifact(), bank(*ITEMS), resume=journal, open_answerer=asking(lambda _: scores(-1, -2), asked)
    )
    assert second.answers == first.answers
    assert len(asked) == 16  # a command is asked whole: what its answers follow from stays the same
    assert all(json.loads(line) for line in journal.read_text().splitlines())


@pytest.mark.parametrize("what", ["bank", "artifact", "settings", "prompts", "prompt_tokens", "runtime", "edgekit"])
def test_another_run_is_not_gone_on_with(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "journal"
    prompt = Prompt(id="q", domain="factual", prompt="Tell.", max_tokens=3)
    ask(
        ITEMS,
        lambda question: scores(-1, -2) if isinstance(question, Weigh) else said("x"),
        resume=journal,
        prompts=[prompt],
    )
    before = journal.read_bytes()
    artifact, items = fake_artifact(), ITEMS
    options: dict[str, Any] = {"prompts": [prompt]}
    runtime = replace(RUNTIME, build="b2") if what == "runtime" else RUNTIME
    if what == "bank":
        items = ITEMS[:-1]
    if what == "artifact":
        artifact = replace(artifact, sha256="22" * 32)
    if what == "settings":
        options["settings"] = Settings(kv_type="q4_0")
    if what == "prompts":
        options["prompts"] = [replace(prompt, id="p")]
    if what == "prompt_tokens":
        options["prompts"] = [replace(prompt, max_tokens=4)]
    if what == "edgekit":
        monkeypatch.setattr(answering, "__version__", "999")
    opener = asking(lambda _: scores(-1, -2), runtime=runtime)
    with pytest.raises(EdgekitError, match="another model, bank, build or settings") as caught:
        answer(artifact, bank(*items), resume=journal, open_answerer=opener, **options)
    assert caught.value.code == ExitCode.USAGE
    assert "delete it" in caught.value.hint
    assert journal.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"a user's notes", b"a user's notes\n", b"[1]\n", b"\xff\xfe\n", b'{"kind": "quality"}\n']
)
def test_another_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    journal = tmp_path / "notes"
    journal.write_bytes(content)
    with pytest.raises(EdgekitError, match="not a journal"):
        ask(ITEMS, lambda _: scores(-1, -2), resume=journal)
    assert journal.read_bytes() == content


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    ask(ITEMS, lambda _: scores(-1, -2), resume=journal)
    lines = journal.read_bytes().split(b"\n")
    lines[5] = lines[5].replace(b"true", b"maybe")
    journal.write_bytes(b"\n".join(lines))
    with pytest.raises(EdgekitError, match="journal:6"):
        ask(ITEMS, lambda _: scores(-1, -2), resume=journal)


def test_more_threads_are_the_same_run(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    first = ask(ITEMS, lambda _: scores(-1, -2), resume=journal)
    opener = asking(killed(0), runtime=replace(RUNTIME, threads=7))
    again = answer(fake_artifact(), bank(*ITEMS), resume=journal, open_answerer=opener, threads=7)
    assert again.answers == first.answers


@pytest.mark.parametrize(
    "changed",
    [
        {"domain": "coding"},
        {"template": "another"},
        {"chance": 0.01},
        {"mode": "generate"},
        {"item": "unknown"},
        {"picked": "c"},
        {"picked": "b"},
    ],
)
def test_a_kept_answer_must_be_to_its_question(tmp_path: Path, changed: dict[str, Any]) -> None:
    journal = tmp_path / "journal"
    ask(ITEMS, lambda _: scores(-1, -2), resume=journal)
    lines = journal.read_bytes().splitlines(keepends=True)
    right = from_json(lines[1], Answer, origin="test")
    assert (right.picked, right.correct) == ("a", True)
    lines[1] = to_json(replace(right, **changed), indent=None).encode() + b"\n"
    journal.write_bytes(b"".join(lines))
    with pytest.raises(EdgekitError, match="is to another question"):
        ask(ITEMS, lambda _: scores(-1, -2), resume=journal)


def test_a_kept_response_does_not_stand_for_an_answer(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    ask(ITEMS, lambda _: scores(-1, -2), resume=journal)
    for prompt in (ITEMS[0].id, "unknown"):
        lines = journal.read_bytes().splitlines(keepends=True)
        response = Response(prompt=prompt, text="x", tokens=1, stopped=True)
        journal.write_bytes(lines[0] + to_json(response, indent=None).encode() + b"\n")
        with pytest.raises(EdgekitError, match=f"kept for `{prompt}` is to another question"):
            ask(ITEMS, lambda _: scores(-1, -2), resume=journal)


def test_two_runs_do_not_share_a_journal(tmp_path: Path) -> None:
    journal = tmp_path / "journal"

    def meanwhile(question: Question) -> Reply:
        with pytest.raises(EdgekitError, match="another run is keeping its answers there") as caught:
            ask(ITEMS, lambda _: scores(-1, -2), resume=journal)
        assert caught.value.code == ExitCode.USAGE
        return scores(-1, -2)

    assert len(ask(ITEMS[:1], meanwhile, resume=journal).answers) == 1
    assert len(journal.read_bytes().splitlines()) == 2


@pytest.mark.parametrize("size", [1, 20, 60, 100])
def test_a_journal_cut_within_its_first_line_is_empty(tmp_path: Path, size: int) -> None:
    journal = tmp_path / "journal"
    first = ask(ITEMS, lambda _: scores(-1, -2), resume=journal)
    whole = journal.read_bytes()
    journal.write_bytes(whole[:size])
    assert b"\n" not in whole[:size]
    assert ask(ITEMS, lambda _: scores(-1, -2), resume=journal).answers == first.answers
    assert journal.read_bytes() == whole


def test_a_pipe_is_no_journal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EdgekitError, match="not a journal"):
        ask(ITEMS, lambda _: scores(-1, -2), resume=tmp_path / "pipe")


def test_a_journal_needs_to_know_the_file(tmp_path: Path) -> None:
    nameless = replace(fake_artifact(), sha256="")
    with pytest.raises(EdgekitError, match="hash"):
        answer(nameless, bank(*ITEMS), resume=tmp_path / "j", open_answerer=asking(lambda _: scores(-1, -2)))


# ---- a student ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("student")
    return open_artifact(convert(open_checkpoint(tiny_student("qwen3")), folder / "full-f16.gguf", type="f16"))


SETTINGS = Settings(repack=False)


def own_bank() -> Bank:
    """What the student saw a thousand times: how words of its training text go on."""
    lines = [
        ("The capital of Kenya is", "Nairobi", "qqqzzz"),
        ("import", "os", "xqzj"),
        ("Every pupil learns", "that", "}}}}"),
    ]
    items = [
        Item(id=f"c{at}", domain="factual", template="t", prompt=prompt, answer=right, choices=(wrong, right))
        for at, (prompt, right, wrong) in enumerate(lines)
    ]
    return bank(*items, words("w", "no such answer"))


def test_a_student_prefers_what_it_has_learned(full: Artifact) -> None:
    made = answer(full, own_bank(), settings=SETTINGS, threads=2)
    assert [one.correct for one in made.answers] == [True, True, True, False]
    assert all((one.margin_nats or 0) > 2 for one in made.answers[:3])
    assert made.artifact_sha256 == full.sha256
    assert made.runtime is not None
    assert made.runtime.name == "llama.cpp"
    assert made.host is not None
    coarse = open_artifact(
        quantize_gguf(Path(full.path), Path(full.path).with_name("student-q2_k.gguf"), "q2_k", threads=2, force=True)
    )
    other = answer(coarse, own_bank(), settings=SETTINGS, threads=2)
    assert other.bank_sha256 == made.bank_sha256
    assert [one.margin_nats for one in other.answers[:3]] != [one.margin_nats for one in made.answers[:3]]


def test_the_same_again_gives_the_same(full: Artifact, tmp_path: Path) -> None:
    first, second = (answer(full, own_bank(), settings=SETTINGS, threads=2).answers for _ in range(2))
    assert first == second


def test_a_question_longer_than_the_model_reads_is_bad_input(full: Artifact) -> None:
    long = choice("1", "a", ("a", "b"), prompt="one two " * 3000)
    with pytest.raises(WorkerDied, match="more than the context") as caught:
        answer(full, bank(long), settings=replace(SETTINGS, context_tokens=512), threads=2)
    assert caught.value.code == ExitCode.USAGE


def test_an_onnx_folder_answers(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'edgekit[onnx]'")
    artifact = open_artifact(write_model(tmp_path / "model"))
    item = choice("1", "an ox", ("an ox", "it"), prompt="the ranger saw")
    made = answer(artifact, bank(item, words("w", "x")), threads=1)
    assert made.runtime is not None
    assert made.runtime.name == "onnxruntime"
    assert len(made.answers) == 2
    assert answering.RULE
