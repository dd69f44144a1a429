"""The settings that may be tried: a grid around llama.cpp's defaults, without the points that miss the memory limit.

Whether a point meets the limit is predicted from the header for every device's own instruction set; nothing is run to
find out, and what misses is never run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.memory import figure_of, predict_memory
from edgekit.memory.tensors import Metric
from edgekit.records import Estimate, Header, MemoryBreakdown, Settings, Status

UBATCHES = (512, 256, 128, 64)
CONTEXTS = (8192, 4096, 2048, 1024, 512)
"""Shorter contexts are another product: they are tried where nothing fits the one asked for."""

EVERYTHING = frozenset(
    ("threads", "repack", "flash_attention", "kv_type", "mmap", "ubatch_tokens", "output_rows"),
)
SAME_KERNELS = EVERYTHING - {"threads"}
"""What transfers to a device of this host's instruction set: its kernels are the same, its cores are not."""
ANYWHERE = frozenset(("mmap", "ubatch_tokens", "output_rows"))
"""What transfers to every device: no kernel of decoding depends on it. Repacking, cache types and attention are other
kernels there, and threads other cores.
"""

IDLE_SHARE = 0.1
"""What a byte that is resident or reserved, and not used, counts of one that is. By judgement: it crowds out the page
cache, monitors show it, and some systems kill by it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A machine that the settings are for: the bytes a process may take there, by the metric that counts there."""

    name: str
    title: str
    isa: str
    limit: Estimate
    metric: Metric = "working_set"
    os: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Values of every setting that may change, the default first, and the machines that all of them must fit.

    `transfers` are the settings whose effect on speed, measured on this host, says something of the targets.
    """

    header: Header
    default: Settings
    values: Mapping[str, tuple[Any, ...]]
    targets: tuple[Target, ...]
    transfers: frozenset[str]

    def grid(self, context_tokens: int) -> Iterator[Settings]:
        """Every point of this context that llama.cpp would take, the defaults first."""
        base = replace(self.default, context_tokens=context_tokens)
        for choice in product(*self.values.values()):
            settings = replace(base, **dict(zip(self.values, choice, strict=True)))
            if settings.kv_type == "f16" or settings.flash_attention != "off":
                yield settings

    def variants(self, settings: Settings, name: str) -> Iterator[Settings]:
        """`settings` with every other value of one setting; a quantized cache brings flash attention with it."""
        for value in self.values.get(name, ()):
            if value == getattr(settings, name):
                continue
            changed = replace(settings, **{name: value})
            if changed.kv_type != "f16" and changed.flash_attention == "off":
                continue
            yield changed

    def feasible(self, context_tokens: int) -> dict[Settings, Status]:
        """Whether each point of the grid meets the limit; threads take no memory to speak of."""
        known: dict[Settings, Status] = {}
        found: dict[Settings, Status] = {}
        for point in self.grid(context_tokens):
            alike = replace(point, threads=0)
            if alike not in known:
                known[alike] = self.status(alike)
            found[point] = known[alike]
        return found

    def memory(self, settings: Settings, target: Target) -> MemoryBreakdown | None:
        """What `settings` take on `target`; `None` where llama.cpp refuses them for this model."""
        try:
            return predict_memory(self.header, settings, target.isa, os=target.os)
        except EdgekitError:
            return None

    def status(self, settings: Settings) -> Status:
        """Whether `settings` meet the limit on every target: pass only if the whole range does on each."""
        states = {self._status_on(settings, target) for target in self.targets}
        return "fail" if "fail" in states else "unknown" if "unknown" in states else "pass"

    def _status_on(self, settings: Settings, target: Target) -> Status:
        memory = self.memory(settings, target)
        return "fail" if memory is None else meets(needed(memory, target), target.limit)

    def weight(self, settings: Settings) -> float:
        """For ordering: the most bytes any target takes by its own metric, and a part of those that lie idle."""
        found = ((target, self.memory(settings, target)) for target in self.targets)
        return max((_weight(memory, target) for target, memory in found if memory is not None), default=0.0)


def _weight(memory: MemoryBreakdown, target: Target) -> float:
    idle = max(0.0, memory.resident.value - needed(memory, target).value) + memory.reserved_bytes
    return needed(memory, target).value + IDLE_SHARE * idle


def needed(memory: MemoryBreakdown, target: Target) -> Estimate:
    """The figure of `memory` that `target` is judged by."""
    return figure_of(memory, target.metric)


def meets(figure: Estimate, limit: Estimate) -> Status:
    """Pass when the whole range lies within what is surely there, fail when it lies beyond all that may be."""
    return "pass" if figure.high <= limit.low else "fail" if figure.low > limit.high else "unknown"


def make_space(
    header: Header,
    default: Settings,
    targets: Sequence[Target],
    *,
    threads: Sequence[int],
    pinned: Mapping[str, Any],
    transfers: frozenset[str],
) -> Space:
    """The space around `default`. `threads` are the counts to try, `pinned` the settings that must not change.

    Settings outside `transfers` keep their default, but for those that a smaller memory may need.
    """
    values: dict[str, tuple[Any, ...]] = {
        "threads": tuple(dict.fromkeys((default.threads, *threads))) if "threads" in transfers else (default.threads,),
        "repack": (default.repack, not default.repack),
        "flash_attention": ("auto", "off") if "flash_attention" in transfers else (default.flash_attention,),
        "kv_type": ("f16", "q8_0"),
        "mmap": (default.mmap, not default.mmap),
        "ubatch_tokens": tuple(
            size for size in UBATCHES if size <= default.context_tokens or size == default.ubatch_tokens
        ),
        "output_rows": (0, 1),
    }
    values |= {name: (value,) for name, value in pinned.items() if name in values}
    kept = {name: value for name, value in pinned.items() if hasattr(default, name)}
    return Space(
        header=header, default=replace(default, **kept), values=values, targets=tuple(targets), transfers=transfers
    )


def contexts(space: Space, *, pinned: bool) -> tuple[int, ...]:
    """The context asked for, then shorter ones unless it was the user who asked."""
    asked = space.default.context_tokens
    return (asked,) if pinned else (asked, *(size for size in CONTEXTS if size < asked))


def pain(settings: Settings, default: Settings) -> float:
    """How much a point costs the user beside speed, for starting at the least: the order of
    `edgekit.memory.leaner_settings`, by judgement.
    """
    ubatch = UBATCHES.index(settings.ubatch_tokens) if settings.ubatch_tokens in UBATCHES else 0
    return (
        0.1 * (settings.output_rows != default.output_rows)
        + ubatch
        + 2.5 * (settings.kv_type != default.kv_type)
        + 3.5 * (settings.mmap != default.mmap)
        + 4.5 * (settings.repack != default.repack)
        + 5.0 * (settings.flash_attention != default.flash_attention)
        + 9.0 * (settings.threads != default.threads)
    )
