"""Checkpoints of a running training: whole or not there at all, checked when they are read, and without pickle.

A checkpoint is a folder `checkpoint-STEP`: of every process a safetensors file with its shards and a record beside it
that has the file's sha256. (torch.distributed.checkpoint keeps its index as a pickle.) It is written under another
name, which it loses when all processes are done; the one before stays, should the newest turn out damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edgekit.distill.settings import ParameterGroup, TrainSettings
from edgekit.distill.sharding import Place
from edgekit.errors import EdgekitError, import_extra
from edgekit.files import check_space, hash_file, lock
from edgekit.storage import load_record, write_record
from edgekit.units import format_bytes

if TYPE_CHECKING:
    import torch

KEPT = 2
_NAME = re.compile(r"checkpoint-(\d{8,})")
_AT_ONCE = 2**22


@dataclass(frozen=True, slots=True, kw_only=True)
class RunKey:
    """Whose checkpoint it is: of these settings (`settings_text`'s), windows and first weights, and an objective that
    `about` describes. Runs with equal keys go on with each other's checkpoints.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    settings: str
    windows_sha256: str
    start_sha256: str
    about: str
    precision: str
    processes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How far a run is: `step` steps are done. `recent` losses are what divergence is judged by."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    kind: Literal["edgekit-training"] = "edgekit-training"
    version: Literal[1] = 1
    key: RunKey
    step: int
    seconds: float
    peak_bytes: int
    recent: tuple[float, ...]
    resumed_at: tuple[int, ...]
    sha256: str = ""
    """Of this process's tensors."""


_MATTER = ("steps", "batch", "learning_rate", "warmup", "floor", "weight_decay", "gradient_norm", "seed")
"""Settings that the weights depend on; the others only move memory or time about (and the last bits)."""


class OtherRun(EdgekitError):  # noqa: N818  (named for what is there)
    """The checkpoints in a folder are of another run."""


def settings_text(settings: TrainSettings, extra: Sequence[ParameterGroup]) -> str:
    """What of the settings is part of the key."""
    found = {name: getattr(settings, name) for name in _MATTER}
    found |= {f"learning_rate of {group.name}": group.learning_rate for group in extra}
    return json.dumps(found, sort_keys=True)


def hash_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """sha256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for part in _bytes_of(tensor):
            digest.update(part)
    return digest.hexdigest()


@contextmanager
def opened(out: Path, place: Place) -> Iterator[None]:
    """The folder of a run, made and taken: one run at a time; what a killed one left half-written is removed."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        stream = (out / f".rank-{place.index}.lock").open("wb")
    except OSError as error:
        raise EdgekitError(f"cannot write ({(error.strerror or 'failed').lower()}): `{out}`") from None
    with stream:  # the kernel lets go of it when its holder dies
        if not lock(stream):
            raise EdgekitError(f"another process is training there: `{out}`")
        if place.index == 0:
            for left in out.glob(".checkpoint-*.partial"):
                shutil.rmtree(left, ignore_errors=True)
        yield


def newest(out: Path, key: RunKey, place: Place) -> tuple[Reached | None, bool]:
    """The newest sound checkpoint that all processes have, if there is one, and whether a damaged one was passed over.

    Raises OtherRun where there is one of another run (and says what differs).
    """
    steps, damaged = _steps(out), False
    while True:
        step = place.least(steps[0] if steps else -1)
        if step < 0:
            return None, damaged
        found = _read(out, step, key, place) if step in steps else None
        if place.least(int(found is not None)):
            return found, damaged
        damaged, steps = True, [other for other in steps if other < step]


def load(out: Path, reached: Reached, place: Place, into: dict[str, torch.Tensor]) -> None:
    """Copy the checkpoint's tensors into those of the run. Raises EdgekitError where they are not the same ones."""
    torch = import_extra("torch", extra="distill")
    safe_open = import_extra("safetensors", extra="distill").safe_open
    path = _tensors_path(_folder(out, reached.step), place)
    with torch.no_grad(), safe_open(path, framework="pt") as file:
        names = set(file.keys())
        for name, target in into.items():
            found = file.get_tensor(name) if name in names else None
            mine = _local(target)
            if found is None or found.shape != mine.shape or found.dtype != mine.dtype:
                raise EdgekitError(f"the checkpoint does not fit the model at `{name}`: `{path}`")
            mine.copy_(found)


def save(out: Path, reached: Reached, tensors: dict[str, torch.Tensor], place: Place) -> None:
    """Write a checkpoint and remove those that are older than the one before it.

    Raises EdgekitError where the disk does not take it; those that stand there stay.
    """
    folder = _folder(out, reached.step)
    partial = folder.with_name(f".{folder.name}.partial")
    failure: OSError | EdgekitError | None = None
    try:
        if place.index == 0:
            shutil.rmtree(partial, ignore_errors=True)
        place.least(0)
        partial.mkdir(parents=True, exist_ok=True)
        digest = _write_tensors(_tensors_path(partial, place), tensors)
        write_record(_record_path(partial, place), replace(reached, sha256=digest))
    except (OSError, EdgekitError) as error:
        failure = error
    if not place.least(int(failure is None)):
        shutil.rmtree(partial, ignore_errors=True)
        raise _not_written(out, reached.step, failure)
    if place.index == 0:
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one that this run has come to again
        partial.replace(folder)
        _sync(out)
        for step in _steps(out)[KEPT:]:
            shutil.rmtree(_folder(out, step), ignore_errors=True)
    place.least(0)


def check_room(out: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Refuse at the start what a full disk would end after hours. Raises EdgekitError."""
    size = sum(_local(tensor).nbytes for tensor in tensors.values())
    present = min(KEPT, len(_steps(out)))
    # an old one goes only when the new one stands
    needed = size * (KEPT + 1 - present)
    check_space(out / "checkpoint", needed, "checkpoints", hint=f"each takes {format_bytes(size)}")


def discard(out: Path) -> None:
    """Remove the checkpoints of a run that is finished and kept elsewhere; its metrics stay."""
    for step in _steps(out):
        shutil.rmtree(_folder(out, step), ignore_errors=True)


def _read(out: Path, step: int, key: RunKey, place: Place) -> Reached | None:
    """None of a damaged one."""
    folder = _folder(out, step)
    try:
        record = next(iter(sorted(folder.glob("rank-*.json"))))
        found = load_record(record, Reached)
    except (StopIteration, EdgekitError):
        return None
    if found.key != key:
        raise _other_run(out, found.key, key)
    try:
        found = load_record(_record_path(folder, place), Reached)
        sound = found.key == key and found.step == step and hash_file(_tensors_path(folder, place)) == found.sha256
    except (OSError, EdgekitError):
        return None
    return found if sound else None


def _other_run(out: Path, found: RunKey, wanted: RunKey) -> OtherRun:
    name = next(name for name in wanted.__slots__ if getattr(found, name) != getattr(wanted, name))
    what = {
        "settings": "with other settings",
        "windows_sha256": "on another text",
        "start_sha256": "of a model that began otherwise",
        "about": "with another objective",
        "precision": f"in {found.precision}, not in {wanted.precision}",
        "processes": f"of {found.processes} processes, not of {wanted.processes}",
    }[name]
    if name == "settings":
        what += _difference(found.settings, wanted.settings)
    return OtherRun(
        f"the checkpoints there are of a training {what}: `{out}`", hint="name another folder, or remove this one"
    )


def _difference(found: str, wanted: str) -> str:
    try:
        theirs, ours = json.loads(found), json.loads(wanted)
        return next(f" ({name} {theirs[name]}, not {ours[name]})" for name in ours if theirs[name] != ours[name])
    except (ValueError, TypeError, KeyError, StopIteration, RecursionError):
        return ""


def _not_written(out: Path, step: int, failure: Exception | None) -> EdgekitError:
    reason = "another process failed"
    if failure is not None:
        reason = (getattr(failure, "strerror", None) or getattr(failure, "message", None) or "failed").lower()
    kept = _steps(out)
    standing = f"that of step {kept[0]} stays" if kept else "there is none yet"
    return EdgekitError(
        f"the checkpoint of step {step} cannot be written ({reason.partition(': `')[0]}), {standing}: `{out}`",
        hint="make room and run the same command again: it goes on from the last checkpoint",
    )


# ---- files -----------------------------------------------------------------------------------------------------------


def _folder(out: Path, step: int) -> Path:
    return out / f"checkpoint-{step:08d}"


def _tensors_path(folder: Path, place: Place) -> Path:
    return folder / f"rank-{place.index}-of-{place.processes}.safetensors"


def _record_path(folder: Path, place: Place) -> Path:
    return _tensors_path(folder, place).with_suffix(".json")


def _steps(out: Path) -> list[int]:
    """Of the checkpoints there, newest first."""
    try:
        names = [found for path in out.iterdir() if (found := _NAME.fullmatch(path.name))]
    except OSError:
        return []
    return sorted((int(found[1]) for found in names), reverse=True)


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> str:
    """Write a safetensors file tensor by tensor (the library's own writer would copy all of them first), force it to
    the disk, and give its sha256.
    """
    header, at = {}, 0
    for name, tensor in tensors.items():
        mine = _local(tensor)
        kind, size = _KINDS[str(mine.dtype).removeprefix("torch.")], mine.nbytes
        header[name] = {"dtype": kind, "shape": list(mine.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        data = (part for tensor in tensors.values() for part in _bytes_of(tensor))
        for part in chain((memoryview(len(text).to_bytes(8, "little")), memoryview(text)), data):
            digest.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


_KINDS = {
    "float64": "F64",
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}


def _bytes_of(tensor: torch.Tensor) -> Iterator[memoryview]:
    torch = import_extra("torch", extra="distill")
    flat = _local(tensor).detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    for begin in range(0, len(flat), _AT_ONCE):
        yield flat[begin : begin + _AT_ONCE]


def _local(tensor: Any) -> torch.Tensor:
    """What this process has of a tensor."""
    found: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return found


def _sync(folder: Path) -> None:
    """Put the folder's own entries on the disk: else a power cut may take a finished rename back."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
