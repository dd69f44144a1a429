"""A transformers model as the teacher that a cache asks: logits of a few rows at a time, never of a whole batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from edgekit.distill.heads import Head, head_of
from edgekit.errors import EdgekitError, import_extra

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16"]

_BLOCK_LOGITS = 2**25
"""Logits that exist at a time: 128 MiB of float32, 220 rows of Qwen's vocabulary."""
_PROBE_TOKENS = 8


def teacher_of(model: Any, *, precision: Precision = "float32") -> Callable[[torch.Tensor], Iterator[torch.Tensor]]:
    """The teacher that `cache.write_cache` asks: windows (batch, length) to blocks of logits (tokens, rows) float32.

    `precision` is that of the model's multiplications (bfloat16 by autocast). Raises EdgekitError at the first call
    where the model does more to its logits than `heads` knows.
    """
    torch = import_extra("torch", extra="distill")
    head = head_of(model)
    device = head.weight.device
    checked = False

    def speak(windows: Any) -> Iterator[Any]:
        nonlocal checked
        ids = windows.to(device, torch.long)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            if not checked:
                _check(model, head, ids[:1, :_PROBE_TOKENS])
                checked = True
            states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
            for block in states.split(max(1, _BLOCK_LOGITS // len(head.weight))):
                yield _logits(head, block)

    model.eval()
    return speak


def _logits(head: Head, states: torch.Tensor) -> torch.Tensor:
    functional = import_extra("torch.nn.functional", extra="distill")
    product: torch.Tensor = functional.linear(states.to(head.weight.dtype), head.weight, head.bias).float()
    head.shape_logits(product)
    return product


def _check(model: Any, head: Head, ids: torch.Tensor) -> None:
    """Hold what the head makes of the states against the model's own logits, once."""
    own = model(input_ids=ids, use_cache=False).logits.flatten(0, 1).float()
    made = _logits(head, model.base_model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1))
    apart = float((own - made).abs().max()) if own.shape == made.shape else float("inf")
    if not apart <= 1e-2 * max(1.0, float(own.abs().max())):
        raise EdgekitError(
            f"the model's logits are not its last states times its output matrix, they are apart by: `{apart:.3g}`",
            hint="pass a function of your own that gives the logits of windows",
        )
