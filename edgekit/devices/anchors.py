"""Anchor rows: which ones a projection may use, how llama-bench output becomes one, and how one is written as TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.records import Anchor
from edgekit.tables import choice_at, number, optional_number, read_file, refuse_unknown, text_at, whole_at

MAX_RESULTS_BYTES = 16 * 2**20
MAX_ANCHORS = 500
"""Rows in one profile: a projection's work grows with their cube."""
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


def parse_anchors(rows: Sequence[Mapping[str, Any]], *, origin: str) -> tuple[Anchor, ...]:
    """The `[[anchors]]` rows of a profile. Raises EdgekitError as `parse_anchor` does, and on more than 500."""
    if len(rows) > MAX_ANCHORS:
        hint = f"keep at most {MAX_ANCHORS}: those of the quantizations and thread counts you ship"
        raise EdgekitError(f"too many anchors in `{origin}`: {len(rows)}", hint=hint)
    return tuple(parse_anchor(row, origin=origin) for row in rows)


def parse_anchor(row: Mapping[str, Any], *, origin: str) -> Anchor:
    """One `[[anchors]]` row. Raises EdgekitError on unknown keys, bad numbers, and rows without a speed or a source."""
    where = f"an anchor of `{origin}`"
    refuse_unknown(row, (*ANCHOR_KEYS, "shape"), where=where)
    name = text_at(row, "id", where=where)
    where = f"anchor `{name[:80]}` of `{origin}`"
    quant = text_at(row, "quant", where=where).lower()
    decode = optional_number(row, "decode_tokens_per_s", where=where, low=1e-6, high=1e6)
    prefill = optional_number(row, "prefill_tokens_per_s", where=where, low=1e-6, high=1e8)
    if decode is None and prefill is None:
        raise EdgekitError(f"{where} has no speed", hint="give `decode_tokens_per_s`, `prefill_tokens_per_s` or both")
    return Anchor(
        id=name,
        model=text_at(row, "model", where=where),
        quant=quant,
        bytes_per_token=_bytes_per_token(row, quant, where=where),
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


def _bytes_per_token(row: Mapping[str, Any], quant: str, *, where: str) -> float:
    """As given, or what a reference shape (`shape = "nano-1.5b"`) streams in that quantization."""
    if ("bytes_per_token" in row) == ("shape" in row):
        hint = 'weights read per decoded token, in bytes; or a reference student: `shape = "nano-1.5b"`'
        raise EdgekitError(f"{where} needs exactly one of `bytes_per_token` and `shape`", hint=hint)
    if "bytes_per_token" in row:
        return number(row["bytes_per_token"], where=f"`bytes_per_token` in {where}", low=1e4, high=1e13)
    from edgekit.memory import streamed_bytes
    from edgekit.shapes import SHAPES, load_shape, plan_header  # brings numpy, which few profiles need

    name = choice_at(row, "shape", SHAPES, where=where, default="")
    return float(sum(size_bytes for _, size_bytes in streamed_bytes(plan_header(load_shape(name), quant))))


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


def read_llama_bench(path: Path, *, bytes_per_token: float | None = None) -> tuple[Anchor, ...]:
    """The anchors in the output of `llama-bench -o json` or `-o jsonl`: one per decode test, with the prefill speed of
    the same circumstances beside it; prefill tests alone where nothing was generated.

    `bytes_per_token` comes from the header of the one model that ran. Without it llama-bench's `model_size` stands in:
    exact for a tied embedding, too high by the input embedding where that is a tensor of its own. Raises EdgekitError
    where the file is not such output or the model is another.
    """
    rows = llama_bench_rows(path)
    decodes = [row for row in rows if row["n_gen"] and not row["n_prompt"]]
    prefills = [row for row in rows if row["n_prompt"] and not row["n_gen"]]
    if not decodes and not prefills:
        raise EdgekitError(
            f"llama-bench output has no `pp` or `tg` test: `{path}`", hint="run `llama-bench -p 512 -n 128`"
        )
    anchors = [_anchor(row, _prefill_beside(row, prefills), path) for row in decodes]
    alone = [row for row in prefills if not any(circumstances_of(row) == circumstances_of(other) for other in decodes)]
    anchors += [_anchor(row, row, path) for row in alone]
    if bytes_per_token is None:
        return tuple(_sized(anchor, anchor.bytes_per_token, "model_size") for anchor in anchors)
    for anchor in anchors:
        # a MoE or per-layer embeddings stream less than the file holds, nothing streams more
        if not 0.05 * anchor.bytes_per_token <= bytes_per_token <= 1.02 * anchor.bytes_per_token:
            hint = "name the GGUF that llama-bench ran"
            raise EdgekitError(f"these runs are of another model: `{anchor.model}`", hint=hint)
    return tuple(_sized(anchor, bytes_per_token, "from the model's header") for anchor in anchors)


def _sized(anchor: Anchor, bytes_per_token: float, basis: str) -> Anchor:
    return replace(anchor, bytes_per_token=bytes_per_token, source=f"{anchor.source}; bytes per token: {basis}")


_NEEDED = {"model_type", "model_size", "backends", "n_prompt", "n_gen", "avg_ts"}


def llama_bench_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of `llama-bench -o json` or `-o jsonl`, each with the keys that every version writes. Raises
    EdgekitError where the file is no such output.
    """
    text = read_file(path, what="llama-bench output", max_bytes=MAX_RESULTS_BYTES)
    hint = "write it with `llama-bench -m MODEL -o json > results.json`"
    try:
        if text.lstrip()[:1] == b"[":
            rows: list[Any] = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        raise EdgekitError(f"llama-bench output is not JSON: `{path}`", hint=hint) from None
    if not rows or not all(isinstance(row, dict) and set(row) >= _NEEDED for row in rows):
        raise EdgekitError(f"not the JSON of llama-bench: `{path}`", hint=hint)
    for row in rows:
        for key in ("n_prompt", "n_gen"):
            whole_at(row, key, where=f"llama-bench output `{path.name}`", default=0)
    return rows


_RESULTS = {"n_prompt", "n_gen", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts"}


def circumstances_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """All that must agree before two tests are of one run: whatever llama-bench states besides the test itself."""
    return {key: value for key, value in row.items() if key not in _RESULTS}


def _prefill_beside(decode: Mapping[str, Any], prefills: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The prefill test of the same circumstances, `pp512` by preference; none where a GPU build decoded on the CPU
    (`-ngl 0`), because it still prefills on the GPU.
    """
    if backend_of(decode) == "cpu" and _accelerators(decode):
        return None
    same = [row for row in prefills if circumstances_of(row) == circumstances_of(decode)]
    return min(same, key=lambda row: abs(float(row["n_prompt"]) - 512), default=None)


def _anchor(row: Mapping[str, Any], prefill: Mapping[str, Any] | None, path: Path) -> Anchor:
    """The anchor of a decode test and the prefill beside it; of a prefill test alone where both are one row."""
    where = f"llama-bench output `{path.name}`"
    model, commit, made, cpu, kv_type = (
        text_at(row, key, where=where, default="")
        for key in ("model_type", "build_commit", "test_time", "cpu_info", "type_k")
    )
    generated = whole_at(row, "n_gen", where=where, default=0)
    prompt = whole_at(prefill, "n_prompt", where=where, default=0) if prefill else 0
    threads = whole_at(row, "n_threads", where=where, default=0, high=4096)
    backend = backend_of(row)
    depth = whole_at(row, "n_depth", where=where, default=0)
    test = (f"tg{generated}" if generated else f"pp{prompt}") + (f"-d{depth}" if depth else "")
    name = re.sub(r"[^a-z0-9.]+", "-", f"own {model} {backend} t{threads} {test} {commit[:9]} {made}".lower())
    repack = ", repacking off" if row.get("repack") is False else ""
    return Anchor(
        id=name.strip("-"),
        model=model,
        quant=quant_name(model),
        bytes_per_token=number(row.get("model_size"), where=f"`model_size` in {where}", low=1e4, high=1e13),
        backend=backend,
        runtime=f"llama.cpp {commit}".strip(),
        threads=threads,
        prompt_tokens=prompt,
        generated_tokens=generated,
        depth=depth,
        decode_tokens_per_s=_speed(row, where=where) if generated else None,
        prefill_tokens_per_s=_speed(prefill, where=where) if prefill else None,
        parameters=optional_number(row, "model_n_params", where=where, low=1e3, high=1e14),
        source=f"own run: llama-bench {commit} on {cpu or 'an unnamed CPU'}, {made}, KV {kv_type or 'f16'}{repack}",
    )


def _speed(row: Mapping[str, Any], *, where: str) -> float:
    return number(row["avg_ts"], where=f"`avg_ts` in {where}", low=1e-6, high=1e8)


def _accelerators(row: Mapping[str, Any]) -> list[str]:
    names = str(row.get("backends", "")).lower().split(",")
    return ["metal" if name == "mtl" else name for name in names if name not in ("", "cpu", "blas")]


def backend_of(row: Mapping[str, Any]) -> str:
    """`cpu`, or the accelerator that the layers were on, in lower case (`-ngl` is -1 where it was not given)."""
    names = _accelerators(row)
    return re.sub(r"[^a-z0-9]+", "-", names[0])[:40] if names and row.get("n_gpu_layers") != 0 else "cpu"


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
