"""What is to be known of a model of a chain: from its folder (headers only, and a pass for the hash) or its shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.checkpoint import Checkpoint, hash_checkpoint, open_checkpoint
from edgekit.distill.students import Recipe
from edgekit.errors import EdgekitError, import_extra
from edgekit.progress import Progress, silent
from edgekit.records import ModelFacts
from edgekit.shapes import Shape

_LARGEST = 2**24


def facts_of(path: Path, name: str, *, made: str = "", hashed: bool = True, progress: Progress = silent) -> ModelFacts:
    """Of the checkpoint in the folder `path`. Raises EdgekitError where there is none, or its configuration is not that
    of a decoder.
    """
    checkpoint = open_checkpoint(path)
    text = checkpoint.config.get("text_config", checkpoint.config)
    if not isinstance(text, Mapping):
        raise _unusable(path, "text_config")
    heads, hidden = _size(text, "num_attention_heads", path), _size(text, "hidden_size", path)
    tables = [tensor for tensor in checkpoint.tensors if tensor.name.endswith("embed_tokens.weight")]
    if not tables:
        raise EdgekitError(f"the checkpoint has no tensor `embed_tokens.weight`: `{path}`")
    tied = not any(tensor.name.endswith("lm_head.weight") for tensor in checkpoint.tensors)
    return ModelFacts(
        name=name,
        path=str(path),
        sha256=hash_checkpoint(checkpoint, progress=progress) if hashed else "",
        architecture=checkpoint.architecture,
        parameters=sum(math.prod(tensor.shape) for tensor in checkpoint.tensors),
        embedding_parameters=0 if tied else math.prod(tables[0].shape),
        layers=_size(text, "num_hidden_layers", path),
        hidden=hidden,
        ffn=_size(text, "intermediate_size", path),
        heads=heads,
        kv_heads=_size(text, "num_key_value_heads", path, heads),
        head_dim=_size(text, "head_dim", path, max(1, hidden // heads)),
        vocabulary=tables[0].shape[0],
        tied_embedding=tied,
        made=made,
    )


def facts_of_shape(shape: Shape, *, made: str = "") -> ModelFacts:
    """Of a model that is not there: its parameters are counted as transformers makes them of such dimensions."""
    table = shape.vocabulary * shape.hidden
    width, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = shape.hidden * (2 * width + 2 * keys)
    attention += width + 2 * keys if shape.architecture == "qwen2" else 0  # biases
    norms = 2 * shape.hidden + (2 * shape.head_dim if shape.architecture.startswith(("qwen3", "gemma3")) else 0)
    norms += 2 * shape.hidden if shape.architecture.startswith("gemma3") else 0
    layers = shape.layers * (attention + norms + 3 * shape.hidden * shape.ffn)
    return ModelFacts(
        name=shape.name,
        path="",
        sha256="",
        architecture=shape.architecture,
        parameters=layers + shape.hidden + table * (1 if shape.tied_embedding else 2),
        embedding_parameters=0 if shape.tied_embedding else table,
        layers=shape.layers,
        hidden=shape.hidden,
        ffn=shape.ffn,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocabulary=shape.vocabulary,
        tied_embedding=shape.tied_embedding,
        made=made,
    )


def facts_of_config(config: Mapping[str, Any], name: str, path: Path, *, vocabulary: int) -> ModelFacts:
    """Of a configuration as transformers writes it; `vocabulary` where it does not say. Raises EdgekitError where it is
    not that of a decoder.
    """
    heads, hidden = _size(config, "num_attention_heads", path), _size(config, "hidden_size", path)
    shape = Shape(
        name=name,
        title=name,
        architecture=str(config.get("model_type", ""))[:40],
        layers=_size(config, "num_hidden_layers", path),
        hidden=hidden,
        heads=heads,
        kv_heads=_size(config, "num_key_value_heads", path, heads),
        head_dim=_size(config, "head_dim", path, max(1, hidden // heads)),
        ffn=_size(config, "intermediate_size", path),
        vocabulary=_size(config, "vocab_size", path, vocabulary),
        tied_embedding=bool(config.get("tie_word_embeddings", True)),
    )
    return facts_of_shape(shape, made=f"config:{path.name}")


def shape_of_recipe(recipe: Recipe) -> Shape:
    """The dimensions of a model that a recipe trains."""
    return Shape(
        name=recipe.name,
        title=recipe.name,
        architecture=recipe.architecture,
        layers=recipe.layers,
        hidden=recipe.hidden,
        heads=recipe.heads,
        kv_heads=recipe.kv_heads,
        head_dim=recipe.head_dim if recipe.architecture != "qwen2" else recipe.hidden // recipe.heads,
        ffn=recipe.ffn,
        vocabulary=recipe.vocabulary,
        tied_embedding=recipe.tied,
        context_train=recipe.context,
    )


def check_smaller(student: ModelFacts, teacher: ModelFacts) -> None:
    """Raise EdgekitError where a student is not smaller than its teacher."""
    if student.parameters >= teacher.parameters:
        raise EdgekitError(
            f"the student `{student.name}` has {student.parameters} parameters, its teacher `{teacher.name}` only"
            f" `{teacher.parameters}`",
            hint="give a larger teacher, or carve the student out of it: `prune:depth=0.5`",
        )


def tokenizer_of(checkpoint: Checkpoint) -> Any:
    """The `tokenizers.Tokenizer` of a checkpoint. Raises EdgekitError where it has none that can be read."""
    if checkpoint.tokenizer != "tokenizer.json":
        raise EdgekitError(
            f"the checkpoint has no `tokenizer.json`: `{checkpoint.path}`",
            hint="save its fast tokenizer beside it: `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`",
        )
    tokenizers = import_extra("tokenizers", extra="distill")
    try:
        found = tokenizers.Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    except Exception:  # the library raises bare Exceptions for whatever it does not understand
        raise EdgekitError(f"not a usable tokenizer: `{checkpoint.path / 'tokenizer.json'}`") from None
    found.no_truncation()  # a file may carry what its last user set
    found.no_padding()
    return found


def _size(config: Mapping[str, Any], key: str, path: Path, default: int = 0) -> int:
    value = config.get(key, default)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
        raise _unusable(path, key)
    return value


def _unusable(path: Path, key: str) -> EdgekitError:
    return EdgekitError(f"the configuration is not that of a decoder, its `{key}` is no size: `{path / 'config.json'}`")
