"""A teacher's distributions in a few hundred bytes each: how logits become records, and records a `SparseTeacher`.

A record holds the k likeliest tokens and s tokens drawn from the tail, each as three bytes of id and two of how far its
logit lies below the largest (steps of 2⁻¹⁰, of a divergence that costs 1e-7), and the tail's log-sum-exp at the inverse
temperatures of `CacheSettings.nodes`. In between, the polynomial through them is read: the function is analytic, and
six Chebyshev points from T = 1 to 4 leave an error below 2e-3 nats and none at the ends (tests hold it to that).

The tokens are drawn systematically from the even mixture of the tail's distributions at all nodes, so that one set of
draws serves every temperature: a draw weighs p / (s · mixture), which makes its sums unbiased and is never more than
`nodes / s` of the tail (deterministic mixture sampling, Owen & Zhou 2000). One node makes all weights equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.distill.sparse import SparseTeacher
from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    Records = NDArray[np.void]

GAP_STEP = 2.0**-10
"""Nats between neighbouring codes of a logit; sixteen bits reach 64 nats below the largest."""
_MOST_GAP = 2**16 - 1
_NODES = 6
_BLOCK_LOGITS = {"cpu": 2**20}
"""Logits that are worked on at a time: on a CPU what its caches hold, elsewhere some buffers of 128 MiB."""
MAX_TOP, MAX_DRAWS = 1024, 1024
_LEAST_LOG_TAIL = -60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """What is kept of a distribution: the `top` likeliest tokens, `draws` tokens of the tail, and the temperatures from
    `coolest` to `hottest` at which it can be asked for.

    The defaults take 399 bytes. 64 and 11 take as many, and a draw then stands for so much of the tail that the
    gradient is three times as noisy (in squares, at temperature 2; `benchmarks/teacher_cache.py`).
    """

    top: int = 32
    draws: int = 43
    coolest: float = 1.0
    hottest: float = 4.0
    seed: int = 1

    def __post_init__(self) -> None:
        if not (1 <= self.top <= MAX_TOP and 0 <= self.draws <= MAX_DRAWS):
            raise EdgekitError(
                f"a cache keeps 1 to {MAX_TOP} tokens and 0 to {MAX_DRAWS} draws of the tail:"
                f" `{self.top}` and `{self.draws}`"
            )
        if not 0.1 <= self.coolest <= self.hottest <= 100.0:
            raise EdgekitError(
                f"temperatures go from 0.1 to 100, the coolest first: `{self.coolest}` and `{self.hottest}`"
            )

    @property
    def nodes(self) -> tuple[float, ...]:
        """Inverse temperatures at which the tail's log-sum-exp is kept: Chebyshev points
        (of the second kind: both ends are among them, where nothing is read in between), or the only one there is."""
        low, high = 1 / self.hottest, 1 / self.coolest
        if low == high:
            return (low,)
        angles = (math.pi * place / (_NODES - 1) for place in range(_NODES))
        return tuple((low + high) / 2 - (high - low) / 2 * math.cos(angle) for angle in angles)

    @property
    def record_bytes(self) -> int:
        """Bytes for one token of the training text."""
        return 5 * (self.top + self.draws) + 4 * len(self.nodes)


def record_type(settings: CacheSettings) -> Any:
    """numpy's type of one record, packed, little-endian."""
    import numpy as np

    kept = settings.top + settings.draws
    return np.dtype([("ids", "u1", (kept, 3)), ("gaps", "<u2", (kept,)), ("tails", "<f4", (len(settings.nodes),))])


def records_of(logits: torch.Tensor, starts: torch.Tensor, settings: CacheSettings) -> Records:
    """Records of `logits` (tokens, vocabulary), float of any width, without padding.

    `starts` (tokens,) in [0, 1) are where the sampling starts: uniform random numbers make it unbiased. Raises
    EdgekitError where logits are no numbers, or the vocabulary is too small to leave a tail.
    """
    import numpy as np

    count, vocabulary = logits.shape
    if vocabulary <= settings.top:
        raise EdgekitError(
            f"a vocabulary of {vocabulary} tokens leaves no tail beside the likeliest: `{settings.top}`",
            hint="keep fewer: `top` of the cache's settings",
        )
    records = np.empty(count, record_type(settings))
    step = max(1, _BLOCK_LOGITS.get(logits.device.type, 2**25) // vocabulary)
    for begin in range(0, count, step):
        end = min(count, begin + step)
        records[begin:end] = _pack(logits[begin:end].float(), starts[begin:end], settings)
    return records


def _pack(logits: torch.Tensor, starts: torch.Tensor, settings: CacheSettings) -> Records:
    import numpy as np
    import torch

    largest, top = logits.topk(settings.top, sorted=True)
    if not bool(largest.isfinite().all()) or bool(logits.isnan().any()):
        raise EdgekitError("the teacher's logits are no numbers", hint="try it in float32")
    top = top.sort(-1).values
    gaps = logits - largest[:, :1]
    kept = gaps.gather(-1, top)
    gaps = gaps.scatter(-1, top, -torch.inf)
    tails, mixture = _tails(gaps, settings.nodes)
    if settings.draws:
        drawn = _draw(mixture, starts, settings.draws)
        top, kept = torch.cat((top, drawn), -1), torch.cat((kept, gaps.gather(-1, drawn)), -1)
    records = np.empty(len(logits), record_type(settings))
    records["ids"] = top.to("cpu", torch.int32).numpy().astype("<i4").view("u1").reshape(*top.shape, 4)[..., :3]
    codes = (kept.double() / -GAP_STEP).round().clamp(0, _MOST_GAP)  # −inf, too, is at the end of the scale
    records["gaps"] = codes.to("cpu", torch.int32).numpy()
    records["tails"] = tails.cpu().numpy()
    return records


def _tails(gaps: torch.Tensor, nodes: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-sum-exp of the tail at each node (tokens, nodes), sum of its distributions there (tokens, vocabulary)); the
    tail is where `gaps` is not −inf.
    """
    import torch

    # nothing underflows that matters: the largest of the tail is 1
    largest = gaps.amax(-1, keepdim=True).clamp_min(-1e30)
    below, weights, mixture = gaps - largest, torch.empty_like(gaps), torch.zeros_like(gaps)
    tails = []
    for node in nodes:
        sums = torch.mul(below, node, out=weights).exp_().sum(-1, keepdim=True).clamp_min(1e-30)
        mixture.addcmul_(weights, 1 / sums)
        tails.append(sums.log() + largest * node)
    return torch.cat(tails, -1), mixture


def _draw(mixture: torch.Tensor, starts: torch.Tensor, draws: int) -> torch.Tensor:
    """Ids (tokens, draws), drawn in proportion to `mixture`; systematically, from `starts` on."""
    import torch

    sums = mixture.cumsum(-1, dtype=torch.float64)
    places = torch.arange(draws, device=sums.device, dtype=sums.dtype) + starts[:, None].to(sums)
    # `starts` are below one: every place is below the sum and falls on a token that has some of it, if any has
    return torch.searchsorted(sums, places / draws * sums[:, -1:], right=True).clamp_max(sums.shape[-1] - 1)


def unpack(records: Records, temperature: float, settings: CacheSettings, vocabulary: int) -> SparseTeacher:
    """The distributions of `records`, softened by `temperature`, probabilities summing up to one.

    Raises EdgekitError for a temperature that the cache was not written for.
    """
    import numpy as np
    import torch

    inverse = 1 / temperature if temperature > 0 else 0.0
    if not 1 / settings.hottest - 1e-9 <= inverse <= 1 / settings.coolest + 1e-9:
        raise EdgekitError(
            f"the teacher's cache holds temperatures from {settings.coolest:g} to {settings.hottest:g}, not:"
            f" `{temperature:g}`",
            hint="write it anew with `coolest` and `hottest` around the temperatures of the schedule",
        )
    ids = torch.from_numpy(_ids(records)).long()
    gaps = torch.from_numpy(records["gaps"].astype(np.float32)) * -GAP_STEP
    tails = torch.from_numpy(records["tails"].astype(np.float32))
    top, drawn = ids[:, : settings.top], ids[:, settings.top :]
    tail = (tails * torch.tensor(_interpolating(settings.nodes, inverse))).sum(-1)
    logits = gaps[:, : settings.top] * inverse
    # a tail has some probability, however small: no student is infinitely wrong
    tail = tail.clamp_min(_LEAST_LOG_TAIL)
    level = torch.logaddexp(logits.logsumexp(-1), tail)[:, None]
    below = gaps[:, settings.top :]
    log_p = below * inverse - level
    mixed = [below * node - tails[:, place, None] for place, node in enumerate(settings.nodes)]
    proposed = torch.stack(mixed).logsumexp(0) - math.log(len(settings.nodes)) if settings.draws else log_p
    return SparseTeacher(
        ids=top,
        log_probs=logits - level,
        tail_log_mass=tail - level[:, 0],
        tail_ids=drawn,
        tail_log_probs=log_p,
        tail_weights=(log_p - proposed).exp() / max(1, settings.draws),
        vocabulary=vocabulary,
        temperature=temperature,
    )


def sound_records(records: Records, settings: CacheSettings, vocabulary: int) -> bool:
    """Whether every number of `records` is one that `records_of` can have written: a stranger may have."""
    import numpy as np

    ids, tails = _ids(records), records["tails"]
    return bool(
        (ids < vocabulary).all()
        and (np.diff(ids[:, : settings.top], axis=-1) > 0).all()
        and (records["gaps"][:, : settings.top].min(-1) == 0).all()  # the largest logit is among them
        and np.isfinite(tails).all()
        and (np.abs(tails) <= 1e30).all()
    )


def _ids(records: Records) -> NDArray[np.int32]:
    import numpy as np

    parts = records["ids"].astype(np.int32)
    ids: NDArray[np.int32] = parts[..., 0] | (parts[..., 1] << 8) | (parts[..., 2] << 16)
    return ids


def _interpolating(nodes: tuple[float, ...], place: float) -> tuple[float, ...]:
    """What each node's value counts at `place`: Lagrange's polynomials."""
    return tuple(math.prod((place - other) / (node - other) for other in nodes if other != node) for node in nodes)
