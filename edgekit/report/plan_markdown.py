"""The plan in GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.records import ParetoPoint, QuantPlan
from edgekit.report.markdown import escape, folded, table
from edgekit.report.plan_rows import Step, facts, groups, headline, steps
from edgekit.report.sweep_words import bare_text, short_text
from edgekit.units import format_bytes


def render_plan_markdown(plan: QuantPlan, front: Sequence[ParetoPoint]) -> str:
    """What the plan comes to, its tensors by kind and type, and the front folded away."""
    lines = ["## Quantization plan", "", escape(f"{format_bytes(plan.size_bytes)}, {headline(plan)}"), ""]
    lines += table(("what", "value"), ((escape(fact.label), escape(fact.value)) for fact in facts(plan)))
    lines += table(
        ("kind", "type", "tensors", "size", "bits per weight", "share of KLD", "layers"),
        (
            tuple(
                escape(cell)
                for cell in (
                    row.kind,
                    row.type,
                    str(row.count),
                    format_bytes(row.size_bytes),
                    row.bits_text,
                    row.share_text,
                    row.layers,
                )
            )
            for row in groups(plan)
        ),
    )
    lines += front_table(steps(plan, front))
    return "\n".join(lines).rstrip() + "\n"


def front_table(points: Sequence[Step]) -> list[str]:
    """The front as a table, folded away; nothing where there is none."""
    if not points:
        return []
    rows = (
        tuple(
            f"**{escape(cell)}**" if row.chosen and cell else escape(cell)
            for cell in (
                row.label,
                format_bytes(row.size_bytes),
                f"{row.bits_per_weight:.3f}",
                bare_text(row.kld, "nat"),
                short_text(row.memory, "bytes"),
                short_text(row.decode, "tok/s"),
            )
        )
        for row in points
    )
    head = ("budget", "size", "bits per weight", "KLD, nat/token, summed", "memory", "decode")
    return folded("Front: the least KLD for each budget", table(head, rows))
