"""A tiny mixture of experts that llama.cpp runs: a dense stand-in's file with its feed-forward split into experts."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

EXPERTS, USED = 4, 2


def write_routed(dense: Path, out: Path) -> Path:
    """`dense` (qwen3, f16) as a qwen3moe whose experts are random weights; every key but the architecture's kept."""
    reader = gguf.GGUFReader(dense)
    writer = gguf.GGUFWriter(out, "qwen3moe")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        key = name.replace("qwen3.", "qwen3moe.")
        kind = field.types[0]
        if kind == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        else:
            writer.add_key_value(key, field.contents(), kind)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(USED)
    writer.add_expert_feed_forward_length(int(reader.fields["qwen3.feed_forward_length"].contents()))
    rng = np.random.default_rng(5)
    for tensor in reader.tensors:
        layer, _, part = tensor.name.partition(".ffn_")
        if part not in ("up.weight", "gate.weight", "down.weight"):
            writer.add_tensor(tensor.name, tensor.data)
            continue
        rows, columns = tensor.data.shape
        experts = rng.normal(0, columns**-0.5, (EXPERTS, rows, columns)).astype(np.float16)
        writer.add_tensor(f"{layer}.ffn_{part.replace('.weight', '_exps.weight')}", experts)
        if part == "up.weight":
            router = rng.normal(0, 1, (EXPERTS, columns)).astype(np.float32)
            writer.add_tensor(f"{layer}.ffn_gate_inp.weight", router)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
