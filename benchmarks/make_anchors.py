"""Write the published anchors of each device profile from benchmarks/data/published_calibration.csv.

    python benchmarks/make_anchors.py [--check]

A profile names its rows by `calibration = [the data's device names]`; everything below MARK in it is written here, so
that no measured figure is typed by hand. A row becomes an anchor when

- it is fit for bandwidth statistics (`in_bw_stats = 1`: best thread setting of its group, bytes per token known),
- its runtime decodes with llama.cpp's kernels (`edgekit.devices.anchors.is_llama_cpp`), on a backend llama.cpp has,
- and `LEFT_OUT` gives no reason against it.

`--check` writes nothing and fails where a profile differs from the data.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import tomllib
from pathlib import Path

from edgekit.devices.anchors import anchor_toml, is_llama_cpp, quant_name
from edgekit.records import Anchor

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "benchmarks" / "data" / "published_calibration.csv"
MARK = "# ---- anchors: written by benchmarks/make_anchors.py from the published data, not by hand "
MARK = f"{MARK:-<118}"

LEFT_OUT = (
    (r"lc27677-op15-CPU", "tg16 on all cores, called mis-threaded in the data's own note"),
    (r"lcpr\d+-M4Max.*-(off|ref|master)$|-master$", "repacking switched off or before the change: not what ships"),
    (r"lcpr\d+-RaspberryPi5-.*-off$", "repacking switched off"),
    (r"lcpr\d+-M4Maxa76", "built for another core's flags"),
    (r"tmac-RaspberryPi5-.*-llama\.cpp", "two threads of a peer's comparison at half the board's usual bandwidth"),
)
"""Rows that no projection should rest on although they are fit for statistics: pattern of the id, reason."""

BACKENDS = {
    "cpu": r"^CPU",
    "opencl": r"OpenCL",
    "hexagon": r"Hexagon",
    "metal": r"Metal",
    "vulkan": r"Vulkan",
    "cuda": r"CUDA",
}


def main() -> int:
    """0 when every profile is as the data say."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check = arguments.parse_args().check
    stale = []
    for path in sorted((ROOT / "devices").glob("*.toml")):
        text = path.read_text(encoding="utf-8")
        wanted = with_anchors(text)
        if wanted != text:
            stale.append(path.name)
            if not check:
                path.write_text(wanted, encoding="utf-8")
    for name in stale:
        print(f"{'differs from the data' if check else 'written'}: {name}")
    return 1 if check and stale else 0


def with_anchors(text: str) -> str:
    """The profile's text with its generated part made anew."""
    head = text.split(MARK)[0].rstrip("\n") + "\n"
    names = tomllib.loads(text).get("calibration", [])
    anchors = [anchor for name in names for anchor in anchors_of(name)]
    if not anchors:
        return head
    return head + f"\n{MARK}\n\n" + "\n".join(map(anchor_toml, anchors))


def anchors_of(device: str) -> list[Anchor]:
    """The anchors of one device name of the data, in the data's order."""
    return [to_anchor(row) for row in rows() if row["device"] == device and is_anchor(row)]


def rows() -> list[dict[str, str]]:
    """The published rows as text."""
    with DATA.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def is_anchor(row: dict[str, str]) -> bool:
    """Whether a row may stand in a profile; the rules are in the module's text."""
    fit = row["in_bw_stats"] == "1" and is_llama_cpp(row["runtime"]) and backend(row) is not None
    return fit and not any(re.search(pattern, row["id"]) for pattern, _ in LEFT_OUT)


def to_anchor(row: dict[str, str]) -> Anchor:
    """The row in edgekit's units: bytes, tokens/s."""
    stated = [f"inferred there: {row['inferred']}"] if row["inferred"] else []
    stated += [f"bytes per token: {row['bytes_basis']}"]
    backend_name = backend(row)
    assert backend_name
    return Anchor(
        id=re.sub(r"[^a-z0-9.]+", "-", row["id"].lower()).strip("-"),
        model=row["model"],
        quant=quant(row),
        bytes_per_token=round(float(row["bytes_per_token_gb"]) * 1e9),
        backend=backend_name,
        runtime=row["runtime"],
        threads=int(row["threads"] or 0),
        prompt_tokens=int(row["n_prompt"] or 0),
        generated_tokens=int(row["n_gen"] or 0),
        depth=depth(row),
        decode_tokens_per_s=float(row["decode_tps"]),
        prefill_tokens_per_s=float(row["prefill_tps"]) if row["prefill_tps"] else None,
        parameters=round(float(row["params_b"]) * 1e9) if row["params_b"] else None,
        source="; ".join([row["source"], *stated]),
    )


def backend(row: dict[str, str]) -> str | None:
    """The backend in edgekit's word, `None` for one that llama.cpp has not."""
    return next((name for name, pattern in BACKENDS.items() if re.search(pattern, row["cpu_or_backend"])), None)


def quant(row: dict[str, str]) -> str:
    """llama.cpp's file type in lower case. PocketPal's IQ1_S slot holds IQ2_M (its PR #702); the ik_llama.cpp thread's
    K-quants are the small ones (its ids say so); another bare Q5_K is Q5_K_M, as `llama-quantize` reads it; LM Studio's
    bare Q4 has the size of Q4_K_M.
    """
    if row["source_group"] == "pocketpal" and row["quant"] == "IQ1_S":
        return "iq2_m"
    name = quant_name(row["quant"])
    if name == "unknown" and row["source_group"] == "fastflowlm":
        return "q4_k_m"
    if row["source_group"] == "ik164" and name in ("q3_k", "q4_k", "q5_k"):
        return f"{name}_s"
    return {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}.get(name, name)


def depth(row: dict[str, str]) -> int:
    """Tokens in the KV cache when decode was timed: only FastFlowLM's tables state a sequence length."""
    return int(row["ctx"] or 0) if row["source_group"] == "fastflowlm" else 0


if __name__ == "__main__":
    sys.exit(main())
