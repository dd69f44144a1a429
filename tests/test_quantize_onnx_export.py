"""Whole exports of tiny students, the gate inside them, and what they leave behind when they fail."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from students import random_student, tiny_student

from edgekit import files
from edgekit.errors import EdgekitError, ExitCode
from edgekit.quantize.onnx import Options, export_onnx, exporting, parity, plan_export, read_source
from edgekit.quantize.onnx.jobs import run_job
from edgekit.quantize.onnx.source import old_style_config
from edgekit.records import OnnxExport
from edgekit.storage import load_record

pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")

TWO = Options(threads=2)
OPTIMUM_PYTHON = os.environ.get("EDGEKIT_OPTIMUM_PYTHON", "")


@pytest.fixture(scope="module")
def int4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(tiny_student("qwen3"), "int4", tmp_path_factory.mktemp("onnx") / "int4", options=TWO)


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(random_student("llama"), "fp32", tmp_path_factory.mktemp("onnx") / "fp32", options=TWO)


def copy_with_config(checkpoint: Path, folder: Path, **changes: object) -> Path:
    """The same weights under another configuration."""
    folder.mkdir()
    for file in checkpoint.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file)
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8")) | changes
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_an_fp32_export_says_what_torch_says(fp32: Path) -> None:
    record = load_record(fp32 / "edgekit.json", OnnxExport)
    (check,) = record.checks
    assert check.kld_max < 1e-9
    assert check.top1_agreement == 1
    assert check.decoded == parity.DECODED
    assert record.size_bytes == sum(file.stat().st_size for file in fp32.iterdir()) - (
        (fp32 / "edgekit.json").stat().st_size
    )


@pytest.mark.slow
def test_the_folder_is_whole(int4: Path) -> None:
    names = {file.name for file in int4.iterdir()}
    assert {"model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json", "config.json"} <= names
    student = tiny_student("qwen3")
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        assert (int4 / name).read_bytes() == (student / name).read_bytes()


@pytest.mark.slow
def test_int4_is_small_and_checked_twice(int4: Path) -> None:
    record = load_record(int4 / "edgekit.json", OnnxExport)
    assert [check.subject for check in record.checks] == ["fp32", "int4"]
    assert record.checks[0].kld_max < 1e-9
    assert 1e-6 < record.checks[1].kld_mean < 0.01
    assert record.tied_table_shared
    source = read_source(tiny_student("qwen3"), exporter="genai")
    plan = plan_export(source, "int4", "genai", TWO)
    assert (int4 / "model.onnx.data").stat().st_size == pytest.approx(plan.out_bytes, rel=0.03)


@pytest.mark.slow
def test_genai_generates_from_it(int4: Path) -> None:
    import onnxruntime_genai

    model = onnxruntime_genai.Model(str(int4))
    tokens = onnxruntime_genai.Tokenizer(model).encode("The ranger saw")
    parameters = onnxruntime_genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(tokens) + 8)
    generator = onnxruntime_genai.Generator(model, parameters)
    generator.append_tokens(tokens)
    while not generator.is_done():
        generator.generate_next_token()
    assert len(generator.get_sequence(0)) > len(tokens)


@pytest.mark.slow
def test_exporters_say_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    student = random_student("llama")
    with pytest.raises(EdgekitError, match="the export broke during `genai`"):
        run_job("genai", {"checkpoint": str(student), "out": "/proc/no/such/job", "cache": "", "shared": False})
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_the_gate_sees_a_wrong_angle(fp32: Path, tmp_path: Path) -> None:
    """What transformers 4 makes of a version-5 checkpoint: `rope_theta` 10000, and no error anywhere."""
    student = random_student("llama")
    rope = json.loads((student / "config.json").read_text(encoding="utf-8"))["rope_parameters"]
    assert rope["rope_theta"] != 10_000
    for number, wrong in enumerate(({**rope, "rope_theta": 10_000.0}, {**rope, "rope_type": "default"})):
        check = against_torch(copy_with_config(student, tmp_path / str(number), rope_parameters=wrong), fp32, tmp_path)
        assert check.kld_max > 100 * parity.FP32_BOUND
        with pytest.raises(EdgekitError, match="its model is wrong") as caught:
            parity.require(check)
        assert caught.value.code == ExitCode.FAIL


def against_torch(checkpoint: Path, folder: Path, work: Path) -> parity.LogitsCheck:
    source = read_source(checkpoint, exporter="genai")
    probe = parity.make_probe(source.vocabulary, context=source.context, window=source.window)
    both = {"tokens": probe.tokens, "rows": probe.rows}
    run_job("torch logits", {"checkpoint": str(checkpoint), "out": str(work / "torch.npy"), **both}, threads=2)
    shape = {"head_dim": source.head_dim, "kv_heads": source.kv_heads, "decoded": probe.decoded, "prepack": False}
    run_job("onnx logits", {"model": str(folder / "model.onnx"), "out": str(work / "onnx.npy"), **both, **shape})
    return parity.compare(work / "torch.npy", work / "onnx.npy", precision="fp32", probe=probe)


@pytest.mark.slow
def test_garbage_from_the_builder_is_no_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A projection as wide as the vocabulary: without its guard, the builder ends normally and is wrong."""
    checkpoint = collision(tmp_path)
    with pytest.raises(EdgekitError, match="would take a matrix as wide as the vocabulary") as refused:
        export_onnx(checkpoint, "fp32", tmp_path / "out", options=TWO)
    assert "--exporter dynamo" in refused.value.hint
    monkeypatch.setattr("edgekit.quantize.onnx.source.refuse_head_collision", lambda source: None)
    with pytest.raises(EdgekitError) as caught:
        export_onnx(checkpoint, "fp32", tmp_path / "out", options=TWO)
    assert caught.value.code in (ExitCode.FAIL, ExitCode.BROKE)
    assert [path.name for path in tmp_path.iterdir()] == ["collision"]


def collision(tmp_path: Path) -> Path:
    """A student whose vocabulary is cut to the width of its projections."""
    from safetensors.numpy import load_file, save_file

    student = random_student("llama")
    width = json.loads((student / "config.json").read_text(encoding="utf-8"))["intermediate_size"]
    checkpoint = copy_with_config(student, tmp_path / "collision", vocab_size=width)
    weights = load_file(student / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:width].copy()
    (checkpoint / "model.safetensors").unlink()
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    return checkpoint


@pytest.mark.slow
def test_dynamo_exports_what_the_builder_cannot(tmp_path: Path) -> None:
    out = export_onnx(collision(tmp_path), "int4", tmp_path / "out", exporter="dynamo", options=TWO)
    record = load_record(out / "edgekit.json", OnnxExport)
    assert record.checks[0].kld_max < 1e-9
    assert record.exporter == "dynamo"


@pytest.mark.reference
@pytest.mark.skipif(not OPTIMUM_PYTHON, reason="EDGEKIT_OPTIMUM_PYTHON names no interpreter with optimum-onnx")
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_optimum_exports_in_its_own_environment(tmp_path: Path, architecture: str) -> None:
    options = replace(TWO, python=OPTIMUM_PYTHON)
    out = export_onnx(random_student(architecture), "fp32", tmp_path / "out", exporter="optimum", options=options)
    record = load_record(out / "edgekit.json", OnnxExport)
    assert record.checks[0].kld_max < 1e-9
    assert dict(record.versions)["transformers (optimum)"].startswith("4.")


@pytest.mark.reference
@pytest.mark.skipif(not OPTIMUM_PYTHON, reason="EDGEKIT_OPTIMUM_PYTHON names no interpreter with optimum-onnx")
def test_version_4_would_turn_by_the_wrong_angle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Handed the version-5 configuration as it is, optimum's transformers takes `rope_theta` 10000 without a word."""
    monkeypatch.setattr("edgekit.quantize.onnx.source.old_style_config", dict)
    options = replace(TWO, python=OPTIMUM_PYTHON)
    with pytest.raises(EdgekitError, match="its model is wrong"):
        export_onnx(random_student("llama"), "fp32", tmp_path / "out", exporter="optimum", options=options)


# ---- refusals, before anything is written -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "exporter", "options", "message", "hint"),
    [
        ("int3", "genai", TWO, "unknown ONNX precision: `int3`", "`fp32`, `int8`, `int8-dynamic`, `int4`"),
        ("int4", "torch", TWO, "unknown ONNX exporter: `torch`", "`genai`, `dynamo`, `optimum`"),
        ("int4", "genai", Options(method="hqq"), "not offered.*ten times slower.*: `hqq`", "`search`, `rtn`"),
        ("int4", "genai", Options(method="gptq"), "not offered.*: `gptq`", "`search`, `rtn`"),
        ("int4", "genai", Options(method="best"), "unknown quantization method: `best`", "`search`, `rtn`"),
        ("int4", "genai", Options(block_size=48), "unknown block size: `48`", "`16`, `32`, `64`, `128`"),
    ],
)
def test_unknown_names_list_the_known(
    tmp_path: Path, precision: str, exporter: str, options: Options, message: str, hint: str
) -> None:
    with pytest.raises(EdgekitError, match=message) as caught:
        export_onnx(tmp_path, precision, tmp_path / "out", exporter=exporter, options=options)  # type: ignore[arg-type]
    assert hint in caught.value.hint


def test_an_existing_folder_is_kept_without_force(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(EdgekitError, match="exists") as caught:
        export_onnx(random_student("llama"), "fp32", tmp_path / "out")
    assert "--force" in caught.value.hint
    assert (tmp_path / "out" / "mine").read_text() == "precious"


def test_a_full_disk_is_seen_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr(files.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(EdgekitError, match=r"not enough free space for the export: .* needed, 1 MB free"):
        export_onnx(random_student("llama"), "int4", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_too_little_memory_is_seen_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10**8}))
    with pytest.raises(EdgekitError, match=r"not enough memory for the export: about .* needed, 100 MB available"):
        export_onnx(random_student("llama"), "int4", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(stage: str, done: float, total: float, detail: str = "") -> None:
        if "graph" in stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_onnx(random_student("llama"), "fp32", tmp_path / "out", options=TWO, progress=interrupt)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, poison: float) -> None:
    from safetensors.numpy import load_file, save_file

    checkpoint = copy_with_config(random_student("qwen2"), tmp_path / "poisoned")
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = poison
    (checkpoint / "model.safetensors").unlink()
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EdgekitError, match=r"not finite.*: `model\.layers\.1\.mlp\.up_proj\.weight`"):
        export_onnx(checkpoint, "int4", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["poisoned"]


def test_a_config_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoint = copy_with_config(random_student("llama"), tmp_path / "other", vocab_size=4096)
    with pytest.raises(EdgekitError, match="has the shape"):
        export_onnx(checkpoint, "fp32", tmp_path / "out")


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_NEEDED", ("no_such_library",))
    with pytest.raises(EdgekitError) as caught:
        export_onnx(random_student("llama"), "fp32", tmp_path / "out")
    assert caught.value.hint == "pip install 'edgekit[onnx]'"


# ---- configurations between versions ------------------------------------------------------------------------------


def test_old_style_puts_theta_where_version_4_reads_it() -> None:
    rope = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0}
    old = old_style_config({"model_type": "llama", "rope_parameters": rope})
    assert old["rope_theta"] == 500_000.0
    assert old["rope_scaling"] == {"rope_type": "llama3", "factor": 8.0}


def test_old_style_of_plain_rope_scales_nothing() -> None:
    old = old_style_config({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})
    assert old["rope_theta"] == 1e6
    assert "rope_scaling" not in old


def test_old_style_of_two_kinds_of_layers() -> None:
    rope = {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    old = old_style_config({"rope_parameters": rope})
    assert (old["rope_theta"], old["rope_local_base_freq"]) == (1e6, 1e4)


def test_an_old_config_stays_as_it_is() -> None:
    config = {"model_type": "llama", "rope_theta": 1e6}
    assert old_style_config(config) == config


# ---- the comparison itself ----------------------------------------------------------------------------------------


def saved(folder: Path, name: str, logits: np.ndarray) -> Path:
    np.save(folder / f"{name}.npy", logits.astype(np.float32))
    return folder / f"{name}.npy"


def test_divergence_is_zero_of_shifted_and_right_of_known_logits() -> None:
    logits = np.array([0.0, 1.0, 2.0], np.float32)
    assert parity.divergence(logits, logits + 7) == pytest.approx(0, abs=1e-12)
    p, q = np.array([0.25, 0.75]), np.array([0.5, 0.5])
    want = float(np.sum(p * np.log(p / q)))
    assert parity.divergence(np.log(p).astype(np.float32), np.log(q).astype(np.float32)) == pytest.approx(want)


def test_a_blind_model_fails_every_quantized_bound(tmp_path: Path) -> None:
    """It answers the average of what torch says: no error of shape or scale, only of knowing."""
    random = np.random.default_rng(5)
    probe = parity.make_probe(64, context=256)
    reference = random.standard_normal((20, 64)) * 3
    average = np.exp(reference - np.log(np.exp(reference).sum(1, keepdims=True))).mean(0)
    blind = np.tile(np.log(average), (20, 1))
    for precision in parity.QUANTIZED_BOUNDS:
        check = parity.compare(
            saved(tmp_path, "torch", reference), saved(tmp_path, "blind", blind), precision=precision, probe=probe
        )
        with pytest.raises(EdgekitError, match="its model is wrong"):
            parity.require(check)


@pytest.mark.parametrize("broken", ["shape", "nan"])
def test_broken_logits_are_no_comparison(tmp_path: Path, broken: str) -> None:
    reference = np.zeros((4, 8))
    logits = np.zeros((4, 7)) if broken == "shape" else np.full((4, 8), np.nan)
    with pytest.raises(EdgekitError, match="its logits"):
        parity.compare(
            saved(tmp_path, "torch", reference),
            saved(tmp_path, "onnx", logits),
            precision="fp32",
            probe=parity.make_probe(8, context=64),
        )


def test_the_probe_passes_a_sliding_window_and_keeps_the_context() -> None:
    assert len(parity.make_probe(100, context=4096).tokens) == 256
    assert len(parity.make_probe(100, context=4096, window=512).tokens) > 512 + parity.DECODED
    short = parity.make_probe(100, context=32)
    assert len(short.tokens) == 32
    assert short.rows[-parity.DECODED :] == tuple(range(28, 32))
