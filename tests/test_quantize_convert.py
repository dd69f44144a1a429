"""Converted models compute what transformers computes and tokenize as their checkpoint does."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest

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
    assert kld <= 1e-5, (kld, difference)
    assert top1 == 1.0, (kld, difference)
