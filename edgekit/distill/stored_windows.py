"""Windows of more text than memory should hold: written once as they are cut, then mapped from the disk.

A folder of them has `windows.json` (whose they are, how many, and the SHA-256 of every part), `ids.bin` (int32) and
`weights.bin` (float32), both (windows, length + 1), little-endian. It appears whole or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from edgekit.distill.windows import Windows, hash_rows
from edgekit.errors import EdgekitError, import_extra
from edgekit.files import replacing_folder
from edgekit.storage import load_record, write_record

if TYPE_CHECKING:
    from torch import Tensor

RECORD, IDS, WEIGHTS = "windows.json", "ids.bin", "weights.bin"
PART_BYTES = 2**26
"""That one checksum is of."""
_ROWS_AT_ONCE = 2**20
"""Tokens that are gathered before they are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What lies in a folder of windows. `key` is of all that they were made of, `sha256` that of `Windows`."""

    kind: Literal["edgekit-windows"] = "edgekit-windows"
    version: Literal[1] = 1
    key: str
    windows: int
    length: int
    sha256: str
    parts: tuple[tuple[str, str], ...]
    """SHA-256 of each part of `ids.bin` and of `weights.bin`."""
    origin: str
    notes: tuple[str, ...] = ()


class Cutting:
    """One stream of tokens, cut into windows of `length` and the token that is foretold; a rest is left out."""

    def __init__(self, length: int, out: Writing) -> None:
        self.length, self.out = length, out
        self.ids: list[int] = []
        self.weights: list[float] = []

    def add(self, ids: Sequence[int], weights: Sequence[float] | None = None) -> None:
        """Tokens that follow those before; without weights all count alike."""
        self.ids += ids
        self.weights += [1.0] * len(ids) if weights is None else weights
        whole = (len(self.ids) - 1) // self.length
        if whole * self.length >= _ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write the windows that are full."""
        torch = import_extra("torch", extra="distill")
        whole = (len(self.ids) - 1) // self.length
        if whole < 1:
            return
        end = whole * self.length
        ids = torch.tensor(self.ids[: end + 1], dtype=torch.int32).unfold(0, self.length + 1, self.length)
        weights = torch.tensor(self.weights[: end + 1], dtype=torch.float32)
        self.out.write(ids, weights.unfold(0, self.length + 1, self.length))
        self.ids, self.weights = self.ids[end:], self.weights[end:]


class Writing:
    """The two files of a folder, while they grow."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.windows = folder, 0

    def write(self, ids: Tensor, weights: Tensor) -> None:
        """Rows of (windows, length + 1). Raises OSError."""
        for name, rows in ((IDS, ids), (WEIGHTS, weights)):
            with (self.folder / name).open("ab") as file:
                file.write(rows.contiguous().numpy().data)
        self.windows += len(ids)


def store(place: Path, key: str, length: int, fill: Callable[[Writing], tuple[str, tuple[str, ...]]]) -> None:
    """Write the windows that `fill` gives (and their origin and notes) into the folder `place`, whole or not at all;
    without a record where it gives none. Raises EdgekitError where the disk does not take them.
    """
    with replacing_folder(place, force=True) as folder:
        writing = Writing(folder)
        try:
            origin, notes = fill(writing)
        except OSError as error:
            raise EdgekitError(
                f"the windows of the training text cannot be written ({(error.strerror or 'failed').lower()}):"
                f" `{place.parent}`",
                hint="make room (eight bytes a token) and run the same command again",
            ) from None
        if writing.windows:
            ids, weights = _mapped(folder, writing.windows, length)
            record = Stored(
                key=key,
                windows=writing.windows,
                length=length,
                sha256=hash_rows(ids, weights),
                parts=tuple(zip(_parts(folder / IDS), _parts(folder / WEIGHTS), strict=True)),
                origin=origin,
                notes=notes,
            )
            write_record(folder / RECORD, record)


def stored(place: Path, key: str) -> tuple[Windows, Stored] | None:
    """The windows in the folder `place`, checked byte by byte; None where there are none of that key, or they are
    damaged: they are made again then.
    """
    try:
        found = load_record(place / RECORD, Stored)
        if found.key != key:
            return None
        ids, weights = _mapped(place, found.windows, found.length)
        sound = tuple(zip(_parts(place / IDS), _parts(place / WEIGHTS), strict=True)) == found.parts
    except (EdgekitError, OSError, ValueError, RuntimeError):
        return None
    return (Windows(ids=ids, weights=weights, known_sha256=found.sha256), found) if sound else None


def _mapped(folder: Path, windows: int, length: int) -> tuple[Tensor, Tensor]:
    """Ids and weights, mapped from the files and never written to. Raises ValueError of files of another size."""
    torch = import_extra("torch", extra="distill")
    shape, found = (windows, length + 1), []
    for name, kind in ((IDS, torch.int32), (WEIGHTS, torch.float32)):
        path, numbers = folder / name, windows * (length + 1)
        if numbers < 1 or path.stat().st_size != 4 * numbers:
            raise ValueError(name)
        found.append(torch.from_file(str(path), shared=False, size=numbers, dtype=kind).view(shape))
    return found[0], found[1]


def _parts(path: Path) -> list[str]:
    with path.open("rb") as file:
        return list(_digests(file))


def _digests(file: BinaryIO) -> list[str]:
    found = []
    while part := file.read(PART_BYTES):
        found.append(hashlib.sha256(part).hexdigest())
    return found
