"""What an on-policy stage (TRL's trainer) gives a small student, against as many steps on given text.

    python benchmarks/on_policy.py [--seeds 1,2,3] [--share 0.6] [--smoke]

The teacher, its carved student and the questions are those of `distill_stages.py`. After its `logits` stage the student
goes on, for as many steps each: `logits` on the same questions' lines, or completing the same questions' prompts itself
under the teacher's eyes, with the divergence KL(teacher ‖ student) (`forward`), Jensen–Shannon (`jsd`) and KL(student ‖
teacher) (`reverse`); `carved-jsd` does so without the logits stage. Prompts are those that the student has seen, so
that what differs is whose tokens it learns on.

Scores: the share of held-out questions whose whole answer is right (as there), and KL(teacher ‖ student) on held-out
answers, nat per token. It needs `edgekit[onpolicy]`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from distill_stages import BATCH, LENGTH, STEPS, Lesson, carved, kept, lesson_of, score, softly, taught
from peer import circumstances, write_result

from edgekit.distill.held_out import held_out
from edgekit.distill.objectives import logits_objective
from edgekit.distill.on_policy import train_on_policy
from edgekit.distill.on_policy_prompts import prompts_of
from edgekit.distill.recipe_parts import OnPolicy
from edgekit.distill.settings import TrainSettings
from edgekit.distill.trl_trainer import trl_version
from edgekit.records import Estimate

RESULTS = Path(__file__).parent / "results" / "on_policy.json"
BETAS = {"forward": 0.0, "jsd": 0.5, "reverse": 1.0, "carved-jsd": 0.5}
ARMS = ("start", "logits", *BETAS)
PROMPTS, MOST, RATE = 48, 16, 1e-3
"""Prompts a step: with their answers about as many tokens as six windows."""


def more_logits(lesson: Lesson, seed: int) -> tuple[Any, int, float]:
    objective, steps = logits_objective(lesson.teacher, softly(1.0, alpha=1.0)), STEPS["stage"]
    started = time.perf_counter()
    student = taught(lesson, kept("logits", lesson, seed), objective, seed, steps=steps, rate=RATE)
    return student, round(steps * lesson.share) * BATCH * LENGTH, time.perf_counter() - started


def own_words(arm: str, lesson: Lesson, seed: int) -> tuple[Any, int, float]:
    """The student, the tokens that it was trained on, and the seconds."""
    student = carved(lesson, seed) if arm == "carved-jsd" else kept("logits", lesson, seed)
    policy = OnPolicy(beta=BETAS[arm], most_tokens=MOST, each=1)
    ends = prompts_of(policy, lesson.tokenizer, length=LENGTH, templates=("capital",), seed=seed)
    prompts = replace(ends, texts=tuple(dict.fromkeys(item.prompt for item in lesson.known)))
    settings = TrainSettings(
        steps=max(2, round(STEPS["stage"] * lesson.share)), batch=PROMPTS, learning_rate=RATE, seed=seed
    )
    with tempfile.TemporaryDirectory() as place:
        found = train_on_policy(
            student, lesson.teacher, lesson.tokenizer, prompts, settings, policy, out=Path(place)
        ).training
    return student, found.tokens, found.seconds


def kld(student: Any, lesson: Lesson) -> Estimate:
    windows = lesson.windows(lesson.held_out, prompt_weight=0.0)
    found = held_out(student, windows, teacher=lesson.teacher, teacher_name="teacher").kld
    assert isinstance(found, Estimate)
    return found


def row_of(arm: str, lesson: Lesson, seed: int) -> dict[str, Any]:
    tokens, seconds = 0, 0.0
    if arm == "start":
        student = kept("logits", lesson, seed)
    elif arm == "logits":
        student, tokens, seconds = more_logits(lesson, seed)
    else:
        student, tokens, seconds = own_words(arm, lesson, seed)
    apart = kld(student, lesson)
    return {
        "arm": arm,
        "seed": seed,
        "exact": score(student, lesson)["exact"],
        "kld": [apart.low, apart.value, apart.high],
        "tokens": tokens,
        "seconds": round(seconds, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--share", type=float, default=0.6, help="of the steps of `distill_stages.py`")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="a minute; nothing is written")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.smoke:
        given.seeds, given.share = "1", 0.02
    peer = trl_version()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        lesson = lesson_of(given.smoke, given.share, Path(place))
        whole = score(lesson.teacher, lesson)["exact"]
        for seed in map(int, given.seeds.split(",")):
            for arm in given.arms.split(","):
                rows.append(row_of(arm, lesson, seed))
                print(rows[-1], file=sys.stderr, flush=True)
                if not given.smoke:
                    about = circumstances(lesson.folder / "model.safetensors") | {"trl": peer}
                    settings = {"share": given.share, "prompts": PROMPTS, "most_tokens": MOST, "learning_rate": RATE}
                    write_result(RESULTS, {"circumstances": about, "settings": settings, "exact": whole, "rows": rows})
    for arm in given.arms.split(","):
        mine = [row for row in rows if row["arm"] == arm]
        exact, apart = ([row["exact"] for row in mine], [row["kld"][1] for row in mine])
        print(
            f"{arm:10} right {sum(exact) / len(exact):6.1%} ({min(exact):.1%} – {max(exact):.1%}), "
            f"KLD {sum(apart) / len(apart):.3f} ({min(apart):.3f} – {max(apart):.3f}), {len(mine)} seeds"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
