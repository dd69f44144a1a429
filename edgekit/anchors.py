"""Anchor rows: which ones a projection may use, how llama-bench output becomes one, and how one is written as TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.records import Anchor
from edgekit.tables import number, optional_number, read_file, refuse_unknown, text_at, whole_at

MAX_RESULTS_BYTES = 16 * 2**20
ANCHOR_KEYS = tuple(Anchor.__slots__)
LLAMA_CPP_FAMILY = ("llama.cpp", "llama.rn", "llamafile", "ollama", "lm studio", "llama-bench")
"""Runtimes that ship llama.cpp's own kernels. Forks with kernels of their own (ik_llama.cpp, T-MAC) are not of it."""


def is_llama_cpp(runtime: str) -> bool:
    """Whether `runtime` decodes with llama.cpp's kernels, so that its runs may anchor a GGUF."""
    name = runtime.lower()
    return any(member in name for member in LLAMA_CPP_FAMILY) and "ik_llama" not in name


def is_usable(anchor: Anchor) -> bool:
    """Whether an anchor can carry a projection of CPU decode: llama.cpp's kernels, on the CPU, with a decode speed."""
    return anchor.backend == "cpu" and anchor.decode_tokens_per_s is not None and is_llama_cpp(anchor.runtime)


def parse_anchor(row: Mapping[str, Any], *, origin: str) -> Anchor:
    """One `[[anchors]]` row. Raises EdgekitError on unknown keys, bad numbers, and rows without a speed or a source."""
    where = f"an anchor of `{origin}`"
    refuse_unknown(row, ANCHOR_KEYS, where=where)
    name = text_at(row, "id", where=where)
    where = f"anchor `{name[:80]}` of `{origin}`"
    if "bytes_per_token" not in row:
        raise EdgekitError(f"{where} lacks a key: `bytes_per_token`", hint="weights read per decoded token, in bytes")
    decode = optional_number(row, "decode_tokens_per_s", where=where, low=1e-6, high=1e6)
    prefill = optional_number(row, "prefill_tokens_per_s", where=where, low=1e-6, high=1e8)
    if decode is None and prefill is None:
        raise EdgekitError(f"{where} has no speed", hint="give `decode_tokens_per_s`, `prefill_tokens_per_s` or both")
    return Anchor(
        id=name,
        model=text_at(row, "model", where=where),
        quant=text_at(row, "quant", where=where).lower(),
        bytes_per_token=number(row["bytes_per_token"], where=f"`bytes_per_token` in {where}", low=1e4, high=1e13),
        backend=text_at(row, "backend", where=where, default="cpu").lower(),
        runtime=text_at(row, "runtime", where=where, default="llama.cpp"),
        threads=whole_at(row, "threads", where=where, default=0, high=4096),
        prompt_tokens=whole_at(row, "prompt_tokens", where=where, default=0),
        generated_tokens=whole_at(row, "generated_tokens", where=where, default=0),
        depth=whole_at(row, "depth", where=where, default=0),
        decode_tokens_per_s=decode,
        prefill_tokens_per_s=prefill,
        parameters=optional_number(row, "parameters", where=where, low=1e3, high=1e14),
        source=text_at(row, "source", where=where),
    )


def anchor_toml(anchor: Anchor) -> str:
    """The anchor as an `[[anchors]]` block; defaults are left out."""
    lines = ["[[anchors]]"]
    for key in ANCHOR_KEYS:
        value = getattr(anchor, key)
        if value is None or (key in ("threads", "prompt_tokens", "generated_tokens", "depth") and value == 0):
            continue
        lines.append(f"{key} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def _toml_value(value: str | float) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # a JSON string without control characters is a TOML basic string
    return str(int(value)) if float(value).is_integer() else repr(value)


# ---- llama-bench ----------------------------------------------------------------------------------------------------


def read_llama_bench(path: Path) -> tuple[Anchor, ...]:
    """The anchors in the output of `llama-bench -o json` or `-o jsonl`: one per decode test, with the prefill speed of
    the same circumstances beside it; prefill tests alone where nothing was generated.

    `bytes_per_token` is llama-bench's `model_size`: exact for a tied embedding, too high by the input embedding where
    that is a tensor of its own. Raises EdgekitError where the file is not such output.
    """
    rows = _rows(path)
    decodes = [row for row in rows if row.get("n_gen") and not row.get("n_prompt")]
    prefills = [row for row in rows if row.get("n_prompt") and not row.get("n_gen")]
    if not decodes and not prefills:
        raise EdgekitError(
            f"llama-bench output has no `pp` or `tg` test: `{path}`", hint="run `llama-bench -p 512 -n 128`"
        )
    anchors = [_anchor(row, _prefill_beside(row, prefills), path) for row in decodes]
    alone = [row for row in prefills if not any(_circumstances(row) == _circumstances(other) for other in decodes)]
    return (*anchors, *(_anchor(row, row, path) for row in alone))


def _rows(path: Path) -> list[dict[str, Any]]:
    text = read_file(path, what="llama-bench output", max_bytes=MAX_RESULTS_BYTES)
    hint = "write it with `llama-bench -m MODEL -o json > results.json`"
    try:
        if text.lstrip()[:1] == b"[":
            rows: list[Any] = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        raise EdgekitError(f"llama-bench output is not JSON: `{path}`", hint=hint) from None
    if not rows or not all(isinstance(row, dict) and {"model_type", "avg_ts"} <= set(row) for row in rows):
        raise EdgekitError(f"not the JSON of llama-bench: `{path}`", hint=hint)
    return rows


_SAME = (
    *("build_commit", "backends", "model_filename", "model_type", "model_size", "n_batch", "n_ubatch", "n_threads"),
    *("cpu_mask", "type_k", "type_v", "n_gpu_layers", "flash_attn", "use_mmap", "no_kv_offload", "n_depth"),
)


def _circumstances(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row.get(key, "")) for key in _SAME)


def _prefill_beside(decode: Mapping[str, Any], prefills: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The prefill test of the same circumstances, `pp512` by preference."""
    same = [row for row in prefills if _circumstances(row) == _circumstances(decode)]
    return min(same, key=lambda row: abs(int(row["n_prompt"]) - 512), default=None)


def _anchor(row: Mapping[str, Any], prefill: Mapping[str, Any] | None, path: Path) -> Anchor:
    where = f"llama-bench output `{path.name}`"
    backend = _backend(row)
    decode = None if row is prefill else number(row["avg_ts"], where=f"`avg_ts` in {where}", low=1e-6, high=1e6)
    if backend == "cpu" and str(row.get("backends", "CPU")) != "CPU" and prefill is not row:
        prefill = None  # with `-ngl 0` a GPU build still prefills on the GPU
    quant = quant_name(text_at(row, "model_type", where=where))
    test = f"tg{row.get('n_gen')}" if decode else f"pp{row.get('n_prompt')}"
    threads = whole_at(row, "n_threads", where=where, default=0, high=4096)
    commit = text_at(row, "build_commit", where=where, default="unknown") or "unknown"
    made = text_at(row, "test_time", where=where, default="")
    model = text_at(row, "model_type", where=where)
    slug = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    prompt_tokens = whole_at(prefill, "n_prompt", where=where, default=0) if prefill else 0
    return Anchor(
        id="-".join(
            filter(None, ["own", slug, backend, f"t{threads}", test, commit[:9], re.sub(r"[^0-9TZ]", "", made)])
        ),
        model=model,
        quant=quant,
        bytes_per_token=number(row.get("model_size"), where=f"`model_size` in {where}", low=1e4, high=1e13),
        backend=backend,
        runtime=f"llama.cpp {commit}",
        threads=threads,
        prompt_tokens=prompt_tokens,
        generated_tokens=whole_at(row, "n_gen", where=where, default=0),
        depth=whole_at(row, "n_depth", where=where, default=0),
        decode_tokens_per_s=decode,
        prefill_tokens_per_s=(
            number(prefill["avg_ts"], where=f"`avg_ts` in {where}", low=1e-6, high=1e8) if prefill else None
        ),
        parameters=optional_number(row, "model_n_params", where=where, low=1e3, high=1e14),
        source=f"own run: llama-bench {commit}, {text_at(row, 'cpu_info', where=where, default='')}, {made}, KV "
        f"{text_at(row, 'type_k', where=where, default='f16')}; bytes per token = model_size",
    )


def _backend(row: Mapping[str, Any]) -> str:
    """`cpu`, or the accelerator that the layers were on, in lower case."""
    names = [name for name in str(row.get("backends", "CPU")).lower().split(",") if name not in ("", "cpu", "blas")]
    layers = row.get("n_gpu_layers", 0)
    offloaded = isinstance(layers, int) and layers != 0
    return re.sub(r"[^a-z0-9]+", "-", names[0])[:40] if names and offloaded else "cpu"


_SUFFIXES = {"small": "_s", "medium": "_m", "large": "_l", "extra small": "_xs"}


def quant_name(model_type: str) -> str:
    """llama.cpp's file type in `llama-quantize`'s spelling: `qwen2 1.5B Q4_K - Medium` → `q4_k_m`, `… all F32` → `f32`.

    Source: `llama_ftype_name` in llama.cpp's src/llama-model-loader.cpp.
    """
    found = re.search(r"\b((?:I?Q|TQ)\d+_\w+|MXFP4\w*|BF16|F16|F32)\b(?:\s*-\s*([a-z ]+))?", model_type, re.IGNORECASE)
    if not found:
        return "unknown"
    name, size = found.group(1).lower(), (found.group(2) or "").strip().lower()
    return name + _SUFFIXES.get(size, "")
