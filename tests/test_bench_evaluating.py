"""`evaluate` and `compare_outputs` on students that have learned something, and the figures made of raw chunks."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bench_fakes import artifact as fake_artifact
from bench_fakes import header as fake_header
from peer_tools import peer
from students import random_student, tiny_student

from edgekit import corpus, open_artifact
from edgekit.bench import compare_outputs, evaluate
from edgekit.checkpoint import open_checkpoint
from edgekit.errors import EdgekitError, ExitCode
from edgekit.files import read_text
from edgekit.quantize.convert import convert
from edgekit.quantize.llama_quantize import quantize_gguf
from edgekit.records import Artifact, Estimate, Figure, Quality, ScoredChunk, Settings, TensorInfo, Unknown
from edgekit.runtimes import llamacpp, sandbox
from edgekit.runtimes.scores import nll_rows
from edgekit.storage import from_json, to_json

SETTINGS = Settings(repack=False)
CHUNKS = 4


@pytest.fixture(scope="module")
def text() -> str:
    return corpus.text("evaluation", characters=40_000)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("student")
    return open_artifact(convert(open_checkpoint(tiny_student("qwen3")), folder / "full-f16.gguf", type="f16"))


def quantized(full: Artifact, type: str) -> Artifact:  # noqa: A002  (as `quantize_gguf` calls it)
    path = Path(full.path)
    return open_artifact(quantize_gguf(path, path.with_name(f"student-{type}.gguf"), type, threads=2, force=True))


def value(figure: Figure) -> float:
    assert isinstance(figure, Estimate), figure
    assert figure.basis == "measured-here"
    return figure.value


def run(artifact: Artifact, reference: Artifact | None, text: str, **options: Any) -> Quality:
    options = {"context_tokens": 256, "chunks": CHUNKS, "threads": 2, "settings": SETTINGS, **options}
    return evaluate(artifact, reference, text, **options)


def test_fewer_bits_cost_more(full: Artifact, text: str) -> None:
    fine, coarse = (run(quantized(full, name), full, text, origin="corpus") for name in ("q6_k", "q2_k"))
    assert 0 < value(fine.kld_mean) < 0.01
    assert value(coarse.kld_mean) > 5 * value(fine.kld_mean)
    assert 0.8 < value(coarse.top1_agreement) < value(fine.top1_agreement) < 1
    assert value(coarse.top1_agreement) < value(coarse.top5_agreement) <= value(fine.top5_agreement)
    assert value(coarse.dp_rms) > 2 * value(fine.dp_rms) > 0
    assert 0 < value(fine.kld_median) < value(fine.kld_max) < value(coarse.kld_max)
    assert value(fine.kld_median) < value(coarse.kld_median) < value(coarse.kld_mean)
    for unsettled in (coarse.kld_p99, coarse.kld_p999):  # 508 tokens
        assert isinstance(unsettled, Unknown)
    assert value(fine.reference_perplexity) == value(coarse.reference_perplexity) > 1
    assert value(fine.perplexity) == pytest.approx(value(fine.reference_perplexity), rel=0.02)
    ratio = value(coarse.perplexity) / value(coarse.reference_perplexity)
    assert value(coarse.perplexity_ratio) == pytest.approx(ratio, rel=1e-9)
    # paired by chunk, the ratio is known far better than either perplexity
    assert isinstance(coarse.perplexity_ratio, Estimate)
    assert isinstance(coarse.perplexity, Estimate)
    width = coarse.perplexity_ratio.high / coarse.perplexity_ratio.low
    assert 1 < width < coarse.perplexity.high / coarse.perplexity.low


def test_the_record_says_what_was_compared_and_how(full: Artifact, text: str) -> None:
    small = quantized(full, "q6_k")
    told: list[tuple[str, float, float, str]] = []
    quality = run(small, full, text, origin="corpus", progress=lambda *step: told.append((*step, "")[:4]))
    assert quality.reference == "full-f16.gguf"
    assert (quality.artifact_sha256, quality.reference_sha256) == (small.sha256, full.sha256)
    assert quality.reference_form == "live"
    assert all(len(chunk.token_kld) == chunk.tokens for chunk in quality.chunks)
    assert (quality.text_origin, quality.context_tokens, len(quality.chunks)) == ("corpus", 256, CHUNKS)
    assert len(quality.text_sha256) == 64
    assert quality.text_tokens > CHUNKS * 256
    assert all(chunk.tokens == 127 for chunk in quality.chunks)
    assert quality.runtime is not None
    assert quality.reference_runtime is not None
    assert quality.runtime.build.startswith("llama.cpp ")
    assert quality.settings is not None
    assert not quality.settings.repack
    assert [finding.code for finding in quality.findings if finding.level == "note"] == ["few-chunks"]
    assert told[-1][1:3] == (CHUNKS, CHUNKS)
    assert from_json(to_json(quality), Quality, origin="test") == quality


def test_parity_takes_the_first_as_reference(full: Artifact, text: str) -> None:
    small = quantized(full, "q6_k")
    parity = compare_outputs(full, small, text, context_tokens=256, chunks=2, threads=2)
    assert (parity.a, parity.b) == ("full-f16.gguf", "student-q6_k.gguf")
    assert parity.quality.artifact_sha256 == small.sha256
    assert value(parity.quality.kld_mean) > 0


def test_without_a_reference_there_is_a_perplexity_and_the_rest_is_unknown(full: Artifact, text: str) -> None:
    quality = run(full, None, text, chunks=2)
    assert value(quality.perplexity) > 1
    for figure in (quality.kld_mean, quality.top1_agreement, quality.reference_perplexity, quality.perplexity_ratio):
        assert isinstance(figure, Unknown)
        assert "no reference" in figure.reason


def test_one_chunk_gives_no_range(full: Artifact, text: str) -> None:
    quality = run(full, None, text, chunks=1)
    assert isinstance(quality.perplexity, Unknown)
    assert "`1`" in quality.perplexity.reason
    assert quality.chunks[0].nll > 0


@pytest.mark.parametrize(
    ("words", "options", "says"),
    [
        ("", {}, "empty"),
        (" \n\t", {}, "empty"),
        ("A short text.", {}, "too short"),
        ("word \ud800" * 500, {}, "half a character"),
        ("word " * 500, {"chunks": 0}, "at least one chunk"),
        ("word " * 500, {"context_tokens": 8}, "chunks need"),
        ("word " * 50_000, {"context_tokens": 40_000}, "that `full-f16.gguf` was made for: `40000`"),
    ],
)
def test_what_cannot_be_scored(full: Artifact, words: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(EdgekitError, match=says) as caught:
        run(full, None, words, **options)
    assert caught.value.code == ExitCode.USAGE


def test_models_of_two_tokenizers_are_refused(full: Artifact, text: str, tiny_gguf: Path) -> None:
    with pytest.raises(EdgekitError, match="vocabularies differ first at token") as caught:
        run(open_artifact(tiny_gguf), full, text)
    assert caught.value.code == ExitCode.USAGE
    assert "builds of one model" in caught.value.hint


def test_every_chunk_begins_as_the_model_wants(text: str, tmp_path: Path) -> None:
    """Beginning-of-text takes the place of a chunk's first token, as in llama-perplexity."""
    path = convert(open_checkpoint(random_student("llama-spm")), tmp_path / "spm-f16.gguf", type="f16")
    quality = run(open_artifact(path), None, text, chunks=2, context_tokens=64)
    session = llamacpp.open_session(path, dataclasses.replace(SETTINGS, context_tokens=64, ubatch_tokens=64, threads=2))
    try:
        assert session.first_token is not None
        tokens = [session.first_token, *session.tokenize(text)][64:128]
        assert tokens[0] != session.first_token
        nlls = []
        for opening in (session.first_token, tokens[0]):
            session.reset()
            logits = session.feed([opening, *tokens[1:]], want=32)
            nlls.append(float(nll_rows(logits[:31], tokens[33:]).sum()))
    finally:
        session.close()
    assert quality.chunks[1].nll == pytest.approx(nlls[0], rel=1e-6)
    assert abs(nlls[0] - nlls[1]) > 1e-4 * nlls[0]


@pytest.mark.reference
@pytest.mark.parametrize("quant", ["q8_0", "q4_k_m", "q2_k"])
def test_it_agrees_with_llama_perplexity(full: Artifact, text: str, tmp_path: Path, quant: str) -> None:
    """Its base file has 16 bits, which blurs divergences by some 1e-5."""
    tool, chunks = peer("LLAMA_PERPLEXITY"), 12  # so many give every quantile that is compared a range
    small = quantized(full, quant)
    quality = run(small, full, text, chunks=chunks)
    (tmp_path / "text").write_text(text, encoding="utf-8")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tool.parent.parent / "lib")}
    common = [str(tool), "-f", "text", "-c", "256", "-t", "2", "--chunks", str(chunks), "--no-repack"]
    common += ["--kl-divergence-base", "base"]
    passes: list[list[str]] = [["-m", full.path], *[["-m", small.path, "--kl-divergence"]] * 5]
    for options in passes:  # at its exit the peer sometimes loses the last lines of its log
        done = subprocess.run(
            [*common, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
            preexec_fn=sandbox.deny_amx,
        )  # fmt: skip
        output = done.stdout + done.stderr
        if "Same top p:" in output:
            break

    def told(pattern: str) -> float:
        match = re.search(pattern, output)
        assert match, output[-1000:]
        return float(match[1])

    assert value(quality.perplexity) == pytest.approx(told(r"Mean PPL\(Q\)\s*:\s*([\d.]+)"), rel=1e-3)
    assert value(quality.reference_perplexity) == pytest.approx(told(r"Mean PPL\(base\)\s*:\s*([\d.]+)"), rel=1e-3)
    assert value(quality.kld_mean) == pytest.approx(told(r"Mean\s+KLD:\s*(-?[\d.]+)"), rel=0.01, abs=2e-5)
    assert value(quality.top1_agreement) == pytest.approx(told(r"Same top p:\s*([\d.]+)") / 100, abs=0.005)
    # half a step of the base file is what a token may lie off, and with it every quantile
    blur = 16 / 65535 / 2
    assert value(quality.kld_median) == pytest.approx(told(r"Median\s+KLD:\s*(-?[\d.]+)"), rel=0.01, abs=blur)
    assert value(quality.kld_p90) == pytest.approx(told(r"90\.0%\s+KLD:\s*([\d.]+)"), rel=0.01, abs=blur)
    assert value(quality.kld_max) == pytest.approx(told(r"Maximum KLD:\s*([\d.]+)"), rel=0.01, abs=blur)
    assert value(quality.dp_rms) == pytest.approx(told(r"RMS Δp\s*:\s*([\d.]+)") / 100, rel=0.01, abs=blur)


# ---- texts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "empty"), (b" \n", "empty"), (b"abc\xffdef", "not UTF-8 at byte 3"), ("é".encode("latin-1"), "not UTF-8")],
)
def test_texts_that_are_none(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(EdgekitError, match=says):
        read_text(path)


def test_a_text_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("é\r\n\n".encode())
    assert read_text(path) == "é\r\n\n"
    with pytest.raises(EdgekitError, match="cannot read text"):
        read_text(tmp_path / "none.txt")


# ---- findings -----------------------------------------------------------------------------------------------------


def chunk(nats: float = 200.0, **changes: Any) -> ScoredChunk:
    values = {"tokens": 100, "nll": nats, "reference_nll": 190.0, "kld": 1.0, "top1": 90, **changes}
    return ScoredChunk(**values)


class FakeScorer(SimpleNamespace):
    def scores(self) -> Iterator[ScoredChunk]:
        yield from self.given

    def finish(self) -> None:
        return None


def through(given: list[ScoredChunk], artifact: Artifact) -> Quality:
    @contextmanager
    def open_scorer(*paths: Any, **options: Any) -> Iterator[Any]:
        yield FakeScorer(
            given=given, chunks=len(given), text_tokens=999, findings=(), runtime=None, reference_runtime=None
        )

    return evaluate(artifact, artifact, "words", open_scorer=open_scorer)


def plain_artifact(**changes: Any) -> Artifact:
    """All floats, so that it may be a reference."""
    header = dataclasses.replace(fake_header(), **{"quant": "f16", "tensors": (), **changes})
    return dataclasses.replace(fake_artifact(), header=header)


def codes_of(given: list[ScoredChunk], artifact: Artifact) -> list[str]:
    return [finding.code for finding in through(given, artifact).findings]


def test_doubts_are_told() -> None:
    assert codes_of([chunk(broken=3)] * 12, plain_artifact()) == ["broken-logits"]
    assert codes_of([chunk()] * 12, plain_artifact(stand_in=True)) == ["stand-in-quality"]
    assert codes_of([chunk()] * 9, plain_artifact()) == ["few-chunks"]


def test_a_quantized_reference_is_told_and_recorded() -> None:
    assert through([chunk()] * 12, plain_artifact()).reference_quant == "f16"
    quantized = TensorInfo(name="blk.0.ffn_up.weight", type="q2_k", shape=(256, 64), size_bytes=1)
    for artifact in (plain_artifact(quant="q2_k"), plain_artifact(tensors=(quantized,))):
        assert through([chunk()] * 12, artifact).reference_quant == "q2_k"
        assert codes_of([chunk()] * 12, artifact) == ["quantized-reference"]


def test_old_records_of_quality_stay_readable() -> None:
    """As version 0.1 wrote them: four fields."""
    figure = '{"value": 1.5, "low": 1.0, "high": 2.0, "basis": "measured-here", "note": ""}'
    old = f'{{"kind": "quality", "version": 1, "reference": "f16", "perplexity": {figure}, "kld_mean": {figure}, "top1_agreement": {{"reason": "no", "settle": ""}}}}'  # noqa: E501
    quality = from_json(old, Quality, origin="test")
    assert quality.chunks == ()
    assert isinstance(quality.reference_perplexity, Unknown)
