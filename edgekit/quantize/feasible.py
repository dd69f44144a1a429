"""Whether a budget can be kept at all, said before a quarter of an hour of measuring and not after."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.memory.tensors import retyped
from edgekit.quantize.cells import MIN_CHUNKS, Cell, Probe, Sensitivities
from edgekit.quantize.degrading import DEFAULT_TYPES, quantizable
from edgekit.quantize.ggml_types import fits
from edgekit.quantize.solver import solve
from edgekit.records import Budget, Device, Header, Settings


def require_possible(
    header: Header,
    *,
    budget: Budget,
    device: Device | None = None,
    settings: Settings | None = None,
    isa: str = "",
    min_decode: float = 0.0,
    types: Sequence[str] = DEFAULT_TYPES,
) -> None:
    """Raise the EdgekitError that `solve` would raise for want of room or speed, with the smallest or fastest that
    works. Sizes stand in for the KLD that nobody has measured yet: whether a plan exists does not depend on it.
    """
    cells = tuple(
        Cell(
            tensor=tensor.name,
            type=kind,
            error=0.0,
            kld=float(retyped(tensor, kind).size_bytes),
            probe=0,
            measured=False,
        )
        for tensor in quantizable(header)
        for kind in types
        if fits(kind, tensor.shape[0])
    )
    nothing = (0.0,) * MIN_CHUNKS
    unmeasured = Sensitivities(
        source_sha256="",
        imatrix_sha256="",
        text_sha256="",
        runtime="",
        context_tokens=0,
        scored_tokens=(0,) * MIN_CHUNKS,
        seconds=0.0,
        base=nothing,
        probes=(Probe(tensors=(), type="", kld=nothing),),
        cells=cells,
    )
    solve(unmeasured, header, budget=budget, device=device, settings=settings, isa=isa, min_decode=min_decode)
