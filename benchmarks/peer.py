"""llama-bench as the peer: the same llama.cpp build, run in the same circumstances as edgekit's worker.

It comes from the sdist of the pinned llama-cpp-python, whose wheel then holds the tools in `bin/` and their
libraries in `lib/`:

    CMAKE_ARGS="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=ON -DLLAMA_TOOLS_INSTALL=ON -DLLAMA_BUILD_SERVER=OFF \\
      -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF" pip wheel --no-cache-dir --no-deps llama-cpp-python==0.3.36
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.bench import probe_host
from edgekit.files import replacing
from edgekit.runtimes import sandbox


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRun:
    """One run of llama-bench: tok/s of each repetition by test name, and the wall time of the process."""

    tokens_per_s: dict[str, tuple[float, ...]]
    wall_s: float
    build: str


def find_llama_bench(path: Path | None) -> Path | None:
    """The tool at `path` or in `$LLAMA_BENCH`; prints why not and gives None when there is none."""
    named = path or (Path(os.environ["LLAMA_BENCH"]) if os.environ.get("LLAMA_BENCH") else None)
    if named is not None and named.is_file() and os.access(named, os.X_OK):
        return named.resolve()
    wanted = f"`{named}` is no program" if named else "no `--llama-bench PATH` and no $LLAMA_BENCH"
    print(f"skipped: {wanted}; llama-bench is built from the binding's sdist", file=sys.stderr)
    return None


def run_llama_bench(
    tool: Path, model: Path, *, arguments: Sequence[object], amx: bool = True, timeout_s: float = 900
) -> PeerRun:
    """Run it once; raises SystemExit with its last words when it fails.

    `amx=False` hides AMX from it, as edgekit's worker does where the build's AMX kernels die on this CPU: the two must
    run the same kernels.
    """
    libraries = [str(tool.parent.parent / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    started = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in (tool, "-m", model, "-o", "json", *arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, libraries))},
        timeout=timeout_s,
        check=False,
        preexec_fn=None if amx else sandbox.deny_amx,
    )
    wall_s = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"llama-bench died ({done.returncode}):\n{done.stderr[-2000:]}")
    rows = json.loads(done.stdout)
    speeds = {
        (f"tg{row['n_gen']}" if row["n_gen"] else f"pp{row['n_prompt']}"): tuple(row["samples_ts"]) for row in rows
    }
    return PeerRun(tokens_per_s=speeds, wall_s=wall_s, build=rows[0]["build_commit"])


def circumstances(model: Path) -> dict[str, Any]:
    """What every result carries: when, where, with what, on which file."""
    import llama_cpp

    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "edgekit": __version__,
        "llama_cpp_python": llama_cpp.__version__,
        "python": sys.version.split()[0],
        "host": asdict(probe_host()),
        "model": model.name,
        "model_bytes": model.stat().st_size,
    }


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result file and say where."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(path)
