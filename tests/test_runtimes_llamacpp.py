"""The session in this process: logits come out right, whichever way the tokens go in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgekit.records import Settings
from edgekit.runtimes import RUNTIMES, llamacpp
from edgekit.runtimes.protocol import SessionRefused

# without repacking: a build whose AMX kernels are broken would take this process down
SETTINGS = Settings(context_tokens=512, batch_tokens=128, ubatch_tokens=64, threads=2, repack=False, kv_type="f16")
TOKENS = [(7 * index + 3) % 1000 for index in range(150)]


@pytest.fixture(scope="module")
def session(tiny_gguf: Path) -> Iterator[llamacpp.Session]:
    opened = RUNTIMES["llamacpp"].open_session(tiny_gguf, SETTINGS)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def empty(session: llamacpp.Session) -> None:
    session.reset()


def test_all_logits_have_a_row_per_token(session: llamacpp.Session) -> None:
    logits = session.feed(TOKENS, want="all")
    assert logits.shape == (150, 1024)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert session.position == 150


def test_last_is_the_last_of_all(session: llamacpp.Session) -> None:
    every = session.feed(TOKENS, want="all")
    session.reset()
    last = session.feed(TOKENS)
    assert last.shape == (1, 1024)
    np.testing.assert_allclose(last[0], every[-1], rtol=0.05, atol=0.02)


@pytest.mark.parametrize(("fed", "rows"), [(150, 1), (150, 30), (150, 64), (150, 100), (40, 40), (128, 64)])
def test_only_the_last_rows(session: llamacpp.Session, fed: int, rows: int) -> None:
    """More than a ubatch of rows, and more tokens than a batch takes."""
    every = session.feed(TOKENS[:fed], want="all")
    session.reset()
    last = session.feed(TOKENS[:fed], want=rows)
    assert session.position == fed
    assert last.shape == (rows, 1024)
    # kernels for other batch sizes round differently, and these weights are random
    np.testing.assert_allclose(last, every[-rows:], rtol=0.1, atol=0.3)
    assert (last.argmax(axis=1) == every[-rows:].argmax(axis=1)).mean() > 0.9


def test_rows_can_be_had_without_a_copy(session: llamacpp.Session) -> None:
    kept = session.feed(TOKENS[:60], want=20)
    session.reset()
    seen = session.feed(TOKENS[:60], want=20, copy=False)
    np.testing.assert_array_equal(seen, kept)
    session.feed([5])
    assert not np.array_equal(seen[0], kept[0])  # it was llama.cpp's own memory


def test_token_by_token_equals_a_batch(session: llamacpp.Session) -> None:
    every = session.feed(TOKENS[:40], want="all")
    session.reset()
    single = np.concatenate([session.feed([token]) for token in TOKENS[:40]])
    assert (single.argmax(axis=1) == every.argmax(axis=1)).mean() > 0.9
    np.testing.assert_allclose(single, every, rtol=0.1, atol=0.1)


def test_rewinding_brings_the_same_logits_again(session: llamacpp.Session) -> None:
    session.feed(TOKENS[:100])
    first = session.feed(TOKENS[100:110], want="all")
    session.rewind(100)
    assert session.position == 100
    np.testing.assert_array_equal(session.feed(TOKENS[100:110], want="all"), first)


def test_rewinding_forward_does_nothing(session: llamacpp.Session) -> None:
    session.feed(TOKENS[:10])
    session.rewind(500)
    assert session.position == 10


def test_the_context_is_a_limit(session: llamacpp.Session) -> None:
    session.feed(TOKENS)
    with pytest.raises(SessionRefused, match="context"):
        session.feed([1] * 400)
    with pytest.raises(SessionRefused):
        session.feed([])


@pytest.mark.parametrize("token", [-1, 1024, 2**31 - 1])
def test_foreign_tokens_are_refused(session: llamacpp.Session, token: int) -> None:
    with pytest.raises(SessionRefused):
        session.feed([token])


def test_few_output_rows_cannot_give_all_logits(tiny_gguf: Path) -> None:
    from dataclasses import replace

    opened = llamacpp.open_session(tiny_gguf, replace(SETTINGS, output_rows=1))
    try:
        assert opened.feed(TOKENS[:20]).shape == (1, 1024)
        with pytest.raises(SessionRefused, match="output_rows"):
            opened.feed(TOKENS[:20], want="all")
    finally:
        opened.close()


def test_a_bad_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(SessionRefused, match="could not load"):
        llamacpp.open_session(path, SETTINGS)
