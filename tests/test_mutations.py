"""Seeded byte flips in a valid header: no traceback, no hang, no PASS that the unmutated file would not get."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.cli import main
from edgekit.devices import load_device
from edgekit.errors import ExitCode
from edgekit.header import read_header
from edgekit.memory import predict_memory

FLIPS = 400
DEVICE = "raspberry-pi-5"
CONTEXT = 32768
"""Large, so that the model and not the constant part of the range decides."""


def gates_file(path: Path, limit_bytes: float) -> Path:
    path.write_text(f'[gates]\nmemory_bytes = {{ max = {limit_bytes:.0f}, source = "test" }}\n')
    return path


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_mutated_headers(tiny_gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    valid = tiny_gguf.read_bytes()
    header = read_header(tiny_gguf)
    size = header.size_bytes - sum(tensor.size_bytes for tensor in header.tensors)
    device = load_device(DEVICE)
    settings = replace(device.settings, context_tokens=CONTEXT)
    predicted = predict_memory(header, settings, device.isa).working_set
    # limits that the whole file misses: whatever a flip does, it must not slip beneath them
    limits = [gates_file(tmp_path / f"gates-{part}.toml", predicted.low * part) for part in (0.5, 0.9, 0.98)]
    call = ["fit", "-d", DEVICE, "--context", str(CONTEXT)]
    for limit in limits:
        assert main([*call, str(tiny_gguf), "--gates", str(limit)]) == ExitCode.FAIL
    dice = random.Random(20261122)
    # half of the flips in the tensor infos and scalar keys around them, half anywhere in the header
    tensor_infos = valid.index(b"token_embd.weight") if b"token_embd.weight" in valid else 0
    seen: dict[int, int] = {}
    for number in range(FLIPS):
        start = tensor_infos if number % 2 else 0
        stop = size if number % 2 else min(size, 2048)
        mutated = bytearray(valid)
        for _ in range(dice.choice((1, 1, 2, 8))):
            mutated[dice.randrange(start, max(stop, start + 1))] ^= 1 << dice.randrange(8)
        path = tmp_path / "mutated.gguf"
        path.write_bytes(mutated)
        limit = limits[number % len(limits)]
        code = main([*call, str(path), "--gates", str(limit)])
        output = capfd.readouterr()
        seen[code] = seen.get(code, 0) + 1
        assert code in (ExitCode.FAIL, ExitCode.USAGE, ExitCode.UNKNOWN), f"flip {number}: {output.out}{output.err}"
        assert "Traceback" not in output.err
        assert (code == ExitCode.USAGE) == output.err.startswith("error: ")
    assert seen[ExitCode.USAGE] > 50, seen
    assert seen[ExitCode.FAIL] > 20, seen
