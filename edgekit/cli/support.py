"""What the verbs of `cli` share: reading options, places for results, progress, and printing. Loaded by verbs only."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edgekit.errors import EdgekitError, ExitCode
from edgekit.files import replacing
from edgekit.gate.gates import load_gates
from edgekit.pipeline import Intent, Overrides
from edgekit.progress import Progress, silent
from edgekit.records import Evidence, Gates, Report, Workload
from edgekit.units import format_bytes, format_duration

RESULTS = "edgekit-results"
REPORT_FILES = {"html": "report.html", "markdown": "report.md", "junit": "junit.xml"}

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?")
_SECONDS = {None: 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(text: str, option: str) -> float:
    """`90`, `90s`, `10m`, `1.5h` → seconds. Raises EdgekitError naming the option."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise EdgekitError(f"not a duration for `{option}`: `{text[:40]}`", hint="write it as `90s`, `10m` or `1h`")
    if float(match[1]) <= 0:
        raise EdgekitError(f"`{option}` must be longer than nothing: `{text[:40]}`")
    return float(match[1]) * _SECONDS[match[2]]


def workload(
    *, quick: bool, thorough: bool, sustained: str, timeout: str, max_repetitions: int | None = None
) -> Workload:
    """The preset the flags name, with its durations."""
    from dataclasses import replace

    from edgekit.bench import PRESETS

    if quick and thorough:
        raise EdgekitError("choose one of `--quick` and `--thorough`")
    preset = PRESETS["quick" if quick else "thorough" if thorough else "default"]
    return replace(
        preset,
        sustained_s=seconds(sustained, "--sustained") if sustained else 0.0,
        timeout_s=seconds(timeout, "--timeout"),
        repetitions_max=min(max_repetitions or preset.repetitions_max, preset.repetitions_max),
    )


def overrides(
    context: int | None,
    batch: int | None,
    ubatch: int | None,
    kv_type: str | None,
    flash_attention: str | None,
    mmap: bool | None,
    repack: bool | None,
    threads: int | None,
    output_rows: int | None,
) -> Overrides:
    """The settings flags that were given. Raises EdgekitError where two of them contradict."""
    if kv_type in ("q8_0", "q4_0") and flash_attention == "off":
        raise EdgekitError(
            f"a quantized KV cache needs flash attention: `--kv-type {kv_type} --flash-attention off`",
            hint="drop one of the two",
        )
    return Overrides(
        context_tokens=context,
        batch_tokens=batch,
        ubatch_tokens=ubatch,
        kv_type=kv_type,
        flash_attention=flash_attention,
        mmap=mmap,
        repack=repack,
        threads=threads,
        output_rows=output_rows,
    )


def one_device(names: Sequence[str]) -> str:
    """The only device named. Raises EdgekitError for none or several."""
    if len(names) != 1:
        found = "no device named" if not names else f"`fit` answers for one device at a time: `{', '.join(names)}`"
        raise EdgekitError(found, hint="give one `--device`; `edgekit devices` lists the profiles")
    return names[0]


def gates(path: Path | None) -> Gates | None:
    """The gates file of `--gates`, if any."""
    return load_gates(path) if path else None


def load_evidence(path: Path) -> Evidence:
    """Evidence from its own file or from within a report."""
    from edgekit.storage import from_json, read_bounded

    text = read_bounded(path)
    try:
        kind = json.loads(text).get("kind")
    except (ValueError, AttributeError, RecursionError):
        kind = None  # the next line says what is wrong with it
    return (
        from_json(text, Report, origin=str(path)).evidence
        if kind == "report"
        else from_json(text, Evidence, origin=str(path))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the reports go. Prepared before the work, so that an unwritable folder costs no measurement.

    `folder` is the user's `--out`, or `None` for a dated folder under `./edgekit-results`; `wanted` is false for verbs
    that write no folder unless asked.
    """

    folder: Path | None
    wanted: bool
    extra: tuple[tuple[str, Path], ...]

    @staticmethod
    def prepare(
        out: Path | None, *, junit: Path | None, markdown: Path | None, html: Path | None, wanted: bool = True
    ) -> Places:
        """Try every place; refuse a folder that already holds a report, so that nothing is overwritten silently."""
        extra = tuple((k, p) for k, p in (("junit", junit), ("markdown", markdown), ("html", html)) if p)
        folders = [path.parent for _, path in extra] + ([out or Path(RESULTS)] if wanted else [])
        for folder in folders:
            ensure_writable(folder)
        if out and any((folder / "report.json").exists() for folder in (out, *out.glob("*/"))):
            raise EdgekitError(f"a report is already there: `{out}`", hint="choose another folder with `--out`")
        for _, path in extra:
            if path.exists():
                raise EdgekitError(f"file exists: `{path}`", hint="edgekit overwrites nothing: remove it first")
        return Places(folder=out, wanted=wanted, extra=extra)

    def write(self, report: Report, *, among: int) -> list[Path]:
        """Write a report in every format; returns the files a person opens. `among` is how many devices are judged."""
        from edgekit.report import render

        written = []
        for kind, path in self.extra:
            target = path if among == 1 else path.with_stem(f"{path.stem}-{report.verdicts[0].device}")
            _write_text(target, render(report, kind))
            written.append(target)
        if self.wanted:
            written.append(self._write_folder(report, alone=among == 1) / REPORT_FILES["html"])
        return written

    def _write_folder(self, report: Report, *, alone: bool) -> Path:
        from edgekit.report import render
        from edgekit.storage import write_record

        folder = self._folder_of(report, alone=alone)
        write_record(folder / "evidence.json", report.evidence)
        write_record(folder / "report.json", report)
        for kind, name in REPORT_FILES.items():
            _write_text(folder / name, render(report, kind))
        return folder

    def _folder_of(self, report: Report, *, alone: bool) -> Path:
        device = report.verdicts[0].device
        if self.folder is not None:
            return self.folder if alone else self.folder / device
        artifact = re.sub(r"[^\w.-]+", "_", Path(report.evidence.artifact.path).stem)[:60]
        stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
        return Path(RESULTS) / f"{stamp}-{artifact}-{device}"


def ensure_writable(folder: Path) -> None:
    """Prove that a file can be written in `folder`; one that did not exist is not left behind."""
    existed = folder.exists()
    probe = folder / ".edgekit-probe"
    with replacing(probe) as temporary:
        temporary.write_text("")
    probe.unlink()
    if not existed:
        folder.rmdir()


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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


def show_plan(intents: Sequence[Intent]) -> int:
    """What would run and for how long, on stdout."""
    for intent in intents:
        lines = [f"{intent.artifact} for {intent.device}: {len(intent.processes)} worker processes"]
        if intent.to_write_bytes:
            lines.append(f"write the stand-in first unless it is cached: {format_bytes(intent.to_write_bytes)}")
        lines += [f"process {number}: {', '.join(tests)}" for number, tests in enumerate(intent.processes, start=1)]
        lines += [f"settings: {', '.join(f'{k}={getattr(intent.settings, k)}' for k in intent.settings.__slots__)}"]
        lines += [f"note: {note}" for note in intent.notes]
        low, high = format_duration(intent.low_s), format_duration(intent.high_s)
        lines.append(f"expected: {low} to {high}, and up to 50 more repetitions a test while its median is unsettled")
        print("\n  ".join(lines))  # noqa: T201
    return ExitCode.PASS


@contextmanager
def progress(*, quiet: bool) -> Iterator[Progress]:
    """Progress on stderr: a bar on a terminal, a line per stage in a log, nothing when quiet."""
    if quiet:
        yield silent
        return
    if not sys.stderr.isatty():
        yield _StageLines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:<24}"), BarColumn(), TextColumn("{task.fields[detail]}"))
    with Bars(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bars:
        yield _StageBars(bars, bars.add_task("starting", total=None, detail=""))


class _StageLines:
    """One line when a stage begins: what a CI log wants."""

    def __init__(self) -> None:
        self.stage = ""

    def __call__(self, stage: str, done: float, total: float, detail: str = "") -> None:
        if stage != self.stage:
            self.stage = stage
            print(f"{stage} …", file=sys.stderr, flush=True)  # noqa: T201


class _StageBars:
    """One bar that takes the name of the stage at work."""

    def __init__(self, bars: object, task: object) -> None:
        self.bars, self.task = bars, task

    def __call__(self, stage: str, done: float, total: float, detail: str = "") -> None:
        self.bars.update(self.task, description=stage, completed=done, total=total or None, detail=detail)  # type: ignore[attr-defined]
