"""Reports and plans on stdout. Loaded by verbs only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgekit.errors import ExitCode
from edgekit.pipeline import Intent
from edgekit.records import Report
from edgekit.units import format_bytes, format_duration

if TYPE_CHECKING:
    from rich.console import Console

Record = TypeVar("Record")


def keep_record(record: object, out: Path | None) -> None:
    """The record as JSON in `out`, where one is named."""
    if out is not None:
        from edgekit.storage import write_record

        write_record(out, record)
        print(f"record: {out}", file=sys.stderr)  # noqa: T201


def print_record(record: Record, printed: Callable[[Record, Console], None], *, as_json: bool) -> None:
    """The record on stdout: as JSON, or as `printed` shows it to people."""
    if as_json:
        from edgekit.storage import to_json

        print(to_json(record))  # noqa: T201
    else:
        from rich.console import Console

        printed(record, Console())


def show(reports: Sequence[Report], written: Sequence[Path], *, as_json: bool) -> None:
    """The reports on stdout; verdicts and where they were written, once more, on stderr."""
    if as_json:
        from edgekit.storage import to_json

        for report in reports:  # one JSON document a line when there are several, as llama-bench's jsonl
            print(to_json(report, indent=2 if len(reports) == 1 else None))  # noqa: T201
    else:
        from rich.console import Console

        from edgekit.report import print_terminal

        for report in reports:
            print_terminal(report, Console())
    for report in reports:
        for verdict in report.verdicts:
            print(f"{verdict.status.upper()}: {verdict.device_title}", file=sys.stderr)  # noqa: T201
    for path in written:
        print(f"report: {path}", file=sys.stderr)  # noqa: T201


def show_plan(intents: Sequence[Intent], *, as_json: bool) -> int:
    """What would run and for how long, on stdout; as JSON a line a device."""
    from edgekit.storage import to_json

    for intent in intents:
        if as_json:
            print(to_json(intent, indent=None))  # noqa: T201
            continue
        lines = [f"{intent.artifact} for {intent.device}: {len(intent.processes)} worker processes"]
        if intent.to_write_bytes:
            lines.append(f"write the stand-in first unless it is cached: {format_bytes(intent.to_write_bytes)}")
        lines += [f"process {number}: {', '.join(tests)}" for number, tests in enumerate(intent.processes, start=1)]
        lines += [f"quality: {part}" for part in intent.quality]
        lines += [f"settings: {', '.join(f'{k}={getattr(intent.settings, k)}' for k in intent.settings.__slots__)}"]
        lines += [f"note: {note}" for note in intent.notes]
        lines.append(_expected(intent.low_s, intent.high_s))
        print("\n  ".join(lines))  # noqa: T201
    return ExitCode.PASS


def _expected(low_s: float | None, high_s: float | None) -> str:
    if low_s is None or high_s is None:
        return "expected: unknown, for another machine runs it"
    span = f"{format_duration(low_s)} to {format_duration(high_s)}"
    return f"expected: {span}, and up to 50 more repetitions a test while its median is unsettled"
