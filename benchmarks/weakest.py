"""How weak a breakage may be before the quality gates no longer see it.

    python benchmarks/weakest.py [STUDENT…] [--chunks N] [--threads N]

Breaks q8_0 builds of the tests' trained students in the ways of `tests/breakages.py`, at several strengths, and scores
each against the whole f16 build; the healthy q8_0 and q4_k_m stand beside them. A few minutes. Writes
`results/weakest.json` and prints the table; `realistic` marks the strength that occurs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from peer import circumstances, write_result

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # the one home of breakages and students

import breakages as ways
from students import tiny_student

from edgekit import corpus, open_artifact
from edgekit.bench import evaluate
from edgekit.checkpoint import open_checkpoint
from edgekit.quantize.convert import convert
from edgekit.quantize.llama_quantize import quantize_gguf
from edgekit.records import Artifact, Estimate, Figure

RESULTS = Path(__file__).parent / "results" / "weakest.json"
CONTEXT = 256
HEALTHY = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "q3_k_m", "q2_k")
BLOCK = ("attn_output", "ffn_down")

Case = tuple[str, str, bool, ways.Breakage]
"""Name, strength, whether that is the realistic one, and what it does."""


def cases(student: str) -> Iterator[Case]:
    """Everything that can be done to the student of that architecture."""
    yield from scaled()
    yield from structural(student)
    for layer in (0, 1):
        for part in BLOCK:
            name = f"blk.{layer}.{part}.weight"
            yield f"random {name}", "", True, partial(ways.random_tensor, name=name)
            yield f"flipped sign of {name}", "", True, partial(ways.flipped_sign, name=name)
        for part in ("attn_norm", "ffn_norm"):
            name = f"blk.{layer}.{part}.weight"
            yield f"zeroed {name}", "", True, partial(ways.zeroed_norm, name=name)


def scaled() -> Iterator[Case]:
    """What has a strength."""
    for by in (0.1, 0.25, 0.5, 1.0):
        yield "noise in blk.0.ffn_down", f"{by:g} × its spread", False, partial(ways.noisy_tensor, by=by)
    for by in (1.05, 1.1, 1.25, 1.5, 2.0, 16.0):
        yield "scaled output", f"× {by:g}", by >= 2, partial(ways.scaled_output, by=by)
    for epsilon in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1):
        yield "norm epsilon", f"{epsilon:g}", epsilon < 1e-4, partial(ways.norm_epsilon, epsilon=epsilon)
    for base in (1e4, 1e5, 5e5, 1e6, 8e6):
        yield "rope base", f"{base:g}", base < 1e5, partial(ways.rope_base, base=base)


def structural(student: str) -> Iterator[Case]:
    """What is there or is not."""
    yield "swapped layers", "", True, ways.swapped_layers
    yield "swapped gate and up", "", True, ways.swapped_gate_and_up
    yield "rotated heads", "", True, ways.rotated_heads
    yield "embedding off by a row", "", True, ways.shifted_embedding
    yield "output norm beyond all bounds", "", False, ways.overflowing_norm
    if student != "qwen3":  # its heads together are wider than its hidden size
        yield "transposed blk.1.attn_output", "", True, ways.transposed
    if student == "llama":
        yield "queries and keys not reordered", "", True, ways.unpaired_rotation
    if student == "qwen2":
        yield "zeroed biases", "", True, ways.zeroed_bias
        yield "missing biases", "", True, ways.missing_bias


def builds(student: str, folder: Path) -> tuple[Path, dict[str, Path]]:
    """The whole f16 build, and healthy quantized ones."""
    whole = convert(open_checkpoint(tiny_student(student)), folder / f"{student}-f16.gguf")
    return whole, {kind: quantize_gguf(whole, folder / f"{student}-{kind}.gguf", kind) for kind in HEALTHY}


def score(path: Path, reference: Artifact, text: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """KLD and top-1 agreement with their ranges."""
    quality = evaluate(
        open_artifact(path),
        reference,
        text,
        context_tokens=CONTEXT,
        chunks=arguments.chunks,
        threads=arguments.threads,
    )
    return {"kld_mean": triple(quality.kld_mean), "top1_agreement": triple(quality.top1_agreement)}


def triple(figure: Figure) -> list[float] | None:
    return [figure.low, figure.value, figure.high] if isinstance(figure, Estimate) else None


def show(row: dict[str, Any]) -> None:
    kld, top1 = row["kld_mean"], row["top1_agreement"]
    shown = f"{kld[1]:9.5f} ({kld[0]:.5f} – {kld[2]:.5f})" if kld else "  unknown"
    print(f"{row['student']:7} {row['case']:40} {row['strength']:16} {shown:32} {top1[1]:6.1%}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="*", default=["qwen3", "qwen2", "llama"])
    parser.add_argument("--chunks", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    text = corpus.text("evaluation", characters=60_000)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for student in arguments.students:
            whole, healthy = builds(student, folder)
            reference = open_artifact(whole)
            todo: list[tuple[str, str, bool, Path | ways.Breakage]] = [
                *(("healthy", kind, True, path) for kind, path in healthy.items()),
                *cases(student),
            ]
            for case, strength, realistic, what in todo:
                path = what if isinstance(what, Path) else ways.broken(healthy["q8_0"], what, folder / "broken.gguf")
                row = {"student": student, "case": case, "strength": strength, "realistic": realistic}
                rows.append(row | score(path, reference, text, arguments))
                show(rows[-1])
        write_result(RESULTS, {**circumstances(whole), "context_tokens": CONTEXT, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
