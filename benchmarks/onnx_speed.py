"""Does edgekit's session on an ONNX model run as fast as onnxruntime-genai's own loop?

    python benchmarks/onnx_speed.py FOLDER… [--threads N] [--prompt N] [--generate N] [--rounds N] [--out FILE]

Both run in this process on the same threads and take turns within each round, with and without onnxruntime's arena on
edgekit's side. genai samples greedily; edgekit feeds given tokens. Wanted: decode and prefill ≥ 1.0 × genai's medians.
Writes `results/onnx_speed.json`. Keep the machine quiet.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from peer import write_result

from edgekit import __version__
from edgekit.bench.host import probe_host
from edgekit.header import read_header
from edgekit.records import Settings
from edgekit.runtimes import ort

RESULTS = Path(__file__).parent / "results" / "onnx_speed.json"
Run = Callable[[list[int], int], tuple[float, float]]
"""(prompt, tokens to generate) → (prefill seconds, decode seconds)"""


def edgekit_run(folder: Path, settings: Settings, *, arena: bool) -> Run:
    """edgekit's session, opened as the worker opens it; `arena` turns on what it leaves off."""
    plain = ort._session_options

    def options(*arguments: Any) -> Any:
        made = plain(*arguments)
        made.enable_cpu_mem_arena = arena
        return made

    ort._session_options = options
    try:
        session = ort.open_session(folder, settings)
    finally:
        ort._session_options = plain

    def run(prompt: list[int], count: int) -> tuple[float, float]:
        session.reset()
        started = time.perf_counter()
        session.decode(prompt)
        prompted = time.perf_counter()
        for token in prompt[:count]:
            session.decode([token])
        return prompted - started, time.perf_counter() - prompted

    return run


def genai_run(folder: Path, settings: Settings) -> Run:
    """onnxruntime-genai's generator with its defaults, on as many threads."""
    import onnxruntime_genai as genai

    config = genai.Config(str(folder))
    threads = {"session_options": {"intra_op_num_threads": settings.threads}}
    config.overlay(json.dumps({"model": {"decoder": threads}}))
    model = genai.Model(config)

    def run(prompt: list[int], count: int) -> tuple[float, float]:
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(prompt) + count + 1, min_length=len(prompt) + count + 1)
        generator = genai.Generator(model, parameters)
        started = time.perf_counter()
        generator.append_tokens(prompt)
        generator.generate_next_token()
        prompted = time.perf_counter()
        for _ in range(count):
            generator.generate_next_token()
        return prompted - started, time.perf_counter() - prompted

    return run


def compare(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Median tok/s of each side over the rounds, and edgekit's ÷ genai's."""
    settings = Settings(
        context_tokens=arguments.prompt + arguments.generate + 1, ubatch_tokens=512, threads=arguments.threads
    )
    sides = {
        "genai": genai_run(folder, settings),
        "edgekit": edgekit_run(folder, settings, arena=False),
        "edgekit with arena": edgekit_run(folder, settings, arena=True),
    }
    draw = random.Random(1)
    vocabulary = read_header(folder).vocabulary
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(arguments.rounds + 1):
        prompt = [draw.randrange(vocabulary) for _ in range(arguments.prompt)]
        for name in draw.sample(list(sides), len(sides)):
            taken = sides[name](prompt, arguments.generate)
            if number:  # the first round warms up
                seconds[name].append(taken)
    row: dict[str, Any] = {"model": folder.name, "rounds": arguments.rounds}
    for name, taken in seconds.items():
        row[name] = {
            "prefill": arguments.prompt / median(prefill for prefill, _ in taken),
            "decode": arguments.generate / median(decode for _, decode in taken),
        }
    row["ratio"] = {test: row["edgekit"][test] / row["genai"][test] for test in ("prefill", "decode")}
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = []
    for folder in arguments.folders:
        row = compare(folder, arguments)
        rows.append(row)
        for name in ("genai", "edgekit", "edgekit with arena"):
            print(f"{folder.name:32.32} {name:18} pp {row[name]['prefill']:8.1f}  tg {row[name]['decode']:8.1f} tok/s")
        print(
            f"{'':32} ÷ genai            pp {row['ratio']['prefill']:8.3f}  tg {row['ratio']['decode']:8.3f}",
            flush=True,
        )
    host, settings = asdict(probe_host()), {key: str(value) for key, value in vars(arguments).items()}
    write_result(
        arguments.out,
        {"benchmark": "onnx speed", "edgekit": __version__, "host": host, "arguments": settings, "models": rows},
    )
    return 0 if all(min(row["ratio"].values()) >= 1.0 for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
