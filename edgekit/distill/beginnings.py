"""The student before its first stage: carved out of its teacher, or new, of a configuration or a shape."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.checkpoint import MAX_CONFIG_BYTES, Checkpoint, hash_checkpoint, open_checkpoint, parse_json, shown
from edgekit.distill.model_facts import tokenizer_of
from edgekit.distill.pruning import CARVED, Carved, carve, copy_tokenizer
from edgekit.distill.students import CLASSES, save_model
from edgekit.distill.windows import Windows
from edgekit.errors import EdgekitError, import_extra
from edgekit.files import replacing_folder
from edgekit.progress import Progress, silent
from edgekit.shapes import Shape, load_shape
from edgekit.storage import load_record, write_record
from edgekit.tables import nearest, read_file, whole_at

FORMAT_VERSION = 1
"""Raised when the same configuration and seed begin another student."""

_LIMITS = {
    "num_hidden_layers": 1024,
    "hidden_size": 65_536,
    "intermediate_size": 262_144,
    "num_attention_heads": 1024,
    "num_key_value_heads": 1024,
    "head_dim": 1024,
    "vocab_size": 2**21,
    "max_position_embeddings": 2**24,
}
"""Above these a configuration is a mistake, and a stranger's would have us allocate it."""
_OF_TEACHER = ("bos_token_id", "eos_token_id", "pad_token_id", "vocab_size")
_LEFT_OUT = ("auto_map", "quantization_config", "num_labels", "id2label", "label2id", "attn_implementation")
"""What would run a stranger's code, fetch a kernel, or fill memory with names, and is nothing of a decoder's."""


def student_of(
    spec: str,
    teacher: Path,
    out: Path,
    *,
    shape: Shape | None = None,
    text: str | None = None,
    windows: Windows | None = None,
    seed: int = 1,
    progress: Progress = silent,
) -> Carved:
    """The folder `out` with the student that `spec` says: `prune:…` (`carve`, which takes `text` or `windows`),
    `config:FILE.json` (a config.json as transformers writes it), or `shape:NAME` (a reference student or SHAPE.toml;
    `shape` itself where the caller has it). New ones have random weights of `seed` in float32 and the teacher's
    tokenizer. What an earlier call left in `out` is taken as it stands.

    Raises EdgekitError for a spec or configuration that is not possible, and for a student not smaller than its
    teacher.
    """
    kind, _, rest = spec.partition(":")
    if kind == "prune":
        return carve(teacher, spec, out, text=text, windows=windows, seed=seed, progress=progress)
    if kind == "config" and rest:
        path = Path(rest)
        return new_student(read_config(path), teacher, out, spec=spec, seed=seed, where=f"`{path}`", progress=progress)
    if kind == "shape" and rest:
        made = config_of(shape or load_shape(rest))
        return new_student(made, teacher, out, spec=spec, seed=seed, where=f"`{spec}`", progress=progress)
    raise EdgekitError(
        f"a student cannot be made of `{spec[:60]}`",
        hint="write `prune:depth=0.5`, `config:FILE.json` or `shape:nano-0.6b`",
    )


def read_config(path: Path) -> dict[str, Any]:
    """A config.json of one's own. Raises EdgekitError where there is none, or it is no JSON."""
    return parse_json(path, read_file(path, what="the student's configuration", max_bytes=MAX_CONFIG_BYTES))


def config_of(shape: Shape) -> dict[str, Any]:
    """The config.json of a shape; its vocabulary is left to the teacher."""
    head = {} if shape.architecture == "qwen2" else {"head_dim": shape.head_dim}
    return {
        "model_type": shape.architecture,
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        **head,
        "tie_word_embeddings": shape.tied_embedding,
        "max_position_embeddings": shape.context_train,
        "rope_theta": shape.rope_freq_base,
        "rms_norm_eps": shape.rms_epsilon,
    }


def new_student(
    config: Mapping[str, Any],
    teacher: Path,
    out: Path,
    *,
    spec: str,
    seed: int = 1,
    where: str = "the configuration",
    progress: Progress = silent,
) -> Carved:
    """A student of this configuration with random weights; `student_of` says the rest."""
    torch = import_extra("torch", extra="distill")
    checkpoint = open_checkpoint(teacher)
    given = _checked(config, checkpoint, where)
    key = json.dumps(
        {
            "version": FORMAT_VERSION,
            "config": given,
            "seed": seed,
            "teacher": hash_checkpoint(checkpoint, progress=progress),
        },
        sort_keys=True,
    )
    if (out / CARVED).is_file() and (found := load_record(out / CARVED, Carved)).key == key:
        return replace(found, path=str(out))
    theirs = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors)
    made = _config(given, where)
    with torch.device("meta"):
        own = _model(made, where).num_parameters()
    if own >= theirs:
        raise EdgekitError(
            f"the student of {where} has {own:,} parameters, its teacher no more than `{theirs:,}`",
            hint="a student is smaller than its teacher",
        )
    with torch.random.fork_rng(devices=[]), replacing_folder(out) as folder:
        torch.manual_seed(seed)
        save_model(_model(made, where), folder)
        copy_tokenizer(teacher, folder)
        record = Carved(
            path=str(out),
            spec=spec,
            key=key,
            teacher_sha256=json.loads(key)["teacher"],
            teacher_parameters=theirs,
            parameters=own,
        )
        write_record(folder / CARVED, record)
    return record


def _checked(config: Mapping[str, Any], teacher: Checkpoint, where: str) -> dict[str, Any]:
    """The configuration with what only the teacher knows: its tokens, where the file does not say."""
    kind = config.get("model_type")
    if kind not in CLASSES:
        raise EdgekitError(f"students are of one of {', '.join(CLASSES)}, {where} is of `{str(kind)[:40]}`")
    for name, most in _LIMITS.items():
        if config.get(name) is not None:
            whole_at(config, name, where=where, default=0, low=1, high=most)
    for name in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"):
        if config.get(name) is None:
            raise EdgekitError(f"{where} lacks a key: `{name}`", hint=nearest(name, map(str, config)))
    heads = config["num_attention_heads"]
    if heads % (config.get("num_key_value_heads") or heads):
        raise EdgekitError(
            f"in {where} the key-value heads must divide {heads} heads evenly: `{config['num_key_value_heads']}`"
        )
    theirs = teacher.config
    own = {name: theirs[name] for name in _OF_TEACHER if theirs.get(name) is not None}
    given = {**own, **config}
    tokens = int(tokenizer_of(teacher).get_vocab_size())
    if given.get("vocab_size", 0) < tokens:
        raise EdgekitError(
            f"{where} has {given.get('vocab_size')} tokens, the teacher's tokenizer `{tokens}`",
            hint="leave `vocab_size` out: it is the teacher's then",
        )
    return {name: value for name, value in given.items() if name.lstrip("_") not in _LEFT_OUT}


def _config(given: dict[str, Any], where: str) -> Any:
    transformers = import_extra("transformers", extra="distill")
    try:
        return getattr(transformers, CLASSES[given["model_type"]]).from_dict(given)
    except Exception as error:  # transformers raises whatever a configuration's own checks do
        raise _impossible(error, where) from None


def _model(config: Any, where: str) -> Any:
    transformers = import_extra("transformers", extra="distill")
    try:
        return transformers.AutoModelForCausalLM.from_config(config, dtype="float32")
    except Exception as error:
        raise _impossible(error, where) from None


def _impossible(error: Exception, where: str) -> EdgekitError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return EdgekitError(f"transformers makes no model of {where}: `{shown(reason, 200)}`")
