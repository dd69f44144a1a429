"""llama-bench's JSON → one run with its raw repetitions.

Fields of every version since `samples_ns` came are read; newer ones that change what was run (`load_mode`, `repack`)
are known, and a value nobody knows is refused by name: it may mean another configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from edgekit.devices.anchors import backend_of, circumstances_of, llama_bench_rows, quant_name
from edgekit.errors import EdgekitError
from edgekit.records import FlashAttention, KvType, Sample, Settings
from edgekit.tables import number, text_at, whole_at
from edgekit.targets.foreign import ForeignRun, chosen_rows, refuse_several

MAX_REPETITIONS = 10_000

_FLASH: dict[str, FlashAttention] = {"-1": "auto", "0": "off", "1": "on", "False": "off", "True": "on"}
"""llama.cpp's `enum llama_flash_attn_type`; a flag in versions before it."""

_MAPPED = {"auto": True, "mmap": True, "mmap+mlock": True, "none": False, "mlock": False}
"""llama-bench's load modes; `auto` maps whatever is on the CPU (llama.cpp, src/llama-model-loader.cpp)."""

_X86 = re.compile(r"\b(intel|amd|xeon|ryzen|epyc|core\(tm\))", re.IGNORECASE)
_ARM = re.compile(r"\b(cortex|neoverse|snapdragon|kryo|oryon|exynos|apple m\d|arm|aarch64|bcm2\d+)", re.IGNORECASE)


def read_llama_bench_run(path: Path, only: Mapping[str, str]) -> ForeignRun:
    """The run in `llama-bench -o json` or `-o jsonl`, of one model under one set of circumstances.

    `only` chooses by llama-bench's own fields where the file holds several. Raises EdgekitError where the file is no
    such output, holds several runs, tests a depth while it prefills, or states a setting that edgekit does not know.
    """
    where = f"llama-bench output `{path.name}`"
    rows = chosen_rows(llama_bench_rows(path), only, file=path.name)
    rows = [row for row in rows if bool(row["n_prompt"]) != bool(row["n_gen"])]
    if not rows:
        raise EdgekitError(f"{where} has no `pp` or `tg` test", hint="run `llama-bench -p 512 -n 128 -r 10 -o json`")
    shared = [{key: value for key, value in circumstances_of(row).items() if key not in _OF_A_TEST} for row in rows]
    refuse_several(shared, file=path.name)
    first = rows[0]
    text = {key: text_at(first, key, where=where, default="") for key in ("cpu_info", "build_commit", "model_type")}
    return ForeignRun(
        tool="llama-bench",
        file=path.name,
        version=text["build_commit"],
        started_at=min(text_at(row, "test_time", where=where, default="") for row in rows),
        cpu_model=text["cpu_info"],
        machine=_machine(text["cpu_info"]),
        backend=backend_of(first),
        settings=_settings(rows, where=where),
        samples=tuple(sample for row in rows for sample in _samples(row, where=where)),
        quant=quant_name(text["model_type"]),
        weights_bytes=whole_at(first, "model_size", where=where, default=0, high=2**50) or None,
        parameters=whole_at(first, "model_n_params", where=where, default=0, high=2**50) or None,
    )


_OF_A_TEST = ("n_depth", "fit_min_ctx")


def _machine(cpu: str) -> str:
    if _X86.search(cpu):
        return "x86_64"
    return "arm64" if _ARM.search(cpu) else ""


def _settings(rows: Sequence[Mapping[str, Any]], *, where: str) -> Settings:
    """What ran; the context is the largest of the tests', as llama-bench makes one for each."""
    row = rows[0]
    kv_type = text_at(row, "type_k", where=where, default="f16")
    if kv_type != text_at(row, "type_v", where=where, default="f16") or kv_type not in get_args(KvType):
        raise EdgekitError(
            f"{where} has a KV cache that no gate judges: `{kv_type}`",
            hint="run `llama-bench -ctk TYPE -ctv TYPE`, both one of f16, q8_0, q4_0",
        )
    tokens = (
        sum(whole_at(each, key, where=where, default=0) for key in ("n_prompt", "n_gen", "n_depth")) for each in rows
    )
    return Settings(
        context_tokens=max(tokens),
        batch_tokens=whole_at(row, "n_batch", where=where, default=2048, low=1),
        ubatch_tokens=whole_at(row, "n_ubatch", where=where, default=512, low=1),
        kv_type=cast("KvType", kv_type),
        flash_attention=_flash(row, where=where),
        mmap=_mapped(row, where=where),
        repack=row.get("repack") is not False,
        threads=whole_at(row, "n_threads", where=where, default=0, low=1, high=4096),
    )


def _flash(row: Mapping[str, Any], *, where: str) -> FlashAttention:
    stated = str(row.get("flash_attn", "False"))  # before it was an option it was off
    if stated not in _FLASH:
        raise EdgekitError(f"{where} has an unknown `flash_attn`: `{stated[:40]}`", hint="is this llama-bench newer?")
    return _FLASH[stated]


def _mapped(row: Mapping[str, Any], *, where: str) -> bool:
    if "load_mode" not in row:
        return row.get("use_mmap") is not False
    mode = text_at(row, "load_mode", where=where)
    if mode not in _MAPPED:
        raise EdgekitError(f"{where} has a load mode that edgekit does not know: `{mode[:40]}`", hint="use `-lm mmap`")
    return _MAPPED[mode]


def _samples(row: Mapping[str, Any], *, where: str) -> list[Sample]:
    """A sample for each repetition. llama-bench warms up before and keeps that to itself."""
    prompt, generated, depth = (whole_at(row, key, where=where, default=0) for key in ("n_prompt", "n_gen", "n_depth"))
    times = row.get("samples_ns")
    if not isinstance(times, list) or not times or len(times) > MAX_REPETITIONS:
        raise EdgekitError(
            f"{where} keeps no repetitions in `samples_ns`", hint="write it with `-o json` or `-o jsonl`"
        )
    name = f"tg{generated}" if generated else f"pp{prompt}"
    checked = [number(time, where=f"`samples_ns` in {where}", low=1.0, high=1e15) / 1e9 for time in times]
    _agrees(checked, generated or prompt, row, where=where)
    return [
        Sample(
            test=f"{name}@d{depth}" if depth else name,
            process=0,
            repetition=index,
            tokens=generated or prompt,
            elapsed_s=elapsed_s,
        )
        for index, elapsed_s in enumerate(checked)
    ]


def _agrees(times_s: Sequence[float], tokens: int, row: Mapping[str, Any], *, where: str) -> None:
    """The mean speed stated must be that of the repetitions: a clock that jumped, or a hand, parts them."""
    stated = number(row["avg_ts"], where=f"`avg_ts` in {where}", low=1e-6, high=1e8)
    mean = sum(tokens / time_s for time_s in times_s) / len(times_s)
    if abs(mean / stated - 1) > 0.01:
        raise EdgekitError(
            f"{where} contradicts itself: its repetitions say {mean:.4g} tok/s and `avg_ts` is `{stated:.4g}`",
            hint="did the device's clock jump, or was the file edited? run it again",
        )
