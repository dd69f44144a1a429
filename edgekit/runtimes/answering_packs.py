"""Many questions weighed at once: every continuation is a text of its own in one batch, and the texts of a question
share its prompt, as in `multiple_choice_score` of tools/perplexity/perplexity.cpp.

One after the other, a question takes a batch for its prompt and a small one for each continuation, and small batches
read all weights for a few tokens: half as much CPU time again on a 0.6B q4_0 stand-in at two threads (1.29 s a question
against 0.86 s). What all questions of a command begin with (examples, an instruction) is evaluated once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from edgekit.runtimes.llamacpp import Node, Session
from edgekit.runtimes.protocol import WORST_NATS, SessionRefused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEQUENCES = 64
WORTH_KEEPING = 16
"""Tokens that all questions share from which on they are evaluated for themselves."""

_ROWS_AT_ONCE = 2
"""A few rows of logits and their exponentials stay in a core's second-level cache."""


class Lines(NamedTuple):
    """A question's lines, prompt and continuation, that have their first `shared` tokens in common. Each is weighed
    from there on.
    """

    wholes: list[list[int]]
    shared: int

    @property
    def rows(self) -> int:
        return 1 + sum(len(whole) - self.shared - 1 for whole in self.wholes)

    @property
    def tokens(self) -> int:
        return self.shared + self.rows - 1


class Cost(NamedTuple):
    """What a continuation costs; `greedy` and `broken` are 1 or 0."""

    nats: float
    tokens: int
    greedy: int
    broken: int


def fits(lines: Lines, session: Session, most_rows: int) -> bool:
    """Whether a question can be weighed here at all."""
    room = min(session.batch_tokens, session.context_tokens)
    return lines.tokens <= room and lines.rows <= most_rows and len(lines.wholes) <= session.sequences


def weigh_together(session: Session, questions: Sequence[Lines], most_rows: int) -> Iterator[list[Cost]]:
    """The costs of each question's lines, in order; each question must fit. The session is empty afterwards."""
    session.reset()
    kept = _kept(questions, session)
    if kept:
        everyone = range(session.sequences)
        last = len(kept) - 1
        for begin in range(0, len(kept), session.batch_tokens):
            part = range(begin, min(begin + session.batch_tokens, len(kept)))
            session.feed_tree([Node(kept[at], at, everyone, at == last or at == part[-1]) for at in part])
    for pack in _packs(questions, len(kept), session, most_rows):
        session.keep(len(kept)) if kept else session.reset()
        rows = session.feed_tree(_nodes(pack, len(kept)))
        yield from _costs(rows, pack)
    session.reset()


def _kept(questions: Sequence[Lines], session: Session) -> list[int]:
    """The tokens that all questions begin with, but for the last of what each shares, which must be asked anew; none
    where they are few, or where a sliding window or the batch leaves no room for them.
    """
    first = questions[0].wholes[0]
    most = min(min(lines.shared for lines in questions) - 1, len(first))
    for lines in questions[1:]:
        other = lines.wholes[0]
        most = next((at for at in range(most) if other[at] != first[at]), most)
    longest = max(lines.tokens for lines in questions)
    if most < WORTH_KEEPING or session.window or len(questions) < 2 or longest > session.context_tokens - most:
        return []
    return first[:most]


def _packs(questions: Sequence[Lines], kept: int, session: Session, most_rows: int) -> Iterator[list[Lines]]:
    """As many questions at a time as tokens, rows and texts allow."""
    room = min(session.batch_tokens, session.context_tokens - kept)
    pack: list[Lines] = []
    tokens = rows = texts = 0
    for lines in questions:
        more = (lines.tokens - kept, lines.rows, len(lines.wholes))
        if pack and (tokens + more[0] > room or rows + more[1] > most_rows or texts + more[2] > session.sequences):
            yield pack
            pack, tokens, rows, texts = [], 0, 0, 0
        pack.append(lines)
        tokens, rows, texts = tokens + more[0], rows + more[1], texts + more[2]
    yield pack


def _nodes(pack: Sequence[Lines], kept: int) -> list[Node]:
    """Each question's prompt for all of its texts, then what each text has alone, but for its last token."""
    nodes: list[Node] = []
    used = 0
    for lines in pack:
        texts = range(used, used + len(lines.wholes))
        used += len(lines.wholes)
        last = lines.shared - 1
        nodes += [Node(lines.wholes[0][at], at, texts, at == last) for at in range(kept, lines.shared)]
        for text, whole in zip(texts, lines.wholes, strict=True):
            nodes += [Node(whole[at], at, (text,), True) for at in range(lines.shared, len(whole) - 1)]
    return nodes


def _costs(rows: NDArray[np.float32], pack: Sequence[Lines]) -> Iterator[list[Cost]]:
    """What the logits say of each line, rows in the order of `_nodes`."""
    totals = log_totals(rows)
    begin = 0
    for lines in pack:
        own = begin + 1
        costs = []
        for whole in lines.wholes:
            asked = [begin, *range(own, own + len(whole) - lines.shared - 1)]
            costs.append(cost_of(rows, totals, asked, whole[lines.shared :]))
            own += len(whole) - lines.shared - 1
        begin = own
        yield costs


def log_totals(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """(top, log Σ exp(logit − top)) of each row, as two columns; NaN where logits are no numbers."""
    import numpy as np

    totals = np.empty((len(rows), 2))
    with np.errstate(all="ignore"):
        for begin in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[begin : begin + _ROWS_AT_ONCE]
            top = part.max(axis=1, keepdims=True)
            totals[begin : begin + len(part), 0] = top[:, 0]
            totals[begin : begin + len(part), 1] = np.log(np.exp(part - top).sum(axis=1, dtype=np.float64))
    return totals


def cost_of(
    rows: NDArray[np.float32], totals: NDArray[np.float64], asked: Sequence[int], targets: Sequence[int]
) -> Cost:
    """Of `targets`, each told by one of the `asked` rows."""
    import numpy as np

    if max(targets) >= rows.shape[1]:
        raise SessionRefused("text", f"the tokenizer gives a token without logits: `{max(targets)}`")
    said = rows[asked, targets].astype(np.float64)
    with np.errstate(all="ignore"):
        nats = totals[asked, 1] + (totals[asked, 0] - said)
    if not np.all(nats <= WORST_NATS):  # also where one is NaN
        return Cost(0.0, len(targets), 0, 1)
    return Cost(float(nats.sum()), len(targets), int(np.all(said >= totals[asked, 0])), 0)
