"""Records on disk: whole or not at all, never NaN, refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError
from edgekit.files import replacing
from edgekit.records import Estimate, Settings, Unknown, Workload, exact, weakest
from edgekit.storage import from_json, load_record, report_schema, to_json, write_record


def test_round_trip(tmp_path: Path) -> None:
    workload = Workload(settings=Settings(ubatch_tokens=128), depths=(1, 2))
    write_record(tmp_path / "workload.json", workload)
    assert load_record(tmp_path / "workload.json", Workload) == workload


def test_unknown_field_is_refused() -> None:
    text = to_json(exact(1.0, "measured")).replace('"value"', '"valve"')
    with pytest.raises(EdgekitError, match="value"):
        from_json(text, Estimate, origin="x.json")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"kind": "header"}', '{"value": NaN}', "null", "\x00"])
def test_not_a_record(text: str) -> None:
    with pytest.raises(EdgekitError, match=r"x\.json"):
        from_json(text, Estimate, origin="x.json")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_estimate_without_a_finite_range(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Estimate(value=1, low=0, high=bad, basis="measured")
    with pytest.raises(ValueError, match="within"):
        Estimate(value=3, low=0, high=2, basis="measured")
    with pytest.raises(EdgekitError):
        from_json('{"value": 1, "low": 2, "high": 3, "basis": "measured"}', Estimate, origin="x.json")


def test_half_written_file_vanishes(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    target.write_text("old")

    def interrupted() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgekitError, match="cannot write"), replacing(tmp_path / "file" / "out.json"):
        pass


def test_weakest_basis() -> None:
    assert weakest(("measured", "estimated", "projected")) == "estimated"


def test_unknown_keeps_its_reason() -> None:
    assert json.loads(to_json(Unknown(reason="no battery"))) == {"reason": "no battery", "settle": ""}


def test_schema_names_the_report() -> None:
    schema = report_schema()
    assert schema["properties"]["kind"]["const"] == "report"
    assert "Estimate" in schema["$defs"]


def test_extra_field_deep_inside_is_refused() -> None:
    text = to_json(Workload()).replace('"mmap"', '"mmapp": 1, "mmap"')
    with pytest.raises(EdgekitError, match="mmapp"):
        from_json(text, Workload, origin="x.json")


def test_other_version_is_refused() -> None:
    from edgekit.records import Quality

    unknown = Unknown(reason="x")
    quality = Quality(reference="r", perplexity=unknown, kld_mean=unknown, top1_agreement=unknown)
    with pytest.raises(EdgekitError, match="version"):
        from_json(to_json(quality).replace('"version": 1', '"version": 2'), Quality, origin="x.json")


@pytest.mark.parametrize(
    ("old", "new"), [('"heads": [\n    4,\n    4\n  ]', '"heads": []'), ('"hidden": 256', '"hidden": -5')]
)
def test_an_inconsistent_header_is_refused(old: str, new: str) -> None:
    from bench_fakes import header

    from edgekit.records import Header

    text = to_json(header())
    assert old in text
    with pytest.raises(EdgekitError, match="header"):
        from_json(text.replace(old, new), Header, origin="x.json")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_no_infinity_from_a_file(number: str) -> None:
    text = to_json(Workload()).replace('"timeout_s": 1800.0', f'"timeout_s": {number}')
    with pytest.raises(EdgekitError, match="timeout_s"):
        from_json(text, Workload, origin="x.json")


def test_an_integer_that_no_float_holds_is_refused() -> None:
    text = to_json(Settings())
    assert '"ubatch_tokens": 512' in text
    for digits in ("9" * 400, "1" + "0" * 19):
        with pytest.raises(EdgekitError, match="integer beyond"):
            from_json(text.replace('"ubatch_tokens": 512', f'"ubatch_tokens": {digits}'), Settings, origin="x.json")
    said = Unknown(reason="12345678901234567890 is a name")
    assert from_json(to_json(said), Unknown, origin="x.json") == said
