"""Quantizing an exported float32 graph, one weight at a time: memory stays near the largest quantized weight, however
large the model.

`int4` and `int8` make `MatMulNBits` nodes, `int8-dynamic` the integer products that onnxruntime's `quantize_dynamic`
makes. The embedding becomes a `GatherBlockQuantized` of 8 bits in each; a tied table is stored once, and two
initializers of different shape read the same bytes of the data file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgekit.errors import EdgekitError
from edgekit.quantize.onnx import blocks

if TYPE_CHECKING:
    from edgekit.quantize.onnx.child import Report

DATA_NAME = "model.onnx.data"
_ALIGNMENT = 4096
_INLINE_BYTES = 1024
"""Smaller constants stay in the graph, where shape inference reads them."""
_STEPS_TO_HEAD = 8
_ACCURACY_LEVEL = 4
"""`MatMulNBits`: activations are quantized to 8 bits block by block, the fast path on CPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """`bits` of the layers' matrices, 0 for dynamic 8-bit integers; `head_bits` of head and embedding."""

    bits: int
    head_bits: int
    block_size: int
    method: str
    threads: int


def quantize_graph(*, report: Report, model: str, out: str, tied: bool, recipe: dict[str, Any]) -> dict[str, Any]:
    """Write the quantized `model.onnx` and its data to the folder `out`.

    Raises EdgekitError where the graph has no matrix to quantize or no head that makes the logits.
    """
    import onnx_ir as ir

    graph_model = ir.load(model)
    target = Path(out)
    with (target / DATA_NAME).open("wb") as file:
        rewriter = _Rewriter(graph_model.graph, _DataFile(file), Recipe(**recipe))
        found = rewriter.run(report, tied=tied)
        rewriter.store_the_rest()
    graph_model.graph.opset_imports.setdefault("com.microsoft", 1)
    graph_model.graph.sort()
    ir.save(graph_model, target / "model.onnx")
    return found


class Weight:
    """A constant matrix as `MatMul` reads it, (inputs, outputs); stored the other way round when `transposed`."""

    def __init__(self, value: Any, *, transposed: bool) -> None:
        self.value = value
        self.transposed = transposed

    @property
    def name(self) -> str:
        return str(self.value.name)

    @property
    def shape(self) -> tuple[int, int]:
        first, second = (int(size) for size in self.value.const_value.shape)
        return (second, first) if self.transposed else (first, second)

    def array(self) -> Any:
        """A view of the mapped file; `release` it, or its pages count as this process's memory."""
        array = self.value.const_value.numpy()
        return array.T if self.transposed else array

    def release(self) -> None:
        release = getattr(self.value.const_value, "release", None)
        if release is not None:
            release()


class _DataFile:
    """The external data file, written from front to back."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def append(self, array: Any) -> tuple[int, int]:
        """Offset and length of `array`'s bytes."""
        import numpy as np

        self.file.seek(-self.file.tell() % _ALIGNMENT, 1)
        offset = self.file.tell()
        self.file.write(np.ascontiguousarray(array).data.cast("B"))
        return offset, self.file.tell() - offset


class _Rewriter:
    def __init__(self, graph: Any, data: _DataFile, recipe: Recipe) -> None:
        self.graph = graph
        self.data = data
        self.recipe = recipe
        self.done: dict[tuple[str, int], tuple[Any, Any]] = {}
        """Quants and scales by the float weight's name and bits: a matrix that two nodes share is quantized once."""
        self.activations: dict[str, list[Any]] = {}
        self.stored: set[str] = set()
        """Initializers that stand in the data file already."""

    def run(self, report: Report, *, tied: bool) -> dict[str, Any]:
        """Replace every product with a constant matrix and the embedding's look-up."""
        head = find_head(self.graph)
        head_weight = None if head is None else weight_of(head)
        found = [(node, weight_of(node)) for node in self.graph if node.op_type == "MatMul"]
        products = [(node, weight) for node, weight in found if weight is not None]
        lookup = find_embedding(self.graph)
        if head is None or not products:
            raise EdgekitError("the exported graph has no head to quantize", hint="export it with `--to onnx:fp32`")
        for index, (node, weight) in enumerate(products):
            report("quantizing", index, len(products))
            if self.recipe.bits:
                self._to_blocks(node, weight, self.recipe.head_bits if node is head else self.recipe.bits)
            else:
                self._to_integers(node, weight)
        shared = False
        if lookup is not None:
            shared = self._quantize_lookup(lookup, head_weight if tied and self.recipe.bits else None)
        return {"tied_table_shared": shared, "embedding_bits": 32 if lookup is None else self.recipe.head_bits}

    def _to_blocks(self, node: Any, weight: Weight, bits: int) -> None:
        rows, columns = weight.shape
        quants, scales = self._blocks_of(weight, bits)
        self._replace(
            node,
            "MatMulNBits",
            [node.inputs[0], quants, scales],
            suffix=f"_Q{bits}",
            K=rows,
            N=columns,
            bits=bits,
            block_size=self.recipe.block_size,
            accuracy_level=_ACCURACY_LEVEL,
        )

    def _blocks_of(self, weight: Weight, bits: int) -> tuple[Any, Any]:
        """Initializers with the quants and scales of a weight."""
        key = (weight.name, bits)
        if key not in self.done:
            packed, scales = self._quantize(weight, bits)
            stored = self._store(f"{weight.name}_Q{bits}", packed), self._store(f"{weight.name}_scales", scales)
            self.done[key] = stored
        return self.done[key]

    def _quantize(self, weight: Weight, bits: int) -> tuple[Any, Any]:
        recipe = self.recipe
        quantized = blocks.quantize_matrix(
            weight.array(), bits=bits, block_size=recipe.block_size, method=recipe.method, threads=recipe.threads
        )
        weight.release()
        return quantized

    def _to_integers(self, node: Any, weight: Weight) -> None:
        """`x @ w` as `quantize_dynamic` writes it: integers of both, then the product of both scales."""
        import numpy as np
        import onnx_ir as ir

        if (weight.name, 0) not in self.done:
            quants, scales = blocks.quantize_columns(weight.array())
            weight.release()
            self.done[(weight.name, 0)] = (
                self._store(f"{weight.name}_quantized", quants),
                self._store(f"{weight.name}_scale", scales),
            )
            self._store(f"{weight.name}_zero_point", np.zeros(len(scales), np.int8))
        quants, scales = self.done[(weight.name, 0)]
        zero = self.graph.initializers[f"{weight.name}_zero_point"]
        x, x_scale, x_zero = self._activation(node)
        product = self._node("MatMulInteger", [x, quants, x_zero, zero], f"{node.name}_quant", before=node)
        cast = self._node("Cast", product, f"{node.name}_cast", before=node, to=int(ir.DataType.FLOAT))
        scale = self._node("Mul", [x_scale, scales], f"{node.name}_scales", before=node)
        self._replace(node, "Mul", [*cast, *scale], suffix="_scaled", domain="")

    def _activation(self, node: Any) -> list[Any]:
        """The quantized input of `node`, its scale and zero point; made once for all who read it."""
        value = node.inputs[0]
        if value.name not in self.activations:
            self.activations[value.name] = self._node(
                "DynamicQuantizeLinear", [value], f"{value.name}_QuantizeLinear", before=node, outputs=3
            )
        return self.activations[value.name]

    def _quantize_lookup(self, node: Any, head_weight: Weight | None) -> bool:
        """Make the embedding blocks of 8 bits, the head's own where `head_weight` is its transpose; whether it was."""
        weight = Weight(node.inputs[0], transposed=True)
        # where the last block is padded, the head's rows are longer than the table's
        shared = head_weight is not None and weight.shape[0] % self.recipe.block_size == 0
        table, scales = self._shared_table(head_weight) if head_weight and shared else self._own_table(weight)
        self._replace(
            node,
            "GatherBlockQuantized",
            [table, node.inputs[1], scales],
            suffix=f"_Q{self.recipe.head_bits}",
            gather_axis=0,
            quantize_axis=1,
            block_size=self.recipe.block_size,
            bits=self.recipe.head_bits,
        )
        return shared

    def _shared_table(self, head_weight: Weight) -> tuple[Any, Any]:
        """The head's quants once more, as rows: another initializer over the same bytes of the data file."""
        import onnx_ir as ir

        quants, scales = self._blocks_of(head_weight, self.recipe.head_bits)
        stored, count = quants.const_value, head_weight.shape[1]
        name = f"{stored.name}_table"
        shape = ir.Shape([count, stored.length // count])
        table = ir.ExternalTensor(DATA_NAME, stored.offset, stored.length, stored.dtype, shape=shape, name=name)
        return self._register(table), scales

    def _own_table(self, weight: Weight) -> tuple[Any, Any]:
        width, count = weight.shape
        packed, scales = self._quantize(weight, self.recipe.head_bits)
        rows = packed.reshape(count, -1)[:, : width * self.recipe.head_bits // 8]
        return self._store(f"{weight.name}_table", rows), self._store(f"{weight.name}_table_scales", scales)

    def _node(
        self, op: str, inputs: list[Any], name: str, *, before: Any, outputs: int = 1, **attributes: Any
    ) -> list[Any]:
        import onnx_ir as ir

        node = ir.node(op, inputs=inputs, attributes=attributes, num_outputs=outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = f"{name}_{index}"
        self.graph.insert_before(before, node)
        return list(node.outputs)

    def _replace(
        self, node: Any, op: str, inputs: list[Any], *, suffix: str, domain: str = "com.microsoft", **attributes: Any
    ) -> None:
        import onnx_ir as ir

        new = ir.node(op, inputs=inputs, attributes=attributes, domain=domain, name=f"{node.name}{suffix}")
        ir.convenience.replace_nodes_and_values(self.graph, node, [node], [new], node.outputs, new.outputs)

    def _store(self, name: str, array: Any) -> Any:
        """A new initializer whose bytes stand in the data file."""
        import onnx_ir as ir

        offset, length = self.data.append(array)
        return self._register(
            ir.ExternalTensor(
                DATA_NAME, offset, length, ir.DataType.from_numpy(array.dtype), shape=ir.Shape(array.shape), name=name
            )
        )

    def _register(self, tensor: Any) -> Any:
        import onnx_ir as ir

        value = ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        self.stored.add(tensor.name)
        return value

    def store_the_rest(self) -> None:
        """Copy what stays float to the data file, and drop what nothing reads any more."""
        import onnx_ir as ir

        for node in [node for node in self.graph if node.op_type == "Transpose" and not node.outputs[0].uses()]:
            self.graph.remove(node, safe=True)
        for name, value in list(self.graph.initializers.items()):
            tensor = value.const_value
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]
            elif name not in self.stored and tensor.nbytes <= _INLINE_BYTES:
                value.const_value = ir.tensor(tensor.numpy().copy(), name=name)
            elif name not in self.stored:
                offset, length = self.data.append(tensor.numpy())
                value.const_value = ir.ExternalTensor(
                    DATA_NAME, offset, length, tensor.dtype, shape=tensor.shape, name=name
                )


def constant_matrix(value: Any) -> Any:
    """The constant of two dimensions behind `value`, or `None`."""
    tensor = None if value is None else value.const_value
    return tensor if tensor is not None and len(tensor.shape) == 2 else None


def weight_of(node: Any) -> Weight | None:
    """The constant matrix that a product multiplies with, as it stands or behind a transposition."""
    value = node.inputs[1]
    if constant_matrix(value) is not None:
        return Weight(value, transposed=False)
    source = value.producer()
    if source is not None and source.op_type == "Transpose" and constant_matrix(source.inputs[0]) is not None:
        return Weight(source.inputs[0], transposed=True)
    return None


def find_head(graph: Any) -> Any:
    """The product whose result becomes the logits, perhaps scaled, capped or cast on the way; `None` without one."""
    value = next((value for value in graph.outputs if value.name == "logits"), None)
    for _ in range(_STEPS_TO_HEAD):
        node = None if value is None else value.producer()
        if node is None:
            return None
        if node.op_type == "MatMul":
            return node if weight_of(node) is not None else None
        value = next((source for source in node.inputs if source is not None and source.const_value is None), None)
    return None


def find_embedding(graph: Any) -> Any:
    """The look-up of `input_ids` in a constant table; `None` without one."""
    for node in graph:
        if (
            node.op_type == "Gather"
            and node.inputs[1].name == "input_ids"
            and constant_matrix(node.inputs[0]) is not None
        ):
            return node
    return None
