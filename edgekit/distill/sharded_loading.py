"""Models that several processes share: made without weights, sharded, and only then read, each process its own rows.

So none of them ever holds a whole model: what it takes is its share and one block that is gathered for the moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.checkpoint import Checkpoint, hash_checkpoint, open_checkpoint
from edgekit.distill import students
from edgekit.errors import EdgekitError, import_extra

_SOURCE = "_edgekit_source"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the weights of a model lie that has none yet."""

    path: Path
    files: dict[str, Path]

    def sha256(self) -> str:
        """Of the checkpoint: a pass over all of it, which nobody needs of a model that is not trained."""
        return hash_checkpoint(open_checkpoint(self.path))


def unread_model(path: Path, *, as_stored: bool = False) -> Any | None:
    """The transformers model in the folder `path` without its weights, which `read_into` reads when it is sharded: in
    float32, or `as_stored`. None where the file's names are not the model's: transformers has to put it together.

    Raises EdgekitError where transformers makes no model of its configuration.
    """
    checkpoint = open_checkpoint(path)
    config = students.read_config(path)
    try:
        model = _empty(path, config, as_stored=as_stored)
    except (EdgekitError, MemoryError):
        raise
    except Exception as error:  # transformers raises whatever a configuration's own checks do
        raise students.unloadable(path, error) from None
    if {name: tuple(one.shape) for name, one in model.named_parameters()} != _shapes(checkpoint, model):
        return None
    vars(model)[_SOURCE] = Source(path=path, files={tensor.name: tensor.file for tensor in checkpoint.tensors})
    return model


def _empty(path: Path, config: Any, *, as_stored: bool) -> Any:
    torch = import_extra("torch", extra="distill")
    transformers = import_extra("transformers", extra="distill")
    accelerate = import_extra("accelerate", extra="distill")
    dtype = getattr(config, "dtype", None) if as_stored else None
    with accelerate.init_empty_weights(include_buffers=False):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=dtype or torch.float32, trust_remote_code=False
        )
    model.tie_weights()
    with suppress(OSError):  # as transformers: where that cannot be read, what the configuration says stands
        model.generation_config = transformers.GenerationConfig.from_pretrained(path, local_files_only=True)
    return model


def source_of(model: Any) -> Source | None:
    """Of a model that is not read yet."""
    found = vars(model).get(_SOURCE)
    return found if isinstance(found, Source) else None


def read_into(root: Any, modules: Iterable[Any], device: Any) -> None:
    """Give the sharded `modules` of `root` that are not read yet their weights: each process reads its own rows.

    Raises EdgekitError where a file does not hold what it said.
    """
    torch = import_extra("torch", extra="distill")
    unread = [(module, source) for module in modules if (source := source_of(module)) is not None]
    if not unread:
        return
    # on the root, which takes note of the new tensors; what is there already stays
    root._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)
    with torch.no_grad():
        for module, source in unread:
            for name, parameter in module.named_parameters():
                _read(source, name, parameter)
            del vars(module)[_SOURCE]


def _read(source: Source, name: str, parameter: Any) -> None:
    safe_open = import_extra("safetensors", extra="distill").safe_open
    torch = import_extra("torch", extra="distill")
    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    try:
        with safe_open(source.files[name], framework="pt") as file:
            rows = file.get_slice(name)
            begin, end = _rows(parameter, local)
            found = rows[begin:end]
    except Exception as error:  # safetensors has an error of its own
        raise EdgekitError(f"cannot read `{name}` ({error!s:.100}): `{source.files[name]}`") from None
    if found.shape != local.shape:
        raise EdgekitError(f"the checkpoint does not fit the model at `{name}`: `{source.path}`")
    with torch.no_grad():
        local.copy_(found)


def _rows(parameter: Any, local: Any) -> tuple[int, int]:
    """Of a parameter that is sharded by rows, those of this process: equal parts but for the last, as `torch.chunk`."""
    if not hasattr(parameter, "placements"):
        return 0, len(parameter)
    (placement,) = parameter.placements
    if not placement.is_shard(0):
        raise EdgekitError(f"a model's shards are rows, not `{placement}`")
    mesh = parameter.device_mesh
    each = -(-len(parameter) // mesh.size())
    begin = min(mesh.get_local_rank() * each, len(parameter))
    return begin, begin + len(local)


def _shapes(checkpoint: Checkpoint, model: Any) -> dict[str, tuple[int, ...]]:
    """Of the checkpoint's tensors; the head that is the table of a tied model may lie there too."""
    tied = model.config.get_text_config().tie_word_embeddings
    return {
        tensor.name: tuple(tensor.shape)
        for tensor in checkpoint.tensors
        if not (tied and tensor.name == "lm_head.weight")
    }
