"""What the tests share: a tiny but whole GGUF, and the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.shapes import load_shape, write_stand_in

# spinning OpenMP threads starve a busy test machine; nothing here measures speed
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in of the `tiny` shape: loads and runs in llama.cpp within a second."""
    path = tmp_path_factory.mktemp("model") / "tiny-q4_0.gguf"
    write_stand_in(load_shape("tiny"), "q4_0", path)
    return path


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run `edgekit` as a user does: its own process, in an empty folder."""
    folder = tmp_path / "cwd"
    folder.mkdir()

    def run(*arguments: object, cwd: Path = folder, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edgekit", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, "COLUMNS": "100", **environment},
            timeout=240,
            check=False,
        )

    return run
