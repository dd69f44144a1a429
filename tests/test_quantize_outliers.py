"""Where the KLD of a quantized student comes from: the tensor that was made too coarse is named, and what mends it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import breakages
import numpy as np
import pytest
from breakages import Copy, broken
from routed import write_routed
from students import random_student, tiny_student

from edgekit import corpus
from edgekit.bench import evaluate
from edgekit.checkpoint import open_checkpoint
from edgekit.errors import EdgekitError
from edgekit.header import read_header
from edgekit.pipeline import open_artifact
from edgekit.quantize.convert import convert
from edgekit.quantize.llama_quantize import exactly, quantize_gguf
from edgekit.quantize.mending import is_damaged, mending_types
from edgekit.quantize.outliers import find_outliers
from edgekit.quantize.outputs import sha256_of
from edgekit.quantize.pairing import open_pair
from edgekit.quantize.parts import Part, label_of, layer_of, outstanding
from edgekit.records import Estimate, Figure, Layers, Settings
from edgekit.storage import from_json, to_json

TEXT = corpus.text("calibration", characters=6_500)
CULPRIT = "blk.0.ffn_down.weight"
THREADS = 2
CHUNKS = 99  # all that the text fills, as the bench scores them


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outliers")


@pytest.fixture(scope="module")
def parent(folder: Path) -> Path:
    return convert(open_checkpoint(tiny_student("qwen3")), folder / "tiny-f16.gguf", type="f16")


def quantized(parent: Path, name: str, kind: str, **types: str) -> Path:
    chosen = tuple((exactly(tensor.replace("__", ".")), one) for tensor, one in types.items())
    return quantize_gguf(parent, parent.with_name(name), kind, tensor_types=chosen, threads=THREADS)


@pytest.fixture(scope="module")
def healthy(parent: Path) -> Path:
    return quantized(parent, "tiny-q8_0.gguf", "q8_0")


@pytest.fixture(scope="module")
def coarse(parent: Path) -> Path:
    """Everything q8_0, one tensor q2_k."""
    return quantized(parent, "tiny-coarse.gguf", "q8_0", **{CULPRIT.replace(".", "__"): "q2_k"})


@pytest.fixture(scope="module")
def found(coarse: Path, parent: Path) -> Layers:
    return find(coarse, parent)


def find(artifact: Path, reference: Path, *, probes: int = 1000) -> Layers:
    return find_outliers(artifact, reference, TEXT, chunks=CHUNKS, probes=probes, threads=THREADS)


def known(figure: Figure) -> Estimate:
    assert isinstance(figure, Estimate), figure
    return figure


def kld(artifact: Path, reference: Path) -> float:
    """By the bench's own scorer, on every chunk of the text."""
    settings = Settings(repack=False)
    quality = evaluate(open_artifact(artifact), open_artifact(reference), TEXT, threads=THREADS, settings=settings)
    return known(quality.kld_mean).value


# ---- the culprit ----------------------------------------------------------------------------------------------------


def test_the_coarse_tensor_is_named_and_no_other(found: Layers) -> None:
    first, *rest = found.rows
    assert (first.group, first.layer, first.tensors, first.types) == ("blk.0.ffn_down", 0, (CULPRIT,), ("q2_k",))
    assert first.share > 0.9
    assert first.suggestion
    assert not any(row.suggestion or row.suggested_extra_bytes for row in rest)
    assert known(first.kld).low > max(known(row.kld).high for row in rest)
    assert [finding.code for finding in found.findings] == ["quantization-outlier"]
    assert "`blk.0.ffn_down` (q2_k)" in found.findings[0].message
    assert f"as `{first.suggestion}`" in found.findings[0].hint


def test_every_quantized_tensor_has_its_own_row_worst_first(found: Layers, coarse: Path) -> None:
    header = read_header(coarse)
    wanted = {tensor.name for tensor in header.tensors if len(tensor.shape) > 1}
    assert [row.tensors[0] for row in found.rows if len(row.tensors) > 1] == []
    assert {row.tensors[0] for row in found.rows} == wanted
    sizes = {tensor.name: tensor.size_bytes for tensor in header.tensors}
    assert all(row.size_bytes == sizes[row.tensors[0]] for row in found.rows)
    klds = [known(row.kld).value for row in found.rows]
    assert klds == sorted(klds, reverse=True)
    assert min(klds) > 0
    assert math.fsum(row.share for row in found.rows) == pytest.approx(1)
    assert found.chunks >= 4


def test_the_suggestion_does_what_it_says(found: Layers, coarse: Path, parent: Path, healthy: Path) -> None:
    """Made in that type, the file grows by what was said, and loses a fifth of what it lost by the tensor, or less."""
    first = found.rows[0]
    mended = quantized(parent, "tiny-mended.gguf", "q8_0", **{CULPRIT.replace(".", "__"): first.suggestion})
    sizes = [sum(tensor.size_bytes for tensor in read_header(path).tensors) for path in (coarse, mended)]
    assert sizes[1] - sizes[0] == first.suggested_extra_bytes > 0
    before, after, least = (kld(path, parent) for path in (coarse, mended, healthy))
    assert after - least < 0.2 * (before - least)
    assert known(first.suggested_kld).value < 0.2 * known(first.kld).value


def test_no_cheaper_type_would_have_done(found: Layers, coarse: Path, parent: Path) -> None:
    pair = open_pair(coarse, parent, threads=THREADS)
    group = [one for one in pair.changed if one.ours.name == CULPRIT]
    with ThreadPoolExecutor(THREADS) as pool:
        kinds = mending_types(pair, group, pool)
        assert not is_damaged(pair, group, pool)
    assert kinds[0] == (found.rows[0].suggestion, found.rows[0].suggested_extra_bytes)
    costs = [extra for _, extra in kinds]
    assert costs == sorted(costs)
    assert {"q2_k", "q3_k"}.isdisjoint(dict(kinds))
    assert "f16" in dict(kinds)


def test_parts_and_whole_are_what_the_bench_measures(found: Layers, coarse: Path, parent: Path, tmp_path: Path) -> None:
    """A part is the KLD of a full-precision file with those values in it. All at once lose less than the artifact,
    whose kernels also round what they multiply with.
    """
    mixed, source = Copy(parent), Copy(coarse)
    mixed[CULPRIT] = source[CULPRIT]
    part = kld(mixed.write(tmp_path / "mixed.gguf"), parent)
    assert known(found.rows[0].kld).value == pytest.approx(part, rel=1e-3)
    assert known(found.whole).value == pytest.approx(kld(coarse, parent), rel=1e-3)
    for row in found.rows[1:]:
        mixed[row.tensors[0]] = source[row.tensors[0]]
    assert known(found.weights).value == pytest.approx(kld(mixed.write(tmp_path / "all.gguf"), parent), rel=1e-3)
    assert known(found.sum).value == pytest.approx(known(found.weights).value, rel=0.1)
    assert known(found.weights).value == pytest.approx(known(found.whole).value, rel=0.25)
    for figure in (found.whole, found.weights, found.sum):
        assert known(figure).low < known(figure).value < known(figure).high


def test_nothing_stands_out_of_a_healthy_build(healthy: Path, parent: Path) -> None:
    layers = find(healthy, parent)
    assert known(layers.whole).value < 5e-5
    assert not layers.findings
    assert not any(row.suggestion for row in layers.rows)


def test_the_record_comes_back_from_its_file(found: Layers, coarse: Path, parent: Path) -> None:
    assert from_json(to_json(found), Layers, origin="layers") == found
    assert (found.artifact_sha256, found.reference_sha256) == (sha256_of([coarse]), sha256_of([parent]))


def test_experts_count_as_one_tensor(parent: Path, tmp_path: Path) -> None:
    routed = write_routed(parent, tmp_path / "routed-f16.gguf")
    name = "blk.1.ffn_down_exps.weight"
    coarse = quantize_gguf(
        routed, tmp_path / "routed.gguf", "q8_0", tensor_types=((exactly(name), "q2_k"),), threads=THREADS
    )
    layers = find(coarse, routed, probes=1)
    assert name in layers.rows[0].tensors
    assert layers.rows[0].suggestion
    assert known(layers.sum).value == pytest.approx(known(layers.weights).value, rel=0.25)


# ---- too little time ------------------------------------------------------------------------------------------------


def test_without_time_for_all_neighbours_go_together_and_the_worst_are_halved(
    coarse: Path, parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifteen tensors, eighteen probes: not enough for each, and enough to get to the bottom of one band. Nothing is
    written but a scratch copy.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = [sha256_of([path]) for path in (coarse, parent)]
    layers = find(coarse, parent, probes=18)
    assert not list(tmp_path.iterdir())
    assert [sha256_of([path]) for path in (coarse, parent)] == before
    assert any(len(row.tensors) == 2 for row in layers.rows)
    assert layers.rows[0].tensors == (CULPRIT,)
    assert layers.rows[0].suggestion
    assert "for want of time" in layers.method
    names = [name for row in layers.rows for name in row.tensors]
    assert sorted(names) == sorted(tensor.name for tensor in read_header(coarse).tensors if len(tensor.shape) > 1)


def test_with_no_time_at_all_every_kind_is_measured_once(coarse: Path, parent: Path) -> None:
    layers = find_outliers(coarse, parent, 2 * TEXT, chunks=6, minutes=0, threads=THREADS)
    assert layers.chunks == 4
    assert len(layers.rows) == 8
    assert layers.rows[0].group == "blk.0-1.ffn_down"
    assert layers.rows[0].layer is None
    assert layers.rows[0].types == ("q2_k", "q8_0")
    assert layers.rows[0].suggestion
    assert not isinstance(layers.rows[0].suggested_kld, Estimate)  # foreseen: there was no time to measure it
    assert "by its error" in layers.findings[0].hint


# ---- what is not quantization ---------------------------------------------------------------------------------------


def test_a_damaged_tensor_is_told_from_a_coarse_one(healthy: Path, parent: Path) -> None:
    layers = find(broken(healthy, breakages.random_tensor, healthy.with_name("random.gguf")), parent)
    assert layers.rows[0].group == "blk.0.ffn_down"
    assert layers.rows[0].suggestion == ""
    assert layers.findings[0].code == "damaged-tensor"
    assert "blk.0.ffn_down" in layers.findings[0].message


def test_a_zeroed_norm_is_named_though_it_is_not_quantized(healthy: Path, parent: Path) -> None:
    layers = find(broken(healthy, breakages.zeroed_norm, healthy.with_name("norm.gguf")), parent, probes=1)
    assert layers.rows[0].tensors == ("blk.1.ffn_norm.weight",)
    assert layers.rows[0].suggestion == ""
    codes = {finding.code: finding.message for finding in layers.findings}
    assert "blk.1.ffn_norm.weight" in codes["changed-tensors"]
    assert "blk.1.ffn_norm" in codes["damaged-tensor"]


def test_a_wrong_setting_is_named_and_no_tensor(healthy: Path, parent: Path) -> None:
    layers = find(broken(healthy, breakages.rope_base, healthy.with_name("rope.gguf")), parent, probes=1)
    assert layers.findings[0].code == "changed-settings"
    assert "qwen3.rope.freq_base" in layers.findings[0].message
    assert known(layers.whole).low > 10 * known(layers.sum).high
    assert not any(finding.code == "damaged-tensor" for finding in layers.findings)


# ---- bad input ------------------------------------------------------------------------------------------------------


def other_token(copy: Copy) -> None:
    copy.keys["tokenizer.ggml.tokens"][300] = "ottersong"


def refused(artifact: Path, reference: Path, text: str = TEXT, chunks: int = CHUNKS) -> str:
    with pytest.raises(EdgekitError) as caught:
        find_outliers(artifact, reference, text, chunks=chunks, probes=1, threads=THREADS)
    assert caught.value.code == 2
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("breakage", "reason"),
    [
        (other_token, "vocabularies differ first at token 300: `ottersong` in the artifact"),
        (breakages.nan_weights, "no numbers: `blk.1.ffn_up.weight`"),
        (lambda copy: copy.drop("blk.1.ffn_up.weight"), "lacks a tensor that the other has: `blk.1.ffn_up.weight`"),
    ],
)
def test_copies_that_cannot_be_compared_are_refused(
    healthy: Path, parent: Path, tmp_path: Path, breakage: Callable[[Copy], None], reason: str
) -> None:
    with np.errstate(invalid="ignore"):
        made = broken(healthy, breakage, tmp_path / "broken.gguf")
    assert reason in refused(made, parent)


def test_pairs_that_are_none_are_refused(healthy: Path, parent: Path, coarse: Path, tmp_path: Path) -> None:
    assert "nothing in the artifact is quantized" in refused(parent, parent)
    assert "reference is itself not of floats" in refused(coarse, healthy)
    other = convert(open_checkpoint(random_student("qwen3")), tmp_path / "random.gguf", type="f16")
    assert "was not made of this reference: its tensors differ by 1" in refused(healthy, other)
    llama = convert(open_checkpoint(tiny_student("llama")), tmp_path / "llama.gguf", type="f16")
    assert "another architecture: `llama`" in refused(healthy, llama)
    assert "`[300, 256]`" not in refused(healthy, llama)


def test_onnx_is_refused_with_what_to_do(parent: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08")
    with pytest.raises(EdgekitError, match="this is ONNX") as caught:
        find_outliers(tmp_path / "model.onnx", parent, TEXT)
    assert "--to gguf:" in caught.value.hint


def test_texts_that_give_no_range_are_refused(coarse: Path, parent: Path) -> None:
    assert "text is too short" in refused(coarse, parent, text="An otter.")
    assert "half a character at `3`" in refused(coarse, parent, text="ott\udc80r")
    with pytest.raises(EdgekitError, match="3 chunks"):
        find_outliers(coarse, parent, TEXT, chunks=2)


# ---- what stands out ------------------------------------------------------------------------------------------------


def parts_of(klds: np.ndarray) -> list[Part]:
    return [Part((f"blk.{index}.ffn_up.weight",), tuple(row)) for index, row in enumerate(klds.tolist())]


def test_equal_tensors_do_not_stand_out() -> None:
    chance = np.random.default_rng(1)
    for trial in range(120):
        shape = ((15, 40, 200)[trial % 3], (4, 8)[trial % 2])
        assert not any(outstanding(parts_of(np.exp(0.5 * chance.normal(size=shape))))), (trial, shape)


def test_one_that_loses_more_stands_out_unless_the_text_explains_it() -> None:
    chance = np.random.default_rng(2)
    klds = np.exp(0.2 * chance.normal(size=(20, 8)))
    klds[7] *= 8
    assert [index for index, loud in enumerate(outstanding(parts_of(klds))) if loud] == [7]
    wild = np.exp(0.2 * chance.normal(size=(20, 8)))
    wild[7, 3] = 100.0  # by one chunk alone
    assert not any(outstanding(parts_of(wild)))


def test_large_groups_do_not_stand_out_by_their_number() -> None:
    chance = np.random.default_rng(3)
    single = np.exp(0.1 * chance.normal(size=(10, 8)))
    parts = parts_of(single)
    names = tuple(f"blk.{layer}.attn_q.weight" for layer in range(12))
    band = Part(names, tuple((12 * np.exp(0.1 * chance.normal(size=8))).tolist()))
    assert band.mean > 0.5 * sum(part.mean for part in parts)
    assert not any(outstanding([*parts, band]))
    assert outstanding([*parts, replace(band, kld=tuple(6 * one for one in band.kld))])[-1]


def test_what_costs_nothing_does_not_stand_out() -> None:
    assert outstanding([Part(("output.weight",), (0.0,) * 4)]) == (False,)
    assert outstanding([Part(("output.weight",), (0.1, 0.2, 0.1, 0.2))]) == (True,)  # all that there is
    assert outstanding([Part(("output.weight",), (0.1,))]) == (False,)  # no range
    quiet = parts_of(np.full((20, 8), 1e-8))
    assert not any(outstanding([*quiet, Part(("output.weight",), (5e-5,) * 8)]))
    assert outstanding([*quiet, Part(("output.weight",), (5e-4,) * 8)])[-1]


def test_groups_are_named_by_their_layers() -> None:
    assert label_of(["output.weight"]) == "output"
    assert label_of(["blk.3.ffn_down.weight"]) == "blk.3.ffn_down"
    assert label_of([f"blk.{layer}.attn_v.weight" for layer in (4, 5, 6)]) == "blk.4-6.attn_v"
    assert layer_of(["blk.3.ffn_down.weight"]) == 3
    assert layer_of(["blk.3.a", "blk.4.a"]) is None
    assert layer_of(["output.weight"]) is None
