"""A Hugging Face checkpoint becomes a GGUF: names and shapes checked first, weights streamed, nothing guessed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, get_args

from edgekit import __version__
from edgekit.checkpoint import Checkpoint, hash_checkpoint, shown
from edgekit.errors import EdgekitError, import_extra
from edgekit.files import check_space, replacing
from edgekit.header.provenance import PROVENANCE_KEYS
from edgekit.progress import Progress, silent
from edgekit.quantize.convert.plan import Planned, Type, plan_tensors
from edgekit.quantize.convert.settings import Model, read_model
from edgekit.quantize.convert.stream import ALIGNMENT_BYTES, padded, write_tensors
from edgekit.quantize.convert.vocabulary import Vocabulary, read_vocabulary
from edgekit.quantize.outputs import check_output

TYPES: tuple[Type, ...] = get_args(Type)
_FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32}  # llama_ftype in llama.h
_HEADER_ROOM_BYTES = 64 * 2**20
_QUANTIZATION_VERSION = 2
_PENDING = "sha256 of the checkpoint: not known yet".ljust(64)


def convert(
    checkpoint: Checkpoint,
    out: Path,
    *,
    type: Type = "f16",  # noqa: A002 - as llama.cpp calls it
    force: bool = False,
    sha256: str = "",
    progress: Progress = silent,
) -> Path:
    """Write `checkpoint` as the GGUF `out` and give `out`: matrices in `type`, norms and biases in float32.

    `sha256` is what `hash_checkpoint` gave, where the caller knows it; else it is computed beside the conversion. The
    same checkpoint and type give the same bytes. Peak memory is the tokenizer plus some 100 MB, whatever the size
    of the model. The file appears whole or not at all. Raises EdgekitError for an architecture, setting, tokenizer or
    tensor that cannot be carried over exactly, for weights that are not finite, an existing `out` without `force`,
    and too little disk.
    """
    if type not in TYPES:
        raise EdgekitError(f"unknown type: `{shown(type, 40)}`", hint=f"choose one of {', '.join(TYPES)}")
    check_output(out, checkpoint.shards, force=force)
    progress("reading the checkpoint", 0, 0)
    model = read_model(checkpoint)
    tensors = plan_tensors(checkpoint, model, type)
    vocabulary = read_vocabulary(checkpoint, model.rows)
    check_space(out, sum(padded(tensor.size_bytes) for tensor in tensors) + _HEADER_ROOM_BYTES, "the GGUF")
    with replacing(out) as temporary, _hashing(checkpoint, sha256) as hashed:
        _write_header(temporary, checkpoint, model, vocabulary, tensors, type)
        with temporary.open("r+b", buffering=0) as file:
            end = file.seek(0, 2)
            file.write(bytes(-end % ALIGNMENT_BYTES))
            write_tensors(file, tensors, progress)
            _fill_in(file, end, hashed.result())
    return out


def conversion_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What llama.cpp will do otherwise than transformers with this checkpoint's tokenizer: each a sentence."""
    return tuple(read_vocabulary(checkpoint, read_model(checkpoint).rows).notes)


def write_hollow(checkpoint: Checkpoint, out: Path, type: Type = "f16") -> Path:  # noqa: A002
    """The same file with a hole in the place of its weights: all that a dry run of the quantizer reads. Raises
    EdgekitError as `convert` does for what headers and tokenizer tell.
    """
    model = read_model(checkpoint)
    tensors = plan_tensors(checkpoint, model, type)
    _write_header(out, checkpoint, model, read_vocabulary(checkpoint, model.rows), tensors, type)
    with out.open("r+b") as file:
        file.truncate(padded(file.seek(0, 2)) + sum(padded(tensor.size_bytes) for tensor in tensors))
    return out


@contextmanager
def _hashing(checkpoint: Checkpoint, known: str) -> Iterator[Future[str]]:
    """The checkpoint's hash, computed in a thread beside the conversion and given up when that fails."""
    failed = Event()

    def while_needed(stage: str, done: float, total: float, detail: str = "") -> None:  # noqa: ARG001  (a Progress)
        if failed.is_set():
            raise EdgekitError("the conversion has failed")

    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(lambda: known or hash_checkpoint(checkpoint, progress=while_needed))
        except BaseException:
            failed.set()
            raise


def _fill_in(file: BinaryIO, header_bytes: int, digest: str) -> None:
    """Put the checkpoint's hash where the header keeps room for it."""
    file.seek(0)
    at = file.read(header_bytes).index(_PENDING.encode())
    file.seek(at)
    file.write(digest.encode())


def _write_header(
    path: Path,
    checkpoint: Checkpoint,
    model: Model,
    vocabulary: Vocabulary,
    tensors: tuple[Planned, ...],
    to: Type,
) -> None:
    import numpy as np

    gguf = import_extra("gguf", extra="quantize")
    writer = gguf.GGUFWriter(path, model.architecture)
    _add_general(writer, checkpoint, vocabulary, to)
    _add_model(writer, model)
    _add_rope(writer, model)
    _add_vocabulary(writer, vocabulary)
    kinds = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16}
    kinds["bf16"] = gguf.GGMLQuantizationType.BF16
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.size_bytes, raw_dtype=kinds[tensor.type]
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _add_general(writer: Any, checkpoint: Checkpoint, vocabulary: Vocabulary, to: Type) -> None:
    writer.add_type("model")
    writer.add_name(shown(checkpoint.path.resolve().name, 200))
    writer.add_file_type(_FILE_TYPES[to])
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    writer.add_string(PROVENANCE_KEYS["edgekit_version"], __version__)
    writer.add_string(PROVENANCE_KEYS["checkpoint_sha256"], _PENDING)
    if vocabulary.notes:
        writer.add_array("edgekit.conversion_notes", list(vocabulary.notes))


def _add_model(writer: Any, model: Model) -> None:
    writer.add_block_count(model.layers)
    writer.add_context_length(model.context)
    writer.add_embedding_length(model.hidden)
    writer.add_feed_forward_length(model.ffn)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_key_length(model.head_dim)
    writer.add_value_length(model.head_dim)
    writer.add_layer_norm_rms_eps(model.rms_epsilon)
    if model.architecture == "llama":
        writer.add_vocab_size(model.rows)
    if model.final_softcap:
        writer.add_final_logit_softcapping(model.final_softcap)
    if model.window:
        writer.add_sliding_window(model.window)
        writer.add_sliding_window_pattern(list(model.sliding))


def _add_rope(writer: Any, model: Model) -> None:
    writer.add_rope_dimension_count(model.head_dim)
    writer.add_rope_freq_base(model.rope.base)
    if model.rope.linear_factor != 1.0:
        gguf = import_extra("gguf", extra="quantize")
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(model.rope.linear_factor)
    if model.window:
        writer.add_rope_freq_base_swa(model.rope.sliding_base)


def _add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.space_prefix is not None:
        writer.add_add_space_prefix(vocabulary.space_prefix)
    for kind, number in vocabulary.specials.ids:
        getattr(writer, f"add_{kind}_token_id")(number)
    writer.add_add_bos_token(vocabulary.specials.add_bos)
    writer.add_add_eos_token(vocabulary.specials.add_eos)
    if vocabulary.specials.templates:
        named = [{"name": name, "template": text} for name, text in vocabulary.specials.templates]
        writer.add_chat_template(named)


__all__ = ["TYPES", "conversion_notes", "convert", "write_hollow"]
