"""The README's generated parts: `--write` renews them, `--check` fails on a difference, `--test-command` prints one.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PART = re.compile(r"(<!-- generated: (?P<name>[\w -]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def run_edgekit(*arguments: str) -> str:
    """What the program prints, at a fixed width and without colour."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "edgekit", *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment, cwd=ROOT
    ).stdout.rstrip()


def part(name: str) -> str:
    """The text of one generated part: a command's output, or a table made from recorded results."""
    if name.startswith("edgekit "):
        return f"```\n$ {name}\n{run_edgekit(*name.split()[1:])}\n```"
    if name == "results":
        sys.path.insert(0, str(ROOT / "benchmarks"))
        from results_table import results_table

        return results_table()
    raise SystemExit(f"unknown generated part: {name}")


def renewed(text: str) -> str:
    return PART.sub(lambda match: f"{match[1]}{part(match['name'])}\n{match[3]}", text)


def test_command(text: str) -> str:
    """The README's one line that installs the development extras and runs the tests."""
    return next(line.strip() for line in text.splitlines() if "pip install" in line and "pytest" in line)


def main() -> int:
    text = README.read_text(encoding="utf-8")
    if "--test-command" in sys.argv:
        print(test_command(text))
        return 0
    new = renewed(text)
    if "--write" in sys.argv:
        README.write_text(new, encoding="utf-8")
    elif new != text:
        print("README.md is not what the program says: run `python .ci/readme.py --write`")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
