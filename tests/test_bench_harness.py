"""lm-evaluation-harness on a tiny student, offline: it finds what we find, and its tasks are strangers' work."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from students import tiny_student

from edgekit import corpus, open_artifact
from edgekit.bench.answering import answer
from edgekit.bench.harness import run_harness
from edgekit.bench.harness_figures import figure_of
from edgekit.bench.harness_tasks import check_tasks
from edgekit.checkpoint import open_checkpoint
from edgekit.corpus import Bank
from edgekit.errors import EdgekitError
from edgekit.quantize.convert import convert
from edgekit.records import Artifact, Estimate, HarnessRun, HarnessScore, Settings, Unknown
from edgekit.runtimes import ChoiceScore, Generated, open_answerer
from edgekit.storage import from_json, to_json

SETTINGS = Settings(context_tokens=512, repack=False)
TASKS = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
  cache_dir: {cache}
test_split: test
output_type: {kind}
doc_to_text: "{{{{prompt}}}}"
target_delimiter: " "
{rest}
metadata:
  version: 2.0
"""
CHOICE = """
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - metric: acc
  - metric: acc_norm
"""
WRITING = """
doc_to_target: answer
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 24
metric_list:
  - metric: exact_match
    ignore_case: true
"""
READING = """
doc_to_target: "{{prompt}}"
metric_list:
  - metric: byte_perplexity
"""


@pytest.fixture(scope="module")
def extra() -> Any:
    return pytest.importorskip("lm_eval", reason="edgekit[eval] is not installed")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("student")
    return open_artifact(convert(open_checkpoint(tiny_student("qwen3")), folder / "student-f16.gguf", type="f16"))


@pytest.fixture(scope="module")
def bank() -> Bank:
    choices = [item for item in corpus.task_bank(items=200).items if item.mode == "choice"]
    own_words = [replace(item, mode="generate", choices=()) for item in choices[48:60]]
    return Bank(name="test", version=1, items=(*choices[:48], *own_words))


@pytest.fixture(scope="module")
def folder(bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bank as tasks of the harness."""
    folder = tmp_path_factory.mktemp("tasks")
    modes = {"picking": "choice", "writing": "generate", "reading": "choice"}
    kinds = {"picking": "multiple_choice", "writing": "generate_until", "reading": "loglikelihood_rolling"}
    for name, rest in (("picking", CHOICE), ("writing", WRITING), ("reading", READING)):
        rows = [
            {
                "prompt": item.prompt,
                "answer": item.answer,
                "choices": list(item.choices),
                "gold": item.choices.index(item.answer) if item.choices else 0,
            }
            for item in bank.items
            if item.mode == modes[name]
        ]
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        text = TASKS.format(name=f"edgekit_{name}", data=data, cache=folder / "cache", kind=kinds[name], rest=rest)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(extra: Any, artifact: Artifact, folder: Path) -> HarnessRun:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        names = ("edgekit_picking", "edgekit_writing", "edgekit_reading")
        return run_harness(artifact, names, include_path=folder, settings=SETTINGS, threads=2)


def score(run: HarnessRun, task: str, metric: str) -> HarnessScore:
    return next(one for one in run.scores if (one.task, one.metric) == (task, metric))


def value(one: HarnessScore) -> float:
    assert isinstance(one.value, Estimate), one
    assert one.value.low < one.value.value < one.value.high
    return one.value.value


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the harness and its libraries warn of themselves
def test_the_harness_finds_what_our_own_scoring_finds(run: HarnessRun, artifact: Artifact, bank: Bank) -> None:
    ours = answer(artifact, bank, settings=SETTINGS, threads=2)
    chosen = [one for one in ours.answers if one.mode == "choice"]
    written = [one for one in ours.answers if one.mode == "generate"]
    assert 0 < sum(one.correct for one in chosen) < len(chosen) == 48
    assert value(score(run, "edgekit_picking", "acc_norm")) == sum(one.correct for one in chosen) / len(chosen)
    exact = score(run, "edgekit_writing", "exact_match")
    assert exact.items == len(written) == 12
    assert isinstance(exact.value, Estimate)
    assert exact.value.value <= sum(one.correct for one in written) / len(written)  # ours also forgives spaces
    assert from_json(to_json(run), HarnessRun, origin="test") == run


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_every_answer_is_the_answerers_own(extra: Any, run: HarnessRun, artifact: Artifact, bank: Bank) -> None:
    model = importlib.import_module("edgekit.bench.harness_model").EdgekitLM
    items = [item for item in bank.items if item.mode == "choice"][:6]
    asked = [SimpleNamespace(args=(item.prompt, f" {choice}")) for item in items for choice in item.choices]
    with open_answerer(Path(artifact.path), SETTINGS) as answerer:
        weighed = model(answerer).loglikelihood(asked)
        expected = [score for item in items for score in answerer.choices(item.prompt, item.choices)]
        assert [nats for nats, _ in weighed] == pytest.approx([one.nats for one in expected], rel=1e-3)
        assert all(nats < 0 for nats, _ in weighed)
        write = SimpleNamespace(args=(items[0].prompt, {"until": "\n", "max_gen_toks": 9, "do_sample": False}))
        texts = model(answerer).generate_until([write])
        assert texts == [answerer.generate(items[0].prompt, max_tokens=9, stop=("\n",)).text]
        # the likeliest continuation is known to be greedy
        likeliest = SimpleNamespace(args=(items[0].prompt, texts[0]))
        assert model(answerer).loglikelihood([likeliest])[0][1] is True
        rolled = [answerer.rolling(item.prompt) for item in bank.items if item.mode == "choice"]
    nats = sum(one.nats for one in rolled)
    read = score(run, "edgekit_reading", "byte_perplexity")
    assert value(read) == pytest.approx(math.exp(-nats / sum(one.bytes for one in rolled)), rel=1e-3)


def harness_reference(folder: Path) -> Any:
    """The student in torch, asked as the harness's own adapters ask: its `TemplateLM` cuts and encodes the requests."""
    import torch
    from lm_eval.api.model import TemplateLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    class Reference(TemplateLM):
        def __init__(self) -> None:
            super().__init__()
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

        @property
        def eot_token_id(self) -> int:
            # what opens a text: the GGUF names it as its beginning-of-text
            return int(self.tokenizer.convert_tokens_to_ids("<|endoftext|>"))

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
            return list(self.tokenizer.encode(string, add_special_tokens=False))

        def _loglikelihood_tokens(self, requests: Any, **options: Any) -> list[tuple[float, bool]]:
            found = []
            for _, context, continuation in requests:
                with torch.no_grad():
                    logits = self.model(torch.tensor([[*context, *continuation][:-1]])).logits[0]
                rows = logits[-len(continuation) :].double().log_softmax(-1)
                targets = torch.tensor(continuation)
                nats = float(rows.gather(1, targets[:, None]).sum())
                found.append((nats, bool((rows.argmax(-1) == targets).all())))
            return found

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return [
                self._loglikelihood_tokens([(None, [self.eot_token_id], self.tok_encode(request.args[0]))])[0][0]
                for request in requests
            ]

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            raise NotImplementedError

    return Reference()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_harnesss_own_way_of_asking_gives_the_same_nats(extra: Any, artifact: Artifact, bank: Bank) -> None:
    pairs = [(item.prompt, f" {choice}") for item in bank.items for choice in item.choices][:80]
    pairs += [("", " The otter dives."), ("A space behind ", "the otter"), ("x = ", "[1, 2]\n")]
    asked = [SimpleNamespace(args=pair) for pair in pairs]
    texts = [SimpleNamespace(args=(item.prompt,)) for item in bank.items[:12]]
    reference = harness_reference(tiny_student("qwen3"))
    model_type = importlib.import_module("edgekit.bench.harness_model").EdgekitLM
    with open_answerer(Path(artifact.path), SETTINGS) as answerer:
        model = model_type(answerer)
        ours, rolled = model.loglikelihood(asked), model.loglikelihood_rolling(texts)
    theirs = reference.loglikelihood(asked, disable_tqdm=True)
    assert [nats for nats, _ in ours] == pytest.approx([nats for nats, _ in theirs], abs=0.05)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert rolled == pytest.approx(reference.loglikelihood_rolling(texts), abs=0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_circumstances_are_recorded(run: HarnessRun, artifact: Artifact) -> None:
    assert run.harness_version.startswith("lm_eval 0.")
    assert (run.model, run.artifact_sha256) == (Path(artifact.path).name, artifact.sha256)
    assert run.settings is not None
    assert run.settings.threads == 2
    assert run.runtime is not None
    assert run.host is not None
    one = score(run, "edgekit_picking", "acc")
    assert (one.items, one.fewshot, one.version, one.higher_is_better) == (48, 0, "2.0", True)


class Fake:
    """Answers without a model."""

    findings = ()
    runtime = None

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def ask(self, questions: Any) -> Iterator[Any]:
        for question in questions:
            if hasattr(question, "max_tokens"):
                yield Generated(text="7", tokens=1, stopped=True, broken=self.broken)
            else:
                count = len(getattr(question, "continuations", ("",)))
                nats = float("-inf") if self.broken else -1.0
                yield (ChoiceScore(nats=nats, tokens=1, bytes=1, broken=self.broken),) * count


@contextmanager
def fake(path: Path, settings: Settings) -> Iterator[Any]:
    yield Fake()


@contextmanager
def broken(path: Path, settings: Settings) -> Iterator[Any]:
    yield Fake(broken=True)


@pytest.mark.filterwarnings("default")
def test_a_broken_artifact_has_no_scores(extra: Any, artifact: Artifact, folder: Path) -> None:
    run = run_harness(artifact, ["edgekit_picking"], include_path=folder, limit=3, open_answerer=broken)
    assert run.scores
    assert all(isinstance(one.value, Unknown) and "no numbers" in one.value.reason for one in run.scores)
    assert [finding.code for finding in run.findings] == ["broken-logits"]


@pytest.mark.filterwarnings("default")
def test_the_context_is_no_longer_than_was_trained_on(extra: Any, artifact: Artifact, folder: Path) -> None:
    trained = replace(artifact, header=replace(artifact.header, context_train=300))
    run = run_harness(trained, ["edgekit_picking"], include_path=folder, limit=2, open_answerer=fake)
    assert run.settings is not None
    assert run.settings.context_tokens == 300


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("changed", ['until: ["\\n"]\n  do_sample: true', 'until: ["\\n"]\n  temperature: 0.7'])
def test_a_task_that_asks_for_sampling_is_refused(
    extra: Any, artifact: Artifact, folder: Path, tmp_path: Path, changed: str
) -> None:
    text = (folder / "writing.yaml").read_text(encoding="utf-8")
    (tmp_path / "own.yaml").write_text(text.replace('until: ["\\n"]', changed), encoding="utf-8")
    with pytest.raises(EdgekitError, match="asks for sampled text"):
        run_harness(artifact, ["edgekit_writing"], include_path=tmp_path, limit=2, open_answerer=fake)


SPRUNG = "{{ ''.__class__.__mro__[1].__subclasses__() }}"


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task: a\ndoc_to_text: !function spy.text\n", "names code to run (`!function`)"),
        ("task: a\nclass: spy.Task\n", "names code to run (`class`)"),
        ("task: a\nunsafe_code: true\n", "names code to run (`unsafe_code`)"),
        ("task: a\nmetric_list: [{metric: acc, hf_evaluate: true}]\n", "names code to run (`hf_evaluate`)"),
        ("task: a\nmetric_list: [{metric: ./spy.py}]\n", "not the harness's own (`./spy.py`)"),
        ("group: g\ntask: [{task: a, metric_list: [{metric: spy}]}]\n", "not the harness's own (`spy`)"),
        ("task: a\ninclude: _default\n", "names code to run (`class`)"),
        ("task: a\ninclude: [/etc/hostname]\n", "includes one outside of its folder"),
        ("task: a\ninclude: ../own.yaml\n", "includes one outside of its folder"),
        ("task: [\n", "is not plain YAML"),
        ("- " * 5000, "is not plain YAML"),
    ],
)
def test_a_task_files_code_is_not_run_unasked(
    extra: Any, artifact: Artifact, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "spy.py").write_text("open('sprung', 'w').close()\ntext = Task = None\n", encoding="utf-8")
    (tmp_path / "_default").write_text("class: spy.Task\n", encoding="utf-8")
    (tmp_path / "own.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(EdgekitError) as failure:
        run_harness(artifact, ["a"], include_path=tmp_path, open_answerer=fake)
    assert said in failure.value.message
    assert not Path("sprung").exists()


def test_a_small_file_of_aliases_is_no_endless_one(extra: Any, tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    (tmp_path / "own.yaml").write_text("\n".join(lines), encoding="utf-8")
    check_tasks(tmp_path)


def test_a_task_may_include_its_neighbours(extra: Any, tmp_path: Path) -> None:
    (tmp_path / "_default").write_text("metric_list: [{metric: acc}]\n", encoding="utf-8")
    (tmp_path / "own.yaml").write_text("task: a\ninclude: _default\n", encoding="utf-8")
    check_tasks(tmp_path)
    (tmp_path / "own.yaml").write_text("task: a\ninclude: own.yaml\n", encoding="utf-8")
    check_tasks(tmp_path)  # the harness itself says what a cycle is


@pytest.mark.filterwarnings("default")
def test_a_template_cannot_reach_python(extra: Any, artifact: Artifact, folder: Path, tmp_path: Path) -> None:
    text = (folder / "picking.yaml").read_text(encoding="utf-8")
    (tmp_path / "own.yaml").write_text(text.replace("{{prompt}}", SPRUNG), encoding="utf-8")
    with pytest.raises(EdgekitError, match="SecurityError"):
        run_harness(artifact, ["edgekit_picking"], include_path=tmp_path, limit=2, open_answerer=fake)
    from lm_eval import utils

    assert type(utils.env).__name__ == "Environment"  # and the harness is as it was


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("tasks", "options", "said"),
    [
        ([], {}, "needs tasks"),
        (["edgekit_picking"], {"limit": 0}, "at least one item"),
        (["edgekit_picking"], {"include_path": Path("/nowhere")}, "1 to 2000 YAML files, not 0"),
    ],
)
def test_what_cannot_run_is_refused(
    extra: Any, artifact: Artifact, tasks: list[str], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(EdgekitError, match=said):
        run_harness(artifact, tasks, open_answerer=fake, **options)


def test_without_the_extra_it_says_what_to_install(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(EdgekitError) as failure:
        run_harness(artifact, ["arc_easy"])
    assert failure.value.hint == "pip install 'edgekit[eval]'"


def test_a_share_has_wilsons_range_and_a_mean_its_items() -> None:
    share = figure_of(1.0, [1.0] * 40, 0.0)
    assert isinstance(share, Estimate)
    assert share.value == share.high == 1
    assert 0.92 < share.low < 0.95
    mean = figure_of(0.5, [0.25, 0.75] * 20, "N/A")
    assert isinstance(mean, Estimate)
    assert 0.4 < mean.low < 0.5 < mean.high < 0.6


def test_what_is_no_mean_of_its_items_has_the_harnesss_own_error_or_none() -> None:
    ratio = figure_of(12.0, ["seven"] * 20, 0.5)
    assert isinstance(ratio, Estimate)
    assert (ratio.low, ratio.high) == pytest.approx((12 - 0.82245, 12 + 0.82245))
    assert "standard error" in ratio.note
    for error in ("N/A", None, 0.0, float("nan")):
        nothing = figure_of(12.0, ["seven"] * 20, error)
        assert isinstance(nothing, Unknown)
        assert "`12`" in nothing.reason
    assert isinstance(figure_of(float("nan"), [], 0.1), Unknown)


def test_a_perplexity_has_the_range_of_the_ratio_behind_it() -> None:
    import random

    dice, held, truth = random.Random(1), 0, math.exp(1.5)
    for _ in range(300):
        lengths = [dice.randint(5, 60) for _ in range(40)]
        texts = [(-sum(dice.expovariate(1 / 1.5) for _ in range(length)), length) for length in lengths]
        value = math.exp(-sum(nats for nats, _ in texts) / sum(lengths))
        found = figure_of(value, texts, "N/A")
        assert isinstance(found, Estimate)
        held += found.low <= truth <= found.high
    assert 0.85 < held / 300 < 0.95
    bits = figure_of(1.5 / math.log(2), [(-1.5, 1), (-3.2, 2), (-1.3, 1)], None)
    assert isinstance(bits, Estimate)
    assert bits.low < bits.value < bits.high
    assert isinstance(figure_of(math.exp(1.5), [(-1.5, 1), (-3.0, 2)], None), Unknown)  # no spread is no certainty
