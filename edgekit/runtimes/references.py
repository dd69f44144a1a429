"""What an artifact's rows are scored against: another model that runs beside it, or a file of what one said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal, Protocol

from edgekit.runtimes.chunk_rows import chunk_rows
from edgekit.runtimes.protocol import WORST_NATS, SessionRefused
from edgekit.runtimes.steps import TimedSession

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.runtimes.scores import RowScores

_SHOWN = 40


class ScoringSession(TimedSession, Protocol):
    """What scoring needs of a runtime."""

    threads: int

    def feed(
        self, tokens: Sequence[int], want: Literal["last", "all"] | int = "last", *, copy: bool = True
    ) -> NDArray[np.float32]:
        """Evaluate `tokens` after what is in the context; logits of them `all`, of the `last` one, or of the last so
        many, (rows, vocabulary). Without `copy` they may be the runtime's own, good until the next evaluation.
        """
        ...

    def reset(self) -> None:
        """Forget every token."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Tokens of `text` as plain text: no special token is added (`first_token` says which belongs in front), and
        none is read from the text.
        """
        ...

    def token_texts(self) -> Iterable[str | None]:
        """What each of `vocabulary` tokens stands for, as the tokenizer's file writes it; `None` for padding."""
        ...


class Reference(Protocol):
    """The other side of every score. `check` once, then `begin` for each chunk and `score` for each of its blocks."""

    def check(self, session: ScoringSession, text: str, tokens: list[int]) -> None:
        """Raise SessionRefused (`text`) where it cannot judge `session`, the artifact, which reads `text` as `tokens`:
        other tokens, another vocabulary, another text.
        """
        ...

    def begin(self, index: int, chunk: list[int]) -> None:
        """A chunk, the `index`th of the text: its first half is context, what follows is told by `score` in order."""
        ...

    def score(self, tokens: list[int], logits: NDArray[np.float32], targets: list[int], *, threads: int) -> RowScores:
        """Scores of the artifact's `logits` (len(targets), its vocabulary) after each of `tokens`; `targets` is what
        followed. There may be one token more than targets: the chunk's last. Raises SessionRefused (`step`) where the
        reference itself is broken.
        """
        ...


class LiveReference:
    """A model that runs in this process beside the artifact."""

    def __init__(self, session: ScoringSession, block_rows: int) -> None:
        self._session = session
        self._rows = chunk_rows(session, block_rows)

    def check(self, session: ScoringSession, text: str, tokens: list[int]) -> None:
        """Vocabularies must be the same but for padding, and the text must read the same."""
        check_alike(session, self._session, text, tokens)

    def begin(self, index: int, chunk: list[int]) -> None:
        """What can be evaluated ahead is."""
        self._rows.begin(chunk)

    def score(self, tokens: list[int], logits: NDArray[np.float32], targets: list[int], *, threads: int) -> RowScores:
        """Exact, over the columns that both have."""
        import numpy as np

        from edgekit.runtimes.scores import score_rows

        told = self._rows.take(tokens)[: len(targets)]
        columns = min(logits.shape[1], told.shape[1])
        rows = score_rows(logits[:, :columns], told[:, :columns], targets, threads=threads)
        self._rows.release()
        if not np.all(rows.reference_nll <= WORST_NATS):
            raise SessionRefused("step", "the reference model is broken: its logits are no numbers")
        return rows


# ---- whether two models speak of the same tokens ------------------------------------------------------------------


def check_alike(session: ScoringSession, other: ScoringSession, text: str, tokens: list[int]) -> None:
    """Raise SessionRefused unless `other` reads `text` as the `tokens` that `session` reads, over a vocabulary that is
    the same but for padding.
    """
    if not spelled_alike(session, other):
        compare_vocabularies(session.token_texts(), other.token_texts())
    check_range(tokens, other.vocabulary)
    compare_tokens(session, tokens, opened(other, other.tokenize(text)))


def opened(session: ScoringSession, tokens: list[int]) -> list[int]:
    """A text's tokens with the one in front that the model wants."""
    return tokens if session.first_token is None else [session.first_token, *tokens]


def check_range(tokens: list[int], vocabulary: int) -> None:
    """Raise SessionRefused where a token has no logits."""
    if max(tokens, default=0) >= vocabulary:
        raise SessionRefused("text", f"the tokenizer gives a token without logits: `{max(tokens)}`")


def compare_tokens(session: ScoringSession, ours: list[int], theirs: list[int]) -> None:
    """Raise SessionRefused with the first token that the reference reads differently."""
    if ours == theirs:
        return
    texts = list(session.token_texts())
    place, one, other = first_difference(ours, theirs)
    raise SessionRefused(
        "text",
        f"the models read the text differently from its token {place} on: {_quoted(texts, one)} in the artifact, "
        f"in the reference {_quoted(texts, other)}",
    )


def spelled_alike(one: ScoringSession, other: ScoringSession) -> bool:
    """Whether both give the very same bytes for every token; a third of the time that their texts take. False also
    where a runtime has no such list.
    """
    lists = [session.spellings() for session in (one, other) if hasattr(session, "spellings")]
    return len(lists) == 2 and lists[0] == lists[1]


def compare_vocabularies(ours: Iterable[str | None], theirs: Iterable[str | None]) -> None:
    """Raise SessionRefused with the first token that differs. Qwen pads 151 665 tokens to 151 936 in small models and
    152 064 in large ones: padding may differ in length.
    """
    place, one, other = first_difference(ours, theirs)
    if place < 0:
        return
    raise SessionRefused(
        "text",
        f"the vocabularies differ first at token {place}: {_quoted([one], 0)} in the artifact, "
        f"in the reference {_quoted([other], 0)}",
    )


def first_difference(ours: Iterable[Any], theirs: Iterable[Any]) -> tuple[int, Any, Any]:
    """(place, ours, theirs), `None` beyond the end of one; place −1 when they are the same."""
    for place, (one, other) in enumerate(zip_longest(ours, theirs)):
        if one != other and plain(one) != plain(other):
            return place, one, other
    return -1, None, None


def plain(token: Any) -> Any:
    """Converters differ in how they write the spaces of added tokens."""
    return token.replace("▁", " ") if isinstance(token, str) else token


def _quoted(texts: Sequence[str | None], token: int | None) -> str:
    """The token's text, short and in backticks, or that there is none."""
    text = texts[token] if token is not None and token < len(texts) else None
    return "`nothing`" if text is None else f"`{text[:_SHOWN]}`"
