"""Sensitivities measured on a trained tiny student, and what is concluded from them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from students import tiny_student

from edgekit import corpus
from edgekit.checkpoint import open_checkpoint
from edgekit.errors import EdgekitError
from edgekit.header import read_header, tensor_offsets
from edgekit.pipeline import open_artifact
from edgekit.quantize.cells import Probe, Sensitivities, total_kld
from edgekit.quantize.convert import convert
from edgekit.quantize.degrading import Matrix, degraded, matrices_of, quantizable, relative_errors, types_for
from edgekit.quantize.extending import extend, judge
from edgekit.quantize.ggml_types import dequantize_rows, quantize_rows
from edgekit.quantize.imatrix import compute_imatrix, read_imatrix
from edgekit.quantize.llama_quantize import planned_types, quantize_gguf
from edgekit.quantize.outputs import sha256_of
from edgekit.quantize.plan import file_type, tensor_types, types_of
from edgekit.quantize.pricing import planned_header
from edgekit.quantize.probing import open_prober
from edgekit.quantize.schedule import schedule
from edgekit.quantize.sensitivity import load_or_measure, measure
from edgekit.quantize.solver import solve
from edgekit.records import Budget, Estimate, Header, TensorInfo
from edgekit.storage import from_json, to_json

TYPES = ("q3_k", "q4_k", "iq4_xs", "q5_k", "q6_k", "q8_0", "f16")
CALIBRATION = corpus.text("calibration", characters=8_000)
THREADS = 2


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sensitivity") / "tiny-f32.gguf"
    return convert(open_checkpoint(tiny_student("qwen3")), out, type="f32")


@pytest.fixture(scope="module")
def imatrix(source: Path) -> Path:
    return compute_imatrix(source, CALIBRATION, source.with_name("tiny.imatrix"), threads=THREADS)


@pytest.fixture(scope="module")
def header(source: Path) -> Header:
    return read_header(source)


@pytest.fixture(scope="module")
def sens(source: Path, imatrix: Path) -> Sensitivities:
    return measure(source, imatrix=imatrix, text=CALIBRATION, types=TYPES, probes=24, threads=THREADS)


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


# ---- in place -----------------------------------------------------------------------------------------------------


def test_probing_in_place_agrees_with_a_file_of_those_types(
    source: Path, imatrix: Path, header: Header, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tensors degraded in the full-precision model, against the real quantized file scored by the bench's own
    scorer. The kernels also round what they multiply with, which only the file has: a few per cent more.
    """
    from edgekit.bench import evaluate

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = sha256_of([source])
    made = quantize_gguf(source, source.with_name("q4.gguf"), "q4_k_m", imatrix=imatrix, threads=THREADS)
    types = {tensor.name: tensor.type for tensor in read_header(made).tensors if len(tensor.shape) > 1}
    with open_prober(source, header, read_imatrix(imatrix), context_tokens=256, threads=THREADS) as prober:
        prober.read(CALIBRATION, 256)
        prober.remember(range(8))
        assert not list(
            tmp_path.rglob("*.gguf")
        )  # the mapping keeps the scratch file alive: nothing can be left behind
        assert prober.score() == (0.0,) * 8
        prober.put(types)
        probed = mean(prober.score())
        prober.restore(types)
        assert prober.score() == (0.0,) * 8
    assert not list(tmp_path.iterdir())
    assert sha256_of([source]) == before
    quality = evaluate(
        open_artifact(made), open_artifact(source), CALIBRATION, context_tokens=256, chunks=8, threads=THREADS
    )
    assert isinstance(quality.kld_mean, Estimate)
    assert probed == pytest.approx(quality.kld_mean.value, rel=0.2)
    assert probed > 1e-4


def test_offsets_are_those_of_the_gguf_package(source: Path) -> None:
    from gguf import GGUFReader

    theirs = {tensor.name: tensor.data_offset for tensor in GGUFReader(source).tensors}
    ours = dict(zip((tensor.name for tensor in read_header(source).tensors), tensor_offsets(source), strict=True))
    assert ours == theirs


# ---- errors -------------------------------------------------------------------------------------------------------


def test_errors_are_weighed_and_fall_with_bits() -> None:
    chance = np.random.default_rng(1)
    rows = chance.normal(size=(96, 256)).astype(np.float32)
    importance = chance.exponential(size=256).astype(np.float32)
    with ThreadPoolExecutor(2) as pool:
        back = degraded(rows, "q4_k", importance, pool)
        kinds = ("q3_k", "q4_k", "q6_k", "q8_0", "f16")
        table = relative_errors([Matrix(rows.view(np.uint8), "f32", importance)], kinds, pool)
        plain = relative_errors([Matrix(rows.view(np.uint8), "f32", None)], ("q4_k",), pool)
    whole = dequantize_rows(quantize_rows(rows, "q4_k", importance), "q4_k", rows.shape)
    assert np.array_equal(back, whole)
    wanted = ((rows - whole) ** 2 @ importance).sum() / (rows**2 @ importance).sum()
    assert table["q4_k"] == pytest.approx(wanted, rel=1e-4)
    assert table["q3_k"] > table["q4_k"] > table["q6_k"] > table["q8_0"] > table["f16"] > 0
    assert plain["q4_k"] > table["q4_k"]


@pytest.mark.parametrize("stored", ["f32", "f16", "bf16"])
def test_each_expert_is_rewritten_by_its_own_importance(stored: str) -> None:
    """In parts and threads, and yet what the quantizer would make of the whole."""
    chance = np.random.default_rng(2)
    values = chance.normal(size=(2, 300, 512)).astype(np.float32)
    importance = chance.exponential(size=(2, 512)).astype(np.float32)
    raw = np.frombuffer(quantize_rows(values.reshape(600, 512), stored), np.uint8)
    tensor = TensorInfo(name="blk.0.ffn_up_exps.weight", type=stored, shape=(512, 300, 2), size_bytes=raw.size)
    written = np.zeros_like(raw)
    start = 0
    with ThreadPoolExecutor(3) as pool:
        for matrix in matrices_of(tensor, raw, {tensor.name: importance}):
            for row, data in matrix.rewritten("q4_k", pool):
                place = start + row * matrix.stored.shape[1]
                written[place : place + len(data)] = np.frombuffer(data, np.uint8)
            start += matrix.stored.nbytes
    found = dequantize_rows(written.tobytes(), stored, values.shape)
    source = dequantize_rows(raw.tobytes(), stored, values.shape)
    for expert in range(2):
        wanted = dequantize_rows(quantize_rows(source[expert], "q4_k", importance[expert]), "q4_k", (300, 512))
        assert np.allclose(found[expert], wanted, rtol=2**-8, atol=1e-6)
        assert np.abs(found[expert] - source[expert]).max() > 0.01


def test_types_that_fit(header: Header) -> None:
    narrow = TensorInfo(name="blk.0.attn_q.weight", type="f16", shape=(96, 8), size_bytes=1536)
    assert types_for(narrow, ("q4_k", "q4_0", "iq3_xxs", "f16", "f32"), weighed=True) == ("q4_0", "f16")
    wide = replace(narrow, shape=(256, 8))
    assert "iq3_xxs" not in types_for(wide, ("q4_k", "iq3_xxs"), weighed=False)
    names = {tensor.name for tensor in quantizable(header)}
    assert "token_embd.weight" in names
    assert not any("norm" in name for name in names)


def test_a_quantized_source_is_refused(header: Header) -> None:
    quantized = planned_header(header, {"blk.0.attn_q.weight": "q8_0"})
    with pytest.raises(EdgekitError, match="full-precision"):
        quantizable(quantized)


# ---- what is measured ---------------------------------------------------------------------------------------------


def tensors_of(layers: int) -> list[TensorInfo]:
    kinds = ("attn_q", "attn_v", "ffn_up", "ffn_down")
    names = ["token_embd.weight", *(f"blk.{i}.{kind}.weight" for i in range(layers) for kind in kinds)]
    return [TensorInfo(name=name, type="f16", shape=(256, 256), size_bytes=2**17) for name in names]


@pytest.mark.parametrize("probes", [8, 20, 40, 150])
def test_too_many_tensors_are_grouped_by_kind_and_depth(probes: int) -> None:
    tensors = tensors_of(32)
    jobs = schedule(tensors, {tensor.name: TYPES for tensor in tensors}, probes)
    used = [job for job in jobs if not job.held_out and job.type == "q4_k"]
    covered = [name for job in used for name in job.tensors]
    assert sorted(covered) == sorted(tensor.name for tensor in tensors)
    assert len(jobs) <= probes
    for job in used:
        kinds = {name.split(".")[-2] for name in job.tensors}
        layers = [int(name.split(".")[1]) for name in job.tensors if name.startswith("blk")]
        assert len(kinds) == 1
        assert layers == list(range(layers[0], layers[0] + len(layers))) if layers else True
    held = [job for job in jobs if job.held_out]
    assert held
    assert all(len(job.tensors) == 1 for job in held)
    others = [job for job in jobs if job.type != "q4_k"]
    assert others
    assert {job.tensors for job in others} <= {job.tensors for job in used}


def test_small_models_are_measured_tensor_by_tensor_and_type_by_type() -> None:
    tensors = tensors_of(2)
    allowed = {tensor.name: TYPES for tensor in tensors}
    jobs = schedule(tensors, allowed, 30)
    assert [(job.type, job.held_out) for job in jobs[:9]] == [("q4_k", False)] * 9
    assert [job.held_out for job in jobs[9:12]] == [True] * 3
    assert len(jobs) == 30
    measured = [job.type for job in jobs if not job.held_out]
    assert measured.count("q5_k") == 9
    assert set(measured) == set(TYPES) - {"f16"}
    everything = schedule(tensors, allowed, 1000)
    assert len({(job.tensors, job.type) for job in everything}) == len(everything) == 9 * 6
    assert not any(job.held_out for job in everything)


# ---- what is concluded --------------------------------------------------------------------------------------------


def test_extension_is_exact_where_kld_is_proportional() -> None:
    factors = {"a": 0.02, "b": 0.5, "c": 0.5}
    bits = {"q3_k": 0.03, "q4_k": 0.006, "q6_k": 0.0004, "f16": 0.0}
    errors = {(name, kind): error * (2 if name == "c" else 1) for name in factors for kind, error in bits.items()}

    def kld(name: str, kind: str) -> float:
        return factors[name] * errors[name, kind]

    group = kld("b", "q4_k") + kld("c", "q4_k")
    probes = [
        Probe(tensors=("a",), type="q4_k", kld=(kld("a", "q4_k"),) * 4),
        Probe(tensors=("b", "c"), type="q4_k", kld=(group * 0.9, group * 1.1)),
        Probe(tensors=("a",), type="q3_k", kld=(9.0, 9.0), held_out=True),
    ]
    cells = {(cell.tensor, cell.type): cell for cell in extend(probes, errors)}
    assert set(cells) == set(errors)
    for (name, kind), cell in cells.items():
        assert cell.kld == pytest.approx(kld(name, kind)), (name, kind)
        assert cell.measured == ((name, kind) == ("a", "q4_k"))
    assert cells["b", "q6_k"].probe == 1


def test_types_that_lose_more_than_their_error_are_known_by_others_of_their_type() -> None:
    """Where one type costs three times what its error says, a few tensors of it tell for all."""
    names = [f"t{i}" for i in range(12)]
    errors = {(name, kind): error for name in names for kind, error in (("q4_k", 0.006), ("iq3_s", 0.018))}
    factor = {name: 0.01 * (1 + index) for index, name in enumerate(names)}

    def probe(name: str, kind: str, **more: bool) -> Probe:
        kld = factor[name] * errors[name, kind] * (3 if kind == "iq3_s" else 1)
        return Probe(tensors=(name,), type=kind, kld=(kld,) * 3, **more)

    probes = [probe(name, "q4_k") for name in names] + [probe(name, "iq3_s") for name in names[:6]]
    probes += [probe(name, "iq3_s", held_out=True) for name in names[6:]]
    miss, correlation = judge(probes, errors)
    assert miss is not None
    assert 1 < miss < 1.5
    assert correlation == pytest.approx(1.0)
    blind, _ = judge([one for one in probes if one.type == "q4_k" or one.held_out], errors)
    assert blind == pytest.approx(3.0)


def test_an_unmeasured_type_lies_between_its_neighbours() -> None:
    errors = {("a", "q3_k"): 0.04, ("a", "q4_k"): 0.01, ("a", "q6_k"): 0.0025}
    probes = [
        Probe(tensors=("a",), type="q3_k", kld=(0.32,) * 3),
        Probe(tensors=("a",), type="q6_k", kld=(0.005,) * 3),
    ]
    cells = {cell.type: cell.kld for cell in extend(probes, errors)}
    assert (cells["q3_k"], cells["q6_k"]) == pytest.approx((0.32, 0.005))
    assert 0.02 < cells["q4_k"] < 0.08


def test_a_tensor_without_effect_costs_nothing() -> None:
    errors = {("a", "q4_k"): 0.01, ("a", "q8_0"): 0.0}
    cells = extend([Probe(tensors=("a",), type="q4_k", kld=(0.0,) * 3)], errors)
    assert [cell.kld for cell in cells] == [0.0, 0.0]


def test_every_tensor_has_every_type_and_more_bits_lose_less(sens: Sensitivities, header: Header) -> None:
    klds = {(cell.tensor, cell.type): cell.kld for cell in sens.cells}
    assert set(klds) == {(tensor.name, kind) for tensor in quantizable(header) for kind in TYPES}
    for tensor in quantizable(header):
        assert klds[tensor.name, "q3_k"] > klds[tensor.name, "q4_k"] > klds[tensor.name, "q6_k"] > 0
        assert klds[tensor.name, "f16"] < 1e-3 * klds[tensor.name, "q4_k"]
        assert any(cell.measured for cell in sens.cells if cell.tensor == tensor.name)
    assert sens.base == (0.0,) * len(sens.scored_tokens)
    assert len(sens.scored_tokens) >= 4


def test_groups_of_tensors_lose_what_their_members_do(sens: Sensitivities, source: Path, imatrix: Path) -> None:
    """With fewer probes than tensors. Which member loses how much the error table cannot tell: the first and the last
    of two layers differ eightfold here.
    """
    found = measure(source, imatrix=imatrix, text=CALIBRATION, types=("q4_k", "q6_k"), probes=10, threads=THREADS)
    alone = {(cell.tensor, cell.type): cell.kld for cell in sens.cells}
    grouped = {(cell.tensor, cell.type): cell.kld for cell in found.cells}
    assert {name for name, _ in grouped} == {name for name, _ in alone}
    pairs = [probe.tensors for probe in found.probes if len(probe.tensors) == 2 and probe.type == "q4_k"]
    assert len(pairs) == 7
    for pair in pairs:
        assert sum(grouped[name, "q4_k"] for name in pair) == pytest.approx(
            sum(alone[name, "q4_k"] for name in pair), rel=0.35
        )
        assert all(0 < grouped[name, "q6_k"] < grouped[name, "q4_k"] for name in pair)


def test_parts_add_up_to_the_whole(sens: Sensitivities, source: Path, imatrix: Path, header: Header) -> None:
    """Errors of different tensors are all but independent: the sum of their KLD is the joint one within a quarter."""
    chosen = [cell for cell in sens.cells if cell.type == "q4_k"]
    total = total_kld(sens, chosen)
    with open_prober(source, header, read_imatrix(imatrix), context_tokens=sens.context_tokens) as prober:
        prober.read(CALIBRATION, sens.context_tokens)
        prober.remember(range(prober.possible_chunks))
        prober.put({cell.tensor: cell.type for cell in chosen})
        joint = mean(prober.score())
    assert isinstance(total, Estimate)
    assert total.value == pytest.approx(joint, rel=0.25)
    assert total.low < total.value < total.high


def test_kept_sensitivities_are_not_measured_again(
    sens: Sensitivities, source: Path, imatrix: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text(to_json(sens), encoding="utf-8")
    assert from_json(kept.read_bytes(), Sensitivities, origin="kept") == sens
    stages = []

    def listen(stage: str, done: float, total: float, detail: str = "") -> None:
        stages.append(stage)

    found = load_or_measure(
        kept, source, imatrix=imatrix, text=CALIBRATION, types=TYPES, minutes=0, threads=THREADS, progress=listen
    )
    assert found == sens
    assert set(stages) <= {"hashing"}
    other = load_or_measure(
        kept, source, imatrix=None, text=CALIBRATION, types=("q4_k",), minutes=0, threads=THREADS, progress=listen
    )
    assert "measuring sensitivity" in stages
    assert other.imatrix_sha256 == ""
    assert from_json(kept.read_bytes(), Sensitivities, origin="kept") == other


def test_a_text_too_short_is_refused(source: Path) -> None:
    with pytest.raises(EdgekitError, match="too short"):
        measure(source, imatrix=None, text="too short by far", types=("q4_k",), minutes=0, threads=THREADS)


# ---- what it is for -----------------------------------------------------------------------------------------------


def test_a_plan_of_the_same_bytes_beats_the_stock_mix_on_held_out_text(
    sens: Sensitivities, source: Path, imatrix: Path, header: Header, tmp_path: Path
) -> None:
    from edgekit.bench import evaluate

    stock = dict(planned_types(source, "q4_k_m", imatrix=imatrix))
    stock_bytes = sum(
        tensor.size_bytes
        for tensor in planned_header(header, {t.name: stock[t.name] for t in quantizable(header)}).tensors
    )
    weights = sum(math.prod(tensor.shape) for tensor in header.tensors)
    plan = solve(sens, header, budget=Budget(bits_per_weight=stock_bytes * 8 / weights))
    assert plan.size_bytes <= stock_bytes
    mine = quantize_gguf(
        source,
        tmp_path / "plan.gguf",
        file_type(plan, header),
        imatrix=imatrix,
        tensor_types=tensor_types(plan),
        threads=THREADS,
    )
    written = read_header(mine)
    assert {tensor.name: tensor.type for tensor in written.tensors if tensor.name in types_of(plan)} == types_of(plan)
    assert sum(tensor.size_bytes for tensor in written.tensors) == plan.size_bytes
    theirs = quantize_gguf(source, tmp_path / "stock.gguf", "q4_k_m", imatrix=imatrix, threads=THREADS)
    text = corpus.text("evaluation", characters=30_000)
    reference = open_artifact(source)
    klds = []
    for made in (mine, theirs):
        figure = evaluate(open_artifact(made), reference, text, context_tokens=256, threads=THREADS).kld_mean
        assert isinstance(figure, Estimate)
        klds.append(figure.value)
    assert klds[0] < 0.95 * klds[1]
