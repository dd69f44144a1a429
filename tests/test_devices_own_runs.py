"""Anchors out of evidence: what `bench --on` leaves becomes a row of the device's profile, or is refused."""

# ruff: noqa: F811 - fixtures of another file

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gate_records as made
import pytest
from test_targets_there import SSH, WORKLOAD, artifact, bench_shim, shims, ssh_shim  # noqa: F401 - fixtures

from edgekit.devices import add_anchors, load_device
from edgekit.devices.anchors import is_usable
from edgekit.errors import EdgekitError
from edgekit.memory import streamed_bytes
from edgekit.pipeline.elsewhere import measure_there
from edgekit.records import Artifact, Evidence, Measurement, MemoryLimit, Runtime
from edgekit.storage import write_record

PHONE = """
title = "a phone"
class = "{kind}"
isa = "arm64+dotprod+i8mm"
source = "test"
ram_bytes = {{ value = {ram}, source = "test" }}
"""


def profile(folder: Path, ram: float = 8e9, isa: str = "arm64+dotprod+i8mm", kind: str = "smartphone") -> Path:
    path = folder / "phone.toml"
    path.write_text(PHONE.format(ram=ram, kind=kind).replace("arm64+dotprod+i8mm", isa))
    return path


def evidence(folder: Path, run: Measurement | None, **changes: object) -> Path:
    path = folder / "evidence.json"
    write_record(path, replace(made.evidence(), measurement=run, **changes))
    return path


def test_a_run_on_another_machine_becomes_an_anchor(ssh_shim: Path, artifact: Artifact, tmp_path: Path) -> None:
    mine = profile(tmp_path, isa="x86_64", kind="laptop")
    run = measure_there(
        SSH, artifact, WORKLOAD, on_device=str(mine), runner=bench_shim(tmp_path / "far/runner", artifact)
    )
    profile(tmp_path, ram=run.host.ram_bytes, isa=run.host.machine, kind="laptop")
    path = tmp_path / "evidence.json"
    write_record(path, Evidence(edgekit_version="0", created_at="", artifact=artifact, cases=(), measurement=run))
    assert add_anchors(str(mine), path) == mine
    (anchor,) = load_device(str(mine)).anchors
    assert is_usable(anchor)
    assert (anchor.quant, anchor.backend, anchor.depth) == ("q4_0", "cpu", 0)
    assert (anchor.generated_tokens, anchor.prompt_tokens) == (128, 512)
    decode = sorted(sample.tokens / sample.elapsed_s for sample in run.samples if sample.test == "tg128")
    assert anchor.decode_tokens_per_s == pytest.approx(decode[len(decode) // 2], rel=0.05)
    assert anchor.bytes_per_token == sum(size for _, size in streamed_bytes(artifact.header))
    assert "llama-bench on" in anchor.source
    assert "median of 10 repetitions in 10 processes" in anchor.source
    before = mine.read_bytes()
    with pytest.raises(EdgekitError, match="has this run already"):
        add_anchors(str(mine), path)
    assert mine.read_bytes() == before


def test_depths_are_anchors_of_their_own(tmp_path: Path) -> None:
    run = made.on_phone(samples=made.samples("tg128", 128, 40) + made.samples("tg16@d4096", 16, 20), peaks=())
    add_anchors(str(profile(tmp_path)), evidence(tmp_path, run))
    burst, deep = load_device(str(tmp_path / "phone.toml")).anchors
    assert (burst.depth, deep.depth) == (0, 4096)
    assert burst.prefill_tokens_per_s is None
    assert deep.decode_tokens_per_s == pytest.approx(20, rel=0.01)


HELD = MemoryLimit(limit_bytes=10**9, means="rlimit", mapped=False, words="held")
NOWHERE = made.measurement()
ELSEWHERE = made.on_phone(on_device="tablet")
LAPTOP = made.on_phone(host=made.host())
ONNX = made.on_phone(
    runtime=Runtime(name="onnxruntime", version="", build="", backend="cpu", cpu_features="", threads=4)
)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (None, "holds no measurement"),
        (NOWHERE, "was on `the machine of who ran it` and not on `phone`"),
        (ELSEWHERE, "was on `tablet` and not on `phone`"),
        (LAPTOP, "claims to be on the device .* and its host is `x86_64"),
        (made.on_phone(artifact_sha256="ee" * 32), "of another artifact"),
        (ONNX, "this run was of `onnxruntime`"),
        (made.on_phone(samples=made.samples("pp512", 512, 250)), "decoded nothing"),
        (made.on_phone(samples=()), "decoded nothing"),
        (made.on_phone(memory_limit=HELD), "held to less memory"),
    ],
)
def test_runs_refused(tmp_path: Path, run: Measurement | None, message: str) -> None:
    mine = profile(tmp_path)
    before = mine.read_bytes()
    with pytest.raises(EdgekitError, match=message):
        add_anchors(str(mine), evidence(tmp_path, run))
    assert mine.read_bytes() == before


def test_half_a_record_is_refused(tmp_path: Path) -> None:
    mine, path = profile(tmp_path), tmp_path / "evidence.json"
    path.write_text('{"kind": "evidence", "version": 99}')
    with pytest.raises(EdgekitError, match="not a valid evidence record"):
        add_anchors(str(mine), path)
    path.write_text('{"kind": "evidence"')
    with pytest.raises(EdgekitError, match="llama-bench output is not JSON"):
        add_anchors(str(mine), path)
