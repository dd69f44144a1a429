"""The keys of a recipe's tables and what may stand under them: one reader for each key, strict."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

from edgekit import corpus
from edgekit.distill.losses import LOSSES
from edgekit.distill.schedules import SCHEDULES
from edgekit.distill.students import CLASSES
from edgekit.distill.tokenizing import FAMILIES
from edgekit.errors import EdgekitError
from edgekit.records import STAGE_KINDS
from edgekit.tables import (
    choice_at,
    flag_at,
    nearest,
    number,
    refuse_unknown,
    text_at,
    whole_at,
)

Reader = Callable[[Mapping[str, Any], str, str], Any]
"""`(table, key, where)` → the checked value. Raises EdgekitError."""

MOST_LISTED = 1000


def whole(low: int, high: int) -> Reader:
    """A whole number within the limits."""
    return lambda table, key, where: whole_at(table, key, where=where, default=low, low=low, high=high)


def real(low: float, high: float) -> Reader:
    """A finite number within the limits."""
    return lambda table, key, where: number(table[key], where=f"`{key}` in {where}", low=low, high=high)


def word(*known: str) -> Reader:
    """One of the known words; without any, a line of text."""
    if not known:
        return lambda table, key, where: text_at(table, key, where=where, default="")
    return lambda table, key, where: choice_at(table, key, known, where=where, default=known[0])


def words(known: Callable[[], Collection[str]] = tuple) -> Reader:
    """A list of lines of text, each among the known ones where there are any."""

    def read(table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
        value = table[key]
        if not isinstance(value, list) or len(value) > MOST_LISTED:
            raise EdgekitError(f"`{key}` in {where} must be a list of texts, not `{value!r:.60}`")
        found, choice = tuple(text_at({key: one}, key, where=where) for one in value), known()
        strange = [one for one in found if choice and one not in choice]
        if strange:
            raise EdgekitError(f"`{key}` in {where} cannot hold `{strange[0][:60]}`", hint=nearest(strange[0], choice))
        return found

    return read


def flag(table: Mapping[str, Any], key: str, where: str) -> bool:
    """True or false."""
    return flag_at(table, key, where=where, default=False)


def span(low: float, high: float) -> Reader:
    """Two numbers within the limits, the smaller first."""

    def read(table: Mapping[str, Any], key: str, where: str) -> tuple[float, float]:
        value = table[key]
        if not isinstance(value, list) or len(value) != 2:
            raise EdgekitError(f"`{key}` in {where} must be two numbers, not `{value!r:.60}`")
        first, second = (number(one, where=f"`{key}` in {where}", low=low, high=high) for one in value)
        if first > second:
            raise EdgekitError(f"`{key}` in {where} must begin with the smaller number, not `{first:g}`")
        return first, second

    return read


def _extra(table: Mapping[str, Any], key: str, where: str) -> tuple[tuple[str, Any], ...]:
    """Further fields of a transformers configuration: scalars, or a table of them."""
    value = table[key]
    if not isinstance(value, dict) or len(value) > 50:
        raise EdgekitError(f"`{key}` in {where} must be a table, not `{value!r:.60}`")
    for name, one in value.items():
        inner = one.values() if isinstance(one, dict) else (one,)
        if name in ("auto_map", "_attn_implementation") or not all(
            isinstance(x, bool | int | float | str) for x in inner
        ):
            raise EdgekitError(f"`{key}` in {where} cannot hold: `{name[:60]}`")
    return tuple(value.items())


@cache
def templates() -> frozenset[str]:
    """Names of all templates of questions."""
    return frozenset(name for domain in corpus.DOMAINS for name in corpus.templates("train", domain))


NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

TOP = ("name", "title", "seed", "teacher", "data", "student", "export", "gate", "cluster")

MAKE: dict[str, Reader] = {
    "name": word(),
    "architecture": word(*CLASSES),
    "tokenizer": word(*FAMILIES),
    "hidden": whole(32, 65536),
    "layers": whole(1, 1024),
    "heads": whole(1, 1024),
    "kv_heads": whole(1, 1024),
    "head_dim": whole(2, 1024),
    "ffn": whole(32, 262144),
    "vocabulary": whole(320, 1 << 20),
    "spare": whole(0, 1 << 16),
    "tied": flag,
    "context": whole(16, 1 << 24),
    "extra": _extra,
    "characters": whole(0, 10**9),
    "questions": whole(0, 10**7),
    "templates": words(templates),
    "prompt_weight": real(0, 1),
    "steps": whole(1, 10**7),
    "batch": whole(1, 10**6),
    "length": whole(8, 1 << 20),
    "learning_rate": real(1e-9, 1),
    "seed": whole(0, 2**31),
    "dtype": word("float32", "bfloat16", "float16"),
}
"""`[teacher.make]`: the fields of `students.Recipe`."""

DATA: dict[str, Reader] = {
    "characters": whole(0, 10**9),
    "questions": whole(0, 10**7),
    "templates": words(templates),
    "domains": words(lambda: corpus.DOMAINS),
    "files": words(),
    "prompt_weight": real(0, 1),
    "held_out_questions": whole(1, 10**6),
    "held_out_characters": whole(2_000, 10**8),
    "note": word(),
}

TEMPERATURE: dict[str, Reader] = {"schedule": word(*SCHEDULES), "start": real(0.1, 100), "end": real(0.1, 100)}

SYNTHESIS: dict[str, Reader] = {
    "each": whole(1, 10**6),
    "questions": whole(0, 10**7),
    "domains": words(lambda: corpus.DOMAINS),
    "templates": words(templates),
    "styles": words(lambda: ("answer", "rationale")),
    "samples": whole(1, 64),
    "temperature": real(0, 10),
    "top_p": real(0.01, 1),
    "most_tokens": whole(1, 4096),
    "most_reasoning_tokens": whole(1, 32_768),
    "batch": whole(1, 65_536),
}
"""Of a `[student.stage.synthesis]`: the fields of `synthesis.Synthesis`."""
SYNTHESIZING: dict[str, Reader] = {
    "prompts": word(),
    "held_out": words(),
    "chat": flag,
    "strategy": word("all", "teacher-correct", "disagreement-first"),
    "gold": flag,
}
"""Of the same table, what is not of the asking."""
ASKED_OF_THE_CORPUS = ("each", "questions", "domains", "templates")
"""What has nothing to do where the questions are one's own."""

ON_POLICY: dict[str, Reader] = {
    "beta": real(0, 1),
    "top_p": real(0.01, 1),
    "most_tokens": whole(1, 32_768),
    "style": word("answer", "rationale"),
    "each": whole(1, 10**6),
    "questions": whole(0, 10**7),
    "domains": words(lambda: corpus.DOMAINS),
    "templates": words(templates),
}

_LOOP: dict[str, Reader] = {
    "kind": word(*STAGE_KINDS),
    "steps": whole(1, 10**9),
    "tokens": whole(1, 10**16),
    "batch": whole(1, 10**7),
    "micro_batch": whole(1, 10**6),
    "length": whole(8, 1 << 20),
    "learning_rate": real(1e-9, 1),
    "warmup": real(0, 1),
    "floor": real(0, 1),
    "weight_decay": real(0, 1),
    "gradient_norm": real(1e-6, 1e6),
    "precision": word("auto", "float32", "bfloat16"),
    "gradient_checkpointing": flag,
    "checkpoint_every": whole(1, 10**9),
}
_ANY_STAGE: dict[str, Reader] = {
    **_LOOP,
    "compile": flag,
    "loss": word(*LOSSES),
    "mix": real(0.001, 0.999),
    "alpha": real(0, 1),
    "prompt_weight": real(0, 1),
}
STAGE: dict[str, dict[str, Reader]] = {
    "logits": {**_ANY_STAGE, "cache": word("online", "offline")},
    "features": {
        **_ANY_STAGE,
        "mapping": word("learned", "uniform", "last", "relative"),
        "feature_loss": word("cosine", "mse"),
        "feature_weight": real(1e-6, 1e6),
        "mapping_learning_rate": real(1e-9, 10),
    },
    "task": {**_ANY_STAGE, "cache": word("online", "offline")},
    "on-policy": _LOOP,
}
"""Keys of a `[[student.stage]]` by its kind; `temperature` and the tables in `TABLES` are read apart."""
TABLES = {"task": "synthesis", "on-policy": "on_policy"}
"""Of a stage, by its kind."""

EXPORT: dict[str, Reader] = {"to": words(), "imatrix": flag}
GATE: dict[str, Reader] = {
    "device": word(),
    "gates": word(),
    "bench": word("quick", "default", "thorough"),
    "items": whole(0, 10**6),
    "domains": words(lambda: corpus.DOMAINS),
    "templates": words(templates),
    "chunks": whole(1, 10**6),
    "context": whole(32, 1 << 20),
    "names": words(),
    "answers": word(),
}
CLUSTER: dict[str, Reader] = {
    "accelerator": word(),
    "count": whole(1, 10**6),
    "mfu": span(0.001, 1),
}


def read(table: Mapping[str, Any], readers: Mapping[str, Reader], where: str, *, besides: Collection[str] = ()) -> Any:
    """The checked values of the keys that are there, as keyword arguments. Raises EdgekitError on an unknown key."""
    refuse_unknown(table, (*readers, *besides), where=where)
    return {key: reader(table, key, where) for key, reader in readers.items() if key in table}
