"""What the options of the making verbs mean. Loaded by verbs only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from edgekit.cli.places import ensure_writable
from edgekit.cli.reading import overrides, size_bytes
from edgekit.errors import EdgekitError
from edgekit.files import lies_in, read_text
from edgekit.pipeline.quantizing import Wanted
from edgekit.quantize.ggml_types import check_tensor_type
from edgekit.quantize.workshop import Making
from edgekit.records import Budget

MODELS = "edgekit-models"


def making(
    *,
    calibration: Path | None,
    imatrix: Path | None,
    no_imatrix: bool,
    exporter: str,
    threads: int | None,
    tensor_types: Sequence[str] = (),
    output_type: str | None = None,
    embedding_type: str | None = None,
    pure: bool = False,
    force: bool = False,
) -> Making:
    """How artifacts are made. Raises EdgekitError for options that contradict, unknown types and unreadable files."""
    from edgekit.quantize.onnx.options import EXPORTERS

    if sum((calibration is not None, imatrix is not None, no_imatrix)) > 1:
        raise EdgekitError("choose one of `--calibration`, `--imatrix` and `--no-imatrix`")
    if imatrix is not None and not imatrix.is_file():
        raise EdgekitError(f"cannot read the importance matrix (no such file): `{imatrix}`")
    if exporter not in EXPORTERS:
        raise EdgekitError(f"unknown ONNX exporter: `{exporter}`", hint=f"choose one of {', '.join(EXPORTERS)}")
    return Making(
        calibration=read_text(calibration) if calibration else "",
        imatrix=imatrix,
        use_imatrix=not no_imatrix,
        tensor_types=tuple(map(_tensor_type, tensor_types)),
        output_type=check_tensor_type(output_type) if output_type else None,
        embedding_type=check_tensor_type(embedding_type) if embedding_type else None,
        pure=pure,
        exporter=exporter,
        threads=threads or 0,
        force=force,
    )


def _tensor_type(text: str) -> tuple[str, str]:
    pattern, equals, kind = text.rpartition("=")
    if not equals or not pattern:
        raise EdgekitError(f"not a tensor and its type: `{text[:80]}`", hint="write it as `attn_v=q6_k`")
    return pattern, check_tensor_type(kind)


def wanted(
    device: str,
    budget: str,
    bpw: float | None,
    min_decode: float,
    plan: Path | None,
    minutes: float,
    context: int | None,
    ubatch: int | None,
    kv_type: str | None,
    *,
    force: bool,
) -> Wanted | None:
    """What a budgeted artifact must hold to; `None` where no budget and no plan was given."""
    limited = bool(device or budget or bpw)
    if not limited and plan is None:
        if min_decode or context or ubatch or kv_type:
            raise EdgekitError(
                "these options are for a budget: `--min-decode`, `--context`, `--ubatch`, `--kv-type`",
                hint="add `--for smartphone`",
            )
        return None
    if not limited and plan is not None and not plan.is_file():
        raise EdgekitError(f"no such plan: `{plan}`", hint="with `--for`, `--budget` or `--bpw` one is written there")
    if limited and plan is not None:
        free(plan, force=force)
    changed = overrides(context, None, ubatch, kv_type, None, None, None, None, None)
    return Wanted(
        budget=Budget(memory_bytes=size_bytes(budget, "--budget") if budget else None, bits_per_weight=bpw),
        device=device,
        min_decode=min_decode,
        overrides=changed,
        plan=None if limited else plan,
        save=plan if limited else None,
        minutes=minutes,
    )


def free(out: Path | None, *, force: bool, inputs: Sequence[Path | None] = ()) -> None:
    """Raises EdgekitError when a file to write exists already, or cannot be written. One of `inputs` is never written
    over, whatever the force.
    """
    if out is None:
        return
    if any(source is not None and lies_in(out, source) for source in inputs):
        raise EdgekitError(f"the output is an input: `{out}`", hint="name another file to write")
    if out.is_dir():
        raise EdgekitError(f"the output is a directory: `{out}`", hint="name the file to write")
    if out.exists() and not out.is_file():
        raise EdgekitError(f"the output is not a regular file: `{out}`", hint="name a file to write")
    if out.exists() and not force:
        raise EdgekitError(f"the output exists: `{out}`", hint="choose another place, or add `--force`")
    ensure_writable(out.parent)


def folder(out: Path | None, name: str = "") -> Path:
    """The folder to work in, which can be written. Raises EdgekitError."""
    place = out or Path(MODELS) / name
    if place.exists() and not place.is_dir():
        raise EdgekitError(f"not a folder: `{place}`", hint="name a folder with `--out`")
    ensure_writable(place)
    return place


def plain(name: str) -> str:
    """`name` fit for a file."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._-")[:60] or "model"
