"""Headers of ONNX models: the graph's tensors and ports and the configuration beside it, read without touching weights.

The graph is what runs, so its tensors must bear out what the configuration says; a folder that contradicts itself is
refused. Tensors keep their ONNX names. Quantized matrices are shown as what they hold: `int4` of (row length, rows).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from edgekit.errors import EdgekitError
from edgekit.header.container import Unusable, clean, refuse
from edgekit.header.onnx_folder import GENAI, TRANSFORMERS, Config, folder_files, folder_of, read_config
from edgekit.header.onnx_wire import Graph, Initializer, Node, Port, Wire, parse
from edgekit.records import Header, TensorInfo

HINT = "export the model again with its external data and `genai_config.json` beside it"
DTYPES = {1: "f32", 2: "u8", 3: "i8", 5: "i16", 6: "i32", 7: "i64", 9: "bool", 10: "f16", 11: "f64", 16: "bf16",
          21: "u4", 22: "i4"}  # fmt: skip
"""`TensorProto.DataType` → its name here, where ggml has the type by ggml's."""

_MULTIPLIES = {
    **dict.fromkeys(("MatMul", "Gemm", "FusedMatMul", "MatMulInteger", "MatMulNBits", "MatMulBnb4"), (1,)),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulIntegerToFloat"), (1,)),
    "QLinearMatMul": (3,),
}
_LOOKS_UP = {"Gather": (0,), "GatherBlockQuantized": (0,), "RotaryEmbedding": (2, 3), "GroupQueryAttention": (7, 8)}
"""Operation → which inputs are matrices, or tables of which a token reads one row: embeddings, cosines and sines."""
_PASSES_ON = ("Transpose", "Reshape", "Cast", "DequantizeLinear", "QuantizeLinear", "Identity")

Role = Literal["", "matrix", "scale", "table"]


def read_onnx(path: Path) -> Header:
    """Header of the ONNX model at `path`, its folder or the graph in it. Raises EdgekitError with one reason and a hint
    for everything edgekit cannot account for.
    """
    try:
        return _read(path)
    except Unusable as reason:
        raise EdgekitError(f"not a usable ONNX model ({reason}): `{path}`", hint=HINT) from None


def _read(path: Path) -> Header:
    if not path.exists():
        raise EdgekitError(f"cannot read the model (no such file): `{path}`", hint="give a GGUF file or an ONNX folder")
    folder, files = folder_of(path), folder_files(path)
    if not any(file.suffix.lower() == ".onnx" and file.parent == folder for file in files):
        what = "it is a directory that holds no ONNX graph"
        raise EdgekitError(f"cannot read the model ({what}): `{path}`", hint=_what_instead(folder, files))
    config = read_config(path)
    if config.experts:
        raise EdgekitError(
            f"ONNX models with experts are not accounted for: `{config.architecture}`", hint="use a GGUF of it"
        )
    graph = open_graph(folder, config)
    ports = _cache_ports(graph)
    tensors = _tensors(graph)
    _check_shape(config, ports, tensors)
    facts = _facts(config, graph, ports)
    return Header(
        format="onnx",
        architecture=config.architecture,
        name=clean(_name_of(folder)),
        quant=_quant(tensors),
        sha256=_digest(folder, graph),
        size_bytes=sum(file.stat().st_size for file in files),
        shards=len(files),
        layers=config.layers,
        hidden=config.hidden,
        heads=(config.heads,) * config.layers,
        kv_heads=(config.kv_heads,) * config.layers,
        key_dim=config.head_dim,
        value_dim=config.head_dim,
        ffn=(config.ffn or _widest(tensors),) * config.layers,
        vocabulary=config.vocabulary,
        context_train=config.context_train,
        sliding_window=config.sliding_window,
        tied_embedding=config.tied_embedding,
        tensors=tensors,
        metadata=tuple((f"onnx.{key}", clean(str(value))) for key, value in facts),
    )


def _what_instead(folder: Path, files: tuple[Path, ...]) -> str:
    deeper = sorted({file.parent.relative_to(folder).as_posix() for file in files if file.suffix.lower() == ".onnx"})
    if deeper:
        return f"give one of the models in it: {', '.join(f'`{clean(name, 40)}`' for name in deeper[:6])}"
    if any(file.suffix in (".safetensors", ".bin") for file in files):
        return "this looks like a checkpoint: `edgekit quantize` makes models of it"
    return "give a GGUF file, or a folder with `model.onnx` in it"


def _name_of(folder: Path) -> str:
    """The folder's name, or its parent's where it only tells the precision."""
    plain = re.fullmatch(r"(model|onnx|fp32|fp16|bf16|f32|f16|int8|int4|cpu|q\d\w*)[\w-]{0,8}", folder.name.lower())
    return folder.parent.name if plain and folder.parent.name else folder.name


def open_graph(folder: Path, config: Config) -> Graph:
    """The graph of the model in `folder`, whose external data are all there. Raises Unusable and EdgekitError."""
    graph = _read_graph(folder / config.graph)
    _check_places(folder, graph)
    return graph


def weights_of(graph: Graph) -> frozenset[str]:
    """Names of the initializers that are multiplied with or looked up, and of such matrices' scales."""
    return frozenset(_uses(graph))


def _read_graph(file: Path) -> Graph:
    try:
        if not file.is_file():
            refuse(f"its graph `{file.name}` is missing")
        with file.open("rb", buffering=0) as stream:
            return parse(Wire(stream, file.stat().st_size))
    except OSError as error:
        raise EdgekitError(f"cannot read the model ({(error.strerror or 'failed').lower()}): `{file}`") from None


# ---- what the graph says --------------------------------------------------------------------------------------------


def _check_places(folder: Path, graph: Graph) -> None:
    """External data must be whole, and lie in the folder by name: no way leads out of it."""
    sizes: dict[str, int] = {}
    for tensor in graph.initializers:
        if not tensor.location:
            continue
        if tensor.location not in sizes:
            sizes[tensor.location] = _size_at(folder, tensor)
        size, end = sizes[tensor.location], tensor.offset + tensor.size_bytes
        if end > size:
            refuse(f"`{tensor.location}` has {size} bytes, truncated: tensor `{tensor.name}` ends at byte {end}")


def _size_at(folder: Path, tensor: Initializer) -> int:
    place = PurePosixPath(tensor.location)
    if place.is_absolute() or ".." in place.parts or "\\" in tensor.location or ":" in tensor.location:
        refuse(f"tensor `{tensor.name}` lies outside the folder, at `{clean(tensor.location, 80)}`")
    file = folder / place
    try:
        return file.stat().st_size if file.is_file() else refuse(f"its data file `{clean(str(place), 80)}` is missing")
    except (OSError, ValueError):
        return refuse(f"its data file `{clean(str(place), 80)}` cannot be read")


@dataclass(frozen=True, slots=True)
class _CachePorts:
    keys: tuple[Port, ...]
    logits: Port


def _cache_ports(graph: Graph) -> _CachePorts:
    """The graph's past keys, one a layer, and its logits. A graph without them cannot generate."""
    constant = {tensor.name for tensor in graph.initializers}
    inputs = {port.name: port for port in graph.inputs if port.name not in constant}
    keys = tuple(port for name, port in inputs.items() if re.fullmatch(r"past_key_values\.\d{1,3}\.key", name))
    logits = next((port for port in graph.outputs if port.name == "logits"), None)
    if "input_ids" not in inputs or logits is None:
        refuse("the graph does not take `input_ids` and give `logits`")
    if not keys:
        refuse("the graph keeps no keys and values of past tokens (`past_key_values.0.key`) and cannot generate text")
    return _CachePorts(keys, logits)


def _tensors(graph: Graph) -> tuple[TensorInfo, ...]:
    names = Counter(tensor.name for tensor in graph.initializers)
    if names and (twice := names.most_common(1)[0])[1] > 1:
        refuse(f"two tensors have the name `{twice[0]}`")
    uses, packed = _uses(graph), _packed(graph)
    found = []
    for tensor in graph.initializers:
        use = uses.get(tensor.name, _Use())
        kind, shape = DTYPES.get(tensor.type, f"onnx{tensor.type}"), tensor.shape
        if tensor.name in packed:
            kind, shape = packed[tensor.name]
        elif not use.rows_first:
            shape = shape[::-1]
        name = clean(tensor.name)
        found.append(TensorInfo(name=name, type=kind, shape=shape, size_bytes=tensor.size_bytes, role=use.role))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Use:
    """What an initializer is to the graph. `rows_first`: it is stored as (row length, rows), the way `MatMul` wants;
    `turned`: it is looked up in a transposed copy, which onnxruntime makes once and keeps.
    """

    role: Role = ""
    rows_first: bool = False
    turned: bool = False


def _uses(graph: Graph) -> dict[str, _Use]:
    """Which initializers are multiplied with, and of which rows are looked up, directly or as another node passes them
    on. A table that is also multiplied with is a matrix: a token reads it whole.
    """
    origin = {tensor.name: (tensor.name, True) for tensor in graph.initializers}
    uses: dict[str, _Use] = {}
    for node in graph.nodes:
        if node.op in _PASSES_ON and node.inputs and node.outputs and node.inputs[0] in origin:
            name, straight = origin[node.inputs[0]]
            origin[node.outputs[0]] = (name, straight != (node.op == "Transpose"))
        for place in _MULTIPLIES.get(node.op, ()):
            if place < len(node.inputs) and node.inputs[place] in origin:
                name, straight = origin[node.inputs[place]]
                turned = uses[name].turned if name in uses else False
                uses[name] = _Use("matrix", straight != bool(dict(node.numbers).get("transB", 0)), turned)
        for place in _LOOKS_UP.get(node.op, ()):
            if place < len(node.inputs) and node.inputs[place] in origin:
                name, straight = origin[node.inputs[place]]
                known = uses.get(name, _Use("table"))
                uses[name] = _Use(known.role, known.rows_first, not straight)
        if node.op == "MatMulNBits" and len(node.inputs) > 2:
            uses[node.inputs[2]] = _Use("scale")
    return uses


def _packed(graph: Graph) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name of a block-quantized matrix → its type and true shape, from the operation that multiplies with it."""
    sizes = {tensor.name: tensor.size_bytes for tensor in graph.initializers}
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for node in graph.nodes:
        numbers = dict(node.numbers)
        if node.op != "MatMulNBits" or len(node.inputs) < 2 or node.inputs[1] not in sizes:
            continue
        columns, rows, bits, block = (numbers.get(key, 0) for key in ("K", "N", "bits", "block_size"))
        if not 2 <= bits <= 8 or not 16 <= block <= 2**16 or not 0 < columns < 2**31 or not 0 < rows < 2**31:
            refuse(f"the matrix `{node.inputs[1]}` has {bits} bits in blocks of {block} for {columns} × {rows} values")
        wanted = rows * -(-columns // block) * (block * bits // 8)
        if sizes[node.inputs[1]] != wanted:
            refuse(f"the matrix `{node.inputs[1]}` takes {sizes[node.inputs[1]]} bytes and its shape asks for {wanted}")
        found[node.inputs[1]] = (f"int{bits}", (columns, rows))
    return found


# ---- against the configuration --------------------------------------------------------------------------------------


def _check_shape(config: Config, ports: _CachePorts, tensors: tuple[TensorInfo, ...]) -> None:
    if len(ports.keys) != config.layers:
        refuse(f"the graph keeps keys of {len(ports.keys)} layers and its configuration says {config.layers}")
    shapes = (
        ("key/value heads", ports.keys[0].shape[1:2], config.kv_heads),
        ("values a head", ports.keys[0].shape[3:4], config.head_dim),
        ("tokens of vocabulary", ports.logits.shape[-1:], config.vocabulary),
    )
    for what, fixed, said in shapes:
        if fixed and isinstance(fixed[0], int) and fixed[0] != said:
            refuse(f"the graph has {fixed[0]} {what} and its configuration says {said}")
    matrices = [tensor for tensor in tensors if tensor.role == "matrix" and len(tensor.shape) == 2]
    if not matrices:
        refuse("the graph multiplies with no weights")
    if not any(config.hidden in tensor.shape for tensor in matrices):
        refuse(f"no matrix of the graph has the hidden size of its configuration, {config.hidden}")
    if not any(config.vocabulary in tensor.shape for tensor in matrices):
        refuse(f"no matrix of the graph gives the {config.vocabulary} logits of its configuration")
    if config.ffn and not any(tensor.shape[0] == config.ffn for tensor in matrices):
        refuse(f"no matrix of the graph has the feed-forward size of its configuration, {config.ffn}")
    # the builder counts the final norm as a layer, so only matrices tell
    layers = {int(found[1]) for tensor in matrices if (found := re.search(r"\blayers\.(\d{1,4})\.", tensor.name))}
    if layers and max(layers) >= config.layers:
        refuse(f"the graph holds weights of layer {max(layers)} and its configuration says {config.layers} layers")


def _widest(tensors: tuple[TensorInfo, ...]) -> int:
    """The longest rows of any matrix: those of the feed-forward part, where the configuration does not name it."""
    return max(tensor.shape[0] for tensor in tensors if tensor.role == "matrix" and tensor.shape)


def _quant(tensors: tuple[TensorInfo, ...]) -> str:
    """The type that most bytes of the matrices have, as exporters call it: `int4`, `int8`, `fp16`, `fp32`."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        if tensor.role == "matrix":
            sizes[tensor.type] += tensor.size_bytes
    common = sizes.most_common(1)[0][0]
    return {"f32": "fp32", "f16": "fp16", "i8": "int8", "u8": "int8", "i4": "int4", "u4": "int4"}.get(common, common)


def _facts(config: Config, graph: Graph, ports: _CachePorts) -> list[tuple[str, Any]]:
    """What memory and reports want to know of the graph besides its tensors."""
    rows = ports.logits.shape[1] if len(ports.logits.shape) == 3 else ""
    uses = _uses(graph)
    turned = sum(tensor.size_bytes for tensor in graph.initializers if uses.get(tensor.name, _Use()).turned)
    return [
        ("graph", config.graph),
        ("producer", graph.producer),
        ("opset", graph.opset),
        ("operations", len(graph.nodes)),
        ("kv_type", DTYPES.get(ports.keys[0].type, f"onnx{ports.keys[0].type}")),
        ("kv_shared", str(config.shares_cache).lower()),
        ("logits_type", DTYPES.get(ports.logits.type, f"onnx{ports.logits.type}")),
        ("logits_rows", "last" if rows == 1 else "all"),
        ("transposed_bytes", turned),
        *_block_facts([node for node in graph.nodes if node.op == "MatMulNBits"]),
    ]


def _block_facts(nodes: Sequence[Node]) -> list[tuple[str, Any]]:
    """How block-quantized matrices are stored and multiplied, where there are any."""
    if not nodes:
        return []
    numbers = [dict(node.numbers) for node in nodes]
    return [
        ("accuracy_level", ", ".join(sorted({str(one.get("accuracy_level", 0)) for one in numbers}))),
        ("block_size", ", ".join(sorted({str(one.get("block_size", 0)) for one in numbers}))),
        ("zero_points", str(any(len(node.inputs) > 3 and node.inputs[3] for node in nodes)).lower()),
    ]


def _digest(folder: Path, graph: Graph) -> str:
    """SHA-256 of the configuration files and of everything parsed from the graph: the header without the weights."""
    digest = hashlib.sha256()
    for name in (GENAI, TRANSFORMERS):
        file = folder / name
        digest.update(file.read_bytes() if file.is_file() else b"")
    for part in (graph.initializers, graph.nodes, graph.inputs, graph.outputs):
        digest.update(json.dumps([str(one) for one in part]).encode())
    return digest.hexdigest()
