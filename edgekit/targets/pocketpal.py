"""PocketPal's benchmark sweep (`{"device": …, "runs": […]}`) → one run.

It keeps the average over its repetitions and not the repetitions, so a figure has no range and no gate passes on it;
its `peak_memory_mb` is the whole phone's and is left out. llama.cpp's own buffer sizes are in it and are kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

from edgekit.errors import EdgekitError
from edgekit.records import Buffer, Finding, FlashAttention, KvType, Sample, Settings
from edgekit.tables import choice_at, flag_at, number, read_file, table_at, tables_at, text_at, whole_at
from edgekit.targets.foreign import ForeignRun, as_text, chosen_rows, some

MAX_BYTES = 64 * 2**20
"""A sweep keeps llama.cpp's log of every cell; the published ones take 3 MB."""

_FILE_NAME = re.compile(r"([^/\\\s]+\.gguf)\b", re.IGNORECASE)
_QUANT = re.compile(r"(?:^|[-._])((?:iq|q|tq)\d+_\w+|mxfp4|bf16|f16|f32)\.gguf$", re.IGNORECASE)


def looks_like_pocketpal(text: bytes) -> bool:
    """Whether `text` is one JSON object with a list of runs."""
    return text.lstrip()[:1] == b"{" and b'"runs"' in text and b'"bench"' in text


def read_pocketpal_run(path: Path, only: Mapping[str, str]) -> ForeignRun:
    """The cell that `only` chooses (`model_id`, `quant`, `requested_backend` …) of a sweep.

    Raises EdgekitError where the file is no such sweep, or more than one cell is left, or the cell failed.
    """
    where = f"PocketPal results `{path.name}`"
    sweep = _parse(path, where=where)
    cells = tables_at(sweep, "runs", where=where)
    if not cells:
        raise EdgekitError(f"{where} holds no run")
    cells = [dict(cell) for cell in chosen_rows(cells, only, file=path.name)]
    if len(cells) > 1:
        differing = [key for key in ("model_id", "quant", "effective_backend", "settings_fingerprint", "timestamp")
                     if len({as_text(cell.get(key)) for cell in cells}) > 1]  # fmt: skip
        key = differing[0] if differing else "timestamp"
        values = sorted({as_text(cell.get(key)) for cell in cells})
        raise EdgekitError(
            f"{where} holds {len(cells)} runs", hint=f"choose with `--only {key}=VALUE`, VALUE one of {some(values)}"
        )
    (cell,) = cells
    if text_at(cell, "status", where=where, default="ok") != "ok":
        raise EdgekitError(f"the run in {where} did not end well: `{as_text(cell['status'])[:60]}`")
    return _foreign(sweep, cell, path.name, where=where)


def _parse(path: Path, *, where: str) -> dict[str, Any]:
    try:
        sweep = json.loads(read_file(path, what="benchmark results", max_bytes=MAX_BYTES))
    except (ValueError, RecursionError):
        raise EdgekitError(f"{where} is not JSON", hint="was the file cut off?") from None
    if not isinstance(sweep, dict):
        raise EdgekitError(f"{where} is not an object with `runs`")
    return sweep


def _foreign(sweep: Mapping[str, Any], cell: Mapping[str, Any], file: str, *, where: str) -> ForeignRun:
    signals = table_at(cell, "log_signals", where=where)
    repetitions = whole_at(table_at(sweep, "bench", where=where), "nr", where=where, default=1, low=1, high=10_000)
    loaded = _loaded_file(signals)
    quant = _QUANT.search(loaded)
    return ForeignRun(
        tool="PocketPal",
        file=file,
        version=f"llama.rn {text_at(sweep, 'llama_rn_version', where=where, default='')}".strip(),
        started_at=text_at(cell, "timestamp", where=where, default=""),
        cpu_model=text_at(sweep, "soc", where=where, default=""),
        machine="arm64",  # the app exists for phones and tablets alone
        backend=text_at(cell, "effective_backend", where=where, default="cpu").lower(),
        settings=_settings(table_at(cell, "effective_init_params", where=where), where=where),
        samples=tuple(_samples(sweep, cell, where=where)),
        buffers=tuple(_buffers(table_at(signals, "memory_buffers", where=where), where=where)),
        # the file that was loaded outranks the slot's name: one slot is known to hold another type
        quant=(quant.group(1) if quant else text_at(cell, "quant", where=where, default="unknown")).lower(),
        findings=(_average_only(repetitions, loaded),),
    )


def _average_only(repetitions: int, loaded: str) -> Finding:
    return Finding(
        level="warning",
        code="average-only",
        message=f"PocketPal keeps the average of {repetitions} repetitions and not each, so its speeds have no range"
        + (f"; it loaded `{loaded[:120]}`" if loaded else ""),
        hint="run `llama-bench -p 512 -n 128 -r 10 -o json` on the device",
    )


def _loaded_file(signals: Mapping[str, Any]) -> str:
    """The model file that llama.cpp's log names."""
    lines = signals.get("raw_matches")
    for line in lines if isinstance(lines, list) else []:
        found = _FILE_NAME.search(line) if isinstance(line, str) and "loaded meta data" in line else None
        if found:
            return found.group(1)
    return ""


def _samples(sweep: Mapping[str, Any], cell: Mapping[str, Any], *, where: str) -> list[Sample]:
    bench = table_at(sweep, "bench", where=where)
    samples = []
    for key, rate_key, name in (("pp", "pp_avg", "pp"), ("tg", "tg_avg", "tg")):
        tokens = whole_at(bench, key, where=where, default=0, high=2**20)
        if not tokens or cell.get(rate_key) is None:
            continue
        rate = number(cell[rate_key], where=f"`{rate_key}` in {where}", low=1e-6, high=1e8)
        samples.append(Sample(test=f"{name}{tokens}", process=0, repetition=0, tokens=tokens, elapsed_s=tokens / rate))
    if not samples:
        raise EdgekitError(f"the run in {where} has no speed")
    return samples


def _settings(row: Mapping[str, Any], *, where: str) -> Settings:
    kv_type = choice_at(row, "cache_type_k", get_args(KvType), where=where, default="f16")
    if kv_type != text_at(row, "cache_type_v", where=where, default="f16"):
        raise EdgekitError(f"{where} has a KV cache of two types, which no gate judges: `{kv_type}`")
    flash = choice_at(row, "flash_attn_type", get_args(FlashAttention), where=where, default="auto")
    return Settings(
        context_tokens=whole_at(row, "n_ctx", where=where, default=4096, low=1),
        batch_tokens=whole_at(row, "n_batch", where=where, default=512, low=1),
        ubatch_tokens=whole_at(row, "n_ubatch", where=where, default=512, low=1),
        kv_type=cast("KvType", kv_type),
        flash_attention=cast("FlashAttention", flash),
        mmap=flag_at(row, "use_mmap", where=where, default=True),
        repack=not flag_at(row, "no_extra_bufts", where=where, default=False),
        threads=whole_at(row, "n_threads", where=where, default=0, high=4096),
    )


_GROUPS: tuple[tuple[str, Literal["weights", "kv", "compute"]], ...] = (
    ("weights_mib", "weights"),
    ("kv_cache_mib", "kv"),
    ("compute_mib", "compute"),
)


def _buffers(memory: Mapping[str, Any], *, where: str) -> list[Buffer]:
    """llama.cpp's buffers as PocketPal read them from its log."""
    buffers = []
    for key, role in _GROUPS:
        for name, size_mib in table_at(memory, key, where=where).items():
            size = number(size_mib, where=f"`{key}` in {where}", high=2**30)
            repacked = role == "weights" and name.endswith("_REPACK")
            buffers.append(Buffer(name=name[:40], role="repacked" if repacked else role, size_bytes=int(size * 2**20)))
    return buffers
