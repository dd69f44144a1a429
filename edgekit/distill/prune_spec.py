"""What is to be carved out of a teacher, as a recipe or a command line says it: `prune:depth=0.5,width=0.5`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

from edgekit.checkpoint import shown
from edgekit.errors import EdgekitError
from edgekit.tables import nearest

KEYS = ("depth", "width", "ffn", "heads")


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
