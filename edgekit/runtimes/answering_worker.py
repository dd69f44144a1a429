"""The child process that answers questions: as `scoring_worker`, with one model. Likelihoods of given continuations,
and texts that it generates greedily; logits never leave it.

What is asked for is asked after what is still in the context: consecutive prompts share what they have in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from edgekit.runtimes import worker as worker_module
from edgekit.runtimes.answering_packs import Cost, Lines, cost_of, fits, log_totals, weigh_together
from edgekit.runtimes.protocol import Done, Message, SessionRefused, Weighed, Written
from edgekit.runtimes.references import ScoringSession
from edgekit.runtimes.scoring_worker import open_models
from edgekit.runtimes.worker import Send

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SHOWN = 60
MAX_WRITTEN_BYTES = 2**16


class AnsweringSession(ScoringSession, Protocol):
    """What answering needs of a runtime."""

    sequences: int
    """Texts that it can hold at once; with more than one it is llama.cpp's."""
    opener: int | None
    """A token that a text can follow where the model wants none in front: beginning-of-text, else end-of-text."""

    def ends(self, token: int) -> bool:
        """Whether the model ends a text with `token`."""
        ...

    def text_of(self, tokens: Sequence[int]) -> bytes:
        """The UTF-8 that `tokens` stand for, control tokens left out."""
        ...


def serve(start: dict[str, Any], commands: Iterator[dict[str, Any]], send: Send) -> None:
    """Open one model and answer what is asked of it, `ask` after `ask`."""
    sessions: list[Any] = open_models(start, commands, send)
    if not sessions:
        return
    reader = Reader(sessions[0], start["block_rows"])
    for command in commands:
        if command["op"] != "ask":
            break
        reader.forget()  # what an answer follows from does not depend on which were asked before
        for message in _answer(reader, command["questions"]):
            send(message)
        send(Done())


def _answer(reader: Reader, questions: Sequence[dict[str, Any]]) -> Iterator[Message]:
    """A message for each question, in order. Questions that follow each other and are weighed alone are weighed
    together.
    """
    pack: list[tuple[int, Lines]] = []
    session: Any = reader.session
    for index, question in enumerate(questions):
        lines = _lines(reader, question) if question["kind"] == "weigh" else None
        together = lines is not None and session.sequences > 1 and fits(lines, session, reader.block_rows)
        if lines is not None and together:
            pack.append((index, lines))
            continue
        yield from _weigh_pack(reader, pack)
        pack = []
        yield _weigh(reader, index, lines) if lines is not None else _ANSWERS[question["kind"]](reader, index, question)
    yield from _weigh_pack(reader, pack)


def _weigh_pack(reader: Reader, pack: Sequence[tuple[int, Lines]]) -> Iterator[Message]:
    if not pack:
        return
    session: Any = reader.session
    reader.forget()
    costs = weigh_together(session, [lines for _, lines in pack], reader.block_rows)
    for (index, _), found in zip(pack, costs, strict=True):
        yield _weighed(index, found)


class Reader:
    """A session, and the tokens that it holds."""

    def __init__(self, session: AnsweringSession, block_rows: int) -> None:
        self.session, self.block_rows = session, block_rows
        self.held: list[int] = []

    def forget(self) -> None:
        """Start from nothing."""
        self.session.reset()
        self.held = []

    def read(self, text: str) -> list[int]:
        """The tokens of `text`, what the model wants in front of a text included."""
        tokens = self.session.tokenize(text)
        return tokens if self.session.first_token is None else [self.session.first_token, *tokens]

    def stand_at(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Hold exactly `tokens`; a copy of the logits of what follows them, (vocabulary,). What is held of them
        already is not evaluated again.
        """
        kept = min(_common(self.held, tokens), len(tokens) - 1)
        self._rewind(kept)
        row: NDArray[np.float32] = self._feed(tokens[len(self.held) :], "last")[-1]
        return row.copy()

    def rows_after(self, held: Sequence[int], tokens: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """Logits of what follows each of `tokens` after `held`, (some, vocabulary) at a time; the context holds `held`
        already, or is made to.
        """
        self._rewind(len(held))
        if len(self.held) < len(held):  # a memory that cannot be cut was emptied
            self.stand_at(held)
        for begin in range(0, len(tokens), self.block_rows):
            yield self._feed(tokens[begin : begin + self.block_rows], "all")

    def _rewind(self, tokens: int) -> None:
        self.session.rewind(tokens)
        del self.held[self.session.position :]

    def _feed(self, tokens: Sequence[int], want: Literal["last", "all"]) -> NDArray[np.float32]:
        logits = self.session.feed(tokens, want)
        self.held += tokens
        return logits


def _lines(reader: Reader, question: dict[str, Any]) -> Lines:
    """The lines of a prompt and each of its continuations. Tokens are those of the whole line
    (lm-evaluation-harness's `_encode_pair` takes them so, too): where a line's begin to differ from the prompt's own,
    before the prompt's end perhaps, there every continuation is weighed from.
    """
    prompt = reader.read(question["prompt"])
    wholes = [reader.read(question["prompt"] + continuation) for continuation in question["continuations"]]
    shared = min(min(_common(prompt, whole), len(whole) - 1) for whole in wholes)
    if shared < 1:
        opener = _opener(reader.session)
        wholes, shared = [[opener, *whole] for whole in wholes], shared + 1
    longest = max(map(len, wholes))
    if question["cut"]:  # the last token is never fed
        wholes, shared = _cut(wholes, shared, reader.session.context_tokens + 1)
    elif longest > reader.session.context_tokens + 1:
        raise _too_long(question["prompt"], longest - 1, reader.session.context_tokens)
    return Lines(wholes, shared)


def _weigh(reader: Reader, index: int, lines: Lines) -> Message:
    """What each line costs from where they part, one after the other."""
    held = lines.wholes[0][: lines.shared]
    first = reader.stand_at(held)[None]
    return _weighed(index, [_cost(reader, first, held, whole[lines.shared :]) for whole in lines.wholes])


def _cut(wholes: list[list[int]], shared: int, room: int) -> tuple[list[list[int]], int]:
    """The lines without the beginning of what they share, as far as the longest has no room."""
    drop = max(map(len, wholes)) - room
    if drop <= 0:
        return wholes, shared
    if drop >= shared:
        raise SessionRefused("text", f"a continuation does not fit into the context: `{room - 1}` tokens")
    return [whole[drop:] for whole in wholes], shared - drop


def _roll(reader: Reader, index: int, question: dict[str, Any]) -> Message:
    """What a whole text costs, each token predicted once. A text longer than the context is read in windows: each
    begins anew after one known token, the last one reaches back as far as it can (`get_rolling_token_windows` of
    lm-evaluation-harness with a context of 1).
    """
    session = reader.session
    plain = session.tokenize(question["text"])  # first: it tells some runtimes what stands in front
    tokens = [_opener(session), *plain]
    room = session.context_tokens
    costs = []
    for begin in range(1, len(tokens), room):
        end = min(begin + room, len(tokens))
        opening = max(0, end - 1 - room) if begin > 1 else 0
        first = reader.stand_at(tokens[opening:begin])[None]
        costs.append(_cost(reader, first, tokens[opening:begin], tokens[begin:end]))
    return _weighed(index, [_summed(costs)])


def _cost(reader: Reader, first: NDArray[np.float32], held: Sequence[int], tokens: Sequence[int]) -> Cost:
    """Of `tokens` after `held`, whose last row of logits is `first`."""
    costs, done = [cost_of(first, log_totals(first), [0], tokens[:1])], 1
    if len(tokens) > 1:
        for rows in reader.rows_after(held, tokens[:-1]):
            costs.append(cost_of(rows, log_totals(rows), range(len(rows)), tokens[done : done + len(rows)]))
            done += len(rows)
    return _summed(costs)


def _summed(costs: Sequence[Cost]) -> Cost:
    """Of tokens that follow each other."""
    broken = max(cost.broken for cost in costs)
    nats = 0.0 if broken else sum(cost.nats for cost in costs)
    return Cost(nats, sum(cost.tokens for cost in costs), min(cost.greedy for cost in costs), broken)


def _weighed(index: int, costs: Sequence[Cost]) -> Weighed:
    return Weighed(
        question=index,
        # rounding can leave certainty a hair below nothing
        nano=tuple(round(max(0.0, cost.nats) * 1e9) for cost in costs),
        tokens=tuple(cost.tokens for cost in costs),
        greedy=tuple(cost.greedy for cost in costs),
        broken=tuple(cost.broken for cost in costs),
    )


def _write(reader: Reader, index: int, question: dict[str, Any]) -> Message:
    """What the model writes after the prompt: always the likeliest token (the first of equals), up to a stop word,
    the end it sets itself, `max_tokens`, or a full context.
    """
    import numpy as np

    session = reader.session
    prompt = reader.read(question["prompt"]) or [_opener(session)]
    if len(prompt) >= session.context_tokens:
        raise _too_long(question["prompt"], len(prompt), session.context_tokens)
    stops = [stop.encode() for stop in question["stop"]]
    row = reader.stand_at(prompt)
    tokens: list[int] = []
    text, stopped, broken = b"", False, False
    while True:
        token = int(row.argmax())
        broken = not np.isfinite(row[token])
        if broken or session.ends(token):
            stopped = not broken
            break
        tokens.append(token)
        text = session.text_of(tokens)
        ended = min((at for at in map(text.find, stops) if at >= 0), default=-1)
        if ended >= 0:
            text, stopped = text[:ended], True
            break
        full = len(text) > MAX_WRITTEN_BYTES or session.position >= session.context_tokens
        if len(tokens) >= question["max_tokens"] or full:
            break
        row = reader.stand_at([*prompt, *tokens])
    return Written(
        question=index,
        text=tuple(text[:MAX_WRITTEN_BYTES]),
        tokens=len(tokens),
        stopped=int(stopped),
        broken=int(broken),
    )


def _opener(session: AnsweringSession) -> int:
    if session.first_token is not None:
        return session.first_token
    if session.opener is None:
        raise SessionRefused("text", "nothing can stand in front of the text: the model has no token to begin with")
    return session.opener


def _too_long(prompt: str, tokens: int, room: int) -> SessionRefused:
    message = f"a prompt takes {tokens} tokens, more than the context of {room}: `{prompt[:_SHOWN]}`"
    return SessionRefused("text", message)


def _common(some: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens both begin with."""
    most = min(len(some), len(others))
    return next((place for place in range(most) if some[place] != others[place]), most)


_ANSWERS = {"roll": _roll, "write": _write}


def run() -> None:
    """Serve one model."""
    worker_module.run(serve)
