"""The filter's numbers against the system's own headers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgekit.runtimes import seccomp

HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_the_kernels(machine: str) -> None:
    path = Path(HEADERS[machine])
    if not path.exists():
        pytest.skip(f"no kernel headers here: {path}")
    text = path.read_text(encoding="ascii")
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    column = list(HEADERS).index(machine)
    ours = {name: numbers[column] for name, numbers in seccomp.NUMBERS.items()}
    assert ours == {name: known.get(name) for name in ours}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_programs_are_well_formed(machine: str) -> None:
    program = seccomp.worker_filter(machine)
    assert 20 < len(program) < 4096
    for index, (code, taken, other, _) in enumerate(program):
        if code & 0x07 == 0x05:  # a jump lands inside the program
            assert index + 1 + max(taken, other) < len(program)
    assert program[-1][0] == 0x06


def test_unknown_machines_get_no_filter() -> None:
    assert seccomp.worker_filter("riscv64") == []


def test_every_denied_call_has_a_number() -> None:
    assert set(seccomp.DENIED) <= set(seccomp.NUMBERS)
    assert len(seccomp.DENIED) == len(set(seccomp.DENIED))
