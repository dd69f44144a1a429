"""The timed loops, as llama-bench runs them: random token ids, no sampling, nothing else between two clock reads.

Modelled on `test_prompt` and `test_gen` of llama.cpp's tools/llama-bench/llama-bench.cpp. A session needs `decode`,
`rewind`, `position`, `vocabulary`, `first_token`, `batch_tokens` and `context_tokens`.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from edgekit.runtimes.protocol import Step, Timed

SUSTAINED_WINDOW_NS = 1_000_000_000


class TimedSession(Protocol):
    """What the loops need of a runtime. `decode` returns when the tokens' logits stand."""

    vocabulary: int
    first_token: int | None
    """Beginning-of-text, where the model wants one."""
    batch_tokens: int
    context_tokens: int

    @property
    def position(self) -> int: ...

    def decode(self, tokens: list[int]) -> None: ...

    def rewind(self, tokens: int) -> None: ...


class TokenSource:
    """Seeded token ids below `vocabulary`: a 64-bit linear congruential generator (Knuth's MMIX constants), which
    spares the worker the import of `random`.
    """

    def __init__(self, vocabulary: int, seed: int) -> None:
        self.vocabulary = vocabulary
        self.state = (seed * 2862933555777941757 + 3037000493) % 2**64

    def take(self, count: int) -> list[int]:
        """`count` token ids."""
        tokens = []
        for _ in range(count):
            self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
            tokens.append((self.state >> 33) % self.vocabulary)
        return tokens


def run_step(
    session: TimedSession, step: Step, source: TokenSource, clock: Callable[[], int] = time.perf_counter_ns
) -> Iterator[Timed]:
    """The repetitions of `step`, each yielded as soon as it is timed. `clock` gives nanoseconds.

    The cache is filled to `step.depth` once, untimed, and rewound between repetitions; where the model cannot rewind
    (recurrent state) it is filled anew.
    """
    if step.duration_s > 0:
        yield from _run_sustained(session, step, source, clock)
        return
    for repetition in range(step.repetitions):
        _fill_to(session, step.depth, source)
        prompt = _opening(session, source, step.prompt)
        generated = source.take(step.generate)
        yield _time_repetition(session, repetition, prompt, generated, clock)


def _fill_to(session: TimedSession, depth: int, source: TokenSource) -> None:
    """Leave exactly `depth` tokens in the cache, keeping what is there when it suffices."""
    session.rewind(min(session.position, depth))
    while session.position < depth:
        session.decode(_opening(session, source, min(depth - session.position, session.batch_tokens)))


def _opening(session: TimedSession, source: TokenSource, count: int) -> list[int]:
    """`count` random tokens; the first one of an empty context is beginning-of-text, where the model has one."""
    tokens = source.take(count)
    if tokens and session.position == 0 and session.first_token is not None:
        tokens[0] = session.first_token
    return tokens


def _time_repetition(
    session: TimedSession, repetition: int, prompt: list[int], generated: list[int], clock: Callable[[], int]
) -> Timed:
    """Prefill `prompt` in batches, then feed `generated` one by one."""
    batch = session.batch_tokens
    chunks = [prompt[start : start + batch] for start in range(0, len(prompt), batch)]
    ends = [0] * len(generated)
    with _no_garbage_collection():
        started = clock()
        for chunk in chunks:
            session.decode(chunk)
        prompted = clock() if chunks and generated else started
        for index, token in enumerate(generated):
            session.decode([token])
            ends[index] = clock()
        ended = ends[-1] if generated else clock()
    return Timed(
        repetition=repetition,
        tokens=len(prompt) + len(generated),
        elapsed_ns=max(1, ended - started),
        token_ns=_differences(prompted, ends),
    )


def _run_sustained(session: TimedSession, step: Step, source: TokenSource, clock: Callable[[], int]) -> Iterator[Timed]:
    """Windows of about a second until `duration_s` has passed; rewinding is outside the windows' clocks."""
    room = session.context_tokens - step.depth
    cycle = min(step.generate or room, room)
    _fill_to(session, step.depth, source)
    finish = clock() + int(step.duration_s * 1e9)
    window, used = 0, 0
    while clock() < finish:
        token_ns: list[int] = []
        elapsed = 0
        with _no_garbage_collection():
            while elapsed < SUSTAINED_WINDOW_NS and clock() < finish:
                if used == cycle:
                    _fill_to(session, step.depth, source)
                    used = 0
                tokens = source.take(1)
                started = clock()
                session.decode(tokens)
                token_ns.append(clock() - started)
                elapsed += token_ns[-1]
                used += 1
        if token_ns:
            yield Timed(repetition=window, tokens=len(token_ns), elapsed_ns=max(1, elapsed), token_ns=tuple(token_ns))
        window += 1


def _differences(start: int, ends: list[int]) -> tuple[int, ...]:
    return tuple(end - begin for begin, end in zip([start, *ends], ends, strict=False))


class _no_garbage_collection:  # noqa: N801  (reads as a statement)
    """A collection inside the timed region would be counted as the model's time."""

    def __enter__(self) -> None:
        self.was_enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *exception: object) -> None:
        if self.was_enabled:
            gc.enable()
