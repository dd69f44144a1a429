"""The claims audit: physics' arithmetic, three findings, and files that say what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.claims import ClaimResult, audit, exit_code
from edgekit.errors import EdgekitError, ExitCode
from edgekit.shapes import SHAPES, plan_header
from edgekit.storage import from_json, to_json

CLAIMS = Path(__file__).parent.parent / "benchmarks" / "claims"
HEAD = '[[claims]]\nname = "a claim"\nsource = "a page"\n'


def judged(tmp_path: Path, body: str) -> ClaimResult:
    path = tmp_path / "claims.toml"
    path.write_text(HEAD + body, encoding="utf-8")
    results = audit(path)
    return results[0]


def test_the_worked_example_is_impossible_by_13_6() -> None:
    (result,) = audit(CLAIMS / "phone-2800.toml")
    assert result.finding == "impossible"
    assert result.factor == pytest.approx(2800 / (51e9 / 248e6))
    assert "IMPOSSIBLE by 13.6×" in str(result)
    assert "51.00 GB/s ÷ 248 MB = 206 tok/s" in str(result)
    assert exit_code([result]) is ExitCode.FAIL


def test_the_spec_targets_are_audited() -> None:
    results = audit(CLAIMS / "spec-targets.toml")
    assert len(results) == 12
    assert {result.figure for result in results} == {
        "memory_bytes",
        "decode_tokens_per_s",
        "hours",
        "quality_retention",
    }
    assert not [result for result in results if result.finding == "impossible"], "the gates ask for nothing impossible"
    assert all(result.finding == "cannot say" for result in results if result.figure == "quality_retention")
    assert exit_code(results) is ExitCode.UNKNOWN


@pytest.mark.parametrize(
    ("rate", "finding"),
    [(9.9, "possible"), (10, "possible"), (10.4, "cannot say"), (10.6, "impossible"), (1000, "impossible")],
)
def test_decode_is_bound_by_bandwidth(tmp_path: Path, rate: float, finding: str) -> None:
    body = f"bytes_per_token = 1e9\nbandwidth_bytes_per_s = 10e9\nclaimed = {{ decode_tokens_per_s = {rate} }}"
    result = judged(tmp_path, body)
    assert result.finding == finding
    assert result.bound == 10
    assert result.factor == pytest.approx(rate / 10)


def test_the_kv_cache_is_read_with_the_weights(tmp_path: Path) -> None:
    body = (
        "bytes_per_token = 1e9\nbandwidth_bytes_per_s = 10e9\nkv_bytes_per_token = 1e5\ndepth_tokens = 10000\n"
        "claimed = { decode_tokens_per_s = 9 }"
    )
    result = judged(tmp_path, body)
    assert result.bound == 5
    assert result.finding == "impossible"
    assert any("KV of 10000 tokens" in line for line in result.arithmetic)


def test_tokens_per_pass_raise_the_bound(tmp_path: Path) -> None:
    body = (
        "parameters = 2e9\nbits_per_weight = 4\nbandwidth_bytes_per_s = 10e9\ntokens_per_pass = 3\n"
        "claimed = { decode_tokens_per_s = 29 }"
    )
    result = judged(tmp_path, body)
    assert result.bound == 30
    assert result.finding == "possible"
    assert "2e+09 parameters × 4 bits ÷ 8 = 1.00 GB" in result.arithmetic[0]


def test_a_range_of_devices_cannot_settle_what_lies_within(tmp_path: Path) -> None:
    model = 'bytes_per_token = 1e9\ndevice = "smartphone"\n'
    found = [
        judged(tmp_path, f"{model}claimed = {{ decode_tokens_per_s = {rate} }}").finding for rate in (20, 60, 1000)
    ]
    assert found == ["possible", "cannot say", "impossible"]


def test_what_the_claim_states_wins_over_the_profile(tmp_path: Path) -> None:
    body = 'bytes_per_token = 1e9\ndevice = "smartphone"\nbandwidth_bytes_per_s = 2e9\nbattery_wh = 4\n'
    assert judged(tmp_path, body + "claimed = { decode_tokens_per_s = 3 }").bound == 2
    hours = audit_figure(tmp_path, body + "claimed = { hours = 1, decode_tokens_per_s = 2 }", "hours")
    assert "4 Wh ÷ 1 h = 4 W" in hours.arithmetic[0]


def audit_figure(tmp_path: Path, body: str, figure: str) -> ClaimResult:
    judged(tmp_path, body)
    return next(result for result in audit(tmp_path / "claims.toml") if result.figure == figure)


@pytest.mark.parametrize(
    ("claimed", "finding"), [(1.0e9, "impossible"), (1.09e9, "cannot say"), (1.2e9, "possible"), (5e8, "impossible")]
)
def test_memory_holds_weights_and_cache(tmp_path: Path, claimed: float, finding: str) -> None:
    body = "weights_bytes = 1e9\nkv_bytes_per_token = 1e5\ncontext_tokens = 1000\n"
    result = judged(tmp_path, f"{body}claimed = {{ memory_bytes = {claimed} }}")
    assert result.finding == finding
    assert result.bound == pytest.approx(1.1e9)
    assert result.factor == pytest.approx(1.1e9 / claimed)


def test_a_shape_brings_its_weights_cache_and_logits(tmp_path: Path) -> None:
    body = 'shape = "nano-1.5b"\nquant = "q4_0"\ncontext_tokens = 4096\nclaimed = { memory_bytes = 2e9 }'
    kv, logits = 4096 * 2 * 28 * 2 * 128 * 2, 151_936 * 4
    half = judged(tmp_path, body)
    weights = plan_header(SHAPES["nano-1.5b"], "q4_0").size_bytes
    assert half.bound == weights + kv + logits
    eighth = judged(tmp_path, 'kv_type = "q8_0"\n' + body)
    assert half.bound - eighth.bound == pytest.approx(kv * (1 - 17 / 32))  # type: ignore[operator]


def test_an_untied_embedding_is_not_streamed(tmp_path: Path) -> None:
    body = 'shape = "base-7b"\nquant = "q8_0"\nbandwidth_bytes_per_s = 1e11\nclaimed = { decode_tokens_per_s = 1 }'
    table = 152_064 * 3584 * 34 / 32
    assert judged(tmp_path, body).bound == pytest.approx(1e11 / (8092.6e6 - table), rel=1e-3)


@pytest.mark.parametrize(("hours", "finding"), [(2, "possible"), (4, "cannot say"), (20, "impossible")])
def test_memory_reads_alone_empty_the_battery(tmp_path: Path, hours: float, finding: str) -> None:
    # 50 GB/s: 3.2 W at 8 pJ/bit, 5.6 W at 14
    body = f"bytes_per_token = 1e9\nbattery_wh = 16\nclaimed = {{ decode_tokens_per_s = 50, hours = {hours} }}"
    result = audit_figure(tmp_path, body, "hours")
    assert result.finding == finding
    assert result.bound == pytest.approx(5)
    assert result.factor == pytest.approx(3.2 / (16 / hours))


def test_prefill_is_bound_by_arithmetic(tmp_path: Path) -> None:
    body = "parameters = 1e9\noperations_per_s = 2e12\nclaimed = { prefill_tokens_per_s = 3000 }"
    result = judged(tmp_path, body)
    assert (result.finding, result.bound, result.factor) == ("impossible", 1000, 3)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("bandwidth_bytes_per_s = 1e9\nclaimed = { decode_tokens_per_s = 50 }", "no the model"),
        ("bytes_per_token = 1e9\nclaimed = { decode_tokens_per_s = 50 }", "no memory bandwidth"),
        ("claimed = { memory_bytes = 1e9 }", "no size"),
        ("claimed = { hours = 4 }", "no battery (Wh) and no model (bytes per token) and no speed"),
        ("claimed = { prefill_tokens_per_s = 4 }", "no parameters"),
        ("claimed = { quality_retention = 0.9 }", "against the teacher"),
    ],
)
def test_what_is_not_stated_is_not_judged(tmp_path: Path, body: str, reason: str) -> None:
    result = judged(tmp_path, body)
    assert result.finding == "cannot say"
    assert reason in result.reason
    assert result.factor is None
    assert exit_code([result]) is ExitCode.UNKNOWN


def test_results_are_records(tmp_path: Path) -> None:
    result = judged(tmp_path, "bytes_per_token = 1e9\nbandwidth_bytes_per_s = 1e9\nclaimed = {decode_tokens_per_s = 1}")
    assert from_json(to_json(result), ClaimResult, origin="test") == result
    assert exit_code([result]) is ExitCode.PASS


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[[", ("not valid TOML",)),
        ("", ("holds no claim",)),
        ("claims = 3", ("array of tables",)),
        ("[[claimz]]", ("`claimz`", "did you mean `claims`")),
        ('[[claims]]\nsource = "x"', ("claim 1", "`name`")),
        ('[[claims]]\nname = "x"\nclaimed = {hours = 1}', ("claim `x`", "`source`")),
        (HEAD, ("claims nothing",)),
        (HEAD + "claimed = {}", ("claims nothing",)),
        (HEAD + "claimed = {tokens = 1}", ("`claimed`", "`tokens`")),
        (HEAD + "claimed = {decode_token_per_s = 1}", ("did you mean `decode_tokens_per_s`",)),
        (HEAD + "claimed = {hours = -1}", ("`hours`", "at least", "-1")),
        (HEAD + "claimed = {hours = nan}", ("`hours`", "finite")),
        (HEAD + 'claimed = {hours = "4"}', ("`hours`", "number")),
        (HEAD + "claimed = {hours = 1}\nbandwith_bytes_per_s = 1e9", ("did you mean `bandwidth_bytes_per_s`",)),
        (HEAD + "claimed = {hours = 1}\nbandwidth_bytes_per_s = 51", ("`bandwidth_bytes_per_s`", "at least", "51")),
        (HEAD + "claimed = {hours = 1}\nbytes_per_token = 0", ("`bytes_per_token`", "at least")),
        (HEAD + "claimed = {hours = 1}\ncontext_tokens = 1.5", ("`context_tokens`", "whole")),
        (HEAD + 'claimed = {hours = 1}\nshape = "nano-1.5b"', ("`shape` and `quant`", "lacks `quant`")),
        (HEAD + 'claimed = {hours = 1}\nshape = "nano-9b"\nquant = "q4_0"', ("`nano-9b`", "known shapes")),
        (HEAD + 'claimed = {hours = 1}\nshape = "nano-1.5b"\nquant = "q4_9"', ("`q4_9`", "known types")),
        (HEAD + 'claimed = {hours = 1}\nshape = "tiny"\nquant = "q4_0"\nbytes_per_token = 1e9', ("twice",)),
        (HEAD + 'claimed = {hours = 1}\ndevice = "smartfone"', ("`device`", "smartfone", "smartphone")),
        (HEAD + 'claimed = {hours = 1}\nkv_type = "q3"', ("`kv_type`", "q3")),
    ],
)
def test_bad_files_name_file_claim_and_key(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(EdgekitError) as caught:
        audit(path)
    said = f"{caught.value.message} {caught.value.hint}"
    assert "bad.toml" in said
    assert "\n" not in caught.value.message
    for part in parts:
        assert part in said


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match=r"does not exist: `.*none\.toml`"):
        audit(tmp_path / "none.toml")
