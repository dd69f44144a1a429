"""What a teacher says of a training text, kept on disk: the teacher runs once, and students learn from the files.

A cache is a folder: `cache.json` says whose it is (`CacheKey`), shards hold the records of a number of windows each.
A writer that was killed goes on from the first shard that is missing or damaged, and gives the same bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekit.distill.alignment import MAX_ROWS, Alignment
from edgekit.distill.cache_shards import HEADER_BYTES, is_whole, open_shard, shard_path, write_shard
from edgekit.distill.sparse import SparseTeacher
from edgekit.distill.sparse_rows import CacheSettings, records_of, unpack
from edgekit.errors import EdgekitError
from edgekit.files import check_space
from edgekit.progress import Progress, silent
from edgekit.storage import load_record, write_record
from edgekit.units import format_bytes

if TYPE_CHECKING:
    import torch

    from edgekit.distill.sparse_rows import Records

Speak = Callable[["torch.Tensor"], Iterator["torch.Tensor"]]
"""Logits of windows (batch, length): one block of (tokens, rows) after the other, window by window."""

SHARD_BYTES = 32 * 2**20
_MOST_OPEN = 256
"""Shards mapped at a time: each takes one of the files that a process may have open."""
_MOST_WINDOWS, _MOST_LENGTH = 2**40, 2**24
RECORD = "cache.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheKey:
    """Whose cache it is. Equal keys mean equal bytes, up to the arithmetic of the machine that ran the teacher.

    `teacher_sha256` is `checkpoint.hash_checkpoint`'s, `tokens_sha256` the training text's, `alignment_sha256` and
    `vocabulary` the `Alignment`'s; `precision` is what the teacher computed in.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    kind: str = "edgekit-teacher-cache"
    version: int = 1
    teacher_sha256: str
    tokens_sha256: str
    alignment_sha256: str
    vocabulary: int
    windows: int
    length: int
    precision: str
    settings: CacheSettings

    @property
    def digest(self) -> bytes:
        """What every shard carries of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).digest()

    @property
    def shard_windows(self) -> int:
        """Windows that a shard holds."""
        return max(1, SHARD_BYTES // (self.length * self.settings.record_bytes))

    @property
    def shards(self) -> int:
        """Files of the whole cache."""
        return -(-self.windows // self.shard_windows)

    @property
    def size_bytes(self) -> int:
        """Of all shards."""
        return self.windows * self.length * self.settings.record_bytes + self.shards * HEADER_BYTES

    def windows_of(self, shard: int) -> range:
        """The windows that a shard holds."""
        return range(shard * self.shard_windows, min(self.windows, (shard + 1) * self.shard_windows))


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCache:
    """A whole cache, read as it is asked for. Shards are checked when they are first touched."""

    path: Path
    key: CacheKey
    _opened: dict[int, Records] = field(default_factory=dict, repr=False, compare=False)
    _checked: set[int] = field(default_factory=set, repr=False, compare=False)

    def teacher(self, windows: torch.Tensor, *, temperature: float = 1.0) -> SparseTeacher:
        """What the teacher says of the windows of these numbers, (batch,) int64: batch · length rows, window by window,
        softened by `temperature`. Raises EdgekitError for a damaged shard or a temperature out of the settings' range.
        """
        import numpy as np

        numbers = [int(number) for number in windows]
        if not numbers or not 0 <= min(numbers) <= max(numbers) < self.key.windows:
            raise EdgekitError(f"the teacher's cache has {self.key.windows} windows, asked for: `{numbers[:4]}`")
        records = np.concatenate([self._window(number) for number in numbers])
        return unpack(records, temperature, self.key.settings, self.key.vocabulary)

    def _window(self, number: int) -> Records:
        shard, place = divmod(number, self.key.shard_windows)
        if shard not in self._opened:
            if len(self._opened) >= _MOST_OPEN:
                del self._opened[next(iter(self._opened))]
            self._opened[shard] = self._open(shard)
            self._checked.add(shard)
        return self._opened[shard][place * self.key.length : (place + 1) * self.key.length]

    def _open(self, shard: int) -> Records:
        key, records = self.key, len(self.key.windows_of(shard)) * self.key.length
        known = shard in self._checked
        return open_shard(self.path, shard, key.digest, records, key.settings, key.vocabulary, checked=known)


def cache_key(
    windows: torch.Tensor, *, teacher_sha256: str, alignment: Alignment, settings: CacheSettings, precision: str
) -> CacheKey:
    """The key of a cache for `windows` (windows, length) int64, token ids as the teacher is given them.

    Raises EdgekitError where there is none, or a token that not both models know.
    """
    if windows.ndim != 2 or not windows.numel() or windows.shape[1] > _MOST_LENGTH:
        raise EdgekitError(f"a cache is of windows of equal length, not of shape `{tuple(windows.shape)}`")
    alignment.check_ids(windows)
    return CacheKey(
        teacher_sha256=teacher_sha256,
        tokens_sha256=_hash_tokens(windows),
        alignment_sha256=alignment.sha256,
        vocabulary=alignment.vocabulary,
        windows=windows.shape[0],
        length=windows.shape[1],
        precision=precision,
        settings=settings,
    )


def write_cache(
    speak: Speak,
    windows: torch.Tensor,
    out: Path,
    key: CacheKey,
    *,
    batch: int = 8,
    share: tuple[int, int] = (0, 1),
    progress: Progress = silent,
) -> None:
    """Write what a teacher says of `windows`, of which `key` is, into the folder `out`; shards that stand there whole
    are kept. `share` (which, of how many) lets several processes write one cache, each its own shards.

    `speak` is the teacher (`teacher_of` makes one of a transformers model). Raises EdgekitError where `out` holds
    another cache or another process writes it, the disk is full (what was written stays), or logits are no numbers.
    """
    if _hash_tokens(windows) != key.tokens_sha256:
        raise EdgekitError("the windows are not those of the cache's key")
    _claim(out, key)
    mine = range(share[0], key.shards, share[1])
    with _locked(out, f".writing-{share[0]}-of-{share[1]}", mine):
        missing = [shard for shard in mine if not _is_whole(out, shard, key)]
        check_space(
            out / RECORD,
            sum(len(key.windows_of(shard)) for shard in missing) * key.length * key.settings.record_bytes,
            "the teacher's cache",
            hint="choose another disk, fewer tokens, or `top` below 64",
        )
        _write_missing(speak, windows, out, key, mine, missing, batch, progress)


def open_cache(path: Path, key: CacheKey | None = None) -> TeacherCache:
    """The cache in the folder `path`, whole; with `key`, only if it is of that teacher, text and settings.

    Reads names and the record only. Raises EdgekitError where something is missing or differs (and says what).
    """
    found = _load(path)
    if key is not None and key != found:
        raise _other(path, found, key)
    missing = [shard for shard in range(found.shards) if not shard_path(path, shard).is_file()]
    if missing:
        raise EdgekitError(
            f"the teacher's cache is not finished ({len(missing)} of {found.shards} shards are missing): `{path}`",
            hint="run the command that writes it again: it goes on where it stopped",
        )
    return TeacherCache(path=path, key=found)


def _write_missing(
    speak: Speak,
    windows: torch.Tensor,
    out: Path,
    key: CacheKey,
    mine: range,
    missing: list[int],
    batch: int,
    progress: Progress,
) -> None:
    total = sum(len(key.windows_of(shard)) for shard in mine)
    done = total - sum(len(key.windows_of(shard)) for shard in missing)
    for shard in missing:

        def tell(more: int, done: int = done, shard: int = shard) -> None:
            where = f"shard {shard + 1} of {key.shards}"
            progress("asking the teacher", (done + more) * key.length, total * key.length, where)

        records = _records(speak, windows, key, shard, batch, tell)
        try:
            write_shard(out, shard, key.digest, records)
        except EdgekitError as error:
            hint = f"make room for {format_bytes(records.nbytes)} and run the same command: finished shards are kept"
            raise EdgekitError(error.message, hint=hint) from None
        done += len(key.windows_of(shard))


def _records(
    speak: Speak, windows: torch.Tensor, key: CacheKey, shard: int, batch: int, tell: Callable[[int], None]
) -> Records:
    """The records of one shard: batches begin where shards do, so that a resumed writer computes the same."""
    import numpy as np

    numbers = key.windows_of(shard)
    parts: list[Records] = []
    for begin in range(numbers.start, numbers.stop, batch):
        asked = windows[begin : min(numbers.stop, begin + batch)]
        starts, place = _starts(key, range(begin, begin + len(asked))), 0
        for logits in speak(asked):
            if logits.shape[-1] < key.vocabulary or place + len(logits) > len(starts):
                raise EdgekitError(
                    f"the teacher's logits are not of these windows, their shape: `{tuple(logits.shape)}`"
                )
            here = starts[place : place + len(logits)].to(logits.device)
            parts.append(records_of(logits[:, : key.vocabulary], here, key.settings))
            place += len(logits)
        if place != len(starts):
            raise EdgekitError(f"the teacher gave {place} rows of logits for tokens: `{len(starts)}`")
        tell(begin + len(asked) - numbers.start)
    return np.concatenate(parts)


def _starts(key: CacheKey, windows: range) -> torch.Tensor:
    """Where sampling starts in each row: a window's own numbers, whoever computes it and in what batch."""
    import torch

    rows = []
    for number in windows:
        seed = hashlib.sha256(f"{key.settings.seed} {number}".encode()).digest()[:8]
        generator = torch.Generator().manual_seed(int.from_bytes(seed, "little") >> 1)
        rows.append(torch.rand(key.length, generator=generator))
    return torch.cat(rows)


def _is_whole(out: Path, shard: int, key: CacheKey) -> bool:
    records = len(key.windows_of(shard)) * key.length
    return is_whole(out, shard, key.digest, records, key.settings, key.vocabulary)


def _hash_tokens(windows: torch.Tensor) -> str:
    """sha256 of the shape and the ids as little-endian int32, a megabyte at a time."""
    import torch

    digest = hashlib.sha256(f"{tuple(windows.shape)}".encode())
    step = max(1, 2**18 // max(1, windows.shape[-1]))
    for begin in range(0, len(windows), step):
        digest.update(windows[begin : begin + step].to("cpu", torch.int32).numpy().astype("<i4").tobytes())
    return digest.hexdigest()


def _claim(out: Path, key: CacheKey) -> None:
    """Make the folder this cache's. Raises EdgekitError where it is another's."""
    if (out / RECORD).exists():
        found = _load(out)
        if found != key:
            raise _other(out, found, key)
    elif out.is_dir() and not all(_is_left(path) for path in out.iterdir()):
        raise EdgekitError(f"the folder holds other things than a teacher's cache: `{out}`", hint="name a new folder")
    else:
        write_record(out / RECORD, key)


def _is_left(path: Path) -> bool:
    """What a writer leaves that was killed before the record had its name."""
    return path.name.startswith(f".{RECORD}.") and path.suffix == ".partial"


def _load(path: Path) -> CacheKey:
    if not (path / RECORD).is_file():
        raise EdgekitError(f"not a teacher's cache (it has no `{RECORD}`): `{path}`")
    found = load_record(path / RECORD, CacheKey)
    sound = (
        (found.kind, found.version) == ("edgekit-teacher-cache", 1)
        and 0 < found.vocabulary <= MAX_ROWS
        and 0 < found.windows <= _MOST_WINDOWS
        and 0 < found.length <= _MOST_LENGTH
    )
    if not sound:
        raise EdgekitError(f"not a teacher's cache that this edgekit reads: `{path / RECORD}`")
    return found


def _other(path: Path, found: CacheKey, wanted: CacheKey) -> EdgekitError:
    """What to say where a cache is not the one that was meant."""
    ours, theirs = asdict(wanted), asdict(found)
    ours |= ours.pop("settings")
    theirs |= theirs.pop("settings")
    name = next(name for name in ours if ours[name] != theirs[name])
    what = {
        "teacher_sha256": "of another teacher",
        "tokens_sha256": "of another text",
        "alignment_sha256": "of another tokenizer",
    }.get(name, f"with `{name}` {theirs[name]} and not {ours[name]}")
    return EdgekitError(f"the teacher's cache is {what}: `{path}`", hint="name another folder, or remove this one")


@contextmanager
def _locked(out: Path, name: str, shards: range) -> Iterator[None]:
    """One process writes a share; what a killed one left half-written is removed."""
    try:
        lock = (out / name).open("w")
    except OSError as error:
        raise EdgekitError(f"cannot write ({(error.strerror or 'failed').lower()}): `{out}`") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise EdgekitError(f"another process is writing this teacher's cache: `{out}`") from None
        for shard in shards:
            for left in out.glob(f".{shard_path(out, shard).name}.*.partial"):
                left.unlink(missing_ok=True)
        yield
