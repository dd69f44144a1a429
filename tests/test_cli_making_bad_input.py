"""Bad input to quantize, evaluate, parity and sweep through the real command line: one `error:` line with a hint,
exit 2, and the folder for the results as it was.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from students import random_student

pytestmark = pytest.mark.slow

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
QUANTIZE = ("quantize", "{checkpoint}", "--to", "gguf:f16", "--out", "{out}")


@dataclass(frozen=True)
class Folder:
    """Where a case plays: a whole checkpoint that it may damage, GGUFs of it, and a folder for results."""

    root: Path

    @property
    def checkpoint(self) -> Path:
        return self.root / "student"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def config(self, **changed: object) -> None:
        path = self.checkpoint / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    def safetensors(self) -> tuple[dict[str, object], bytes]:
        data = (self.checkpoint / "model.safetensors").read_bytes()
        length = struct.unpack_from("<Q", data)[0]
        return json.loads(data[8 : 8 + length]), data[8 + length :]

    def write_safetensors(self, header: object, data: bytes, name: str = "model.safetensors") -> None:
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        (self.checkpoint / name).write_bytes(struct.pack("<Q", len(text)) + text + data)

    def index(self, placed: dict[str, str]) -> None:
        """Shard it: `model.safetensors` becomes the first of two, and the index says what is where."""
        (self.checkpoint / "model.safetensors").rename(self.checkpoint / "model-00001-of-00002.safetensors")
        (self.checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))


Damage = Callable[[Folder], object]


def untouched(folder: Folder) -> None:
    """The arguments alone are wrong."""


def truncated(folder: Folder) -> None:
    header, data = folder.safetensors()
    folder.write_safetensors(header, data[:-1000])


def garbled(folder: Folder) -> None:
    path = folder.checkpoint / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 64) + b"{" * 64 + path.read_bytes()[72:])


def endless_header(folder: Folder) -> None:
    (folder.checkpoint / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + bytes(64))


def overlapping(folder: Folder) -> None:
    header, data = folder.safetensors()
    names = [name for name in header if name != "__metadata__"]
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]  # type: ignore[index]
    folder.write_safetensors(header, data)


def wrong_shape(folder: Folder) -> None:
    header, data = folder.safetensors()
    shape = header["model.layers.0.self_attn.q_proj.weight"]["shape"]  # type: ignore[index]
    shape.reverse()
    folder.write_safetensors(header, data)


def missing_tensor(folder: Folder) -> None:
    header, data = folder.safetensors()
    header["model.layers.0.self_attn.x_proj.weight"] = header.pop("model.layers.0.self_attn.q_proj.weight")
    folder.write_safetensors(header, data)


def not_a_number(folder: Folder) -> None:
    header, data = folder.safetensors()
    begin = header["model.layers.1.mlp.down_proj.weight"]["data_offsets"][0]  # type: ignore[index]
    folder.write_safetensors(header, data[:begin] + struct.pack("<f", float("nan")) + data[begin + 4 :])


def missing_shard(folder: Folder) -> None:
    header, _ = folder.safetensors()
    placed = dict.fromkeys((n for n in header if n != "__metadata__"), "model-00001-of-00002.safetensors")
    folder.index({**placed, "lm_head.weight": "model-00002-of-00002.safetensors"})


def absent_tensor(folder: Folder) -> None:
    header, _ = folder.safetensors()
    placed = dict.fromkeys((n for n in header if n != "__metadata__"), "model-00001-of-00002.safetensors")
    folder.index({**placed, "model.layers.9.mlp.up_proj.weight": "model-00001-of-00002.safetensors"})


def path_traversal(folder: Folder) -> None:
    shutil.copy(folder.checkpoint / "model.safetensors", folder.root / "elsewhere.safetensors")
    folder.index({"model.embed_tokens.weight": "../elsewhere.safetensors"})


def pickled(folder: Folder) -> None:
    (folder.checkpoint / "model.safetensors").rename(folder.checkpoint / "pytorch_model.bin")


def without_merges(folder: Folder) -> None:
    path = folder.checkpoint / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    del tokenizer["model"]["merges"]
    path.write_text(json.dumps(tokenizer))


def unknown_pre_tokenizer(folder: Folder) -> None:
    path = folder.checkpoint / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    path.write_text(json.dumps(tokenizer))


def without_tokenizer(folder: Folder) -> None:
    (folder.checkpoint / "tokenizer.json").unlink()


def occupied(folder: Folder) -> None:
    folder.out.mkdir()
    (folder.out / "student-q8_0.gguf").write_text("mine")


def out_is_a_file(folder: Folder) -> None:
    folder.out.write_text("mine")


def written(name: str, content: bytes) -> Damage:
    return lambda folder: (folder.root / name).write_bytes(content)


CASES: dict[str, tuple[Damage, tuple[str, ...], str]] = {
    "no such checkpoint": (untouched, ("quantize", "{root}/none", "--to", "gguf:f16"), "none"),
    "not a checkpoint": (written("a.txt", b"hello"), ("quantize", "{root}/a.txt", "--to", "gguf:f16"), "gguf"),
    "folder without config": (lambda f: (f.checkpoint / "config.json").unlink(), QUANTIZE, "config.json"),
    "config is not json": (lambda f: (f.checkpoint / "config.json").write_text("{"), QUANTIZE, "json"),
    "unknown architecture": (lambda f: f.config(model_type="mamba"), QUANTIZE, "mamba"),
    "truncated weights": (truncated, QUANTIZE, "model.safetensors"),
    "corrupt safetensors header": (garbled, QUANTIZE, "model.safetensors"),
    "endless safetensors header": (endless_header, QUANTIZE, "model.safetensors"),
    "overlapping tensors": (overlapping, QUANTIZE, "model.safetensors"),
    "tensor of the wrong shape": (wrong_shape, QUANTIZE, "q_proj"),
    "missing tensor": (missing_tensor, QUANTIZE, "q_proj"),
    "nan weights": (not_a_number, QUANTIZE, "down_proj"),
    "missing shard": (missing_shard, QUANTIZE, "00002-of-00002"),
    "index names an absent tensor": (absent_tensor, QUANTIZE, "layers.9"),
    "path traversal in the index": (path_traversal, QUANTIZE, "elsewhere"),
    "pickled weights": (pickled, QUANTIZE, "safetensors"),
    "tokenizer without merges": (without_merges, QUANTIZE, "merges"),
    "unknown pre-tokenizer": (unknown_pre_tokenizer, QUANTIZE, "pre"),
    "no tokenizer": (without_tokenizer, QUANTIZE, "tokenizer"),
    "unknown target": (untouched, ("quantize", "{checkpoint}", "--to", "gguf:q4_k_x", "--out", "{out}"), "q4_k_m"),
    "unknown format": (untouched, ("quantize", "{checkpoint}", "--to", "tflite:int8", "--out", "{out}"), "tflite"),
    "no target": (untouched, ("quantize", "{checkpoint}", "--out", "{out}"), "--to"),
    "output exists": (occupied, ("quantize", "{checkpoint}", "--to", "gguf:q8_0", "--out", "{out}"), "--force"),
    "dry run of what exists": (
        occupied,
        ("quantize", "{checkpoint}", "--to", "gguf:q8_0", "--out", "{out}", "--dry-run"),
        "--force",
    ),
    "adapter": (lambda f: (f.checkpoint / "adapter_config.json").write_text("{}"), QUANTIZE, "adapter"),
    "output folder is a file": (out_is_a_file, QUANTIZE, "out"),
    "quantized already": (
        untouched,
        ("quantize", "{root}/q4_0.gguf", "--to", "gguf:q8_0", "--out", "{out}"),
        "quantized already",
    ),
    "onnx from a gguf": (untouched, ("quantize", "{root}/f16.gguf", "--to", "onnx:int4", "--out", "{out}"), "onnx"),
    "unknown exporter": (untouched, (*QUANTIZE, "--exporter", "magic"), "genai"),
    "tensor type without type": (untouched, (*QUANTIZE, "--tensor-type", "attn_v"), "attn_v"),
    "unknown tensor type": (untouched, (*QUANTIZE, "--tensor-type", "attn_v=q9_k"), "q9_k"),
    "two sources of importance": (untouched, (*QUANTIZE, "--no-imatrix", "--imatrix", "{root}/x"), "--imatrix"),
    "missing imatrix": (untouched, (*QUANTIZE, "--imatrix", "{root}/none.gguf"), "none.gguf"),
    "not an imatrix": (
        untouched,
        ("quantize", "{root}/f16.gguf", "--to", "gguf:q4_k_m", "--imatrix", "{root}/f16.gguf", "--out", "{out}"),
        "importance",
    ),
    "calibration is not utf-8": (
        written("latin.txt", "größer".encode("latin-1") * 99),
        (*QUANTIZE, "--calibration", "{root}/latin.txt"),
        "utf-8",
    ),
    "budget without a unit": (untouched, ("quantize", "{checkpoint}", "--budget", "1.2"), "1.2gb"),
    "not a budget": (untouched, ("quantize", "{checkpoint}", "--budget", "much"), "much"),
    "unknown device to fit": (untouched, ("quantize", "{checkpoint}", "--for", "smartfone"), "smartphone"),
    "speed without a device": (untouched, ("quantize", "{checkpoint}", "--min-decode", "50"), "--for"),
    "no such plan": (untouched, ("quantize", "{checkpoint}", "--plan", "{root}/none.toml"), "none.toml"),
    "no such artifact": (untouched, ("evaluate", "{root}/none.gguf"), "none.gguf"),
    "evaluate a folder that is no model": (untouched, ("evaluate", "{root}"), "error"),
    "empty text": (
        written("empty.txt", b" \n"),
        ("evaluate", "{root}/f16.gguf", "--text", "{root}/empty.txt"),
        "empty",
    ),
    "short text": (
        written("short.txt", b"The heron stands."),
        ("evaluate", "{root}/f16.gguf", "--text", "{root}/short.txt"),
        "short",
    ),
    "text is not utf-8": (
        written("latin.txt", "größer".encode("latin-1") * 999),
        ("evaluate", "{root}/f16.gguf", "--text", "{root}/latin.txt"),
        "utf-8",
    ),
    "other tokenizers": (untouched, ("evaluate", "{root}/f16.gguf", "--reference", "{root}/other.gguf"), "token"),
    "parity of other models": (untouched, ("parity", "{root}/f16.gguf", "{root}/other.gguf"), "token"),
    "record exists": (
        written("old.json", b"{}"),
        ("evaluate", "{root}/f16.gguf", "--out", "{root}/old.json"),
        "old.json",
    ),
    "sweep for an unknown device": (untouched, ("sweep", "{checkpoint}", "-d", "fridge", "--out", "{out}"), "fridge"),
    "sweep to an unknown target": (
        untouched,
        ("sweep", "{checkpoint}", "-d", "laptop", "--to", "gguf:q5", "--out", "{out}"),
        "gguf:q5",
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every case starts from: a checkpoint, its GGUF in f16 and q4_0, and one with another tokenizer."""
    from edgekit.checkpoint import open_checkpoint
    from edgekit.quantize.convert import convert
    from edgekit.quantize.llama_quantize import quantize_gguf

    root = tmp_path_factory.mktemp("whole")
    shutil.copytree(random_student("qwen3"), root / "student")
    convert(open_checkpoint(root / "student"), root / "f16.gguf")
    quantize_gguf(root / "f16.gguf", root / "q4_0.gguf", "q4_0")
    convert(open_checkpoint(random_student("llama")), root / "other.gguf")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, whole: Path, tmp_path: Path, cli: Cli) -> None:
    damage, arguments, expected = CASES[name]
    folder = Folder(tmp_path / "root")
    shutil.copytree(whole, folder.root, copy_function=os.link)
    shutil.rmtree(folder.checkpoint)
    shutil.copytree(whole / "student", folder.checkpoint)
    damage(folder)
    before = contents(folder.root)
    places = {"checkpoint": folder.checkpoint, "out": folder.out, "root": folder.root}
    done = cli(*(argument.format(**places) for argument in arguments))
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "\nhint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert expected.lower() in done.stderr.lower()
    assert contents(folder.root) == before, "something was left behind"


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("unshare"), reason="root writes anywhere")
def test_read_only_output(whole: Path, tmp_path: Path, cli: Cli) -> None:
    """A file where a folder should be made stands for it: root ignores permissions."""
    (tmp_path / "wall").write_text("")
    done = cli("quantize", whole / "student", "--to", "gguf:f16", "--out", tmp_path / "wall" / "out")
    assert done.returncode == 2
    assert "error: cannot write" in done.stderr


def test_smallest_budget_is_named(whole: Path, tmp_path: Path, cli: Cli) -> None:
    """A budget below the smallest possible model: refused, and the smallest that works is said."""
    arguments = ("--minutes", "0.2", "--threads", "2", "--out", tmp_path / "out")
    done = cli("quantize", whole / "f16.gguf", "--for", "smartphone", "--budget", "2MB", *arguments)
    assert done.returncode == 2, done.stderr
    assert "smallest" in done.stderr
    assert not list((tmp_path / "out").glob("*smartphone*"))
