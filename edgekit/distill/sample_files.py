"""Files of samples: a journal while a teacher is asked, one file of each worker, and all of them joined.

A file begins with a line that says whose it is. The journal has a line for each finished batch; a last one cut short
by a kill is dropped. One process at a time writes a journal.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from edgekit.distill.generating import Completion
from edgekit.distill.samples import KIND, LONGEST, MAX_BYTES, VERSION, Sample, head_of, read_samples, spread, to_line
from edgekit.errors import EdgekitError
from edgekit.files import appending, hash_file, replacing, unwritable

JOURNAL_KIND = "edgekit-samples-journal"
MAX_HEAD_BYTES = 2**20
COUNTS = ("too_long", "held_out", "duplicates", "wordless", "tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The first line of a file of samples. `asked` is how many questions of each domain, every style counted."""

    key: str
    teacher_sha256: str
    shard: tuple[int, int]
    asked: dict[str, int]
    too_long: int
    held_out: int
    settings: dict[str, Any] = field(default_factory=dict)
    duplicates: int = 0
    wordless: int = 0
    tokens: int = 0

    @property
    def line(self) -> str:
        return json.dumps({"kind": KIND, "version": VERSION} | asdict(self), ensure_ascii=False)


class Journal:
    """What was said, by number of batch; `keep` adds to it and to the file."""

    def __init__(self, path: Path, found: dict[int, tuple[Completion, ...]], file: BinaryIO) -> None:
        self.path, self.found, self._file = path, found, file

    @property
    def samples(self) -> int:
        return sum(len(said) for said in self.found.values())

    @property
    def tokens(self) -> int:
        return sum(one.tokens for said in self.found.values() for one in said)

    def keep(self, batch: int, said: Sequence[Completion]) -> None:
        """Add what was said to a batch; once this returns, a kill does not take it."""
        rows = [[one.text, one.tokens, one.nats, one.finished] for one in said]
        try:
            self._file.write(json.dumps([batch, rows]).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from None
        self.found[batch] = tuple(said)

    def strange(self) -> EdgekitError:
        """What to say of a journal that holds what was not asked."""
        return _damaged(self.path)


@contextmanager
def open_journal(place: Path, key: str) -> Iterator[Journal]:
    """The journal of the file `place`, begun where there is none; it goes when the block ends well. Raises EdgekitError
    when it is of other samples, damaged, being written, or cannot be written.
    """
    path = place.with_name(f"{place.name}.journal")
    with appending(path, "samples") as file:
        found, size = _read(file, path, key)
        try:
            file.truncate(size)
            file.seek(size)
            if not size:
                file.write(json.dumps({"kind": JOURNAL_KIND, "version": 1, "key": key}).encode() + b"\n")
                file.flush()
        except OSError as error:
            raise unwritable(path, error) from None
        yield Journal(path, found, file)
        path.unlink(missing_ok=True)


def shard_path(out: Path, shard: tuple[int, int]) -> Path:
    """Where a worker's part stands: `data.jsonl` → `data-1-of-4.jsonl`; `out` itself where there is one worker."""
    which, of = shard
    return out if of == 1 else out.with_name(f"{out.stem}-{which + 1}-of-{of}{out.suffix}")


def gather(out: Path, key: str, shards: int) -> None:
    """Join the workers' files in `out`, when all of them are there; the same bytes as one worker would have written.

    Two workers may do so at once: either's file is whole.
    """
    if shards == 1 or read_head(out, key) is not None:
        return
    places = [shard_path(out, (which, shards)) for which in range(shards)]
    heads = [head for place in places if (head := read_head(place, key)) is not None]
    if len(heads) < shards:
        return
    asked: dict[str, int] = {}
    for head in heads:
        for domain, count in head.asked.items():
            asked[domain] = asked.get(domain, 0) + count
    whole = replace(
        heads[0],
        shard=(0, 1),
        asked=dict(sorted(asked.items())),
        duplicates=sum(head.duplicates for head in heads),
        wordless=sum(head.wordless for head in heads),
        tokens=sum(head.tokens for head in heads),
    )
    write(out, whole, spread(one for place in places for one in read_samples(place, empty=True)))


def read_head(path: Path, key: str) -> Head | None:
    """The first line of the samples of `key` at `path`, None where there is no file. Raises EdgekitError where it is
    another's, so that nothing is overwritten.
    """
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            found = head_of(file.readline(MAX_HEAD_BYTES)) if path.is_file() else None
    except OSError as error:
        raise EdgekitError(f"cannot read samples ({(error.strerror or 'unreadable').lower()}): `{path}`") from None
    head = _head(found) if found is not None else None
    if head is None:
        raise EdgekitError(
            f"the output holds something else than a teacher's samples: `{path}`", hint="name another file"
        )
    if head.key != key:
        raise EdgekitError(
            f"samples of another teacher, other questions or other settings stand in `{path}`",
            hint="name another file, or remove this one",
        )
    return head


def digest_of(path: Path) -> str:
    """sha256 of a file of samples. Raises EdgekitError when it cannot be read."""
    try:
        return hash_file(path)
    except OSError as error:
        raise EdgekitError(f"cannot read samples ({(error.strerror or 'unreadable').lower()}): `{path}`") from None


def write(place: Path, head: Head, samples: Sequence[Sample]) -> None:
    """Write a file of samples, whole or not at all."""
    with replacing(place) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(head.line + "\n")
        file.writelines(to_line(one) + "\n" for one in samples)


def _head(found: dict[str, Any]) -> Head | None:
    """The line's fields, each of the right kind; None otherwise."""
    asked, counts = found.get("asked"), [found.get(name) for name in COUNTS]
    texts = [found.get(name) for name in ("key", "teacher_sha256")]
    numbers = [*counts, *(asked.values() if isinstance(asked, dict) else [None])]
    if not all(isinstance(text, str) for text in texts) or not all(type(one) is int and one >= 0 for one in numbers):
        return None
    if found.get("version") != VERSION or not isinstance(found.get("settings"), dict):
        return None
    fields = {name: found[name] for name in Head.__dataclass_fields__ if name != "shard" and name in found}
    return Head(shard=(0, 1), **fields)


def _read(file: BinaryIO, path: Path, key: str) -> tuple[dict[int, tuple[Completion, ...]], int]:
    """(what the whole lines hold, their bytes); nothing of a file that a kill left within the first line."""
    file.seek(0)
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise EdgekitError(f"a journal of samples is too large: `{path}`", hint="ask in more shards")
    whole, newline, _ = data.rpartition(b"\n")
    if not newline and json.dumps({"kind": JOURNAL_KIND}).encode()[:-1].startswith(data[:30]):
        return {}, 0
    lines = whole.split(b"\n")
    head = _parsed(lines[0])
    if not isinstance(head, dict) or head.get("kind") != JOURNAL_KIND or head.get("version") != 1:
        raise EdgekitError(f"not a journal of samples: `{path}`", hint="name another output")
    if head.get("key") != key:
        raise EdgekitError(
            f"a journal of another teacher, other questions or other settings stands in `{path}`",
            hint="remove it to begin anew, or name another output",
        )
    return dict(_batch(line, path) for line in lines[1:]), len(whole) + 1


def _batch(line: bytes, path: Path) -> tuple[int, tuple[Completion, ...]]:
    found = _parsed(line)
    if not isinstance(found, list) or len(found) != 2 or type(found[0]) is not int or not isinstance(found[1], list):
        raise _damaged(path)
    return found[0], tuple(_completion(row, path) for row in found[1])


def _completion(row: Any, path: Path) -> Completion:
    if not isinstance(row, list) or len(row) != 4:
        raise _damaged(path)
    text, tokens, nats, finished = row
    sound = isinstance(text, str) and len(text) <= LONGEST["completion"] and type(tokens) is int and tokens >= 0
    if not sound or type(nats) is not float or not math.isfinite(nats) or not isinstance(finished, bool):
        raise _damaged(path)
    return Completion(text=text, tokens=tokens, nats=nats, finished=finished)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _damaged(path: Path) -> EdgekitError:
    return EdgekitError(f"the journal of samples is damaged: `{path}`", hint="remove it to begin anew")
