"""Are edgekit's figures of a text those of `llama-perplexity --kl-divergence`, and at what speed and memory?

    python benchmarks/kld.py --llama-perplexity BIN/llama-perplexity [--artifact A.gguf --reference B.gguf --text FILE]

Both do the reference's pass and the artifact's, on the same text and threads, in turn; the figure is the median over
the pairs of edgekit's tokens/s ÷ the peer's, loading included. Values are wanted within 1 % beyond the peer's own blur
(its base file has 16 bits and ends at 16 nats). Memory is what a process keeps besides the models, both run once more
without repacking for it. Without models: stand-ins of nano-1.5b, whose random weights time both as well as real ones,
and the values once more on a trained student where `make_students.py` has made it. Writes `results/kld.json`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from peer import circumstances, write_result

from edgekit import open_artifact
from edgekit.bench import evaluate
from edgekit.bench.noise import others_share, read_counters
from edgekit.checkpoint import open_checkpoint
from edgekit.corpus import text as corpus_text
from edgekit.files import read_text
from edgekit.quantize.convert import convert
from edgekit.quantize.llama_quantize import quantize_gguf
from edgekit.records import Artifact, Estimate, Quality, Settings
from edgekit.runtimes import big_cores, open_scorer, sandbox
from edgekit.shapes import cached_stand_in
from edgekit.shapes.stand_in import cache_dir

RESULTS = Path(__file__).parent / "results" / "kld.json"
CONTEXT = 512
STUDENT = "qwen3-10m-trained-*"

MOST_BYTES, AT_VOCABULARY = 200_000_000, 151_936
"""What scoring may keep in memory besides two models of that vocabulary or a smaller one."""

BLUR_NATS = 16 / 65535 / 2
"""Half a step of the peer's base file, at the worst: what one token's KLD, and so any quantile of them, may lie off."""
MEAN_BLUR_NATS = 2e-5
"""The same of a mean over a few chunks, where such errors cancel."""

_QUANTILES = {"kld_median": 0.5, "kld_p90": 0.9, "kld_p99": 0.99, "kld_p999": 0.999, "kld_max": 1.0}
_VALUES = {
    "perplexity": r"Mean PPL\(Q\)\s*:\s*([\d.]+)",
    "reference_perplexity": r"Mean PPL\(base\)\s*:\s*([\d.]+)",
    "perplexity_ratio": r"Mean PPL\(Q\)/PPL\(base\)\s*:\s*([\d.]+)",
    "kld_mean": r"Mean\s+KLD:\s*(-?[\d.]+)",
    "kld_median": r"Median\s+KLD:\s*(-?[\d.]+)",
    "kld_p90": r"90\.0%\s+KLD:\s*(-?[\d.]+)",
    "kld_p99": r"99\.0%\s+KLD:\s*(-?[\d.]+)",
    "kld_p999": r"99\.9%\s+KLD:\s*(-?[\d.]+)",
    "kld_max": r"Maximum KLD:\s*(-?[\d.]+)",
    "dp_rms": r"RMS Δp\s*:\s*([\d.]+)",
    "top1_agreement": r"Same top p:\s*([\d.]+)",
}
_LAST = "Same top p:"
_IN_PERCENT = ("dp_rms", "top1_agreement")


def find_tool(path: Path | None) -> Path | None:
    """The peer, or `None` with the reason printed."""
    named = path or (Path(os.environ["LLAMA_PERPLEXITY"]) if os.environ.get("LLAMA_PERPLEXITY") else None)
    if named is not None and named.is_file() and os.access(named, os.X_OK):
        return named.resolve()
    wanted = f"`{named}` is no program" if named else "no `--llama-perplexity PATH` and no $LLAMA_PERPLEXITY"
    print(f"skipped: {wanted}; it is built from the binding's sdist (see benchmarks/peer.py)", file=sys.stderr)
    return None


# ---- the peer -------------------------------------------------------------------------------------------------------


def run_tool(
    tool: Path, model: Path, text: Path, base: Path, arguments: argparse.Namespace, *options: str
) -> tuple[str, int]:
    """One pass of the peer: its output, and the most private bytes it held. Dies with its last words."""
    command: list[object] = [tool, "-m", model, "-f", text, "-c", CONTEXT, "--chunks", arguments.chunks]
    command += ["-t", arguments.threads, "--kl-divergence-base", base, *options]
    libraries = [str(tool.parent.parent / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, libraries))},
            preexec_fn=None if arguments.amx else sandbox.deny_amx,
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, private_bytes(process.pid))
            time.sleep(0.02)
        output.seek(0)
        words = output.read().decode(errors="replace")
    if process.returncode:
        raise SystemExit(f"llama-perplexity died ({process.returncode}):\n{words[-2000:]}")
    return words, peak


def private_bytes(pid: int) -> int:
    """Anonymous memory of a process, in RAM or swapped out; 0 where the OS does not tell."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "VmSwap") if name in fields)
    return 0


def run_peer(
    tool: Path, artifact: Path, reference: Path, text: Path, arguments: argparse.Namespace, *options: str
) -> dict[str, float]:
    """Both passes: wall time, memory and the values."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base.kld"
        started = time.perf_counter()
        _, first = run_tool(tool, reference, text, base, arguments, *options)
        output, second = run_tool(tool, artifact, text, base, arguments, "--kl-divergence", *options)
        found = {"wall_s": time.perf_counter() - started, "base_bytes": float(base.stat().st_size)}
        for _ in range(5):  # at its exit the peer sometimes loses the last lines of its log
            if _LAST in output:
                break
            output, _ = run_tool(tool, artifact, text, base, arguments, "--kl-divergence", *options)
    for name, pattern in _VALUES.items():
        match = re.search(pattern, output)
        found[name] = float(match[1]) / (100 if name in _IN_PERCENT else 1) if match else float("nan")
    return {**found, "private_bytes": max(first, second)}


# ---- edgekit --------------------------------------------------------------------------------------------------------


def run_edgekit(
    artifact: Artifact, reference: Artifact, text: str, arguments: argparse.Namespace
) -> tuple[dict[str, float], Quality]:
    """`evaluate` as a user calls it: wall time and the values."""
    started = time.perf_counter()
    quality = evaluate(
        artifact, reference, text, context_tokens=CONTEXT, chunks=arguments.chunks, threads=arguments.threads
    )
    return {"wall_s": time.perf_counter() - started, **values_of(quality)}, quality


def values_of(quality: Quality) -> dict[str, float]:
    """The values, those of quantiles also where the text is too short for their ranges."""
    figures = {name: getattr(quality, name) for name in _VALUES}
    found = {name: figure.value if isinstance(figure, Estimate) else float("nan") for name, figure in figures.items()}
    klds = np.concatenate([np.asarray(chunk.token_kld) for chunk in quality.chunks])
    return found | {name: float(np.quantile(klds, share)) for name, share in _QUANTILES.items()}


def scoring_bytes(
    artifact: Artifact, reference: Artifact, text: str, arguments: argparse.Namespace
) -> dict[str, int | None]:
    """Private memory of the scoring process, models mapped and not repacked: what it takes beside them, and what the
    interpreter and its libraries held before they were opened.
    """
    settings = Settings(
        context_tokens=CONTEXT, batch_tokens=CONTEXT, ubatch_tokens=CONTEXT, threads=arguments.threads, repack=False
    )
    paths = Path(artifact.path), Path(reference.path)
    vocabulary = max(artifact.header.vocabulary, reference.header.vocabulary)
    with open_scorer(*paths, settings, text=text, vocabulary=vocabulary, chunks=min(2, arguments.chunks)) as scorer:
        list(scorer.scores())
        peak = scorer.finish()
    if peak is None:
        return {"private_bytes": None, "baseline_bytes": None}
    return {"private_bytes": peak.unevictable_bytes, "baseline_bytes": peak.baseline_bytes}


# ---- the comparison -------------------------------------------------------------------------------------------------


def agrees(name: str, ours: float, theirs: float) -> bool:
    """Within 1 % and the peer's blur; agreement on the likeliest token within half a percent, as ties are broken by
    what 16 bits leave of them.
    """
    if name == "top1_agreement":
        return abs(ours - theirs) <= 0.005
    blur = {"kld_mean": MEAN_BLUR_NATS, "dp_rms": BLUR_NATS}.get(name, BLUR_NATS if name in _QUANTILES else 0.0)
    return abs(ours - theirs) <= 0.01 * abs(theirs) + blur


def compare(tool: Path, artifact: Artifact, reference: Artifact, text: str, arguments: argparse.Namespace) -> Any:
    """Everything about one artifact and its reference."""
    before, pairs = read_counters(), []
    evaluate(artifact, reference, text, context_tokens=CONTEXT, chunks=1, threads=arguments.threads)  # files in RAM
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text"
        file.write_text(text, encoding="utf-8")
        paths = Path(artifact.path), Path(reference.path)
        for index in range(arguments.pairs):
            pair: dict[str, Any] = {}
            for name in ("edgekit", "peer") if index % 2 == 0 else ("peer", "edgekit"):
                if name == "edgekit":
                    pair[name], quality = run_edgekit(artifact, reference, text, arguments)
                else:
                    pair[name] = run_peer(tool, *paths, file, arguments)
            pairs.append(pair)
            print(f"pair {index + 1}: edgekit {pair['edgekit']['wall_s']:.1f} s, peer {pair['peer']['wall_s']:.1f} s")
        peer_bytes = run_peer(tool, *paths, file, arguments, "--no-repack")["private_bytes"]
    ratio = median(pair["peer"]["wall_s"] / pair["edgekit"]["wall_s"] for pair in pairs)
    ours, theirs = pairs[-1]["edgekit"], pairs[-1]["peer"]
    agreed = {name: agrees(name, ours[name], theirs[name]) for name in _VALUES}
    for name, same in agreed.items():
        print(f"{name:22} edgekit {ours[name]:.6f}  peer {theirs[name]:.6f}  {'agree' if same else 'DIFFER'}")
    memory = scoring_bytes(artifact, reference, text, arguments)
    print(f"edgekit's speed ÷ the peer's: {ratio:.3f}")
    print(f"private memory beside the models: edgekit {memory['private_bytes']}, peer {peer_bytes:.0f}")
    return {
        **circumstances(Path(artifact.path)),
        "reference": Path(reference.path).name,
        "chunks": len(quality.chunks),
        "threads": arguments.threads,
        "runtime": quality.runtime.build if quality.runtime else "",
        "cpu_features": quality.runtime.cpu_features if quality.runtime else "",
        "speed_ratio": ratio,
        "agreed": agreed,
        **memory,
        "peer_private_bytes": peer_bytes,
        "others_cpu_share": others_share(before, read_counters()),
        "pairs": pairs,
    }


def within_memory(private_bytes: int | None, *models: Artifact) -> bool:
    """Whether scoring kept within the bound; also where the system does not tell, or for larger vocabularies."""
    if private_bytes is None or max(model.header.vocabulary for model in models) > AT_VOCABULARY:
        return True
    if private_bytes > MOST_BYTES:
        print(f"more than the {MOST_BYTES} bytes that scoring may keep besides the models")
    return private_bytes <= MOST_BYTES


def trained_pair(folder: Path) -> tuple[Artifact, Artifact] | None:
    """A trained student as q4_k_m and f16, or `None` with the reason printed."""
    found = sorted((cache_dir().parent / "students").glob(STUDENT))
    if not found:
        print("no trained student: `python benchmarks/make_students.py qwen3-10m` makes one", file=sys.stderr)
        return None
    full = convert(open_checkpoint(found[-1]), folder / "student-f16.gguf", type="f16")
    small = quantize_gguf(full, folder / "student-q4_k_m.gguf", "q4_k_m", threads=2)
    return open_artifact(small), open_artifact(full)


def main() -> int:
    """0 when the values agree and edgekit is no slower and within its memory, or when the peer is missing."""
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
    if (arguments.artifact is None) != (arguments.reference is None):
        parser.error("--artifact and --reference belong together")
    text = (
        read_text(arguments.text) if arguments.text else corpus_text("evaluation", characters=4000 * arguments.chunks)
    )
    timed = (
        open_artifact((arguments.artifact or cached_stand_in("nano-1.5b", "q4_0")).resolve()),
        open_artifact((arguments.reference or cached_stand_in("nano-1.5b", "q8_0")).resolve()),
    )
    result = {"kind": "kld_benchmark", "version": 2, **compare(tool, *timed, text, arguments)}
    agreed = all(result["agreed"].values())
    if arguments.artifact is None:
        with tempfile.TemporaryDirectory() as folder:
            trained = trained_pair(Path(folder))
            if trained is not None:
                result["trained"] = compare(tool, *trained, text, arguments)
                agreed = agreed and all(result["trained"]["agreed"].values())
    write_result(arguments.out, result)
    within = within_memory(result["private_bytes"], *timed)
    return 0 if agreed and within and result["speed_ratio"] >= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
