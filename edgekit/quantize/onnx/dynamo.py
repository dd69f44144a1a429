"""The exporter that knows every architecture transformers has: torch.onnx's graph capture of the model's own code.

Plain operators, no fused attention: it decodes slower than the default exporter's graph (a third of its speed in a
trial), so it is asked for by name and never fallen back to.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.quantize.onnx.genai_config import genai_config
from edgekit.quantize.onnx.torch_logits import load_model

if TYPE_CHECKING:
    from edgekit.quantize.onnx.child import Report

_PAST, _PROMPT, _BATCH = 3, 5, 2
"""Example lengths; the exported graph takes any."""


def build(*, report: Report, checkpoint: str, out: str, **_: Any) -> dict[str, Any]:
    """Write `model.onnx`, its data and `genai_config.json` to `out`, with the names of inputs and outputs that the
    default exporter uses.
    """
    import torch

    report("reading weights in torch", 0, 0)
    model = load_model(checkpoint).float()
    config = model.config.get_text_config(decoder=True)
    layers = config.num_hidden_layers
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    past = torch.zeros(_BATCH, config.num_key_value_heads, _PAST, head_dim)
    report("capturing the graph", 0, 0)
    names = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    program = torch.onnx.export(
        _wrapped(model),
        (
            torch.ones(_BATCH, _PROMPT, dtype=torch.int64),
            torch.ones(_BATCH, _PAST + _PROMPT, dtype=torch.int64),
            torch.arange(_PAST, _PAST + _PROMPT).expand(_BATCH, _PROMPT),
            [past.clone() for _ in names],
        ),
        dynamo=True,
        optimize=True,
        verbose=False,
        input_names=["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in names)],
        output_names=["logits", *(f"present.{name}" for name in names)],
        dynamic_shapes=_dynamic_shapes(len(names)),
    )
    assert program is not None
    report("writing the graph", 0, 0)
    program.save(str(Path(out) / "model.onnx"), external_data=True)
    with (Path(out) / "genai_config.json").open("w", encoding="utf-8") as file:
        json.dump(genai_config(model.config.to_dict(), model.generation_config.to_dict()), file, indent=4)
    return {"versions": {}}


def _wrapped(model: Any) -> Any:
    """The model with its cache as flat tensors."""
    import torch
    from transformers import DynamicCache

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, past: list[Any]) -> Any:
            cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
            result = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            )
            present = [part for layer in result.past_key_values.layers for part in (layer.keys, layer.values)]
            return (result.logits, *present)

    return Decoder().eval()


def _dynamic_shapes(tensors: int) -> Any:
    import torch

    batch, length = torch.export.Dim("batch_size"), torch.export.Dim("sequence_length")
    past, total = torch.export.Dim("past_sequence_length"), torch.export.Dim("total_sequence_length")
    return (
        {0: batch, 1: length},
        {0: batch, 1: total},
        {0: batch, 1: length},
        [{0: batch, 2: past} for _ in range(tensors)],
    )
