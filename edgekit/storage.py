"""Records on disk: loading and validating at the boundary, and the published schema."""

from __future__ import annotations

import json
import re
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from edgekit import records
from edgekit.errors import EdgekitError
from edgekit.files import read_whole, replacing

T = TypeVar("T")

MAX_RECORD_BYTES = 256 * 2**20
"""Records come from strangers; the largest honest one (a thorough run with per-token times) is under 20 MB."""

MAX_INTEGER = 2**63
"""What no honest count exceeds; larger ones divide by no float."""
_LONG = re.compile(r"(?<![.\d])\d{19}")


# records stay plain dataclasses; at this boundary an unknown field is an error and not ignored
for _record in filter(is_dataclass, vars(records).values()):
    _record.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[union-attr]


@cache
def _adapter(record_type: Any) -> TypeAdapter[Any]:  # building one takes tens of milliseconds
    return TypeAdapter(record_type)


def to_json(record: object, *, indent: int | None = 2) -> str:
    """JSON text of a record. Raises ValueError on NaN or infinity: they never reach a file."""
    kind: Any = type(record)
    plain = _adapter(kind).dump_python(record, mode="json")
    text = json.dumps(plain, indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace").decode("utf-8")  # a path may hold bytes that are no text (lone surrogates)


def from_json(text: str | bytes, record_type: type[T], *, origin: str) -> T:
    """The validated record in `text`; unknown versions, kinds and fields are refused by name.

    Raises EdgekitError that names `origin` and the first offending field.
    """
    try:
        kind: Any = record_type
        record: T = _adapter(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise EdgekitError(
            f"not a valid {record_type.__name__.lower()} record at `{where}` ({first['msg'].lower()}): `{origin}`",
            hint="edgekit writes these files itself: `edgekit schema` prints what it reads and writes",
        ) from None
    _refuse_long_integers(text, record_type, origin)
    return record


def _refuse_long_integers(text: str | bytes, record_type: type, origin: str) -> None:
    """Raise EdgekitError for an integer that no float holds; the second reading is only of files that look so."""

    def whole(digits: str) -> int:
        if abs(found := int(digits)) > MAX_INTEGER:
            raise EdgekitError(
                f"not a valid {record_type.__name__.lower()} record, it has an integer beyond 2^63: `{origin}`"
            )
        return found

    plain = text.decode() if isinstance(text, bytes) else text
    if _LONG.search(plain):
        json.loads(plain, parse_int=whole)


def load_record(path: Path, record_type: type[T]) -> T:
    """Read one record file. Raises EdgekitError when it is missing, too large, or not that record."""
    return from_json(read_bounded(path), record_type, origin=str(path))


def read_bounded(path: Path) -> bytes:
    """The bytes of a record file. Raises EdgekitError when it is missing, unreadable or implausibly large."""
    try:
        data = read_whole(path, MAX_RECORD_BYTES)
    except OSError as error:
        raise EdgekitError(f"cannot read record ({(error.strerror or 'unreadable').lower()}): `{path}`") from None
    if data is None:
        raise EdgekitError(f"record file is larger than 256 MiB: `{path}`", hint="is this a model file?")
    return data


def write_record(path: Path, record: object) -> None:
    """Write `record` as JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(to_json(record) + "\n", encoding="utf-8")


def report_schema() -> dict[str, Any]:
    """JSON Schema of the report file, as `edgekit schema` prints it."""
    schema = _adapter(records.Report).json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "edgekit release gate report"}


__all__ = ["from_json", "load_record", "read_bounded", "report_schema", "to_json", "write_record"]
