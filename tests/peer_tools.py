"""llama.cpp's own programs, for tests marked `reference`, and a text that any tokenizer can read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from edgekit.runtimes import sandbox

TEXT = "".join(
    f"The {n} otters of the river eat {n * 7 % 13} fish a day; they were counted {n} times.\n" for n in range(400)
)


def peer(variable: str) -> Path:
    """The tool that `$variable` names; skips without it."""
    named = os.environ.get(variable, "")
    if not named:
        pytest.skip(f"${variable} does not name the peer's binary")
    return Path(named).resolve()


def run_peer(command: list[object], cwd: Path) -> None:
    tool = Path(str(command[0]))
    libraries = f"{tool.parent.parent / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "LD_LIBRARY_PATH": libraries},
        preexec_fn=sandbox.deny_amx,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-2000:]
