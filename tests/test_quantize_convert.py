"""Converted models compute what transformers computes and tokenize as their checkpoint does."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint

from edgekit.checkpoint import open_checkpoint
from edgekit.quantize.convert import convert
from edgekit.records import Settings
from edgekit.runtimes import llamacpp

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")

students = pytest.importorskip("students")

STUDENTS = ("llama", "llama-tied", "llama-spm", "qwen2", "qwen3", "gemma3")
TOKENS = 192
GELU_TABLE, ROUNDING = 1e-5, 1e-9
"""Divergence allowed: gemma's activation is a table in half precision in ggml (`GGML_GELU_FP16`), all else float32."""
# float32 throughout: flash attention on a CPU and an f16 cache each round to half precision
EXACT = Settings(
    context_tokens=512,
    kv_type="f32",
    flash_attention="off",
    repack=False,
    threads=2,  # type: ignore[arg-type]
)


@pytest.fixture(autouse=True)
def _float32_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(llamacpp._KV_TYPES, "f32", 0)
    torch.set_num_threads(2)


def reference_logits(folder: Path, tokens: list[int]) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].double()


def gguf_logits(path: Path, tokens: list[int]) -> Any:
    session = llamacpp.open_session(path, EXACT)
    try:
        return torch.tensor(session.feed(tokens, want="all")).double()
    finally:
        session.close()


def divergence(reference: Any, found: Any) -> tuple[float, float, float]:
    """Largest KL divergence of a row, largest difference of a logit, top-1 agreement where the margin is clear."""
    expected, got = torch.log_softmax(reference, -1), torch.log_softmax(found, -1)
    kld = (expected.exp() * (expected - got)).sum(-1)
    best = reference.topk(2, -1).values
    clear = best[:, 0] - best[:, 1] > 1e-3
    agree = (reference.argmax(-1) == found.argmax(-1))[clear]
    return float(kld.max()), float((reference - found).abs().max()), float(agree.double().mean())


def folder_of(kind: str, architecture: str) -> Path:
    path: Path = students.tiny_student(architecture) if kind == "trained" else students.random_student(architecture)
    return path


@cache
def some_tokens(rows: int) -> list[int]:
    generator = random.Random(7)
    return [generator.randrange(rows) for _ in range(TOKENS)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random", "trained"])
@pytest.mark.parametrize("architecture", STUDENTS)
def test_logits_are_those_of_transformers(architecture: str, kind: str, tmp_path: Path) -> None:
    folder = folder_of(kind, architecture)
    checkpoint = open_checkpoint(folder)
    path = convert(checkpoint, tmp_path / "model.gguf", type="f32")
    tokens = some_tokens(checkpoint.config["vocab_size"])
    kld, difference, top1 = divergence(reference_logits(folder, tokens), gguf_logits(path, tokens))
    assert kld <= (GELU_TABLE if architecture == "gemma3" else ROUNDING), (kld, difference)
    assert top1 == 1.0, (kld, difference)


def scatter(model: Any) -> None:
    """Weights that show every omission: no norm of it is one, no bias zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, values in model.named_parameters():
            noise = torch.empty_like(values).normal_(0, 0.08, generator=generator)
            values.copy_(noise * 4 + 0.7 if "norm" in name else noise)


TINY = {
    "vocab_size": 272,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "max_position_embeddings": 1024,
    "bos_token_id": None,
    "eos_token_id": 260,
    "pad_token_id": None,
}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 5e5,
}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 2e4}
GEMMA_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
}
IRREGULAR = ["full_attention", "sliding_attention", "sliding_attention"]

VARIANTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama with every bias": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 48}, "float32"),
    "llama, linear scaling": ("Llama", {"rope_parameters": LINEAR, "tie_word_embeddings": True}, "float32"),
    "llama 3.2 in bfloat16": ("Llama", {"rope_parameters": LLAMA3_SCALING}, "bfloat16"),
    "llama in float16": ("Llama", {"num_key_value_heads": 4}, "float16"),
    "qwen2 untied": ("Qwen2", {"rope_parameters": LINEAR, "tie_word_embeddings": False}, "float32"),
    "qwen3 untied, wide heads": ("Qwen3", {"head_dim": 64, "tie_word_embeddings": False}, "bfloat16"),
    "gemma3, scaled, capped, irregular": (
        "Gemma3Text",
        {
            "head_dim": 64,
            "query_pre_attn_scalar": 64,
            "sliding_window": 24,
            "layer_types": IRREGULAR,
            "rope_parameters": GEMMA_ROPE,
            "final_logit_softcapping": 7.0,
        },
        "float32",
    ),
    "gemma3 without a window": (
        "Gemma3Text",
        {"head_dim": 32, "query_pre_attn_scalar": 32, "layer_types": ["full_attention"] * 3},
        "bfloat16",
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_config_can_say(variant: str, tmp_path: Path) -> None:
    """Settings that the students leave out, saved by transformers in several shards."""
    family, settings, dtype = VARIANTS[variant]
    config = getattr(transformers, f"{family}Config")(**{**TINY, **settings})
    model = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")._from_config(config)
    scatter(model)
    folder = write_checkpoint(tmp_path / "checkpoint")  # for its tokenizer
    (folder / "model.safetensors").unlink()
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size="200KB")
    checkpoint = open_checkpoint(folder)
    assert len(checkpoint.shards) > 1
    path = convert(checkpoint, tmp_path / "model.gguf", type="f32")
    tokens = some_tokens(272)
    kld, difference, top1 = divergence(reference_logits(folder, tokens), gguf_logits(path, tokens))
    assert kld <= (GELU_TABLE if family.startswith("Gemma") else ROUNDING), (kld, difference)
    assert top1 == 1.0, (kld, difference)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["f16", "bf16"])
def test_half_precision_as_it_ships(to: str, tmp_path: Path) -> None:
    """Rounded weights and llama.cpp's own defaults: an f16 cache and flash attention. bf16 keeps 8 bits of 24."""
    folder = folder_of("trained", "qwen3")
    checkpoint = open_checkpoint(folder)
    path = convert(checkpoint, tmp_path / "model.gguf", type=to)  # type: ignore[arg-type]
    tokens = some_tokens(checkpoint.config["vocab_size"])
    session = llamacpp.open_session(path, Settings(context_tokens=512, repack=False, threads=2))
    try:
        found = torch.tensor(session.feed(tokens, want="all")).double()
    finally:
        session.close()
    kld, _, _ = divergence(reference_logits(folder, tokens), found)
    assert kld <= {"f16": 1e-5, "bf16": 1e-3}[to]
