"""Nothing a worker says is believed unless it is exactly a message of the protocol."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.runtimes.protocol import (
    MAX_COUNT,
    MAX_MESSAGE_BYTES,
    Done,
    Loaded,
    Message,
    ProtocolError,
    Ready,
    Refused,
    Step,
    Timed,
    decode,
    encode,
    from_bits,
    raw_sample,
    to_bits,
)

MESSAGES: tuple[Message, ...] = (
    Ready(build="llama.cpp 1", cpu_features="AVX2", isolation="seccomp"),
    Loaded(load_ns=5, vocabulary=32, context_tokens=512, threads=2),
    Timed(repetition=0, tokens=2, elapsed_ns=7, token_ns=(3, 4)),
    Done(),
    Refused(stage="model", message="no"),
)
TIMED = {"type": "timed", "repetition": 0, "tokens": 2, "elapsed_ns": 7, "token_ns": [3, 4]}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_round_trip(message: Message) -> None:
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == message


@pytest.mark.parametrize(
    "change",
    [
        {"elapsed_ns": float("nan")},
        {"elapsed_ns": float("inf")},
        {"elapsed_ns": -1},
        {"elapsed_ns": 1.5},
        {"elapsed_ns": True},
        {"elapsed_ns": "7"},
        {"elapsed_ns": None},
        {"elapsed_ns": MAX_COUNT},
        {"token_ns": [1, float("nan")]},
        {"token_ns": "34"},
        {"token_ns": {"0": 1}},
        {"type": "trusted"},
        {"type": ["timed"]},
        {"type": None},
        {"extra": 1},
    ],
    ids=str,
)
def test_refuses_bad_fields(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        decode(json.dumps(TIMED | change).encode())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"type":"done","x":' + b"9" * 5000 + b"}",
        b'{"type":"timed"}',
        b"[" + b" " * MAX_MESSAGE_BYTES + b"]",
    ],
    ids=lambda line: repr(line[:20]),
)
def test_refuses_what_is_no_message(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(line)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_else(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(line)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=8))
def test_arbitrary_values_raise_nothing_else(value: object) -> None:
    line = json.dumps({**TIMED, "token_ns": value}).encode()
    try:
        message = decode(line)
    except ProtocolError:
        return
    assert isinstance(message, Timed)
    assert all(type(count) is int and count >= 0 for count in message.token_ns)


def test_text_is_cut_and_cannot_move_the_cursor() -> None:
    message = decode(encode(Refused(stage="model", message="\x1b[2J\r\n\u202e" + "x" * 10_000)))
    assert isinstance(message, Refused)
    assert message.message.isprintable()
    assert len(message.message) <= 2000


def test_sample_in_seconds() -> None:
    sample = raw_sample(
        Step(test="tg2", generate=2, warmup=True), Timed(repetition=3, tokens=2, elapsed_ns=7, token_ns=(3, 4))
    )
    assert (sample.test, sample.repetition, sample.warmup, sample.tokens) == ("tg2", 3, True, 2)
    assert sample.elapsed_s == pytest.approx(7e-9)
    assert sample.token_s == pytest.approx((3e-9, 4e-9))


@pytest.mark.parametrize(
    "timed",
    [
        Timed(repetition=0, tokens=3, elapsed_ns=7, token_ns=(3, 4)),
        Timed(repetition=0, tokens=2, elapsed_ns=7, token_ns=(3,)),
        Timed(repetition=0, tokens=2, elapsed_ns=6, token_ns=(3, 4)),
        Timed(repetition=0, tokens=2, elapsed_ns=0, token_ns=(0, 0)),
    ],
    ids=("other count", "a token without a time", "parts longer than the whole", "no time at all"),
)
def test_refuses_impossible_samples(timed: Timed) -> None:
    with pytest.raises(ProtocolError):
        raw_sample(Step(test="tg2", generate=2), timed)


@given(st.floats(1e-30, 1e4))
def test_numbers_travel_as_bits(number: float) -> None:
    assert from_bits(to_bits(number)) == pytest.approx(number, rel=1e-6)


def test_bits_are_never_below_zero_nor_without_end() -> None:
    assert from_bits(to_bits(-1e-7)) == from_bits(0) == 0.0
    for bits in (0x7F800000, 0x7FC00000, 0x80000000, 2**40):
        with pytest.raises(ProtocolError, match="no number"):
            from_bits(bits)
