"""Is edgekit as fast as llama-quantize and llama-imatrix of the same llama.cpp build, and does it give the same?

    python benchmarks/quantize.py --tools BIN [--model FILE-f16.gguf] [--type q4_k_m] [--pairs 5] [--chunks 8]

Fresh processes in turn, every other pair in the other order, whole wall time from start to exit: edgekit's includes the
interpreter, the fence, the plan and the hash of the source, which llama-quantize does not take. The figure is the
geometric mean of edgekit ÷ peer over the pairs with its 95 % t-interval. Wanted: quantizing at most 1.05, the same
data byte for byte, and importance that correlates by at least 0.999 for every tensor. Writes `results/quantize.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from peer import circumstances, write_result
from scipy.stats import t

from edgekit.bench.noise import others_share, read_counters
from edgekit.corpus import default_calibration
from edgekit.header.container import Container, parse
from edgekit.quantize.imatrix import read_imatrix
from edgekit.runtimes import big_cores, sandbox
from edgekit.shapes import cached_stand_in

RESULTS = Path(__file__).parent / "results" / "quantize.json"
WALL, CORRELATION = 1.05, 0.999

_QUANTIZE = """
import sys
from pathlib import Path
from edgekit.quantize.llama_quantize import quantize_gguf
source, out, kind, threads, imatrix = sys.argv[1:]
matrix = Path(imatrix) if imatrix else None
quantize_gguf(Path(source), Path(out), kind, imatrix=matrix, threads=int(threads), force=True)
"""
_CALIBRATE = """
import sys
from pathlib import Path
from edgekit.quantize.imatrix import compute_imatrix
model, text, out, threads, chunks = sys.argv[1:]
text = Path(text).read_text(encoding="utf-8")
compute_imatrix(Path(model), text, Path(out), threads=int(threads), chunks=int(chunks), force=True)
"""


def timed(command: list[object], library: Path | None = None) -> float:
    """Wall time of a process in seconds; raises SystemExit with its last words when it fails. The peer runs without
    AMX, whose kernels GCC 12 breaks; edgekit finds that out by itself.
    """
    environment = dict(os.environ)
    if library is not None:
        environment["LD_LIBRARY_PATH"] = f"{library}:{environment.get('LD_LIBRARY_PATH', '')}"
    started = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        env=environment,
        check=False,
        preexec_fn=sandbox.deny_amx if library is not None else None,
    )
    wall_s = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{command[0]} died ({done.returncode}):\n{done.stderr[-2000:].decode(errors='replace')}")
    return wall_s


def data_sha256(path: Path) -> str:
    """SHA-256 of a GGUF's tensor infos and data section, without its keys."""
    with path.open("rb") as file:
        container = Container(file.read(64 * 2**20))
        start = parse(container, 0)
        digest = hashlib.sha256(repr(container.tensors).encode())
        file.seek(start)
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()


def alternate(name: str, pairs: int, ours: Callable[[], float], theirs: Callable[[], float]) -> dict[str, Any]:
    """Seconds of both in turn, and their ratio."""
    ours(), theirs()  # the file into the page cache
    rows = []
    for index in range(pairs):
        order = [("edgekit_s", ours), ("peer_s", theirs)]
        rows.append({key: run() for key, run in (order if index % 2 == 0 else order[::-1])})
        print(f"{name} pair {index + 1}: {rows[-1]['edgekit_s']:.2f} s ÷ {rows[-1]['peer_s']:.2f} s", flush=True)
    logs = [math.log(row["edgekit_s"] / row["peer_s"]) for row in rows]
    half = float(t.ppf(0.975, len(logs) - 1)) * stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    interval = [math.exp(mean(logs) - half), math.exp(mean(logs) + half)] if half < math.inf else None
    return {"test": name, "ratio": math.exp(mean(logs)), "interval_95": interval, "pairs": rows}


def quantize_rows(arguments: argparse.Namespace, model: Path, folder: Path) -> list[dict[str, Any]]:
    """A row per type: wall times, and whether infos and data are the same."""
    rows = []
    for kind in arguments.type:
        ours, theirs = folder / "ours.gguf", folder / "theirs.gguf"
        command = [sys.executable, "-c", _QUANTIZE, model, ours, kind, arguments.threads, ""]
        tool = [arguments.tools / "llama-quantize", model, theirs, kind, arguments.threads]
        row = alternate(
            f"quantize {kind}",
            arguments.pairs,
            lambda command=command: timed(command),
            lambda tool=tool: timed(tool, arguments.tools.parent / "lib"),
        )
        row["same_bytes"] = data_sha256(ours) == data_sha256(theirs)
        row["as_asked"] = row["same_bytes"] and row["ratio"] <= WALL
        rows.append(row)
    return rows


def calibrate_row(arguments: argparse.Namespace, model: Path, folder: Path) -> dict[str, Any]:
    """Wall times of the importance matrix, and the worst correlation over the tensors."""
    text, ours, theirs = folder / "text.txt", folder / "ours.imatrix", folder / "theirs.gguf"
    text.write_text(default_calibration(), encoding="utf-8")
    command = [sys.executable, "-c", _CALIBRATE, model, text, ours, arguments.threads, arguments.chunks]
    options = ["-t", arguments.threads, "--chunks", arguments.chunks, "--no-ppl", "-o", theirs]
    tool = [arguments.tools / "llama-imatrix", "-m", model, "-f", text, *options]
    row = alternate(
        f"imatrix of {arguments.chunks} chunks",
        arguments.pairs,
        lambda: timed(command),
        lambda: timed(tool, arguments.tools.parent / "lib"),
    )
    mine, peers = read_imatrix(ours), read_imatrix(theirs)
    worst = min(float(np.corrcoef(mine[name].ravel(), peers[name].ravel())[0, 1]) for name in peers)
    row |= {"tensors": len(peers), "same_tensors": set(mine) == set(peers), "worst_correlation": worst}
    row["as_asked"] = row["same_tensors"] and worst >= CORRELATION
    return row


def main() -> int:
    """0 when everything is as asked, or when the peer is missing and the run is skipped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tools", type=Path, default=os.environ.get("LLAMA_TOOLS"), help="folder of llama-quantize")
    parser.add_argument("--model", type=Path, help="default: the nano-1.5b stand-in in f16")
    parser.add_argument("--type", action="append", help="default: q8_0, q4_0 and q4_k_m")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument(
        "--chunks", type=int, default=8, help="of 512 tokens for the importance matrix; 0: leave it out"
    )
    parser.add_argument("--threads", type=int, default=0, help="default: the big cores")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.tools is None or not (Path(arguments.tools) / "llama-quantize").is_file():
        print("skipped: no `--tools FOLDER` or $LLAMA_TOOLS with llama-quantize and llama-imatrix", file=sys.stderr)
        return 0
    arguments.tools = Path(arguments.tools).resolve()
    arguments.type = arguments.type or ["q8_0", "q4_0", "q4_k_m"]
    arguments.threads = arguments.threads or big_cores()
    model = (arguments.model or cached_stand_in("nano-1.5b", "f16")).resolve()
    before = read_counters()
    with tempfile.TemporaryDirectory(dir=arguments.out.parent) as name:
        rows = quantize_rows(arguments, model, Path(name))
        if arguments.chunks:
            rows.append(calibrate_row(arguments, model, Path(name)))
    for row in rows:
        low, high = row["interval_95"] or (math.nan, math.nan)
        told = f"same bytes: {row['same_bytes']}" if "same_bytes" in row else f"worst r {row['worst_correlation']:.6f}"
        print(f"{row['test']:24} edgekit ÷ peer {row['ratio']:.3f}  95 % {low:.3f} – {high:.3f}  {told}")
    result = {
        "kind": "quantize_benchmark",
        "version": 1,
        **circumstances(model),
        "threads": arguments.threads,
        "others_cpu_share": others_share(before, read_counters()),
        "rows": rows,
    }
    write_result(arguments.out, result)
    return 0 if all(row["as_asked"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
