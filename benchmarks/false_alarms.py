"""How often does `edgekit compare` cry wolf, and how often does it miss a slowdown of 5 %?

    python benchmarks/false_alarms.py [--compares 2000]             simulated machines
    python benchmarks/false_alarms.py --model FILE [--compares 20]  this machine, FILE against itself

Simulated runs scatter with a heavy tail, neighbours in time resemble each other, processes differ, the machine drifts
straight or in waves, and bursts of stolen time hit some runs; the logic that stops and judges is edgekit's own. Wanted,
with a limit of 3 %: a fail of a build against itself in at most 1 % of compares, a true 5 % found in at least 95 %, and
the interval at the stop covers the truth in at least 98 %. Writes `results/false_alarms.json`, and of a real machine
`results/false_alarms-here.json`.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peer import circumstances, write_result

from edgekit import in_turn, runtimes
from edgekit.bench import compare
from edgekit.pipeline import open_artifact
from edgekit.records import MemoryLimit, Settings
from edgekit.runtimes import RawSample, Step

RESULTS = Path(__file__).parent / "results" / "false_alarms.json"
LIMIT = 0.97
SLOWDOWN = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What runs on a simulated machine suffer, all in the logarithm of a run's speed. `scatter` is of one run, with
    Student's t of three degrees of freedom; `likeness` the correlation of neighbouring runs; `processes` the spread
    between processes; `drift` per run; `waves` the height of a wave of 25 runs; `bursts` the share of runs from which
    a burst of three begins that takes a third of the speed.
    """

    scatter: float = 0.01
    likeness: float = 0.0
    processes: float = 0.003
    drift: float = 0.0
    waves: float = 0.0
    bursts: float = 0.0


MACHINES = {
    "quiet": Machine(),
    "autocorrelated 0.7": Machine(scatter=0.015, likeness=0.7),
    "drift of 10 % in 200 runs": Machine(drift=-0.0005),
    "waves of 3 %": Machine(waves=0.03),
    "bursts": Machine(bursts=0.05),
    "all at once": Machine(scatter=0.012, likeness=0.5, drift=-0.0003, waves=0.02, bursts=0.03),
    "noisy neighbours": Machine(scatter=0.04, likeness=0.5, bursts=0.1),
}


def runs(machine: Machine, dice: random.Random) -> Iterator[float]:
    """ln(speed) of one run after another, less what the process and the build make of it."""
    level, burst, index = 0.0, 0, 0
    while True:
        fresh = dice.gauss(0, 1) / math.sqrt(dice.gammavariate(1.5, 2) / 3) * machine.scatter
        level = machine.likeness * level + math.sqrt(1 - machine.likeness**2) * fresh
        burst = 3 if burst == 0 and dice.random() < machine.bursts else max(0, burst - 1)
        wave = machine.waves * math.sin(2 * math.pi * index / 25)
        yield level + wave + machine.drift * index + (math.log(2 / 3) if burst else 0.0)
        index += 1


def one_compare(machine: Machine, change: float, dice: random.Random) -> tuple[str, bool, int]:
    """(verdict, whether the interval at the stop holds the truth, pairs run), as `bench.compare` would find."""
    noise = runs(machine, dice)
    ratios: list[float] = []
    for pair in range(in_turn.LOOKS[-1]):
        first, second = (dice.gauss(0, machine.processes) for _ in range(2))
        order = [first, second, second, first]
        one, other, again, last = (next(noise) + process for process in order)
        ratio = (other + again) / 2 - (one + last) / 2
        ratios.append(change + (ratio if pair % 2 == 0 else -ratio))
        if pair + 1 in in_turn.LOOKS and in_turn.judge(ratios, LIMIT, "higher") != "unknown":
            break
    found = in_turn.interval(ratios)
    assert found is not None
    return in_turn.judge(ratios, LIMIT, "higher"), found[1] <= change <= found[2], len(ratios)


def simulate(machine: Machine, compares: int) -> dict[str, float]:
    """Shares of verdicts on a machine: no change, and a slowdown of 5 %."""
    result: dict[str, float] = {}
    for label, change in (("same", 0.0), ("slower", math.log(1 - SLOWDOWN))):
        dice = random.Random(f"{label} {machine}")
        found = [one_compare(machine, change, dice) for _ in range(compares)]
        verdicts = [verdict for verdict, _, _ in found]
        result |= {f"{label}_{word}": verdicts.count(word) / compares for word in ("pass", "fail", "unknown")}
        result[f"{label}_covered"] = sum(covered for _, covered, _ in found) / compares
        result[f"{label}_pairs"] = sum(pairs for _, _, pairs in found) / compares
    return result


@contextmanager
def _slowed(
    path: Path, settings: Settings, *, timeout_s: float, seed: int, limit: MemoryLimit | None = None
) -> Iterator[Any]:
    """A worker whose runs take 1 ÷ 0.95 of their time if its file's name says so."""
    with runtimes.open_worker(path, settings, timeout_s=timeout_s, seed=seed, limit=limit) as worker:
        if "slowed" in path.name:
            whole = worker.run

            def run(step: Step) -> Iterator[RawSample]:
                for sample in whole(step):
                    yield replace(sample, elapsed_s=sample.elapsed_s / (1 - SLOWDOWN))

            worker.run = run  # type: ignore[method-assign,assignment]
        yield worker


def here(model: Path, compares: int, threads: int) -> dict[str, float]:
    """The same on this machine: `model` against itself, and against itself slowed."""
    settings = Settings(context_tokens=512, threads=threads)
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        slowed = Path(folder) / f"{model.stem}-slowed.gguf"
        slowed.symlink_to(model.resolve())
        base = open_artifact(model)
        for label, other in (("same", base), ("slower", open_artifact(slowed))):
            verdicts = []
            for index in range(compares):
                found = compare(base, other, {"decode": LIMIT}, settings=settings, open_worker=_slowed)
                verdicts.append(found.status)
                print(f"{label} {index + 1}: {found.status}, {found.changes[0].reason}", flush=True)
            result |= {f"{label}_{word}": verdicts.count(word) / compares for word in ("pass", "fail", "unknown")}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compares", type=int, default=0, help="of each kind; default 2000 simulated, 20 real")
    parser.add_argument("--model", type=Path, help="run this model against itself here")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="[default: results/false_alarms.json, of --model …-here.json]")
    arguments = parser.parse_args()
    if arguments.model:
        found = {"this machine": here(arguments.model, arguments.compares or 20, arguments.threads)}
    else:
        found = {name: simulate(machine, arguments.compares or 2000) for name, machine in MACHINES.items()}
    for name, shares in found.items():
        print(f"{name:26}", "  ".join(f"{key} {value:.3f}" for key, value in shares.items()))
    write_result(
        arguments.out or RESULTS.with_stem(f"{RESULTS.stem}-here" if arguments.model else RESULTS.stem),
        {
            "circumstances": circumstances(arguments.model) if arguments.model else "simulated",
            "limit": LIMIT,
            "looks": in_turn.LOOKS,
            **found,
        },
    )


if __name__ == "__main__":
    main()
