"""What the options of `tune` mean. Loaded by the verb only."""

from __future__ import annotations

import re

from edgekit.cli.reading import size_bytes
from edgekit.errors import EdgekitError
from edgekit.pipeline import Overrides
from edgekit.pipeline.tuning import Wish

_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


def wish(device: str, on_device: str, memory: str, trials: int, prefill_loss: str, fixed: Overrides) -> Wish:
    """The flags as a wish. Raises EdgekitError."""
    if on_device and not device:
        raise EdgekitError(
            "`--on-device` says which profile this machine is, and none is named", hint=f"add `--device {on_device}`"
        )
    match = _SHARE.fullmatch(prefill_loss)
    if match is None or float(match[1]) >= 100:
        raise EdgekitError(f"not a share for `--max-prefill-loss`: `{prefill_loss[:40]}`", hint="write it as `10%`")
    limit = size_bytes(memory, "--memory") if memory else None
    if limit is not None and limit <= 0:
        raise EdgekitError(f"`--memory` must be more than nothing: `{memory[:40]}`")
    return Wish(
        device=device,
        on_device=on_device,
        memory_bytes=limit,
        overrides=fixed,
        trials=trials,
        prefill_loss=float(match[1]) / 100,
    )
