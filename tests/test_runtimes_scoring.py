"""Two models scored in a fenced process: right sums come out, and nothing else does."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import runtimes
from edgekit.errors import EdgekitError, ExitCode
from edgekit.records import ScoredChunk, Settings
from edgekit.runtimes import llamacpp, scoring
from edgekit.runtimes.scores import score_rows
from edgekit.shapes import load_shape, vocabulary, write_stand_in

# without repacking, as in this process, where broken AMX kernels would take the tests down
SETTINGS = Settings(context_tokens=64, batch_tokens=64, ubatch_tokens=32, threads=2, repack=False)
TEXT = "The ranger counted seven okapi at the ford, and three of them were calves. " * 40
HALF = 32


@pytest.fixture(scope="module")
def other_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same vocabulary, other weights."""
    return write_stand_in(load_shape("tiny"), "q8_0", tmp_path_factory.mktemp("other") / "tiny-q8_0.gguf", seed=2)


def run_scorer(
    artifact: Path, reference: Path | None, text: str = TEXT, settings: Settings = SETTINGS, chunks: int = 0
) -> tuple[scoring.Scorer, list[ScoredChunk]]:
    with runtimes.open_scorer(artifact, reference, settings, text=text, vocabulary=1024, chunks=chunks) as scorer:
        return scorer, list(scorer.scores())


def direct(path: Path, text: str, chunk: int) -> tuple[np.ndarray, list[int]]:
    """Logits of the scored half of a chunk and what follows them, from a session in this process."""
    session = llamacpp.open_session(path, SETTINGS)
    try:
        tokens = session.tokenize(text)[64 * chunk : 64 * (chunk + 1)]
        session.feed(tokens[:HALF])
        return session.feed(tokens[HALF:], want="all")[:-1], tokens[HALF + 1 :]
    finally:
        session.close()


def test_the_sums_are_those_of_the_logits(tiny_gguf: Path, other_gguf: Path) -> None:
    scorer, chunks = run_scorer(tiny_gguf, other_gguf, chunks=3)
    assert len(chunks) == scorer.chunks == 3
    assert scorer.text_tokens > 64 * 3
    for index in (0, 2):
        logits, targets = direct(tiny_gguf, TEXT, index)
        reference, _ = direct(other_gguf, TEXT, index)
        rows = score_rows(logits, reference, targets)
        chunk = chunks[index]
        assert chunk.tokens == 31
        assert chunk.kld == pytest.approx(rows.kld.sum(), rel=1e-5)
        assert chunk.nll == pytest.approx(rows.nll.sum(), rel=1e-5)
        assert chunk.reference_nll == pytest.approx(rows.reference_nll.sum(), rel=1e-5)
        assert (chunk.top1, chunk.top5) == (rows.top1.sum(), rows.top5.sum())
        assert chunk.dp2 == pytest.approx(((rows.p - rows.p_reference) ** 2).sum(), rel=1e-4)
        assert chunk.token_kld == pytest.approx(rows.kld.tolist(), rel=1e-4)
        assert chunk.broken == 0
        assert chunk.kld_lower is None


def test_a_model_against_itself_differs_by_nothing(tiny_gguf: Path) -> None:
    _, chunks = run_scorer(tiny_gguf, tiny_gguf, chunks=2)
    assert [chunk.kld for chunk in chunks] == [0.0, 0.0]
    assert [(chunk.top1, chunk.top5, chunk.dp2) for chunk in chunks] == [(31, 31, 0.0)] * 2
    assert all(0 <= nats < 1e-6 for chunk in chunks for nats in chunk.token_kld)
    assert [len(chunk.token_kld) for chunk in chunks] == [31, 31]
    assert all(chunk.nll == chunk.reference_nll for chunk in chunks)


def test_without_a_reference_only_the_likelihood_is_told(tiny_gguf: Path, other_gguf: Path) -> None:
    scorer, chunks = run_scorer(tiny_gguf, None, chunks=2)
    _, both = run_scorer(tiny_gguf, other_gguf, chunks=2)
    assert scorer.reference_runtime is None
    assert [(chunk.kld, chunk.top1, chunk.reference_nll) for chunk in chunks] == [(None, None, None)] * 2
    assert [(chunk.top5, chunk.dp2, chunk.token_kld) for chunk in chunks] == [(None, None, ())] * 2
    assert [chunk.nll for chunk in chunks] == pytest.approx([chunk.nll for chunk in both], rel=1e-5)


def test_few_logits_at_a_time_change_nothing(
    tiny_gguf: Path, other_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = run_scorer(tiny_gguf, other_gguf, chunks=2)
    monkeypatch.setattr(scoring, "TILE_ROWS", 7)
    monkeypatch.setattr(scoring, "LOGITS_BYTES", 0)
    _, parts = run_scorer(tiny_gguf, other_gguf, chunks=2)
    # the kernels for other batch sizes round differently, and these logits are of random weights
    assert [chunk.nll for chunk in parts] == pytest.approx([chunk.nll for chunk in whole], rel=0.01)
    assert [chunk.kld for chunk in parts] == pytest.approx([chunk.kld for chunk in whole], rel=0.02)


def test_both_runtimes_are_described(tiny_gguf: Path, other_gguf: Path) -> None:
    scorer, _ = run_scorer(tiny_gguf, other_gguf, settings=dataclasses.replace(SETTINGS, repack=True), chunks=1)
    assert scorer.reference_runtime is not None
    assert scorer.runtime.name == "llama.cpp"
    assert scorer.runtime.threads == 2
    assert "rlimits" in scorer.runtime.isolation
    assert scorer.runtime.repacked_tensors
    assert scorer.runtime.flash_attention is True


def test_the_reference_keeps_a_full_cache(tiny_gguf: Path) -> None:
    _, chunks = run_scorer(tiny_gguf, tiny_gguf, settings=dataclasses.replace(SETTINGS, kv_type="q4_0"), chunks=2)
    assert all((chunk.kld or 0) > 1e-6 for chunk in chunks)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_is_told(tiny_gguf: Path) -> None:
    with runtimes.open_scorer(tiny_gguf, None, SETTINGS, text=TEXT, vocabulary=1024, chunks=1) as scorer:
        list(scorer.scores())
        peak = scorer.finish()
    assert peak is not None
    assert peak.unevictable_bytes is not None
    assert 0 < peak.unevictable_bytes < 200 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_logits_of_a_large_vocabulary_take_little_memory(tmp_path: Path) -> None:
    """Two models of 151 936 tokens, each with a vocabulary of 45 MB in llama.cpp and blocks of logits of 39 MB: all of
    that together would take 250 MB.
    """
    shape = dataclasses.replace(load_shape("tiny"), vocabulary=151_936)
    model = write_stand_in(shape, "q8_0", tmp_path / "wide.gguf", seed=1)
    wide = dataclasses.replace(SETTINGS, context_tokens=256, batch_tokens=256, ubatch_tokens=256)
    peaks = []
    for reference in (None, model):
        with runtimes.open_scorer(model, reference, wide, text=3 * TEXT, vocabulary=151_936, chunks=3) as scorer:
            assert len(list(scorer.scores())) == 3
            peak = scorer.finish()
        assert peak is not None
        assert peak.unevictable_bytes is not None
        peaks.append(peak.unevictable_bytes)
    assert peaks[0] < 90e6
    assert peaks[1] < 150e6


# ---- what cannot be scored ----------------------------------------------------------------------------------------


def rejected(artifact: Path, reference: Path | None, text: str = TEXT) -> runtimes.WorkerDied:
    with pytest.raises(runtimes.WorkerDied) as caught:
        run_scorer(artifact, reference, text)
    assert caught.value.code == ExitCode.USAGE
    assert caught.value.finding.code.endswith("-rejected")
    return caught.value


def test_a_short_text_is_refused(tiny_gguf: Path) -> None:
    death = rejected(tiny_gguf, None, "Seven okapi.")
    assert "too short" in death.message
    assert "`64`" in death.message
    assert "longer text" in death.hint


def respelled(path: Path, out: Path, old: bytes, new: bytes) -> Path:
    """The same model with a token of the same length in place of another."""
    data = path.read_bytes()
    assert len(old) == len(new)
    assert data.count(old) >= 1
    out.write_bytes(data.replace(old, new))
    return out


def test_another_vocabulary_is_refused_by_its_first_token(tiny_gguf: Path, tmp_path: Path) -> None:
    other = respelled(tiny_gguf, tmp_path / "other.gguf", b"<|fim_pad|>", b"<|fim_bad|>")
    death = rejected(tiny_gguf, other)
    assert "vocabularies differ first at token" in death.message
    assert "`<|fim_pad|>` in the artifact" in death.message
    assert "`<|fim_bad|>`" in death.message
    assert "builds of one model" in death.hint


def test_another_tokenizer_over_the_same_vocabulary_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    """The tokens are the same, but `t` and `h` no longer merge."""
    length = (3).to_bytes(8, "little")
    other = respelled(tiny_gguf, tmp_path / "other.gguf", length + b"t h", length + b"q q")
    death = rejected(tiny_gguf, other)
    assert "token 19 on: `Ġth` in the artifact, in the reference `Ġt`" in death.message
    assert "builds of one model" in death.hint


@pytest.fixture
def padded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """A stand-in with 900 real tokens, filled up with padding."""
    monkeypatch.setattr(vocabulary, "_QWEN_BASE", 874)

    def write(size: int) -> Path:
        shape = dataclasses.replace(load_shape("tiny"), vocabulary=size)
        return write_stand_in(shape, "q8_0", tmp_path / f"{size}.gguf", seed=1)

    return write


def test_padding_may_differ_in_length(padded: Callable[[int], Path]) -> None:
    """The longer one is judged on the columns both have, renormalised."""
    short, long = padded(1024), padded(1056)
    _, (chunk,) = run_scorer(long, short, chunks=1)
    logits, targets = direct(long, TEXT, 0)
    reference, _ = direct(short, TEXT, 0)
    assert logits.shape[1] == 1056
    rows = score_rows(np.ascontiguousarray(logits[:, :1024]), reference, targets)
    assert chunk.kld == pytest.approx(rows.kld.sum(), rel=1e-5)
    assert chunk.nll == pytest.approx(rows.nll.sum(), rel=1e-5)


def test_a_vocabulary_cut_short_is_refused(padded: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the longer one has beyond the shorter is real, and no padding."""
    monkeypatch.setattr(vocabulary, "_CONTROL", ())
    monkeypatch.setattr(vocabulary, "_USER_DEFINED", ())
    monkeypatch.setattr(vocabulary, "_SPECIAL", 0)
    monkeypatch.setattr(vocabulary, "_QWEN_BASE", 2000)
    message = rejected(padded(1024), padded(1056)).message
    assert "differ first at token 1024: `nothing` in the artifact" in message


@pytest.mark.parametrize(("context", "chunks"), [(0, 0), (15, 0), (64, -1), (2**17 + 1, 0)])
def test_impossible_chunks_are_refused(tiny_gguf: Path, context: int, chunks: int) -> None:
    with pytest.raises(EdgekitError, match="chunks need"):
        run_scorer(tiny_gguf, None, settings=dataclasses.replace(SETTINGS, context_tokens=context), chunks=chunks)


def test_a_truncated_model_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_gguf.read_bytes()[:100_000])
    assert rejected(tiny_gguf, cut).finding.code == "model-rejected"


def broken(path: Path, out: Path) -> Path:
    """The same model with its last norm so large that the logits overflow; the weights themselves are numbers."""
    from gguf import GGUFReader

    out.write_bytes(path.read_bytes())
    tensor = next(tensor for tensor in GGUFReader(path).tensors if tensor.name == "output_norm.weight")
    with out.open("r+b") as file:
        file.seek(tensor.data_offset)
        file.write(np.full(4, 3e38, np.float32).tobytes())
    return out


def test_logits_that_are_no_numbers_are_counted(tiny_gguf: Path, tmp_path: Path) -> None:
    sick = broken(tiny_gguf, tmp_path / "sick.gguf")
    _, (chunk,) = run_scorer(sick, tiny_gguf, chunks=1)
    assert (chunk.tokens, chunk.broken, chunk.top1, chunk.nll, chunk.kld) == (31, 31, 0, 0.0, 0.0)
    assert (chunk.top5, chunk.dp2, chunk.token_kld) == (0, 0.0, ())
    _, (alone,) = run_scorer(sick, None, chunks=1)
    assert alone.broken == 31
    assert "reference model is broken" in rejected(tiny_gguf, sick).message


# ---- a process that lies ------------------------------------------------------------------------------------------

PRELUDE = """
import json, os, sys, time
out = os.fdopen(int(sys.argv[1]), "wb", buffering=0)
def say(**content): out.write(json.dumps(content).encode() + b"\\n")
def hear(): return json.loads(sys.stdin.buffer.readline())
def up():
    models = hear()["models"]
    for _ in models: say(type="ready", build="b", cpu_features="", isolation="")
    for _ in models:
        hear(); say(type="loaded", load_ns=1, vocabulary=1024, context_tokens=64, threads=1)
    hear()
def counted(tokens=150, chunks=2): say(type="counted", tokens=tokens, chunks=chunks)
TENTH = 0x3dcccccd  # 0.1 as a float32
def scored(chunk=0, tokens=31, nll_nano=9, reference_nll_nano=9, kld_nano=9, top1=29, broken=0, top5=30, dp2_bits=TENTH,
           kld_lower_nano=9, token_kld_bits=None):
    klds = [TENTH] * (tokens - broken) if token_kld_bits is None else token_kld_bits
    say(type="scored", chunk=chunk, tokens=tokens, nll_nano=nll_nano, reference_nll_nano=reference_nll_nano,
        kld_nano=kld_nano, top1=top1, broken=broken, top5=top5, dp2_bits=dp2_bits, kld_lower_nano=kld_lower_nano,
        token_kld_bits=klds)
"""


@pytest.fixture
def lie(tmp_path: Path, tiny_gguf: Path) -> Callable[..., list[ScoredChunk]]:
    def run(body: str, *, reference: bool = True, timeout_s: float = 20, **options: Any) -> list[ScoredChunk]:
        script = tmp_path / "rogue.py"
        script.write_text(PRELUDE + textwrap.dedent(body), encoding="utf-8")
        command = [sys.executable, "-I", "-S", str(script)]
        other = tiny_gguf if reference else None
        with runtimes.open_scorer(
            tiny_gguf, other, SETTINGS, text=TEXT, vocabulary=1024, command=command, timeout_s=timeout_s, **options
        ) as scorer:
            return list(scorer.scores())

    return run


def test_an_honest_process_passes(lie: Callable[..., list[ScoredChunk]]) -> None:
    chunks = lie("up(); counted(); scored(); scored(1, broken=1); say(type='done'); hear()")
    first = ScoredChunk(
        tokens=31, nll=9e-9, reference_nll=9e-9, kld=9e-9, top1=29, top5=30, dp2=0.1, token_kld=(0.1,) * 31
    )
    assert chunks == [first, dataclasses.replace(first, broken=1, token_kld=(0.1,) * 30)]


def test_a_reference_that_estimates_has_a_lower_bound(tmp_path: Path, lie: Callable[..., list[ScoredChunk]]) -> None:
    """A file in the place of a model: one model is opened, and the file may be read."""
    stored = tmp_path / "stored"
    stored.touch()
    body = """
    start = hear()
    assert start["reference_file"] == {"path": PATH, "rows": 3}, start
    assert PATH in start["readable"]
    assert len(start["models"]) == 1
    say(type="ready", build="b", cpu_features="", isolation=""); hear()
    say(type="loaded", load_ns=1, vocabulary=1024, context_tokens=64, threads=1); hear()
    counted(chunks=1, tokens=64); scored(kld_lower_nano=7); say(type='done'); hear()
    """
    named = {"path": str(stored), "rows": 3}
    (chunk,) = lie(f"PATH = {str(stored)!r}" + textwrap.dedent(body), reference=False, reference_file=named)
    assert (chunk.kld, chunk.kld_lower, chunk.top5) == (9e-9, 7e-9, 30)


@pytest.mark.parametrize(
    "body",
    [
        "up(); counted(); scored(1)",
        "up(); counted(); scored(tokens=32)",
        "up(); counted(); scored(top1=32, top5=32)",
        "up(); counted(); scored(top1=31, top5=31, broken=1)",
        "up(); counted(); scored(top1=29, top5=28)",
        "up(); counted(); scored(top1=0, top5=0, broken=32)",
        "up(); counted(); scored(kld_nano=32 * 10**13)",
        "up(); counted(); scored(kld_lower_nano=32 * 10**13)",
        "up(); counted(); scored(kld_nano=4 * 10**9)",
        "up(); counted(); scored(dp2_bits=0x42000000)",
        "up(); counted(); scored(dp2_bits=0x7f800000)",
        "up(); counted(); scored(token_kld_bits=[TENTH] * 30)",
        "up(); counted(); scored(token_kld_bits=[TENTH] * 30 + [0x7fc00000])",
        "up(); counted(); scored(token_kld_bits=[TENTH] * 30 + [0xbdcccccd])",
        "up(); counted(); scored(token_kld_bits=[TENTH] * 30 + ['x'])",
        "up(); counted(); scored(nll_nano=-1)",
        "up(); counted(); scored(nll_nano=0.5)",
        "up(); counted(); say(type='done')",
        "up(); scored()",
        "up(); counted(); scored(); scored(0)",
        "up(); counted(chunks=9)",
    ],
)
def test_lies_are_not_believed(lie: Callable[..., list[ScoredChunk]], body: str) -> None:
    with pytest.raises(runtimes.WorkerDied) as caught:
        lie(body + "; time.sleep(20)")
    assert caught.value.finding.code == "worker-protocol"
    assert caught.value.code == ExitCode.BROKE


_NOTHING = "reference_nll_nano=0, kld_nano=0, kld_lower_nano=0, top1=0, top5=0, dp2_bits=0, token_kld_bits=[]"


@pytest.mark.parametrize(
    "said",
    [
        "",
        *(_NOTHING.replace(*change) for change in [("dp2_bits=0", "dp2_bits=1"), ("top5=0", "top5=1"), ("[]", "[0]")]),
    ],
)
def test_without_a_reference_there_is_nothing_to_diverge_from(lie: Callable[..., list[ScoredChunk]], said: str) -> None:
    with pytest.raises(runtimes.WorkerDied) as caught:
        lie(f"up(); counted(); scored({said}); time.sleep(20)", reference=False)
    assert caught.value.finding.code == "worker-protocol"


def test_silence_ends_in_a_time_out(lie: Callable[..., list[ScoredChunk]]) -> None:
    with pytest.raises(runtimes.WorkerDied) as caught:
        lie("up(); counted(); scored(); time.sleep(60)", timeout_s=2)
    assert caught.value.finding.code == "worker-timeout"
    assert "chunk 2 of 2" in caught.value.message
