"""Claims against physics: is a stated speed, memory or battery life possible at all?

Every verdict rests on a bound that no implementation can pass, computed in the claim's favour:

- decode: each token reads every streamed weight once, so tok/s ≤ bandwidth ÷ bytes per token;
- memory: weights, KV cache and one row of logits lie in RAM;
- hours: the memory reads alone cost 8 to 14 pJ per bit, whatever computes on them.

`impossible` means the bound is passed even with every range at its kind end; `possible` that physics allows it with
every range at its other end too (no word on whether anyone has built it); `cannot say` is everything between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.claims.file import Claim, Span, read_claims
from edgekit.errors import ExitCode
from edgekit.units import format_bytes, format_number, format_percent

Finding = Literal["impossible", "possible", "cannot say"]

DRAM_J_PER_BYTE = Span(low=8 * 8e-12, value=11 * 8e-12, high=8 * 14e-12)
"""8 to 14 pJ per bit read, LPDDR4 to LPDDR5 with its interface: a floor under any energy claim."""
ROUNDING = 1.05
"""Claims are stated in rounded figures: up to this factor past a bound nothing is called impossible."""
UNITS = {
    "decode_tokens_per_s": "tok/s",
    "prefill_tokens_per_s": "tok/s",
    "memory_bytes": "bytes",
    "hours": "h",
    "quality_retention": "fraction",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimResult:
    """One claimed figure, judged. `factor`: how many times it passes the bound (above 1: impossible), and `bound` that
    bound in the figure's own unit; both in the claim's favour, `None` where there is none.
    """

    kind: Literal["claim"] = "claim"
    version: Literal[1] = 1
    claim: str
    figure: str
    claimed: float
    unit: str
    finding: Finding
    factor: float | None = None
    bound: float | None = None
    reason: str
    arithmetic: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    source: str
    origin: str

    def __str__(self) -> str:
        by = f" by {self.factor:.1f}×" if self.finding == "impossible" and self.factor is not None else ""
        head = f"{self.finding.upper()}{by}: {self.claim}: {format_number(self.claimed, self.unit)} ({self.figure})"
        lines = [self.reason, *self.arithmetic, *(f"assumed: {text}" for text in self.assumptions)]
        return "\n".join([head, *(f"  {line}" for line in lines), f"  source: {self.source}"])


def audit(path: Path) -> tuple[ClaimResult, ...]:
    """Every claimed figure of a claims file, in its order, with the arithmetic spelled out.

    Raises EdgekitError that names file, claim and key for anything the file has wrong.
    """
    judges = {
        "decode_tokens_per_s": _decode,
        "prefill_tokens_per_s": _prefill,
        "memory_bytes": _memory,
        "hours": _hours,
        "quality_retention": _quality,
    }
    return tuple(judges[figure](claim, value) for claim in read_claims(path) for figure, value in claim.claimed)


def exit_code(results: Sequence[ClaimResult]) -> ExitCode:
    """1 when a claim is impossible, else 3 when one cannot be settled, else 0."""
    findings = {result.finding for result in results}
    if "impossible" in findings:
        return ExitCode.FAIL
    return ExitCode.UNKNOWN if "cannot say" in findings else ExitCode.PASS


# ---- one function a figure ----------------------------------------------------------------------------------------


def _decode(claim: Claim, claimed: float) -> ClaimResult:
    weights, bandwidth = claim.bytes_per_token, claim.bandwidth
    if weights is None or bandwidth is None:
        lacks = "the model (bytes per token)" if weights is None else "memory bandwidth"
        return _result(claim, "decode_tokens_per_s", claimed, reason=f"the claim states no {lacks}")
    kv = claim.kv_bytes * claim.depth_tokens if claim.kv_bytes else 0.0
    total = weights + kv
    per_pass = claim.tokens_per_pass
    bound = Span(*(rate * per_pass / total for rate in (bandwidth.low, bandwidth.value, bandwidth.high)))
    steps = [
        f"bytes per token = {claim.bytes_origin}",
        *([f"+ KV of {claim.depth_tokens} tokens, {format_bytes(kv)} = {format_bytes(total)}"] if kv else []),
        f"bound = bandwidth ÷ bytes per token = {_span(bandwidth, 'B/s')} ÷ {format_bytes(total)}"
        + (f" × {per_pass:g} tokens a pass" if per_pass != 1 else "")
        + f" = {_span(bound, 'tok/s')}",
        f"factor = claimed ÷ bound = {claimed:g} ÷ {bound.high:.4g} = {claimed / bound.high:.3g}",
    ]
    finding = _finding(claimed / bound.high, claimed / bound.low)
    needed = claimed * total / per_pass
    reasons = {
        "impossible": f"reading {format_bytes(total)} {claimed / per_pass:g} times a second takes "
        f"{format_bytes(needed)}/s; the memory gives {format_bytes(bandwidth.high)}/s",
        "possible": f"it takes {format_percent(needed / bandwidth.high)} of the theoretical bandwidth, all the time",
        "cannot say": _between("the bandwidth", bound, claimed, "tok/s"),
    }
    return _result(
        claim,
        "decode_tokens_per_s",
        claimed,
        finding=finding,
        factor=claimed / bound.high,
        bound=bound.high,
        reason=reasons[finding],
        arithmetic=steps,
        assumptions=_decode_assumptions(claim, claimed / bound.high),
    )


def _decode_assumptions(claim: Claim, factor: float) -> list[str]:
    texts = ["weights do not fit into on-chip memory, so each pass reads them from RAM"]
    if claim.tokens_per_pass == 1:
        more = f": {factor:.1f} tokens a pass or more would be needed" if factor > 1 else ""
        texts.append(f"one token per pass over the weights (no batching, no speculation){more}")
    if claim.depth_tokens == 0:
        texts.append("an empty KV cache")
    return texts


def _prefill(claim: Claim, claimed: float) -> ClaimResult:
    parameters, operations = claim.parameters, claim.operations_per_s
    if parameters is None or operations is None:
        lacks = "parameters" if parameters is None else "operations per second of the device"
        reason = f"prefill is limited by arithmetic, and the claim states no {lacks}"
        return _result(claim, "prefill_tokens_per_s", claimed, reason=reason)
    bound = operations / (2 * parameters)
    factor = claimed / bound
    finding = _finding(factor, factor)
    return _result(
        claim,
        "prefill_tokens_per_s",
        claimed,
        finding=finding,
        factor=factor,
        bound=bound,
        reason=f"it takes {format_percent(factor)} of the stated peak arithmetic",
        arithmetic=[
            f"operations per token = 2 × parameters = 2 × {parameters:.3g}",
            f"bound = {operations:.3g}/s ÷ {2 * parameters:.3g} = {bound:.4g} tok/s",
            f"factor = claimed ÷ bound = {claimed:g} ÷ {bound:.4g} = {factor:.3g}",
        ],
        assumptions=["a multiplication and an addition per weight and token; attention is not counted"],
    )


def _memory(claim: Claim, claimed: float) -> ClaimResult:
    weights = claim.weights_bytes
    if weights is None:
        return _result(claim, "memory_bytes", claimed, reason="the claim states no size of the weights")
    kv = claim.kv_bytes * claim.context_tokens if claim.kv_bytes else 0.0
    least = weights + kv + claim.logits_bytes
    factor = least / claimed
    finding = _finding(factor, factor)
    parts = [f"weights {format_bytes(weights)}"]
    if kv:
        parts.append(f"KV of {claim.context_tokens} tokens {format_bytes(kv)}")
    if claim.logits_bytes:
        parts.append(f"one row of logits {format_bytes(claim.logits_bytes)}")
    reasons = {
        "impossible": f"what every token reads is {format_bytes(least)} and cannot lie in {format_bytes(claimed)}",
        "possible": f"the least that must lie in RAM is {format_percent(factor)} of the claim; a runtime needs buffers "
        "besides: `edgekit fit` predicts llama.cpp's",
        "cannot say": f"the least is {format_percent(factor)} of the claim, within the rounding of its figures",
    }
    return _result(
        claim,
        "memory_bytes",
        claimed,
        finding=finding,
        factor=factor,
        bound=least,
        reason=reasons[finding],
        arithmetic=[
            f"least = {' + '.join(parts)} = {format_bytes(least)}",
            f"factor = least ÷ claimed = {format_bytes(least)} ÷ {format_bytes(claimed)} = {factor:.3g}",
        ],
        assumptions=[
            "weights are not fetched from storage for each token",
            *([] if kv else ["no KV cache: the claim states no context"]),
        ],
    )


def _hours(claim: Claim, claimed: float) -> ClaimResult:
    battery, weights, rate = claim.battery_wh, claim.bytes_per_token, dict(claim.claimed).get("decode_tokens_per_s")
    lacking = {"battery (Wh)": battery, "model (bytes per token)": weights, "speed at which they hold": rate}
    lacks = [name for name, value in lacking.items() if value is None]
    if battery is None or weights is None or rate is None:
        return _result(claim, "hours", claimed, reason=f"the claim states no {' and no '.join(lacks)}")
    bytes_per_s = rate / claim.tokens_per_pass * weights
    floor = Span(*(joules * bytes_per_s for joules in DRAM_J_PER_BYTE))
    allowed = Span(*(energy / claimed for energy in battery))
    finding = _finding(floor.low / allowed.high, floor.high / allowed.low)
    best_hours = battery.high / floor.low
    reasons = {
        "impossible": f"the memory reads alone draw {floor.low:.3g} W, and {claimed:g} h leave {allowed.high:.3g} W: "
        f"at {rate:g} tok/s the battery is empty after {best_hours:.2g} h at most",
        "possible": f"memory reads take {format_percent(floor.value / allowed.value)} of the power; the rest must do "
        "for arithmetic, screen and losses",
        "cannot say": f"memory reads draw {_span(floor, 'W')} of the {_span(allowed, 'W')} that {claimed:g} h leave: "
        "it depends on the memory and the battery",
    }
    return _result(
        claim,
        "hours",
        claimed,
        finding=finding,
        factor=floor.low / allowed.high,
        bound=best_hours,
        reason=reasons[finding],
        arithmetic=[
            f"mean power = battery ÷ hours = {_span(battery, 'Wh')} ÷ {claimed:g} h = {_span(allowed, 'W')}",
            f"bytes read = {rate:g} tok/s × {format_bytes(bytes_per_s / rate)} = {format_bytes(bytes_per_s)}/s",
            f"least power = bytes × 8 × 8 to 14 pJ = {_span(floor, 'W')}",
            f"factor = least ÷ mean power = {floor.low:.3g} ÷ {allowed.high:.3g} = {floor.low / allowed.high:.3g}",
        ],
        assumptions=["decoding the whole time at the claimed speed", "the whole nominal battery, nothing else running"],
    )


def _quality(claim: Claim, claimed: float) -> ClaimResult:
    reason = "no physical bound: quality is measured against the teacher"
    return _result(claim, "quality_retention", claimed, reason=reason)


# ---- shared -------------------------------------------------------------------------------------------------------


def _finding(kindest: float, harshest: float) -> Finding:
    """From how far a claim passes its bound when every range lies in its favour, and when every range lies against."""
    if kindest > ROUNDING:
        return "impossible"
    return "possible" if harshest <= 1 else "cannot say"


def _between(what: str, bound: Span, claimed: float, unit: str) -> str:
    if claimed > bound.high:
        return f"the claim passes the bound by less than the rounding of its figures: {claimed:g} and {bound.high:.4g}"
    return f"{what} ranges from device to device: the bound is {_span(bound, unit)}"


def _span(span: Span, unit: str) -> str:
    """`51.0 GB/s`, or `34.1 GB/s to 84.8 GB/s`."""
    ends = (span.low,) if span.low == span.high else (span.low, span.high)
    if unit == "B/s":
        return " to ".join(f"{format_bytes(end)}/s" for end in ends)
    return " to ".join(f"{end:.3g}" for end in ends) + f" {unit}"


def _result(
    claim: Claim,
    figure: str,
    claimed: float,
    *,
    reason: str,
    finding: Finding = "cannot say",
    factor: float | None = None,
    bound: float | None = None,
    arithmetic: Sequence[str] = (),
    assumptions: Sequence[str] = (),
) -> ClaimResult:
    return ClaimResult(
        claim=claim.name,
        figure=figure,
        claimed=claimed,
        unit=UNITS[figure],
        finding=finding,
        factor=factor,
        bound=bound,
        reason=reason,
        arithmetic=tuple(arithmetic),
        assumptions=tuple(assumptions),
        source=claim.source,
        origin=claim.origin,
    )
