"""Projection: the label's types, the Gaussian algebra, the fitted file, and the figures with their refusals."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.devices import anchors as anchor_rows
from edgekit.devices import list_devices, load_device
from edgekit.errors import EdgekitError
from edgekit.memory import streamed_bytes
from edgekit.projection import calibration, kernel_family, kv_bytes, project_to, typemix
from edgekit.projection.calibration import KINDS, Point, Prior
from edgekit.records import Anchor, Device, Estimate, Header, Projection, Settings, Sourced, TensorInfo, Unknown
from edgekit.shapes import load_shape, plan_header

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))


def header_of(shape: str = "nano-1.5b", quant: str = "q4_0") -> Header:
    return plan_header(load_shape(shape), quant)


def bytes_of(header: Header) -> float:
    return float(sum(size_bytes for _, size_bytes in streamed_bytes(header)))


def anchor_of(header: Header, speed: float, **changes: object) -> Anchor:
    anchor = Anchor(
        id=f"test-{header.quant}-{speed}",
        model="test",
        quant=header.quant,
        bytes_per_token=bytes_of(header),
        threads=4,
        prompt_tokens=512,
        generated_tokens=128,
        decode_tokens_per_s=speed,
        source="a test",
    )
    return replace(anchor, **changes)  # type: ignore[arg-type]


def phone(*anchors: Anchor, **changes: object) -> Device:
    device = replace(load_device("pixel-8"), anchors=anchors, settings=Settings(threads=4))
    return replace(device, **changes)  # type: ignore[arg-type]


def decode_of(projection: Projection) -> Estimate:
    assert isinstance(projection.decode, Estimate)
    return projection.decode


def width(estimate: Estimate) -> float:
    return estimate.high / estimate.low


# ---- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quant", ["q4_0", "q4_k_m", "q6_k", "q8_0"])
@pytest.mark.parametrize("name", ["nano-0.6b", "nano-1.5b", "mini-3b", "base-7b"])
def test_a_label_unfolds_into_the_types_of_a_real_file(name: str, quant: str) -> None:
    header = header_of(name, quant)
    parameters = sum(math.prod(tensor.shape) for tensor in header.tensors)
    shape = typemix.shape_of(
        parameters=parameters,
        layers=header.layers,
        width=header.hidden,
        heads=header.heads[0],
        kv_heads=header.kv_heads[0],
        head_dim=header.key_dim,
        vocabulary=header.vocabulary,
        tied=header.tied_embedding,
    )
    expected = typemix.byte_shares(quant, shape)
    total = bytes_of(header)
    for tensor_type, size_bytes in streamed_bytes(header):
        assert expected.get(tensor_type, 0.0) == pytest.approx(size_bytes / total, abs=0.03)


def test_rows_that_256_does_not_divide_fall_back_to_32_blocks() -> None:
    gemma = typemix.shape_of(
        parameters=1e9, layers=26, width=1152, heads=4, kv_heads=1, head_dim=256, vocabulary=262144, tied=True
    )
    assert typemix.byte_shares("q6_k", gemma)["q8_0"] > 0.7
    body = typemix.body_shares("q4_k_m", gemma)
    assert body["q5_0"] > body["q4_k"] > 0  # only `ffn_down` has rows of 6912, a multiple of 256


def test_every_label_gives_shares_that_sum_to_one() -> None:
    for label in typemix.LABELS:
        for shares in (typemix.byte_shares, typemix.body_shares):
            assert sum(shares(label, typemix.generic_shape(1e9)).values()) == pytest.approx(1)


def test_published_sizes_agree_with_the_types_of_their_labels() -> None:
    from calibration_rows import read_rows

    # the sources quantize with recipes of their own for three-bit and smaller labels
    rows = [row for row in read_rows() if row.kv_bytes_per_token and row.label in ("q4_0", "q6_k", "q8_0", "q4_k_m")]
    off = []
    for row in rows:
        weights = row.shape.output + row.shape.body
        bits = 1 / sum(share / typemix.BITS[kind] for kind, share in row.shares.items())
        off.append(abs(weights * bits / 8e9 / row.streamed_gb - 1))
    assert len(off) > 100
    assert float(np.quantile(off, 0.9)) < 0.06


# ---- the algebra ----------------------------------------------------------------------------------------------------


def random_prior(seed: int) -> Prior:
    draw = np.random.default_rng(seed)
    size = len(calibration.FEATURES)
    root = draw.normal(size=(size, size)) * 0.2
    return Prior(
        mean=tuple(draw.normal(size=size).tolist()),
        covariance=tuple(map(tuple, (root @ root.T + 0.01 * np.eye(size)).tolist())),
        group_constant=0.02,
        group_kinds=0.01,
        model=0.005,
        cell=0.002,
        chance=0.004,
    )


def random_points(seed: int, count: int) -> list[Point]:
    draw = np.random.default_rng(seed)
    points = []
    for i in range(count):
        shares = draw.dirichlet(np.ones(len(KINDS)))
        features = (1.0, -float(draw.random()), *map(float, shares))
        points.append(
            Point(features=features, model=f"m{i % 3}", label="q4_0", group=f"g{i % 2}", log_rate=float(draw.normal()))
        )
    return points


def test_conditioning_agrees_with_numpy() -> None:
    prior, points = random_prior(1), random_points(2, 9)
    *anchors, target = points
    x = np.array([point.features for point in points])
    same = np.array([[(a.group == b.group, a.model == b.model) for b in points] for a in points], dtype=float)
    total = x @ np.array(prior.covariance) @ x.T
    total += same[:, :, 0] * (prior.group_constant + prior.group_kinds * (x[:, 2:] @ x[:, 2:].T))
    total += same[:, :, 1] * (prior.model + prior.cell) + prior.chance * np.eye(len(points))
    weights = np.linalg.solve(total[:-1, :-1], total[:-1, -1])
    surprise = np.array([a.log_rate for a in anchors]) - x[:-1] @ np.array(prior.mean)
    mean, deviation = calibration.predict(prior, anchors, target)
    assert mean == pytest.approx(float(x[-1] @ np.array(prior.mean) + weights @ surprise), rel=1e-9)
    assert deviation**2 == pytest.approx(float(total[-1, -1] - weights @ total[:-1, -1]), rel=1e-9)


def test_more_anchors_never_widen() -> None:
    prior, points = random_prior(3), random_points(4, 12)
    deviations = [calibration.predict(prior, points[:count], points[-1])[1] for count in range(12)]
    assert deviations == sorted(deviations, reverse=True)


# ---- the fitted file ------------------------------------------------------------------------------------------------


def test_the_file_says_what_it_was_fitted_from() -> None:
    fitted = calibration.load_fitted()
    data = ROOT / fitted["data"]
    assert fitted["data_sha256"] == hashlib.sha256(data.read_bytes()).hexdigest(), "run benchmarks/fit_projection.py"
    assert (ROOT / fitted["made_by"]).is_file()
    assert fitted["devices"] >= 25


@pytest.mark.slow
def test_the_fit_gives_the_file_again() -> None:
    import fit_projection as fit
    from calibration_rows import read_rows

    fitted = calibration.load_fitted()
    with fit.DATA.open(encoding="utf-8", newline="") as stream:
        raw = list(csv.DictReader(stream))
    assert json.dumps(fit.fit_depth(raw)) == json.dumps(fitted["depth"])
    rows = read_rows()
    for name in ("decode", "prefill"):
        quantity = fit.Quantity(name=name, depth_factor=fitted["depth"]["anchor_factor"])
        again = fit.fit_quantity(rows, quantity)
        for family, row in fitted[name]["families"].items():
            for key in ("mean", "covariance"):
                np.testing.assert_allclose(again["families"][family][key], row[key], atol=0.02)


@pytest.mark.slow
def test_an_unseen_phone_is_projected_within_a_fifth() -> None:
    import fit_projection as fit
    from calibration_rows import read_rows

    fitted = calibration.load_fitted()["decode"]
    quantity = fit.Quantity(name="decode", depth_factor=1.7)
    device = "MediaTek MT6899"
    held = fit.without_device(read_rows(), quantity, device, fitted["standard_deviations"], iterations=0)
    assert held
    usual = [pair for pair in held.anchored if pair.target.label in ("q4_0", "q4_k_m", "q6_k", "q8_0")]
    assert len(usual) > 1000
    assert float(np.median([abs(math.expm1(pair.error)) for pair in usual])) < 0.2
    covered = [abs(pair.error) < fitted["scale"]["anchored"] * pair.deviation for pair in usual]
    assert 0.8 < sum(covered) / len(covered) < 0.99


def test_profiles_and_data_agree_on_the_kernel_family() -> None:
    import tomllib

    from calibration_rows import DATA, family_of

    with DATA.open(encoding="utf-8", newline="") as stream:
        families = {row["device"]: family_of(row["soc"], row["device"], row["class"]) for row in csv.DictReader(stream)}
    checked = 0
    for device in list_devices():
        path = ROOT / "devices" / f"{device.name}.toml"
        for name in tomllib.loads(path.read_text(encoding="utf-8")).get("calibration", []):
            assert kernel_family(device) == families[name], device.name
            checked += 1
    assert checked > 10


# ---- figures --------------------------------------------------------------------------------------------------------


def test_the_same_file_gives_the_anchors_own_speed() -> None:
    header = header_of()
    projected = decode_of(project_to(phone(anchor_of(header, 20.0)), header, Settings(threads=4)))
    assert projected.value == pytest.approx(20.0, rel=0.05)
    assert projected.low < 20.0 < projected.high
    assert width(projected) < 1.7


def test_an_anchor_in_another_quantization_gives_a_wider_range() -> None:
    header = header_of()
    same = decode_of(project_to(phone(anchor_of(header, 20.0)), header, Settings(threads=4)))
    other = decode_of(project_to(phone(anchor_of(header_of(quant="q8_0"), 15.0)), header, Settings(threads=4)))
    none = decode_of(project_to(phone(), header, Settings(threads=4)))
    assert width(same) < width(other) < width(none)


def test_on_a_phone_q8_0_streams_faster_than_q6_k() -> None:
    device = phone(anchor_of(header_of(), 20.0))
    speeds = {}
    for quant in ("q6_k", "q8_0"):
        header = header_of(quant=quant)
        speeds[quant] = decode_of(project_to(device, header, Settings(threads=4))).value * bytes_of(header)
    assert speeds["q8_0"] > 1.2 * speeds["q6_k"]


def test_several_anchors_narrow_the_range_and_the_nearest_leads() -> None:
    header = header_of()
    near, far = anchor_of(header, 20.0), anchor_of(header_of("base-7b", "q8_0"), 2.0)
    one = decode_of(project_to(phone(far), header, Settings(threads=4)))
    two = decode_of(project_to(phone(near, far), header, Settings(threads=4)))
    assert width(two) < width(one)
    assert abs(two.value / 20.0 - 1) < 0.1 < abs(one.value / 20.0 - 1)


def test_anchors_of_other_threads_tell_less() -> None:
    header = header_of()
    device = phone(anchor_of(header, 20.0, threads=2))
    same = decode_of(project_to(device, header, Settings(threads=2)))
    other = decode_of(project_to(device, header, Settings(threads=4)))
    assert width(other) > 1.05 * width(same)


def test_no_figure_passes_the_bandwidth() -> None:
    header = header_of()
    for device in list_devices():
        projection = project_to(device, header, device.settings)
        if isinstance(projection.bandwidth_bound, Estimate):
            assert decode_of(projection).high <= projection.bandwidth_bound.value
        assert decode_of(projection).basis == "projected"


def test_without_bandwidth_an_anchor_carries_it_and_none_is_refused() -> None:
    header = header_of()
    nothing = project_to(phone(bandwidth_bytes_per_s=None), header, Settings())
    assert isinstance(nothing.decode, Unknown)
    assert isinstance(nothing.bandwidth_bound, Unknown)
    anchored = project_to(phone(anchor_of(header, 20.0), bandwidth_bytes_per_s=None), header, Settings(threads=4))
    assert decode_of(anchored).value == pytest.approx(20.0, rel=0.05)
    assert "bandwidth alone" in project_to(phone(), header, Settings()).method


def test_anchors_of_other_backends_and_engines_are_not_used() -> None:
    header = header_of()
    device = phone(
        anchor_of(header, 20.0, backend="opencl"),
        anchor_of(header, 20.0, runtime="MNN 3.0.4"),
        anchor_of(header, 20.0, runtime="ik_llama.cpp"),
        anchor_of(header, 20.0, quant="int4 (mnn)"),
    )
    assert project_to(device, header, Settings()).anchors == ()


def test_depth_costs_and_a_quantized_cache_is_no_gain() -> None:
    device, header = phone(anchor_of(header_of(), 20.0)), header_of()
    full, *small = (project_to(device, header, Settings(threads=4, kv_type=kind)) for kind in ("f16", "q8_0", "q4_0"))
    shallow, deep = (point.tokens_per_s for point in full.depths)
    assert isinstance(shallow, Estimate)
    assert isinstance(deep, Estimate)
    assert decode_of(full).value > shallow.value > deep.value
    for other in small:
        assert decode_of(other) == decode_of(full)
        quantized = other.depths[1].tokens_per_s
        assert isinstance(quantized, Estimate)
        assert (quantized.low, quantized.value, quantized.high) <= (deep.low, deep.value, deep.high)


def test_kv_bytes_of_a_known_shape_and_of_windows() -> None:
    header = header_of()  # 28 layers, 2 kv heads of 128, keys and values in 2 bytes
    assert kv_bytes(header, 1000, "f16") == 28 * 2 * 2 * 128 * 2 * 1000
    windowed = replace(header, sliding_window=(512,) * 28)
    assert kv_bytes(windowed, 1000, "f16") == 28 * 2 * 2 * 128 * 2 * 512


def test_sustained_needs_a_source() -> None:
    header = header_of()
    assert isinstance(project_to(phone(sustained_speed=None), header, Settings()).sustained, Unknown)
    kept = Sourced(value=0.5, low=0.4, high=0.7, source="a test")
    projection = project_to(phone(sustained_speed=kept), header, Settings())
    assert isinstance(projection.sustained, Estimate)
    assert projection.sustained.value == pytest.approx(0.5 * decode_of(projection).value)
    assert projection.sustained.low == pytest.approx(0.4 * decode_of(projection).low)


def test_prefill_comes_from_prefill_runs_only() -> None:
    header = header_of()
    decode_only = project_to(phone(anchor_of(header, 20.0)), header, Settings(threads=4))
    assert isinstance(decode_only.prefill, Unknown)
    assert "edgekit devices anchor" in decode_only.prefill.settle
    short = anchor_of(header, 20.0, prefill_tokens_per_s=100.0, prompt_tokens=16)
    assert isinstance(project_to(phone(short), header, Settings(threads=4)).prefill, Unknown)
    timed = anchor_of(header, 20.0, prefill_tokens_per_s=100.0)
    prefill = project_to(phone(timed), header, Settings(threads=4)).prefill
    assert isinstance(prefill, Estimate)
    assert prefill.value == pytest.approx(100.0, rel=0.1)


# ---- refusals -------------------------------------------------------------------------------------------------------


def retyped(header: Header, tensor_type: str) -> Header:
    return replace(header, tensors=tuple(replace(tensor, type=tensor_type) for tensor in header.tensors))


def refusal(device: Device, header: Header) -> Unknown:
    projection = project_to(device, header, Settings())
    assert isinstance(projection.decode, Unknown)
    assert isinstance(projection.prefill, Unknown)
    assert isinstance(projection.sustained, Unknown)
    assert not projection.calibrated
    assert projection.decode.settle
    return projection.decode


def test_types_nobody_has_run_are_refused() -> None:
    assert "`mxfp4`" in refusal(phone(), retyped(header_of(), "mxfp4")).reason
    assert "`tq2_0`" in refusal(phone(), retyped(header_of(), "tq2_0")).reason


def test_other_formats_and_instruction_sets_are_refused() -> None:
    assert "`onnx`" in refusal(phone(), replace(header_of(), format="onnx")).reason
    assert "`riscv64`" in refusal(phone(isa="riscv64"), header_of()).reason


def test_per_layer_embeddings_are_refused() -> None:
    table = TensorInfo(name="per_layer_token_embd.weight", type="q4_0", shape=(256, 1000), size_bytes=144000)
    header = header_of()
    assert "per-layer" in refusal(phone(), replace(header, tensors=(*header.tensors, table))).reason


def test_few_devices_behind_make_it_uncalibrated() -> None:
    rare = project_to(phone(), retyped(header_of(), "iq2_xs"), Settings())
    assert isinstance(rare.decode, Estimate)
    assert not rare.calibrated
    assert rare.devices_behind < 5
    assert "uncalibrated" in rare.method
    assert project_to(phone(), header_of(), Settings()).calibrated


def test_norms_in_f32_do_not_count_as_a_type_of_their_own() -> None:
    assert project_to(phone(), header_of(), Settings()).devices_behind >= 5


def test_the_runtime_does_not_need_numpy() -> None:
    code = "import sys, edgekit.projection; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_that_streams_more_than_the_memory_can_is_named() -> None:
    header = header_of()
    device = phone()
    assert device.bandwidth_bytes_per_s is not None
    most = max(device.bandwidth_bytes_per_s.value, device.bandwidth_bytes_per_s.high or 0) / bytes_of(header)
    impossible = anchor_of(header, 1.01 * most, id="a-gpu-row")
    why = refusal(phone(anchor_of(header, 20.0), impossible), header)
    assert "`a-gpu-row`" in why.reason
    assert "memory bandwidth" in why.reason


def test_a_range_beyond_the_bandwidth_is_refused_and_never_collapses() -> None:
    header = header_of(quant="q8_0")  # on phones q8_0 streams faster than q2_k, so that the projection goes beyond
    bandwidth = phone().bandwidth_bytes_per_s
    assert bandwidth is not None
    top = max(bandwidth.value, bandwidth.high or 0)
    refused = []
    for share in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99):
        quant = {"quant": "q2_k", "bytes_per_token": 6e8}
        anchors = (anchor_of(header, share * top / 6e8, id=f"a{i}", model=f"m{i}", **quant) for i in range(9))
        projection = project_to(phone(*anchors), header, Settings(threads=4))
        refused.append(isinstance(projection.decode, Unknown))
        if isinstance(projection.decode, Unknown):
            assert "exceed what the memory bandwidth allows" in projection.decode.reason
            assert isinstance(projection.sustained, Unknown)
            assert all(isinstance(point.tokens_per_s, Unknown) for point in projection.depths)
        else:
            most = top / bytes_of(header)
            assert projection.decode.low < 0.95 * most
            assert projection.decode.low < projection.decode.value <= projection.decode.high <= most
    assert refused == sorted(refused)
    assert {True, False} == set(refused)


def test_no_packaged_device_is_refused_for_speed() -> None:
    for shape in ("nano-0.6b", "nano-1.5b", "mini-3b", "base-7b"):
        for quant in ("q4_0", "q4_k_m", "q8_0"):
            header = header_of(shape, quant)
            for device in list_devices():
                decode = decode_of(project_to(device, header, device.settings))
                assert decode.low < decode.value <= decode.high, (device.name, shape, quant)


# ---- settings no run had --------------------------------------------------------------------------------------------


def timed_phone(**changes: object) -> Device:
    return phone(anchor_of(header_of(), 20.0, prefill_tokens_per_s=100.0), **changes)


def test_without_repacking_nothing_is_projected_where_the_runs_repacked() -> None:
    plain = Settings(threads=4, repack=False)
    projection = project_to(timed_phone(), header_of(), plain)
    for figure in (projection.decode, projection.prefill, projection.sustained, projection.depths[0].tokens_per_s):
        assert isinstance(figure, Unknown)
        assert "`repack` is off" in figure.reason
    assert isinstance(projection.decode, Unknown)
    assert "--no-repack" in projection.decode.settle
    assert isinstance(project_to(timed_phone(isa="x86_64+avx2"), header_of(quant="q8_0"), plain).decode, Estimate)


def test_without_flash_attention_prefill_and_depth_are_not_projected() -> None:
    projection = project_to(timed_phone(), header_of(), Settings(threads=4, flash_attention="off"))
    assert isinstance(projection.decode, Estimate)
    for figure in (projection.prefill, *(point.tokens_per_s for point in projection.depths)):
        assert isinstance(figure, Unknown)
        assert "flash" in figure.reason


@pytest.mark.parametrize("small", [Settings(threads=4, ubatch_tokens=64), Settings(threads=4, batch_tokens=32)])
def test_prefill_in_tiny_batches_is_not_projected(small: Settings) -> None:
    projection = project_to(timed_phone(), header_of(), small)
    assert isinstance(projection.decode, Estimate)
    assert isinstance(projection.prefill, Unknown)
    assert "`ubatch_tokens" in projection.prefill.reason
    usual = project_to(timed_phone(), header_of(), Settings(threads=4, ubatch_tokens=128, kv_type="q8_0", mmap=False))
    assert isinstance(usual.decode, Estimate)
    assert isinstance(usual.prefill, Estimate)


def test_fewer_threads_than_any_run_had_are_not_projected() -> None:
    header = header_of()
    projection = project_to(load_device("raspberry-pi-5"), header, Settings(threads=1))
    assert isinstance(projection.decode, Unknown)
    assert isinstance(projection.prefill, Unknown)
    assert "`threads = 1`" in projection.decode.reason
    assert "-t 1" in projection.decode.settle
    assert isinstance(project_to(load_device("raspberry-pi-5"), header, Settings(threads=2)).decode, Estimate)
    for bare in (phone(), load_device("oneplus-13")):  # no run there states its threads
        assert isinstance(project_to(bare, header, Settings(threads=1)).decode, Unknown)
        assert isinstance(project_to(bare, header, Settings(threads=4)).decode, Estimate)


def test_more_threads_than_cores_are_not_projected() -> None:
    device = load_device("raspberry-pi-5")
    for threads in (5, 64):
        decode = project_to(device, header_of(), Settings(threads=threads)).decode
        assert isinstance(decode, Unknown)
        assert f"`threads = {threads}`" in decode.reason
    more = replace(device, anchors=(anchor_of(header_of(), 11.0, threads=8),))
    assert isinstance(project_to(more, header_of(), Settings(threads=8)).decode, Estimate)


def test_several_builds_count_alike_however_fast() -> None:
    header = header_of()
    fast, slow = anchor_of(header, 24.0, runtime="llama.cpp a"), anchor_of(header, 16.0, runtime="llama.cpp b")
    both = decode_of(project_to(phone(fast, slow), header, Settings(threads=4)))
    assert both.value == pytest.approx(math.sqrt(24 * 16), rel=0.05)
    assert both.low < 16.0
    assert both.high > 24.0


# ---- the devices behind it ------------------------------------------------------------------------------------------


def test_the_file_counts_devices_by_family() -> None:
    import fit_projection as fit
    from calibration_rows import read_rows

    fitted, rows = calibration.load_fitted(), read_rows()
    for name in ("decode", "prefill"):
        quantity = fit.Quantity(name=name, depth_factor=fitted["depth"]["anchor_factor"])
        usable = [row for row in rows if quantity.usable(row)]
        assert fitted[name]["devices_by_kind"] == fit.devices_by_kind(usable, quantity)
        assert fitted[name]["devices_by_family"] == fit.devices_by_family(usable, quantity)


def test_devices_of_other_families_do_not_calibrate_alone() -> None:
    f16 = retyped(header_of(), "f16")  # five devices have run it, one of them a phone
    alone = project_to(phone(), f16, Settings(threads=4))
    assert isinstance(alone.decode, Estimate)
    assert not alone.calibrated
    assert "uncalibrated" in alone.method
    own = anchor_of(f16, 8.0, quant="f16")
    assert project_to(phone(own), replace(f16, quant="f16"), Settings(threads=4)).calibrated


def test_the_method_states_both_counts() -> None:
    projection = project_to(phone(), header_of(), Settings(threads=4))
    assert projection.calibrated
    assert "13 held-out devices" in projection.method
    assert "3 of the phone family" in projection.method


def test_a_kind_that_no_device_of_the_family_ran_is_refused() -> None:
    iq3 = retyped(header_of(), "iq3_s")
    projection = project_to(phone(), iq3, Settings(threads=4))
    assert isinstance(projection.decode, Unknown)
    assert "`iq3`" in projection.decode.reason
    assert not projection.calibrated
    own = anchor_of(iq3, 10.0, quant="iq3_s")
    assert isinstance(project_to(phone(own), replace(iq3, quant="iq3_s"), Settings(threads=4)).decode, Estimate)


def test_a_profile_holds_at_most_500_anchors() -> None:
    row = {"id": "a", "model": "m", "quant": "q4_0", "bytes_per_token": 1e9, "decode_tokens_per_s": 9.0, "source": "s"}
    assert len(anchor_rows.parse_anchors([row] * 500, origin="here")) == 500
    with pytest.raises(EdgekitError, match="too many anchors in `here`: 501"):
        anchor_rows.parse_anchors([row] * 501, origin="here")


# ---- the judge ------------------------------------------------------------------------------------------------------


def test_the_benchmark_weighs_devices_and_not_rows() -> None:
    import fit_projection as fit
    import projection as judge
    from calibration_rows import read_rows

    rows = read_rows()
    one, other = (next(row for row in rows if row.device == name) for name in ("BCM2711", "BCM2712"))
    good = [fit.Pair(anchor=one, target=one, error=0.0, deviation=0.1)] * 99
    bad = [fit.Pair(anchor=other, target=other, error=math.log(2), deviation=0.1)]
    summary = judge.summarize([(pair, 1.645) for pair in good + bad])
    assert summary is not None
    assert summary["mean_error"] == pytest.approx(0.5)
    assert summary["coverage"] == pytest.approx(0.5)
    assert fit.scale_for(good + bad) == pytest.approx(math.log(2) / 0.1)


def test_one_silicon_is_held_out_under_all_its_names() -> None:
    from calibration_rows import read_rows

    names: dict[str, set[str]] = {}
    for row in read_rows():
        names.setdefault(row.device, set()).add(row.group[0])
    assert {"Raspberry Pi 5", "Raspberry Pi 5 (2GB)"} <= names["BCM2712"]
    assert {"Raspberry Pi 4", "Raspberry Pi 4B", "Raspberry Pi 400 (4GB)"} <= names["BCM2711"]
    assert {"Mac M4 Max", "Mac M4 (Max)", "Apple M4 Max 12P+4E", "Mac M4 Max i8mm"} <= names["Apple M4 Max"]
    assert len({device for device, own in names.items() if any("OnePlus 13" in n or "S25" in n for n in own)}) == 1


# ---- smaller than anything that was run ---------------------------------------------------------------------------


def shrunk(header: Header, times: int) -> Header:
    """The same mix in so many times fewer rows of every matrix."""
    cut = [
        replace(one, shape=(*one.shape[:-1], max(1, one.shape[-1] // times)), size_bytes=one.size_bytes // times)
        for one in header.tensors
    ]
    return replace(header, tensors=tuple(cut))


@pytest.mark.parametrize("anchored", [False, True])
def test_what_a_token_costs_beside_its_bytes_is_in_the_range_of_the_smallest(anchored: bool) -> None:
    """A file of a megabyte streams in no time, and its tokens still take some: nobody has published how long."""
    device = phone(*([anchor_of(header_of(), 40.0)] if anchored else []))
    shown = [decode_of(project_to(device, shrunk(header_of(), times), Settings(threads=4))) for times in (1, 8, 512)]
    assert not shown[0].note.startswith("1"), "published sizes stay as they were fitted"
    assert width(shown[2]) > width(shown[1]) > width(shown[0])
    assert "× smaller than any model that was run" in shown[2].note
    assert shown[2].low < 3 * shown[1].low, "no more is sure of it than of the smallest that was run"
    assert shown[2].low < shown[2].value < shown[2].high


def test_a_model_that_was_run_itself_is_no_smaller_one() -> None:
    """Its size is read back from a run's features, and may come back a hair above itself."""
    for times in range(8, 17):
        header = shrunk(header_of(), times)
        found = decode_of(project_to(phone(anchor_of(header, 200.0)), header, Settings(threads=4)))
        assert "smaller" not in found.note


def test_the_smallest_size_is_that_of_the_data() -> None:
    import fit_projection as fit
    from calibration_rows import read_rows

    fitted, rows = calibration.load_fitted(), read_rows()
    for name in ("decode", "prefill"):
        quantity = fit.Quantity(name=name)
        assert fitted[name]["smallest"] == round(min(quantity.size(row) for row in rows if quantity.usable(row)))


def test_the_size_of_a_run_can_be_read_back_and_changed() -> None:
    features = calibration.features_of({"q4_0": 0.9, "q6_K": 0.1} if "q6_K" in KINDS else {"q4_0": 1.0}, 0.87)
    assert calibration.amount_of(features) == pytest.approx(0.87)
    assert calibration.resized(features, 0.87) == pytest.approx(features)
    assert calibration.amount_of(calibration.resized(features, 0.002)) == pytest.approx(0.002)
