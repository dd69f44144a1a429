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
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError
from edgekit.header import read_header, tensor_offsets
from edgekit.progress import Progress, silent
from edgekit.quantize.cells import MIN_CHUNKS, Probe, Sensitivities
from edgekit.quantize.degrading import DEFAULT_TYPES, matrices_of, quantizable, relative_errors, types_for
from edgekit.quantize.extending import extend, judge
from edgekit.quantize.imatrix import check_against, open_imatrix
from edgekit.quantize.outputs import sha256_of
from edgekit.quantize.probing import LOGITS_BYTES, Prober, open_prober
from edgekit.quantize.schedule import HELD_OUT, Job, schedule
from edgekit.records import Header
from edgekit.runtimes.cores import big_cores
from edgekit.storage import from_json, read_bounded, write_record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]
    Errors = Mapping[tuple[str, str], float]

CONTEXT_TOKENS = 512
FEWEST_CHUNKS, MOST_CHUNKS = 4, 16
STAGE = "measuring sensitivity"


_WORTH_ANEW = 4.0
"""So many times the time that a table took is worth measuring anew."""


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
        found = _usable(kept, keys, types, minutes)
        if found is not None:
            return found
    sens = measure(source, imatrix=imatrix, text=text, types=types, minutes=minutes, threads=threads, progress=progress)
    write_record(kept, sens)
    return sens


def _usable(kept: Path, keys: tuple[str, str, str], types: Sequence[str], minutes: float) -> Sensitivities | None:
    try:
        found = from_json(read_bounded(kept), Sensitivities, origin=str(kept))
    except EdgekitError:
        return None  # of an older edgekit, or cut off: measured anew
    own = (found.source_sha256, found.imatrix_sha256, found.text_sha256)
    complete = set(types) <= {cell.type for cell in found.cells} | set(found.left_out)
    # a hasty table is not kept for one who gives much more time; a complete one cannot get better
    thorough = all(cell.measured for cell in found.cells) or found.seconds * _WORTH_ANEW >= minutes * 60
    return found if own == keys and complete and thorough and not found.point else None


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
    importance = importance_of(imatrix, header)
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
    miss, correlation = judge(made, errors)
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


def importance_of(imatrix: Path | None, header: Header) -> dict[str, Rows]:
    """Tensor name → importance of its columns; empty without a file. Raises EdgekitError for another model's."""
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
    most = usable_chunks(prober, header, MOST_CHUNKS)
    count, probes = most, 1
    if math.isfinite(seconds):
        chunk_s = prober.remember([0])
        count = max(min(FEWEST_CHUNKS, most), min(most, int(seconds / (chunk_s * tensors * (1 + HELD_OUT)))))
        probes = max(1, int(seconds / (chunk_s * count)) - 1)
    return [index * prober.possible_chunks // count for index in range(count)], probes


def usable_chunks(prober: Prober, header: Header, wanted: int) -> int:
    """As many of the `wanted` chunks as the text fills and as there is memory for. Raises EdgekitError for too few."""
    most = min(wanted, prober.possible_chunks, LOGITS_BYTES // (4 * prober.scored_tokens * header.vocabulary))
    if most < MIN_CHUNKS:
        raise EdgekitError(
            f"the text is too short to measure on: it fills `{prober.possible_chunks}` chunks",
            hint=f"give a text of {MIN_CHUNKS} × {CONTEXT_TOKENS} tokens at least; {wanted} chunks are used",
        )
    return most


def _run(prober: Prober, jobs: Sequence[Job], deadline: float, progress: Progress) -> list[Probe]:
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
