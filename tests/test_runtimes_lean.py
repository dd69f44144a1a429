"""A lean session says the very same as an ordinary one, whatever it gives back in between and computes again."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import pytest
from breakages import Copy

from edgekit.records import Settings
from edgekit.runtimes import chunk_rows, lean, llamacpp
from edgekit.runtimes.chunk_rows import RowsAhead, RowsFed
from edgekit.runtimes.ggml_graph import Engine, operation
from edgekit.runtimes.ggml_tensor import GgmlTensor
from edgekit.runtimes.graph_tail import GraphTail
from edgekit.runtimes.protocol import SessionRefused

# without repacking: a build whose AMX kernels are broken would take this process down
SETTINGS = Settings(context_tokens=200, batch_tokens=200, ubatch_tokens=160, threads=2, repack=False)
LEAN = dataclasses.replace(SETTINGS, output_rows=25)
CHUNKS = [[(step * index + 3) % 1000 for index in range(200)] for step in (7, 11)]
BLOCK = 25
"""At least 8 rows in each: ggml multiplies fewer by other kernels, which add up in another order."""

linux = pytest.mark.skipif("sys.platform != 'linux'", reason="memory is given back on Linux only")


def told(session: llamacpp.Session, chunk: list[int], *ends: int) -> np.ndarray:
    """Logits of the scored half of a chunk, as an ordinary session gives them, evaluated in parts that end there."""
    session.reset()
    parts = [chunk[begin:end] for begin, end in pairwise((0, *ends, len(chunk)))]
    found = [session.feed(part, want="all") for part in parts]
    return np.concatenate(found)[100:]


def taken(rows: chunk_rows.ChunkRows, chunk: list[int]) -> np.ndarray:
    rows.begin(chunk)
    return np.concatenate([rows.take(chunk[begin : begin + BLOCK]).copy() for begin in range(100, 200, BLOCK)])


@linux
@pytest.mark.parametrize("flash", ["on", "off"])
@pytest.mark.parametrize(("ubatch", "batch", "ends"), [(200, 200, ()), (112, 200, (88,)), (64, 96, (72, 136))])
def test_logits_computed_apart_are_the_graph_s_own(
    tiny_gguf: Path, flash: str, ubatch: int, batch: int, ends: tuple[int, ...]
) -> None:
    """Bit for bit, chunk after chunk: keys and values that were given back leave nothing behind, and rows that
    llama.cpp was not asked for are those that it would have given. They lie in a whole ubatch, in a part of it, in two.
    """
    settings = dataclasses.replace(SETTINGS, flash_attention=flash, ubatch_tokens=ubatch, batch_tokens=batch)
    plain = llamacpp.open_session(tiny_gguf, settings)
    session = lean.open_session(tiny_gguf, dataclasses.replace(settings, output_rows=BLOCK))
    try:
        rows = chunk_rows.chunk_rows(session, BLOCK)
        assert isinstance(rows, RowsAhead)
        assert session.tokenize("seven okapi") == plain.tokenize("seven okapi")
        session.forget_words()
        for chunk in (*CHUNKS, CHUNKS[0]):
            np.testing.assert_array_equal(taken(rows, chunk), told(plain, chunk, *ends))
    finally:
        plain.close()
        session.close()


@linux
@pytest.mark.parametrize("count", [1, 3, 8])
def test_few_rows_are_what_the_graph_gives_of_as_few(tiny_gguf: Path, count: int) -> None:
    plain, session = llamacpp.open_session(tiny_gguf, SETTINGS), lean.open_session(tiny_gguf, LEAN)
    try:
        hidden = session.hidden_rows(CHUNKS[0][:50], count)
        np.testing.assert_array_equal(session.logits_of(hidden), plain.feed(CHUNKS[0][:50], want=count))
    finally:
        plain.close()
        session.close()


@linux
def test_a_block_beyond_a_small_ubatch_has_room_of_its_own(tiny_gguf: Path) -> None:
    """llama.cpp sees a ubatch of logits at a time and has room for no more. The ubatches' last rows are few, whose sums
    have another order.
    """
    settings = dataclasses.replace(LEAN, ubatch_tokens=16)
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
    session = lean.open_session(tiny_gguf, LEAN)
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


def renamed(source: Path, architecture: str, **more: tuple[object, gguf.GGUFValueType]) -> Copy:
    """The same model as one of another architecture, with more keys of that one's."""
    copy = Copy(source)
    old, new = f"{copy.architecture}.", f"{architecture}."
    copy.keys = {key.replace(old, new): value for key, value in copy.keys.items()}
    copy._types = {key.replace(old, new): kind for key, kind in copy._types.items()}
    copy.architecture = architecture
    for name, (value, kind) in more.items():
        copy.keys[new + name.replace("__", ".")], copy._types[new + name.replace("__", ".")] = value, (kind, None)
    return copy


def put(copy: Copy, name: str, *shape: int) -> None:
    """A tensor of random numbers, of the size at which rows keep theirs."""
    values = np.random.default_rng(len(copy.names)).normal(0, shape[-1] ** -0.5, shape).astype(np.float32)
    copy._tensors[name] = (values + name.endswith("norm.weight"), gguf.GGMLQuantizationType.F32)


WIDTH, FFN = 256, 768
"""Of the `tiny` shape, as the number of its heads and their width below."""


def parallel(source: Path, out: Path) -> Path:
    """Random weights as a GPT-NeoX model: what attention gives is added last, after all of the last layer that lies
    behind the choice of rows.
    """
    types = gguf.GGUFValueType
    copy = renamed(
        source,
        "gptneox",
        use_parallel_residual=(True, types.BOOL),
        attention__layer_norm_epsilon=(1e-5, types.FLOAT32),
        attention__head_count_kv=(4, types.UINT32),
        rope__dimension_count=(64, types.UINT32),
    )
    copy._tensors = {"token_embd.weight": copy._tensors["token_embd.weight"]}
    vocabulary = len(copy["token_embd.weight"])
    put(copy, "output.weight", vocabulary, WIDTH)
    products = {"attn_qkv": (3 * WIDTH, WIDTH), "attn_output": (WIDTH, WIDTH), "ffn_up": (FFN, WIDTH)}
    products["ffn_down"] = (WIDTH, FFN)
    norms = [f"blk.{layer}.{norm}" for layer in range(copy.layers) for norm in ("attn_norm", "ffn_norm")]
    for norm in (*norms, "output_norm"):
        put(copy, f"{norm}.weight", WIDTH)
        put(copy, f"{norm}.bias", WIDTH)
    for layer in range(copy.layers):
        for name, shape in products.items():
            put(copy, f"blk.{layer}.{name}.weight", *shape)
            put(copy, f"blk.{layer}.{name}.bias", shape[0])
    return copy.write(out)


def experts(source: Path, out: Path) -> Path:
    """The same attention with a choice of random experts, whose weights llama.cpp has computed before them."""
    count, width = 8, 128
    kind = gguf.GGUFValueType.UINT32
    more = {"expert_count": count, "expert_used_count": 2, "expert_feed_forward_length": width}
    copy = renamed(source, "qwen3moe", **{name: (value, kind) for name, value in more.items()})
    for name in [name for name in copy.names if ".ffn_" in name and "norm" not in name]:
        copy.drop(name)
    for layer in range(copy.layers):
        put(copy, f"blk.{layer}.ffn_gate_inp.weight", count, WIDTH)
        put(copy, f"blk.{layer}.ffn_gate_exps.weight", count, width, WIDTH)
        put(copy, f"blk.{layer}.ffn_up_exps.weight", count, width, WIDTH)
        put(copy, f"blk.{layer}.ffn_down_exps.weight", count, WIDTH, width)
    return copy.write(out)


@linux
@pytest.mark.parametrize("made", [parallel, experts])
def test_rows_computed_again_are_the_graph_s_own_whatever_the_layer(
    made: Callable[[Path, Path], Path], tiny_gguf: Path, tmp_path: Path
) -> None:
    """llama.cpp's tensors share memory, in an order that is not the one in which a graph's end asks for them."""
    path, settings = made(tiny_gguf, tmp_path / "made.gguf"), dataclasses.replace(SETTINGS, ubatch_tokens=200)
    plain = llamacpp.open_session(path, settings)
    session = lean.open_session(path, dataclasses.replace(settings, output_rows=BLOCK))
    try:
        rows = chunk_rows.chunk_rows(session, BLOCK)
        assert isinstance(rows, RowsAhead)
        for chunk in CHUNKS:
            np.testing.assert_array_equal(taken(rows, chunk), told(plain, chunk))
    finally:
        plain.close()
        session.close()


def scaled(source: Path, out: Path) -> Path:
    """The same weights as a Granite model, which scales its logits: its graph does not end with a product."""
    copy = renamed(source, "granite", logit_scale=(0.5, gguf.GGUFValueType.FLOAT32))
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
            np.testing.assert_array_equal(taken(rows, chunk), told(plain, chunk, 125, 150, 175))
    finally:
        plain.close()
        session.close()


class Stretch:
    """A body's rows, some of them chosen, a weight added to those, and what else is wanted of them."""

    def __init__(self) -> None:
        self.library = llamacpp.bindings()._lib
        self.tail, self.kept = GraphTail(), []
        self.body, self.places = self.tensor("MUL"), self.tensor("NONE", name=b"out_ids", flags=1)
        self.chosen = self.tensor("GET_ROWS", self.body, self.places)
        self.weight = self.tensor("NONE")
        self.end = self.tensor("ADD", self.chosen, self.weight)

    def tensor(self, kind: str, *sources: int, name: bytes = b"", flags: int = 0) -> int:
        tensor = GgmlTensor(name=name, flags=flags)
        while operation(self.library, tensor) != kind.encode():
            tensor.op += 1
        tensor.ne[:], tensor.nb[:] = (4, 1, 1, 1), (4, 16, 16, 16)
        tensor.src[: len(sources)] = sources
        self.kept.append(tensor)
        return ctypes.addressof(tensor)

    def is_apart(self, *nodes: int) -> bool:
        for node in (self.body, self.chosen, *nodes):
            chooses = self.tail.see(node, GgmlTensor.from_address(node))
            assert chooses == (node == self.chosen)
        return self.tail.is_apart(self.library, nodes[-1])


def test_a_stretch_of_the_graph_is_apart_where_it_needs_chosen_rows_and_weights_alone() -> None:
    stretch = Stretch()
    assert stretch.is_apart(stretch.end)


@pytest.mark.parametrize("other", ["body", "input", "view", "not chosen"])
def test_a_stretch_that_needs_more_is_not_computed_again(other: str) -> None:
    """The body's rows would be those of other tokens, an input's memory may be overwritten, and a view of chosen rows
    looks where llama.cpp had them.
    """
    stretch = Stretch()
    if other == "not chosen":
        assert not GraphTail().is_apart(stretch.library, stretch.end)
        return
    view = stretch.tensor("VIEW", stretch.chosen)
    GgmlTensor.from_address(view).view_src = stretch.chosen
    source = {"body": stretch.body, "input": stretch.tensor("NONE", flags=1), "view": view}[other]
    last = stretch.tensor("ADD", stretch.end, source)
    assert not stretch.is_apart(*([view] if other == "view" else []), stretch.end, last)
    GgmlTensor.from_address(last).ne[1] = 1
    engine = Engine(stretch.library, 1)
    buffer = (ctypes.c_float * 4)()
    GgmlTensor.from_address(last).data = ctypes.addressof(buffer)
    try:
        with pytest.raises(SessionRefused, match="another graph"):
            stretch.tail.rows(engine, last, 2)
    finally:
        engine.close()


def test_rows_that_llama_cpp_never_had_are_missed() -> None:
    """No error of the callback's is heard of: what it did not keep must not be read from beside it."""
    stretch, engine = Stretch(), Engine(llamacpp.bindings()._lib, 1)
    assert stretch.is_apart(stretch.end)
    stretch.tail.keep(GgmlTensor.from_address(stretch.chosen), 2)  # the body has one
    try:
        with pytest.raises(SessionRefused, match="another graph"):
            stretch.tail.rows(engine, stretch.end, 2)
    finally:
        engine.close()


@pytest.mark.parametrize("open_session", [llamacpp.open_session, lean.open_session])
def test_what_cannot_be_loaded_is_refused(
    open_session: Callable[..., llamacpp.Session], tiny_gguf: Path, tmp_path: Path
) -> None:
    whole = tiny_gguf.read_bytes()
    for name, data in (("none.gguf", b""), ("head.gguf", whole[:2000]), ("cut.gguf", whole[:-2000])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SessionRefused, match="could not load"):
            open_session(tmp_path / name, SETTINGS)
