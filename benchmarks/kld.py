"""Are edgekit's perplexity and KL divergence those of `llama-perplexity --kl-divergence`, and is it as fast?

    python benchmarks/kld.py --llama-perplexity BIN/llama-perplexity --artifact A.gguf --reference B.gguf --text FILE

Both do the reference's pass and the artifact's, on the same text and threads, in turn; the figure is the median over
the pairs of edgekit's tokens/s ÷ the peer's, loading included. The values are wanted within 1 % beyond the peer's own
blur (its base file has 16 bits and ends at 16 nats). Without models: stand-ins of nano-1.5b, whose random weights
time both as well as real ones. Writes `results/kld.json`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from peer import circumstances, write_result

from edgekit import open_artifact
from edgekit.bench import evaluate
from edgekit.bench.noise import others_share, read_counters
from edgekit.corpus import text as corpus_text
from edgekit.files import read_text
from edgekit.records import Artifact, Estimate, Figure, Quality, Settings
from edgekit.runtimes import big_cores, open_scorer, sandbox
from edgekit.shapes import cached_stand_in

RESULTS = Path(__file__).parent / "results" / "kld.json"
CONTEXT = 512
BLUR_NATS = 2e-5
"""How far the peer's KLD may lie off for its base file's sake, on a text of a few chunks."""

_VALUES = {
    "perplexity": r"Mean PPL\(Q\)\s*:\s*([\d.]+)",
    "reference_perplexity": r"Mean PPL\(base\)\s*:\s*([\d.]+)",
    "kld_mean": r"Mean\s+KLD:\s*(-?[\d.]+)",
    "top1_agreement": r"Same top p:\s*([\d.]+)",
}


def find_tool(path: Path | None) -> Path | None:
    """The peer, or `None` with the reason printed."""
    named = path or (Path(os.environ["LLAMA_PERPLEXITY"]) if os.environ.get("LLAMA_PERPLEXITY") else None)
    if named is not None and named.is_file() and os.access(named, os.X_OK):
        return named.resolve()
    wanted = f"`{named}` is no program" if named else "no `--llama-perplexity PATH` and no $LLAMA_PERPLEXITY"
    print(f"skipped: {wanted}; it is built from the binding's sdist (see benchmarks/peer.py)", file=sys.stderr)
    return None


def run_tool(tool: Path, model: Path, text: Path, base: Path, arguments: argparse.Namespace, *, second: bool) -> str:
    """One pass of the peer; its output. Dies with its last words."""
    command: list[object] = [tool, "-m", model, "-f", text, "-c", CONTEXT, "--chunks", arguments.chunks]
    command += ["-t", arguments.threads, "--kl-divergence-base", base, *(["--kl-divergence"] if second else [])]
    libraries = [str(tool.parent.parent / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env={**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, libraries))},
        check=False,
        preexec_fn=None if arguments.amx else sandbox.deny_amx,
    )
    if done.returncode:
        raise SystemExit(f"llama-perplexity died ({done.returncode}):\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout + done.stderr


def run_peer(
    tool: Path, artifact: Path, reference: Path, text: Path, arguments: argparse.Namespace
) -> dict[str, float]:
    """Both passes: wall time and the values."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base.kld"
        started = time.perf_counter()
        run_tool(tool, reference, text, base, arguments, second=False)
        output = run_tool(tool, artifact, text, base, arguments, second=True)
        found = {"wall_s": time.perf_counter() - started, "base_bytes": float(base.stat().st_size)}
        for _ in range(5):  # at its exit the peer sometimes loses the last lines of its log
            if "Same top p:" in output:
                break
            output = run_tool(tool, artifact, text, base, arguments, second=True)
    for name, pattern in _VALUES.items():
        match = re.search(pattern, output)
        found[name] = float(match[1]) / (100 if name == "top1_agreement" else 1) if match else float("nan")
    return found


def value_of(figure: Figure) -> float:
    return figure.value if isinstance(figure, Estimate) else float("nan")


def run_edgekit(
    artifact: Artifact, reference: Artifact, text: str, arguments: argparse.Namespace
) -> tuple[dict[str, float], Quality]:
    """`evaluate` as a user calls it: wall time and the values."""
    started = time.perf_counter()
    quality = evaluate(
        artifact, reference, text, context_tokens=CONTEXT, chunks=arguments.chunks, threads=arguments.threads
    )
    wall_s = time.perf_counter() - started
    return {"wall_s": wall_s, **{name: value_of(getattr(quality, name)) for name in _VALUES}}, quality


def peak_bytes(artifact: Artifact, reference: Artifact, text: str, threads: int) -> int | None:
    """Private memory of the scoring process over a chunk, models mapped and unpacked: what scoring itself takes."""
    settings = Settings(
        context_tokens=CONTEXT, batch_tokens=CONTEXT, ubatch_tokens=CONTEXT, threads=threads, repack=False
    )
    paths = Path(artifact.path), Path(reference.path)
    vocabulary = max(artifact.header.vocabulary, reference.header.vocabulary)
    with open_scorer(*paths, settings, text=text, vocabulary=vocabulary, chunks=1) as scorer:
        list(scorer.scores())
        peak = scorer.finish()
    return peak.unevictable_bytes if peak else None


def agrees(name: str, ours: float, theirs: float) -> bool:
    """Within 1 %, or the peer's blur; agreement on the likeliest token within half a percent."""
    if name == "top1_agreement":
        return abs(ours - theirs) <= 0.005
    return abs(ours - theirs) <= 0.01 * abs(theirs) + (BLUR_NATS if name == "kld_mean" else 0)


def main() -> int:
    """0 when the values agree and edgekit is no slower, or when the peer is missing and the run is skipped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--llama-perplexity", type=Path, help="of the same build; or set $LLAMA_PERPLEXITY")
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--text", type=Path, help="default: the corpus's evaluation split")
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=big_cores())
    parser.add_argument("--amx", action="store_true", help="let the peer use AMX (GCC 12's kernels die)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    tool = find_tool(arguments.llama_perplexity)
    if tool is None:
        return 0
    artifact = open_artifact((arguments.artifact or cached_stand_in("nano-1.5b", "q4_0")).resolve())
    reference = open_artifact((arguments.reference or cached_stand_in("nano-1.5b", "q8_0")).resolve())
    text = (
        read_text(arguments.text) if arguments.text else corpus_text("evaluation", characters=4000 * arguments.chunks)
    )
    before, pairs = read_counters(), []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text"
        file.write_text(text, encoding="utf-8")
        for index in range(arguments.pairs):
            pair: dict[str, Any] = {}
            for name in ("edgekit", "peer") if index % 2 == 0 else ("peer", "edgekit"):
                if name == "edgekit":
                    pair[name], quality = run_edgekit(artifact, reference, text, arguments)
                else:
                    pair[name] = run_peer(tool, Path(artifact.path), Path(reference.path), file, arguments)
            pairs.append(pair)
            print(f"pair {index + 1}: edgekit {pair['edgekit']['wall_s']:.1f} s, peer {pair['peer']['wall_s']:.1f} s")
    ratio = median(pair["peer"]["wall_s"] / pair["edgekit"]["wall_s"] for pair in pairs)
    ours, theirs = pairs[-1]["edgekit"], pairs[-1]["peer"]
    agreed = {name: agrees(name, ours[name], theirs[name]) for name in _VALUES}
    for name, same in agreed.items():
        print(f"{name:22} edgekit {ours[name]:.6f}  peer {theirs[name]:.6f}  {'agree' if same else 'DIFFER'}")
    print(f"edgekit's speed ÷ the peer's: {ratio:.3f}")
    result = {
        "kind": "kld_benchmark",
        "version": 1,
        **circumstances(Path(artifact.path)),
        "reference": Path(reference.path).name,
        "chunks": len(quality.chunks),
        "threads": arguments.threads,
        "runtime": quality.runtime.build if quality.runtime else "",
        "cpu_features": quality.runtime.cpu_features if quality.runtime else "",
        "speed_ratio": ratio,
        "agreed": agreed,
        "private_bytes": peak_bytes(artifact, reference, text, arguments.threads),
        "others_cpu_share": others_share(before, read_counters()),
        "pairs": pairs,
    }
    write_result(arguments.out, result)
    return 0 if all(agreed.values()) and ratio >= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
