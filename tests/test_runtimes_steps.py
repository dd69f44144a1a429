"""The timed loops on a session that computes nothing and a clock that is set by hand."""

from __future__ import annotations

import itertools

import pytest

from edgekit.records import Settings
from edgekit.runtimes import null
from edgekit.runtimes.protocol import Step
from edgekit.runtimes.steps import TokenSource, run_step


class Clocked(null.Session):
    """A session on which a token costs 10 ns in a batch and a millisecond alone."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.now = 0
        self.batches: list[int] = []
        self.rewinds: list[int] = []

    def decode(self, tokens: list[int]) -> None:
        assert all(0 <= token < self.vocabulary for token in tokens)
        self.now += 1_000_000 if len(tokens) == 1 else 10 * len(tokens)
        self.batches.append(len(tokens))
        super().decode(tokens)
        assert self.position <= self.context_tokens

    def rewind(self, tokens: int) -> None:
        self.rewinds.append(tokens)
        self.now += 10**9  # a cost that must never be inside a sample
        super().rewind(tokens)

    def clock(self) -> int:
        return self.now


@pytest.fixture
def session() -> Clocked:
    return Clocked(Settings(context_tokens=256, batch_tokens=100))


def test_prefill_goes_in_batches_and_has_no_token_times(session: Clocked) -> None:
    samples = list(run_step(session, Step(test="pp250", prompt=250, repetitions=2), TokenSource(32, 1), session.clock))
    assert session.batches == [100, 100, 50] * 2
    assert [(s.repetition, s.tokens, s.elapsed_ns, s.token_ns) for s in samples] == [
        (0, 250, 2500, ()),
        (1, 250, 2500, ()),
    ]


def test_decode_times_every_token(session: Clocked) -> None:
    (sample,) = run_step(session, Step(test="tg3", generate=3), TokenSource(32, 1), session.clock)
    assert sample.token_ns == (1_000_000,) * 3
    assert sample.elapsed_ns == 3_000_000


def test_prompt_and_generation_in_one_sample(session: Clocked) -> None:
    (sample,) = run_step(session, Step(test="pp50+tg2", prompt=50, generate=2), TokenSource(32, 1), session.clock)
    assert (sample.tokens, sample.elapsed_ns, sample.token_ns) == (52, 2_000_500, (1_000_000,) * 2)


def test_depth_is_filled_once_and_kept_over_steps(session: Clocked) -> None:
    source = TokenSource(32, 1)
    step = Step(test="tg2@d150", generate=2, depth=150, repetitions=3)
    samples = [*run_step(session, step, source, session.clock), *run_step(session, step, source, session.clock)]
    assert session.batches == [100, 50] + [1, 1] * 6
    assert {sample.elapsed_ns for sample in samples} == {2_000_000}


def test_repetitions_at_depth_zero_start_empty(session: Clocked) -> None:
    list(run_step(session, Step(test="tg2", generate=2, repetitions=2), TokenSource(32, 1), session.clock))
    assert session.rewinds == [0, 0]
    assert session.position == 2


def test_a_context_that_cannot_be_cut_is_filled_anew() -> None:
    class Recurrent(Clocked):
        def rewind(self, tokens: int) -> None:
            if tokens < self.position:
                self.tokens = []

    session = Recurrent(Settings(context_tokens=64, batch_tokens=64))
    list(run_step(session, Step(test="tg1@d8", generate=1, depth=8, repetitions=2), TokenSource(32, 1), session.clock))
    assert session.batches == [8, 1, 8, 1]


def test_beginning_of_text_comes_first_and_only_there(session: Clocked) -> None:
    session.vocabulary = 1000
    session.first_token = 999
    list(run_step(session, Step(test="pp150", prompt=150), TokenSource(998, 1), session.clock))
    assert session.tokens[0] == 999
    assert 999 not in session.tokens[1:]


def test_sustained_fills_windows_until_the_time_is_over(session: Clocked) -> None:
    step = Step(test="sustained", generate=100, duration_s=15.0)
    samples = list(run_step(session, step, TokenSource(32, 1), session.clock))
    # rewinding costs a second on this clock and is not in any window
    assert all(sample.elapsed_ns == sum(sample.token_ns) == sample.tokens * 1_000_000 for sample in samples)
    assert [sample.repetition for sample in samples] == list(range(len(samples)))
    assert session.now >= 15e9
    assert session.position <= 100


def test_sustained_without_a_cycle_uses_the_whole_context(session: Clocked) -> None:
    deepest = 0
    for _ in run_step(session, Step(test="s", depth=6, duration_s=5.0), TokenSource(32, 1), session.clock):
        deepest = max(deepest, session.position)
    assert 6 < deepest <= session.context_tokens
    assert set(session.rewinds) <= {0, 6}


def test_tokens_are_seeded_and_spread() -> None:
    first, again, other = (TokenSource(1000, seed).take(500) for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) > 300
    assert all(0 <= token < 1000 for token in itertools.chain(first, other))
