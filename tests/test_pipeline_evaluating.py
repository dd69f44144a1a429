"""How quality reaches a report of `bench`: shared by devices that judge alike, told when it broke."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from bench_fakes import artifact
from breakages import broken, changed_template, dropped_template

from edgekit import corpus
from edgekit.errors import EdgekitError, ExitCode
from edgekit.pipeline import bench, broke
from edgekit.pipeline import evaluating as module
from edgekit.pipeline.asking import Asked, Prepared, Text
from edgekit.pipeline.evaluating import appraise_or_tell
from edgekit.records import Artifact, Quality, Settings, Unknown, Workload
from edgekit.shapes import cached_stand_in

NOTHING = Unknown(reason="not asked")
PARTS = Quality(reference="", perplexity=NOTHING, kld_mean=NOTHING, top1_agreement=NOTHING)


def failing(code: ExitCode) -> Callable[..., Quality]:
    def appraise(*arguments: object, **options: object) -> Quality:
        raise EdgekitError("it ended", hint="try again", code=code)

    return appraise


def test_a_run_that_breaks_is_a_fault_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "appraise", failing(ExitCode.BROKE))
    quality = appraise_or_tell(artifact(), Settings(), Prepared(asked=Asked()))
    assert [(finding.level, finding.message) for finding in quality.findings] == [("fault", "it ended")]
    assert isinstance(quality.kld_mean, Unknown)


def test_bad_input_stays_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "appraise", failing(ExitCode.USAGE))
    with pytest.raises(EdgekitError, match="it ended"):
        appraise_or_tell(artifact(), Settings(), Prepared(asked=Asked()))


@pytest.mark.slow
def test_devices_that_judge_alike_share_one_evaluation(tmp_path: Path) -> None:
    """Two phones judge the same KV type; a third configuration is another question."""
    model = cached_stand_in("tiny", "q4_0")
    asked: list[Settings] = []

    def appraise(opened: Artifact, settings: Settings) -> Quality:
        asked.append(settings)
        return replace(PARTS, artifact_sha256=opened.sha256, settings=settings)

    workload = Workload(prompt_tokens=(8,), generated_tokens=(4,), depths=(), repetitions_max=10)
    reports = list(bench(model, ["pixel-8", "galaxy-s25"], workload=workload, appraise=appraise))
    assert len(asked) == 1
    assert all(report.evidence.quality is not None for report in reports)
    assert not any(broke(report.evidence) for report in reports)


@pytest.mark.parametrize(
    ("changed", "is_parent"),
    [({}, True), ({"hidden": 512}, False), ({"heads": (8, 8)}, False)],
)
def test_a_teacher_of_another_shape_is_nobodys_parent(changed: dict[str, object], is_parent: bool) -> None:
    ours = artifact()
    theirs = replace(ours, sha256="22" * 32, header=replace(ours.header, **changed))  # type: ignore[arg-type]
    assert module._is_parent(theirs, ours) is is_parent


def test_a_saved_reference_tells_of_its_template(tiny_gguf: Path, tmp_path: Path) -> None:
    """Its model is gone, and what was lost is found all the same; a reference that does not tell is believed neither
    way.
    """
    parent = broken(tiny_gguf, changed_template, tmp_path / "parent.gguf")
    text = Text(content=corpus.text("evaluation", characters=4000), origin="text")
    asked = Asked(text=text, context_tokens=64, chunks=2, threads=2)
    kept = module.save_reference(parent, asked, tmp_path / "kept.ref")
    assert kept.templates is not None
    assert [name for name, _ in kept.templates] == ["default"]

    without = broken(tiny_gguf, dropped_template, tmp_path / "without.gguf")
    for build, status in ((parent, "same"), (tiny_gguf, "changed"), (without, "lost")):
        template = module.evaluate(build, replace(asked, reference=tmp_path / "kept.ref")).template
        assert template is not None
        assert (template.status, template.parent) == (status, "parent.gguf")
    opened = module.open_artifact(tiny_gguf)
    assert module._template(opened, replace(kept, templates=None)) is None
    assert not module._is_parent(replace(kept, shape_sha256=""), opened)
