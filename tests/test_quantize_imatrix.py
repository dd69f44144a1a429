"""Importance matrices: the right sums, llama.cpp's formats, and one line for whatever is not one."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from peer_tools import TEXT, peer, run_peer
from routed import write_routed

from edgekit.errors import EdgekitError, ExitCode
from edgekit.header import read_header
from edgekit.quantize import collector, ggml_types
from edgekit.quantize.imatrix import (
    check_against,
    compute_imatrix,
    imatrix_bytes,
    open_imatrix,
    read_imatrix,
)
from edgekit.records import Settings
from edgekit.shapes import load_shape, write_stand_in

CONTEXT, CHUNKS = 64, 3


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in in f16: valid for llama.cpp, random weights."""
    return write_stand_in(load_shape("tiny"), "f16", tmp_path_factory.mktemp("imatrix") / "tiny-f16.gguf")


@pytest.fixture(scope="session")
def matrix(model: Path) -> Path:
    """The importance matrix of `model` on three short chunks."""
    out = model.with_name("tiny.imatrix.gguf")
    return compute_imatrix(model, TEXT, out, context_tokens=CONTEXT, chunks=CHUNKS, threads=2)


def tokens_of(model: Path, text: str) -> list[int]:
    from edgekit.runtimes import llamacpp

    session = llamacpp.open_session(model, Settings(context_tokens=64, threads=1, repack=False))
    try:
        return session.tokenize(text)
    finally:
        session.close()


def test_the_first_layer_is_summed_as_arithmetic_says(model: Path, matrix: Path) -> None:
    """Queries, keys and values of the first layer read RMS-normed embeddings: computed here from the file alone."""
    tokens = np.array(tokens_of(model, TEXT)[: CONTEXT * CHUNKS])
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(model).tensors}
    embedded = tensors["token_embd.weight"].data[tokens].astype(np.float64)
    epsilon = 1e-6
    normed = embedded / np.sqrt((embedded**2).mean(axis=1, keepdims=True) + epsilon)
    normed *= tensors["blk.0.attn_norm.weight"].data.astype(np.float64)
    expected = (normed**2).mean(axis=0)
    values = read_imatrix(matrix)
    for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"):
        np.testing.assert_allclose(values[name], expected, rtol=2e-5)


def test_every_matrix_of_every_layer_saw_every_token(model: Path, matrix: Path) -> None:
    """Also the last layer's, which would see one token a chunk if only the last logits were asked for."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(matrix).tensors}
    matrices = [t for t in read_header(model).tensors if len(t.shape) > 1 and t.name.startswith("blk.")]
    assert set(tensors) == {f"{t.name}.{part}" for t in matrices for part in ("in_sum2", "counts")}
    for tensor in matrices:
        assert tensors[f"{tensor.name}.counts"].data.tolist() == [CONTEXT * CHUNKS]
        sums = tensors[f"{tensor.name}.in_sum2"].data
        assert sums.shape == (tensor.shape[0],)
        assert sums.min() > 0


def test_the_reference_library_reads_it(matrix: Path) -> None:
    reader = gguf.GGUFReader(matrix)
    assert bytes(reader.fields["general.type"].parts[-1]).decode() == "imatrix"
    assert reader.fields["imatrix.chunk_count"].parts[-1][0] == CHUNKS
    assert reader.fields["imatrix.chunk_size"].parts[-1][0] == CONTEXT
    names = [tensor.name for tensor in reader.tensors]
    assert names[::2] == sorted(names[::2])
    assert all(
        one.removesuffix(".in_sum2") == two.removesuffix(".counts")
        for one, two in zip(names[::2], names[1::2], strict=True)
    )


def test_it_says_what_it_was_made_from(model: Path, matrix: Path) -> None:
    found = open_imatrix(matrix)
    text = hashlib.sha256(TEXT.encode()).hexdigest()
    assert found.dataset == f"sha256:{text}"
    assert found.calibration_sha256 == text
    assert found.model_sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert found.sha256 == hashlib.sha256(matrix.read_bytes()).hexdigest()
    assert found.chunks == CHUNKS


def test_more_chunks_change_it_and_the_same_do_not(model: Path, matrix: Path, tmp_path: Path) -> None:
    again = compute_imatrix(model, TEXT, tmp_path / "a", context_tokens=CONTEXT, chunks=CHUNKS, threads=2)
    assert again.read_bytes() == matrix.read_bytes()
    fewer = compute_imatrix(model, TEXT, tmp_path / "b", context_tokens=CONTEXT, chunks=1, threads=2)
    assert read_imatrix(fewer)["blk.0.attn_q.weight"].tolist() != read_imatrix(matrix)["blk.0.attn_q.weight"].tolist()


def test_every_chunk_starts_afresh(model: Path, tmp_path: Path) -> None:
    """Two chunks of the same tokens weigh what one does; with the first still in the cache they would not."""
    text = "!" * (2 * CONTEXT)
    assert len(set(tokens_of(model, text))) == 1
    assert len(tokens_of(model, text)) == 2 * CONTEXT
    one, two = (
        read_imatrix(compute_imatrix(model, text, tmp_path / str(n), context_tokens=CONTEXT, chunks=n, threads=2))
        for n in (1, 2)
    )
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=1e-6)


def test_stopping_after_the_last_layer_changes_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs after the first are left before the output matrix; here once as they are and once whole, both in this
    process, so that the same kernels compute both.
    """
    job = {"path": str(model), "text": TEXT, "context_tokens": CONTEXT, "chunks": CHUNKS, "threads": 1, "output": ""}
    keys = {"edgekit.calibration.sha256": "0" * 64}
    collector.calibrate_here({**job, "keys": keys, "out": str(tmp_path / "stopped.gguf")}, lambda _: None)
    monkeypatch.setattr(collector.Collector, "next_graph", lambda self: self._by_input.clear())
    collector.calibrate_here({**job, "keys": keys, "out": str(tmp_path / "whole.gguf")}, lambda _: None)
    stopped, whole = read_imatrix(tmp_path / "stopped.gguf"), read_imatrix(tmp_path / "whole.gguf")
    assert stopped.keys() == whole.keys()
    for name, values in stopped.items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-6)


def test_the_output_matrix_is_collected_when_asked(model: Path, tmp_path: Path) -> None:
    """Tied: under the embedding's name, which is where llama-quantize looks for it."""
    out = compute_imatrix(model, TEXT, tmp_path / "o.gguf", context_tokens=CONTEXT, chunks=2, threads=2, output=True)
    assert read_imatrix(out)["token_embd.weight"].shape == (read_header(model).hidden,)


# ---- experts ------------------------------------------------------------------------------------------------------


def tensor_of(array: np.ndarray, op: int = 0, sources: tuple[object, ...] = (), name: str = "") -> object:
    """A `ggml_tensor` over numpy's memory."""
    import ctypes

    tensor = collector.GgmlTensor()
    tensor.type = 0
    shape = (1,) * (4 - array.ndim) + array.shape
    strides = (array.strides[0] * array.shape[0],) * (4 - array.ndim) + array.strides
    tensor.ne[:], tensor.nb[:] = shape[::-1], strides[::-1]
    tensor.op, tensor.data, tensor.name = op, array.ctypes.data, name.encode()
    for index, source in enumerate(sources):
        tensor.src[index] = ctypes.addressof(source)  # type: ignore[arg-type]
    return tensor


@pytest.mark.parametrize("broadcast", [True, False])
def test_experts_are_summed_apart(broadcast: bool) -> None:
    """Gate and up see one input per token, down one per token and expert; the routing table has a wider stride."""
    import ctypes

    rng = np.random.default_rng(3)
    experts, used, tokens, columns = 4, 2, 20, 8
    ids = np.zeros((tokens, 5), np.int32)
    ids[:, :used] = np.array([rng.choice(3, used, replace=False) for _ in range(tokens)])  # nobody chooses the fourth
    rows = rng.normal(size=(tokens, 1 if broadcast else used, columns)).astype(np.float32)
    chosen = tensor_of(ids)
    chosen.ne[0] = used  # type: ignore[attr-defined]
    weight = tensor_of(np.zeros((experts, 3, columns), np.float32), name="blk.7.ffn_up_exps.weight")
    inputs = tensor_of(rows)
    node = tensor_of(np.zeros((1, 1), np.float32), op=30, sources=(weight, inputs, chosen))
    found = collector.Collector(product=29, routed=30)
    address = ctypes.addressof(node)  # type: ignore[arg-type]
    assert found(address, True, None)
    assert found(address, False, None)
    found.next_graph()
    expected = np.zeros((experts, columns))
    counts = np.zeros(experts)
    for token in range(tokens):
        for index in range(used):
            expected[ids[token, index]] += rows[token, 0 if broadcast else index].astype(np.float64) ** 2
            counts[ids[token, index]] += 1
    entry = found.entries["blk.7.ffn_up_exps.weight"]
    np.testing.assert_allclose(entry.sums, expected, rtol=1e-5)
    assert entry.counts.tolist() == counts.tolist()


def test_an_expert_that_saw_nothing_has_ones(tmp_path: Path) -> None:
    sums = np.array([[2, 4], [0, 0]], np.float32)
    path = tmp_path / "m.gguf"
    entries = {"blk.0.ffn_up_exps.weight": (sums, np.array([2, 0], np.float32))}
    path.write_bytes(imatrix_bytes(entries, dataset="d", chunks=1, chunk_tokens=2, keys={}))
    assert read_imatrix(path)["blk.0.ffn_up_exps.weight"].tolist() == [[1, 2], [1, 1]]


# ---- formats ------------------------------------------------------------------------------------------------------


def legacy(entries: dict[str, tuple[int, list[float]]], trailer: bytes = b"") -> bytes:
    data = struct.pack("<i", len(entries))
    for name, (calls, values) in entries.items():
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(values))
        data += struct.pack(f"<{len(values)}f", *values)
    return data + trailer


def test_the_legacy_format_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.dat"
    trailer = struct.pack("<ii", 7, 8) + b"text.txt"
    path.write_bytes(legacy({"blk.0.attn_q.weight": (4, [8, 2]), "blk.0.attn_k.weight": (0, [1, 3])}, trailer))
    found = open_imatrix(path)
    assert {name: values.tolist() for name, values in found.values.items()} == {
        "blk.0.attn_q.weight": [2, 0.5],
        "blk.0.attn_k.weight": [1, 3],
    }
    assert (found.chunks, found.dataset) == (7, "text.txt")
    path.write_bytes(legacy({"a": (1, [1.0])}))
    assert open_imatrix(path).dataset == ""


GOOD = imatrix_bytes(
    {"blk.0.attn_q.weight": (np.ones((1, 256), np.float32), np.array([9], np.float32))},
    dataset="d", chunks=1, chunk_tokens=9, keys={},
)  # fmt: skip


def entry(sums: object, counts: object) -> bytes:
    arrays = (np.array(sums, np.float32).reshape(1, -1), np.array(counts, np.float32))
    return imatrix_bytes({"blk.0.attn_q.weight": arrays}, dataset="", chunks=1, chunk_tokens=1, keys={})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "truncated"),
        (b"hello, this is no matrix", "neither GGUF nor legacy"),
        (b"GGUF", "truncated"),
        (GOOD[:-40], "truncated"),
        (GOOD[:200], "truncated"),
        (GOOD.replace(b"imatrix.chunk_size", b"imatrix.chunk_SIZE"), "another kind"),
        (GOOD.replace(b".counts", b".kounts"), "no counts"),
        (entry([1, float("nan")], [1]), "no mean squares"),
        (entry([1, -1], [1]), "no mean squares"),
        (entry([1, 2], [float("inf")]), "no mean squares"),
        (legacy({"a": (1, [1.0, 2.0])})[:-3], "values"),
        (legacy({"a": (1, [float("nan")])}), "no mean squares"),
        (struct.pack("<ii", 1, 2**30), "never ends"),
        (struct.pack("<i", -1), "neither"),
        (struct.pack("<i", 2**30), "neither"),
    ],
)
def test_what_is_no_importance_matrix_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(EdgekitError) as caught:
        open_imatrix(path)
    assert words in caught.value.message
    assert caught.value.code == ExitCode.USAGE


def test_a_model_is_no_importance_matrix(model: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="another kind"):
        open_imatrix(model)
    with pytest.raises(EdgekitError, match="cannot read"):
        open_imatrix(tmp_path / "absent")
    with pytest.raises(EdgekitError, match="cannot read"):
        open_imatrix(tmp_path)


def test_the_matrix_of_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    header = read_header(model)
    path = tmp_path / "m.gguf"
    for name, columns, words in (("blk.0.attn_q.weight", 512, "512 columns"), ("blk.99.x", 256, "no tensor of this")):
        arrays = (np.ones((1, columns), np.float32), np.ones(1, np.float32))
        path.write_bytes(imatrix_bytes({name: arrays}, dataset="", chunks=1, chunk_tokens=1, keys={}))
        with pytest.raises(EdgekitError, match=words):
            check_against(open_imatrix(path), header, path)


# ---- what cannot be calibrated ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"context_tokens": 8}, "context cannot be cut"),
        ({"context_tokens": 520}, "context cannot be cut"),
        ({"chunks": 0}, "at least one chunk"),
        ({"text": "too short"}, "text is too short"),
        ({"text": "lone \udc80 surrogate"}, "not valid Unicode"),
    ],
    ids=str,
)
def test_calibration_that_makes_no_sense(model: Path, tmp_path: Path, options: dict[str, object], words: str) -> None:
    chosen = {"text": TEXT, "context_tokens": CONTEXT, **options}
    with pytest.raises(EdgekitError, match=words) as caught:
        compute_imatrix(model, out=tmp_path / "m.gguf", threads=2, **chosen)  # type: ignore[arg-type]
    assert caught.value.code == ExitCode.USAGE
    assert not list(tmp_path.iterdir())


def test_weights_that_overflow_are_told(model: Path, tmp_path: Path) -> None:
    """A norm of 1e30 in the first layer: activations become infinite, sums are no numbers."""
    data = bytearray(model.read_bytes())
    tensor = next(t for t in gguf.GGUFReader(model).tensors if t.name == "blk.0.attn_norm.weight")
    data[tensor.data_offset : tensor.data_offset + 4 * 256] = np.full(256, 1e30, "<f4").tobytes()
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(data)
    with pytest.raises(EdgekitError, match="values that are no numbers"):
        compute_imatrix(broken, TEXT, tmp_path / "m.gguf", context_tokens=CONTEXT, chunks=1, threads=2)
    assert not (tmp_path / "m.gguf").exists()


def test_an_existing_matrix_stays(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    out.write_bytes(b"mine")
    with pytest.raises(EdgekitError, match="exists"):
        compute_imatrix(model, TEXT, out, context_tokens=CONTEXT, threads=2)
    assert out.read_bytes() == b"mine"


def test_operations_are_found_by_name() -> None:
    names = ggml_types.operation_names()
    assert names[0] == "NONE"
    assert names[-2:] == ["MUL_MAT", "MUL_MAT_ID"]


# ---- against the peer ---------------------------------------------------------------------------------------------


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "routed"])
def test_it_agrees_with_llama_imatrix(model: Path, tmp_path: Path, kind: str) -> None:
    """Correlation of at least 0.999 for every tensor (and expert), in both of its formats."""
    tool = peer("LLAMA_IMATRIX")
    chosen = model if kind == "dense" else write_routed(model, tmp_path / "routed.gguf")
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    ours = read_imatrix(compute_imatrix(chosen, TEXT, tmp_path / "ours.gguf", context_tokens=128, threads=2))
    for suffix in ("gguf", "dat"):
        options = ["-c", "128", "-t", "2", "--no-ppl", "--output-format", suffix]
        run_peer([tool, "-m", chosen, "-f", "text", "-o", f"theirs.{suffix}", *options], tmp_path)
        theirs = read_imatrix(tmp_path / f"theirs.{suffix}")
        assert set(ours) == set(theirs)
        for name, values in theirs.items():
            mine = ours[name].reshape(-1)
            # a router is discontinuous: rounding sends a few tokens elsewhere
            assert np.corrcoef(mine, values.reshape(-1))[0, 1] >= 0.999, name
            np.testing.assert_allclose(mine.sum(), values.sum(), rtol=2e-3 if kind == "dense" else 2e-2)
