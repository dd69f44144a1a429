"""The reference: the checkpoint's logits in torch at float32, whatever its own type, in about the checkpoint's memory.

A 1.5B model in bfloat16 takes 3.1 GB; made float32 it would take 6.2. Each module's own parameters are widened just
before it runs, and it gets the stored ones back after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.quantize.onnx import blocks
from edgekit.quantize.onnx.graph import Recipe

if TYPE_CHECKING:
    from edgekit.quantize.onnx.child import Report


def compute(
    *,
    report: Report,
    checkpoint: str,
    tokens: list[int],
    rows: list[int],
    out: str,
    recipe: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write logits of `tokens` at positions `rows` to `out`: `.npy`, float32, (rows, vocabulary). With a `recipe` the
    weights are rounded as `graph.quantize_graph` would round them.
    """
    import numpy as np
    import torch

    report("reading weights in torch", 0, 0)
    model = load_model(checkpoint)
    _run_in_float32(model, Recipe(**recipe) if recipe else None)
    report("evaluating in torch", 0, 0)
    with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor([tokens]), use_cache=False, logits_to_keep=torch.tensor(rows, dtype=torch.long)
        ).logits[0]
    if logits.shape[0] != len(rows):  # an architecture that does not know `logits_to_keep`
        logits = logits[rows]
    np.save(out, logits.float().numpy())
    return {"vocabulary": int(logits.shape[1])}


def load_model(checkpoint: str) -> Any:
    """The causal language model in its own type, from safetensors alone, no foreign code."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint,
        dtype="auto",
        attn_implementation="eager",
        low_cpu_mem_usage=True,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    return model.eval()


def _run_in_float32(model: Any, recipe: Recipe | None) -> None:
    import torch

    head = model.get_output_embeddings()
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        is_matrix = recipe is not None and isinstance(module, torch.nn.Linear | torch.nn.Embedding)
        if is_matrix or any(parameter.dtype != torch.float32 for parameter in own):
            _widen_while_running(module, own, recipe if is_matrix else None, is_head=module is head)


def _widen_while_running(module: Any, own: list[Any], recipe: Recipe | None, *, is_head: bool) -> None:
    """Give `module` its parameters in float32, rounded by `recipe`, for as long as it runs."""
    stored = [parameter.data for parameter in own]
    is_table = not hasattr(module, "in_features")

    def widen(*_: object) -> None:
        for parameter, narrow in zip(own, stored, strict=True):
            parameter.data = narrow.float()
            if recipe is not None and narrow.ndim == 2:
                parameter.data = _rounded(parameter.data, recipe, is_head=is_head, is_table=is_table)

    def narrow_again(*_: object) -> None:
        for parameter, narrow in zip(own, stored, strict=True):
            parameter.data = narrow

    module.register_forward_pre_hook(widen)
    module.register_forward_hook(narrow_again)


def _rounded(weight: Any, recipe: Recipe, *, is_head: bool, is_table: bool) -> Any:
    """`weight` of (outputs, inputs) after quantizing and back."""
    import torch

    columns = weight.numpy().T
    if not recipe.bits and not is_table:
        quants, scales = blocks.quantize_columns(columns)
        return torch.from_numpy((quants * scales).T)
    bits = recipe.head_bits if is_head or is_table else recipe.bits
    packed, block_scales = blocks.quantize_matrix(
        columns, bits=bits, block_size=recipe.block_size, method=recipe.method, threads=recipe.threads
    )
    return torch.from_numpy(blocks.dequantize(packed, block_scales, bits=bits)[:, : weight.shape[1]])
