"""Students of ten million parameters and more, trained here with plain cross-entropy on the four-domain corpus.

    python benchmarks/make_students.py [NAME…] [--threads N]

A student takes minutes, and lies then in the user's cache (`~/.cache/edgekit/students`) as a Hugging Face folder with
`edgekit-student.json` beside the weights: recipe, loss, and what it scores on held-out text.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from edgekit.distill import Recipe, make_student
from edgekit.distill.students import RECORD

LLAMA_10M = Recipe(
    name="llama-10m",
    architecture="llama",
    tokenizer="llama3",
    hidden=256,
    layers=10,
    heads=4,
    kv_heads=2,
    head_dim=64,
    ffn=1024,
    vocabulary=4096,
    tied=False,
    extra=(("rope_theta", 500_000.0), ("rms_norm_eps", 1e-5)),
    characters=1_500_000,
    steps=320,
    batch=2,
    length=512,
    learning_rate=1.5e-3,
)

RECIPES = {
    # narrow and deep; untied
    "llama-10m": LLAMA_10M,
    "qwen3-10m": replace(
        LLAMA_10M,
        name="qwen3-10m",
        architecture="qwen3",
        tokenizer="qwen3",
        hidden=512,
        layers=3,
        heads=8,
        kv_heads=4,
        ffn=1536,
        tied=True,
        extra=(("rope_theta", 1e6),),
    ),
    # attention biases; an embedding wider than the tokenizer
    "qwen2-14m": replace(
        LLAMA_10M,
        name="qwen2-14m",
        architecture="qwen2",
        tokenizer="qwen2",
        hidden=512,
        layers=4,
        heads=8,
        ffn=1536,
        tied=True,
        spare=93,
        extra=(("rope_theta", 1e6),),
    ),
    "llama-17m": replace(
        LLAMA_10M,
        name="llama-17m",
        tokenizer="smollm",
        hidden=512,
        layers=5,
        heads=8,
        kv_heads=4,
        ffn=1536,
        tied=True,
        extra=(("rope_theta", 1e5), ("rms_norm_eps", 1e-5)),
    ),
}


def make(name: str) -> Path:
    """The folder of the student `name`, trained first where the cache lacks it."""
    return make_student(RECIPES[name], progress=_tell)


def _tell(stage: str, done: float, total: float, detail: str = "") -> None:
    if done % 25 == 0 or done == total:
        print(f"{stage} {done:.0f}/{total:.0f} {detail}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)} (all)")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads (its own choice)")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(RECIPES)
    if unknown:
        parser.error(f"unknown student (known: {', '.join(RECIPES)}): `{', '.join(sorted(unknown))}`")
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    for name in arguments.names or RECIPES:
        started = time.perf_counter()
        folder = make(name)
        report = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        held_out = report["held_out"]
        print(
            f"{name}: {report['parameters'] / 1e6:.1f} M parameters, held-out loss {held_out['loss']:.2f} nats "
            f"(unigram {report['held_out_unigram_entropy']:.2f}), top-1 {held_out['top1']:.0%}, "
            f"{time.perf_counter() - started:.0f} s: {folder}",
            flush=True,
        )


if __name__ == "__main__":
    main()
