"""The file that would ship: its header, where it comes from, how it was made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor of a model file. `type` is ggml's name in lower case (`q4_0`, `f32`), or an ONNX one that ggml lacks
    (`int4`, `i64`); `shape` is ggml's order (row length first).
    """

    name: str
    type: str
    shape: tuple[int, ...]
    size_bytes: int
    shard: int = 0
    role: Literal["", "matrix", "scale", "table"] = ""
    """In an ONNX graph, whose names tell nothing: a matrix is multiplied with, a scale belongs to the blocks of one, of
    a table rows are looked up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a model file says about itself, read without touching weights.

    Per-layer fields are tuples of length `layers`. `tensors` lists every tensor over all shards. `quant` is the
    file's own label in llama.cpp's words, lower case (`q4_0`, `q4_k_m`), from `general.file_type` or the commonest
    type.
    """

    kind: Literal["header"] = "header"
    version: Literal[1] = 1
    format: Literal["gguf", "onnx"] = "gguf"
    architecture: str
    name: str
    quant: str
    sha256: str
    """Of the header's bytes alone (all shards), so that `fit` needs no pass over the weights."""
    size_bytes: int
    """Of all shard files together."""
    shards: int = 1
    layers: int
    hidden: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    key_dim: int
    value_dim: int
    ffn: tuple[int, ...]
    vocabulary: int
    context_train: int
    sliding_window: tuple[int, ...] = ()
    """Window of each layer in tokens, 0 = full attention; empty when no layer has one."""
    experts: int = 0
    experts_used: int = 0
    tied_embedding: bool
    stand_in: bool = False
    """Random weights in a reference student's shape (design §7): true memory and speed, no quality."""
    tensors: tuple[TensorInfo, ...]
    metadata: tuple[tuple[str, str], ...] = ()
    """Short scalar metadata for the report, stringified and length-capped; untrusted text."""

    def __post_init__(self) -> None:
        for name in ("heads", "kv_heads", "ffn"):
            values = getattr(self, name)
            if len(values) != self.layers or min(values, default=1) < 1:
                raise ValueError(f"`{name}` needs a positive number for each of {self.layers} layers")
        dimensions = (self.layers, self.hidden, self.key_dim, self.value_dim, self.vocabulary)
        if min(dimensions) < 1 or any(
            size < 0 for size in (self.size_bytes, *(tensor.size_bytes for tensor in self.tensors))
        ):
            raise ValueError("sizes are positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What an artifact was made from, as the file itself says: lower-case hex SHA-256 of each, empty where it does not
    say. Whoever wrote the file wrote these.
    """

    parent_sha256: str = ""
    """The file it was quantized from, all shards."""
    checkpoint_sha256: str = ""
    """The checkpoint at the root of it."""
    imatrix_sha256: str = ""
    calibration_sha256: str = ""
    """The text that the importance matrix was computed on."""
    plan_sha256: str = ""
    """The plan of types that it follows."""
    edgekit_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """The file (or files) that would ship. `sha256` covers every shard's bytes in order; empty when only the header
    was read (`fit`).
    """

    kind: Literal["artifact"] = "artifact"
    version: Literal[1] = 1
    path: str
    sha256: str = ""
    shard_sha256: tuple[str, ...] = ()
    header: Header
    provenance: Provenance | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """That a file or folder was made, of what and how; lies beside it as `<name>.json` and is written last.

    `source_sha256` covers every byte of the source's weights, `options` are all that could change the result.
    """

    kind: Literal["export"] = "export"
    version: Literal[1] = 1
    edgekit_version: str
    created_at: str
    source: str
    source_sha256: str
    target: str
    options: tuple[tuple[str, str], ...] = ()
    path: str
    size_bytes: int
    notes: tuple[str, ...] = ()
    """What the user should know of it: where the format cannot follow the source exactly."""
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsCheck:
    """How far an export's logits are from the checkpoint's in torch at float32, over `positions` of the same tokens:
    most from one prompt, the last `decoded` through the key-value cache token by token. KLD in nats.
    """

    subject: str
    """What was compared with torch: `fp32`, or the precision that was asked for."""
    positions: int
    decoded: int
    kld_mean: float
    kld_max: float
    top1_agreement: float
    kld_bound: float
    """`kld_max` of an fp32 export, `kld_mean` of a quantized one, stays within it or there is no export."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxExport:
    """What made an ONNX folder, out of what, and how it was checked; `edgekit.json` in the folder."""

    kind: Literal["onnx-export"] = "onnx-export"
    version: Literal[1] = 1
    edgekit_version: str
    created_at: str
    precision: str
    exporter: str
    architecture: str
    parameters: int
    source: str
    source_sha256: str
    block_size: int = 0
    """Weights that share a scale; 0 where nothing is quantized in blocks."""
    head_bits: int = 32
    embedding_bits: int = 32
    method: str = ""
    tied_table_shared: bool = False
    """The tied embedding is stored once and read both as table and as LM head."""
    versions: tuple[tuple[str, str], ...]
    checks: tuple[LogitsCheck, ...]
    size_bytes: int
    peak_bytes: int
    """The largest resident set of any process that worked on it."""
    peaks: tuple[tuple[str, int], ...] = ()
    """The same of each kind of process, bytes."""
    elapsed_s: float
