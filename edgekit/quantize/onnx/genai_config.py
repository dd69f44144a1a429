"""`genai_config.json` for exporters that do not write one, as onnxruntime-genai's builder writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def genai_config(config: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a decoder with growing key-value caches. `config` and `generation` are the checkpoint's
    `config.json` and `generation_config.json`.
    """
    text = {**config, **(config.get("text_config") or {})}
    architecture = (config.get("architectures") or ["decoder"])[0]

    def setting(name: str, default: Any) -> Any:
        value = generation.get(name)
        return default if value is None else value

    def token(name: str, default: Any) -> Any:
        value = setting(name, text.get(name))
        return default if value is None else value

    model = {
        "bos_token_id": token("bos_token_id", 1),
        "context_length": text["max_position_embeddings"],
        "decoder": _decoder(text),
        "eos_token_id": token("eos_token_id", None),
        "pad_token_id": token("pad_token_id", 0),
        "type": architecture.partition("For")[0].lower(),
        "vocab_size": text["vocab_size"],
    }
    search = {
        "do_sample": setting("do_sample", False),
        "max_length": text["max_position_embeddings"],
        "min_length": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": False,
        "repetition_penalty": setting("repetition_penalty", 1.0),
        "temperature": setting("temperature", 1.0),
        "top_k": setting("top_k", 50),
        "top_p": setting("top_p", 1.0),
    }
    return {"model": model, "search": search}


def _decoder(text: Mapping[str, Any]) -> dict[str, Any]:
    heads = text["num_attention_heads"]
    return {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": "model.onnx",
        "head_size": text.get("head_dim") or text["hidden_size"] // heads,
        "hidden_size": text["hidden_size"],
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "position_ids": "position_ids",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
        "num_attention_heads": heads,
        "num_hidden_layers": text["num_hidden_layers"],
        "num_key_value_heads": text.get("num_key_value_heads") or heads,
    }
