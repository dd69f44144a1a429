"""A transformers model as the teacher that a cache asks: logits of a few rows at a time, never of a whole batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.checkpoint import Checkpoint, hash_checkpoint
from edgekit.distill.alignment import Alignment
from edgekit.distill.cache import TeacherCache, cache_key, open_cache, write_cache
from edgekit.distill.heads import Head, head_of
from edgekit.distill.sparse_rows import CacheSettings
from edgekit.errors import EdgekitError, import_extra
from edgekit.progress import Progress, silent

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
                yield head.logits(block)

    model.eval()
    return speak


def cached_teacher(
    model: Any,
    checkpoint: Checkpoint,
    windows: torch.Tensor,
    out: Path,
    *,
    alignment: Alignment,
    settings: CacheSettings | None = None,
    precision: Precision = "float32",
    batch: int = 8,
    progress: Progress = silent,
) -> TeacherCache:
    """The cache in `out` of what `model`, loaded from `checkpoint`, says of `windows` (windows, length): written now,
    finished where it was begun, or as it stands there. Raises EdgekitError as `write_cache` does.
    """
    key = cache_key(
        windows,
        teacher_sha256=hash_checkpoint(checkpoint, progress=progress),
        alignment=alignment,
        settings=settings or CacheSettings(),
        precision=precision,
    )
    write_cache(teacher_of(model, precision=precision), windows, out, key, batch=batch, progress=progress)
    return open_cache(out, key)


def _check(model: Any, head: Head, ids: torch.Tensor) -> None:
    """Hold what the head makes of the states against the model's own logits, once."""
    own = model(input_ids=ids, use_cache=False).logits.flatten(0, 1).float()
    made = head.logits(model.base_model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1))
    apart = float((own - made).abs().max()) if own.shape == made.shape else float("inf")
    if not apart <= 1e-2 * max(1.0, float(own.abs().max())):
        raise EdgekitError(
            f"the model's logits are not its last states times its output matrix, they are apart by: `{apart:.3g}`",
            hint="pass a function of your own that gives the logits of windows",
        )
