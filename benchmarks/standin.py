"""Stand-ins against llama-quantize: size and type mix, time and memory to write, decode and prefill speed.

    python benchmarks/standin.py                                  size (all shapes × types), write time, peak RSS
    python benchmarks/standin.py --tools DIR [--shape nano-1.5b]  also speed, with llama-bench and llama-quantize in DIR

The size part quantizes dry: a sparse F16 file of the shape goes through `llama_model_quantize`, tensor by tensor. The
speed part writes Gaussian F16 weights, runs llama-quantize on them, and times both files in turn with llama-bench.
Results: benchmarks/results/standin.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgekit.bench import probe_host
from edgekit.files import replacing
from edgekit.quantize.llama_quantize import planned_types
from edgekit.shapes import QUANTS, SHAPES, Shape, plan_tensors, planned_bytes, write_stand_in
from edgekit.shapes.gguf_header import header_bytes, padded
from edgekit.shapes.vocabulary import synthesise
from edgekit.storage import to_json
from edgekit.summary import median_interval

RESULTS = Path(__file__).parent / "results" / "standin.json"
TYPES = tuple(quant for quant in QUANTS if quant != "f16")


def sparse_f16(shape: Shape, path: Path) -> None:
    """A GGUF with every F16 tensor of `shape` as a hole: a dry run reads no weights."""
    tensors = plan_tensors(shape, "f16")
    with path.open("wb") as file:
        file.write(header_bytes(shape, "f16", tensors, synthesise(shape.vocabulary, 1)))
        file.truncate(file.tell() + sum(padded(tensor.size_bytes) for tensor in tensors))


def dry_run(shape: Shape, quants: tuple[str, ...], folder: Path) -> dict[str, list[tuple[str, str]]]:
    """What llama.cpp itself would make of `shape`: a type per tensor, in its order."""
    path = folder / f"{shape.name}-sparse.gguf"
    sparse_f16(shape, path)
    found = {quant: list(planned_types(path, quant)) for quant in quants}
    path.unlink()
    return found


def sizes(folder: Path) -> list[dict[str, Any]]:
    """Per shape and type: planned bytes ÷ bytes of llama-quantize, and the tensors whose type differs."""
    from edgekit.shapes.mix import BLOCKS

    rows = []
    for shape in SHAPES.values():
        reference = dry_run(shape, TYPES, folder)
        for quant in TYPES:
            ours = plan_tensors(shape, quant)
            theirs = dict(reference[quant])
            size = 0
            for tensor in ours:
                values, block_bytes = BLOCKS[theirs[tensor.name]]
                size += padded(math.prod(tensor.shape) // values * block_bytes)
            differing = [tensor.name for tensor in ours if theirs[tensor.name] != tensor.type]
            assert [tensor.name for tensor in ours] == [name for name, _ in reference[quant]], "other tensors"
            rows.append(
                {
                    "shape": shape.name,
                    "type": quant,
                    "bytes": planned_bytes(shape, quant),
                    "llama_quantize_bytes": size,
                    "ratio": planned_bytes(shape, quant) / size,
                    "tensors": len(ours),
                    "tensors_of_other_type": differing,
                }
            )
            print(f"size   {shape.name:10} {quant:7} {size / 1e6:8.1f} MB  ratio {rows[-1]['ratio']:.6f}")
    return rows


WRITE = """
import resource, sys, time
start = time.perf_counter()
from pathlib import Path
from edgekit.shapes import load_shape, write_stand_in
write_stand_in(load_shape(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write_times(names: list[str], repetitions: int, folder: Path) -> list[dict[str, Any]]:
    """Seconds (imports included) and peak RSS of a fresh process that writes each stand-in."""
    rows = []
    for name in names:
        for quant in ("q4_0", "q4_k_m", "q6_k", "q8_0"):
            seconds, rss = [], []
            for _ in range(repetitions):
                path = folder / "written.gguf"
                done = subprocess.run(
                    [sys.executable, "-c", WRITE, name, quant, path], capture_output=True, text=True, check=True
                )
                took, kib = done.stdout.split()
                seconds.append(float(took))
                rss.append(int(kib) * (1 if platform.system() == "Darwin" else 1024))
                path.unlink()
            rows.append({"shape": name, "type": quant, "seconds": seconds, "peak_rss_bytes": max(rss)})
            print(f"write  {name:10} {quant:7} {statistics.median(seconds):6.2f} s  {max(rss) / 1e6:5.0f} MB RSS")
    return rows


def gaussian_f16(shape: Shape, path: Path) -> None:
    """F16 weights as a trained model has them: normal, standard deviation 0.02; norms 1."""
    import numpy as np

    tensors = plan_tensors(shape, "f16")
    random = np.random.Generator(np.random.SFC64(7))
    with path.open("wb") as file:
        file.write(header_bytes(shape, "f16", tensors, synthesise(shape.vocabulary, 1)))
        for tensor in tensors:
            left = math.prod(tensor.shape)
            while left:
                count = min(left, 1 << 22)
                values = random.standard_normal(count, np.float32) * np.float32(0.02)
                if tensor.type == "f32":
                    values = np.ones(count, np.float32) if tensor.name.endswith("weight") else values
                    file.write(values.tobytes())
                else:
                    file.write(values.astype(np.float16).tobytes())
                left -= count
            file.write(bytes(padded(tensor.size_bytes) - tensor.size_bytes))


def bench(tool: Path, model: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """tok/s by test of one llama-bench run."""
    command = [tool, "-m", model, "-p", arguments.prompt, "-n", arguments.generate, "-r", 1, "-t", arguments.threads]
    command += ["--repack", arguments.repack, "-o", "json"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        hint = "built by GCC before 14 its AMX kernels die of SIGILL: `--repack 0`" if done.returncode == -4 else ""
        raise SystemExit(f"llama-bench died ({done.returncode}) {hint}\n{done.stderr[-2000:]}")
    return {f"{'tg' if row['n_gen'] else 'pp'}": row["avg_ts"] for row in json.loads(done.stdout)}


def pairs(tool: Path, files: tuple[Path, Path], arguments: argparse.Namespace) -> Iterator[dict[str, float]]:
    """Ratios stand-in ÷ quantized, in turn and each pair in the other order, so that drift cancels."""
    for path in files:  # both once, so that no file is read from disk in a timed run
        bench(tool, path, arguments)
    for index in range(arguments.pairs):
        order = files if index % 2 == 0 else files[::-1]
        speeds = {path: bench(tool, path, arguments) for path in order}
        stand_in, quantized = speeds[files[0]], speeds[files[1]]
        yield {test: stand_in[test] / quantized[test] for test in stand_in}


def speeds(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Per type: the ratio of decode and prefill speed with its 95 % interval of the median."""
    shape, rows = SHAPES[arguments.shape], []
    source = folder / "gaussian-f16.gguf"
    gaussian_f16(shape, source)
    for quant in arguments.types.split(","):
        files = (folder / "stand-in.gguf", folder / "quantized.gguf")
        write_stand_in(shape, quant, files[0])
        subprocess.run(
            [str(arguments.tools / "llama-quantize"), str(source), str(files[1]), quant, str(arguments.threads)],
            check=True,
            capture_output=True,
        )
        found = list(pairs(arguments.tools / "llama-bench", files, arguments))
        for test in found[0]:
            ratios = [pair[test] for pair in found]
            interval = median_interval(ratios, 0.95)
            rows.append(
                {
                    "shape": shape.name,
                    "type": quant,
                    "test": f"{test}{arguments.generate if test == 'tg' else arguments.prompt}",
                    "threads": arguments.threads,
                    "repack": arguments.repack,
                    "ratios": ratios,
                    "median": statistics.median(ratios),
                    "interval_95": interval,
                }
            )
            print(f"speed  {shape.name:10} {quant:7} {rows[-1]['test']:6} ratio {rows[-1]['median']:.3f} {interval}")
        for path in files:
            path.unlink()
    source.unlink()
    return rows


def main() -> int:
    """0 when every size is within 1 % and no tensor's type differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tools", type=Path, help="folder with llama-bench and llama-quantize of the same build")
    parser.add_argument("--shape", default="nano-0.6b", choices=SHAPES, help="for the speed part")
    parser.add_argument("--types", default="q4_0,q4_k_m,q6_k,q8_0", help="for the speed part")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--threads", type=int, default=probe_host().physical_cores)
    parser.add_argument("--repack", type=int, default=1, choices=(0, 1))
    parser.add_argument("--write", default="nano-0.6b,nano-1.5b,mini-3b", help="shapes for the write times")
    parser.add_argument("--repetitions", type=int, default=5, help="of each write")
    parser.add_argument("--folder", type=Path, default=None, help="where the models are written for a while")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        result: dict[str, Any] = {
            "kind": "standin_benchmark",
            "version": 1,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "host": json.loads(to_json(probe_host())),
            "python": platform.python_version(),
            "llama_cpp_python": version("llama-cpp-python"),
            "load_before": os.getloadavg()[0],
            "size": sizes(folder),
            "write": write_times(arguments.write.split(","), arguments.repetitions, folder),
            "speed": [],
            "speed_unknown": "",
        }
        if arguments.tools is None:
            result["speed_unknown"] = "no `--tools`: llama-bench and llama-quantize are built from the binding's source"
            print(f"speed  skipped: {result['speed_unknown']}")
        else:
            result["speed"] = speeds(folder, arguments)
    with replacing(RESULTS) as temporary:
        temporary.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(RESULTS)
    return int(any(abs(row["ratio"] - 1) > 0.01 or row["tensors_of_other_type"] for row in result["size"]))


if __name__ == "__main__":
    sys.exit(main())
