"""What a gate can ask for: one function and one line in `METRICS` each.

The functions themselves are in `edgekit.gate.figures`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from edgekit.errors import EdgekitError
from edgekit.gate import figures, quality
from edgekit.records import Figure, Gate, Projection


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure a gate may limit. `about` groups metrics that share a physical limit and remedies."""

    title: str
    unit: str
    operating_point: str
    better: Literal["higher", "lower"]
    about: Literal["memory", "decode", "prefill", "battery", "quality", "file", "host"]
    function: figures.MetricFunction
    retention: bool = False
    """Whether it is of tasks that a teacher answered, too."""
    quantizing: bool = False
    """Whether larger types for the weights bring it up."""


def _decode_metric(title: str, test: str, point: str, projected: Callable[[Projection], Figure]) -> Metric:
    return Metric(
        title=title,
        unit="tok/s",
        operating_point=point,
        better="higher",
        about="decode",
        function=figures.speed_of(test, projected),
    )


def _retention_metric(title: str, items: str, function: figures.MetricFunction) -> Metric:
    return Metric(
        title=title,
        unit="fraction",
        operating_point=f"(student − chance) ÷ (teacher − chance), {items}",
        better="higher",
        about="quality",
        function=function,
        retention=True,
        quantizing=True,
    )


def _text_metric(
    title: str, unit: str, point: str, field: str, *, better: Literal["higher", "lower"] = "lower"
) -> Metric:
    return Metric(
        title=title,
        unit=unit,
        operating_point=point,
        better=better,
        about="quality",
        function=quality.of_text(field),
        quantizing=True,
    )


METRICS: dict[str, Metric] = {
    "memory_bytes": Metric(
        title="memory",
        unit="bytes",
        operating_point="peak of the profile's memory metric at its context",
        better="lower",
        about="memory",
        function=figures.memory,
    ),
    "unevictable_bytes": Metric(
        title="memory that cannot be evicted",
        unit="bytes",
        operating_point="peak of anonymous + swap at the profile's context",
        better="lower",
        about="memory",
        function=figures.unevictable,
    ),
    "memory_share_of_budget": Metric(
        title="memory of what a process may hold",
        unit="fraction",
        operating_point="peak ÷ (RAM × process share)",
        better="lower",
        about="memory",
        function=figures.budget_share,
    ),
    "disk_read_bytes_per_token": Metric(
        title="read from disk per token",
        unit="bytes",
        operating_point="decoding behind its warm-up; what stays in memory reads nothing",
        better="lower",
        about="memory",
        function=figures.disk_reads_per_token,
    ),
    "decode_tokens_per_s": _decode_metric("decode", "tg128", "burst tg128 at depth 0", lambda p: p.decode),
    "decode_at_1k_tokens_per_s": _decode_metric(
        "decode at depth 1k", "tg16@d1024", "burst tg16 with 1024 tokens in the KV cache", figures.at_depth(1024)
    ),
    "decode_at_4k_tokens_per_s": _decode_metric(
        "decode at depth 4k", "tg16@d4096", "burst tg16 with 4096 tokens in the KV cache", figures.at_depth(4096)
    ),
    "sustained_decode_tokens_per_s": _decode_metric(
        "sustained decode", "sustained", "decode after ten minutes without a pause", lambda p: p.sustained
    ),
    "prefill_tokens_per_s": Metric(
        title="prefill",
        unit="tok/s",
        operating_point="pp512 at depth 0",
        better="higher",
        about="prefill",
        function=figures.prefill_speed,
    ),
    "ttft_s": Metric(
        title="time to first token",
        unit="s",
        operating_point="512-token prompt, model loaded",
        better="lower",
        about="prefill",
        function=figures.first_token,
    ),
    "load_s": Metric(
        title="load time",
        unit="s",
        operating_point="fresh process",
        better="lower",
        about="file",
        function=figures.load,
    ),
    "battery_h": Metric(
        title="battery, continuous use",
        unit="h",
        operating_point="one charge, at the sustained speed and power",
        better="higher",
        about="battery",
        function=figures.battery,
    ),
    "energy_per_token_j": Metric(
        title="energy per token",
        unit="J",
        operating_point="whole device, at the sustained speed and power",
        better="lower",
        about="battery",
        function=figures.energy_per_token,
    ),
    "quality_retention": _retention_metric("quality retained", "all items", quality.retained()),
    "retention_factual": _retention_metric("factual quality retained", "factual items", quality.retained("factual")),
    "retention_reasoning": _retention_metric("reasoning retained", "reasoning items", quality.retained("reasoning")),
    "retention_coding": _retention_metric("coding retained", "coding items", quality.retained("coding")),
    "retention_conservation": _retention_metric(
        "conservation quality retained", "conservation items", quality.retained("conservation")
    ),
    "retention_worst_domain": _retention_metric(
        "quality retained in the worst domain", "the domain that kept the least", quality.worst_retained
    ),
    "kld_mean": _text_metric("mean KL divergence", "nat", "against the reference's own distribution", "kld_mean"),
    "kld_median": _text_metric("median KL divergence", "nat", "of the tokens, against the reference", "kld_median"),
    "kld_p99": _text_metric("99 % KL divergence", "nat", "all but the worst 1 % of the tokens are below", "kld_p99"),
    "top1_agreement": _text_metric(
        "top-1 agreement", "fraction", "same most likely token as the reference", "top1_agreement", better="higher"
    ),
    "top5_agreement": _text_metric(
        "top-5 agreement",
        "fraction",
        "the reference's most likely token among the five most likely",
        "top5_agreement",
        better="higher",
    ),
    "dp_rms": _text_metric(
        "RMS change of probability", "fraction", "of the token that followed, against the reference", "dp_rms"
    ),
    "perplexity": _text_metric("perplexity", "", "held-out text of the corpus", "perplexity"),
    "perplexity_ratio": _text_metric("perplexity ratio", "", "÷ the reference's, on the same text", "perplexity_ratio"),
    "response_similarity": Metric(
        title="similarity of responses",
        unit="fraction",
        operating_point="shared word n-grams (1 to 3) with the teacher's responses to open prompts",
        better="higher",
        about="quality",
        function=quality.alike("overlap"),
    ),
    "final_answer_agreement": Metric(
        title="agreement of final answers",
        unit="fraction",
        operating_point="same final answer as the teacher to open prompts",
        better="higher",
        about="quality",
        function=quality.alike("agreement"),
    ),
    "foreign_identity_share": Metric(
        title="claims to be another model",
        unit="fraction",
        operating_point="of prompts that ask what it is",
        better="lower",
        about="quality",
        function=quality.foreign_identity,
    ),
    "chat_template_kept": Metric(
        title="chat template kept",
        unit="",
        operating_point="1: the parent's, byte for byte; 0: lost or changed",
        better="higher",
        about="quality",
        function=quality.template_kept,
    ),
    "size_bytes": Metric(
        title="file size",
        unit="bytes",
        operating_point="all shards",
        better="lower",
        about="file",
        function=figures.size,
    ),
    "host_decode_tokens_per_s": Metric(
        title="decode on this host",
        unit="tok/s",
        operating_point="burst tg128 at depth 0 on the machine that ran it, not on the device",
        better="higher",
        about="host",
        function=figures.here("tg128"),
    ),
    "host_prefill_tokens_per_s": Metric(
        title="prefill on this host",
        unit="tok/s",
        operating_point="pp512 at depth 0 on the machine that ran it, not on the device",
        better="higher",
        about="host",
        function=figures.here("pp512"),
    ),
}


MAY_BE_ZERO = ("kld_mean", "kld_median", "kld_p99", "dp_rms", "foreign_identity_share")
"""Metrics that are zero for a perfect artifact; of every other a limit of zero asks for nothing, or for the impossible.
"""
MAX_FRACTION = 2.0


def find_metric(name: str) -> Metric:
    """The metric called `name`. Raises EdgekitError that suggests the nearest one."""
    if name in METRICS:
        return METRICS[name]
    near = get_close_matches(name, METRICS, n=1)
    hint = f"did you mean `{near[0]}`?" if near else "known metrics: " + ", ".join(METRICS)
    raise EdgekitError(f"unknown metric in gates: `{name}`", hint=hint)


def check_gate(gate: Gate) -> Metric:
    """The metric a gate limits. Raises EdgekitError for a gate that no figure could sensibly be judged by."""
    metric = find_metric(gate.metric)
    if (gate.min is None) == (gate.max is None):
        raise EdgekitError(f"a gate needs either `min` or `max`: `{gate.metric}`")
    side, limit = ("min", gate.min) if gate.min is not None else ("max", gate.max)
    if limit is None or not math.isfinite(limit) or limit < 0 or (limit == 0 and gate.metric not in MAY_BE_ZERO):
        raise EdgekitError(f"the limit of `{gate.metric}` must be a finite number above zero: `{limit}`")
    if metric.unit == "fraction" and limit > MAX_FRACTION:
        raise EdgekitError(
            f"the limit of `{gate.metric}` is a fraction and not `{limit:g}`",
            hint=f"percent written for a fraction? `{limit / 100:g}` is {limit:g} %",
        )
    wanted = "min" if metric.better == "higher" else "max"
    if side != wanted:
        raise EdgekitError(
            f"`{gate.metric}` is better when {metric.better}, so its gate needs `{wanted}`, not `{side}`",
            hint=f"{gate.metric} = {{ {wanted} = {limit:g} }}",
        )
    return metric
