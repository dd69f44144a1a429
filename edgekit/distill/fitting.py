"""Out of memory: which micro-batch would have fitted, found by trying."""

from __future__ import annotations

import gc
import traceback
from typing import Any

from edgekit.distill.settings import StepInfo
from edgekit.distill.stepping import Work, forward_backward
from edgekit.errors import EdgekitError, import_extra


def refusal(work: Work, optimizer: Any, error: BaseException) -> EdgekitError:
    """What to say of a training whose allocation failed: a micro-batch that fits, with the same result.

    (A kernel that promises more memory than there is kills instead of refusing: nothing can be said there.)
    """
    traceback.clear_frames(error.__traceback__)  # they hold what did not fit
    share = work.settings.batch // work.place.processes
    asked = min(work.settings.micro_batch or share, share)
    what = f"{work.place.device.type} memory does not suffice for a micro-batch of `{asked}`"
    if work.place.processes > 1:  # the others wait in the middle of a step
        return EdgekitError(what, hint="set a smaller `micro_batch`: the result is the same")
    fits = _largest(work, optimizer, asked // 2)
    if fits:
        return EdgekitError(what, hint=f"set `micro_batch` to {fits}, which fits: the result is the same")
    return EdgekitError(what, hint="not one window fits: shorten them, or set `gradient_checkpointing`")


def _largest(work: Work, optimizer: Any, most: int) -> int:
    """The largest micro-batch of `most`, half of it, and so on, that goes forward and backward; 0 if none."""
    torch = import_extra("torch", extra="distill")
    settings = work.settings
    while most:
        optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if work.place.device.type == "cuda":
            torch.cuda.empty_cache()
        indices = work.windows.batch(0, settings.batch, settings.seed)[:most]
        weight = max(work.windows.weight(indices), 1e-9)
        try:
            # twice: the gradients of the first stay while the second is computed
            for _ in range(2 if settings.batch > most else 1):
                forward_backward(work, indices, StepInfo(step=0, steps=settings.steps, normalizer=weight))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
        else:
            optimizer.zero_grad(set_to_none=True)
            return most
        most //= 2
    return 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: torch has a class for accelerators only, its CPU allocator says it in words."""
    torch = import_extra("torch", extra="distill")
    words = ("can't allocate memory", "not enough memory", "cannot allocate memory", "out of memory")
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(word in str(error).lower() for word in words)
