"""Weights of a checkpoint as numpy arrays, whole or by rows."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from edgekit.checkpoint.safetensors import StoredTensor
from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.checkpoint import Checkpoint

FLOATS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""Types whose values edgekit reads → numpy's type of the stored bytes; BF16 is the upper half of a float32."""


def read_tensor(checkpoint: Checkpoint, name: str) -> NDArray[Any]:
    """The tensor as a read-only array mapped from its file: no copy, pages come in when touched.

    float32, float16, or for BF16 uint16 with the same bits (`checkpoint.tensor(name).dtype` tells; `float32` widens).
    Raises EdgekitError for an unknown name or a type without float values.
    """
    import numpy as np

    tensor = checkpoint.tensor(name)
    kind = stored_type(tensor)
    if not tensor.size_bytes:
        return np.empty(tensor.shape, kind)
    try:
        return np.memmap(tensor.file, kind, "r", tensor.begin, tensor.shape)
    except (OSError, ValueError):
        raise EdgekitError(f"cannot read the weights of `{tensor.name}`: `{tensor.file}`") from None


def read_rows(tensor: StoredTensor, first: int, count: int) -> NDArray[Any]:
    """`count` rows from row `first` as stored, `(count, …)`, read into memory and not mapped: what a pass over a
    large checkpoint uses, since mapped pages would count as its memory. A tensor of one dimension has one value a row.
    """
    import numpy as np

    data = np.empty((count, *tensor.shape[1:]), stored_type(tensor))
    begin = tensor.begin + first * math.prod(tensor.shape[1:]) * data.itemsize
    view = data.reshape(-1).view(np.uint8).data
    done = 0
    try:
        with tensor.file.open("rb", buffering=0) as file:
            while done < len(view):
                got = os.preadv(file.fileno(), [view[done:]], begin + done)
                if got == 0:
                    raise EdgekitError(f"the file shrank while it was read: `{tensor.file}`")
                done += got
    except OSError as error:
        raise EdgekitError(
            f"cannot read the weights ({(error.strerror or 'failed').lower()}): `{tensor.file}`"
        ) from None
    return data


def float32(stored: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Stored values of type `dtype` (`F32`, `F16`, `BF16`) as float32, exactly; a copy except for F32."""
    import numpy as np

    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)


def stored_type(tensor: StoredTensor) -> str:
    """numpy's type of the stored bytes. Raises EdgekitError where the tensor holds no plain floats."""
    kind = FLOATS.get(tensor.dtype)
    if kind is None:
        raise EdgekitError(
            f"tensor `{tensor.name}` is stored as `{tensor.dtype}`",
            hint=f"edgekit reads {', '.join(FLOATS)}: save the model unquantized",
        )
    return kind
