"""The README is made from the program: what it shows is what a user gets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


@pytest.mark.slow
def test_generated_parts_are_current() -> None:
    done = subprocess.run([sys.executable, ROOT / ".ci" / "readme.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_order_and_length() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 200
    assert any("edgekit bench" in line for line in lines[:20])


@pytest.mark.slow
def test_python_lines_run(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ten lines of Python, as printed, on the tiny stand-in."""
    code = README.read_text(encoding="utf-8").split("```python\n", 1)[1].split("```", 1)[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    (tmp_path / "student.gguf").symlink_to(tiny_gguf)
    exec(compile(code, "README.md", "exec"), {})
    assert "unknown" in capsys.readouterr().out  # a stand-in has no quality
    assert (tmp_path / "report.html").stat().st_size > 10_000
