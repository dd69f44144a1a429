"""`config.json` checked and made llama.cpp's keys. A setting that llama.cpp cannot follow is refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from edgekit.checkpoint import Checkpoint, shown
from edgekit.errors import EdgekitError

MAX_LAYERS, MAX_SIZE = 512, 2**31 - 1  # `src/llama-hparams.h`; GGUF keys are 32 bits wide

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3"}
"""transformers' `model_type` → llama.cpp's architecture."""

_HEAD_DIMS = {"qwen3": 128, "gemma3": 256}  # what transformers assumes where a config names none


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary embedding: base frequency, linear scaling (1 = none), Llama 3's scaling where asked, and the base of
    sliding layers (0 = the same for all).
    """

    base: float
    linear_factor: float = 1.0
    llama3: tuple[float, float, float, float] | None = None
    """factor, low_freq_factor, high_freq_factor, original_max_position_embeddings."""
    sliding_base: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The shape of a model and what its graph needs. `sliding` tells per layer whether it attends within `window`
    tokens only (empty: none does).
    """

    architecture: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    rows: int
    context: int
    rms_epsilon: float
    tied: bool
    attention_bias: bool
    mlp_bias: bool
    rope: Rope
    window: int = 0
    sliding: tuple[bool, ...] = ()
    final_softcap: float = 0.0


def read_model(checkpoint: Checkpoint) -> Model:
    """The model `config.json` describes. Raises EdgekitError for an unknown architecture, a missing or absurd number,
    and every setting that the GGUF could not express.
    """
    architecture = ARCHITECTURES.get(checkpoint.architecture)
    if architecture is None:
        raise EdgekitError(
            f"edgekit cannot convert this architecture to GGUF: `{checkpoint.architecture}`",
            hint=f"it converts {', '.join(ARCHITECTURES)}",
        )
    config = _Config(checkpoint)
    config.forbid_unknown_graph(architecture)
    heads, hidden = config.count("num_attention_heads"), config.count("hidden_size")
    head_dim = config.count("head_dim", default=_HEAD_DIMS.get(architecture, hidden // heads))
    if head_dim % 2 or (architecture == "qwen2" and heads * head_dim != hidden):
        config.refuse(f"a head of {head_dim} values does not fit {hidden} with {heads} heads")
    kv_heads = config.count("num_key_value_heads", default=heads)
    if heads % kv_heads:
        config.refuse(f"{heads} heads cannot share {kv_heads} key-value heads")
    layers = config.count("num_hidden_layers", high=MAX_LAYERS)
    window, sliding = config.sliding(architecture, layers)
    return Model(
        architecture=architecture,
        layers=layers,
        hidden=hidden,
        ffn=config.count("intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rows=config.count("vocab_size", high=2**24),
        context=config.count("max_position_embeddings"),
        rms_epsilon=config.number("rms_norm_eps"),
        tied=config.flag("tie_word_embeddings", default=architecture == "gemma3"),
        # qwen2 always has biases on q, k and v; transformers reads these two for llama only
        attention_bias=config.flag("attention_bias") and architecture == "llama",
        mlp_bias=config.flag("mlp_bias") and architecture == "llama",
        rope=config.rope(architecture),
        window=window,
        sliding=sliding,
        final_softcap=config.number("final_logit_softcapping", default=0.0),
    )


class _Config:
    """Typed, bounded access to a stranger's config."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.path = checkpoint.path / "config.json"
        self.values = checkpoint.config

    def refuse(self, reason: str) -> NoReturn:
        raise EdgekitError(
            f"cannot convert this model ({reason}): `{self.path}`",
            hint="edgekit refuses rather than write a model that computes something else",
        )

    def count(self, name: str, *, default: int | None = None, high: int = MAX_SIZE) -> int:
        value = self.values.get(name)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value <= high:
            self.refuse(f"`{name}` is {shown(value, 40)}, not a number from 1 to {high}")
        return value

    def number(self, name: str, *, default: float | None = None, table: Mapping[str, Any] | None = None) -> float:
        value = (self.values if table is None else table).get(name)
        value = default if value is None else value
        sound = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
        if not sound or (default is None and value == 0):
            self.refuse(f"`{name}` is {shown(value, 40)}, not a positive number")
        return float(value or 0)

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            self.refuse(f"`{name}` is {shown(value, 40)}, not true or false")
        return default if value is None else value

    def forbid_unknown_graph(self, architecture: str) -> None:
        """Refuse what llama.cpp's graph of this architecture does not do."""
        wanted = "gelu_pytorch_tanh" if architecture == "gemma3" else "silu"
        key = "hidden_activation" if architecture == "gemma3" else "hidden_act"
        if self.values.get(key) not in (wanted, None):
            self.refuse(f"`{key}` is {shown(self.values[key], 40)}, llama.cpp does `{wanted}`")
        forbidden = ["quantization_config", "attn_logit_softcapping", "use_bidirectional_attention"]
        if architecture in ("qwen3", "gemma3"):
            forbidden.append("attention_bias")  # llama.cpp has no place for the output's
        if architecture != "gemma3":
            forbidden.append("use_sliding_window")
        for name in forbidden:
            if self.values.get(name):
                self.refuse(f"llama.cpp does not do `{name}` here")
        if architecture == "gemma3":
            self._forbid_other_scale()

    def _forbid_other_scale(self) -> None:
        """llama.cpp scales gemma3's attention by the head size, by hidden ÷ heads when it has 62 layers
        (`src/models/gemma3.cpp`), and reads no key for it.
        """
        scalar = self.number("query_pre_attn_scalar", default=256.0)
        heads, hidden = self.count("num_attention_heads"), self.count("hidden_size")
        done = hidden // heads if self.count("num_hidden_layers") == 62 else self.count("head_dim", default=256)
        if scalar != done:
            self.refuse(f"`query_pre_attn_scalar` is {scalar:g}, llama.cpp computes with {done}")

    def sliding(self, architecture: str, layers: int) -> tuple[int, tuple[bool, ...]]:
        if architecture != "gemma3" or self.values.get("sliding_window") is None:
            return 0, ()
        kinds = self.values.get("layer_types")
        if kinds is None:
            period = self.count("sliding_window_pattern", default=6)
            slides = tuple((layer + 1) % period != 0 for layer in range(layers))
        elif isinstance(kinds, list) and len(kinds) == layers and {*kinds} <= {"sliding_attention", "full_attention"}:
            slides = tuple(kind == "sliding_attention" for kind in kinds)
        else:
            self.refuse(f"`layer_types` does not say `sliding_attention` or `full_attention` for {layers} layers")
        return (self.count("sliding_window"), slides) if any(slides) else (0, ())

    def rope(self, architecture: str) -> Rope:
        """transformers 5 keeps `rope_parameters` (one table, or one per layer type), 4 `rope_theta` with
        `rope_scaling`, gemma3 also `rope_local_base_freq`.
        """
        table = self.values.get("rope_parameters")
        table = {} if table is None else table
        full: Any = table
        local: Any = {}
        if isinstance(table, Mapping) and ("full_attention" in table or "sliding_attention" in table):
            full, local = table.get("full_attention") or {}, table.get("sliding_attention") or {}
        old = self.values.get("rope_scaling") or {}
        if not all(isinstance(part, Mapping) for part in (full, local, old)):
            self.refuse("its rope settings are not tables")
        gemma = architecture == "gemma3"
        default = self.number("rope_theta", default=1e6 if gemma else 1e4)
        base = self.number("rope_theta", default=default, table=full)
        if local.get("rope_type", "default") != "default":
            self.refuse(f"llama.cpp does not scale sliding layers: rope type `{shown(local['rope_type'], 40)}`")
        sliding = self.number("rope_local_base_freq", default=1e4)
        sliding = self.number("rope_theta", default=sliding, table=local) if gemma else 0.0
        return self._scaled(architecture, {**old, **full}, base, sliding)

    def _scaled(self, architecture: str, rule: Mapping[str, Any], base: float, sliding: float) -> Rope:
        kind = rule.get("rope_type", rule.get("type", "default"))
        if rule.get("partial_rotary_factor", self.values.get("partial_rotary_factor")) not in (None, 1, 1.0):
            self.refuse("llama.cpp does not do `partial_rotary_factor` here")
        if kind in ("default", None):
            return Rope(base=base, sliding_base=sliding)
        if kind == "linear":
            return Rope(base=base, sliding_base=sliding, linear_factor=self.number("factor", table=rule))
        if kind == "llama3" and architecture == "llama":
            factor, low, high = (
                self.number(name, table=rule) for name in ("factor", "low_freq_factor", "high_freq_factor")
            )
            if high <= low:
                self.refuse("`high_freq_factor` is not above `low_freq_factor`")
            old_context = self.number(
                "original_max_position_embeddings", default=self.count("max_position_embeddings"), table=rule
            )
            return Rope(base=base, llama3=(factor, low, high, old_context))
        return self.refuse(f"edgekit does not convert rope scaling `{shown(kind, 40)}` of `{architecture}`")
