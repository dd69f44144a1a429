"""How much quality each tensor loses in each type: measured on the full-precision model, as far as time allows.

One tensor at a time is degraded in place (`probing`) and the KL divergence from the unchanged model is measured over
the same chunks of text. Small models: every tensor, in as many types as there is time for. Large models: groups of
tensors of one kind in neighbouring layers. What was not measured is extended by the error table (`degrading`): KLD is
proportional to the mean squared error of a tensor's outputs, with a factor of its own (or its group's). Cells that were
kept from the extension say how good it is.
"""

from __future__ import annotations

import hashlib
import math
import re
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError
from edgekit.header import read_header, tensor_offsets
from edgekit.progress import Progress, silent
from edgekit.quantize.cells import MIN_CHUNKS, Cell, Probe, Sensitivities
from edgekit.quantize.degrading import DEFAULT_TYPES, matrices_of, quantizable, relative_errors, types_for
from edgekit.quantize.imatrix import check_against, open_imatrix
from edgekit.quantize.outputs import sha256_of
from edgekit.quantize.probing import LOGITS_BYTES, Prober, open_prober
from edgekit.records import Header, TensorInfo
from edgekit.runtimes.cores import big_cores
from edgekit.storage import from_json, read_bounded, write_record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]
    Errors = Mapping[tuple[str, str], float]

LADDER = (
    "q4_k", "q3_k", "q5_k", "iq4_xs", "q6_k", "iq4_nl", "q2_k", "q5_0", "q4_0", "q5_1", "q8_0", "iq3_s", "iq3_xxs",
)  # fmt: skip
"""Types in the order in which they are worth measuring: the middle first, then what brackets it, slow ones last."""

CONTEXT_TOKENS = 512
FEWEST_CHUNKS, MOST_CHUNKS = 4, 16
HELD_OUT = 0.1
"""Part of the probes that no cell rests on."""

STAGE = "measuring sensitivity"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    tensors: tuple[str, ...]
    type: str
    held_out: bool = False


def load_or_measure(
    kept: Path,
    source: Path,
    *,
    imatrix: Path | None,
    text: str,
    types: Sequence[str] = DEFAULT_TYPES,
    minutes: float = 15.0,
    threads: int = 0,
    progress: Progress = silent,
) -> Sensitivities:
    """The sensitivities in the file `kept` where they are of this very source, importance matrix, text and types;
    measured and written there otherwise.
    """
    keys = _hashes(source, imatrix, text, progress)
    if kept.is_file():
        found = _usable(kept, keys, types)
        if found is not None:
            return found
    sens = measure(source, imatrix=imatrix, text=text, types=types, minutes=minutes, threads=threads, progress=progress)
    write_record(kept, sens)
    return sens


def _usable(kept: Path, keys: tuple[str, str, str], types: Sequence[str]) -> Sensitivities | None:
    try:
        found = from_json(read_bounded(kept), Sensitivities, origin=str(kept))
    except EdgekitError:
        return None  # of an older edgekit, or cut off: measured anew
    own = (found.source_sha256, found.imatrix_sha256, found.text_sha256)
    complete = set(types) <= {cell.type for cell in found.cells} | set(found.left_out)
    return found if own == keys and complete and not found.point else None


def measure(
    source: Path,
    *,
    imatrix: Path | None,
    text: str,
    types: Sequence[str] = DEFAULT_TYPES,
    minutes: float = 15.0,
    probes: int | None = None,
    threads: int = 0,
    progress: Progress = silent,
) -> Sensitivities:
    """KLD that each tensor of the full-precision GGUF at `source` adds in each of `types`, nats per token on `text`.

    `imatrix` weighs columns as it will when the model is quantized. Takes about `minutes`, longer only where every
    kind of tensor could not be measured once; a number of `probes` in its place makes what is measured independent of
    the machine's speed. Raises EdgekitError for a quantized or sharded source, a text too short,
    and files that cannot be read; WorkerDied (exit code 4) when llama.cpp dies of the model.
    """
    started = time.monotonic()
    threads = threads or big_cores()
    keys = _hashes(source, imatrix, text, progress)
    header = read_header(source)
    tensors = quantizable(header)
    importance = _importance(imatrix, header)
    errors = error_table(source, header, importance, types, threads=threads, progress=progress)
    allowed = {tensor.name: [kind for kind in types if (tensor.name, kind) in errors] for tensor in tensors}
    context = min(CONTEXT_TOKENS, header.context_train)
    with open_prober(source, header, importance, context_tokens=context, threads=threads) as prober:
        prober.read(text, context)
        deadline = started + 60 * minutes if probes is None else math.inf
        chunks, count = _affordable(prober, len(tensors), header, deadline - time.monotonic())
        prober.remember(chunks, progress)
        made = _run(prober, schedule(tensors, allowed, probes or count), deadline, progress)
        runtime, scored = prober.runtime, prober.scored_tokens
    cells = extend(made, errors)
    miss, correlation = _judge(made, errors)
    return Sensitivities(
        source_sha256=keys[0],
        imatrix_sha256=keys[1],
        text_sha256=keys[2],
        runtime=runtime,
        context_tokens=context,
        scored_tokens=(scored,) * len(chunks),
        seconds=time.monotonic() - started,
        base=(0.0,) * len(chunks),
        left_out=tuple(kind for kind in types if not any(cell.type == kind for cell in cells)),
        probes=tuple(made),
        cells=tuple(cells),
        extension_error=miss,
        extension_correlation=correlation,
    )


def _hashes(source: Path, imatrix: Path | None, text: str, progress: Progress) -> tuple[str, str, str]:
    return (
        sha256_of([source], progress=progress),
        sha256_of([imatrix]) if imatrix else "",
        hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(),
    )


def _importance(imatrix: Path | None, header: Header) -> dict[str, Rows]:
    if imatrix is None:
        return {}
    matrix = open_imatrix(imatrix)
    check_against(matrix, header, imatrix)
    return dict(matrix.values)


def error_table(
    source: Path,
    header: Header,
    importance: Mapping[str, Rows],
    types: Sequence[str],
    *,
    threads: int,
    progress: Progress = silent,
) -> dict[tuple[str, str], float]:
    """(tensor, type) → mean squared error of the tensor's outputs relative to their mean square, for every tensor
    that can be quantized and every type it can take; its own type has none.
    """
    import numpy as np

    raw = np.memmap(source, np.uint8, "r")
    starts = dict(zip((tensor.name for tensor in header.tensors), tensor_offsets(source), strict=True))
    tensors = quantizable(header)
    table: dict[tuple[str, str], float] = {}
    with ThreadPoolExecutor(threads) as pool:
        for done, tensor in enumerate(tensors):
            progress("tabulating errors", done, len(tensors), tensor.name)
            data = raw[starts[tensor.name] : starts[tensor.name] + tensor.size_bytes]
            parts = matrices_of(tensor, data, importance)
            kinds = types_for(tensor, types, weighed=tensor.name in importance)
            for kind, error in relative_errors(parts, kinds, pool).items():
                table[tensor.name, kind] = error
    return table


# ---- what to measure ------------------------------------------------------------------------------------------------


def _affordable(prober: Prober, tensors: int, header: Header, seconds: float) -> tuple[list[int], int]:
    """Which chunks to score, spread over the text, and how many probes `seconds` allow on them."""
    most = min(MOST_CHUNKS, prober.possible_chunks, LOGITS_BYTES // (4 * prober.scored_tokens * header.vocabulary))
    if most < MIN_CHUNKS:
        raise EdgekitError(
            f"the text is too short to measure on: it fills `{prober.possible_chunks}` chunks",
            hint=f"give a text of {MIN_CHUNKS} × {CONTEXT_TOKENS} tokens at least; {MOST_CHUNKS} chunks are used",
        )
    count, probes = most, 1
    if math.isfinite(seconds):
        chunk_s = prober.remember([0])
        count = max(min(FEWEST_CHUNKS, most), min(most, int(seconds / (chunk_s * tensors * (1 + HELD_OUT)))))
        probes = max(1, int(seconds / (chunk_s * count)) - 1)
    return [index * prober.possible_chunks // count for index in range(count)], probes


def schedule(tensors: Sequence[TensorInfo], allowed: Mapping[str, Sequence[str]], probes: int) -> list[_Job]:
    """About `probes` probes: every tensor in one type, some that judge the extension, every tensor in the next type.

    Where there are more tensors than probes, groups of one kind in neighbouring layers, and some single tensors.
    """
    kept = max(1, round(probes * (1 - HELD_OUT)))
    rungs = {tensor.name: [kind for kind in LADDER if kind in allowed[tensor.name]] for tensor in tensors}
    if kept < len(tensors):
        grouped = [_Job(tensors=group, type=rungs[group[0]][0]) for group in _groups([t.name for t in tensors], kept)]
        singles = [name for job in grouped if len(job.tensors) > 1 for name in job.tensors]
        wanted = [_Job(tensors=(name,), type=rungs[name][0], held_out=True) for name in singles]
        return grouped + _spread(wanted, probes - kept)
    jobs: list[_Job] = []
    more: list[_Job] = []
    for rung in range(len(LADDER)):
        for name, kinds in rungs.items():
            if rung < len(kinds):
                (jobs if len(jobs) < kept else more).append(_Job(tensors=(name,), type=kinds[rung]))
    judges = [replace(job, held_out=True) for job in _spread(more, probes - kept)]
    # before what may fall to the deadline
    return jobs[: len(tensors)] + judges + jobs[len(tensors) :]


def _spread(jobs: Sequence[_Job], count: int) -> list[_Job]:
    count = min(count, len(jobs))
    return [jobs[index * len(jobs) // count] for index in range(count)]


def _groups(names: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """At most `most` groups (or one a kind of tensor) of tensors of one kind in neighbouring layers."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"^blk\.\d+\.", "", name), []).append(name)
    bands = max(1, most // len(kinds))
    while sum(min(bands + 1, len(own)) for own in kinds.values()) <= most:
        bands += 1
    groups = []
    for own in kinds.values():
        count = min(bands, len(own))
        groups += [tuple(own[i * len(own) // count : (i + 1) * len(own) // count]) for i in range(count)]
    return groups


def _run(prober: Prober, jobs: Sequence[_Job], deadline: float, progress: Progress) -> list[Probe]:
    """The probes of `jobs` in turn until the deadline; those without which a tensor would have none in any case."""
    probes: list[Probe] = []
    covered: set[str] = set()
    for done, job in enumerate(jobs):
        if time.monotonic() > deadline and covered.issuperset(job.tensors):
            continue
        progress(STAGE, done, len(jobs), f"{job.tensors[0]} {job.type}")
        prober.put(dict.fromkeys(job.tensors, job.type))
        probes.append(Probe(tensors=job.tensors, type=job.type, kld=prober.score(), held_out=job.held_out))
        prober.restore(job.tensors)
        covered.update(() if job.held_out else job.tensors)
    progress(STAGE, len(jobs), len(jobs))
    return probes


# ---- what follows ---------------------------------------------------------------------------------------------------


def extend(probes: Sequence[Probe], errors: Errors) -> list[Cell]:
    """A cell for every tensor and type in `errors`, from the probes that were not held out."""
    own: dict[str, list[tuple[float, float, int]]] = {}
    measured: dict[tuple[str, str], int] = {}
    for index, probe in enumerate(probes):
        if probe.held_out:
            continue
        kld = statistics.fmean(probe.kld)
        whole = math.fsum(errors[name, probe.type] for name in probe.tensors)
        for name in probe.tensors:
            error = errors[name, probe.type]
            share = error / whole if whole else 1 / len(probe.tensors)
            own.setdefault(name, []).append((error, kld * share, index))
            if len(probe.tensors) == 1:
                measured[name, probe.type] = index
    cells = []
    for (name, kind), error in errors.items():
        index = measured.get((name, kind), -1)
        if index >= 0:
            kld = statistics.fmean(probes[index].kld)
        else:
            kld, index = _extended(own[name], error)
        cells.append(Cell(tensor=name, type=kind, error=error, kld=kld, probe=index, measured=(name, kind) in measured))
    return cells


def _extended(known: Iterable[tuple[float, float, int]], error: float) -> tuple[float, int]:
    """KLD at `error` and the probe it rests on, from (error, KLD, probe) of the tensor: in proportion to the error
    from the nearest one, between two along the line through both in logarithms.
    """
    points = sorted(point for point in known if point[0] > 0 and point[1] > 0)
    if not points or error <= 0:
        return 0.0, next(iter(known))[2]
    below = [point for point in points if point[0] <= error]
    above = [point for point in points if point[0] > error]
    if below and above:
        (e0, k0, first), (e1, k1, second) = below[-1], above[0]
        part = math.log(error / e0) / math.log(e1 / e0)
        return k0 * (k1 / k0) ** part, first if part < 0.5 else second
    nearest, kld, index = below[-1] if below else above[0]
    return kld * error / nearest, index


def _judge(probes: Sequence[Probe], errors: Errors) -> tuple[float | None, float | None]:
    """(median factor by which extended cells miss held-out probes, correlation of their logarithms)."""
    cells = {(cell.tensor, cell.type): cell.kld for cell in extend(probes, errors)}
    pairs = [
        (math.log(cells[probe.tensors[0], probe.type]), math.log(statistics.fmean(probe.kld)))
        for probe in probes
        if probe.held_out and cells[probe.tensors[0], probe.type] > 0 and statistics.fmean(probe.kld) > 0
    ]
    if len(pairs) < 3:
        return None, None
    miss = math.exp(statistics.median(abs(ours - theirs) for ours, theirs in pairs))
    ours, theirs = zip(*pairs, strict=True)
    flat = len(set(ours)) < 2 or len(set(theirs)) < 2
    return miss, None if flat else statistics.correlation(ours, theirs)
