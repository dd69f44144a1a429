"""What is run: the configuration and the tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KvType = Literal["f16", "q8_0", "q4_0"]
FlashAttention = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The configuration a runtime is opened with; a device profile's `[workload]` is one of these.

    `threads = 0` means the physical cores of the big cluster of the machine it runs on; `output_rows = 0` is
    llama.cpp's own default (one row of logits per ubatch token).
    """

    context_tokens: int = 4096
    batch_tokens: int = 2048
    ubatch_tokens: int = 512
    kv_type: KvType = "f16"
    flash_attention: FlashAttention = "auto"
    mmap: bool = True
    repack: bool = True
    threads: int = 0
    output_rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a measurement runs. Tests are named as llama-bench names them: `pp512`, `tg128`, and `tg16@d4096` at a
    depth.
    """

    settings: Settings = Settings()
    prompt_tokens: tuple[int, ...] = (512,)
    generated_tokens: tuple[int, ...] = (128,)
    depths: tuple[int, ...] = (1024, 4096)
    depth_generated_tokens: int = 16
    depth_repetitions: int = 10
    repetitions_min: int = 10
    repetitions_max: int = 60
    processes: int = 3
    precision: float = 0.02
    """Stop when the exact binomial interval of the median is within ± this fraction."""
    sustained_s: float = 0.0
    timeout_s: float = 1800.0
    seed: int = 1
