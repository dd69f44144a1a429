"""Device profiles: the packaged ones are sound and generated from the data, users' own are read strictly."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit import devices
from edgekit.devices import add_anchors, check_device, class_members, list_devices, load_device
from edgekit.devices.anchors import anchor_toml, is_llama_cpp, is_usable, parse_anchor, quant_name
from edgekit.errors import EdgekitError
from edgekit.records import Device

ROOT = Path(__file__).parent.parent
PROFILES = sorted((ROOT / "devices").glob("*.toml"))
SPEC = {  # design §6
    "smartphone": ("nano-1.5b", 8, 1.2e9, 50, 4, 0.80),
    "tablet": ("mini-3b", 16, 2.4e9, 30, 3, 0.85),
    "laptop": ("base-7b", 32, 5.6e9, 20, 2, 0.90),
}
MINE = """
title = "My phone"
class = "smartphone"
isa = "arm64+dotprod"
source = "its box"
ram_bytes = { value = 8_589_934_592, source = "its box" }
bandwidth_bytes_per_s = { value = 51.2e9, low = 40e9, high = 60e9, source = "assumed: LPDDR5" }

[[clusters]]
name = "Cortex-X1"
cores = 2
max_ghz = 2.8
big = true

[[clusters]]
name = "Cortex-A55"
cores = 4

[workload]
context_tokens = 2048

[[anchors]]
id = "mine"
model = "qwen2.5-1.5b"
quant = "Q4_0"
bytes_per_token = 934_200_000
threads = 4
decode_tokens_per_s = 20
source = "own run"
"""


def profile(tmp_path: Path, text: str = MINE, name: str = "my-phone.toml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


# ---- the packaged profiles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_packaged_profile_loads(path: Path) -> None:
    device = load_device(path.stem)
    assert device.name == path.stem
    assert device.gates.gates
    assert device.reference_student
    assert device.source
    assert device.origin == f"devices/{path.name}"
    assert device.settings.threads == 0 or device.settings.threads <= sum(cluster.cores for cluster in device.clusters)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_anchors_are_as_the_data_say(path: Path) -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "make_anchors.py"))
    assert script["with_anchors"](path.read_text(encoding="utf-8")) == path.read_text(encoding="utf-8")
    known = {row["device"] for row in script["rows"]()}
    assert set(tomllib.loads(path.read_text(encoding="utf-8")).get("calibration", [])) <= known


@pytest.mark.parametrize("name", SPEC)
def test_class_profiles_hold_the_spec_table(name: str) -> None:
    student, ram_gib, memory, decode, hours, quality = SPEC[name]
    device = load_device(name)
    assert (device.tier, device.device_class, device.reference_student) == ("class", name, student)
    assert device.ram_bytes.value == ram_gib * 2**30
    required = {gate.metric: gate.max or gate.min for gate in device.gates.gates if gate.level == "required"}
    assert required == {
        "memory_bytes": memory,
        "decode_tokens_per_s": decode,
        "battery_h": hours,
        "quality_retention": quality,
        "memory_share_of_budget": 1.0,  # edgekit's own: a small device of the class has less than the table assumes
    }
    assert device.population
    assert device.members


def test_what_the_package_holds() -> None:
    everyone = list_devices()
    concrete = [device for device in everyone if device.tier == "device"]
    assert [device.tier for device in everyone] == sorted((device.tier for device in everyone), key="device".__eq__)
    assert len(concrete) >= 8
    assert {"smartphone", "tablet", "laptop", "sbc"} == {device.device_class for device in everyone}
    assert {"raspberry-pi-4", "raspberry-pi-5"} <= {device.name for device in concrete}


@pytest.mark.parametrize("name", [*SPEC, "sbc"])
def test_members_are_anchored_devices_with_the_ram_of_their_class(name: str) -> None:
    device = load_device(name)
    assert device == next(other for other in list_devices() if other.name == name)
    judged = class_members(device)
    assert tuple(member.name for member in judged) == device.members
    for member in judged:
        assert any(map(is_usable, member.anchors))
        assert member.device_class == name
        assert member.gates == device.gates
        assert member.ram_bytes == device.ram_bytes
        assert load_device(member.name).ram_bytes.value >= device.ram_bytes.value
    assert class_members(load_device(device.members[0])) == ()


def test_small_or_unanchored_devices_are_no_members(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "edgekit" / "data" / "devices"
    folder.mkdir(parents=True)
    (folder / "smartphone.toml").write_bytes((ROOT / "devices" / "smartphone.toml").read_bytes())
    profile(folder, MINE, "fits.toml")
    profile(folder, MINE.replace("8_589_934_592", "6_442_450_944"), "small.toml")
    profile(folder, MINE[: MINE.index("[[anchors]]")], "bare.toml")
    profile(folder, MINE.replace("threads = 4", 'backend = "opencl"'), "gpu.toml")
    profile(folder, MINE.replace("threads = 4", 'runtime = "MNN 3.0.4"'), "foreign.toml")
    profile(folder, MINE.replace("decode_tokens", "prefill_tokens"), "prefill.toml")
    monkeypatch.setattr(devices, "__file__", str(tmp_path / "edgekit" / "devices" / "__init__.py"))
    assert load_device("smartphone").members == ("fits",)


def test_a_user_names_a_device_wrongly() -> None:
    for wrong, right in {"galaxy-s26": "galaxy-s25", "Smartphone": "smartphone", "pi 5": "raspberry-pi-5"}.items():
        with pytest.raises(EdgekitError, match="unknown device") as raised:
            load_device(wrong)
        assert f"`{right}`" in raised.value.hint


def test_profiles_are_found_in_a_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "edgekit" / "data" / "devices"
    folder.mkdir(parents=True)
    (folder / "smartphone.toml").write_bytes((ROOT / "devices" / "smartphone.toml").read_bytes())
    monkeypatch.setattr(devices, "__file__", str(tmp_path / "edgekit" / "devices" / "__init__.py"))
    assert [device.name for device in list_devices()] == ["smartphone"]


def test_loading_a_profile_imports_nothing_heavy() -> None:
    code = "import sys, edgekit.devices as d; d.load_device('smartphone'); print('numpy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


# ---- a user's own file ----------------------------------------------------------------------------------------------


def test_a_device_inherits_from_its_class(tmp_path: Path) -> None:
    phone, mine = load_device("smartphone"), load_device(str(profile(tmp_path)))
    assert mine.name == "my-phone"
    assert mine.device_class == "smartphone"
    assert mine.gates == phone.gates
    assert mine.reference_student == "nano-1.5b"
    assert mine.process_share == phone.process_share
    assert mine.settings.context_tokens == 2048
    assert mine.settings.ubatch_tokens == phone.settings.ubatch_tokens
    assert mine.settings.threads == 2  # the big cluster
    assert mine.battery_wh is None  # hardware is never inherited
    assert mine.anchors[0].quant == "q4_0"
    assert mine.anchors[0].backend == "cpu"
    assert "my-phone" not in phone.members


def test_own_gates_replace_single_lines(tmp_path: Path) -> None:
    text = MINE.replace("[workload]", "[gates]\ndecode_tokens_per_s = { min = 20 }\n\n[workload]")
    mine = check_device(profile(tmp_path, text))
    limits = {gate.metric: gate.min or gate.max for gate in mine.gates.gates}
    assert limits["decode_tokens_per_s"] == 20
    assert limits["memory_bytes"] == 1.2e9
    assert mine.gates.sha256 != load_device("smartphone").gates.sha256
    assert "my-phone.toml" in mine.gates.origin


def test_the_hash_covers_the_class_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "edgekit" / "data" / "devices"
    folder.mkdir(parents=True)
    smartphone = (ROOT / "devices" / "smartphone.toml").read_text(encoding="utf-8")
    monkeypatch.setattr(devices, "__file__", str(tmp_path / "edgekit" / "devices" / "__init__.py"))
    hashes = set()
    for text in (smartphone, smartphone.replace("min = 50", "min = 49")):
        (folder / "smartphone.toml").write_text(text, encoding="utf-8")
        hashes.add(check_device(profile(tmp_path)).sha256)
    assert len(hashes) == 2


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link.toml").symlink_to(profile(tmp_path))
    assert load_device(str(tmp_path / "link.toml")).title == "My phone"


def test_an_anchor_may_name_a_shape(tmp_path: Path) -> None:
    pytest.importorskip("edgekit.memory", reason="the memory predictor counts the bytes of a shape")
    mine = check_device(profile(tmp_path, MINE.replace("bytes_per_token = 934_200_000", 'shape = "nano-1.5b"')))
    assert mine.anchors[0].bytes_per_token == pytest.approx(0.93e9, rel=0.02)


BAD = {
    "unknown key": ("isa =", "iso =", "unknown key"),
    "unknown figure key": ("low = 40e9", "lo = 40e9", "unknown key"),
    "unknown anchor key": ("threads = 4", "thread = 4", "unknown key"),
    "unknown workload key": ("context_tokens", "contxt_tokens", "unknown key"),
    "unknown cluster key": ("max_ghz", "ghz", "unknown key"),
    "no isa": ('isa = "arm64+dotprod"\n', "", "lacks a key: `isa`"),
    "odd isa": ("arm64+dotprod", "arm64 dotprod", "not known"),
    "foreign isa": ("arm64+dotprod", "mips", "not known"),
    "RAM under another name": ("ram_bytes", "battery_wh", "at most 1000"),
    "no RAM": ('ram_bytes = { value = 8_589_934_592, source = "its box" }\n', "", "lacks a key: `ram_bytes`"),
    "RAM in GB": ("8_589_934_592", "8", "at least"),
    "negative": ("51.2e9", "-51.2e9", "at least"),
    "nan": ("51.2e9", "nan", "finite"),
    "infinite": ("high = 60e9", "high = inf", "finite"),
    "text for a number": ("51.2e9", '"51 GB/s"', "must be a number"),
    "true for a number": ("51.2e9", "true", "must be a number"),
    "low above value": ("low = 40e9", "low = 55e9", "between"),
    "high below value": ("high = 60e9", "high = 50e9", "between"),
    "no value": ("value = 51.2e9, ", "", "lacks a key: `value`"),
    "no source": (', source = "assumed: LPDDR5"', "", "lacks a key: `source`"),
    "empty source": ("assumed: LPDDR5", "", "empty key: `source`"),
    "no source of cores": ('source = "its box"\nram', "ram", "lacks a key: `source`"),
    "figure without a table": ('{ value = 8_589_934_592, source = "its box" }', "8_589_934_592", "must be a table"),
    "unknown class": ('"smartphone"', '"smartphones"', "unknown class"),
    "class that is a device": ('"smartphone"', '"galaxy-s25"', "unknown class"),
    "class of a class": ('class = "smart', 'tier = "class"\nclass = "smart', "cannot have a class"),
    "unknown tier": ('class = "smart', 'tier = "klass"\nclass = "smart', "cannot be `klass`"),
    "unknown metric": ("[workload]", "[gates]\ndecode = { min = 1 }\n[workload]", "unknown metric"),
    "fractional cores": ("cores = 2", "cores = 2.5", "whole number"),
    "no cores": ("cores = 4", "cores = 0", "at least 1"),
    "no context": ("context_tokens = 2048", "context_tokens = 0", "at least 1"),
    "unknown KV type": ("context_tokens = 2048", 'kv_type = "q8"', "cannot be `q8`"),
    "mmap in words": ("context_tokens = 2048", 'mmap = "yes"', "true or false"),
    "calibration as text": ("isa =", 'calibration = "Pixel 8"\nisa =', "array of texts"),
    "anchor without a speed": ("decode_tokens_per_s = 20\n", "", "has no speed"),
    "anchor of zero speed": ("decode_tokens_per_s = 20", "decode_tokens_per_s = 0", "at least"),
    "anchor without bytes": ("bytes_per_token = 934_200_000\n", "", "exactly one of `bytes_per_token`"),
    "anchor in GB": ("934_200_000", "0.9342", "at least"),
    "anchor without a source": ('source = "own run"', "", "lacks a key: `source`"),
    "anchors of one id": ("[[anchors]]", MINE[MINE.index("[[anchors]]") :] + "[[anchors]]", "share an id"),
    "anchors as a table": ("[[anchors]]", "[anchors]", "array of tables"),
    "escapes for the terminal": ('"My phone"', '"\\u001b]0;x\\u0007"', "control characters"),
    "right-to-left override": ('"My phone"', '"My \\u202ephone"', "control characters"),
    "endless title": ('"My phone"', f'"{"x" * 3000}"', "longer than"),
    "not TOML": ("[workload]", "[workload", "not valid TOML"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(tmp_path: Path, name: str) -> None:
    old, new, message = BAD[name]
    assert old in MINE
    with pytest.raises(EdgekitError, match=message) as raised:
        check_device(profile(tmp_path, MINE.replace(old, new, 1)))
    assert "\n" not in raised.value.message
    assert len(raised.value.message) < 400


def test_a_misspelt_key_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError) as raised:
        check_device(profile(tmp_path, MINE.replace("bandwidth_bytes_per_s", "bandwith_bytes_per_s")))
    assert "`bandwidth_bytes_per_s`" in raised.value.hint


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="larger than"):
        check_device(profile(tmp_path, "#" * (devices.MAX_PROFILE_BYTES + 1)))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(MINE) - 1), junk=st.text(max_size=12), cut=st.integers(0, 12))
def test_damaged_profiles_never_break_the_reader(tmp_path: Path, at: int, junk: str, cut: int) -> None:
    text = (MINE[:at] + junk + MINE[at + cut :]).encode("utf-8", "surrogatepass")
    path = tmp_path / "damaged.toml"
    path.write_bytes(text)
    try:
        device = check_device(path)
    except EdgekitError as error:
        assert "\n" not in error.message  # noqa: PT017
    else:
        assert isinstance(device, Device)


# ---- anchors from llama-bench ---------------------------------------------------------------------------------------

ROW: dict[str, Any] = {  # a row of `llama-bench -o json` of llama.cpp 0c1e570, shortened
    "build_commit": "0c1e570",
    "cpu_info": "Cortex-X4",
    "backends": "CPU",
    "model_filename": "model.gguf",
    "model_type": "qwen2 1.5B Q4_K - Medium",
    "model_size": 980_100_000,
    "model_n_params": 1_543_714_304,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_threads": 4,
    "type_k": "f16",
    "n_gpu_layers": -1,
    "repack": True,
    "n_prompt": 0,
    "n_gen": 128,
    "n_depth": 0,
    "test_time": "2026-11-22T01:26:23Z",
    "avg_ts": 31.5,
    "stddev_ts": 0.2,
    "samples_ts": [31.3, 31.7],
}
PREFILL = ROW | {"n_prompt": 512, "n_gen": 0, "avg_ts": 240.0, "test_time": "2026-11-22T01:26:01Z"}


def results(tmp_path: Path, *rows: dict[str, Any], lines: bool = False) -> Path:
    path = tmp_path / "llama-bench.json"
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("lines", [False, True])
def test_a_run_becomes_an_anchor_beside_the_comments(tmp_path: Path, lines: bool) -> None:
    mine = profile(tmp_path, "# keep this comment\n" + MINE)
    written = add_anchors(str(mine), results(tmp_path, PREFILL, ROW, lines=lines))
    assert written == mine
    assert mine.read_text(encoding="utf-8").startswith("# keep this comment\n" + MINE.rstrip("\n"))
    anchor = load_device(str(mine)).anchors[1]
    assert (anchor.decode_tokens_per_s, anchor.prefill_tokens_per_s) == (31.5, 240.0)
    assert (anchor.quant, anchor.backend, anchor.threads) == ("q4_k_m", "cpu", 4)
    assert (anchor.prompt_tokens, anchor.generated_tokens, anchor.depth) == (512, 128, 0)
    assert anchor.bytes_per_token == 980_100_000
    assert "Cortex-X4" in anchor.source
    assert "model_size" in anchor.source
    assert is_usable(anchor)


def test_a_packaged_profile_is_copied_and_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    packaged = (ROOT / "devices" / "pixel-8.toml").read_bytes()
    written = add_anchors("pixel-8", results(tmp_path, ROW))
    assert written == Path("pixel-8.toml")
    assert (ROOT / "devices" / "pixel-8.toml").read_bytes() == packaged
    assert written.read_bytes().startswith(packaged.rstrip(b"\n"))
    assert load_device("./pixel-8.toml").anchors[0].decode_tokens_per_s == 31.5
    again = add_anchors("pixel-8", results(tmp_path, ROW | {"test_time": "2026-11-23T00:00:00Z"}))
    assert len(load_device(f"./{again}").anchors) == 2


def test_the_packaged_folder_is_refused(tmp_path: Path) -> None:
    folder = devices.profile_folder()  # in the wheel, or beside the package
    inside = folder / "pixel-8.toml"
    before = inside.read_bytes()
    for name, out in (("pixel-8", inside), (str(inside), None), ("pixel-8", folder / "new.toml")):
        with pytest.raises(EdgekitError, match="not written to"):
            add_anchors(name, results(tmp_path, ROW), out)
    assert inside.read_bytes() == before
    assert not (folder / "new.toml").exists()


def test_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    mine = profile(tmp_path)
    add_anchors(str(mine), results(tmp_path, ROW))
    before = mine.read_bytes()
    with pytest.raises(EdgekitError, match="has this run already"):
        add_anchors(str(mine), results(tmp_path, ROW))
    assert mine.read_bytes() == before


def test_a_class_takes_no_anchors(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="no anchors of its own"):
        add_anchors("smartphone", results(tmp_path, ROW))


@pytest.mark.parametrize(
    ("change", "backend", "prefill"),
    [
        ({}, "cpu", 240.0),
        ({"backends": "Metal,BLAS"}, "metal", 240.0),
        ({"backends": "MTL,BLAS"}, "metal", 240.0),
        ({"backends": "Vulkan", "n_gpu_layers": 0}, "cpu", None),
        ({"backends": "BLAS"}, "cpu", 240.0),
    ],
)
def test_backends_are_never_mixed(tmp_path: Path, change: dict[str, Any], backend: str, prefill: float | None) -> None:
    mine = profile(tmp_path)
    add_anchors(str(mine), results(tmp_path, PREFILL | change, ROW | change))
    anchor = load_device(str(mine)).anchors[1]
    assert (anchor.backend, anchor.prefill_tokens_per_s) == (backend, prefill)


def test_prefill_of_other_circumstances_stands_alone(tmp_path: Path) -> None:
    mine = profile(tmp_path)
    add_anchors(str(mine), results(tmp_path, PREFILL | {"n_threads": 8}, ROW))
    decode, prefill = load_device(str(mine)).anchors[1:]
    assert (decode.threads, decode.prefill_tokens_per_s) == (4, None)
    assert (prefill.threads, prefill.decode_tokens_per_s, prefill.prefill_tokens_per_s) == (8, None, 240.0)


def test_the_header_gives_exact_bytes_of_that_model_only(tmp_path: Path) -> None:
    mine = profile(tmp_path)
    for wrong in (1.1e9, 1e7):
        with pytest.raises(EdgekitError, match="another model"):
            add_anchors(str(mine), results(tmp_path, ROW), bytes_per_token=wrong)
    add_anchors(str(mine), results(tmp_path, ROW), bytes_per_token=9e8)
    assert load_device(str(mine)).anchors[1].bytes_per_token == 9e8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not the JSON of llama-bench"),
        ("[]", "not the JSON of llama-bench"),
        ("{}", "not the JSON of llama-bench"),
        ("[1, 2]", "not the JSON of llama-bench"),
        ("| model | size |", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (json.dumps([ROW | {"n_gen": 0}]), "no `pp` or `tg` test"),
        (json.dumps([ROW | {"avg_ts": 0}]), "at least"),
        (json.dumps([ROW | {"avg_ts": float("nan")}]), "finite"),
        (json.dumps([ROW | {"avg_ts": "fast"}]), "must be a number"),
        (json.dumps([ROW | {"n_gen": "128"}]), "must be a number"),
        (json.dumps([ROW | {"model_size": -1}]), "at least"),
        (json.dumps([ROW | {"model_type": 5}]), "must be text"),
        (json.dumps([ROW | {"cpu_info": "\x1b[2J"}]), "control characters"),
        (json.dumps([ROW, ROW]), "has this run already"),
    ],
)
def test_results_refused(tmp_path: Path, content: str, message: str) -> None:
    mine, path = profile(tmp_path), tmp_path / "results.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(EdgekitError, match=message):
        add_anchors(str(mine), path)
    assert mine.read_text(encoding="utf-8") == MINE


def test_written_anchors_read_back() -> None:
    for device in list_devices():
        for anchor in device.anchors[:3]:
            (row,) = tomllib.loads(anchor_toml(anchor))["anchors"]
            assert parse_anchor(row, origin="here") == anchor


@pytest.mark.parametrize(
    ("model_type", "quant"),
    [
        ("qwen2 1.5B Q4_0", "q4_0"),
        ("llama 8B Q4_K - Medium", "q4_k_m"),
        ("llama 8B Q3_K - Large", "q3_k_l"),
        ("llama 1B Q5_K - Small", "q5_k_s"),
        ("gemma3 1B IQ4_XS - 4.25 bpw", "iq4_xs"),
        ("qwen3 0.6B all F32", "f32"),
        ("qwen3 0.6B F16", "f16"),
        ("gpt-oss 20B MXFP4 MoE", "mxfp4"),
        ("llama ?B Q4_0 (guessed)", "q4_0"),
        ("llama 8B", "unknown"),
    ],
)
def test_file_types_as_llama_bench_spells_them(model_type: str, quant: str) -> None:
    assert quant_name(model_type) == quant


def test_runtimes_with_other_kernels_anchor_nothing() -> None:
    assert all(map(is_llama_cpp, ["llama.cpp b7095", "llama.rn 0.12 (llama.cpp)", "llamafile-0.7", "Ollama"]))
    assert not any(map(is_llama_cpp, ["ik_llama.cpp (-rtr)", "T-MAC (2024)", "MNN 3.0.4", "ExecuTorch XNNPACK"]))
