"""Answers kept as they come, so that a run of hours that is killed goes on where it stood.

One JSON object a line: first whose answers they are, then an `Answer` or a `Response` each. A last line cut short by
the kill is dropped. One run at a time writes a journal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edgekit.errors import EdgekitError
from edgekit.files import appending, unwritable
from edgekit.records import Answer, Response

KIND = "answers-journal"


class Journal:
    """What was answered, by id; `keep` adds to it and, where there is a file, to that."""

    def __init__(self, found: dict[str, Answer | Response], file: BinaryIO | None) -> None:
        self.found, self._file = found, file

    def keep(self, fresh: Mapping[str, Answer | Response]) -> None:
        """Add `fresh`; once this returns, a kill does not take it."""
        from edgekit.storage import to_json

        self.found.update(fresh)
        if self._file is not None:
            self._file.write("".join(to_json(one, indent=None) + "\n" for one in fresh.values()).encode())
            self._file.flush()
            os.fsync(self._file.fileno())


@contextmanager
def open_journal(path: Path | None, key: str) -> Iterator[Journal]:
    """The journal at `path`, begun where there is none; of `None` one that keeps no file. Raises EdgekitError when the
    file is of another run (`key` says which), is being written, is no journal, or cannot be written.
    """
    if path is None:
        yield Journal({}, None)
        return
    with appending(path, "answers") as file:
        found, size = _read(file, path, key)
        try:
            file.truncate(size)
            file.seek(size)
            if not size:
                file.write(_head(key))
                file.flush()
        except OSError as error:
            raise unwritable(path, error) from None
        yield Journal(found, file)


def _head(key: str) -> bytes:
    return json.dumps({"kind": KIND, "version": 1, "key": key}).encode() + b"\n"


def _read(file: BinaryIO, path: Path, key: str) -> tuple[dict[str, Answer | Response], int]:
    """(what the whole lines hold, their bytes); nothing of a file that a kill left within the first line."""
    from edgekit.storage import MAX_RECORD_BYTES, from_json

    file.seek(0)
    data = file.read(MAX_RECORD_BYTES + 1)
    if len(data) > MAX_RECORD_BYTES:
        raise EdgekitError(f"a journal of answers is larger than 256 MiB: `{path}`", hint="name another file")
    whole, newline, _ = data.rpartition(b"\n")
    begin = _head("").removesuffix(b'"}\n')
    if not newline and (data.startswith(begin) or begin.startswith(data)):
        return {}, 0
    lines = whole.split(b"\n")
    head = _object(lines[0])
    if head is None or head.get("kind") != KIND or head.get("version") != 1:
        raise EdgekitError(f"not a journal of answers: `{path}`", hint="name another file")
    if head.get("key") != key:
        raise EdgekitError(
            f"answers of another model, bank, build or settings stand in `{path}`",
            hint="delete it to begin anew, or name another file",
        )
    found: dict[str, Answer | Response] = {}
    for number, line in enumerate(lines[1:], 2):
        origin = f"{path}:{number}"
        if b'"item"' in line[:20]:
            answer = from_json(line, Answer, origin=origin)
            found[answer.item] = answer
        else:
            response = from_json(line, Response, origin=origin)
            found[response.prompt] = response
    return found, len(whole) + 1


def _object(line: bytes) -> dict[str, object] | None:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
