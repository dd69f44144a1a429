"""What distillation's loss costs over a vocabulary of 151 936: naive, checkpointed, ours, and TRL's chunked divergence.

    python benchmarks/distill_loss.py [--peer-python VENV/bin/python] [--rounds 5] [--threads 2]

Every pass (hidden states in, gradients by hidden states and head out) is a process of its own, the methods in turn;
a ratio is the median over the rounds of ours ÷ theirs in the same round, of wall time and of CPU time (which a busy
machine disturbs less). Extra memory is the most the process held
beyond what it was given, the head's gradient included (student's head 151 936 × 1024, as Qwen3-0.6B has; teacher's
× 1536). The naive way, checkpointing and ours do α·T²·KL + (1 − α)·CE; TRL's does the divergence alone, at the same
temperature, which is less. `--peer-python` is an interpreter that has `trl` (DistillationTrainer's loss path is the
function measured). bfloat16 is autocast. Writes `results/distill_loss.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results" / "distill_loss.json"
STUDENT, TEACHER = 1024, 1536
TEMPERATURE, ALPHA = 2.0, 0.5
CHECKPOINT_CHUNK = 256


# ---- in a process of its own -----------------------------------------------------------------------------------------


def naive(torch: Any, c: dict[str, Any], _chunk: int) -> Any:
    """As torchtune's recipe and every tutorial: both models' logits at once."""
    return _parts(torch, c, slice(None)) / c["labels"].numel()


def checkpointed(torch: Any, c: dict[str, Any], _chunk: int) -> Any:
    """The same sum chunk by chunk, each chunk computed again for its gradient."""
    again = torch.utils.checkpoint.checkpoint
    chunks = range(0, c["labels"].numel(), CHECKPOINT_CHUNK)
    sums = [again(_parts, torch, c, slice(at, at + CHECKPOINT_CHUNK), use_reentrant=False) for at in chunks]
    return sum(sums) / c["labels"].numel()


def _parts(torch: Any, c: dict[str, Any], rows: slice) -> Any:
    functional = torch.nn.functional
    logits = functional.linear(c["hidden"][rows], c["weight"]).float()
    with torch.no_grad():
        teacher = functional.linear(c["teacher"][rows], c["teacher_weight"]).float()
    log_q, log_p = (functional.log_softmax(given / TEMPERATURE, -1) for given in (logits, teacher))
    distill = TEMPERATURE**2 * functional.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return ALPHA * distill + (1 - ALPHA) * functional.cross_entropy(logits, c["labels"][rows], reduction="sum")


def edgekit(_torch: Any, c: dict[str, Any], chunk: int) -> Any:
    """Ours; a chunk of 0 is the one it chooses."""
    from edgekit.distill.losses import distillation_loss

    teacher = (c["teacher"], c["teacher_weight"])
    parts = distillation_loss(
        c["hidden"], c["weight"], teacher, c["labels"], temperature=TEMPERATURE, alpha=ALPHA, chunk_tokens=chunk or None
    )
    return parts.total


def trl(torch: Any, c: dict[str, Any], _chunk: int) -> Any:
    """What DistillationTrainer calls: the divergence alone."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    hidden, teacher = c["hidden"].unsqueeze(0), c["teacher"].unsqueeze(0)
    mask = torch.ones(hidden.shape[:2])
    return _chunked_divergence_loss(
        hidden, teacher, c["weight"], c["teacher_weight"], mask, 0.0, temperature=TEMPERATURE
    )[0]


METHODS: dict[str, Callable[..., Any]] = {"naive": naive, "checkpointed": checkpointed, "edgekit": edgekit, "trl": trl}


def once(method: str, tokens: int, chunk: int, vocabulary: int, dtype: str, threads: int) -> dict[str, float]:
    """One pass: seconds, the most bytes held beyond the inputs, and the loss."""
    import torch
    import torch.utils.checkpoint

    torch.set_num_threads(threads)
    _pass(torch, METHODS[method], _inputs(torch, 64, 512), 32, dtype)  # libraries load, kernels are chosen
    inputs = _inputs(torch, tokens, vocabulary)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts here
    started, cpu_before = time.perf_counter(), time.process_time()
    loss = _pass(torch, METHODS[method], inputs, chunk, dtype)
    wall_s = time.perf_counter() - started
    cpu_s = time.process_time() - cpu_before
    return {"wall_s": wall_s, "cpu_s": cpu_s, "extra_bytes": _status("VmHWM") - before, "loss": loss}


def _pass(torch: Any, method: Callable[..., Any], inputs: dict[str, Any], chunk: int, dtype: str) -> float:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
        loss = method(torch, inputs, chunk)
    loss.backward()
    assert inputs["hidden"].grad is not None
    assert inputs["weight"].grad is not None
    return float(loss.detach())


def _inputs(torch: Any, tokens: int, vocabulary: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int, spread: float) -> Any:
        return torch.empty(*shape).normal_(0, spread, generator=generator)

    return {
        "hidden": normal(tokens, STUDENT, spread=1.0).requires_grad_(),
        "weight": normal(vocabulary, STUDENT, spread=2 * STUDENT**-0.5).requires_grad_(),
        "teacher": normal(tokens, TEACHER, spread=1.0),
        "teacher_weight": normal(vocabulary, TEACHER, spread=3 * TEACHER**-0.5),
        "labels": torch.randint(vocabulary, (tokens,), generator=generator),
    }


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"this system does not tell `{field}`")


# ---- in turn ---------------------------------------------------------------------------------------------------------


def measured(python: Path, method: str, setting: dict[str, Any], script: str = __file__) -> dict[str, float]:
    """`once` of a script in a fresh process of `python`."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(setting["threads"]), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [str(python), script, "--one", json.dumps({"method": method, **setting})]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800, check=False)
    if done.returncode:
        raise SystemExit(f"{method} died ({done.returncode}):\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(setting: dict[str, Any], methods: dict[str, Path], rounds: int, script: str = __file__) -> dict[str, Any]:
    """All methods in turn, `rounds` times: each one's samples, and ours by theirs."""
    samples: dict[str, list[dict[str, float]]] = {method: [] for method in methods}
    for turn in range(rounds):
        for method, python in methods.items():
            samples[method].append(measured(python, method, setting, script))
            last = samples[method][-1]
            words = f"{last['wall_s']:7.2f} s {last['cpu_s']:7.2f} s of CPU {last['extra_bytes'] / 1e9:6.2f} GB"
            print(f"  {turn + 1}/{rounds} {method:<13}{words} loss {last['loss']:.5f}", file=sys.stderr)
    found: dict[str, Any] = {**setting, "samples": samples, "ours_by": {}}
    for method in methods:
        if method == "edgekit":
            continue
        pairs = list(zip(samples["edgekit"], samples[method], strict=True))
        found["ours_by"][method] = {
            "time_ratio_median": median(ours["wall_s"] / theirs["wall_s"] for ours, theirs in pairs),
            "cpu_ratio_median": median(ours["cpu_s"] / theirs["cpu_s"] for ours, theirs in pairs),
            "memory_ratio_median": median(ours["extra_bytes"] / theirs["extra_bytes"] for ours, theirs in pairs),
        }
    return found


def circumstances(peer: Path | None) -> dict[str, Any]:
    """When, where and with what."""
    from edgekit import __version__
    from edgekit.bench import probe_host

    asked = "from importlib.metadata import version; print(version('trl'), version('torch'))"
    words = subprocess.run([str(peer), "-c", asked], capture_output=True, text=True, check=True).stdout if peer else ""
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "edgekit": __version__,
        "torch": version("torch"),
        "peer": dict(zip(("trl", "torch"), words.split(), strict=False)),
        "host": asdict(probe_host()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has trl")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--chunk", type=int, default=0, help="of ours, in tokens; 0: its own choice")
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    parser.add_argument(
        "--long", type=int, default=4096, help="ours alone at that many tokens too, in chunks of 64; 0: not"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(once(**json.loads(given.one))))
        return
    from peer import write_result

    if given.peer_python is None and "trl" in given.methods:
        print("skipped: trl, there is no `--peer-python`", file=sys.stderr)
    methods = {m: given.peer_python if m == "trl" else Path(sys.executable) for m in given.methods}
    methods = {method: python for method, python in methods.items() if python is not None}
    sizes = {"vocabulary": given.vocabulary, "threads": given.threads}
    runs = [
        compare({"tokens": given.tokens, "chunk": given.chunk, "dtype": dtype, **sizes}, methods, given.rounds)
        for dtype in given.dtypes
    ]
    if given.long:
        long = {"tokens": given.long, "chunk": 64, "dtype": "float32", **sizes}
        runs.append(compare(long, {"edgekit": Path(sys.executable)}, min(3, given.rounds)))
    shape = {"student_hidden": STUDENT, "teacher_hidden": TEACHER, "temperature": TEMPERATURE, "alpha": ALPHA}
    write_result(given.out, {**circumstances(given.peer_python), **shape, "runs": runs})


if __name__ == "__main__":
    main()
