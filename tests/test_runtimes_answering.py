"""Questions answered in a fenced process: right likelihoods and texts come out, and nothing else does."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx_models import make_weights, reference_logits, write_model
from students import tiny_student

from edgekit.checkpoint import open_checkpoint
from edgekit.errors import EdgekitError, ExitCode
from edgekit.quantize.convert import convert
from edgekit.records import Settings
from edgekit.runtimes import (
    Answerer,
    ChoiceScore,
    Generated,
    Reply,
    Roll,
    Weigh,
    WorkerDied,
    Write,
    answering,
    llamacpp,
    open_answerer,
)
from edgekit.runtimes.answering_packs import Lines, weigh_together

# without repacking, as in this process, where broken AMX kernels would take the tests down
SETTINGS = Settings(context_tokens=256, batch_tokens=256, ubatch_tokens=64, threads=2, repack=False)
PROMPT = "Question: what is the capital of Kenya? Answer:"
CHOICES = ("Nairobi", "Lagos", "Dar es Salaam", "the sea")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answering")
    return convert(open_checkpoint(tiny_student("qwen3")), folder / "student-f16.gguf", type="f16")


@pytest.fixture(scope="module")
def sliding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five layers out of six see 64 tokens back."""
    folder = tmp_path_factory.mktemp("sliding")
    return convert(open_checkpoint(tiny_student("gemma3")), folder / "sliding-f16.gguf", type="f16")


@contextmanager
def in_process(path: Path, settings: Settings = SETTINGS) -> Iterator[llamacpp.Session]:
    session = llamacpp.open_session(path, settings)
    try:
        yield session
    finally:
        session.close()


def log_likelihoods(session: llamacpp.Session, tokens: list[int]) -> np.ndarray:
    """Of every token but the first, evaluated as one text."""
    session.reset()
    logits = session.feed(tokens, want="all").astype(np.float64)
    top = logits.max(axis=1, keepdims=True)
    said = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return said[np.arange(len(tokens) - 1), tokens[1:]]


def opened(session: llamacpp.Session, text: str) -> list[int]:
    tokens = session.tokenize(text)
    return tokens if session.first_token is None else [session.first_token, *tokens]


def ask(path: Path, *questions: object, settings: Settings = SETTINGS) -> list[Reply]:
    with open_answerer(path, settings) as answerer:
        return list(answerer.ask(questions))  # type: ignore[arg-type]


# ---- likelihoods --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["student", "sliding"])
def test_choices_cost_what_the_whole_line_says(model: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(model)
    with open_answerer(path, SETTINGS) as answerer:
        scores = answerer.choices(PROMPT, CHOICES)
        assert answerer.runtime.name == "llama.cpp"
        assert "rlimits" in answerer.runtime.isolation
    with in_process(path) as session:
        prompt = opened(session, PROMPT)
        for choice, score in zip(CHOICES, scores, strict=True):
            line = opened(session, f"{PROMPT} {choice}")
            assert line[: len(prompt)] == prompt
            expected = log_likelihoods(session, line)[len(prompt) - 1 :]
            assert score.tokens == len(line) - len(prompt)
            assert score.bytes == len(choice)
            assert score.nats == pytest.approx(expected.sum(), rel=2e-3, abs=2e-2)
            assert not score.broken
    assert scores[2].tokens > 1


def test_prompts_that_begin_alike_are_not_read_twice_and_answered_the_same(student: Path) -> None:
    prompts = [f"The ranger counted {count} okapi at the ford. How many? Answer:" for count in (7, 71, 8)]
    questions = [Weigh(prompt=prompt, continuations=(" 7", " 71", " eight")) for prompt in prompts]
    together = ask(student, *questions)
    alone = [ask(student, question)[0] for question in questions]
    for some, others in zip(together, alone, strict=True):
        assert isinstance(some, tuple)
        assert isinstance(others, tuple)
        assert [one.nats for one in some] == pytest.approx([one.nats for one in others], rel=2e-3, abs=1e-2)


def test_what_an_answer_follows_from_does_not_depend_on_earlier_commands(
    student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "BATCH", 2)
    questions = [Weigh(prompt=f"{PROMPT[:9]} {n}", continuations=(" a", " b c")) for n in range(4)]
    assert ask(student, *questions)[2:] == ask(student, *questions[2:])


def test_a_token_across_the_seam_is_weighed_from_where_it_begins(student: Path) -> None:
    """`the` is one token: after `th` a continuation `e` changes the prompt's own last token."""
    prompt, tails = "Look for the otter in th", ("e old reeds", "ere, and wait", "ick old reeds")
    (scores,) = ask(student, Weigh(prompt=prompt, continuations=tails))
    assert isinstance(scores, tuple)
    with in_process(student) as session:
        lines = [opened(session, prompt + tail) for tail in tails]
        before = opened(session, prompt)
        assert any(line[: len(before)] != before for line in lines)
        shared = min(
            next(at for at, (a, b) in enumerate(zip(line, before, strict=False)) if a != b)
            for line in lines
            if line[: len(before)] != before
        )
        for line, score in zip(lines, scores, strict=True):
            assert score.tokens == len(line) - shared
            assert score.nats == pytest.approx(log_likelihoods(session, line)[shared - 1 :].sum(), rel=2e-3, abs=2e-2)


def test_greedy_is_what_the_model_would_write(student: Path) -> None:
    with open_answerer(student, SETTINGS) as answerer:
        written = answerer.generate(PROMPT, max_tokens=3)
        likeliest, other = answerer.ask(
            [Weigh(prompt=PROMPT, continuations=(written.text, " zebra crossing"))]
        ).__next__()  # type: ignore[misc]
    assert likeliest.greedy
    assert not other.greedy


@pytest.mark.parametrize("model", ["student", "sliding"])
def test_rolling_reads_a_text_longer_than_the_context(model: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(model)
    settings = replace(SETTINGS, context_tokens=256)
    text = "The ranger counted seven okapi at the ford, and three of them were calves. " * 30
    (score,) = ask(path, Roll(text=text), settings=settings)
    assert isinstance(score, tuple)
    with in_process(path, settings) as session:
        plain = session.tokenize(text)
        tokens = [session.first_token if session.first_token is not None else session.opener, *plain]
        expected, room = 0.0, session.context_tokens
        assert len(plain) > 2 * room
        for begin in range(0, len(plain), room):
            end = min(begin + room, len(plain))
            opening = begin if end - begin == room else end - room
            window = tokens[opening : end + 1]
            # the last token is never fed
            expected += _window(session, window)[begin - opening :].sum()
    assert score[0].tokens == len(plain)
    assert score[0].nats == pytest.approx(expected, rel=2e-3)


def _window(session: llamacpp.Session, tokens: list[int]) -> np.ndarray:
    session.reset()
    logits = session.feed(tokens[:-1], want="all").astype(np.float64)
    top = logits.max(axis=1, keepdims=True)
    said = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return said[np.arange(len(tokens) - 1), tokens[1:]]


def test_what_is_too_long_is_refused_or_cut(student: Path) -> None:
    long = "one two three " * 200
    with pytest.raises(WorkerDied, match="more than the context of 256") as caught:
        ask(student, Weigh(prompt=long, continuations=(" four", " five six")))
    assert (caught.value.finding.code, caught.value.code) == ("text-rejected", ExitCode.USAGE)
    assert "context" in caught.value.hint
    with pytest.raises(WorkerDied, match="more than the context of 256"):
        ask(student, Write(prompt=long, max_tokens=4))
    (scores,) = ask(student, Weigh(prompt=long, continuations=(" four", " five six"), cut=True))
    assert isinstance(scores, tuple)
    with in_process(student) as session:
        line = opened(session, f"{long} five six")[-257:]
        tail = scores[1].tokens
        assert scores[1].nats == pytest.approx(_window(session, line)[-tail:].sum(), rel=2e-3, abs=2e-2)
    with pytest.raises(WorkerDied, match="does not fit"):
        ask(student, Weigh(prompt="x", continuations=(f" {long}",), cut=True))


@pytest.mark.parametrize(
    "question",
    [
        Weigh(prompt="x", continuations=()),
        Weigh(prompt="x", continuations=(" a", "")),
        Write(prompt="x", max_tokens=0),
        Write(prompt="x", max_tokens=3, stop=("",)),
        Roll(text=""),
    ],
)
def test_what_asks_nothing_is_refused(student: Path, question: object) -> None:
    with pytest.raises(EdgekitError):
        ask(student, question)


def test_nothing_in_front_is_no_prompt(student: Path) -> None:
    """After an end of text, as lm-evaluation-harness asks it."""
    (scores,) = ask(student, Weigh(prompt="", continuations=("The ranger",)))
    assert isinstance(scores, tuple)
    with in_process(student) as session:
        assert session.first_token is None
        line = [session.opener, *session.tokenize("The ranger")]
        assert scores[0].nats == pytest.approx(log_likelihoods(session, line).sum(), rel=2e-3, abs=2e-2)


# ---- many at once -------------------------------------------------------------------------------------------------


def one_by_one(monkeypatch: pytest.MonkeyPatch, path: Path, *questions: object) -> list[Reply]:
    with monkeypatch.context() as patch:
        patch.setattr(answering, "SEQUENCES", 1)
        return ask(path, *questions)


def alike(some: list[Reply], others: list[Reply]) -> None:
    for one, other in zip(some, others, strict=True):
        assert isinstance(one, tuple)
        assert isinstance(other, tuple)
        assert [score.tokens for score in one] == [score.tokens for score in other]
        assert [score.nats for score in one] == pytest.approx([score.nats for score in other], rel=3e-3, abs=2e-2)


@pytest.mark.parametrize("model", ["student", "sliding"])
def test_many_at_once_cost_what_they_cost_alone(
    model: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More tokens, rows and texts than one batch takes, and a longer one that is weighed for itself."""
    path = request.getfixturevalue(model)
    questions = [
        Weigh(
            prompt=f"Quiz: a ranger saw {number} otters, {number + 3} hyenas and a boat. Which first? Answer:",
            continuations=tuple(
                f" {word} of {number}" for word in ("otters", "hyenas", "a boat", "nothing")[: 2 + number % 3]
            ),
        )
        for number in range(24)
    ]
    long = Weigh(prompt="The river is long. " * 8, continuations=tuple(f" {n} and {n}" for n in range(70)))
    questions.insert(5, long)
    alike(ask(path, *questions), one_by_one(monkeypatch, path, *questions))


def test_what_all_begin_with_is_read_once(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = "Question: what is the capital of Peru? Answer: Lima\n" * 3
    questions = [
        Weigh(
            prompt=f"{examples}Question: what is {number} + 1? Answer:", continuations=(" one", " seven", f" {number}")
        )
        for number in range(9)
    ]
    alike(ask(student, *questions), one_by_one(monkeypatch, student, *questions))
    session = llamacpp.open_session(student, replace(SETTINGS, output_rows=128), sequences=8)
    fed: list[int] = []
    feed = session.feed_tree
    monkeypatch.setattr(session, "feed_tree", lambda nodes: fed.append(len(nodes)) or feed(nodes), raising=False)
    try:
        lines = [
            Lines(
                [session.tokenize(question.prompt + tail) for tail in question.continuations],
                len(session.tokenize(question.prompt)),
            )
            for question in questions
        ]
        costs = list(weigh_together(session, lines, 128))
    finally:
        session.close()
    assert len(costs) == 9
    shared = len(session_tokens(lines))
    assert shared >= 30
    assert sum(fed) == sum(one.tokens for one in lines) - 8 * shared


def session_tokens(lines: list[Lines]) -> list[int]:
    """What all begin with, but for the last token of what each shares."""
    first = lines[0].wholes[0]
    most = min(one.shared for one in lines) - 1
    return first[: next((at for at in range(most) if any(one.wholes[0][at] != first[at] for one in lines)), most)]


# ---- texts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["student", "sliding"])
def test_the_likeliest_token_is_written_each_time(model: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(model)
    with open_answerer(path, SETTINGS) as answerer:
        written = answerer.generate("The otter lives in", max_tokens=90)
    with in_process(path) as session:
        tokens = opened(session, "The otter lives in")
        row, made = session.feed(tokens)[0], []
        while len(made) < 90 and not session.ends(int(row.argmax())):
            made.append(int(row.argmax()))
            row = session.feed([made[-1]])[0]
        text = session.text_of(made).decode("utf-8", "replace")
    assert written.text == text
    assert written.tokens == len(made)
    assert written.stopped == (len(made) < 90)


def test_stop_words_end_a_text_and_are_no_part_of_it(student: Path) -> None:
    with open_answerer(student, SETTINGS) as answerer:
        free = answerer.generate(PROMPT, max_tokens=24)
        middle = free.text[len(free.text) // 2]
        cut = answerer.generate(PROMPT, max_tokens=24, stop=("never written", middle))
    assert cut.text == free.text[: free.text.index(middle)]
    assert cut.stopped
    assert cut.tokens < free.tokens


def test_a_model_that_stops_by_itself(student: Path, tmp_path: Path) -> None:
    """With its own first token as the end of text, it says nothing."""
    from gguf import GGUFReader

    with in_process(student) as session:
        first = int(session.feed(opened(session, PROMPT))[0].argmax())
    data = bytearray(student.read_bytes())
    field = GGUFReader(student).fields["tokenizer.ggml.eos_token_id"]
    at = field.offset + sum(int(part.nbytes) for part in field.parts[:-1])
    data[at : at + 4] = first.to_bytes(4, "little")
    other = tmp_path / "ends.gguf"
    other.write_bytes(data)
    with open_answerer(other, SETTINGS) as answerer:
        assert answerer.generate(PROMPT, max_tokens=24) == Generated(text="", tokens=0, stopped=True)


def test_a_full_context_ends_a_text(student: Path) -> None:
    settings = replace(SETTINGS, context_tokens=256)
    prompt = "one two three four five six seven " * 30
    with in_process(student, settings) as session:
        tokens = opened(session, prompt)[:250]
        prompt = session.text_of(tokens).decode()
        room = session.context_tokens - len(opened(session, prompt))
    with open_answerer(student, settings) as answerer:
        written = answerer.generate(prompt, max_tokens=100)
    assert room < 100
    assert written.tokens == room + 1 or written.stopped


def test_logits_that_are_no_numbers_answer_nothing(student: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    sick = tmp_path / "sick.gguf"
    sick.write_bytes(student.read_bytes())
    tensor = next(tensor for tensor in GGUFReader(student).tensors if tensor.name == "output_norm.weight")
    with sick.open("r+b") as file:
        file.seek(tensor.data_offset)
        file.write(np.full(4, 3e38, np.float32).tobytes())  # finite, and no product with it is
    with open_answerer(sick, SETTINGS) as answerer:
        scores = answerer.choices(PROMPT, CHOICES)
        written = answerer.generate(PROMPT, max_tokens=4)
    assert all(score.broken and score.nats == -math.inf and not score.greedy for score in scores)
    assert written == Generated(text="", tokens=0, stopped=False, broken=True)


# ---- the other runtime --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_an_onnx_folder_answers_by_its_weights(tmp_path: Path, shared: bool) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'edgekit[onnx]'")
    folder = write_model(tmp_path / "model", shared=shared)
    settings = Settings(context_tokens=96, batch_tokens=64, ubatch_tokens=16, threads=1)
    letters = {letter: 2 + place for place, letter in enumerate("abcdefghijklmnopqrstuvwxyz <>")}
    with open_answerer(folder, settings) as answerer:
        scores = answerer.choices("the ranger saw", ("okapi", "an ox", "it"))
        written = answerer.generate("the ranger saw", max_tokens=5)
        assert answerer.runtime.name == "onnxruntime"
    weights = make_weights()
    for choice, score in zip(("okapi", "an ox", "it"), scores, strict=True):
        line = [1, *(letters[letter] for letter in f"the ranger saw {choice}")]
        logits = reference_logits(weights, line)
        said = (
            logits
            - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
            - logits.max(1, keepdims=True)
        )
        first = 1 + len("the ranger saw")
        expected = said[np.arange(first - 1, len(line) - 1), line[first:]].sum()
        assert score.tokens == len(choice) + 1
        assert score.nats == pytest.approx(expected, rel=1e-3)
    line = [1, *(letters[letter] for letter in "the ranger saw")]
    first = int(reference_logits(weights, line)[-1].argmax())
    assert written.tokens == 5 or written.stopped
    if first in letters.values():
        assert written.text.startswith(next(letter for letter, token in letters.items() if token == first))


def test_an_onnx_model_ends_where_its_configuration_says(tmp_path: Path) -> None:
    import json

    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'edgekit[onnx]'")
    folder = write_model(tmp_path / "model")
    letters = {letter: 2 + place for place, letter in enumerate("abcdefghijklmnopqrstuvwxyz <>")}
    line = [1, *(letters[letter] for letter in "the ranger saw")]
    first = int(reference_logits(make_weights(), line)[-1].argmax())
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [first, "x", -1]}))
    settings = Settings(context_tokens=96, batch_tokens=64, ubatch_tokens=16, threads=1)
    with open_answerer(folder, settings) as answerer:
        assert answerer.generate("the ranger saw", max_tokens=5) == Generated(text="", tokens=0, stopped=True)


# ---- a process that lies ------------------------------------------------------------------------------------------

PRELUDE = """
import json, os, sys, time
out = os.fdopen(int(sys.argv[1]), "wb", buffering=0)
def say(**content): out.write(json.dumps(content).encode() + b"\\n")
def hear(): return json.loads(sys.stdin.buffer.readline())
hear(); say(type="ready", build="b", cpu_features="", isolation="")
hear(); say(type="loaded", load_ns=1, vocabulary=1024, context_tokens=64, threads=1)
hear()
def weighed(question=0, nano=(9, 9), tokens=(1, 2), greedy=(0, 1), broken=(0, 0)):
    say(type="weighed", question=question, nano=nano, tokens=tokens, greedy=greedy, broken=broken)
def written(question=1, text=(72, 105), tokens=2, stopped=1, broken=0):
    say(type="written", question=question, text=text, tokens=tokens, stopped=stopped, broken=broken)
def done(): say(type="done")
"""
ASKED = (Weigh(prompt="p", continuations=(" a", " bc")), Write(prompt="p", max_tokens=3))


@pytest.fixture
def lie(tmp_path: Path, tiny_gguf: Path) -> Callable[..., list[Reply]]:
    def run(body: str, *, timeout_s: float = 20) -> list[Reply]:
        script = tmp_path / "rogue.py"
        script.write_text(PRELUDE + textwrap.dedent(body), encoding="utf-8")
        command = [sys.executable, "-I", "-S", str(script)]
        with open_answerer(tiny_gguf, SETTINGS, command=command, timeout_s=timeout_s) as answerer:
            return list(answerer.ask(ASKED))

    return run


def test_an_honest_process_passes(lie: Callable[..., list[Reply]]) -> None:
    assert lie("weighed(); written(text=list('n\\x1b[2J\\n'.encode()) + [0xe2]); done(); hear()") == [
        (ChoiceScore(nats=-9e-9, tokens=1, bytes=1), ChoiceScore(nats=-9e-9, tokens=2, bytes=2, greedy=True)),
        Generated(text="n·[2J\n�", tokens=2, stopped=True),
    ]


@pytest.mark.parametrize(
    "body",
    [
        "weighed(question=1)",
        "weighed(nano=(9,))",
        "weighed(tokens=(1, 2, 3))",
        "weighed(tokens=(0, 2))",
        "weighed(tokens=(1, 2000))",
        "weighed(nano=(9, 3 * 10**13))",
        "weighed(nano=(9, -1))",
        "weighed(nano=(9, 0.5))",
        "weighed(greedy=(2, 0))",
        "weighed(broken=(1, 0))",
        "written(question=0)",
        "done()",
        "weighed(); written(question=0)",
        "weighed(); written(tokens=4)",
        "weighed(); written(text=(256,))",
        "weighed(); written(text=[65] * 70_000)",
        "weighed(); written(tokens=0)",
        "weighed(); written(stopped=2)",
        "weighed(); written(); weighed()",
        "weighed(); done()",
    ],
)
def test_lies_are_not_believed(lie: Callable[..., list[Reply]], body: str) -> None:
    with pytest.raises(WorkerDied) as caught:
        lie(body + "; time.sleep(20)")
    assert caught.value.finding.code == "worker-protocol"
    assert caught.value.code == ExitCode.BROKE


def test_silence_ends_in_a_time_out(lie: Callable[..., list[Reply]]) -> None:
    with pytest.raises(WorkerDied) as caught:
        lie("weighed(); time.sleep(60)", timeout_s=2)
    assert caught.value.finding.code == "worker-timeout"
    assert "question 2 of 2" in caught.value.message


def test_an_answerer_is_gone_after_its_block(tiny_gguf: Path) -> None:
    with open_answerer(tiny_gguf, SETTINGS) as answerer:
        assert isinstance(answerer, Answerer)
        child = answerer._child.process
    assert child.poll() is not None
