"""Decoders of another kind: what is handed to vLLM and made of its output, and Ray Data where it is installed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit.distill import scaling
from edgekit.distill.generating import Completion, Request, Sampling
from edgekit.distill.scaling import completion_of, ray_generate, vllm_generate
from edgekit.errors import EdgekitError

SAMPLING = Sampling(temperature=0.8, top_p=0.9)


def request(name: str) -> Request:
    return Request(id=name, prompt=f"{name}?", ids=(5, 7), most_tokens=9, stop=("\n",), seed=2**62 + len(name))


class Echo:
    """An engine that says what it was asked, after its own name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        assert all(isinstance(one.ids, tuple) and isinstance(one.stop, tuple) for one in requests)
        return [
            Completion(text=f"{self.name} {one.prompt} {sampling.top_p} {one.seed}", tokens=3, nats=-0.5, finished=True)
            for one in requests
        ]


def echoed(*names: str) -> list[Completion]:
    return Echo("echo")([request(name) for name in names], SAMPLING)


def test_without_the_extra_the_command_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr("edgekit.errors.import_module", missing)
    for made in (
        lambda: vllm_generate(Path("teacher")),
        lambda: vllm_generate(Path("teacher"), workers=4),
        lambda: ray_generate(Echo, ("echo",), workers=2),
    ):
        with pytest.raises(EdgekitError, match="a library that this needs is not installed") as failure:
            made()
        assert failure.value.hint == "pip install 'edgekit[scale]'"


class FakeVllm:
    """The part of vLLM that is used, with the names and meanings of its documentation (0.10 to 0.22): an engine that
    writes one token and the stop.
    """

    class SamplingParams(SimpleNamespace):
        pass

    class LLM:
        def __init__(self, **settings: Any) -> None:
            assert settings["generation_config"] == "vllm"  # else a folder's own top-k and penalties count
            assert settings["logprobs_mode"] == "raw_logprobs"
            assert not settings["trust_remote_code"]
            self.settings = settings

        def generate(self, prompts: list[Any], asked: list[Any], use_tqdm: bool) -> list[Any]:
            return [self._output(prompt, own) for prompt, own in zip(prompts, asked, strict=True)]

        def _output(self, prompt: Any, asked: Any) -> Any:
            text = f"{prompt['prompt_token_ids']} {asked.temperature} {asked.seed} {asked.max_tokens} {asked.stop}"
            shares = [{11: SimpleNamespace(logprob=-0.25)}, {12: SimpleNamespace(logprob=-4.0)}]
            output = SimpleNamespace(text=text, token_ids=[11, 12], logprobs=shares, finish_reason="stop")
            return SimpleNamespace(outputs=[output])


def test_vllm_is_asked_with_tokens_and_seeds_and_its_end_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "import_extra", lambda name, *, extra: FakeVllm)
    ((number, said),) = vllm_generate(Path("teacher"))(iter([(4, [request("a"), request("bb")])]), SAMPLING)
    assert number == 4
    assert [one.text for one in said] == [f"[5, 7] 0.8 {len(name)} 9 ['\\n']" for name in ("a", "bb")]
    assert {(one.tokens, one.nats, one.finished) for one in said} == {(2, -0.25, True)}
    shares = [{11: SimpleNamespace(logprob=-0.25)}, {12: SimpleNamespace(logprob=-4.0)}]
    cut = SimpleNamespace(text="x", token_ids=[11, 12], logprobs=shares, finish_reason="length")
    assert (completion_of(cut).nats, completion_of(cut).finished) == (-4.25, False)


def test_a_worker_reads_and_writes_rows_of_text() -> None:
    worker = scaling._Worker(Echo, ("echo",), SAMPLING)
    rows = {
        "batch": [3, 1],
        "requests": [scaling._to_text([request("a")]), scaling._to_text([request("b"), request("c")])],
    }
    found = worker(rows)
    assert found["batch"] == [3, 1]
    said = [[Completion(**one) for one in json.loads(text)] for text in found["said"]]
    assert said == [echoed("a"), echoed("b", "c")]


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # its own deprecations
def test_ray_data_gives_every_batch_to_an_engine() -> None:
    ray = pytest.importorskip("ray", reason="edgekit[scale] is not installed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        generate = ray_generate(Echo, ("echo",), workers=2)
        batches = {number: [request(f"{number}-{at}") for at in range(number % 3 + 1)] for number in (5, 6, 7, 8)}
        found = dict(generate(iter(batches.items()), SAMPLING))
        assert found == {number: echoed(*(one.id for one in asked)) for number, asked in batches.items()}
        assert list(generate(iter([]), SAMPLING)) == []
    finally:
        ray.shutdown()
