"""What turns hidden states into logits: the output matrix of a model, with what its family does to the product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError, import_extra

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """logits = cap · tanh(scale · (hidden · weightᵀ + bias) / cap), without a cap the argument itself.

    `weight` is (vocabulary, hidden), `bias` (vocabulary).
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """What the model says in `states` (rows, hidden): (rows, vocabulary) float32."""
        functional = import_extra("torch.nn.functional", extra="distill")
        product: torch.Tensor = functional.linear(states.to(self.weight.dtype), self.weight, self.bias).float()
        self.shape_logits(product)
        return product

    def shape_logits(self, product: torch.Tensor) -> torch.Tensor | None:
        """Turn the product into logits in place; gives the slope dlogit/dproduct, None where that is one."""
        if self.scale == 1 and self.cap is None:
            return None
        if self.cap is None:
            product.mul_(self.scale)
            return product.new_tensor(self.scale)
        product.mul_(self.scale / self.cap).tanh_()
        slope = (1 - product * product).mul_(self.scale)
        product.mul_(self.cap)
        return slope


def head_of(model: Any) -> Head:
    """The head of a transformers causal LM, tied or not, with the scale and the cap that its configuration names.

    Raises EdgekitError where the output layer is no plain matrix (an adapter on it, a quantized one).
    """
    torch = import_extra("torch", extra="distill")
    layer = model.get_output_embeddings()
    if not isinstance(layer, torch.nn.Linear):
        raise EdgekitError(
            f"the output layer is no plain matrix, the loss cannot take it apart: `{type(layer).__name__}`",
            hint="merge adapters into the model first",
        )
    text = getattr(model.config, "get_text_config", lambda: model.config)()
    # as in transformers: Cohere multiplies, Granite divides, Gemma caps
    scale = (getattr(text, "logit_scale", None) or 1.0) / (getattr(text, "logits_scaling", None) or 1.0)
    cap = getattr(text, "final_logit_softcapping", None)
    return Head(weight=layer.weight, bias=layer.bias, scale=float(scale), cap=float(cap) if cap else None)


def as_head(head: Any) -> Head:
    """A Head of what a caller has: a Head, a plain linear layer, or the matrix alone."""
    torch = import_extra("torch", extra="distill")
    if isinstance(head, Head):
        return head
    if isinstance(head, torch.nn.Linear):
        return Head(weight=head.weight, bias=head.bias)
    if isinstance(head, torch.Tensor) and head.ndim == 2:
        return Head(weight=head)
    raise EdgekitError(f"a head is a matrix of (vocabulary, hidden) or a linear layer, not a `{type(head).__name__}`")
