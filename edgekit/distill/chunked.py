"""A loss over the vocabulary that never holds the logits of a batch: chunk by chunk, with the gradient at once.

The gradient of a mean by its logits needs nothing that comes after it, so it is found where the logits are, in the
forward pass; each chunk leaves its share of the gradients by hidden states and head and is overwritten by the next
(as Liger's fused losses do, Hsu et al., 2024, arXiv 2410.10989). A projection costs four products in all; recomputing
logits in the backward pass would make it six.

Within a chunk, what is not a product is done on blocks of rows that stay in the CPU's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from edgekit.distill.batches import Batch, Source, TeacherLogits, TeacherStates, product_dtype
from edgekit.distill.losses import Divergence, LossParts, forward_kl
from edgekit.distill.sparse import SparseTeacher, lumped, sparse_forward_kl_gradient
from edgekit.errors import EdgekitError

CHUNK_BYTES = 320_000_000
"""Of logits, student's and teacher's, where the caller does not say how many tokens a chunk has."""
MOST_CHUNK_TOKENS = 1024
BLOCK_BYTES = 4_000_000
"""Of one buffer: the few of a block stay in the cache together. Smaller blocks are faster on idle cores and much slower
on busy ones, where threads wait for each other at the end of every step."""
TILE_ROWS = 4096
"""Of the vocabulary, where products are of half precision: neither weights nor logits are copied whole, and what a tile
takes the allocator has at hand (above 32 MB it asks the kernel anew each time)."""
FLOOR = -1e4
"""Log-probability of what a teacher rules out (a logit of −inf): 0 · −inf is no number."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Work:
    """All that one pass needs besides the tensors it gives gradients for."""

    batch: Batch
    source: Source | None
    divergence: Divergence | None
    temperature: float
    alpha: float
    vocabulary: int
    chunk: int
    dtype: torch.dtype
    gradients: tuple[bool, bool, bool]


def chunked_loss(
    batch: Batch,
    source: Source | None,
    divergence: Divergence | None,
    *,
    temperature: float,
    alpha: float,
    vocabulary: int | None,
    chunk_tokens: int | None,
) -> LossParts:
    """`distillation_loss` over the vocabulary, of a checked batch."""
    head, width = batch.head, len(batch.head.weight)
    if isinstance(source, SparseTeacher):
        vocabulary = source.vocabulary
        if source.temperature != temperature:
            raise EdgekitError(
                f"the teacher was kept at temperature {source.temperature}, the loss is at `{temperature}`",
                hint="keep it at that temperature, or train at the one it was kept at",
            )
    if chunk_tokens is not None and chunk_tokens < 1:
        raise EdgekitError(f"a chunk holds at least one token, not `{chunk_tokens}`")
    wanted = tuple(
        torch.is_grad_enabled() and given is not None and given.requires_grad
        for given in (batch.hidden, head.weight, head.bias)
    )
    work = _Work(
        batch=batch,
        source=source,
        divergence=divergence,
        temperature=temperature,
        alpha=alpha,
        vocabulary=width if vocabulary is None else vocabulary,
        chunk=chunk_tokens or _chunk_tokens(width, batch.shares.dtype),
        dtype=product_dtype(batch.hidden, head.weight),
        gradients=(wanted[0], wanted[1], wanted[2]),
    )
    total, distill, ce = _Chunked.apply(batch.hidden, head.weight, head.bias, work)  # type: ignore[no-untyped-call]
    return LossParts(
        total=total,
        distill=None if source is None else distill,
        ce=None if batch.labels is None else ce,
        tokens=batch.tokens,
        weight=batch.weight,
    )


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: Any, work: _Work) -> Any:
        with torch.autocast(hidden.device.type, enabled=False):
            distill, ce, gradients = _run(hidden, weight, bias, work)
        ctx.gradients = gradients
        ctx.dtypes = tuple(None if given is None else given.dtype for given in (hidden, weight, bias))
        total = work.alpha * distill + (1 - work.alpha) * ce
        ctx.mark_non_differentiable(distill, ce)
        return total, distill, ce

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: torch.Tensor, *_: Any) -> Any:
        if ctx.gradients is None:
            raise RuntimeError("this loss found its gradient in the forward pass and has handed it on already")
        found, ctx.gradients = ctx.gradients, None
        if outer.device.type != "cpu" or float(outer) != 1.0:  # elsewhere to look is to wait
            found = tuple(None if gradient is None else gradient.mul_(outer) for gradient in found)
        each = zip(found, ctx.dtypes, strict=True)
        return *(None if gradient is None else gradient.to(dtype) for gradient, dtype in each), None


def _run(hidden: torch.Tensor, weight: torch.Tensor, bias: Any, work: _Work) -> Any:
    """Sums of divergence and cross-entropy by the tokens' shares, and the gradients by the three inputs (or None)."""
    batch, exact = work.batch, work.batch.shares.dtype
    states = batch.counted(hidden).to(work.dtype)
    by_hidden, by_weight, by_bias = (
        torch.zeros(given.shape, dtype=exact, device=hidden.device) if wanted else None
        for given, wanted in zip((states, weight, bias), work.gradients, strict=True)
    )
    sums = torch.zeros(2, dtype=torch.float64 if hidden.device.type == "cpu" else exact, device=hidden.device)
    logits = torch.empty(min(work.chunk, len(states)), len(weight), dtype=exact, device=hidden.device)
    chunks = _teacher_chunks(work, len(states), exact)
    for begin in range(0, len(states), work.chunk):
        chunk = slice(begin, begin + work.chunk)
        block = logits[: len(states[chunk])]
        _project(states[chunk], weight, bias, block)
        sums += _descend_all(block, next(chunks), chunk, work)
        _back(block, weight, states[chunk], None if by_hidden is None else by_hidden[chunk], by_weight)
        if by_bias is not None:
            by_bias += block.sum(0)
    if by_hidden is not None:
        by_hidden = _scattered(by_hidden, batch, hidden)
    distill, ce = sums.to(exact).unbind()
    return distill.clone(), ce.clone(), (by_hidden, by_weight, by_bias)


def _teacher_chunks(work: _Work, tokens: int, exact: torch.dtype) -> Iterator[Any]:
    """Of every chunk what the teacher says: its logits, a part of a sparse one, or None. The buffer is reused."""
    source, buffer = work.source, None
    if isinstance(source, TeacherStates):
        dtype, matrix = source.dtype, source.head.weight.detach()
        buffer = torch.empty(min(work.chunk, tokens), source.width, dtype=exact, device=source.hidden.device)
    for begin in range(0, tokens, work.chunk):
        end = min(begin + work.chunk, tokens)
        if isinstance(source, TeacherStates):
            assert buffer is not None
            _project(source.hidden[begin:end].to(dtype), matrix, source.head.bias, buffer[: end - begin])
            source.head.shape_logits(buffer[: end - begin])
            yield buffer[: end - begin]
        elif isinstance(source, TeacherLogits):
            every = len(source.rows) == len(source.logits)
            yield source.logits[begin:end] if every else _Rows(source.logits, source.rows[begin:end])
        else:
            yield None if source is None else source.part(begin, end)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Some rows of the teacher's logits, copied no earlier than a block needs them."""

    logits: torch.Tensor
    rows: torch.Tensor

    def __getitem__(self, block: slice) -> torch.Tensor:
        return self.logits[self.rows[block]]


def _descend_all(logits: torch.Tensor, teacher: Any, chunk: slice, work: _Work) -> torch.Tensor:
    """`_descend` over a chunk, a block of rows at a time."""
    batch, step = work.batch, _block_rows(logits)
    shares, labels = batch.shares[chunk], None if batch.labels is None else batch.labels[chunk]
    sums = logits.new_zeros(2)
    for begin in range(0, len(logits), step):
        block = slice(begin, min(begin + step, len(logits)))
        said = teacher.part(block.start, block.stop) if isinstance(teacher, SparseTeacher) else None
        if said is None and teacher is not None:
            said = teacher[block]
        sums += _descend(logits[block], said, None if labels is None else labels[block], shares[block], work)
    return sums


def _descend(logits: torch.Tensor, teacher: Any, labels: Any, shares: torch.Tensor, work: _Work) -> torch.Tensor:
    """Overwrite a block of products with the gradient by them; gives the block's sums of divergence and cross-entropy.

    `logits` (rows, width), `labels` and `shares` (rows,).
    """
    slope = work.batch.head.shape_logits(logits)
    sums, temperature, common = logits.new_zeros(2), work.temperature, work.vocabulary
    gradient = None
    if teacher is not None:
        softened = logits[:, :common] / temperature
        value, gradient = _diverge(softened, teacher, work)
        sums[0] = temperature**2 * (value * shares).sum()
        # D is by logits ÷ T: one of the two T of T² is spent on it
        gradient.mul_((work.alpha * temperature * shares).unsqueeze(-1))
    if labels is not None:
        log_q = logits.log_softmax(-1)
        sums[1] = -(log_q.gather(-1, labels.unsqueeze(-1)).squeeze(-1) * shares).sum()
    if any(work.gradients):
        rest = (1 - work.alpha) * shares
        if work.alpha == 1:
            logits.zero_()
        else:
            torch.exp(log_q, out=logits)
            logits.mul_(rest.unsqueeze(-1)).scatter_add_(-1, labels.unsqueeze(-1), -rest.unsqueeze(-1))
        if gradient is not None:
            logits[:, :common] += gradient
        if slope is not None:
            logits.mul_(slope)
    return sums


def _diverge(softened: torch.Tensor, teacher: Any, work: _Work) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and gradient (by the softened logits) of the divergence; both inputs may be overwritten."""
    assert work.divergence is not None
    if isinstance(teacher, SparseTeacher):
        if work.divergence is forward_kl:
            return sparse_forward_kl_gradient(teacher, softened)
        return _lumped(softened, teacher, work.divergence)
    log_p = (teacher[:, : work.vocabulary].to(softened.dtype) / work.temperature).log_softmax(-1)
    return work.divergence(softened.log_softmax(-1), log_p.clamp_(min=FLOOR))


def _lumped(
    softened: torch.Tensor, teacher: SparseTeacher, divergence: Divergence
) -> tuple[torch.Tensor, torch.Tensor]:
    """Any divergence between the likeliest tokens and the tail as one, a lower bound of the whole.

    Its gradient by the whole vocabulary: that of the tail goes to the tail's tokens by their share of it.
    """
    log_p, log_q = lumped(teacher, softened)
    tail = log_q[:, -1:].clone()
    log_every = softened.float().log_softmax(-1)
    value, coarse = divergence(log_q, log_p.clamp(min=FLOOR))
    gradient = log_every.sub_(tail).exp_().mul_(coarse[:, -1:])
    return value.to(softened.dtype), gradient.scatter_(-1, teacher.ids, coarse[:, :-1]).to(softened.dtype)


# ---- products --------------------------------------------------------------------------------------------------------


def _project(states: torch.Tensor, weight: torch.Tensor, bias: Any, out: torch.Tensor) -> None:
    """out = states · weightᵀ + bias, multiplied in the precision of `states` and kept in that of `out`."""
    if states.dtype == weight.dtype == out.dtype:
        torch.mm(states, weight.t(), out=out)
    else:
        for tile in _tiles(weight):
            out[:, tile] = states @ weight[tile].to(states.dtype).t()
    if bias is not None:
        out += bias


def _back(gradient: torch.Tensor, weight: torch.Tensor, states: torch.Tensor, by_states: Any, by_weight: Any) -> None:
    """by_states += gradient · weight and by_weight += gradientᵀ · states, where they are wanted."""
    if states.dtype == weight.dtype == gradient.dtype:
        if by_states is not None:
            by_states.addmm_(gradient, weight)
        if by_weight is not None:
            by_weight.addmm_(gradient.t(), states)
        return
    for tile in _tiles(weight):
        coarse = gradient[:, tile].to(states.dtype)
        if by_states is not None:
            by_states += coarse @ weight[tile].to(states.dtype)
        if by_weight is not None:
            by_weight[tile] += coarse.t() @ states


def _tiles(matrix: torch.Tensor) -> Iterator[slice]:
    return (slice(begin, begin + TILE_ROWS) for begin in range(0, len(matrix), TILE_ROWS))


def _scattered(by_states: torch.Tensor, batch: Batch, hidden: torch.Tensor) -> torch.Tensor:
    """Back to the places of the whole batch; those that do not count get zeros."""
    if batch.tokens * hidden.shape[-1] == hidden.numel():
        return by_states.view(hidden.shape)
    whole = by_states.new_zeros(hidden.numel() // hidden.shape[-1], hidden.shape[-1])
    return whole.index_copy_(0, batch.rows, by_states).view(hidden.shape)


def _chunk_tokens(width: int, exact: torch.dtype) -> int:
    room = CHUNK_BYTES // (2 * width * exact.itemsize)
    return max(16, min(MOST_CHUNK_TOKENS, room // 16 * 16))


def _block_rows(logits: torch.Tensor) -> int:
    """Elsewhere than on a CPU every step is a launch, and fewer are better."""
    if logits.device.type != "cpu":
        return len(logits)
    rows = BLOCK_BYTES // (logits.shape[1] * logits.element_size())
    return max(torch.get_num_threads(), rows)
