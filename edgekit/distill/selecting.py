"""Which of a teacher's samples a student learns from, and the tokens and weights that it learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgekit.distill.questions import pack
from edgekit.distill.samples import Sample
from edgekit.distill.speaking import teacher_of
from edgekit.errors import EdgekitError, import_extra
from edgekit.progress import Progress, silent
from edgekit.tables import nearest

Strategy = Callable[[Sequence[Sample], Sequence[float]], list[Sample]]


def _all(samples: Sequence[Sample], _: Sequence[float]) -> list[Sample]:
    """Whatever was finished: a cut text would be taught to end there."""
    return [one for one in samples if one.finished]


def _teacher_correct(samples: Sequence[Sample], _: Sequence[float]) -> list[Sample]:
    """What the teacher got right or, where nobody knows, what most of its samples agree on."""
    return [one for one in samples if one.usable]


def _disagreement_first(samples: Sequence[Sample], apart: Sequence[float]) -> list[Sample]:
    """The same, what the student holds for the least likely beside the teacher first."""
    if len(apart) != len(samples):
        raise EdgekitError(
            f"choosing by disagreement takes one figure for each of {len(samples)} samples, not `{len(apart)}`",
            hint="`disagreements(student, tokenizer, samples)` gives them",
        )
    order = sorted(range(len(samples)), key=lambda at: (-apart[at], samples[at].id))
    return [samples[at] for at in order if samples[at].usable]


STRATEGIES: dict[str, Strategy] = {
    "all": _all,
    "teacher-correct": _teacher_correct,
    "disagreement-first": _disagreement_first,
}
"""Name → which samples, in which order."""


def select(
    samples: Sequence[Sample], strategy: str, *, count: int | None = None, apart: Sequence[float] = ()
) -> tuple[Sample, ...]:
    """The samples that `strategy` chooses, the first `count` of them. `apart` are `disagreements`, for
    `disagreement-first`.

    Raises EdgekitError for an unknown strategy (with the nearest), and when nothing is left.
    """
    if strategy not in STRATEGIES:
        raise EdgekitError(f"unknown strategy of selection: `{strategy[:40]}`", hint=nearest(strategy, STRATEGIES))
    if count is not None and count < 1:
        raise EdgekitError(f"a selection is of one sample or more, not `{count}`")
    chosen = tuple(STRATEGIES[strategy](samples, apart)[:count])
    if not chosen:
        raise EdgekitError(
            f"none of {len(samples)} samples is left by the strategy: `{strategy}`",
            hint="ask the teacher more often or at a lower temperature, or take `all`",
        )
    return chosen


def disagreements(
    student: Any,
    tokenizer: Any,
    samples: Sequence[Sample],
    *,
    teacher: Any = None,
    batch: int = 16,
    progress: Progress = silent,
) -> tuple[float, ...]:
    """How far the student is from the teacher on each sample, in nats per token: (log p of the teacher − log p of the
    student) ÷ tokens, of the completion after its prompt. Over samples drawn at temperature 1 and top-p 1 its mean is
    KL(teacher ‖ student) per token; a single one is one draw of it, and may be negative.

    The teacher's part is what it said of itself when it wrote (`Sample.nats`), or `teacher`'s own, where one is given.
    Raises EdgekitError where neither is.
    """
    ours, tokens = _nats(student, tokenizer, samples, batch, progress, "asking the student")
    if teacher is not None:
        theirs, _ = _nats(teacher, tokenizer, samples, batch, progress, "asking the teacher again")
    else:
        unsaid = next((one for one in samples if one.nats is None), None)
        if unsaid is not None:
            raise EdgekitError(
                f"the teacher's likelihood of a sample is not known: `{unsaid.id}`", hint="give `teacher`"
            )
        theirs = [one.nats or 0.0 for one in samples]
    return tuple((one - other) / max(1, count) for one, other, count in zip(theirs, ours, tokens, strict=True))


def windows_of_samples(
    tokenizer: Any,
    samples: Sequence[Sample],
    length: int,
    prompt_weight: float,
    *,
    reasoning_weight: float = 1.0,
) -> tuple[list[int], list[float]]:
    """Token ids and weights as `questions.packed` gives them: 1 for final answers and the end of the line,
    `reasoning_weight` for what leads up to them, `prompt_weight` for prompts (0: the completion alone), 0 for filler.

    Raises EdgekitError where no sample fits a window of `length` tokens.
    """
    lines = [_parts(one, prompt_weight, reasoning_weight) for one in samples]
    ids, weights = pack(tokenizer, lines, length=length)
    if not any(weights):
        raise EdgekitError(
            f"none of {len(samples)} samples fits a window of tokens: `{length}`", hint="widen the windows"
        )
    return ids, weights


def _parts(sample: Sample, prompt_weight: float, reasoning_weight: float) -> tuple[tuple[str, float], ...]:
    """Prompt, reasons and answer, each with the space before it; the last one weighs for the end of the line too."""
    reasoning = sample.reasoning.rstrip()
    answer = sample.completion[len(sample.reasoning) :]
    said = ((reasoning, reasoning_weight), (answer, 1.0))
    return ((sample.prompt, prompt_weight), *((f" {text}" if text else "", weight) for text, weight in said))


def _nats(
    model: Any, tokenizer: Any, samples: Sequence[Sample], batch: int, progress: Progress, stage: str
) -> tuple[list[float], list[int]]:
    """(log-likelihood of each completion after its prompt, its tokens), lines of like length together."""
    torch = import_extra("torch", extra="distill")
    speak = teacher_of(model)
    lines = [_line(tokenizer, one) for one in samples]
    order = sorted(range(len(samples)), key=lambda at: len(lines[at][0]))
    found = [0.0] * len(samples)
    for begin in range(0, len(order), batch):
        some = order[begin : begin + batch]
        width = max(len(lines[at][0]) for at in some)
        ids = torch.tensor([lines[at][0] + [0] * (width - len(lines[at][0])) for at in some])
        wanted, place, likely = ids.roll(-1, 1).flatten(), 0, []
        for logits in speak(ids):  # a few rows at a time; what is padding comes after the line and is not looked at
            targets = wanted[place : place + len(logits)].to(logits.device)
            likely.append(logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0].cpu())
            place += len(logits)
        each = torch.cat(likely).view(len(some), width).double()
        for row, at in enumerate(some):
            line, prompt = lines[at]
            found[at] = float(each[row, prompt - 1 : len(line) - 1].sum())
        progress(stage, begin + len(some), len(order))
    return found, [len(line) - prompt for line, prompt in lines]


def _line(tokenizer: Any, sample: Sample) -> tuple[list[int], int]:
    """(tokens of prompt and completion, how many are the prompt's)."""
    prompt = tokenizer.encode(sample.prompt).ids
    line: list[int] = tokenizer.encode(f"{sample.prompt} {sample.completion}").ids
    same = next((at for at, (a, b) in enumerate(zip(prompt, line, strict=False)) if a != b), len(prompt))
    return line, max(1, same)
