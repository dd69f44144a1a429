"""A llama-bench built for another machine, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RunnerTarget = Literal["linux-arm64", "android-arm64", "linux-x86_64"]
RunnerVariant = Literal["baseline", "dotprod", "i8mm", "avx2", "avx512"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """One program that `edgekit runner build` made. It stands beside this record under the name `program`."""

    kind: Literal["runner"] = "runner"
    version: Literal[1] = 1
    target: RunnerTarget
    variant: RunnerVariant
    source: str
    """What was compiled, as the program's own JSON says in `build_commit`: `llama-cpp-python-0.3.36`."""
    source_sha256: str
    """Over the names and contents of all files that the compiler may read."""
    compiler: str
    flags: tuple[str, ...]
    program: str = "llama-bench"
    sha256: str
    size_bytes: int
    built_at: str
