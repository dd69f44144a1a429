"""A lean session says the very same as an ordinary one, whatever it gives back in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from breakages import Copy

from edgekit.records import Settings
from edgekit.runtimes import chunk_rows, lean, llamacpp
from edgekit.runtimes.chunk_rows import RowsAhead, RowsFed
from edgekit.runtimes.protocol import SessionRefused

# without repacking: a build whose AMX kernels are broken would take this process down
SETTINGS = Settings(context_tokens=200, batch_tokens=200, ubatch_tokens=160, threads=2, repack=False)
CHUNKS = [[(step * index + 3) % 1000 for index in range(200)] for step in (7, 11)]
BLOCK = 32

linux = pytest.mark.skipif("sys.platform != 'linux'", reason="memory is given back on Linux only")


def told(session: llamacpp.Session, chunk: list[int]) -> np.ndarray:
    """Logits of the scored half of a chunk, as an ordinary session gives them in the same batches."""
    session.reset()
    blocks = [chunk[begin : begin + BLOCK] for begin in range(100, 200, BLOCK)]
    first = session.feed([*chunk[:100], *blocks[0]], want=BLOCK)
    return np.concatenate([first, *(session.feed(block, want=len(block)) for block in blocks[1:])])


def taken(rows: chunk_rows.ChunkRows, chunk: list[int]) -> np.ndarray:
    rows.begin(chunk)
    return np.concatenate([rows.take(chunk[begin : begin + BLOCK]).copy() for begin in range(100, 200, BLOCK)])


@linux
@pytest.mark.parametrize("flash", ["on", "off"])
def test_logits_computed_apart_are_the_graph_s_own(tiny_gguf: Path, flash: str) -> None:
    """Bit for bit, chunk after chunk: keys and values that were given back leave nothing behind. The first block lies
    in one ubatch, then in two, then in a batch behind the context's.
    """
    for ubatch, batch in ((160, 200), (112, 200), (64, 96)):
        settings = dataclasses.replace(SETTINGS, flash_attention=flash, ubatch_tokens=ubatch, batch_tokens=batch)
        plain = llamacpp.open_session(tiny_gguf, settings)
        session = lean.open_session(tiny_gguf, settings)
        try:
            rows = chunk_rows.chunk_rows(session, BLOCK)
            assert isinstance(rows, RowsAhead)
            assert session.tokenize("seven okapi") == plain.tokenize("seven okapi")
            session.forget_words()
            for chunk in (*CHUNKS, CHUNKS[0]):
                np.testing.assert_array_equal(taken(rows, chunk), told(plain, chunk))
        finally:
            plain.close()
            session.close()


@linux
def test_a_block_beyond_a_small_ubatch_has_room_of_its_own(tiny_gguf: Path) -> None:
    """llama.cpp sees a ubatch of logits at a time and has room for no more. Its kernels for a few rows round otherwise
    than those for many.
    """
    settings = dataclasses.replace(SETTINGS, ubatch_tokens=16)
    plain, session = llamacpp.open_session(tiny_gguf, settings), lean.open_session(tiny_gguf, settings)
    try:
        rows = chunk_rows.chunk_rows(session, BLOCK)
        assert isinstance(rows, RowsAhead)
        for chunk in CHUNKS:
            np.testing.assert_allclose(taken(rows, chunk), told(plain, chunk), rtol=1e-5, atol=1e-5)
    finally:
        plain.close()
        session.close()


@linux
def test_a_last_token_that_tells_nothing_is_not_kept(tiny_gguf: Path) -> None:
    """After the last block that is scored nothing is left, whose memory would stay beside the other model's."""
    session = lean.open_session(tiny_gguf, SETTINGS)
    try:
        rows = RowsAhead(session, BLOCK)
        rows.begin(CHUNKS[0][: 2 * BLOCK + 1])
        rows.take(CHUNKS[0][BLOCK : 2 * BLOCK])
        with pytest.raises(IndexError):
            rows.take(CHUNKS[0][2 * BLOCK : 2 * BLOCK + 1])
    finally:
        session.close()


@linux
def test_another_token_s_row_is_another(tiny_gguf: Path) -> None:
    """What the comparison above would see."""
    session = lean.open_session(tiny_gguf, SETTINGS)
    try:
        first, second = (taken(chunk_rows.chunk_rows(session, BLOCK), chunk) for chunk in CHUNKS)
        assert not np.array_equal(first, second)
    finally:
        session.close()


def scaled(source: Path, out: Path) -> Path:
    """The same weights as a Granite model, which scales its logits: its graph does not end with a product."""
    copy = Copy(source)
    old, new = f"{copy.architecture}.", "granite."
    copy.keys = {key.replace(old, new): value for key, value in copy.keys.items()}
    copy._types = {key.replace(old, new): kind for key, kind in copy._types.items()}
    copy.keys["granite.logit_scale"] = 0.5
    copy._types["granite.logit_scale"] = (gguf.GGUFValueType.FLOAT32, None)
    copy.architecture = "granite"
    for name in [name for name in copy.names if name.endswith(("_q_norm.weight", "_k_norm.weight"))]:
        copy.drop(name)
    return copy.write(out)


def test_a_graph_that_ends_otherwise_is_fed(tiny_gguf: Path, tmp_path: Path) -> None:
    granite = scaled(tiny_gguf, tmp_path / "granite.gguf")
    plain, session = llamacpp.open_session(granite, SETTINGS), lean.open_session(granite, SETTINGS)
    try:
        assert not session.splits
        session.forget_words()
        rows = chunk_rows.chunk_rows(session, BLOCK)
        assert isinstance(rows, RowsFed)
        for chunk in CHUNKS:
            np.testing.assert_array_equal(taken(rows, chunk), told(plain, chunk))
    finally:
        plain.close()
        session.close()


@pytest.mark.parametrize("open_session", [llamacpp.open_session, lean.open_session])
def test_what_cannot_be_loaded_is_refused(
    open_session: Callable[..., llamacpp.Session], tiny_gguf: Path, tmp_path: Path
) -> None:
    whole = tiny_gguf.read_bytes()
    for name, data in (("none.gguf", b""), ("head.gguf", whole[:2000]), ("cut.gguf", whole[:-2000])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SessionRefused, match="could not load"):
            open_session(tmp_path / name, SETTINGS)
