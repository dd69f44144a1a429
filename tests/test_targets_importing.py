"""Runs of llama-bench and PocketPal as evidence: what they may prove, and what is refused."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.devices import load_device
from edgekit.errors import EdgekitError
from edgekit.gate.onsite import Subject, on_target
from edgekit.header import read_header
from edgekit.pipeline import regate
from edgekit.pipeline.importing import import_run
from edgekit.records import Estimate, Measurement, Report, Unknown
from edgekit.summary import speed

DEVICE = "galaxy-s25"
Cli = Callable[..., "subprocess.CompletedProcess[str]"]

# the fields of llama-bench at 0c1e570 as it wrote them here, the CPU's name changed
RECORDED: dict[str, Any] = {
    "build_commit": "0c1e570", "build_number": 1, "cpu_info": "", "gpu_info": "", "backends": "CPU",
    "model_filename": "/tmp/a b/s.gguf", "model_type": "qwen3 ?B Q4_0", "n_batch": 2048, "n_ubatch": 512,
    "n_threads": 6, "cpu_mask": "0x0", "cpu_strict": False, "poll": 50, "type_k": "f16", "type_v": "f16",
    "n_gpu_layers": -1, "n_cpu_moe": 0, "split_mode": "layer", "main_gpu": 0, "no_kv_offload": False, "flash_attn": -1,
    "devices": "auto", "tensor_split": "0.00", "tensor_buft_overrides": "none", "load_mode": "auto",
    "lazy_mode": "auto", "embeddings": False, "no_op_offload": 0, "no_host": False, "repack": True, "fit_target": 0,
    "fit_min_ctx": 0, "n_prompt": 0, "n_gen": 128, "n_depth": 0, "test_time": "2026-11-22T08:48:18Z",
}  # fmt: skip


def row(model: Path, rates: tuple[float, ...] = (60, 61, 62, 63, 64), **changed: Any) -> dict[str, Any]:
    """A row of llama-bench about `model` whose repetitions ran at `rates` tok/s."""
    tensors = read_header(model).tensors
    made = {**RECORDED, **changed}
    tokens = made["n_gen"] or made["n_prompt"]
    return {
        **made,
        "model_size": changed.get("model_size", sum(tensor.size_bytes for tensor in tensors)),
        "model_n_params": sum(math.prod(tensor.shape) for tensor in tensors),
        "avg_ts": changed.get("avg_ts", sum(rates) / len(rates)),
        "samples_ns": changed.get("samples_ns", [int(tokens / rate * 1e9) for rate in rates]),
    }


def written(tmp_path: Path, *rows: dict[str, Any], name: str = "run's.json") -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def decode_of(report: Report) -> Any:
    return next(check for check in report.verdicts[0].checks if check.metric == "decode_tokens_per_s")


# ---- what an import proves ----------------------------------------------------------------------------------------


def test_a_run_is_judged_as_measured(tiny_gguf: Path, tmp_path: Path) -> None:
    both = row(tiny_gguf), row(tiny_gguf, (400, 410, 420, 430, 440), n_prompt=512, n_gen=0)
    report = import_run(written(tmp_path, *both), tiny_gguf, DEVICE)
    run = report.evidence.measurement
    assert run is not None
    assert run.imported_from == "llama-bench"
    assert [sample.test for sample in run.samples] == ["tg128"] * 5 + ["pp512"] * 5
    check = decode_of(report)
    assert check.status == "pass"
    figure = check.figure
    assert figure.basis == "measured"
    assert [figure.low, figure.value, figure.high] == pytest.approx([60, 62, 64])
    assert "timed by llama-bench" in check.figure.note
    assert any(finding.code == "imported" for finding in run.findings)


def test_memory_stays_predicted(tiny_gguf: Path, tmp_path: Path) -> None:
    report = import_run(written(tmp_path, row(tiny_gguf)), tiny_gguf, DEVICE)
    memory = next(check for check in report.verdicts[0].checks if check.metric == "memory_bytes")
    assert isinstance(memory.figure, Estimate)
    assert memory.figure.basis == "predicted"


def test_other_settings_are_named_in_the_verdict(tiny_gguf: Path, tmp_path: Path) -> None:
    ran = row(tiny_gguf, n_threads=3, flash_attn=False, use_mmap=False)
    del ran["load_mode"]
    report = import_run(written(tmp_path, ran), tiny_gguf, DEVICE)
    assert decode_of(report).figure.basis == "measured"
    for part in ("`threads` 3 (profile: 6)", "`flash_attention` off (profile: auto)", "`mmap` False (profile: True)"):
        assert part in report.verdicts[0].reason


def test_three_repetitions_give_no_range(tiny_gguf: Path, tmp_path: Path) -> None:
    report = import_run(written(tmp_path, row(tiny_gguf, (90, 90, 90))), tiny_gguf, DEVICE)
    assert decode_of(report).status == "unknown"
    assert "too few" in decode_of(report).reason


@pytest.mark.parametrize("cpu", ["Intel(R) Xeon(R) Processor", "AMD Ryzen 7 7840U"])
def test_a_desktop_is_no_phone(tiny_gguf: Path, tmp_path: Path, cpu: str) -> None:
    report = import_run(written(tmp_path, row(tiny_gguf, cpu_info=cpu)), tiny_gguf, DEVICE)
    assert decode_of(report).status == "unknown"
    assert "its host is `x86_64`" in decode_of(report).reason


def test_a_depth_is_a_test_of_its_own(tiny_gguf: Path, tmp_path: Path) -> None:
    report = import_run(written(tmp_path, row(tiny_gguf), row(tiny_gguf, n_gen=16, n_depth=1024)), tiny_gguf, DEVICE)
    run = report.evidence.measurement
    assert run is not None
    assert isinstance(speed(run, "tg16@d1024"), Estimate)
    assert run.workload.settings.context_tokens == 1040


def test_regating_keeps_it_measured(tiny_gguf: Path, tmp_path: Path) -> None:
    report = import_run(written(tmp_path, row(tiny_gguf)), tiny_gguf, DEVICE)
    (again,) = regate(report.evidence, [DEVICE])
    assert decode_of(again).figure == decode_of(report).figure
    (elsewhere,) = regate(report.evidence, ["oneplus-13"])
    assert decode_of(elsewhere).figure.basis == "projected"


def test_own_runs_still_prove_their_host(tiny_gguf: Path, tmp_path: Path) -> None:
    report = import_run(written(tmp_path, row(tiny_gguf)), tiny_gguf, DEVICE)
    evidence, device = report.evidence, load_device(DEVICE)
    assert evidence.measurement is not None
    own = replace(evidence, measurement=replace(evidence.measurement, imported_from=""))
    subject = Subject(evidence=evidence, case=evidence.cases[0], device=device)
    assert isinstance(on_target(subject), Measurement)
    assert isinstance(on_target(replace(subject, evidence=own)), Unknown)


def test_one_of_several_is_chosen(tiny_gguf: Path, tmp_path: Path) -> None:
    path = written(tmp_path, row(tiny_gguf, n_threads=2), row(tiny_gguf, (30, 31, 32, 33, 34), n_threads=4))
    run = import_run(path, tiny_gguf, DEVICE, only=["n_threads=4"]).evidence.measurement
    assert run is not None
    assert run.workload.settings.threads == 4
    figure = speed(run, "tg128")
    assert isinstance(figure, Estimate)
    assert figure.value == pytest.approx(32)


def test_lines_are_read_too(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps(row(tiny_gguf)) + "\n\n")
    assert decode_of(import_run(path, tiny_gguf, DEVICE)).status == "pass"


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_size": 7281152}, "of another model, with bytes of weights `7281152`"),
        ({"model_type": "qwen3 ?B Q8_0"}, "with type `q8_0` and not `q4_0`"),
        ({"backends": "OpenCL", "n_gpu_layers": 99}, "on an accelerator, and gates judge the CPU: `opencl`"),
        ({"type_k": "q8_0"}, "KV cache that no gate judges"),
        ({"type_k": "q5_1", "type_v": "q5_1"}, "KV cache that no gate judges: `q5_1`"),
        ({"flash_attn": 7}, "unknown `flash_attn`: `7`"),
        ({"load_mode": "teleport"}, "load mode that edgekit does not know: `teleport`"),
        ({"samples_ns": []}, "keeps no repetitions"),
        ({"samples_ns": "many"}, "keeps no repetitions"),
        ({"samples_ns": [-5, 2, 3]}, "`samples_ns` in .* must be at least 1"),
        ({"samples_ns": [2_000_000_000, True]}, "must be a number"),
        ({"avg_ts": 93.0}, "contradicts itself"),
        ({"n_prompt": 512}, "has no `pp` or `tg` test"),
        ({"n_threads": 0}, "`n_threads` in .* must be at least 1"),
        ({"cpu_info": "x\x1b[31m"}, "control characters"),
        ({"n_gen": 1.5}, "whole number"),
    ],
)
def test_rows_refused(tiny_gguf: Path, tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgekitError, match=message):
        import_run(written(tmp_path, row(tiny_gguf, **changed)), tiny_gguf, DEVICE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not the JSON of llama-bench"),
        ("[{", "is not JSON"),
        ("| model | size |", "is not JSON"),
        ('{"a": 1}', "not the JSON of llama-bench"),
        ('{"runs": [], "bench": {}}', "holds no run"),
        ('{"runs": [1], "bench": {}}', "array of tables"),
        ('{"runs": [{"status": "oom"}], "bench": {}}', "did not end well: `oom`"),
        ('{"runs": [{"status": "ok"}], "bench": {"pp": 256}}', "has no speed"),
        ('{"runs": [{"quant": "a"}, {"quant": "b"}], "bench": {}}', "holds 2 runs"),
        ('{"bench": 1, "runs": [', "is not JSON"),
    ],
)
def test_files_refused(tiny_gguf: Path, tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(EdgekitError, match=message):
        import_run(path, tiny_gguf, DEVICE)


def test_unlike_runs_are_not_joined(tiny_gguf: Path, tmp_path: Path) -> None:
    path = written(tmp_path, row(tiny_gguf, n_threads=2), row(tiny_gguf, n_threads=4))
    with pytest.raises(EdgekitError, match="never joined, and `n_threads` differs") as caught:
        import_run(path, tiny_gguf, DEVICE)
    assert "`2`, `4`" in caught.value.hint
    with pytest.raises(EdgekitError, match="has `n_threads` of `8`"):
        import_run(path, tiny_gguf, DEVICE, only=["n_threads=8"])
    with pytest.raises(EdgekitError, match=r"no such field in .*: `threads`"):
        import_run(path, tiny_gguf, DEVICE, only=["threads=8"])
    with pytest.raises(EdgekitError, match="not a choice for `--only`"):
        import_run(path, tiny_gguf, DEVICE, only=["n_threads"])


def test_a_class_ran_nothing(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="of one device and not of a class"):
        import_run(written(tmp_path, row(tiny_gguf)), tiny_gguf, "smartphone")


# ---- PocketPal ----------------------------------------------------------------------------------------------------

# the shape of the app's published sweeps, with the figures of a cell and this test's model
CELL: dict[str, Any] = {
    "model_id": "tiny", "quant": "iq1_s", "requested_backend": "cpu", "timestamp": "2026-05-10T20:04:58.386Z",
    "effective_backend": "cpu", "pp_avg": 21.67, "tg_avg": 15.44, "wall_ms": 49991, "peak_memory_mb": 2003.12,
    "log_signals": {
        "memory_buffers": {
            "weights_mib": {"CPU": 504.25, "CPU_REPACK": 158.92}, "weights_total_mib": 663.17,
            "kv_cache_mib": {"CPU": 56}, "compute_mib": {"CPU": 302.75}, "total_mib": 1021.92,
        },
        "raw_matches": [
            "llama_model_load_from_file_impl: using device CPU\n",
            "llama_model_loader: loaded meta data with 30 key-value pairs from /data/user/0/m/Tiny-Q4_0.gguf (GGUF V3)",
        ],
    },
    "effective_init_params": {
        "n_ctx": 2048, "n_batch": 512, "n_ubatch": 512, "n_threads": 6, "cache_type_k": "f16", "cache_type_v": "f16",
        "use_mmap": False, "flash_attn_type": "on", "no_extra_bufts": False, "devices": ["CPU"], "n_gpu_layers": 0,
    },
    "settings_fingerprint": "a", "status": "ok",
}  # fmt: skip


def sweep(tmp_path: Path, *cells: dict[str, Any]) -> Path:
    path = tmp_path / "poco.json"
    bench = {"pp": 256, "tg": 64, "pl": 1, "nr": 3}
    head = {"version": "1.1", "device": "poco-myron", "soc": "Snapdragon 8", "llama_rn_version": "0.12.0-rc.9"}
    path.write_text(json.dumps({**head, "bench": bench, "runs": cells}))
    return path


def test_pocketpal_is_kept_without_a_range(tiny_gguf: Path, tmp_path: Path) -> None:
    report = import_run(sweep(tmp_path, CELL), tiny_gguf, DEVICE)
    run = report.evidence.measurement
    assert run is not None
    assert [(sample.test, round(sample.tokens / sample.elapsed_s, 2)) for sample in run.samples] == [
        ("pp256", 21.67),
        ("tg64", 15.44),
    ]
    assert isinstance(speed(run, "tg64"), Unknown)
    assert decode_of(report).status == "unknown"
    assert {buffer.role: round(buffer.size_bytes / 2**20, 2) for buffer in run.buffers} == {
        "weights": 504.25, "repacked": 158.92, "kv": 56, "compute": 302.75,
    }  # fmt: skip
    assert run.peaks == (), "the app's peak is the whole phone's"
    settings = run.workload.settings
    assert (settings.context_tokens, settings.mmap, settings.flash_attention, settings.threads) == (
        2048,
        False,
        "on",
        6,
    )
    assert {finding.code for finding in run.findings} == {"imported", "average-only"}


def test_pocketpals_slot_is_outranked_by_what_it_loaded(tiny_gguf: Path, tmp_path: Path) -> None:
    loaded = {**CELL["log_signals"], "raw_matches": ["loaded meta data from /m/Tiny-IQ2_M.gguf (V3)"]}
    with pytest.raises(EdgekitError, match="with type `iq2_m` and not `q4_0`"):
        import_run(sweep(tmp_path, {**CELL, "quant": "q4_0", "log_signals": loaded}), tiny_gguf, DEVICE)


def test_pocketpal_on_the_gpu_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    path = sweep(tmp_path, CELL, {**CELL, "effective_backend": "opencl"})
    with pytest.raises(EdgekitError, match="on an accelerator"):
        import_run(path, tiny_gguf, DEVICE, only=["effective_backend=opencl"])
    assert import_run(path, tiny_gguf, DEVICE, only=["effective_backend=cpu"]).exit_code == 3


# ---- the command line ---------------------------------------------------------------------------------------------


def test_the_verb_writes_a_report_that_can_be_judged_again(tiny_gguf: Path, tmp_path: Path, cli: Cli) -> None:
    gates = tmp_path / "gates.toml"
    gates.write_text(
        '[gates]\ndecode_tokens_per_s = { min = 50, min_basis = "measured", source = "test" }\n'
        'memory_bytes = { max = 1.2e9, source = "test" }\n'
    )
    out = tmp_path / "out"
    path = written(tmp_path, row(tiny_gguf))
    done = cli("import", path, "--model", tiny_gguf, "-d", DEVICE, "--gates", gates, "-o", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS" in done.stdout
    assert cli("gate", out / "evidence.json", "-d", DEVICE, "--gates", gates).returncode == 0


def test_the_verb_says_in_one_line_what_is_wrong(tiny_gguf: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("import", tmp_path / "none.json", "--model", tiny_gguf, "-d", DEVICE)
    assert done.returncode == 2
    assert done.stderr.startswith("error: benchmark results does not exist")
