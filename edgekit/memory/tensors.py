"""What one tensor in one type costs in memory: the parts that `predict_memory` adds up.

A plan of types is chosen tensor by tensor, so its memory must be a sum over tensors; it is, because neither cache nor
compute buffer depends on the weights' types.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from edgekit.header.ggml import BLOCK
from edgekit.memory.repack import features_of, repacked_bytes
from edgekit.records import Header, Settings, TensorInfo

Metric = Literal["working_set", "unevictable"]
"""`MemoryBreakdown`'s figures that a device's memory is judged by."""


HUGE_PAGE_BYTES = 2**21
"""Of x86-64, and of arm64 with pages of 4 KB. With pages of 16 KB huge ones are larger, and a file is not read ahead in
steps that would fill one.
"""


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a tensor's bytes lie: as in the file; copied into the kernels' layout; used as stored on every token;
    only looked up, one row per token.
    """

    stored: int
    repacked: int
    read: int
    idle: int


def place(tensor: TensorInfo, *, tied: bool, repack: bool, features: frozenset[str]) -> Placed:
    """Where llama.cpp's CPU backend puts a tensor. `tied`: the token table is the output matrix too."""
    is_table = tensor.name == "token_embd.weight"
    is_matrix = tensor.name.endswith(".weight") and (not is_table or tied)
    copy = repacked_bytes(tensor, features, expert=is_expert(tensor)) if repack and is_matrix else 0
    # looked up as stored; its repacked copy, if any, is the output matrix
    idle = tensor.size_bytes if is_table and (copy or not tied) else 0
    read = tensor.size_bytes if not idle and not copy else 0
    return Placed(stored=tensor.size_bytes, repacked=copy, read=read, idle=idle)


def huge_page_bytes(header: Header, *, repack: bool, features: frozenset[str]) -> int:
    """Bytes by which the pages of `HUGE_PAGE_BYTES` that decoding touches exceed what it reads. Small tensors (norms)
    between repacked ones keep much of those. Where in a page the data begin is not in the header: it moves the sum by
    a page or two.
    """
    read, pages, begins, shard = 0, 0, 0, -1
    last = -1  # a page may hold several tensors: each counts once
    for tensor in header.tensors:
        if tensor.shard != shard:
            begins, last, shard = 0, -1, tensor.shard
        placed = place(tensor, tied=header.tied_embedding, repack=repack, features=features)
        ends = begins + tensor.size_bytes
        if placed.read:
            first, final = begins // HUGE_PAGE_BYTES, (ends - 1) // HUGE_PAGE_BYTES
            read += placed.read
            pages += final - max(first, last + 1) + 1
            last = final
        begins = ends
    return max(0, min(pages * HUGE_PAGE_BYTES, sum(tensor.size_bytes for tensor in header.tensors)) - read)


def memory_cost(
    tensor: TensorInfo,
    header: Header,
    settings: Settings,
    isa: str,
    metric: Metric = "working_set",
) -> int:
    """Bytes by which `tensor` raises `metric` of `predict_memory` for `header`'s model: what all tensors cost differs
    from the prediction by a constant. Raises EdgekitError for an instruction set edgekit does not know.
    """
    placed = place(tensor, tied=header.tied_embedding, repack=settings.repack, features=features_of(isa))
    if not settings.mmap:
        return placed.repacked + placed.read + placed.idle
    return placed.repacked + (placed.read if metric == "working_set" else 0)


def retyped(tensor: TensorInfo, kind: str) -> TensorInfo:
    """`tensor` as type `kind`. Raises ValueError where its rows are no whole number of blocks."""
    values, size_bytes = BLOCK[kind]
    if tensor.shape[0] % values:
        raise ValueError(f"rows of {tensor.shape[0]} values are no whole number of {kind} blocks")
    return replace(tensor, type=kind, size_bytes=math.prod(tensor.shape) // values * size_bytes)


def streamed(tensor: TensorInfo, header: Header) -> int:
    """Bytes of `tensor` read per decoded token: none of a table that is looked up, and of the experts only those that a
    token is routed to.
    """
    if tensor.role == "table" or (tensor.name == "token_embd.weight" and not header.tied_embedding):
        return 0
    share = header.experts_used / header.experts if is_expert(tensor) else 1.0
    return round(tensor.size_bytes * share)


def is_expert(tensor: TensorInfo) -> bool:
    return tensor.name.endswith("_exps.weight")
