"""What the making verbs print: records as JSON, or for people on stdout. Loaded by verbs only."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from edgekit.cli.reading_quality import PAGES, Outputs
from edgekit.cli.showing import keep_record, print_record
from edgekit.errors import ExitCode
from edgekit.files import replacing
from edgekit.pipeline.quantizing import Made
from edgekit.quantize.foreseeing import Intention
from edgekit.records import Comparison, HarnessRun, Parity, Quality, ReferenceFile, Sweep
from edgekit.storage import to_json, write_record
from edgekit.units import format_bytes, format_duration


def show_made(made: Sequence[Made], *, as_json: bool) -> int:
    """The artifacts and, where there is one, the plan."""
    from edgekit.report import print_plan

    if as_json:
        for one in made:
            print(to_json(one, indent=None if len(made) > 1 else 2))  # noqa: T201
        return ExitCode.PASS
    for one in made:
        if one.plan is not None:
            print_plan(one.plan, one.front, Console())
        for note in one.export.notes:
            print(f"note: {note}", file=sys.stderr)  # noqa: T201
        print(one.export.path)  # noqa: T201
    return ExitCode.PASS


def show_intentions(intentions: Sequence[Intention], *, as_json: bool) -> int:
    """What would be made, and what it takes."""
    if as_json:
        print("\n".join(to_json(one, indent=None) for one in intentions))  # noqa: T201
        return ExitCode.PASS
    for one in intentions:
        lines = [f"{one.target}: {one.place}" + (" (exists)" if one.exists else "")]
        lines.append(f"size {format_bytes(one.size_bytes)}, disk while it is made {format_bytes(one.disk_bytes)}")
        if one.memory is not None:
            lines.append(f"memory {format_bytes(one.memory.low)} – {format_bytes(one.memory.high)}")
        if one.time_s is not None:
            lines.append(f"time {format_duration(one.time_s.low)} – {format_duration(one.time_s.high)}")
        print("\n  ".join([*lines, *one.notes]))  # noqa: T201
    return ExitCode.PASS


def show_quality(quality: Quality, name: str, places: Outputs, *, as_json: bool) -> int:
    """Quality on stdout, its record and the answers where they are wanted."""
    from edgekit.report import print_quality, render_quality

    if places.answers is not None and quality.tasks is not None:
        write_record(places.answers, quality.tasks.answers)
        print(f"answers: {places.answers}", file=sys.stderr)  # noqa: T201
    keep_record(quality, places.record)
    if places.page is not None:
        with replacing(places.page) as temporary:
            page = render_quality(quality, PAGES[places.page.suffix], name=name)
            temporary.write_text(page, encoding="utf-8")
        print(f"report: {places.page}", file=sys.stderr)  # noqa: T201
    for journal in places.journals:
        journal.unlink(missing_ok=True)
    print_record(quality, lambda record, console: print_quality(record, console, name=name), as_json=as_json)
    return ExitCode.PASS


def tell_reference(kept: ReferenceFile, place: Path) -> None:
    """Whose distributions of which text now lie in `place`."""
    size = format_bytes(place.stat().st_size)
    print(  # noqa: T201
        f"reference: {place} ({size}): what {kept.model} says of {kept.text_origin}, {kept.chunks} chunks of "
        f"{kept.context_tokens} tokens",
        file=sys.stderr,
    )


def show_parity(parity: Parity, out: Path | None, *, as_json: bool) -> int:
    """Two builds side by side, and their record in `out`."""
    from edgekit.report import print_parity

    keep_record(parity, out)
    print_record(parity, print_parity, as_json=as_json)
    return ExitCode.PASS


def show_harness(run: HarnessRun, out: Path | None, *, as_json: bool) -> int:
    """Scores of lm-evaluation-harness's tasks, and their record in `out`."""
    from edgekit.report import print_harness

    keep_record(run, out)
    print_record(run, print_harness, as_json=as_json)
    return ExitCode.PASS


def show_sweep(sweep: Sweep, folder: Path, *, as_json: bool) -> int:
    """The sweep's table and where its reports lie. 0 when one can ship, 1 when none may, 3 when it is not known."""
    from edgekit.pipeline.sweeping import exit_code
    from edgekit.report import print_sweep

    print_record(sweep, print_sweep, as_json=as_json)
    print(f"report: {folder / 'sweep.html'}", file=sys.stderr)  # noqa: T201
    return exit_code(sweep)


def show_comparison(comparison: Comparison, out: Path | None, markdown: Path | None, *, as_json: bool) -> None:
    """What became of the new build; its record in `out`, a table for a pull request in `markdown`."""
    from edgekit.report import print_comparison, render_comparison

    keep_record(comparison, out)
    if markdown is not None:
        with replacing(markdown) as temporary:
            temporary.write_text(render_comparison(comparison), encoding="utf-8")
    print_record(comparison, print_comparison, as_json=as_json)
