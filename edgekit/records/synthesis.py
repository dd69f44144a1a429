"""What came of asking a teacher for training data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainYield:
    """Of one domain: questions asked (each style counts), different samples kept, of how many of them the answer
    could be checked against a known one and was right, and on how many of the others the teacher's samples agree.
    """

    domain: str
    questions: int
    samples: int
    checked: int
    correct: int
    agreed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisReport:
    """`path` holds the samples. `duplicates` are completions that said the same again and `wordless` such as said
    nothing: neither is kept. `unfinished` are samples that were cut at their most tokens; `too_long` questions that
    with their answer exceed the teacher's context, and `held_out` such as evaluations ask: neither was asked.

    `tokens` counts all that the teacher wrote for this file, `read_tokens` its prompts, once for each sample; `seconds`
    is only what this call took, and `generated` how many of the tokens were written by it (the others were there).
    """

    path: str
    sha256: str
    teacher_sha256: str
    key: str
    questions: int
    samples: int
    duplicates: int
    wordless: int
    unfinished: int
    too_long: int
    held_out: int
    domains: tuple[DomainYield, ...]
    tokens: int
    generated: int
    seconds: float
    read_tokens: int = 0

    @property
    def usable(self) -> int:
        """Samples that `teacher-correct` selects: right, or agreed on where no answer is known."""
        return sum(domain.correct + domain.agreed for domain in self.domains)
