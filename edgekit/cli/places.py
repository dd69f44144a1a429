"""Where results go: tried before the work, refused where something is already there. Loaded by verbs only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.files import replacing
from edgekit.records import Report

RESULTS = "edgekit-results"
REPORT_FILES = {"html": "report.html", "markdown": "report.md", "junit": "junit.xml"}


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
