"""Where the KLD of a quantized artifact comes from: which tensors, and what type would mend them.

One tensor at a time becomes, in the full-precision model, what it is in the artifact, byte for byte as dequantized
(`probing`), and the KL divergence that this alone brings is measured on the same chunks of text. Where there is no time
for every tensor, those of one kind in neighbouring layers go together, and the worst of these groups are halved as
long as time allows. A group stands out where its KLD lies beyond that of a typical one; the type that would mend it is
looked for in the error table of the full-precision tensor (KLD is proportional to the squared error, `extending`), and
measured like the rest.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.progress import Progress, silent
from edgekit.quantize.cells import MIN_CHUNKS, mean_over_chunks
from edgekit.quantize.culprits import Found, Mending, findings_of, method_of, rows_of
from edgekit.quantize.mending import MENDED, is_damaged, mending_types
from edgekit.quantize.outputs import sha256_of
from edgekit.quantize.pairing import Pair, as_matrix, open_pair
from edgekit.quantize.parts import Part, label_of, outstanding
from edgekit.quantize.probing import Prober, open_prober
from edgekit.quantize.schedule import groups
from edgekit.quantize.sensitivity import CONTEXT_TOKENS, FEWEST_CHUNKS, usable_chunks
from edgekit.records import Layers, Unknown
from edgekit.runtimes.cores import big_cores

STAGE = "finding where the KLD comes from"

TRIES = 3
"""Types measured for one group at most."""

KEPT_BACK = 4
"""Probes that are left for those."""

WORTH_HALVING = 0.02
"""Groups with less of the sum are not looked into."""


@dataclass(slots=True)
class _Allowance:
    """How many probes may still be made: a number, or as many as there is time for."""

    probes: float
    deadline: float
    probe_s: float = 0.0

    def left(self) -> float:
        in_time = (self.deadline - time.monotonic()) / self.probe_s if self.probe_s else math.inf
        return min(self.probes, in_time)


def find_outliers(
    artifact: Path,
    reference: Path,
    text: str,
    *,
    chunks: int = 8,
    minutes: float = 10.0,
    threads: int = 0,
    probes: int | None = None,
    artifact_sha256: str = "",
    reference_sha256: str = "",
    progress: Progress = silent,
) -> Layers:
    """Which tensors of the quantized GGUF `artifact` its KLD from `reference`, the full-precision GGUF it was made of,
    comes from, the worst first; nats per token on `chunks` chunks of `text`.

    Takes about `minutes`: on less text where that is short (four chunks at least), and longer only where not even so
    every kind of tensor could be measured once. A number of `probes` in its place makes what is measured independent of
    the machine's speed. Hashes that are given are not computed. Raises EdgekitError for files that are no such pair
    (`open_pair`), other tokenizers, and a text too short; WorkerDied when llama.cpp dies of a model.
    """
    started = time.monotonic()
    text_sha256 = _identity(text)
    if chunks < MIN_CHUNKS:
        raise EdgekitError(f"a range takes {MIN_CHUNKS} chunks of text at least: `{chunks}`")
    threads = threads or big_cores()
    pair = open_pair(artifact, reference, threads=threads)
    artifact_sha256 = artifact_sha256 or sha256_of([artifact], progress=progress)
    reference_sha256 = reference_sha256 or sha256_of([reference], progress=progress)
    context = min(CONTEXT_TOKENS, pair.reference.context_train)
    allowance = _Allowance(
        probes=math.inf if probes is None else probes,
        deadline=started + 60 * minutes if probes is None else math.inf,
    )
    with open_prober(reference, pair.reference, {}, beside=artifact, context_tokens=context, threads=threads) as prober:
        prober.read(text, context)
        prober.remember(_chunks(prober, pair, chunks, allowance), progress)
        found = _hunt(_Hunt(prober, pair, allowance, progress), prober.score_beside(), threads)
    return Layers(
        method=method_of(found.parts),
        rows=rows_of(pair, found),
        sum=mean_over_chunks(found.together),
        whole=mean_over_chunks(found.whole),
        weights=mean_over_chunks(found.weights),
        chunks=len(found.whole),
        text_sha256=text_sha256,
        reference_sha256=reference_sha256,
        artifact_sha256=artifact_sha256,
        findings=tuple(findings_of(pair, found)),
    )


def _chunks(prober: Prober, pair: Pair, wanted: int, allowance: _Allowance) -> list[int]:
    """Which chunks to score, spread over the text: fewer where the time is short for every kind of tensor on all."""
    count = usable_chunks(prober, pair.reference, wanted)
    seconds = allowance.deadline - time.monotonic()
    if math.isfinite(seconds):
        kinds = len(groups([one.ours.name for one in pair.changed], 1))
        affordable = int(seconds / prober.remember([0]) / (kinds + 2))  # the whole, and all tensors at once
        count = max(min(FEWEST_CHUNKS, count), min(affordable, count))
    return [index * prober.possible_chunks // count for index in range(count)]


def _hunt(hunt: _Hunt, whole: tuple[float, ...], threads: int) -> Found:
    weights = hunt.measure(hunt.names).kld
    parts = sorted(hunt.parts(), key=lambda part: part.mean, reverse=True)
    with ThreadPoolExecutor(threads) as pool:
        mended = [hunt.mend(part, pool) if loud else None for part, loud in zip(parts, outstanding(parts), strict=True)]
    return Found(tuple(parts), tuple(mended), whole, weights)


class _Hunt:
    """The probes of one run."""

    def __init__(self, prober: Prober, pair: Pair, allowance: _Allowance, progress: Progress) -> None:
        self._prober, self._pair, self._allowance, self._progress = prober, pair, allowance, progress
        self._changed = {one.ours.name: one for one in pair.changed}
        self.names = tuple(self._changed)

    def measure(self, names: Sequence[str]) -> Part:
        """The KLD of the full-precision model with these tensors as they are in the artifact."""
        for name in names:
            self._prober.swap(name, as_matrix(self._changed[name].ours, self._pair.ours[name]))
        return Part(tuple(names), self._score(names))

    def _score(self, names: Iterable[str]) -> tuple[float, ...]:
        started = time.monotonic()
        kld = self._prober.score()
        self._allowance.probe_s = time.monotonic() - started
        self._allowance.probes -= 1
        self._prober.restore(names)
        return kld

    def parts(self) -> list[Part]:
        """Every changed tensor alone, or in groups that cover them all, the worst ones halved as far as probes go."""
        left = self._allowance.left() - KEPT_BACK
        chosen = (
            [(name,) for name in self.names] if left >= len(self.names) else groups(self.names, max(1, int(left / 2)))
        )
        parts: list[Part] = []
        for done, group in enumerate(chosen):
            self._progress(STAGE, done, len(chosen), label_of(group))
            parts.append(self.measure(group))
        self._progress(STAGE, len(chosen), len(chosen))
        while self._allowance.left() - KEPT_BACK >= 2 and (worst := _worth_halving(parts)) is not None:
            self._progress(STAGE, len(parts), len(parts) + 1, label_of(worst.names))
            half = len(worst.names) // 2
            parts.remove(worst)
            parts += [self.measure(worst.names[:half]), self.measure(worst.names[half:])]
        return parts

    def mend(self, part: Part, pool: ThreadPoolExecutor) -> Mending:
        """The cheapest type that takes most of the part's KLD away, foreseen by the error table and then measured."""
        self._progress(STAGE, 0, 0, f"a type for {label_of(part.names)}")
        group = [self._changed[name] for name in part.names]
        if is_damaged(self._pair, group, pool):
            return Mending(damaged=True)
        for kind, extra_bytes in mending_types(self._pair, group, pool)[:TRIES]:
            if self._allowance.left() < 1:
                return Mending(kind, extra_bytes, Unknown(reason="foreseen by the error table, not measured"))
            self._prober.put(dict.fromkeys(part.names, kind))
            kld = self._score(part.names)
            if math.fsum(kld) <= MENDED * math.fsum(part.kld):
                return Mending(kind, extra_bytes, mean_over_chunks(kld))
        return Mending()


def _worth_halving(parts: Sequence[Part]) -> Part | None:
    """The group of several tensors that brings most, if that is enough to be worth two probes."""
    worst = max((part for part in parts if len(part.names) > 1), key=lambda part: part.mean, default=None)
    total = math.fsum(part.mean for part in parts)
    return worst if worst is not None and worst.mean > WORTH_HALVING * total else None


def _identity(text: str) -> str:
    """SHA-256 of the text's UTF-8. Raises EdgekitError for half a character."""
    try:
        return hashlib.sha256(text.encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise EdgekitError(f"the text holds half a character at `{error.start}`", hint="read it as UTF-8") from None
