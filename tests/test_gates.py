"""Gates tables: what is read, what is refused, and what the hash depends on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError
from edgekit.gate.gates import MAX_GATES_BYTES, load_gates
from edgekit.records import Gate, Gates, Waiver

GOOD = """
[gates]
decode_tokens_per_s = { min = 50, min_basis = "measured", source = "spec table" }
memory_bytes = { max = 1.2e9 }
sustained_decode_tokens_per_s = { min = 50, level = "advisory" }

[[waivers]]
metric = "decode_tokens_per_s"
until = 2027-03-31
reason = "kernel fix lands in March"
"""


def gates_from(tmp_path: Path, text: str) -> Gates:
    path = tmp_path / "gates.toml"
    path.write_text(text, encoding="utf-8")
    return load_gates(path)


def test_every_field_is_read(tmp_path: Path) -> None:
    gates = gates_from(tmp_path, GOOD)
    assert gates.gates == (
        Gate(metric="decode_tokens_per_s", min=50.0, min_basis="measured", source="spec table"),
        Gate(metric="memory_bytes", max=1.2e9),
        Gate(metric="sustained_decode_tokens_per_s", min=50.0, level="advisory"),
    )
    waiver = Waiver(metric="decode_tokens_per_s", until="2027-03-31", reason="kernel fix lands in March")
    assert gates.waivers == (waiver,)
    assert gates.origin.endswith("gates.toml")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("min = 50,", "min = 50.0,"),
        ("1.2e9", "1_200_000_000"),
        ("until = 2027-03-31", 'until = "2027-03-31"'),
        ('"spec table"', '"another page"'),
        ("[gates]", "# a comment\n\n[gates]"),
        ("memory_bytes = { max = 1.2e9 }\n", ""),
    ],
)
def test_the_hash_ignores_formatting(tmp_path: Path, old: str, new: str) -> None:
    text = GOOD.replace(old, new)
    if new == "":  # moved to the end of its table
        text = text.replace("\n[[waivers]]", "memory_bytes = { max = 1.2e9 }\n\n[[waivers]]")
    assert text != GOOD
    assert gates_from(tmp_path, text).sha256 == gates_from(tmp_path, GOOD).sha256


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("min = 50,", "min = 49.999,"),
        ('level = "advisory"', 'level = "required"'),
        (', min_basis = "measured"', ""),
        ("2027-03-31", "2027-04-01"),
        ("lands in March", "lands in May"),
    ],
)
def test_the_hash_sees_what_judges(tmp_path: Path, old: str, new: str) -> None:
    assert gates_from(tmp_path, GOOD.replace(old, new)).sha256 != gates_from(tmp_path, GOOD).sha256


BAD = {
    "no gates": ("", "has no gates"),
    "misspelt metric": ("[gates]\ndecode_token_per_s = { min = 50 }", "unknown metric"),
    "misspelt key": ("[gates]\ndecode_tokens_per_s = { mim = 50 }", "unknown key"),
    "no limit": ("[gates]\ndecode_tokens_per_s = { level = 'advisory' }", "exactly one of"),
    "both limits": ("[gates]\ndecode_tokens_per_s = { min = 60, max = 50 }", "exactly one of"),
    "a floor under memory": ("[gates]\nmemory_bytes = { min = 1.2e9 }", "better when lower"),
    "negative": ("[gates]\ndecode_tokens_per_s = { min = -1 }", "at least 0"),
    "nan": ("[gates]\ndecode_tokens_per_s = { min = nan }", "finite"),
    "infinite": ("[gates]\nmemory_bytes = { max = inf }", "finite"),
    "text for a number": ("[gates]\nmemory_bytes = { max = '1.2 GB' }", "must be a number"),
    "true for a number": ("[gates]\nmemory_bytes = { max = true }", "must be a number"),
    "not a table": ("[gates]\nmemory_bytes = 1.2e9", "must be a table"),
    "unknown level": ("[gates]\nmemory_bytes = { max = 1, level = 'must' }", "cannot be `must`"),
    "unknown basis": ("[gates]\nmemory_bytes = { max = 1, min_basis = 'measurd' }", "cannot be `measurd`"),
    "a device profile": ("title = 'x'\n[gates]\nmemory_bytes = { max = 1 }", "unknown key"),
    "gates is a list": ("gates = [1]", "must be a table"),
    "waives nothing": (GOOD.replace('metric = "decode', 'metric = "prefill'), "without a gate"),
    "no date": (GOOD.replace("until = 2027-03-31\n", ""), "lacks a key: `until`"),
    "not a date": (GOOD.replace("2027-03-31", '"next spring"'), "must be a date"),
    "a moment, no date": (GOOD.replace("2027-03-31", "2027-03-31T10:00:00"), "must be text"),
    "a waiver for ever": (GOOD.replace("2027-03-31", "2999-01-01"), "two years ahead"),
    "zero": ("[gates]\ndecode_tokens_per_s = { min = 0 }", "above zero"),
    "percent": ("[gates]\nquality_retention = { min = 80 }", "is a fraction"),
    "no reason": (GOOD.replace('reason = "kernel fix lands in March"\n', ""), "lacks a key: `reason`"),
    "an empty reason": (GOOD.replace("kernel fix lands in March", " "), "empty key: `reason`"),
    "two waivers of a metric": (GOOD + GOOD[GOOD.index("[[waivers]]") :], "waived twice"),
    "not TOML": ("[gates\n", "not valid TOML"),
    "escapes for the terminal": (GOOD.replace("kernel", "\\u001b[31mkernel"), "control characters"),
    "nested without end": ("a = " + "[" * 5000, "nested too deeply|not valid TOML"),
    "a number without end": ("[gates]\nmemory_bytes = { max = 1" + "0" * 5000 + " }", "not valid TOML|at most"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(tmp_path: Path, name: str) -> None:
    text, message = BAD[name]
    with pytest.raises(EdgekitError, match=message) as raised:
        gates_from(tmp_path, text)
    assert "\n" not in raised.value.message
    assert not raised.value.message.endswith(".")


def test_a_misspelt_metric_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError) as raised:
        gates_from(tmp_path, "[gates]\nquality_retension = { min = 0.8 }")
    assert "`quality_retention`" in raised.value.hint


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "too large", "not UTF-8"])
def test_unreadable_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "gates.toml"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "too large":
        path.write_bytes(b"#" * (MAX_GATES_BYTES + 1))
    elif kind == "not UTF-8":
        path.write_bytes(b"# \xff\n")
    with pytest.raises(EdgekitError, match=r"gates file"):
        load_gates(path)
