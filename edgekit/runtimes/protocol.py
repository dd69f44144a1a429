"""What edgekit and its worker process say to each other: newline-ended JSON, bounded and checked field by field.

The worker has parsed a stranger's model file, so nothing it says is believed: a message is small, flat, of known
fields with known types, and its numbers are integers. Times are nanoseconds. Never pickle.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, fields
from typing import Any

from edgekit.errors import EdgekitError

MAX_MESSAGE_BYTES = 2**20
"""A sample of 16k tokens is 200 kB; nothing honest comes near."""

MAX_TEXT = 2000
MAX_COUNT = 2**53
_INFINITE_BITS = 0x7F800000
"""Of float32: from here on there are infinity, what is no number, and what is below zero."""


class ProtocolError(Exception):
    """The other side said something outside the protocol; the text says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One test to run, named as llama-bench names it: `pp512`, `tg128`, `tg16@d4096`, `sustained`.

    With `duration_s > 0` tokens are generated until so long has passed, from `depth` on; the context is rewound to
    `depth` after every `generate` tokens (0: when it is full), and a sample comes about once a second. `warmup` marks
    every sample of the step as warm-up.
    """

    test: str
    prompt: int = 0
    generate: int = 0
    depth: int = 0
    repetitions: int = 1
    warmup: bool = False
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSample:
    """One repetition as the worker timed it; `token_s` has a time per generated token, empty for prefill."""

    test: str
    repetition: int
    warmup: bool
    tokens: int
    elapsed_s: float
    token_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The worker has loaded its libraries and fenced itself in; no byte of the model was read."""

    build: str
    cpu_features: str
    isolation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Model and context stand. `context_tokens` is the effective context."""

    load_ns: int
    vocabulary: int
    context_tokens: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A RawSample on the wire: integers only, so that no NaN or infinity can pass."""

    repetition: int
    tokens: int
    elapsed_ns: int
    token_ns: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The last command is finished; the worker waits for the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """Long work has come so far: `done` of `total` pieces. `detail` names the piece."""

    done: int
    total: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """The text is tokenized: how many tokens it has, and how many chunks of them will be scored."""

    tokens: int
    chunks: int


WORST_NATS = 10_000
"""A token that costs more has logits that are no numbers, or might as well: float32 ends 88 nats below certainty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A `records.ScoredChunk` on the wire: sums in billionths of a nat, what may be smaller as the bits of a float32
    (`to_bits`). Without a reference all of its figures are 0, and `token_kld_bits` is empty.
    """

    chunk: int
    tokens: int
    nll_nano: int
    reference_nll_nano: int
    kld_nano: int
    top1: int
    broken: int
    top5: int = 0
    dp2_bits: int = 0
    kld_lower_nano: int = 0
    token_kld_bits: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """What the continuations of a prompt cost the model, one entry for each: billionths of a nat over `tokens` of them,
    1 in `greedy` where each token was the likeliest, 1 in `broken` where logits were no numbers (its nats are then 0).
    """

    question: int
    nano: tuple[int, ...]
    tokens: tuple[int, ...]
    greedy: tuple[int, ...]
    broken: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A generated text: its UTF-8, byte by byte, as no other field could carry line ends. `stopped` is 1 where the
    model or a stop word ended it, `broken` where logits that are no numbers did.
    """

    question: int
    text: tuple[int, ...]
    tokens: int
    stopped: int
    broken: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The runtime declined in good order. `stage` is `model`, `context`, `step`, `text`, `reference` or `worker`."""

    stage: str
    message: str


Message = Ready | Loaded | Timed | Done | Advanced | Counted | Scored | Weighed | Written | Refused

_MESSAGES: dict[str, type[Any]] = {
    "ready": Ready,
    "loaded": Loaded,
    "timed": Timed,
    "done": Done,
    "advanced": Advanced,
    "counted": Counted,
    "scored": Scored,
    "weighed": Weighed,
    "written": Written,
    "refused": Refused,
}
_KINDS = {kind: name for name, kind in _MESSAGES.items()}


def encode(message: Message) -> bytes:
    """One line of JSON."""
    return encode_plain({"type": _KINDS[type(message)], **asdict(message)})


def encode_plain(content: dict[str, Any]) -> bytes:
    """One line of JSON from plain values: the commands, which the worker trusts."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message in `line`. Raises ProtocolError on anything that is not exactly one of them."""
    if len(line) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a message of more than {MAX_MESSAGE_BYTES} bytes")
    try:
        content = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise ProtocolError("not a JSON object")
    kind = content.pop("type", None)
    message_type = _MESSAGES.get(kind) if isinstance(kind, str) else None
    if message_type is None:
        raise ProtocolError("a message of unknown type")
    expected = {field.name: str(field.type) for field in fields(message_type)}
    if set(content) != set(expected):
        raise ProtocolError(f"a `{kind}` message with missing or extra fields")
    message: Message = message_type(**{name: _check(name, content[name], expected[name]) for name in expected})
    return message


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _check(name: str, value: Any, wanted: str) -> Any:
    """`value` if it is of the `wanted` kind: a short text, a sane count, or a tuple of counts."""
    if wanted == "str" and isinstance(value, str):
        return printable(value)[:MAX_TEXT]
    if wanted == "int" and _is_count(value):
        return value
    if wanted == "tuple[int, ...]" and isinstance(value, list) and all(map(_is_count, value)):
        return tuple(value)
    raise ProtocolError(f"a bad value in field `{name}`")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_COUNT


def to_bits(number: float) -> int:
    """A float32 as the whole number that its bits are: seven digits at any size. What is below zero becomes it."""
    bits: int = struct.unpack("<I", struct.pack("<f", max(0.0, number)))[0]
    return bits


def from_bits(bits: int) -> float:
    """The number that `to_bits` was given, to seven digits. Raises ProtocolError on what it never gives."""
    if bits >= _INFINITE_BITS:
        raise ProtocolError("bits that are no number")
    number: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return float(f"{number:.7g}")


def printable(text: str) -> str:
    """`text` with every character that could move a cursor or hide in a report replaced by `·`."""
    return "".join(character if character.isprintable() else "·" for character in text)


def raw_sample(step: Step, timed: Timed) -> RawSample:
    """The sample for the caller. Raises ProtocolError when it cannot be a repetition of `step`."""
    generated = timed.tokens if step.duration_s > 0 else step.generate
    consistent = timed.elapsed_ns > 0 and len(timed.token_ns) == generated and sum(timed.token_ns) <= timed.elapsed_ns
    if not consistent or (step.duration_s == 0 and timed.tokens != step.prompt + step.generate):
        raise ProtocolError(f"a sample that cannot be of `{step.test}`")
    return RawSample(
        test=step.test,
        repetition=timed.repetition,
        warmup=step.warmup,
        tokens=timed.tokens,
        elapsed_s=timed.elapsed_ns / 1e9,
        token_s=tuple(ns / 1e9 for ns in timed.token_ns),
    )


class SessionRefused(EdgekitError):  # noqa: N818  (named for what happened)
    """A runtime declined in good order; `stage` as in `Refused`."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage
