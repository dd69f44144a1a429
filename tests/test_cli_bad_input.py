"""Bad input through the real command line: one `error:` line with a hint, exit 2, nothing written."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Make = Callable[[Path, bytes], list[object]]
"""From a folder and the bytes of a valid GGUF to the arguments of a call that must be refused."""

MAGIC, VERSION = b"GGUF", struct.pack("<I", 3)


def model(name: str, change: Callable[[bytes], bytes]) -> Make:
    """`fit` of a file that differs from a valid one by `change`."""

    def make(folder: Path, valid: bytes) -> list[object]:
        path = folder / name
        path.write_bytes(change(valid))
        return ["fit", path, "--device", "smartphone"]

    return make


def gates(text: str) -> Make:
    def make(folder: Path, valid: bytes) -> list[object]:
        (folder / "model.gguf").write_bytes(valid)
        (folder / "gates.toml").write_text(text)
        return ["fit", folder / "model.gguf", "--device", "smartphone", "--gates", folder / "gates.toml"]

    return make


def profile(text: str) -> Make:
    def make(folder: Path, valid: bytes) -> list[object]:
        (folder / "my-phone.toml").write_text(text)
        return ["devices", "check", folder / "my-phone.toml"]

    return make


def call(*arguments: str) -> Make:
    """`{}` stands for the folder, which holds a valid `model.gguf`."""

    def make(folder: Path, valid: bytes) -> list[object]:
        (folder / "model.gguf").write_bytes(valid)
        return [argument.replace("{}", str(folder)) for argument in arguments]

    return make


def written(name: str, text: str, *arguments: str) -> Make:
    def make(folder: Path, valid: bytes) -> list[object]:
        (folder / name).write_text(text)
        return call(*arguments)(folder, valid)

    return make


def counts(tensors: int, keys: int) -> bytes:
    return MAGIC + VERSION + struct.pack("<QQ", tensors, keys)


def of_another_architecture(valid: bytes) -> bytes:
    """Every mention of the architecture becomes a name nobody knows."""
    at = valid.index(b"general.architecture") + len(b"general.architecture") + 12
    name = valid[at : at + struct.unpack_from("<Q", valid, at - 8)[0]]
    return valid.replace(name, b"x" * len(name))


def one_of_three(valid: bytes) -> bytes:
    """Two keys that say so (and one that keeps the alignment)."""
    keys = [(b"split.count", 2, struct.pack("<H", 3)), (b"split.no", 2, struct.pack("<H", 0)), (b"pad.", 7, b"\1")]
    added = b"".join(struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value for key, kind, value in keys)
    assert len(added) % 32 == 0
    return valid[:16] + struct.pack("<Q", struct.unpack_from("<Q", valid, 16)[0] + len(keys)) + added + valid[24:]


def retyped(valid: bytes) -> bytes:
    """The first tensor's ggml type becomes one that does not exist."""
    name = b"token_embd.weight"
    at = valid.index(name) + len(name)
    dimensions = struct.unpack_from("<I", valid, at)[0]
    return valid[: at + 4 + 8 * dimensions] + struct.pack("<I", 250) + valid[at + 8 + 8 * dimensions :]


def moved(valid: bytes) -> bytes:
    """The first tensor's offset points past the end of the file."""
    name = b"token_embd.weight"
    at = valid.index(name) + len(name)
    at += 8 + 8 * struct.unpack_from("<I", valid, at)[0]
    return valid[:at] + struct.pack("<Q", 1 << 40) + valid[at + 8 :]


PROFILE = 'title = "x"\nclass = "smartphone"\nisa = "arm64+dotprod"\nsource = "test"\n'

CASES: dict[str, tuple[Make, str]] = {
    "missing file": (call("fit", "{}/nothing.gguf", "--device", "smartphone"), "nothing.gguf"),
    "missing file in bench": (call("bench", "{}/nothing.gguf", "--device", "smartphone"), "nothing.gguf"),
    "directory": (call("fit", "{}", "--device", "smartphone"), "directory"),
    "empty": (model("m.gguf", lambda _: b""), "m.gguf"),
    "truncated header": (model("m.gguf", lambda valid: valid[:3000]), "m.gguf"),
    "truncated weights": (model("m.gguf", lambda valid: valid[:-5000]), "m.gguf"),
    "wrong magic": (model("m.gguf", lambda valid: b"GGML" + valid[4:]), "gguf"),
    "not a model": (model("m.gguf", lambda _: b"hello " * 4000), "gguf"),
    "gguf v1": (model("m.gguf", lambda valid: MAGIC + struct.pack("<I", 1) + valid[8:]), "version"),
    "big-endian": (model("m.gguf", lambda valid: MAGIC + struct.pack(">I", 3) + valid[8:]), "endian"),
    "future version": (model("m.gguf", lambda valid: MAGIC + struct.pack("<I", 99) + valid[8:]), "version"),
    "2^60 tensors": (model("m.gguf", lambda valid: counts(1 << 60, 3) + valid[24:]), "tensors"),
    "2^60 keys": (model("m.gguf", lambda valid: counts(3, 1 << 60) + valid[24:]), "key"),
    "offset past the end": (model("m.gguf", moved), "m.gguf"),
    "unknown quant type": (model("m.gguf", retyped), "type"),
    "unknown architecture": (model("m.gguf", of_another_architecture), "architecture"),
    "vocabulary only": (
        model("m.gguf", lambda valid: counts(0, struct.unpack_from("<Q", valid, 16)[0]) + valid[24:]),
        "tensor",
    ),
    "zip file": (model("m.gguf", lambda _: b"PK\x03\x04" + bytes(9000)), "gguf"),
    "missing shard": (model("m-00001-of-00003.gguf", one_of_three), "shard"),
    "no device": (call("bench", "{}/model.gguf"), "device"),
    "unknown device": (call("fit", "{}/model.gguf", "--device", "smartfone"), "smartfone"),
    "unknown device in bench": (call("bench", "{}/model.gguf", "--device", "smartphon"), "smartphon"),
    "missing profile": (call("fit", "{}/model.gguf", "--device", "{}/none.toml"), "none.toml"),
    "profile is not toml": (profile("this is [not toml"), "toml"),
    "profile with unknown key": (profile(PROFILE + "battery_wg = 3\n"), "battery_wg"),
    "profile without ram": (profile(PROFILE), "ram_bytes"),
    "profile with negative ram": (profile(PROFILE + 'ram_bytes = { value = -8e9, source = "x" }\n'), "ram_bytes"),
    "profile with nan": (profile(PROFILE + 'ram_bytes = { value = nan, source = "x" }\n'), "ram_bytes"),
    "profile without source": (profile(PROFILE + "ram_bytes = { value = 8e9 }\n"), "source"),
    "profile of unknown class": (profile(PROFILE.replace("smartphone", "smartwatch")), "smartwatch"),
    "misspelt metric": (gates("[gates]\ndecode_tokens_per_sec = { min = 50 }\n"), "decode_tokens_per_s"),
    "negative limit": (gates("[gates]\nmemory_bytes = { max = -1 }\n"), "memory_bytes"),
    "gate without limit": (gates('[gates]\nmemory_bytes = { level = "required" }\n'), "memory_bytes"),
    "gate with a wrong level": (gates('[gates]\nmemory_bytes = { max = 1e9, level = "must" }\n'), "level"),
    "gates are not toml": (gates("[gates"), "toml"),
    "waiver without date": (
        gates('[gates]\nmemory_bytes = { max = 1e9 }\n[[waivers]]\nmetric = "memory_bytes"\nreason = "x"\n'),
        "until",
    ),
    "missing gates file": (call("fit", "{}/model.gguf", "-d", "smartphone", "--gates", "{}/none.toml"), "none.toml"),
    "negative context": (call("fit", "{}/model.gguf", "-d", "smartphone", "--context", "-5"), "context"),
    "unknown kv type": (call("fit", "{}/model.gguf", "-d", "smartphone", "--kv-type", "q9"), "kv"),
    "quantized kv without flash attention": (
        call("bench", "{}/model.gguf", "-d", "smartphone", "--kv-type", "q8_0", "--flash-attention", "off"),
        "flash",
    ),
    "quick and thorough": (call("bench", "{}/model.gguf", "-d", "smartphone", "--quick", "--thorough"), "--thorough"),
    "bad duration": (call("bench", "{}/model.gguf", "-d", "smartphone", "--sustained", "soon"), "--sustained"),
    "out is a file": (call("bench", "{}/model.gguf", "-d", "smartphone", "--out", "{}/model.gguf"), "model.gguf"),
    "report is there already": (
        written("report.json", "{}", "bench", "{}/model.gguf", "-d", "smartphone", "--out", "{}"),
        "already there",
    ),
    "on a device that is not judged": (
        call("bench", "{}/model.gguf", "-d", "smartphone", "--on-device", "galaxy-s25"),
        "galaxy-s25",
    ),
    "on a device that is a class": (
        call("bench", "{}/model.gguf", "-d", "smartphone", "--on-device", "smartphone"),
        "class",
    ),
    "two devices in fit": (call("fit", "{}/model.gguf", "-d", "pixel-8", "-d", "galaxy-s25"), "one device"),
    "no time at all": (call("bench", "{}/model.gguf", "-d", "smartphone", "--timeout", "0"), "--timeout"),
    "html over a file": (
        call("bench", "{}/model.gguf", "-d", "smartphone", "--html", "{}/model.gguf"),
        "overwrites nothing",
    ),
    "profile with an escape in a key": (profile('"\\u001b[31mevil\\nerror: second" = 1\n' + PROFILE), "evil"),
    "unknown verb": (call("bnech"), "bnech"),
    "unknown option": (call("bench", "--devise", "smartphone"), "--devise"),
    "evidence is not json": (written("e.json", "{", "gate", "{}/e.json", "-d", "smartphone"), "e.json"),
    "evidence is another record": (
        written("e.json", '{"kind": "header"}', "gate", "{}/e.json", "-d", "smartphone"),
        "e.json",
    ),
    "evidence is a model": (call("gate", "{}/model.gguf", "-d", "smartphone"), "model.gguf"),
    "missing evidence": (call("gate", "{}/none.json", "-d", "smartphone"), "none.json"),
    "unknown shape": (call("standin", "nano-2b"), "nano-2b"),
    "unknown stand-in type": (call("standin", "tiny", "--type", "q4_x"), "q4_x"),
    "stand-in over a file": (call("standin", "tiny", "--out", "{}/model.gguf"), "--force"),
    "shape with unknown key": (written("s.toml", "layerz = 3\n", "standin", "{}/s.toml"), "layerz"),
    "claims are not toml": (written("c.toml", "[[", "audit", "{}/c.toml"), "c.toml"),
    "missing claims": (call("audit", "{}/none.toml"), "none.toml"),
    "anchors from no json": (
        written("r.json", "pp512", "devices", "anchor", "raspberry-pi-5", "{}/r.json"),
        "r.json",
    ),
    "anchors for a class": (written("r.json", "[]", "devices", "anchor", "smartphone", "{}/r.json"), "smartphone"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, cli: Cli, tmp_path: Path, tiny_gguf: Path) -> None:
    make, fragment = CASES[name]
    folder = tmp_path / "input"
    folder.mkdir()
    arguments = make(folder, tiny_gguf.read_bytes())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    done = cli(*arguments)

    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert lines[0].startswith("error: ")
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert lines[1:2] == [""]
    assert lines[2].startswith("hint: ")
    assert len(lines) == 3
    assert fragment.lower() in lines[0].lower() + lines[2].lower()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not list((tmp_path / "cwd").rglob("report.json"))


def in_small_filesystem(options: str, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A call whose `folder` is a file system of its own, in a mount namespace that ends with it."""
    folder.mkdir()
    command = [sys.executable, "-m", "edgekit", *map(str, arguments)]
    script = f'mount -t tmpfs -o {options} none "$0" && exec "$@"'
    call = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(folder), *command]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.run(call, capture_output=True, text=True, env=environment, timeout=120, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "arguments", "fragment"),
    [
        ("size=300k", ("standin", "tiny", "-o", "{}/tiny.gguf"), "space"),
        ("size=300k", ("bench", "-d", "smartphone"), "space"),
        ("ro", ("standin", "tiny", "-o", "{}/tiny.gguf"), "cannot write"),
        ("ro", ("bench", "MODEL", "-d", "smartphone", "-o", "{}/out"), "cannot write"),
    ],
)
def test_full_and_read_only_places(
    options: str, arguments: tuple[str, ...], fragment: str, tmp_path: Path, tiny_gguf: Path
) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this machine allows no mount namespace of one's own")
    place = tmp_path / "place"
    given = [str(tiny_gguf) if part == "MODEL" else part.replace("{}", str(place)) for part in arguments]
    done = in_small_filesystem(options, place, *given)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert fragment in errors[0]
    assert lines[-1].startswith("hint: ")
