"""How many bytes a compact reference takes, how well it tells, and what it costs, against running the reference.

    python benchmarks/reference_file.py [--artifact A.gguf --reference B.gguf --text FILE]
        [--llama-perplexity BIN/llama-perplexity]

In turn: both models at once (`evaluate`), the reference into a file (`save_reference`), the artifact against the file,
and the reference against its own file, which ought to differ by nothing. Per scored token the file is held against
llama.cpp's base file, whose rows take 2 × vocabulary + 8 bytes; with the peer's path that file is written, too. Without
models: stand-ins of nano-0.6b, which have the full vocabulary of 151 936; `benchmarks/make_students.py` makes models
that have learned something. Writes `results/reference_file.json`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from kld import find_tool, run_tool
from peer import circumstances, write_result

from edgekit import open_artifact
from edgekit.bench import evaluate, save_reference
from edgekit.bench.noise import others_share, read_counters
from edgekit.corpus import text as corpus_text
from edgekit.files import read_text
from edgekit.records import Artifact, Estimate, Figure, Quality, ReferenceFile, Settings
from edgekit.runtimes import big_cores
from edgekit.runtimes.compact.chunks import scored_rows
from edgekit.runtimes.compact.keeping import open_keeper, row_bytes_for
from edgekit.shapes import cached_stand_in

RESULTS = Path(__file__).parent / "results" / "reference_file.json"
CONTEXT = 512
MOST_OFF = 0.01
MOST_ITSELF_NATS = 1e-6


def value_of(figure: Figure) -> float | None:
    return figure.value if isinstance(figure, Estimate) else None


def kld_of(quality: Quality) -> float:
    """Its mean, whatever range a few chunks give it."""
    return sum(chunk.kld or 0.0 for chunk in quality.chunks) / sum(chunk.tokens for chunk in quality.chunks)


def lower_of(quality: Quality) -> float:
    return sum(chunk.kld_lower or 0.0 for chunk in quality.chunks) / sum(chunk.tokens for chunk in quality.chunks)


def worst_row(stored: Quality, live: Quality) -> dict[str, float]:
    """How far single tokens are off, as shares of their KLD, of those that have more than a tenth of the mean."""
    least = 0.1 * kld_of(live)
    pairs = [
        (ours, exact)
        for one, other in zip(stored.chunks, live.chunks, strict=True)
        for ours, exact in zip(one.token_kld, other.token_kld, strict=True)
        if exact > least
    ]
    off = sorted(abs(ours / exact - 1) for ours, exact in pairs)
    return {"median": off[len(off) // 2], "p99": off[int(0.99 * len(off))], "tokens": float(len(off))}


def timed(work: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def peak_bytes(reference: Artifact, text: str, threads: int) -> int | None:
    """Private memory of the process that keeps a reference over two chunks, the model mapped and unpacked."""
    settings = Settings(
        context_tokens=CONTEXT, batch_tokens=CONTEXT, ubatch_tokens=CONTEXT, threads=threads, repack=False
    )
    vocabulary = reference.header.vocabulary
    with (
        tempfile.NamedTemporaryFile() as place,
        open_keeper(
            Path(reference.path), settings, text=text, vocabulary=vocabulary, chunks=2, place=Path(place.name)
        ) as keeper,
    ):
        for _ in keeper.keep("{}", begin=0, checksum=0, row_bytes=row_bytes_for(vocabulary, CONTEXT), seed=1):
            pass
        peak = keeper.finish()
    return peak.unevictable_bytes if peak else None


def compare(
    artifact: Artifact, reference: Artifact, text: str, arguments: argparse.Namespace
) -> tuple[ReferenceFile, dict[str, Any]]:
    """The file, and what was found of it."""
    common: dict[str, Any] = {"context_tokens": CONTEXT, "threads": arguments.threads}
    with tempfile.TemporaryDirectory() as folder:
        live, live_s = timed(lambda: evaluate(artifact, reference, text, chunks=arguments.chunks, **common))
        place = Path(folder) / "reference"
        kept, keeping_s = timed(lambda: save_reference(reference, text, place, chunks=arguments.chunks, **common))
        stored, stored_s = timed(lambda: evaluate(artifact, kept, text, **common))
        itself = evaluate(reference, kept, text, chunks=min(2, arguments.chunks), **common)
        _, alone_s = timed(lambda: evaluate(artifact, None, text, chunks=arguments.chunks, **common))
        kept = replace(kept, path="")
    return kept, {
        "kld_live": kld_of(live),
        "kld": kld_of(stored),
        "kld_lower": lower_of(stored),
        "off": kld_of(stored) / kld_of(live) - 1,
        "kld_itself": kld_of(itself),
        "kld_itself_max": max(max(chunk.token_kld) for chunk in itself.chunks),
        "rows": worst_row(stored, live),
        "top1": [value_of(stored.top1_agreement), value_of(live.top1_agreement)],
        "top5": [value_of(stored.top5_agreement), value_of(live.top5_agreement)],
        "dp_rms": [value_of(stored.dp_rms), value_of(live.dp_rms)],
        "live_s": live_s,
        "keeping_s": keeping_s,
        "against_file_s": stored_s,
        "artifact_alone_s": alone_s,
    }


def peer_bytes(reference: Artifact, text: str, arguments: argparse.Namespace) -> int | None:
    """What the peer's base file takes for the same chunks."""
    tool = find_tool(arguments.llama_perplexity)
    if tool is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file, base = Path(folder) / "text", Path(folder) / "base.kld"
        file.write_text(text, encoding="utf-8")
        run_tool(tool, Path(reference.path), file, base, arguments, second=False)
        return base.stat().st_size


def main() -> int:
    """0 when the file is small enough and tells right."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--llama-perplexity", type=Path, help="of the same build; or set $LLAMA_PERPLEXITY")
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--text", type=Path, help="default: the corpus's evaluation split")
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--threads", type=int, default=big_cores())
    parser.add_argument("--amx", action="store_true", help="let the peer use AMX (GCC 12's kernels die)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    artifact = open_artifact((arguments.artifact or cached_stand_in("nano-0.6b", "q4_0")).resolve())
    reference = open_artifact((arguments.reference or cached_stand_in("nano-0.6b", "q8_0")).resolve())
    text = (
        read_text(arguments.text) if arguments.text else corpus_text("evaluation", characters=4000 * arguments.chunks)
    )
    before = read_counters()
    kept, found = compare(artifact, reference, text, arguments)
    rows = kept.chunks * scored_rows(CONTEXT)
    row_bytes, peer_row_bytes = kept.size_bytes / rows, 2 * kept.vocabulary + 8
    small = 50 * row_bytes <= peer_row_bytes or kept.vocabulary < 100_000
    right = abs(found["off"]) <= MOST_OFF and found["kld_itself"] <= MOST_ITSELF_NATS
    print(f"bytes a row: {row_bytes:.0f}, all told; llama.cpp's {peer_row_bytes}: {peer_row_bytes / row_bytes:.1f} ×")
    print(f"KLD {found['kld']:.6f}, live {found['kld_live']:.6f} ({found['off']:+.3%}), lower {found['kld_lower']:.6f}")
    print(f"KLD of the reference against its file: {found['kld_itself']:.2e}, at most {found['kld_itself_max']:.2e}")
    print(f"tokens off by {found['rows']['median']:.1%} in the median, p99 {found['rows']['p99']:.1%}")
    print(", ".join(f"{name} {found[name]:.1f}" for name in found if name.endswith("_s")))
    result = {
        "kind": "reference_file_benchmark",
        "version": 1,
        **circumstances(Path(artifact.path)),
        "reference": Path(reference.path).name,
        "vocabulary": kept.vocabulary,
        "chunks": kept.chunks,
        "threads": arguments.threads,
        "size_bytes": kept.size_bytes,
        "row_bytes": row_bytes,
        "peer_row_bytes": peer_row_bytes,
        "peer_bytes": peer_bytes(reference, text, arguments),
        "private_bytes": peak_bytes(reference, text, arguments.threads),
        "others_cpu_share": others_share(before, read_counters()),
        **found,
    }
    write_result(arguments.out, result)
    return 0 if small and right else 1


if __name__ == "__main__":
    sys.exit(main())
