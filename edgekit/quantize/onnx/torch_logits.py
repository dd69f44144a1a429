"""The reference: the checkpoint's logits in torch at float32, whatever its own type, in about the checkpoint's memory.

A 1.5B model in bfloat16 takes 3.1 GB; made float32 it would take 6.2. Each module's own parameters are widened just
before it runs and narrowed again after, which loses nothing: they came from the narrow type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.quantize.onnx.child import Report


def compute(*, report: Report, checkpoint: str, tokens: list[int], rows: list[int], out: str) -> dict[str, Any]:
    """Write logits of `tokens` at positions `rows` to `out`: `.npy`, float32, (rows, vocabulary)."""
    import numpy as np
    import torch

    report("reading weights in torch", 0, 0)
    model = load_model(checkpoint)
    _run_in_float32(model)
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


def _run_in_float32(model: Any) -> None:
    import torch

    for module in model.modules():
        own = [parameter for parameter in module.parameters(recurse=False) if parameter.dtype != torch.float32]
        if own:
            _widen_while_running(module, own, own[0].dtype)


def _widen_while_running(module: Any, own: list[Any], narrow: Any) -> None:
    def widen(*_: object) -> None:
        for parameter in own:
            parameter.data = parameter.data.float()

    def narrow_again(*_: object) -> None:
        for parameter in own:
            parameter.data = parameter.data.to(narrow)

    module.register_forward_pre_hook(widen)
    module.register_forward_hook(narrow_again)
