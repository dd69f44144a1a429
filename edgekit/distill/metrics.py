"""The figures of a running training as JSON lines, which a killed run leaves whole up to its last line."""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError, import_extra
from edgekit.files import read_whole, replacing

if TYPE_CHECKING:
    import torch

NAME = "metrics.jsonl"
_MOST_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """One line: `step` counts from 1, losses in nats per counted token; `seconds` since the training began, killed
    runs' lost steps left out.
    """

    step: int
    loss: float
    distill: float | None
    ce: float | None
    learning_rate: float
    gradient_norm: float
    tokens_per_s: float
    seconds: float


class Metrics:
    """Appends lines to a file, or (without a path) only remembers losses."""

    def __init__(self, path: Path | None, losses: list[tuple[int, float]]) -> None:
        self._path = path
        self._file: Any = None
        self.losses = losses

    def __enter__(self) -> Metrics:
        if self._path is not None:
            try:
                self._file = self._path.open("a", encoding="utf-8", buffering=1)
            except OSError as error:
                raise _refusal(self._path, error) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, figures: StepFigures) -> None:
        """Append a line. Raises EdgekitError where the disk does not take it."""
        self.losses.append((figures.step, figures.loss))
        if self._file is not None and self._path is not None:
            try:
                self._file.write(json.dumps(asdict(figures), allow_nan=False) + "\n")
            except OSError as error:
                raise _refusal(self._path, error) from None

    def sync(self) -> None:
        """Put all lines on the disk: a checkpoint promises them."""
        if self._file is not None:
            os.fsync(self._file.fileno())


def peak_bytes(device: torch.device) -> int:
    """The largest resident set of this process so far; on an accelerator, of its memory."""
    if device.type == "cuda":
        return int(import_extra("torch", extra="distill").cuda.max_memory_allocated(device))
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def kept(path: Path, step: int) -> list[tuple[int, float]]:
    """Cut the file back to the lines up to `step` and give their (step, loss): what came after is trained anew. Lines
    that are no figures are dropped.
    """
    try:
        data = read_whole(path, _MOST_BYTES) or b""
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _refusal(path, error) from None
    found = [(line, figures) for line in data.splitlines() if (figures := _figures(line)) and figures[0] <= step]
    with replacing(path) as temporary:
        temporary.write_bytes(b"".join(line + b"\n" for line, _ in found))
    return [figures for _, figures in found]


def _figures(line: bytes) -> tuple[int, float] | None:
    try:
        found = json.loads(line)
        step, loss = found["step"], found["loss"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    whole = type(step) is int and type(loss) in (int, float) and math.isfinite(loss)
    return (step, float(loss)) if whole else None


def _refusal(path: Path, error: OSError) -> EdgekitError:
    return EdgekitError(f"cannot write ({(error.strerror or 'failed').lower()}): `{path}`")
