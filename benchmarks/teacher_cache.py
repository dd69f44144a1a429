"""Does a student that learns from a teacher's cache become as good as one that learns from the teacher itself?

    python benchmarks/teacher_cache.py [--seeds 5] [--steps 200] [--batch 8] [--temperature 2] [--smoke]

Of every seed students with the same start and the same batches in the same order, taught by pure distillation
(alpha 1, forward KL): from all logits; from the cache; from one of the same size that keeps the usual 64 likeliest
tokens and draws fewer of the tail; from those 64 with the tail lumped into one; and from the 64 alone, made to sum up
to one, as most caches do. What counts is the divergence from the teacher on text that neither saw, at temperature 1,
and its ratio to the dense student's of that seed. Then how far a cached gradient is off, in squares, and what writing
and reading cost at the vocabulary of 151 936. Writes `results/teacher_cache.json`; exits 1 where the cache is more than
5 % worse than dense.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from peer import circumstances, write_result
from scipy import stats
from tokenizers import Tokenizer

from edgekit import corpus
from edgekit.checkpoint import hash_checkpoint, open_checkpoint
from edgekit.distill import Recipe, make_student
from edgekit.distill.alignment import Alignment, align
from edgekit.distill.cache import TeacherCache, cache_key, open_cache, write_cache
from edgekit.distill.heads import head_of
from edgekit.distill.losses import distillation_loss
from edgekit.distill.sparse import SparseTeacher, sparse_forward_kl_gradient
from edgekit.distill.sparse_rows import CacheSettings, records_of, unpack
from edgekit.distill.speaking import teacher_of

RESULTS = Path(__file__).parent / "results" / "teacher_cache.json"
LENGTH = 128
MOST_WORSE = 1.05
QWEN = 151_936
USUAL = CacheSettings(top=64, draws=11)
"""As many bytes, and as many of the likeliest tokens as caches usually keep."""

Teach = Callable[[torch.Tensor], "torch.Tensor | SparseTeacher"]


def teacher_recipe(vocabulary: int, smoke: bool) -> Recipe:
    return Recipe(
        name=f"cache-teacher-{vocabulary}",
        architecture="qwen3",
        tokenizer="qwen3",
        hidden=256,
        layers=1 if smoke else 2,
        heads=4,
        kv_heads=2,
        head_dim=64,
        ffn=256 if smoke else 512,
        vocabulary=vocabulary,
        spare=64,
        extra=(("rope_theta", 1e6), ("rms_norm_eps", 1e-6)),
        characters=1_000_000 if smoke else 2_000_000,
        steps=150 if smoke else 500,
        batch=8,
        length=LENGTH,
        learning_rate=3e-3,
    )


def windows_of(folder: Path, split: corpus.Split, count: int) -> torch.Tensor:
    """(count, length) token ids."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(corpus.text(split, characters=count * LENGTH * 7), add_special_tokens=False).ids
    return torch.tensor(ids[: count * LENGTH]).view(count, LENGTH)


def new_student(teacher: Any, seed: int) -> Any:
    config = teacher.config.__class__.from_dict(teacher.config.to_dict())
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = 1, 128, 384
    config.layer_types = config.layer_types[:1]
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config)


def train(teacher: Any, teach: Teach, windows: torch.Tensor, alignment: Alignment, given: Any, seed: int) -> Any:
    """A student of `seed`, after the steps."""
    student = new_student(teacher, seed).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-3, total_steps=given.steps + 1, pct_start=0.1, cycle_momentum=False
    )
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(len(windows), generator=generator) for _ in range(given.epochs(len(windows)))])
    for step in range(given.steps):
        numbers = order[step * given.batch : (step + 1) * given.batch]
        hidden = student.base_model(input_ids=windows[numbers]).last_hidden_state
        parts = distillation_loss(
            hidden.flatten(0, 1),
            head_of(student),
            teach(numbers),
            None,
            temperature=given.temperature,
            alpha=1.0,
            vocabulary=alignment.vocabulary,
        )
        parts.total.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    return student.eval()


@torch.no_grad()
def held_out(teacher: Any, student: Any, windows: torch.Tensor, alignment: Alignment) -> float:
    """KL(teacher ‖ student) at temperature 1, nats per token."""
    total = 0.0
    for part in windows.split(16):
        log_p, log_q = (
            alignment.common(model(input_ids=part).logits).log_softmax(-1).flatten(0, 1) for model in (teacher, student)
        )
        total += float((log_p.exp() * (log_p - log_q)).sum())
    return total / windows.numel()


def without_draws(teacher: SparseTeacher) -> SparseTeacher:
    """The tail as one."""
    none = {name: getattr(teacher, name)[:, :0] for name in ("tail_ids", "tail_log_probs", "tail_weights")}
    return replace(teacher, **none)


def renormalised(teacher: SparseTeacher) -> SparseTeacher:
    """The likeliest tokens as if there were no others."""
    lumped = without_draws(teacher)
    gone = torch.full_like(lumped.tail_log_mass, -60.0)
    return replace(lumped, log_probs=lumped.log_probs.log_softmax(-1), tail_log_mass=gone)


def ways(teacher: Any, windows: torch.Tensor, caches: dict[str, TeacherCache], given: Any) -> dict[str, Teach]:
    vocabulary = next(iter(caches.values())).key.vocabulary

    @torch.no_grad()
    def dense(numbers: torch.Tensor) -> torch.Tensor:
        return teacher(input_ids=windows[numbers]).logits.flatten(0, 1)[:, :vocabulary]

    def read(name: str, change: Callable[[SparseTeacher], SparseTeacher]) -> Teach:
        return lambda numbers: change(caches[name].teacher(numbers, temperature=given.temperature))

    found: dict[str, Teach] = {"dense": dense}
    for name in caches:
        found[name] = read(name, lambda same: same)
    found["top 64, tail lumped"] = read("top 64", without_draws)
    found["top 64, renormalised"] = read("top 64", renormalised)
    return found


def summary(klds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """The ratio to dense, paired by seed: its geometric mean and 90 % range (Student's t of the logarithms)."""
    found = {}
    for name, values in klds.items():
        logs = [math.log(one / dense) for one, dense in zip(values, klds["dense"], strict=True)]
        mean = sum(logs) / len(logs)
        half = 0.0
        if len(logs) > 1 and name != "dense":
            half = stats.t.ppf(0.95, len(logs) - 1) * stats.sem(logs)
        found[name] = {
            "kld": sum(values) / len(values),
            "ratio": math.exp(mean),
            "low": math.exp(mean - half),
            "high": math.exp(mean + half),
        }
    return found


def written(teacher: Any, folder: Path, windows: torch.Tensor, alignment: Alignment, place: Path) -> dict[str, Any]:
    """The caches, and what each took."""
    sha256 = hash_checkpoint(open_checkpoint(folder))
    caches = {}
    for name, settings in (("cache", CacheSettings()), ("top 64", USUAL)):
        key = cache_key(windows, teacher_sha256=sha256, alignment=alignment, settings=settings, precision="float32")
        write_cache(teacher_of(teacher), windows, place / name.replace(" ", "-"), key)
        caches[name] = open_cache(place / name.replace(" ", "-"), key)
    return caches


@torch.no_grad()
def noise(teacher: Any, windows: torch.Tensor, vocabulary: int, temperature: float) -> dict[str, float]:
    """Squared error of a cached gradient by the logits, as a share of the gradient's square, for an untaught student:
    what it is for single tokens.
    """
    generator = torch.Generator().manual_seed(1)
    said, logits = (
        model(input_ids=windows[:8]).logits.flatten(0, 1)[:, :vocabulary]
        for model in (teacher, new_student(teacher, 0))
    )
    exact = (logits / temperature).softmax(-1) - (said / temperature).softmax(-1)
    found = {}
    for top, draws in ((64, 11), (48, 27), (32, 43), (16, 59), (8, 67)):
        settings = CacheSettings(top=top, draws=draws)
        records = records_of(said, torch.rand(len(said), generator=generator), settings)
        sparse = unpack(records, temperature, settings, vocabulary)
        off = sparse_forward_kl_gradient(sparse, logits / temperature)[1] - exact
        found[f"{top} and {draws}"] = float(off.square().sum() / exact.square().sum())
    return found


def speed(rows: int) -> dict[str, float]:
    """Seconds a token at Qwen's vocabulary: making records of logits, and a batch of them again."""
    generator = torch.Generator().manual_seed(1)
    level = -1.1 * torch.arange(1, QWEN + 1).log()
    logits = torch.stack([level[torch.randperm(QWEN, generator=generator)] for _ in range(rows)])
    settings, starts = CacheSettings(), torch.rand(rows, generator=generator)
    one = replace(settings, coolest=2.0, hottest=2.0)
    found: dict[str, float] = {"record_bytes": settings.record_bytes}
    for name, which in (("", settings), ("_one_temperature", one)):
        started = time.perf_counter()
        records = records_of(logits, starts, which)
        found[f"write{name}_ms_per_token"] = 1e3 * (time.perf_counter() - started) / rows
        started = time.perf_counter()
        unpack(records, 2.0, which, QWEN)
        found[f"read{name}_ms_per_token"] = 1e3 * (time.perf_counter() - started) / rows
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8, help="windows of 128 tokens a step")
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; nothing is written")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.smoke:
        given.seeds, given.steps, given.vocabulary = 2, 20, 2048
    given.epochs = lambda windows: -(-given.steps * given.batch // windows)
    folder = make_student(teacher_recipe(given.vocabulary, given.smoke))
    teacher = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    alignment = align(open_checkpoint(folder), open_checkpoint(folder))
    windows, unseen = windows_of(folder, "train", 64 if given.smoke else 512), windows_of(folder, "evaluation", 64)
    with tempfile.TemporaryDirectory() as place:
        caches = written(teacher, folder, windows, alignment, Path(place))
        klds: dict[str, list[float]] = {}
        for seed in range(given.seeds):
            for name, teach in ways(teacher, windows, caches, given).items():
                student = train(teacher, teach, windows, alignment, given, seed)
                klds.setdefault(name, []).append(held_out(teacher, student, unseen, alignment))
                print(f"seed {seed}  {name:28} {klds[name][-1]:.4f} nats", file=sys.stderr)
        tails = {
            name: float(cache.teacher(torch.arange(16), temperature=given.temperature).tail_log_mass.exp().mean())
            for name, cache in caches.items()
        }
        sizes = {name: cache.key.size_bytes / windows.numel() for name, cache in caches.items()}
    found = summary(klds)
    noisy = noise(teacher, windows, alignment.vocabulary, given.temperature)
    for name, one in found.items():
        print(f"{name:28} {one['kld']:.4f} nats  × {one['ratio']:.3f} ({one['low']:.3f} – {one['high']:.3f})")
    timed = speed(16 if given.smoke else 128)
    print(f"tail mass {tails}, bytes per token {sizes}, gradient {noisy}, speed {timed}")
    if not given.smoke:
        write_result(
            RESULTS,
            {
                "circumstances": circumstances(folder / "model.safetensors"),
                "settings": {
                    name: getattr(given, name) for name in ("seeds", "steps", "batch", "temperature", "vocabulary")
                },
                "teacher": folder.name,
                "held_out": found,
                "klds": klds,
                "tail_mass": tails,
                "bytes_per_token": sizes,
                "gradient_squared_error": noisy,
                "speed": timed,
            },
        )
    return 0 if given.smoke or found["cache"]["ratio"] <= MOST_WORSE else 1


if __name__ == "__main__":
    raise SystemExit(main())
