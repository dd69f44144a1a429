"""Quantizing GGUF files: llama-quantize's bytes, and one line for whatever cannot be done."""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import gguf
import numpy as np
import pytest
from peer_tools import TEXT, peer, run_peer
from routed import write_routed

from edgekit import __version__, files
from edgekit.errors import EdgekitError, ExitCode
from edgekit.header import read_header
from edgekit.header.container import Container, parse
from edgekit.header.provenance import read_provenance
from edgekit.quantize import llama_quantize
from edgekit.quantize.ggml_types import FILE_TYPES, quantize_rows
from edgekit.quantize.imatrix import compute_imatrix, read_imatrix
from edgekit.quantize.llama_quantize import exactly, planned_types, quantize_gguf
from edgekit.records import Provenance
from edgekit.shapes import Shape, load_shape, write_stand_in

ODD_ROWS = {"hidden": 160, "ffn": 352}
"""No whole number of 256-value blocks: the fallbacks speak."""


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in in f16: valid for llama.cpp, random weights."""
    return write_stand_in(load_shape("tiny"), "f16", tmp_path_factory.mktemp("source") / "tiny-f16.gguf")


@pytest.fixture(scope="session")
def matrix(source: Path) -> Path:
    """An importance matrix of `source`."""
    return compute_imatrix(source, TEXT, source.with_name("tiny.imatrix.gguf"), chunks=2, context_tokens=64, threads=2)


def read_parts(path: Path) -> tuple[dict[str, object], list[object], bytes, dict[str, bytes]]:
    """Keys, tensor infos in the file's order, the whole data section, and each tensor's bytes."""
    data = path.read_bytes()
    container = Container(data)
    start = parse(container, 0)
    tensors, at = {}, start
    for tensor in container.tensors:
        tensors[tensor.name] = data[at : at + tensor.size_bytes]
        at += tensor.size_bytes + -tensor.size_bytes % 32
    return {**container.keys, **container.lengths}, list(container.tensors), data[start:], tensors


def test_the_bytes_are_those_of_ggml(source: Path, matrix: Path, tmp_path: Path) -> None:
    """Each tensor by itself through `ggml_quantize_chunk`, with its columns' importance."""
    out = quantize_gguf(source, tmp_path / "out.gguf", "q4_k_m", imatrix=matrix, threads=2)
    importance = read_imatrix(matrix)
    _, infos, _, tensors = read_parts(out)
    originals = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    kinds = set()
    for info in infos:
        weights = originals[info.name].data
        if info.type == "f32":
            assert tensors[info.name] == weights.tobytes()
            continue
        kinds.add(info.type)
        expected = quantize_rows(weights.astype(np.float32), info.type, importance.get(info.name))
        assert tensors[info.name] == expected, info.name
    assert kinds == {"q4_k", "q6_k"}
    without = read_parts(quantize_gguf(source, tmp_path / "plain.gguf", "q4_k_m", threads=2))[3]
    assert without["blk.0.attn_q.weight"] != tensors["blk.0.attn_q.weight"]  # the importance did something


def test_threads_and_repetition_give_the_same_file(source: Path, tmp_path: Path) -> None:
    one = quantize_gguf(source, tmp_path / "one.gguf", "q5_k_m", threads=1)
    two = quantize_gguf(source, tmp_path / "two.gguf", "q5_k_m", threads=2)
    assert one.read_bytes() == two.read_bytes()


def test_named_tensors_get_their_types(source: Path, tmp_path: Path) -> None:
    """A plan: every tensor by its exact name. `blk.1.` must not catch `blk.10.`, nor a dot any letter."""
    plan = {"blk.0.attn_q.weight": "q8_0", "blk.1.ffn_down.weight": "q2_k", "token_embd.weight": "q5_1"}
    patterns = [(exactly(name), kind) for name, kind in plan.items()]
    out = quantize_gguf(source, tmp_path / "plan.gguf", "q4_0", tensor_types=patterns, threads=2)
    written = {tensor.name: tensor.type for tensor in read_header(out).tensors}
    assert {name: written[name] for name in plan} == plan
    others = {kind for name, kind in written.items() if name not in plan and name.endswith("proj.weight")}
    assert others <= {"q4_0"}
    assert written["blk.2.ffn_down.weight"] == "q4_0"
    assert exactly("blk.1.a-b_c") == r"^blk\.1\.a-b_c$"


@pytest.mark.parametrize(
    "options",
    [
        {"type": "q4_k_m"},
        {"type": "q5_0", "pure": True},
        {"type": "q6_k", "output_type": "q8_0", "embedding_type": "f16"},
        {"type": "Q3_K", "tensor_types": [("attn_(k|v)", "q8_0"), ("ffn_down", "bf16")]},
        {"type": "bf16"},
        {"type": "f32"},
    ],
    ids=str,
)
def test_the_plan_is_what_is_written(source: Path, tmp_path: Path, options: dict[str, object]) -> None:
    planned = planned_types(source, **options)  # type: ignore[arg-type]
    assert [name for name, _ in planned] == [tensor.name for tensor in read_header(source).tensors]
    out = quantize_gguf(source, tmp_path / "out.gguf", threads=2, **options)  # type: ignore[arg-type]
    assert dict(planned) == {tensor.name: tensor.type for tensor in read_header(out).tensors}


def test_pure_means_one_type(source: Path) -> None:
    matrices = {t.name for t in read_header(source).tensors if len(t.shape) > 1}
    pure = {kind for name, kind in planned_types(source, "q4_k_m", pure=True) if name in matrices}
    mixed = {kind for name, kind in planned_types(source, "q4_k_m") if name in matrices}
    assert (pure, mixed) == ({"q4_k"}, {"q4_k", "q6_k"})


def test_odd_rows_fall_back_as_planned(tmp_path: Path) -> None:
    odd = write_stand_in(odd_shape(), "f16", tmp_path / "odd.gguf")
    planned = dict(planned_types(odd, "q4_k_m"))
    assert planned["blk.0.attn_q.weight"] == "q5_0"
    out = quantize_gguf(odd, tmp_path / "out.gguf", "q4_k_m", threads=2)
    assert planned == {tensor.name: tensor.type for tensor in read_header(out).tensors}


def odd_shape() -> Shape:
    import dataclasses

    return dataclasses.replace(load_shape("tiny"), name="odd", **ODD_ROWS)


# ---- provenance ---------------------------------------------------------------------------------------------------


def test_the_file_says_what_it_was_made_from(source: Path, matrix: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    told = Provenance(checkpoint_sha256="c" * 64, plan_sha256="d" * 64)
    quantize_gguf(source, out, "q4_k_m", imatrix=matrix, provenance=told, threads=2)
    known = read_provenance(read_header(out))
    assert known is not None
    assert known.parent_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert known.imatrix_sha256 == hashlib.sha256(matrix.read_bytes()).hexdigest()
    assert known.calibration_sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    assert (known.checkpoint_sha256, known.plan_sha256) == ("c" * 64, "d" * 64)
    assert known.edgekit_version


def test_only_our_keys_are_added(source: Path, tmp_path: Path) -> None:
    out = quantize_gguf(source, tmp_path / "out.gguf", "q8_0", threads=2)
    before, after = read_parts(source)[0], read_parts(out)[0]
    added = {key for key in after if key not in before}
    assert added == {"edgekit.parent.sha256", "edgekit.version"}
    assert {key for key in before if before[key] != after[key]} == {"general.file_type"}


def test_the_origin_of_the_parent_is_not_taken_for_its_own(source: Path, matrix: Path, tmp_path: Path) -> None:
    """llama.cpp copies every key: a second quantization must not claim the first one's importance matrix."""
    told = Provenance(checkpoint_sha256="c" * 64, plan_sha256="d" * 64)
    first = quantize_gguf(source, tmp_path / "1.gguf", "q8_0", imatrix=matrix, provenance=told, threads=2)
    second = quantize_gguf(first, tmp_path / "2.gguf", "q4_0", allow_requantize=True, threads=2)
    known = read_provenance(read_header(second))
    assert known is not None
    assert known.parent_sha256 == hashlib.sha256(first.read_bytes()).hexdigest()
    assert known.checkpoint_sha256 == "c" * 64
    assert (known.imatrix_sha256, known.calibration_sha256, known.plan_sha256) == ("", "", "")


def test_a_hash_the_caller_knows_is_not_computed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_quantize, "sha256_of", lambda *_, **__: pytest.fail("hashed"))
    known = Provenance(parent_sha256="a" * 64)
    out = quantize_gguf(source, tmp_path / "out.gguf", "q8_0", provenance=known, threads=2)
    assert read_provenance(read_header(out)) == Provenance(parent_sha256="a" * 64, edgekit_version=__version__)


def test_an_artifact_carries_its_origin(source: Path, tmp_path: Path) -> None:
    from edgekit import open_artifact

    out = quantize_gguf(source, tmp_path / "out.gguf", "q8_0", threads=2)
    provenance = open_artifact(out).provenance
    assert provenance is not None
    assert provenance.parent_sha256 == open_artifact(source).sha256
    assert open_artifact(source).provenance is None


@pytest.mark.parametrize("text", ["x" * 64, "A" * 64, "a" * 63, "a" * 65])
def test_a_claim_that_is_no_hash_counts_as_absent(source: Path, text: str) -> None:
    import dataclasses

    header = read_header(source)
    claimed = dataclasses.replace(header, metadata=(("edgekit.parent.sha256", text),))
    assert read_provenance(claimed) is None


# ---- what cannot be done ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A place to write; nothing may be left in it but what was there."""
    yield tmp_path
    assert not list(tmp_path.glob(".*.partial"))


def refused(source: Path, out: Path, kind: str = "q4_0", **options: object) -> EdgekitError:
    before = out.read_bytes() if out.is_file() else None
    with pytest.raises(EdgekitError) as caught:
        quantize_gguf(source, out, kind, threads=2, **options)  # type: ignore[arg-type]
    assert "\n" not in caught.value.message
    assert (out.read_bytes() if out.is_file() else None) == before
    return caught.value


def test_an_existing_file_stays(source: Path, folder: Path) -> None:
    out = folder / "there.gguf"
    out.write_bytes(b"mine")
    assert "exists" in refused(source, out).message
    quantize_gguf(source, out, "q4_0", force=True, threads=2)
    assert read_header(out).quant == "q4_0"


def test_the_source_is_not_overwritten(source: Path, folder: Path) -> None:
    link = folder / "link.gguf"
    link.symlink_to(source)
    assert "is the input" in refused(source, link, force=True).message
    assert "directory" in refused(source, folder, force=True).message


def test_a_place_that_cannot_be_written(source: Path, folder: Path) -> None:
    blocked = folder / "file"
    blocked.write_bytes(b"")
    assert "cannot write" in refused(source, blocked / "out.gguf").message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "q4_q"}, "unknown file type"),
        ({"tensor_types": [("attn", "q9")]}, "unknown tensor type"),
        ({"output_type": "nope"}, "unknown tensor type"),
        ({"tensor_types": [("", "q8_0")]}, "needs a pattern"),
        ({"tensor_types": [("atn_v", "q8_0")]}, "no tensor of the model has a name with: `atn_v`"),
        ({"tensor_types": [("attn_v", "q8_0")], "kind": "f16"}, "quantized file types only"),
        ({"kind": "iq2_xxs"}, "importance matrix is needed"),
        ({"kind": "q2_k_s"}, "importance matrix is needed"),
        ({"embedding_type": "iq2_xs"}, "importance matrix is needed for tensor `token_embd.weight`"),
        ({"tensor_types": [("attn_(v", "q8_0")]}, "could not quantize"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(source: Path, folder: Path, options: dict[str, object], words: str) -> None:
    assert words in refused(source, folder / "out.gguf", **options).message  # type: ignore[arg-type]


def test_a_quantized_source_is_refused(source: Path, folder: Path) -> None:
    first = quantize_gguf(source, folder / "q8.gguf", "q8_0", threads=2)
    assert "quantized already" in refused(first, folder / "out.gguf").message


def test_weights_that_are_no_numbers_are_refused(source: Path, folder: Path) -> None:
    """llama.cpp's own check, in the child: exit code 2 and no file."""
    broken = folder / "nan.gguf"
    data = bytearray(source.read_bytes())
    data[-100:-98] = struct.pack("<e", float("nan"))
    broken.write_bytes(data)
    error = refused(broken, folder / "out.gguf")
    assert "invalid data" in error.message
    assert error.code == ExitCode.USAGE


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_cut_file_is_refused(source: Path, folder: Path, size: int) -> None:
    cut = folder / "cut.gguf"
    cut.write_bytes(source.read_bytes()[:size])
    assert "not a usable model file" in refused(cut, folder / "out.gguf").message


def test_too_little_space_is_told_before_anything_is_written(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 100_000

    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: Usage)
    assert "not enough free space" in refused(source, folder / "out.gguf").message


def test_a_disk_that_fills_up_is_one_line(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child's own limit on what it writes plays the full disk."""
    real = llama_quantize.working
    monkeypatch.setattr(llama_quantize, "working", lambda job, **rest: real(job, **{**rest, "file_bytes": 200_000}))
    error = refused(source, folder / "out.gguf")
    assert "disk is full" in error.message
    assert error.code == ExitCode.USAGE


def test_interrupting_leaves_nothing(source: Path, folder: Path) -> None:
    def interrupt(stage: str, done: float, total: float, detail: str = "") -> None:
        if stage.startswith("quantizing") and done > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_gguf(source, folder / "out.gguf", "q4_0", threads=2, progress=interrupt)
    assert not (folder / "out.gguf").exists()


def test_a_child_that_dies_is_told(source: Path, folder: Path) -> None:
    import psutil

    def kill(stage: str, done: float, total: float, detail: str = "") -> None:
        if stage.startswith("quantizing") and done == 3:
            for process in psutil.Process().children():
                with suppress(psutil.ZombieProcess):  # what another test left behind
                    if "edgekit.quantize.child" in " ".join(process.cmdline()):
                        process.kill()

    with pytest.raises(EdgekitError) as caught:
        quantize_gguf(source, folder / "out.gguf", "q4_0", threads=1, progress=kill)
    assert caught.value.code == ExitCode.BROKE
    assert "killed" in caught.value.message
    assert not (folder / "out.gguf").exists()


def test_the_child_writes_nowhere_else(source: Path, folder: Path) -> None:
    """Another file beside the output is out of the child's reach."""
    from edgekit.quantize.child import working
    from edgekit.runtimes.death import WorkerDied

    ask_version = 1
    if ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), ask_version) < 1:
        pytest.skip("this kernel has no Landlock")
    mine, other = folder / "mine", folder / "other"
    mine.touch()
    other.touch()
    order = llama_quantize._order(source, "q4_0", None, (), None, None, False, False)
    job = order.job | {"threads": 1, "keys": {}, "out": str(other)}
    with working(job, readable=order.source_files, writable=mine, file_bytes=2**30, doing="planning") as work:
        list(work.advances())
        with pytest.raises(WorkerDied):
            work.start(job | {"dry_run": False}, "quantizing")
    assert other.stat().st_size == 0


# ---- against the peer ---------------------------------------------------------------------------------------------

MATRIX = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k_m", "q4_k_m", "q6_k", "iq2_s", "iq3_m", "iq4_nl")
NEEDY = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs", "iq3_xs", "q2_k_s")
CASES: list[tuple[str, bool, list[str]]] = [
    *((kind, False, []) for kind in FILE_TYPES if kind not in NEEDY),
    *((kind, True, []) for kind in (*MATRIX, "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq3_xxs", "iq3_xs", "q2_k_s")),
    ("q4_k_m", False, ["--pure"]),
    ("q4_k_m", True, ["--output-tensor-type", "q8_0", "--token-embedding-type", "q4_0"]),
    ("q4_0", False, ["--tensor-type", "attn_v=q8_0", "--tensor-type", "blk.[01].ffn=q6_k"]),
]


ODD_CASES = [
    case for case in CASES if case[0] in ("q2_0", "q2_k", "q3_k_m", "q4_k_m", "q5_k_s", "q6_k", "iq4_xs", "tq2_0")
]


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shape", ["even", "odd"])
def test_files_are_those_of_llama_quantize(shape: str, tmp_path: Path) -> None:
    """Keys but ours, tensor infos and every byte of data."""
    tool = peer("LLAMA_QUANTIZE")
    model = tmp_path / "model.gguf"
    write_stand_in(load_shape("tiny") if shape == "even" else odd_shape(), "f16", model)
    matrix = compute_imatrix(model, TEXT, tmp_path / "m.gguf", chunks=2, context_tokens=64, threads=2)
    for kind, with_matrix, options in CASES if shape == "even" else ODD_CASES:
        theirs, ours = tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
        chosen = [*options, *(["--imatrix", matrix.name] if with_matrix else [])]
        run_peer([tool, *chosen, model.name, theirs.name, kind, "2"], tmp_path)
        flags = dict(zip(options[::2], options[1::2], strict=False)) if "--pure" not in options else {}
        quantize_gguf(
            model,
            ours,
            kind,
            imatrix=matrix if with_matrix else None,
            tensor_types=[tuple(value.split("=")) for value in options[1::2] if "=" in value],  # type: ignore[misc]
            output_type=flags.get("--output-tensor-type"),
            embedding_type=flags.get("--token-embedding-type"),
            pure="--pure" in options,
            threads=2,
            force=True,
        )
        expected, found = read_parts(theirs), read_parts(ours)
        mine = {key: value for key, value in found[0].items() if not key.startswith("edgekit.") or key in expected[0]}
        assert mine == expected[0], kind
        assert list(mine) == list(expected[0]), kind
        assert found[1] == expected[1], kind
        assert found[2] == expected[2], kind


@pytest.mark.reference
@pytest.mark.slow
def test_shards_give_the_same_file(source: Path, tmp_path: Path) -> None:
    tool = peer("LLAMA_QUANTIZE").with_name("llama-gguf-split")
    run_peer([tool, "--split", "--split-max-tensors", "20", source, "part"], tmp_path)
    first = tmp_path / "part-00001-of-00003.gguf"
    whole = read_parts(quantize_gguf(source, tmp_path / "whole.gguf", "q4_k_m", threads=2))
    split = read_parts(quantize_gguf(first, tmp_path / "split.gguf", "q4_k_m", threads=2))
    assert split[1:] == whole[1:]
    expected = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(tmp_path.glob("part-*"))))
    assert split[0]["edgekit.parent.sha256"] == expected.hexdigest()


@pytest.mark.reference
@pytest.mark.slow
def test_experts_are_those_of_llama_quantize(source: Path, tmp_path: Path) -> None:
    """Each expert has its own importance."""
    tool = peer("LLAMA_QUANTIZE")
    model = write_routed(source, tmp_path / "routed.gguf")
    matrix = compute_imatrix(model, TEXT, tmp_path / "m.gguf", chunks=2, context_tokens=64, threads=2)
    run_peer([tool, "--imatrix", matrix.name, model.name, "theirs.gguf", "q4_k_m", "2"], tmp_path)
    ours = quantize_gguf(model, tmp_path / "ours.gguf", "q4_k_m", imatrix=matrix, threads=2)
    assert read_parts(ours)[1:] == read_parts(tmp_path / "theirs.gguf")[1:]
