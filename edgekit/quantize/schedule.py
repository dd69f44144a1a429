"""Which tensors to probe in which type, when there is not time for all in all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgekit.records import TensorInfo

LADDER = (
    "q4_k", "iq3_s", "q5_k", "iq4_xs", "q6_k", "q3_k", "iq4_nl", "q8_0", "q5_0", "q4_0", "q2_k", "q5_1", "iq3_xxs",
)  # fmt: skip
"""Types in the order in which they are worth measuring: the middle first, then those that plans are mostly made of."""

HELD_OUT = 0.1
"""Part of the probes that no cell rests on."""
OTHER_TYPES = 0.2
"""Part of the probes that tell how types differ beyond their errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Tensors to degrade at once, and the type. `held_out`: only to judge by."""

    tensors: tuple[str, ...]
    type: str
    held_out: bool = False


def schedule(tensors: Sequence[TensorInfo], allowed: Mapping[str, Sequence[str]], probes: int) -> list[Job]:
    """About `probes` jobs, what matters most first.

    Every tensor in one type, some in others that judge, some in every other type, and as many whole rounds of the next
    types as there is room for. Where there are more tensors than probes, groups of one kind in neighbouring layers
    take the tensors' place.
    """
    rungs = {tensor.name: [kind for kind in LADDER if kind in allowed[tensor.name]] for tensor in tensors}
    judging, other = max(1, round(probes * HELD_OUT)), round(probes * OTHER_TYPES)
    room = max(1, probes - judging - other)
    if room < len(tensors):
        return _grouped(tensors, rungs, room, other, judging)
    rounds = _rounds(rungs)
    whole, at = 0, 0
    while whole < len(rounds) and at + len(rounds[whole]) <= room:
        at += len(rounds[whole])
        whole += 1
    rest = [job for jobs in rounds[whole:] for job in jobs]
    judges = spread(rest, judging)
    others = spread([job for job in rest if job not in set(judges)], other + room - at)
    held = [replace(job, held_out=True) for job in judges]
    return [*rounds[0], *held, *others, *(job for jobs in rounds[1:whole] for job in jobs)]


def _rounds(rungs: Mapping[str, Sequence[str]]) -> list[list[Job]]:
    """Every tensor in its first type, then in its second, …"""
    longest = max(map(len, rungs.values()))
    return [
        [Job(tensors=(name,), type=kinds[step]) for name, kinds in rungs.items() if step < len(kinds)]
        for step in range(longest)
    ]


def _grouped(
    tensors: Sequence[TensorInfo], rungs: Mapping[str, Sequence[str]], room: int, other: int, judging: int
) -> list[Job]:
    jobs = [Job(tensors=group, type=rungs[group[0]][0]) for group in groups([one.name for one in tensors], room)]
    singles = [name for job in jobs if len(job.tensors) > 1 for name in job.tensors]
    judges = [Job(tensors=(name,), type=rungs[name][0], held_out=True) for name in singles]
    # other types on the smaller half of the groups: slow types are slower the more there is to quantize
    size = {tensor.name: tensor.size_bytes for tensor in tensors}
    small = sorted(jobs, key=lambda job: sum(size[name] for name in job.tensors))[: max(1, len(jobs) // 2)]
    steps = range(1, max(map(len, rungs.values())))
    others = [
        replace(job, type=rungs[job.tensors[0]][step])
        for step in steps
        for job in small
        if step < len(rungs[job.tensors[0]])
    ]
    return [*jobs, *spread(judges, judging), *spread(others, other)]


def spread(jobs: Sequence[Job], count: int) -> list[Job]:
    """`count` of the jobs, evenly spaced."""
    count = max(0, min(count, len(jobs)))
    return [jobs[index * len(jobs) // count] for index in range(count)]


def groups(names: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """At most `most` groups (or one a kind of tensor) of tensors of one kind in neighbouring layers."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"^blk\.\d+\.", "", name), []).append(name)
    bands = 1
    while sum(min(bands + 1, len(own)) for own in kinds.values()) <= most:
        bands += 1
        if bands > len(names):
            break
    found = []
    for own in kinds.values():
        count = min(bands, len(own))
        found += [tuple(own[i * len(own) // count : (i + 1) * len(own) // count]) for i in range(count)]
    return found
