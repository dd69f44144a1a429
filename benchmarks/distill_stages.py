"""What each stage of distillation gives a small student, from scratch and carved out of its teacher.

    python benchmarks/distill_stages.py [--seeds 1,2,3] [--arms ce,kd-t1,…] [--share 1.0] [--smoke]

A teacher of four layers is trained on a base of facts (countries, species, threats, Python's errors) in many phrasings.
Students of a quarter of its layers' weights see half of the questions with labels. Of every seed:

from scratch, the same steps: cross-entropy on the labels (`ce`); distillation at temperature 2, at 1, and falling from
4 to 1 (`kd-t2`, `kd-t1`, `kd-fall`); at 1 with the divergence only where the teacher is right (`kd-right`), after
labels alone for the first half (`kd-late`), giving way to the labels step by step (`kd-anneal`), and with the teacher's
hidden states beside it through an even map (`kd-features`; `ce-features` is those states and labels alone);
with three times the steps labels, distillation at 1, and that giving way (`ce-long`, `kd-long`, `anneal-long`);
carved: as it is (`carved`), `carved-ce`, and stage after stage `logits`, `features`, `task`: the last on what the
teacher answers to the other half of the questions, where it is right. Beside `task`, on the same start and steps:
cross-entropy on the same prompts' true answers (`gold`), and more of stage 1 on the old questions (`more`): the first
is the bound of what wider coverage can give, the second what more steps alone do.

The score is the share of held-out questions, in phrasings that no training saw, whose whole answer is the likeliest
token by token; retention is that over the teacher's. `nats` is what those answers cost a token, and `known` the
share of some of the training's own questions that is answered. Rows already in `results/distill_stages.json` under the
same settings are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from peer import circumstances, write_result
from tokenizers import Tokenizer

from edgekit import corpus
from edgekit.corpus.bank import spread
from edgekit.distill import Recipe, make_student
from edgekit.distill.heads import head_of
from edgekit.distill.losses import LossParts, distillation_loss
from edgekit.distill.mapping import FeatureMatch
from edgekit.distill.objectives import Softly, features_objective, logits_objective
from edgekit.distill.pruning import carve
from edgekit.distill.questions import packed, questions
from edgekit.distill.schedules import temperature_at
from edgekit.distill.students import load_model, save_model
from edgekit.distill.trainer import Objective, StepInfo, TrainSettings, train
from edgekit.distill.windows import Windows, windows_of

RESULTS = Path(__file__).parent / "results" / "distill_stages.json"
LENGTH, BATCH, EACH, ALPHA = 192, 6, 250, 0.7
KNOWN = 300
"""Questions of the training that are asked again."""
SPEC = "prune:depth=0.5,width=0.5"
FACTS = (
    *("capital", "capital-short", "continent", "language", "which-continent", "syllogism", "error", "kind"),
    *("group", "region", "habitat", "diet", "threat", "mark", "which-group", "report-threat"),
)
STEPS = {"scratch": 400, "carved": 250, "stage": 150}
LONG = 3
"""Times the steps of the arms from scratch, for those that ask whether they had enough."""


def teacher_recipe(smoke: bool) -> Recipe:
    return Recipe(
        name="stages-teacher-smoke" if smoke else "stages-teacher",
        architecture="qwen3",
        tokenizer="qwen3",
        hidden=256,
        layers=2 if smoke else 4,
        heads=4,
        kv_heads=2,
        head_dim=64,
        ffn=768,
        vocabulary=2048,
        extra=(("rope_theta", 1e6), ("rms_norm_eps", 1e-6)),
        characters=600_000,
        questions=EACH,
        templates=FACTS,
        steps=150 if smoke else 900,
        batch=BATCH,
        length=LENGTH,
        learning_rate=4e-3,
    )


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What all students of a run share. `known` has labels, `wide` is the rest of the questions."""

    folder: Path
    teacher: Any
    tokenizer: Any
    known: tuple[corpus.Item, ...]
    wide: tuple[corpus.Item, ...]
    held_out: tuple[corpus.Item, ...]
    work: Path
    share: float
    """Of the steps."""

    def windows(self, items: tuple[corpus.Item, ...], prompt_weight: float = 0.05) -> Windows:
        return windows_of(*packed(self.tokenizer, items, length=LENGTH, prompt_weight=prompt_weight), LENGTH)


def lesson_of(smoke: bool, share: float, work: Path) -> Lesson:
    folder = make_student(teacher_recipe(smoke))
    asked = questions("train", each=EACH, templates=FACTS, seed=1)
    streams = [
        [stream for name, stream in corpus.templates("evaluation", domain).items() if name in FACTS]
        for domain in corpus.DOMAINS
    ]
    return Lesson(
        folder=folder,
        teacher=load_model(folder).eval().requires_grad_(False),
        tokenizer=Tokenizer.from_file(str(folder / "tokenizer.json")),
        known=asked[::2],
        wide=asked[1::2],
        held_out=tuple(islice(spread(streams), 60 if smoke else 600)),
        work=work,
        share=share,
    )


# ---- students and how they are taught --------------------------------------------------------------------------------


def carved(lesson: Lesson, _seed: int) -> Any:
    return load_model(
        Path(carve(lesson.folder, SPEC, lesson.work / "carved", windows=lesson.windows(lesson.known)).path)
    )


def scratch(lesson: Lesson, seed: int) -> Any:
    """New weights in the carved student's shape."""
    config = carved(lesson, seed).config
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config)


def taught(lesson: Lesson, student: Any, objective: Objective, seed: int, **given: Any) -> Any:
    """The student after `steps` on `items`."""
    steps = max(2, round(given["steps"] * lesson.share))
    settings = TrainSettings(steps=steps, batch=BATCH, learning_rate=given["rate"], seed=seed)
    windows = lesson.windows(given.get("items", lesson.known), given.get("prompt_weight", 0.05))
    train(student, windows, objective, settings, extra=given.get("extra", ()))
    return student


def softly(start: float, end: float | None = None, alpha: float = ALPHA) -> Softly:
    schedule = "constant" if end is None else "linear"
    return Softly(alpha=alpha, temperature=partial(temperature_at, schedule=schedule, start=start, end=end))


PLAIN = logits_objective(None, softly(1.0, alpha=0.0))


def where_right(teacher: Any, model: Any, indices: torch.Tensor, windows: Windows, info: StepInfo) -> LossParts:
    """Distillation at temperature 1; answer tokens that the teacher has wrong are taught by their labels alone."""
    inputs, labels, weights = windows.part(indices)
    with torch.no_grad():
        theirs = teacher.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        wrong = (weights == 1) & (head_of(teacher).weight @ theirs.mT).argmax(1).ne(labels)
    states = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
    parts = [
        distillation_loss(
            states,
            head_of(model),
            (theirs, head_of(teacher)) if alpha else None,
            labels,
            weights * counted,
            alpha=alpha,
            normalizer=info.normalizer,
        )
        for alpha, counted in ((ALPHA, ~wrong), (0.0, wrong))
    ]
    total = parts[0].total + parts[1].total
    return LossParts(
        total=total, distill=parts[0].distill, ce=parts[0].ce, tokens=parts[0].tokens, weight=parts[0].weight
    )


def shifting(alpha_at: Callable[[float], float], lesson: Lesson) -> Objective:
    """Distillation at temperature 1 whose share is asked for each step: 0 is the first, 1 the last."""

    def objective(model: Any, indices: torch.Tensor, windows: Windows, info: StepInfo) -> LossParts:
        now = softly(1.0, alpha=alpha_at(info.step / max(1, info.steps - 1)))
        return logits_objective(lesson.teacher, now)(model, indices, windows, info)

    return objective


def late(at: float) -> float:
    return ALPHA if at >= 0.5 else 0.0


def annealed(at: float) -> float:
    """Teacher annealing of BAM (arXiv 1907.04829), from 0.9."""
    return 0.9 * (1 - at)


def with_features(alpha: float, lesson: Lesson, seed: int, steps: int = STEPS["scratch"]) -> Any:
    student = scratch(lesson, seed)
    match = FeatureMatch(student.config, lesson.teacher.config, "uniform")
    objective = features_objective(lesson.teacher, match, softly(1.0, alpha=alpha))
    return taught(lesson, student, objective, seed, steps=steps, rate=4e-3, extra=match.groups(4e-3))


def from_scratch(
    objective: Callable[[Lesson], Objective], lesson: Lesson, seed: int, steps: int = STEPS["scratch"]
) -> Any:
    return taught(lesson, scratch(lesson, seed), objective(lesson), seed, steps=steps, rate=4e-3)


def distilled(lesson: Lesson, start: float = 1.0, end: float | None = None) -> Objective:
    return logits_objective(lesson.teacher, softly(start, end))


def plain(_lesson: Lesson) -> Objective:
    return PLAIN


def carved_ce(lesson: Lesson, seed: int) -> Any:
    return taught(lesson, carved(lesson, seed), PLAIN, seed, steps=STEPS["carved"], rate=2e-3)


def logits(lesson: Lesson, seed: int) -> Any:
    objective = logits_objective(lesson.teacher, softly(1.0))
    return taught(lesson, carved(lesson, seed), objective, seed, steps=STEPS["carved"], rate=2e-3)


def features(lesson: Lesson, seed: int) -> Any:
    student = kept("logits", lesson, seed)
    start = carve(lesson.folder, SPEC, lesson.work / "carved", windows=lesson.windows(lesson.known)).kept_layers
    match = FeatureMatch(student.config, lesson.teacher.config, "learned", start=start)
    objective = features_objective(lesson.teacher, match, softly(1.0))
    return taught(lesson, student, objective, seed, steps=STEPS["stage"], rate=1e-3, extra=match.groups(1e-3))


def more(lesson: Lesson, seed: int) -> Any:
    objective = logits_objective(lesson.teacher, softly(1.0))
    return taught(lesson, kept("features", lesson, seed), objective, seed, steps=STEPS["stage"], rate=1e-3)


def task(lesson: Lesson, seed: int) -> Any:
    """On the teacher's likeliest answers, those that are right: their prompts are fewer, their text is the label's."""
    right = tuple(
        item for item, fine in zip(lesson.wide, answered(lesson.teacher, lesson, lesson.wide)[0], strict=True) if fine
    )
    return completed(lesson, right, seed)


def gold(lesson: Lesson, seed: int) -> Any:
    return completed(lesson, lesson.wide, seed)


def completed(lesson: Lesson, items: tuple[corpus.Item, ...], seed: int) -> Any:
    student = kept("features", lesson, seed)
    return taught(lesson, student, PLAIN, seed, steps=STEPS["stage"], rate=1e-3, items=items, prompt_weight=0.0)


ARMS: dict[str, Callable[[Lesson, int], Any]] = {
    "ce": partial(from_scratch, plain),
    "kd-t2": partial(from_scratch, partial(distilled, start=2.0)),
    "kd-t1": partial(from_scratch, distilled),
    "kd-fall": partial(from_scratch, partial(distilled, start=4.0, end=1.0)),
    "kd-right": partial(from_scratch, lambda lesson: partial(where_right, lesson.teacher)),
    "kd-late": partial(from_scratch, partial(shifting, late)),
    "kd-anneal": partial(from_scratch, partial(shifting, annealed)),
    "kd-features": partial(with_features, ALPHA),
    "ce-features": partial(with_features, 0.0),
    "ce-long": partial(from_scratch, plain, steps=LONG * STEPS["scratch"]),
    "kd-long": partial(from_scratch, distilled, steps=LONG * STEPS["scratch"]),
    "anneal-long": partial(from_scratch, partial(shifting, annealed), steps=LONG * STEPS["scratch"]),
    "carved": carved,
    "carved-ce": carved_ce,
    "logits": logits,
    "features": features,
    "more": more,
    "task": task,
    "gold": gold,
}


def kept(arm: str, lesson: Lesson, seed: int) -> Any:
    """The student after `arm`, trained when it is first asked for."""
    place = lesson.work / f"{arm}-{seed}"
    if not place.is_dir():
        save_model(ARMS[arm](lesson, seed), place)
    return load_model(place)


# ---- scores ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def answered(model: Any, lesson: Lesson, items: tuple[corpus.Item, ...]) -> tuple[list[bool], float]:
    """Whether each answer, up to the end of its line, is what the model would say: each token its likeliest; and the
    loss of all answers' tokens, in nats a token.
    """
    found, nats, tokens = [False] * len(items), 0.0, 0
    order = sorted(range(len(items)), key=lambda at: len(items[at].line))
    for begin in range(0, len(items), 32):
        some = order[begin : begin + 32]
        length = 1 + max(len(lesson.tokenizer.encode(f"{items[at].line}\n").ids) for at in some)
        parts = [packed(lesson.tokenizer, [items[at]], length=length, prompt_weight=0.0) for at in some]
        ids, counted = (torch.tensor([part[which][:length] for part in parts]) for which in (0, 1))
        said = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
        labels, counts = ids[:, 1:], counted[:, 1:].ne(0)
        fine = (said.argmax(-1).eq(labels) | ~counts).all(-1)
        nats += float(torch.nn.functional.cross_entropy(said[counts], labels[counts], reduction="sum"))
        tokens += int(counts.sum())
        for at, right in zip(some, fine.tolist(), strict=True):
            found[at] = right
    return found, nats / tokens


def score(model: Any, lesson: Lesson) -> dict[str, float]:
    fine, nats = answered(model.eval(), lesson, lesson.held_out)
    known, _ = answered(model, lesson, lesson.known[:: max(1, len(lesson.known) // KNOWN)])
    return {"exact": sum(fine) / len(fine), "nats": nats, "known": sum(known) / len(known)}


def rows_before(settings: dict[str, Any]) -> list[dict[str, Any]]:
    if not RESULTS.is_file():
        return []
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found["rows"] if found["settings"] == settings else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--share", type=float, default=1.0, help="of the steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="where students are kept between runs")
    parser.add_argument("--smoke", action="store_true", help="a minute; nothing is written")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.smoke:
        given.seeds, given.share = "1", 0.02
    with tempfile.TemporaryDirectory() as place:
        lesson = lesson_of(given.smoke, given.share, given.work or Path(place))
        theirs = score(lesson.teacher, lesson)
        whole = theirs["exact"]
        print(f"teacher {whole:.3f} ({theirs}) of {len(lesson.held_out)} answers", file=sys.stderr, flush=True)
        settings = {"share": given.share, "steps": STEPS, "teacher": lesson.folder.name, "spec": SPEC, "alpha": ALPHA}
        rows = [] if given.smoke else rows_before(settings)
        for seed in map(int, given.seeds.split(",")):
            for arm in given.arms.split(","):
                if any((row["arm"], row["seed"]) == (arm, seed) for row in rows):
                    continue
                started = time.perf_counter()
                found = score(kept(arm, lesson, seed), lesson)
                seconds = round(time.perf_counter() - started, 1)
                rows = rows if given.smoke else rows_before(settings)  # another run may have added to them
                kept_share = found["exact"] / whole
                rows.append({"arm": arm, "seed": seed, **found, "retention": kept_share, "seconds": seconds})
                shown = f"{found['exact']:.3f}  {kept_share:6.1%}  {found['nats']:.3f} nats  known {found['known']:.1%}"
                print(f"seed {seed}  {arm:11} {shown}  {seconds} s", file=sys.stderr, flush=True)
                if not given.smoke:
                    about = circumstances(lesson.folder / "model.safetensors")
                    write_result(
                        RESULTS,
                        {"circumstances": about, "settings": settings, "exact": whole, "teacher": theirs, "rows": rows},
                    )
    for arm in ARMS:
        mine = [row["retention"] for row in rows if row["arm"] == arm]
        if mine:
            print(
                f"{arm:11} retains {sum(mine) / len(mine):6.1%} ({min(mine):.1%} – {max(mine):.1%}), {len(mine)} seeds"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
