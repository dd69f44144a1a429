"""How alike artifact and teacher answer, whom the artifact says to be, and whether it kept its chat template."""

from __future__ import annotations

from edgekit.records import ChatTemplate, IdentityClaim, Quality, Tasks
from edgekit.report.quality import Part, Quote, Shown, Table, digest
from edgekit.report.words import Fact, clean

MAX_CLAIMS = 12
MAX_PAIRS = 8
_QUOTED = 240
SIMILARITY_READING = (
    "Both answered the same open prompts, greedily. 100 % is the same text; a student that says the same in other "
    "words scores lower, so read this beside the tasks."
)
IDENTITY_READING = "Asked in several ways who it is and who made it. Denials do not count."
TEMPLATE_WORDS: dict[str, str] = {
    "same": "the same as that of `{parent}`, byte for byte",
    "changed": "differs from that of `{parent}`",
    "lost": "lost: `{parent}` has one and this artifact has none",
    "added": "added: this artifact has one and `{parent}` has none",
    "none": "neither this artifact nor `{parent}` has one",
}


def similarity_part(quality: Quality) -> Part | None:
    """Figures of how alike the generations are; `None` where none were compared."""
    found = quality.similarity
    if found is None:
        return None
    shown = (
        Shown(label="characters in common", figure=found.edit, unit="fraction", against=1.0),
        Shown(label="words in common", figure=found.overlap, unit="fraction", against=1.0),
        Shown(label="same final answer", figure=found.agreement, unit="fraction", against=1.0),
    )
    return Part(
        key="similarity",
        title=f"responses beside {clean(found.teacher, 60)}: {found.responses} prompts",
        reading=SIMILARITY_READING,
        rows=tuple(one.fact for one in shown),
        folded=_side_by_side(quality.tasks) if quality.tasks else (),
        behind=(
            Fact(label="characters in common", value="mean of 1 − edit distance ÷ length of the longer"),
            Fact(label="words in common", value="mean F1 of shared word n-grams, 1 to 3"),
        ),
    )


def _side_by_side(tasks: Tasks) -> tuple[Table, ...]:
    """What both generated for the same prompts, those with the fewest words in common first."""
    from edgekit import corpus  # its lists of prompts are read only when they are shown

    theirs = {one.prompt: one.text for one in tasks.teacher.responses} if tasks.teacher else {}
    about_itself = {prompt.id for prompt in corpus.identity_prompts()}
    pairs = [
        (one.prompt, one.text, theirs[one.prompt])
        for one in tasks.answers.responses
        if one.prompt in theirs and one.prompt not in about_itself
    ]
    if not pairs:
        return ()
    pairs.sort(key=lambda pair: _common(pair[1], pair[2]))
    return (
        Table(
            title=f"responses side by side, least alike first: {min(MAX_PAIRS, len(pairs))} of {len(pairs)}",
            head=("prompt", "this artifact", clean(tasks.teacher.model, 60) if tasks.teacher else ""),
            rows=tuple(
                (
                    clean(asked(prompt), _QUOTED),
                    clean(own, _QUOTED) or "(nothing)",
                    clean(their, _QUOTED) or "(nothing)",
                )
                for prompt, own, their in pairs[:MAX_PAIRS]
            ),
            prose=True,
        ),
    )


def _common(one: str, other: str) -> float:
    """Share of the distinct words that both use; a hint for sorting, no figure."""
    a, b = set(one.lower().split()), set(other.lower().split())
    return len(a & b) / len(a | b) if a | b else 1.0


def asked(ident: str) -> str:
    """The words of a prompt of this version's lists; its id where they do not have it."""
    from edgekit import corpus

    return next((one.prompt for one in (*corpus.open_prompts(), *corpus.identity_prompts()) if one.id == ident), ident)


def identity_part(quality: Quality) -> Part | None:
    """What the artifact says to be, its claims quoted; `None` where it was not asked."""
    found = quality.identity
    if found is None:
        return None
    may = ", ".join(f"`{clean(name, 40)}`" for name in found.expected[:20])
    share = Shown(label="says to be another's", figure=found.share, unit="fraction", against=0.0)
    more = len(found.claims) - MAX_CLAIMS
    return Part(
        key="identity",
        title=f"identity: {found.prompts} prompts",
        reading=IDENTITY_READING,
        rows=(
            Fact(label=share.label, value=f"{share.text}; {len(found.claims)} claims"),
            Fact(label="may say to be", value=may or "no name was told: every known name counts as another's"),
        ),
        quotes=tuple(map(_quote, found.claims[:MAX_CLAIMS])),
        notes=(f"{more} more claims are in the record",) if more > 0 else (),
    )


def _quote(claim: IdentityClaim) -> Quote:
    said = f"claims `{clean(claim.claimed, 60)}`, asked `{clean(asked(claim.prompt), 120)}`"
    return Quote(text=clean(claim.text, _QUOTED) or "(nothing)", said=said)


def template_part(quality: Quality) -> Part | None:
    """Whether the chat template is the parent's; `None` where nobody looked."""
    found = quality.template
    if found is None:
        return None
    rows = (
        Fact(label="chat template", value=template_text(found)),
        Fact(label="first difference", value=clean(found.detail)),
        Fact(label="this artifact's", value=digest(found.sha256).lstrip(", ")),
        Fact(label="its parent's", value=digest(found.parent_sha256).lstrip(", ") if found.status != "same" else ""),
    )
    return Part(key="template", title="chat template", rows=tuple(row for row in rows if row.value))


def template_text(template: ChatTemplate) -> str:
    return TEMPLATE_WORDS[template.status].format(parent=clean(template.parent, 80) or "its parent")
