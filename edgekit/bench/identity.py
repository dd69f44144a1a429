"""Whether a model claims to be someone else's: what it answered when asked who it is."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit import corpus
from edgekit.bench.self_claims import claimed_model, speaks_of_itself
from edgekit.intervals import share_interval
from edgekit.records import Answers, Estimate, Figure, Identity, IdentityClaim, Response, Unknown

FEWEST_OF_ITSELF = 3
"""Answers that must say `I am` or a name that is expected: a model that babbles claims nothing, and proves nothing."""

QUOTED_CHARACTERS = 400


def probe_identity(student: Answers, *, expected: Sequence[str] = ()) -> Identity:
    """What `student` says to be, from its responses to `corpus.identity_prompts()`.

    `expected` are names it may use (its own, its maker's); a known family with one of them is its own altogether.
    Without any, every known name counts as someone else's. `share` is of the prompts that it answered at all; its 90 %
    range (Wilson) speaks of prompts like these: a model that says nothing foreign here may under others. `Unknown`
    where nothing was asked or answered, where it hardly speaks of itself, or the weights are a stand-in's.
    """
    prompts = {prompt.id: prompt for prompt in corpus.identity_prompts()}
    asked = [response for response in student.responses if response.prompt in prompts]
    spoken = [response for response in asked if response.text.strip()]
    claims = []
    for response in spoken:
        prompt = prompts[response.prompt]
        name = claimed_model(response.text, expected=expected, lead=prompt.lead)
        if name:
            text = f"{prompt.lead} {response.text.strip()}".strip()[:QUOTED_CHARACTERS]
            claims.append(IdentityClaim(prompt=prompt.prompt, text=text, claimed=name))
    return Identity(
        prompts=len(asked),
        expected=tuple(expected),
        claims=tuple(claims),
        share=_share(student, asked, spoken, len(claims), expected),
    )


def _share(
    student: Answers, asked: Sequence[Response], spoken: Sequence[Response], claims: int, expected: Sequence[str]
) -> Figure:
    if student.stand_in:
        return Unknown(reason="stand-in weights are random numbers and say nothing of who they are")
    if not asked:
        return Unknown(reason="it was not asked who it is", settle="answer again with this version of edgekit")
    if not spoken:
        return Unknown(reason=f"it said nothing on all of {len(asked)} prompts")
    of_itself = sum(speaks_of_itself(response.text, expected) for response in spoken)
    if not claims and of_itself < FEWEST_OF_ITSELF:
        return Unknown(reason=f"asked who it is, it speaks of itself in only {of_itself} of {len(spoken)} answers")
    low, high = share_interval(claims, len(spoken))
    return Estimate(value=claims / len(spoken), low=low, high=high, basis="measured-here")
