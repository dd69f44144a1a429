"""ONNX models in onnxruntime: the session against a computation of its own, and the fenced worker around it."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_models import make_weights, reference_logits, write_model

from edgekit.errors import EdgekitError
from edgekit.header import read_header
from edgekit.memory import predict_memory
from edgekit.records import Settings
from edgekit.runtimes import WorkerDied, open_worker, ort
from edgekit.runtimes.protocol import SessionRefused, Step

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'edgekit[onnx]'")

SETTINGS = Settings(context_tokens=96, batch_tokens=64, ubatch_tokens=16, threads=1)
TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, 64, 60)]


@pytest.fixture(scope="module", params=["shared", "growing"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a cache written in place, and with one that is copied on and on."""
    return write_model(tmp_path_factory.mktemp(request.param), shared=request.param == "shared")


@pytest.fixture
def session(folder: Path) -> ort.Session:
    return ort.open_session(folder, SETTINGS)


def test_logits_are_those_of_the_weights(session: ort.Session) -> None:
    logits = session.feed(TOKENS, want="all")
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, reference_logits(make_weights(), TOKENS), rtol=1e-3, atol=1e-3)
    assert session.position == len(TOKENS)


def test_any_way_of_feeding_gives_the_same(session: ort.Session) -> None:
    whole = session.feed(TOKENS, want="all")
    session.reset()
    single = np.concatenate([session.feed([token]) for token in TOKENS])
    np.testing.assert_allclose(single, whole, rtol=1e-3, atol=1e-4)
    session.rewind(25)
    assert session.position == 25
    np.testing.assert_allclose(session.feed(TOKENS[25:], want="all"), whole[25:], rtol=1e-3, atol=1e-4)
    session.rewind(25)
    session.decode(TOKENS[25:50])
    np.testing.assert_allclose(session.feed(TOKENS[50:51]), whole[50:51], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 7, 30])
def test_only_the_last_rows(session: ort.Session, rows: int) -> None:
    whole = session.feed(TOKENS, want="all")
    session.reset()
    np.testing.assert_allclose(session.feed(TOKENS, want=rows), whole[-rows:], rtol=1e-3, atol=1e-4)
    assert session.position == len(TOKENS)
    kept = session.feed([3])
    session.rewind(len(TOKENS))
    np.testing.assert_array_equal(session.feed([3], copy=False), kept)


def test_a_rewound_branch_forgets_what_it_left(session: ort.Session) -> None:
    session.feed([5] * 40)
    session.rewind(0)
    np.testing.assert_allclose(
        session.feed(TOKENS)[0], reference_logits(make_weights(), TOKENS)[-1], rtol=1e-3, atol=1e-3
    )


def test_reserving_leaves_no_trace(session: ort.Session) -> None:
    session.reserve()
    assert session.position == 0
    logits = session.feed(TOKENS, want="all")
    np.testing.assert_allclose(logits, reference_logits(make_weights(), TOKENS), rtol=1e-3, atol=1e-3)


def test_a_full_context_takes_no_more(session: ort.Session) -> None:
    session.decode([1] * 64)
    session.decode([1] * 32)
    with pytest.raises(SessionRefused, match="context of 96 tokens cannot take `1` more"):
        session.decode([1])
    with pytest.raises(SessionRefused, match="`0` more"):
        session.feed([])


def test_a_graph_of_the_last_row_alone(tmp_path: Path) -> None:
    session = ort.open_session(write_model(tmp_path, last_only=True), SETTINGS)
    assert not session.all_rows
    wanted = reference_logits(make_weights(), TOKENS)
    np.testing.assert_allclose(session.feed(TOKENS)[0], wanted[-1], rtol=1e-3, atol=1e-3)
    session.reset()
    np.testing.assert_allclose(session.feed(TOKENS, want="all"), wanted, rtol=1e-3, atol=1e-3)


def test_text_is_read_as_plain_text(session: ort.Session) -> None:
    tokens = session.tokenize("ab <s>")
    assert 1 not in tokens
    assert [session.token_texts()[token] for token in tokens] == list("ab <s>")
    assert session.first_token == 1
    assert session.token_texts()[-1] is None  # padding


def test_the_tokenizer_decides_on_the_first_token(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    session = ort.open_session(tmp_path, SETTINGS)
    assert session.first_token is None
    session.tokenize("a")
    assert session.first_token == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kv_type": "q8_0"}, "`kv_type = q8_0`"),
        ({"flash_attention": "off"}, "`flash_attention = off`"),
        ({"mmap": False}, "`mmap = False`"),
        ({"context_tokens": 257}, "positions for 256 tokens"),
    ],
)
def test_settings_a_graph_cannot_follow(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(SessionRefused, match=reason) as refused:
        ort.open_session(write_model(tmp_path), replace(SETTINGS, **change))
    assert refused.value.stage == "context"


def test_a_graph_with_an_input_nobody_feeds(tmp_path: Path) -> None:
    import onnx

    write_model(tmp_path)
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    model.graph.input.append(onnx.helper.make_tensor_value_info("encoder_states", 1, ["b", 4]))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(SessionRefused, match="`encoder_states`"):
        ort.open_session(tmp_path, SETTINGS)


# ---- in the worker --------------------------------------------------------------------------------------------------


def test_the_worker_runs_it_fenced(folder: Path) -> None:
    with open_worker(folder, SETTINGS, timeout_s=60, seed=1) as worker:
        samples = list(worker.run(Step(test="tg8", generate=8, repetitions=2)))
        runtime = worker.runtime
    assert [len(sample.token_s) for sample in samples] == [8, 8]
    assert (runtime.name, runtime.backend, runtime.threads) == ("onnxruntime", "CPUExecutionProvider", 1)
    assert "no arena" in runtime.build
    assert runtime.version[0].isdigit()
    if sys.platform == "linux":
        assert "seccomp" in runtime.isolation


def test_a_broken_graph_is_refused_in_good_order(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.onnx").write_bytes((tmp_path / "model.onnx").read_bytes()[:200])
    with pytest.raises(WorkerDied) as died, open_worker(tmp_path, SETTINGS, timeout_s=60, seed=1):
        pass
    assert died.value.finding.code == "model-rejected"


def test_without_onnxruntime_the_hint_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.runtimes import handle

    write_model(tmp_path)
    monkeypatch.setattr(handle, "find_spec", lambda name: None)
    with pytest.raises(EdgekitError) as missing, open_worker(tmp_path, SETTINGS, timeout_s=60, seed=1):
        pass
    assert "`onnxruntime`" in missing.value.message
    assert "edgekit[onnx]" in missing.value.hint


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="memory was measured on x86-64 Linux alone"
)
def test_the_predicted_memory_holds_the_measured(tmp_path: Path) -> None:
    """Weights of 27 MB, so that a forgotten part would show."""
    folder = write_model(tmp_path, make_weights(vocabulary=4096, ffn=2048, hidden=512))
    settings = Settings(context_tokens=256, batch_tokens=128, ubatch_tokens=128, threads=1)
    with open_worker(folder, settings, timeout_s=60, seed=1) as worker:
        list(worker.run(Step(test="pp128", prompt=128, repetitions=2)))
        peak = worker.finish()
    predicted = predict_memory(read_header(folder), settings, "x86_64+avx2")
    assert peak is not None
    assert peak.unevictable_bytes is not None
    assert predicted.unevictable.low <= peak.unevictable_bytes <= predicted.unevictable.high
