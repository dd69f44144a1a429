"""How long does a user wait? Wall times of the command line against llama-bench, and of its quick answers.

    python benchmarks/walltime.py --llama-bench BIN/llama-bench [--rounds 3]

`edgekit bench` (default and `--quick`) on the 1.5B stand-in ÷ `llama-bench -p 512 -n 128 -r 10`, in turn, without the
adaptive repetitions that a noisy host asks for (`--max-repetitions 10`). `edgekit --help` and
`edgekit fit` are medians. Wanted: ≤ 2, `--quick` ≤ a third of the default, help ≤ 0.15 s, fit ≤ 1 s on a 4 GB file.
Writes `results/walltime.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from peer import circumstances, find_llama_bench, run_llama_bench, write_result

from edgekit.bench.noise import others_share, read_counters
from edgekit.records import Evidence, Measurement
from edgekit.runtimes import big_cores
from edgekit.shapes import cached_stand_in
from edgekit.storage import load_record

RESULTS = Path(__file__).parent / "results" / "walltime.json"
EDGEKIT = [sys.executable, "-m", "edgekit"]


def timed(command: list[str], folder: Path, codes: tuple[int, ...] = (0, 1, 3)) -> float:
    """Wall seconds of a command; raises SystemExit when it ends in a way that is no answer."""
    started = time.perf_counter()
    # an installed package has its bytecode; a developer's setting that keeps it from being written must not count
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in codes:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


def bench_once(model: Path, device: str, options: list[str]) -> tuple[dict[str, float], Measurement]:
    """One `edgekit bench`: its wall seconds and the whole measurement."""
    with tempfile.TemporaryDirectory() as name:
        command = [*EDGEKIT, "bench", str(model), "--device", device, "--out", f"{name}/out", "--quiet", *options]
        wall_s = timed(command, Path(name))
        measurement = load_record(Path(name) / "out" / "evidence.json", Evidence).measurement
        assert measurement is not None
        last_s = max(sample.started_s + sample.elapsed_s for sample in measurement.samples)
        return {"wall_s": wall_s, "measuring_s": last_s}, measurement


def llama_bench_once(tool: Path, model: Path, *, amx: bool) -> dict[str, float]:
    options = ["-p", 512, "-n", 128, "-r", 10, "-t", big_cores()]
    return {"wall_s": run_llama_bench(tool, model, arguments=options, amx=amx).wall_s}


def small_times(model: Path, device: str, rounds: int) -> dict[str, float]:
    """Medians of the answers that should come at once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands = {
            "help_s": [*EDGEKIT, "--help"],
            "fit_s": [*EDGEKIT, "fit", str(model), "--device", device],
            "python_s": [sys.executable, "-c", "pass"],
        }
        return {key: median(timed(command, folder) for _ in range(rounds)) for key, command in commands.items()}


def main() -> int:
    """0 when every limit holds; parts whose peer is missing are skipped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--llama-bench", type=Path, help="of the same build; or set $LLAMA_BENCH")
    parser.add_argument("--shape", default="nano-1.5b")
    parser.add_argument("--fit-shape", default="base-7b", help="a file of 4 GB with a full vocabulary")
    parser.add_argument("--device", default="smartphone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answers", action="store_true", help="time `--help` and `fit` alone: `results/answers.json`")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    model = cached_stand_in(arguments.shape, "q4_0")
    fit_model = cached_stand_in(arguments.fit_shape, "q4_0")
    small = small_times(fit_model, arguments.device, max(5, arguments.rounds))
    print(json.dumps(small))
    if arguments.answers:
        told = {"kind": "answers_benchmark", "version": 1, **circumstances(fit_model), "small": small}
        write_result(arguments.out.with_name("answers.json"), told)
        return 0 if small["help_s"] <= 0.15 and small["fit_s"] <= 1.0 else 1
    result: dict[str, Any] = {
        "kind": "walltime_benchmark",
        "version": 1,
        **circumstances(model),
        "fit_model_bytes": fit_model.stat().st_size,
        "small": small,
    }
    good = small["help_s"] <= 0.15 and small["fit_s"] <= 1.0
    tool = find_llama_bench(arguments.llama_bench)
    if tool is not None:
        before = read_counters()
        rounds = []
        for _ in range(arguments.rounds):
            default, measurement = bench_once(model, arguments.device, ["--max-repetitions", "10"])
            quick, _ = bench_once(model, arguments.device, ["--quick"])
            # the peer runs the kernels that ran here: edgekit's worker goes without AMX where the build's are broken
            amx = measurement.runtime is not None and "AMX" in measurement.runtime.cpu_features
            row = {"default": default, "quick": quick, "llama_bench": llama_bench_once(tool, model, amx=amx)}
            rounds.append(row)
            print(json.dumps(row), flush=True)
        spent = {name: median(row[name]["wall_s"] for row in rounds) for name in rounds[0]}
        result |= {
            "rounds": rounds,
            "others_cpu_share": others_share(before, read_counters()),
            "default_over_llama_bench": spent["default"] / spent["llama_bench"],
            "quick_over_default": spent["quick"] / spent["default"],
            "quick_over_llama_bench": spent["quick"] / spent["llama_bench"],
        }
        for key in ("default_over_llama_bench", "quick_over_default", "quick_over_llama_bench"):
            print(f"{key} {result[key]:.3f}")
        good = good and result["default_over_llama_bench"] <= 2.0 and result["quick_over_default"] <= 1 / 3
    write_result(arguments.out, result)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
