"""What is to be carved out of a teacher, as a recipe or a command line says it: `prune:depth=0.5,width=0.5`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

from edgekit.checkpoint import shown
from edgekit.errors import EdgekitError
from edgekit.tables import nearest

KEYS = ("depth", "width", "ffn", "heads")
_STEPS = (256, 128, 64, 32)
"""K-quants want rows of whole blocks of 256 values, the others of 32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    """Which share stays of layers, channels and heads; `None`: all of them. `width` is said of channels and heads."""

    depth: float | None = None
    width: float | None = None
    ffn: float | None = None
    heads: float | None = None


def parse_prune(spec: str) -> Prune:
    """What `prune:depth=0.5,width=0.5` says: shares that stay. `width` is `ffn` and `heads` together.

    Raises EdgekitError for an unknown key (with the nearest one), one that is there twice, and shares that are not
    between 0 and 1.
    """
    kind, _, rest = spec.partition(":")
    found: dict[str, float] = {}
    for part in rest.split(","):
        key, sign, value = (piece.strip() for piece in part.partition("="))
        if kind != "prune" or not sign or not key:
            _refuse("a student carved out of its teacher is said as `prune:depth=0.5,width=0.5`", spec)
        if key not in KEYS:
            raise EdgekitError(f"pruning knows {', '.join(KEYS)}, not `{shown(key, 40)}`", hint=nearest(key, KEYS))
        if key in found or ("width" in (key, *found) and {key, *found} & {"ffn", "heads"}):
            _refuse(f"pruning is told twice what stays of `{key}`", spec)
        found[key] = _share(key, value)
    return Prune(**found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a model has of each: `layers`, channels of the feed-forward, heads that ask, and heads that are asked."""

    layers: int
    ffn: int
    heads: int
    kv_heads: int


def sizes_left(prune: Prune, model: Sizes, architecture: str) -> Sizes:
    """What stays of `model`: channels a multiple of 32 to 256 where they were. Queries that share keys and values go
    together with them, so that the cache shrinks too; where all heads share one, single ones go.

    Raises EdgekitError where nothing would be left, nothing would go, or the architecture cannot do without.
    """
    if architecture == "qwen2" and prune.heads is not None:
        raise EdgekitError(
            f"qwen2 has heads for its whole hidden size, in llama.cpp at least: `heads={prune.heads:g}`",
            hint="cut the feed-forward alone: `prune:ffn=0.5`",
        )
    ffn_share = prune.width if prune.ffn is None else prune.ffn
    heads_share = prune.width if prune.heads is None else prune.heads
    heads, kv_heads, ffn = model.heads, model.kv_heads, model.ffn
    if heads_share is not None and architecture != "qwen2":
        if kv_heads == 1:
            heads = _left("heads", heads, heads_share)
        else:
            kv_heads = _left("key-value heads", kv_heads, heads_share)
            heads = model.heads // model.kv_heads * kv_heads
    if ffn_share is not None:
        step = next((step for step in _STEPS if ffn % step == 0 and ffn * ffn_share >= step), 1)
        ffn = _left("channels", ffn, ffn_share, step)
    left = Sizes(layers=_left("layers", model.layers, prune.depth), ffn=ffn, heads=heads, kv_heads=kv_heads)
    if left == model:
        said = ((key, getattr(prune, key)) for key in KEYS)
        raise EdgekitError(
            f"of {model.layers} layers and {model.ffn} channels nothing would go with "
            f"`{', '.join(f'{key}={share:g}' for key, share in said if share is not None)}`",
            hint="ask for a smaller share",
        )
    return left


def _left(what: str, count: int, share: float | None, step: int = 1) -> int:
    """How many stay, a multiple of `step`."""
    left = count if share is None else round(count * share / step) * step
    if left < 1:
        raise EdgekitError(f"of {count} {what} none would be left at `{share:g}`", hint="ask for a larger share")
    return left


def _share(key: str, value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise EdgekitError(
            f"the share of {key} that stays is a number between 0 and 1, both excluded, not `{shown(value, 40)}`",
            hint=f"`{key}=0.5` keeps half of it",
        )
    return share


def _refuse(reason: str, spec: str) -> NoReturn:
    raise EdgekitError(f"{reason}: `{shown(spec)}`", hint="`prune:depth=0.5` keeps half of the layers")
