"""What a sweep that goes on may take from the one before: only what is the same as it would find now."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gate_records
import pytest
import test_gate_quality as gate_quality
from lineage_records import distillation
from report_records import REPORTS, header, quality

from edgekit.devices import load_device
from edgekit.errors import EdgekitError
from edgekit.pipeline import sweeping
from edgekit.pipeline.asking import Text
from edgekit.progress import silent
from edgekit.quantize import workshop
from edgekit.quantize.targets import parse_target
from edgekit.quantize.workshop import Making, Source
from edgekit.records import Lineage, Report, Workload
from edgekit.storage import write_record

TEXT = Text(content="the heron waits", origin="a test")
OLD = replace(quality(0.01), text_sha256=hashlib.sha256(TEXT.content.encode()).hexdigest())
FILLED = OLD.text_tokens // OLD.context_tokens


def kept(asked: int = FILLED, **changes: object) -> bool:
    return sweeping.same_text(replace(OLD, **changes), TEXT, asked, OLD.reference_sha256)  # type: ignore[arg-type]


def test_quality_of_the_same_chunks_is_kept() -> None:
    assert len(OLD.chunks) == FILLED
    assert kept()
    assert kept(asked=FILLED + 100), "the text fills no more"


@pytest.mark.parametrize(
    "changes",
    [
        {"edgekit_version": "0.0.1"},
        {"chunks": OLD.chunks[:2]},
        {"reference_sha256": "00" * 32},
        {"reference_sha256": ""},
        {"text_sha256": "00" * 32},
        {"context_tokens": 256},
        {"context_tokens": 0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_quality_of_anything_else_is_measured_anew(changes: dict[str, object]) -> None:
    assert not kept(**changes)


def test_fewer_chunks_than_before_are_measured_anew() -> None:
    assert not kept(asked=FILLED - 1)


def test_a_run_is_kept_for_the_threads_it_was_asked_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = REPORTS["pass"]()
    run = old.evidence.measurement
    assert run is not None
    artifact = replace(old.evidence.artifact, path=str(tmp_path / "m.gguf"))
    device = load_device("galaxy-s25")
    monkeypatch.setattr(sweeping, "_profiles", lambda _: {case.device_sha256 for case in old.evidence.cases})
    monkeypatch.setattr(sweeping, "__version__", old.evidence.edgekit_version)
    monkeypatch.setattr(sweeping, "bench", lambda *_, **__: iter([replace(old, exit_code=4)]))
    write_record(tmp_path / "m.gguf.galaxy-s25.report.json", old)
    judging = sweeping.Judging(name="galaxy-s25", device=device, workload=run.workload)
    asked = run.workload.settings.threads
    assert sweeping.benched(artifact, replace(judging, threads=asked)).exit_code == old.exit_code
    assert sweeping.benched(artifact, replace(judging, threads=asked + 1)).exit_code == 4


def test_the_rows_of_a_walk_are_held_against_its_own_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved answers that do not say whose they are pass no report of a walk, nor a row of its sweep."""
    known = gate_quality.quality(tasks=gate_quality.tasks(gate_quality.here(0.9, 0.9, 0.9)))
    mine = gate_records.evidence()
    run = Report(evidence=mine, verdicts=(), exit_code=0)
    monkeypatch.setattr(workshop, "make_target", lambda *_, **__: SimpleNamespace(path=str(tmp_path / "m.gguf")))
    monkeypatch.setattr(sweeping, "open_artifact", lambda *_, **__: mine.artifact)
    monkeypatch.setattr(sweeping, "benched", lambda *_: run)
    monkeypatch.setattr(sweeping, "rescored", lambda found: found)
    monkeypatch.setattr(sweeping, "gather", lambda *_, quality, **__: replace(mine, quality=quality))
    device = gate_records.phone(gates=gate_records.gates(gate_records.RETENTION))

    def judged(lineage: Lineage | None) -> str:
        appraisal = sweeping.Appraisal(measure=lambda *_: known, holds=lambda *_: False, lineage=lineage)
        judging = sweeping.Judging(name="phone", device=device, workload=Workload())
        source = Source(path=tmp_path, name="m", sha256="aa" * 32)
        job = sweeping._Job(
            source=source, base=mine.artifact, folder=tmp_path, making=Making(), judging=judging, appraisal=appraisal
        )
        report = sweeping._row(job, parse_target("gguf:q4_0"), silent).report
        assert report.evidence.lineage == lineage
        return report.verdicts[0].status

    assert judged(None) == "pass"
    assert judged(Lineage(distillation=distillation())) == "unknown"


def quantizing(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    def write(base: Path, out: Path, *_: object, **__: object) -> Path:
        out.write_bytes(content)
        return out

    monkeypatch.setattr("edgekit.quantize.llama_quantize.quantize_gguf", write)


def test_only_what_edgekit_left_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the user's that has the same name stands; an own one that was made in another way is made anew."""
    source = Source(path=tmp_path / "m.gguf", name="m", sha256="aa" * 32, header=header())
    target, place = parse_target("gguf:q8_0"), tmp_path / "m-q8_0.gguf"
    place.write_bytes(b"the user's")
    quantizing(monkeypatch, b"first")
    with pytest.raises(EdgekitError, match="exists"):
        workshop.make_target(source, target, tmp_path, Making(), resume=True)
    assert place.read_bytes() == b"the user's"
    place.unlink()
    workshop.make_target(source, target, tmp_path, Making(), resume=True)
    quantizing(monkeypatch, b"second")
    workshop.make_target(source, target, tmp_path, Making(), resume=True)
    assert place.read_bytes() == b"first"
    workshop.make_target(source, target, tmp_path, Making(pure=True), resume=True)
    assert place.read_bytes() == b"second"


def test_an_intermediate_of_this_source_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another calibration text in the same folder: there is no `--force` that a sweep could be told."""

    def compute(base: Path, text: str, out: Path, **_: object) -> Path:
        out.write_text(text)
        return out

    monkeypatch.setattr("edgekit.quantize.imatrix.compute_imatrix", compute)
    source = Source(path=tmp_path / "m.gguf", name="m", sha256="aa" * 32, header=header())
    for text in ("one", "another"):
        place = workshop.importance(source, source.path, tmp_path, Making(calibration=text))
        assert place is not None
        assert place.read_text() == text
    other = replace(source, sha256="bb" * 32)
    with pytest.raises(EdgekitError, match="exists"):
        workshop.importance(other, other.path, tmp_path, Making(calibration="a third"))


def test_a_job_killed_while_it_replaces_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file is neither taken for the new one nor for the user's."""
    source = Source(path=tmp_path / "m.gguf", name="m", sha256="aa" * 32, header=header())
    target, place = parse_target("gguf:q8_0"), tmp_path / "m-q8_0.gguf"
    quantizing(monkeypatch, b"first")
    workshop.make_target(source, target, tmp_path, Making(), resume=True)

    def stopped(*_: object, **__: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgekit.quantize.llama_quantize.quantize_gguf", stopped)
    with pytest.raises(KeyboardInterrupt):
        workshop.make_target(source, target, tmp_path, Making(pure=True), resume=True)
    quantizing(monkeypatch, b"again")
    workshop.make_target(source, target, tmp_path, Making(), resume=True)
    assert place.read_bytes() == b"again"
