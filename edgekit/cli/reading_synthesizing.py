"""What the options of synthesize mean, and what it prints. Loaded by the verb only."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit import corpus
from edgekit.cli.showing import print_record
from edgekit.errors import EdgekitError, ExitCode
from edgekit.pipeline.synthesizing import Foreseen
from edgekit.records.synthesis import DomainYield, SynthesisReport
from edgekit.tables import nearest
from edgekit.units import format_rate

if TYPE_CHECKING:
    from rich.console import Console


def domains(names: Sequence[str]) -> tuple[str, ...]:
    """The domains named, each once; all where none is. Raises EdgekitError with the nearest known one."""
    for name in names:
        if name not in corpus.DOMAINS:
            raise EdgekitError(f"unknown domain: `{name[:40]}`", hint=nearest(name, corpus.DOMAINS))
    return tuple(dict.fromkeys(names)) or corpus.DOMAINS


def shard(text: str) -> tuple[int, int]:
    """`1/4` → (0, 4). Raises EdgekitError."""
    which, _, of = text.partition("/")
    if not (which.isdecimal() and of.isdecimal() and 1 <= int(which) <= int(of) <= 4096):
        raise EdgekitError(f"not a shard: `{text[:40]}`", hint="write the first of four as `--shard 1/4`")
    return int(which) - 1, int(of)


def show_foreseen(foreseen: Foreseen, *, as_json: bool) -> int:
    """What would be asked, on stdout."""
    print_record(foreseen, _print_foreseen, as_json=as_json)
    if not as_json:
        _note_unasked(foreseen.too_long, foreseen.held_out)
    return ExitCode.PASS


def show_report(report: SynthesisReport, *, as_json: bool) -> int:
    """What was written, on stdout; the last line is the file. Exit code 1 where nothing of it is usable."""
    print_record(report, _print_report, as_json=as_json)
    if report.generated:
        rate = format_rate(report.generated / max(report.seconds, 1e-9))
        print(f"note: {report.generated} tokens in {report.seconds:.0f} s ({rate})", file=sys.stderr)  # noqa: T201
    _note_unasked(report.too_long, report.held_out)
    if not report.usable:
        print("note: none of the samples is right or agreed on", file=sys.stderr)  # noqa: T201
        return ExitCode.FAIL
    return ExitCode.PASS


def _print_foreseen(foreseen: Foreseen, console: Console) -> None:
    console.out(
        f"questions: {foreseen.questions}, samples: {foreseen.samples}, batches: {foreseen.batches}\n"
        f"  the teacher reads {foreseen.read_tokens} tokens and writes {foreseen.written_tokens} at most",
        highlight=False,
    )


def _print_report(report: SynthesisReport, console: Console) -> None:
    for domain in report.domains:
        console.out(f"{domain.domain}: {_said(domain)}", highlight=False)
    console.out(report.path, highlight=False)


def _said(domain: DomainYield) -> str:
    parts = [f"{domain.questions} questions, {domain.samples} different samples"]
    parts += [f"{domain.correct} of {domain.checked} right"] if domain.checked else []
    others = domain.samples - domain.checked
    parts += [f"{domain.agreed} of {others} agreed on"] if others else []
    return ", ".join(parts)


def _note_unasked(too_long: int, held_out: int) -> None:
    if too_long:
        print(f"note: {too_long} questions are too long for the teacher's context", file=sys.stderr)  # noqa: T201
    if held_out:
        print(f"note: {held_out} questions are asked in evaluations and were left out", file=sys.stderr)  # noqa: T201
