"""Training data that a teacher writes: judged as the gate judges, the same file however it came to be, and no question
in it that evaluates.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from students import TAUGHT, random_student, task_student, task_teacher

torch = pytest.importorskip("torch", reason="edgekit[distill] is not installed")
pytest.importorskip("transformers", reason="edgekit[distill] is not installed")

from edgekit import corpus  # noqa: E402
from edgekit.corpus.item import Item, plain  # noqa: E402
from edgekit.distill import synthesis  # noqa: E402
from edgekit.distill.asking import STYLES, bare, evaluated, is_evaluated, questions_of  # noqa: E402
from edgekit.distill.chatting import chat_of  # noqa: E402
from edgekit.distill.generating import Batches, Completion, Generate, Request, Sampling, generate_from  # noqa: E402
from edgekit.distill.loading import load_model  # noqa: E402
from edgekit.distill.synthesis import (  # noqa: E402
    Synthesis,
    SynthesisReport,
    disagreements,
    read_samples,
    select,
    synthesize,
)
from edgekit.errors import EdgekitError  # noqa: E402

folder = cache(task_teacher)
"""Of a model that answers; finding it takes seconds."""

SETTINGS = Synthesis(templates=TAUGHT, each=3, samples=3, temperature=1.0, top_p=1.0, batch=12)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder() / "tokenizer.json"))


@pytest.fixture(scope="module")
def teacher() -> Any:
    return load_model(folder(), frozen=True)


@pytest.fixture(scope="module")
def written(teacher: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> SynthesisReport:
    return synthesize(teacher, tokenizer, SETTINGS, tmp_path_factory.mktemp("synthesis") / "samples.jsonl")


def scripted(answer: Callable[[Request], str | Completion], asked: list[int] | None = None) -> Generate:
    """A decoder that says what it is told to; `asked` gathers the numbers of its batches."""

    def generate(batches: Batches, sampling: Sampling) -> Iterator[tuple[int, Sequence[Completion]]]:
        for number, requests in batches:
            if asked is not None:
                asked.append(number)
            yield number, [_completion(answer(one)) for one in requests]

    return generate


def _completion(said: str | Completion) -> Completion:
    return Completion(text=said, tokens=2, nats=-1.0, finished=True) if isinstance(said, str) else said


CONFIG = SimpleNamespace(max_position_embeddings=4096)


def scripts(tokenizer: Any, settings: Synthesis, out: Path, answer: Any, **more: Any) -> SynthesisReport:
    return synthesize(CONFIG, tokenizer, settings, out, teacher_sha256="t", generate=scripted(answer), **more)


# ---- what is written -------------------------------------------------------------------------------------------------


def test_every_answer_is_judged_as_the_gate_judges(written: SynthesisReport, tokenizer: Any) -> None:
    samples = read_samples(Path(written.path))
    items = {item.id: item for item in questions_of(SETTINGS.domains, TAUGHT, 3, 1)}
    assert len(samples) == written.samples > 45
    assert {one.item for one in samples} <= set(items)
    for one in samples:
        item = items[one.item]
        assert (one.prompt, one.gold, one.domain) == (item.prompt, item.answer, item.domain)
        assert one.correct == (one.finished and plain(one.completion) == plain(item.answer))
    right = sum(bool(one.correct) for one in samples)
    assert 0.3 * len(samples) < right < len(samples)  # the teacher knows much and not all
    assert sum(domain.correct for domain in written.domains) == written.usable == right
    assert sum(domain.questions for domain in written.domains) == written.questions == len(items) == 45
    assert written.samples + written.duplicates + written.wordless == 3 * 45
    assert len({(one.prompt, plain(one.completion)) for one in samples}) == len(samples)
    assert {domain.domain for domain in written.domains} == set(corpus.DOMAINS)
    assert written.read_tokens == 3 * sum(len(tokenizer.encode(item.prompt).ids) for item in items.values())
    # of three samples, those that said the same were counted
    votes = Counter(one.agreement for one in samples)
    assert set(votes) <= {0.0, 0.3333, 0.6667, 1.0}
    assert votes[1.0] > 5


def test_a_written_file_is_not_asked_for_again(written: SynthesisReport, tokenizer: Any, teacher: Any) -> None:
    before = Path(written.path).read_bytes()
    again = synthesize(teacher, tokenizer, SETTINGS, Path(written.path))
    assert replace(again, seconds=written.seconds, generated=written.generated) == written
    assert again.generated == 0 < written.generated == written.tokens
    assert Path(written.path).read_bytes() == before


@pytest.mark.slow
def test_a_killed_teacher_goes_on_to_the_same_bytes(written: SynthesisReport, tmp_path: Path) -> None:
    """SIGKILL of the real command line in the middle of its work, and the same command again."""
    out = tmp_path / "samples.jsonl"
    command = [sys.executable, "-m", "edgekit", "synthesize", folder(), "--out", out, "--quiet", "--json"]
    command += [word for name in TAUGHT for word in ("--template", name)]
    command += ["--each", "3", "--samples", "3", "--temperature", "1", "--top-p", "1", "--batch", "12"]
    threads = str(torch.get_num_threads())
    command += ["--threads", threads]
    child = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"})
    journal = tmp_path / "samples.jsonl.journal"
    until = time.monotonic() + 120
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        assert child.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not out.exists()
    with journal.open("ab") as file:
        file.write(b'[9, [["half a li')  # what a kill in the middle of a line leaves
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert 0 < report["generated"] < report["tokens"] == written.tokens
    # the command line hashes the folder and this test the weights: the heads differ, the samples do not
    assert out.read_bytes().split(b"\n")[1:] == Path(written.path).read_bytes().split(b"\n")[1:]
    assert not journal.exists()


def test_workers_make_one_file(tokenizer: Any, tmp_path: Path) -> None:
    settings = replace(SETTINGS, samples=2)
    whole = tmp_path / "whole.jsonl"
    alone = scripts(tokenizer, settings, whole, lambda one: f"{one.seed % 3}")
    out = tmp_path / "parts.jsonl"
    parts = [scripts(tokenizer, settings, out, lambda one: f"{one.seed % 3}", shards=(which, 3)) for which in (2, 0, 1)]
    assert [Path(part.path).name for part in parts] == ["parts-3-of-3.jsonl", "parts-1-of-3.jsonl", "parts.jsonl"]
    assert parts[0].questions + parts[1].questions < alone.questions
    assert out.read_bytes() == whole.read_bytes()
    assert replace(parts[2], path="", seconds=0, generated=0) == replace(alone, path="", seconds=0, generated=0)


def test_a_broken_run_keeps_its_batches_and_asks_only_the_rest(tokenizer: Any, tmp_path: Path) -> None:
    out = tmp_path / "samples.jsonl"
    asked: list[int] = []

    def until(batch: int) -> Callable[[Request], str]:
        def answer(one: Request) -> str:
            if asked[-1] == batch:
                raise KeyboardInterrupt
            return one.id

        return answer

    def synthesize_with(answer: Any) -> SynthesisReport:
        asked.clear()
        return synthesize(CONFIG, tokenizer, SETTINGS, out, teacher_sha256="t", generate=scripted(answer, asked))

    for begin, end in ((0, 2), (2, 5)):
        with pytest.raises(KeyboardInterrupt):
            synthesize_with(until(end))
        assert asked == list(range(begin, end + 1))  # the last one was not kept
        assert not out.exists()
        with (tmp_path / "samples.jsonl.journal").open("ab") as journal:
            journal.write(b'[9, [["half a li')  # what a kill in the middle of a line leaves
    synthesize_with(lambda one: one.id)
    assert asked == list(range(5, 12))
    assert len(read_samples(out)) == 3 * 45


def test_what_was_kept_whole_needs_no_teacher(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between the last batch and the file."""

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "samples.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr(synthesis, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            scripts(tokenizer, SETTINGS, out, lambda one: one.id)
    unasked = generate_from(lambda: pytest.fail("the teacher was loaded"), tokenizer)
    report = synthesize(CONFIG, tokenizer, SETTINGS, out, teacher_sha256="t", generate=unasked)
    assert (report.generated, report.samples) == (0, 3 * 45)


# ---- judging ---------------------------------------------------------------------------------------------------------


CUT = Completion(text="y", tokens=9, nats=-1.0, finished=False)


def own(prompt: str, answer: str = "") -> Item:
    return Item(id=prompt, domain="own", template=prompt, prompt=prompt, answer=answer, mode="generate")


def test_where_nobody_knows_most_samples_must_agree(tokenizer: Any, tmp_path: Path) -> None:
    settings = Synthesis(samples=5, temperature=1.0)
    said: dict[str, list[str | Completion]] = {
        "clear": ["Teal.", "teal", " Teal", "rust", "blue"],  # three of five, however they are written
        "torn": ["a", "a", "b", "b", "c"],
        "cut": [replace(CUT, text="x"), "x", "x", "x", CUT],
        "dumb": ["", " ", "z", "z", "\0"],
    }
    turns = {prompt: iter(words) for prompt, words in said.items()}
    report = scripts(
        tokenizer,
        settings,
        tmp_path / "s.jsonl",
        lambda one: next(turns[one.prompt]),
        items=[own(name) for name in said],
    )
    samples = read_samples(tmp_path / "s.jsonl")
    assert {(one.prompt, one.completion): one.agreement for one in samples} == {
        ("clear", "Teal."): 0.6,
        ("clear", "rust"): 0.2,
        ("clear", "blue"): 0.2,
        ("torn", "a"): 0.4,
        ("torn", "b"): 0.4,
        ("torn", "c"): 0.2,
        ("cut", "x"): 0.6,
        ("cut", "y"): 0.0,
        ("dumb", "z"): 0.4,
    }
    assert sorted(one.completion for one in samples if one.usable) == ["Teal.", "x"]
    assert (report.duplicates, report.wordless, report.unfinished, report.usable) == (2 + 2 + 3 + 1, 3, 1, 2)
    assert (report.domains[0].checked, report.domains[0].agreed) == (0, 2)
    with pytest.raises(EdgekitError, match="takes 3 samples or more, not `2`"):
        scripts(tokenizer, replace(settings, samples=2), tmp_path / "few.jsonl", str, items=[own("a")])


REASONED = {
    "47 and 38 make 85. Answer: 85": True,
    "40 + 30 = 70, 7 + 8 = 15.\nanswer: 85.": True,
    "Answer: 84? No. Answer: 85": True,
    "It is 85.": False,
    "Answer: 84": False,
    "Answer: 85 or 86": False,
}


def test_reasons_are_judged_by_the_answer_they_come_to(tokenizer: Any, tmp_path: Path) -> None:
    item = replace(own("What is 47 + 38? Answer with the number only:", "85"), choices=("84", "85"))
    settings = Synthesis(styles=("rationale",), samples=len(REASONED), batch=6)
    words = iter(REASONED)
    scripts(tokenizer, settings, tmp_path / "s.jsonl", lambda one: next(words), items=[item])
    samples = {one.completion: one for one in read_samples(tmp_path / "s.jsonl")}
    assert {words: one.correct for words, one in samples.items()} == REASONED
    (prompt,) = {one.prompt for one in samples.values()}
    assert prompt == STYLES["rationale"].prompt(item)
    assert prompt.startswith("What is 47 + 38? Choose one of: 84; 85. Reason step by step")
    assert samples["It is 85."].answer == ""
    assert samples["Answer: 84? No. Answer: 85"].reasoning == "Answer: 84? No. Answer: "


# ---- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_that_evaluates_is_asked(tokenizer: Any, tmp_path: Path) -> None:
    """Neither a question of the default bank nor one of thousands more of the same split, in any wording of the ask."""
    asked = {bare(item.prompt) for item in questions_of(corpus.DOMAINS, (), 100, 1)}
    judged = {
        bare(item.prompt)
        for domain in corpus.DOMAINS
        for stream in corpus.templates("evaluation", domain, seed=1).values()
        for item in islice(stream, 100)
    }
    assert len(asked) > 7_000
    assert len(judged) > 6_000
    assert not asked & (judged | evaluated())
    # one's own questions may be test items: they are left out, however they ask for the answer
    items = corpus.task_bank(items=40).items
    theirs = tmp_path / "theirs.jsonl"
    theirs.write_text('{"prompt": "Who lives in the old lighthouse? Answer:", "answer": "nobody"}\n')
    held_out = evaluated([corpus.read_bank(theirs)])
    mine = [
        *(replace(item, id=f"mine-{item.id}", prompt=item.prompt.upper()) for item in items),
        own("Who lives in the old lighthouse? Answer with one word only:", "x"),
        own("Who lives in the new lighthouse? Answer:", "x"),
    ]
    report = scripts(tokenizer, SETTINGS, tmp_path / "s.jsonl", lambda one: "x", items=mine, held_out=held_out)
    assert (report.held_out, report.questions) == (41, 1)


def test_hostile_questions_are_bared_before_the_tests_time_out() -> None:
    """A search that went back at every space would take twenty minutes for the first, one without a limit to what may
    stand between `Answer` and its colon ten for the third.
    """
    for prompt in (" " * 200_000, "Answer" * 30_000, "Answer " * 140_000, "Answer: " * 120_000):
        assert bare(f"a{prompt}b").startswith("a")
        assert not is_evaluated(f"a{prompt}b")


def test_questions_are_spread_and_asked_once(tokenizer: Any, tmp_path: Path) -> None:
    some = questions_of(corpus.DOMAINS, (), 50, 1, most=40)
    assert Counter(item.domain for item in some) == dict.fromkeys(corpus.DOMAINS, 10)
    assert len({item.template for item in some}) == 40
    assert some == questions_of(corpus.DOMAINS, (), 50, 1, most=60)[:40]
    assert some != questions_of(corpus.DOMAINS, (), 50, 2, most=40)
    twice = [*some[:4], *(replace(item, id=f"again-{item.id}") for item in some[:4])]
    assert scripts(tokenizer, SETTINGS, tmp_path / "s.jsonl", lambda one: "x", items=twice).questions == 4


def test_questions_longer_than_the_teachers_context_are_counted(tokenizer: Any, tmp_path: Path) -> None:
    items = [own("short", "x"), own("long " * 200, "x")]
    model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=100))
    report = synthesize(
        model, tokenizer, SETTINGS, tmp_path / "s.jsonl", items=items, teacher_sha256="t", generate=scripted(str)
    )
    assert (report.questions, report.too_long) == (1, 1)
    with pytest.raises(EdgekitError, match="nothing to ask the teacher: 1 questions are too long"):
        synthesize(model, tokenizer, SETTINGS, tmp_path / "t.jsonl", items=items[1:], teacher_sha256="t")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # transformers leaves config.json open
def test_a_teacher_that_talks_in_turns_is_asked_in_them(tokenizer: Any, tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(one: Request) -> str:
        asked.append(tokenizer.decode(one.ids, skip_special_tokens=False))
        return "blue"

    turn = chat_of(folder())
    scripts(tokenizer, SETTINGS, tmp_path / "s.jsonl", answer, items=[own("Which colour?", "blue")], turn=turn)
    (one,) = read_samples(tmp_path / "s.jsonl")
    assert (one.prompt, one.correct) == ("Which colour?", True)  # the student is asked in plain text
    assert set(asked) == {turn("Which colour?")}
    assert asked[0].count("<|im_start|>user\nWhich colour?<|im_end|>\n<|im_start|>assistant\n") == 1
    copied = shutil.copytree(folder(), tmp_path / "teacher")
    for template, message in (("{{ raise_exception('no') }}", "chat template fails (no)"), ("", "no chat template")):
        config = json.loads((folder() / "tokenizer_config.json").read_text()) | {"chat_template": template}
        (copied / "tokenizer_config.json").write_text(json.dumps(config))
        with pytest.raises(EdgekitError) as failure:
            chat_of(copied)("Which colour?")
        assert message in failure.value.message


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "`samples` of a synthesis must be at least 1"),
        ({"temperature": float("nan")}, "`temperature` of a synthesis must be finite"),
        ({"temperature": -1.0}, "`temperature` of a synthesis must be at least 0"),
        ({"top_p": 1.5}, "`top_p` of a synthesis must be at most 1"),
        ({"batch": 0}, "`batch` of a synthesis must be at least 1"),
        ({"temperature": 0.0}, "at temperature 0 all of a question's samples are the same"),
        ({"styles": ()}, "a synthesis needs a style"),
        ({"styles": ("rational",)}, "unknown style of samples: `rational`"),
        ({"templates": ("capitol",)}, "no such template in factual, reasoning, coding, conservation: `capitol`"),
        ({"domains": ("history",)}, "unknown domain"),
    ],
)
def test_settings_out_of_range_are_refused(
    changes: dict[str, Any], message: str, tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(EdgekitError, match=message):
        scripts(tokenizer, replace(SETTINGS, **changes), tmp_path / "s.jsonl", str)
    assert not list(tmp_path.iterdir())


def test_files_that_are_anothers_are_left_alone(tokenizer: Any, tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    out.write_text("important\n")
    with pytest.raises(EdgekitError, match="holds something else than a teacher's samples"):
        scripts(tokenizer, SETTINGS, out, str)
    assert out.read_text() == "important\n"
    out.unlink()
    scripts(tokenizer, SETTINGS, out, lambda one: "x")
    before = out.read_bytes()
    with pytest.raises(EdgekitError, match="samples of another teacher, other questions or other settings"):
        scripts(tokenizer, replace(SETTINGS, seed=2), out, lambda one: "x")
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"notes\n", "not a journal of samples"),
        (b'{"kind": "edgekit-samples-journal", "version": 1, "key": "other"}\n', "a journal of another teacher"),
        (b'HEAD\n{"no": "batch"}\n', "the journal of samples is damaged"),
        (b'HEAD\n[0, [["x", 1, 1, true]]]\n', "damaged"),  # a likelihood that is no number of ours
        (b'HEAD\n[0, [["x", 1, -1.0, true]]]\n', "damaged"),  # fewer than the batch has
        (b"HEAD\n[7000, []]\n", "damaged"),  # no such batch
    ],
)
def test_journals_that_cannot_be_gone_on_with_are_refused(
    content: bytes, message: str, tokenizer: Any, tmp_path: Path
) -> None:
    journal = tmp_path / "s.jsonl.journal"

    def stop(one: Request) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scripts(tokenizer, SETTINGS, tmp_path / "s.jsonl", stop)
    journal.write_bytes(content.replace(b"HEAD", journal.read_bytes().split(b"\n")[0]))
    with pytest.raises(EdgekitError, match=message):
        scripts(tokenizer, SETTINGS, tmp_path / "s.jsonl", lambda one: "x")


def test_one_process_at_a_time_and_a_full_disk_say_so(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.jsonl"

    def meanwhile(one: Request) -> str:
        with pytest.raises(EdgekitError, match="another run is keeping its samples there"):
            scripts(tokenizer, SETTINGS, out, str)
        return "x"

    scripts(tokenizer, SETTINGS, out, meanwhile)
    full = Path("/dev/full")
    if full.exists():
        from edgekit.distill.sample_files import Journal

        with full.open("wb", buffering=0) as file, pytest.raises(EdgekitError, match="no space left") as failure:
            Journal(full, {}, file).keep(0, [_completion("x")])  # type: ignore[arg-type]
        assert "what was written is kept" in failure.value.hint


# ---- disagreement ----------------------------------------------------------------------------------------------------


def test_disagreement_is_what_the_student_holds_for_less_likely(
    written: SynthesisReport, teacher: Any, tokenizer: Any
) -> None:
    samples = [one for one in read_samples(Path(written.path)) if one.finished][:40]
    student, stranger = load_model(task_student(), frozen=True), load_model(random_student("qwen3"), frozen=True)
    apart = disagreements(student, tokenizer, samples, batch=7)
    assert sum(apart) / len(apart) > 0.05  # one draw each of KL(teacher ‖ student), so above nothing on the whole
    assert sum(disagreements(stranger, tokenizer, samples)) > 3 * sum(apart)
    own_words = disagreements(teacher, tokenizer, samples)
    assert sum(abs(one) < 1e-3 for one in own_words) > 0.8 * len(samples)  # others are cut into other tokens
    assert disagreements(teacher, tokenizer, samples, teacher=teacher) == pytest.approx([0.0] * len(samples), abs=1e-4)
    one = samples[3]
    ids = tokenizer.encode(f"{one.prompt} {one.completion}").ids
    begin = len(tokenizer.encode(one.prompt).ids)
    with torch.no_grad():
        likely = student(torch.tensor([ids])).logits[0].log_softmax(-1)
    ours = sum(float(likely[at - 1, ids[at]]) for at in range(begin, len(ids)))
    assert one.nats is not None
    assert apart[3] == pytest.approx((one.nats - ours) / (len(ids) - begin), abs=1e-4)
    chosen = select(samples, "disagreement-first", apart=apart, count=5)
    ranked = sorted((-far, at) for at, far in enumerate(apart) if samples[at].usable)
    assert [one.id for one in chosen] == [samples[at].id for _, at in ranked[:5]]
    with pytest.raises(EdgekitError, match="likelihood of a sample is not known"):
        disagreements(student, tokenizer, [replace(samples[0], nats=None)])
