"""What the options of a verb mean: flags and files → the pipeline's arguments. Loaded by verbs only."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.gate.gates import load_gates
from edgekit.pipeline import Overrides
from edgekit.records import Evidence, Gates, Quality, Report, Workload

_DURATION = re.compile(r"(\d{1,9}(?:\.\d+)?)\s*(s|m|min|h)?")
_SIZE = re.compile(r"(\d{1,15}(?:\.\d+)?)\s*(B|kB|MB|GB|KiB|MiB|GiB)?", re.IGNORECASE)
_BYTES = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
_SECONDS = {None: 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(text: str, option: str) -> float:
    """`90`, `90s`, `10m`, `1.5h` → seconds. Raises EdgekitError naming the option."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise EdgekitError(f"not a duration for `{option}`: `{text[:40]}`", hint="write it as `90s`, `10m` or `1h`")
    if float(match[1]) <= 0:
        raise EdgekitError(f"`{option}` must be longer than nothing: `{text[:40]}`")
    return float(match[1]) * _SECONDS[match[2]]


def size_bytes(text: str, option: str) -> float:
    """`1.2GB`, `900 MB`, `1GiB` → bytes. Raises EdgekitError naming the option."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise EdgekitError(f"not a size for `{option}`: `{text[:40]}`", hint="write it as `1.2GB`, `900MB` or `1GiB`")
    found = float(match[1]) * _BYTES[(match[2] or "").lower()]
    if not match[2]:
        raise EdgekitError(
            f"a size needs its unit: `{option} {text[:40]}`", hint="write it as `1.2GB`, `900MB` or `1GiB`"
        )
    return found


def workload(
    *, quick: bool, thorough: bool, sustained: str, timeout: str, max_repetitions: int | None = None
) -> Workload:
    """The preset the flags name, with its durations."""
    from dataclasses import replace

    from edgekit.bench import PRESETS

    if quick and thorough:
        raise EdgekitError("choose one of `--quick` and `--thorough`")
    preset = PRESETS["quick" if quick else "thorough" if thorough else "default"]
    return replace(
        preset,
        sustained_s=seconds(sustained, "--sustained") if sustained else 0.0,
        timeout_s=seconds(timeout, "--timeout"),
        repetitions_max=min(max_repetitions or preset.repetitions_max, preset.repetitions_max),
    )


def overrides(
    context: int | None,
    batch: int | None,
    ubatch: int | None,
    kv_type: str | None,
    flash_attention: str | None,
    mmap: bool | None,
    repack: bool | None,
    threads: int | None,
    output_rows: int | None,
) -> Overrides:
    """The settings flags that were given. Raises EdgekitError where two of them contradict."""
    if kv_type in ("q8_0", "q4_0") and flash_attention == "off":
        raise EdgekitError(
            f"a quantized KV cache needs flash attention: `--kv-type {kv_type} --flash-attention off`",
            hint="drop one of the two",
        )
    return Overrides(
        context_tokens=context,
        batch_tokens=batch,
        ubatch_tokens=ubatch,
        kv_type=kv_type,
        flash_attention=flash_attention,
        mmap=mmap,
        repack=repack,
        threads=threads,
        output_rows=output_rows,
    )


def one_device(names: Sequence[str]) -> str:
    """The only device named. Raises EdgekitError for none or several."""
    if len(names) != 1:
        found = "no device named" if not names else f"`fit` answers for one device at a time: `{', '.join(names)}`"
        raise EdgekitError(found, hint="give one `--device`; `edgekit devices` lists the profiles")
    return names[0]


def gates(path: Path | None) -> Gates | None:
    """The gates file of `--gates`, if any."""
    return load_gates(path) if path else None


def quality(path: Path | None) -> Quality | None:
    """The record of `--quality`, if any. The judge takes it for the file it was measured on alone."""
    from edgekit.storage import load_record

    return load_record(path, Quality) if path else None


def load_evidence(path: Path) -> Evidence:
    """Evidence from its own file or from within a report."""
    from edgekit.storage import from_json, read_bounded

    text = read_bounded(path)
    try:
        kind = json.loads(text).get("kind")
    except (ValueError, AttributeError, RecursionError):
        kind = None  # the next line says what is wrong with it
    return (
        from_json(text, Report, origin=str(path)).evidence
        if kind == "report"
        else from_json(text, Evidence, origin=str(path))
    )
