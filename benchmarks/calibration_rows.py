"""Reads benchmarks/data/published_calibration.csv into the CPU runs that the projection is fitted to and judged on."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from edgekit.devices.anchors import is_llama_cpp
from edgekit.projection import typemix

DATA = Path(__file__).resolve().parent / "data" / "published_calibration.csv"

# The data file's own words (its README and notes): PocketPal's slot of that name holds IQ2_M; LM Studio ships Q4_K_M;
# two sources say in the note what the quantization column leaves open.
LABELS = {("pocketpal", "iq1_s"): "iq2_m", ("fastflowlm-depth", "q4 (lm studio gguf / flm int4)"): "q4_k_m"}
LABELS[("fastflowlm", "q4 (lm studio gguf / flm int4)")] = "q4_k_m"
LABELS[("llamacpp-issue", "(7b, quant not shown in excerpt; q4_0 assumed)")] = "q4_0"

SAME_SILICON = {"apple": "Apple M4 Max"}
"""A run on "Apple (unspecified)", ten threads, M4 class, is held out with the M4 Max."""

FORKS = ("ik_llama", "smallthinker")
"""Forks of llama.cpp whose rows take part in the fit and the protocol, though no anchor of theirs is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One published CPU run. Speeds are tokens/s, 0 where the source has none; `device` is the silicon, so that one
    device under several names is held out as one; `group` is (device name, runtime, threads).
    """

    id: str
    device: str
    family: str
    group: tuple[str, str, str]
    model: str
    label: str
    parameters: float
    shape: typemix.Shape
    streamed_gb: float
    shares: dict[str, float]
    body_shares: dict[str, float]
    kv_bytes_per_token: float
    depth: float
    decode: float
    prefill: float
    prompt: int
    bandwidth_gbs: float
    fit_for_use: bool
    source_group: str
    best_group: bool = True


def read_rows(path: Path = DATA) -> list[Row]:
    """Every CPU run of llama.cpp and its forks with a known type mix and size; the rest is counted by `excluded`."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [_row(raw) for raw in csv.DictReader(stream) if not why_excluded(raw)]
    return _mark_best(rows)


def why_excluded(raw: dict[str, str]) -> str:
    """Why a line of the file is not among `read_rows`, empty when it is."""
    if raw["backend_class"] != "CPU":
        return "not a CPU run"
    if not is_llama_cpp(raw["runtime"]) and not any(fork in raw["runtime"].lower() for fork in FORKS):
        return "another runtime's kernels"
    if family_of(raw["soc"], raw["device"], raw["class"]) == "riscv":
        return "no kernels for this architecture"
    if not raw["bytes_per_token_gb"]:
        return "no size"
    if label_of(raw) is None:
        return "another quantization format"
    return "" if raw["decode_tps"] else "no decode speed"


def label_of(raw: dict[str, str]) -> str | None:
    """The row's quantization in llama.cpp's words, None where it is not one of llama.cpp's."""
    quant = raw["quant"].lower()
    return LABELS.get((raw["source_group"], quant)) or typemix.known_label(quant)


def family_of(soc: str, device: str, device_class: str) -> str:
    """The kernel family of a row: who made the cores decides how dequantization and memory compare."""
    words = f"{soc} {device}".lower()
    if "apple" in words or "iphone" in words:
        return "apple"
    if any(word in words for word in ("risc-v", "eswin", "spacemit")):
        return "riscv"
    if any(word in words for word in ("intel", "amd", "ryzen")):
        return "x86"
    return "phone" if device_class == "smartphone" or "snapdragon" in words else "sbc"


def device_key(raw: dict[str, str]) -> str:
    """The silicon under all its names: `Galaxy S25` and `Samsung S25` are one, and so are all of a Raspberry Pi 5."""
    soc = raw["soc"].split("(")[0].strip()
    return SAME_SILICON.get(soc.lower(), soc) or raw["device"]


def _row(raw: dict[str, str]) -> Row:
    label = label_of(raw)
    assert label is not None
    parameters = float(raw["params_b"]) * 1e9
    layout = architecture(raw["architecture"])
    shape = typemix.shape_of(parameters=parameters, **layout) if layout else typemix.generic_shape(parameters)
    kv = 4.0 * layout["layers"] * layout["kv_heads"] * layout["head_dim"] if layout else 0.0
    return Row(
        id=raw["id"],
        device=device_key(raw),
        family=family_of(raw["soc"], raw["device"], raw["class"]),
        group=(raw["device"], raw["runtime"], raw["threads"]),
        model=raw["model"].lower(),
        label=label,
        parameters=parameters,
        shape=shape,
        streamed_gb=float(raw["bytes_per_token_gb"]),
        shares=typemix.byte_shares(label, shape),
        body_shares=typemix.body_shares(label, shape),
        kv_bytes_per_token=kv,
        depth=depth_of(raw),
        decode=_number(raw["decode_tps"]),
        prefill=_number(raw["prefill_tps"]),
        prompt=int(_number(raw["n_prompt"])),
        bandwidth_gbs=_number(raw["mem_bw_gbs_theoretical"]),
        fit_for_use=raw["in_bw_stats"] == "1",
        source_group=raw["source_group"],
    )


def architecture(text: str) -> dict[str, int | bool]:
    """The fields of `L=28 d=1536 heads=12 kv=2 hd=128 vocab=151936 tied`; empty when the text is not of that form."""
    found = re.match(r"L=(\d+) d=(\d+) heads=(\d+) kv=(\d+) hd=(\d+) vocab=(\d+) (\w+)", text)
    if not found:
        return {}
    names = ("layers", "width", "heads", "kv_heads", "head_dim", "vocabulary")
    return {**dict(zip(names, map(int, found.groups()[:6]), strict=True)), "tied": found[7] == "tied"}


def depth_of(raw: dict[str, str]) -> float:
    """Tokens in the cache, halfway through the generation."""
    if raw["source_group"] == "localscore":  # generates behind the prompt, llama-bench does not
        return _number(raw["n_prompt"]) + _number(raw["n_gen"]) / 2
    if raw["source_group"].startswith("fastflowlm"):
        return _number(raw["ctx"])
    if raw["source_group"] == "llm-profiler":
        return _number(raw["n_prompt"]) + _number(raw["n_gen"]) / 2
    return _number(raw["n_gen"]) / 2 or 64.0


def _number(text: str) -> float:
    return float(text) if text else 0.0


def _mark_best(rows: list[Row]) -> list[Row]:
    """Mark the groups that another thread count of the same device and runtime beats on the models both ran."""
    cells: dict[tuple[str, str, str], dict[tuple[str, str], float]] = defaultdict(dict)
    for row in rows:
        cells[row.group][row.model, row.label] = row.decode
    beaten = {one for one in cells for other in cells if one[:2] == other[:2] and _is_slower(cells[one], cells[other])}
    return [replace(row, best_group=row.group not in beaten) for row in rows]


def _is_slower(one: dict[tuple[str, str], float], other: dict[tuple[str, str], float]) -> bool:
    shared = one.keys() & other.keys()
    return bool(shared) and median(one[cell] / other[cell] for cell in shared) < 0.95
