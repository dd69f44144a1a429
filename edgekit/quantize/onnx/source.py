"""What an export needs to know of a checkpoint, and the checkpoints that exporters are known to get wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.checkpoint import Checkpoint, StoredTensor, open_checkpoint, read_rows, shown
from edgekit.errors import EdgekitError
from edgekit.progress import Progress, silent

_CHECK_STEP_VALUES = 2**22
_OLD_THETA = 10_000.0
"""What transformers 4 takes for `rope_theta` where the configuration does not say it at its top level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A checkpoint that can be exported. `window` is the sliding window in tokens, 0 without one."""

    checkpoint: Checkpoint
    architecture: str
    vocabulary: int
    layers: int
    hidden: int
    kv_heads: int
    head_dim: int
    context: int
    window: int
    tied: bool
    parameters: int
    embedding: StoredTensor


def read_source(path: Path, *, exporter: str) -> Source:
    """The checkpoint in the folder `path`. Raises EdgekitError when it is damaged or `exporter` would misread it."""
    checkpoint = open_checkpoint(path)
    config = checkpoint.config
    text = config.get("text_config", config)
    architectures = config.get("architectures") or [""]
    heads = _number(path, text, "num_attention_heads")
    source = Source(
        checkpoint=checkpoint,
        architecture=shown(architectures[0], 64),
        vocabulary=_number(path, text, "vocab_size"),
        layers=_number(path, text, "num_hidden_layers"),
        hidden=_number(path, text, "hidden_size"),
        kv_heads=_number(path, text, "num_key_value_heads", heads),
        head_dim=_number(path, text, "head_dim", _number(path, text, "hidden_size") // heads),
        context=_number(path, text, "max_position_embeddings"),
        window=_window(path, text),
        tied=not any(tensor.name.endswith("lm_head.weight") for tensor in checkpoint.tensors),
        parameters=sum(math.prod(tensor.shape) for tensor in checkpoint.tensors),
        embedding=_embedding(checkpoint),
    )
    _check_shapes(source)
    if exporter == "genai":
        refuse_head_collision(source)
    return source


def refuse_head_collision(source: Source) -> None:
    """onnxruntime-genai's builder takes every matrix with as many outputs as the vocabulary has tokens for the LM head
    (`Model.has_lm_head`), and every such table for the embedding: it ends normally and writes garbage.
    """
    for tensor in source.checkpoint.tensors:
        is_own = tensor.name.endswith(("lm_head.weight", "embed_tokens.weight"))
        if len(tensor.shape) == 2 and tensor.shape[0] == source.vocabulary and not is_own:
            raise EdgekitError(
                f"onnxruntime-genai's builder would take a matrix as wide as the vocabulary for the LM head:"
                f" `{shown(tensor.name)}`",
                hint="use `--exporter dynamo`, which follows the model's own code",
            )


def check_weights(checkpoint: Checkpoint, *, progress: Progress = silent) -> None:
    """Raise EdgekitError naming the first tensor that holds a NaN or an infinity; one pass over the weights."""
    import numpy as np

    done = 0
    for tensor in checkpoint.tensors:
        rows = tensor.shape[0] if tensor.shape else 1
        step = max(1, _CHECK_STEP_VALUES // max(1, math.prod(tensor.shape[1:])))
        for first in range(0, rows, step):
            stored = read_rows(tensor, first, min(step, rows - first))
            # of a BF16 only the exponent need be seen; a sum is finite when all its parts are
            bad = ((stored & 0x7F80) == 0x7F80).any() if tensor.dtype == "BF16" else not np.isfinite(stored).all()
            if bad:
                raise EdgekitError(
                    f"weights are not finite (NaN or infinity): `{shown(tensor.name)}`",
                    hint="the checkpoint is damaged or its training diverged",
                )
            done += stored.nbytes
            progress("checking weights", done, checkpoint.size_bytes)


def old_style_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` as transformers 4 reads it. Version 5 nests `rope_theta` in `rope_parameters`, where version 4 does not
    look: it takes 10000 without a word, and every position is turned by the wrong angle.
    """
    changed = dict(config)
    rope = config.get("rope_parameters")
    if not isinstance(rope, Mapping):
        return changed
    if any(isinstance(value, Mapping) for value in rope.values()):  # one table per kind of layer (gemma 3)
        full, local = rope.get("full_attention", {}), rope.get("sliding_attention", {})
        changed.setdefault("rope_local_base_freq", local.get("rope_theta", _OLD_THETA))
        rope = full
    changed.setdefault("rope_theta", rope.get("rope_theta", _OLD_THETA))
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    if scaling.get("rope_type", "default") != "default":
        changed.setdefault("rope_scaling", scaling)
    return changed


def write_old_style(source: Source, folder: Path) -> None:
    """A view of the checkpoint that transformers 4 reads rightly: links to its files beside an old-style config."""
    for file in source.checkpoint.path.resolve().iterdir():
        if file.is_file() and file.suffix in (".safetensors", ".json", ".model", ".txt", ".jinja"):
            (folder / file.name).symlink_to(file)
    for name, data in (("config.json", old_style_config(source.checkpoint.config)),):
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(json.dumps(data, indent=2), encoding="utf-8")


def _check_shapes(source: Source) -> None:
    wanted = (source.vocabulary, source.hidden)
    for tensor in source.checkpoint.tensors:
        is_table = tensor.name.endswith(("lm_head.weight", "embed_tokens.weight"))
        if is_table and tensor.shape != wanted:
            raise EdgekitError(
                f"tensor `{shown(tensor.name)}` has the shape {list(tensor.shape)} and not {list(wanted)}:"
                f" `{source.checkpoint.path}`",
                hint="`config.json` and the weights are not of one model",
            )


def _embedding(checkpoint: Checkpoint) -> StoredTensor:
    for tensor in checkpoint.tensors:
        if tensor.name.endswith("embed_tokens.weight"):
            return tensor
    raise EdgekitError(f"the checkpoint has no `embed_tokens.weight`: `{checkpoint.path}`")


def _window(path: Path, text: Mapping[str, Any]) -> int:
    """The window of the layers that have one: named in `layer_types`, or switched on by `use_sliding_window`."""
    types = text.get("layer_types")
    used = "sliding_attention" in types if isinstance(types, list) else text.get("use_sliding_window", True)
    return _number(path, text, "sliding_window", 0) if used else 0


def _number(path: Path, table: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = table.get(name)
    value = default if value is None else value
    if type(value) is not int or not 0 <= value < 2**31 or (value == 0 and default != 0):
        raise EdgekitError(f"not a usable checkpoint (`{name}` is no positive number): `{path / 'config.json'}`")
    return value


__all__ = ["Source", "check_weights", "old_style_config", "read_source", "write_old_style"]
