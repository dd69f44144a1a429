"""Does a learned layer map teach better than an even one?

    python benchmarks/layer_mapping.py [--seeds 5] [--steps 200] [--loss cosine] [--maps learned,uniform] [--smoke]

A teacher of six layers, students of two layers and half its hidden size. Of every seed students with the same start and
the same batches in the same order learn its logits (forward KL at temperature 1) and, beside them, its hidden states
through each map; `none` learns the logits alone. What counts is the divergence from the teacher on text that neither
saw. The learned map may be the default of `FeatureMatch` when it is at least as good as the even one in four seeds
of five. Writes `results/layer_mapping.json`; exits 1 where that does not hold.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from peer import circumstances, write_result
from tokenizers import Tokenizer

from edgekit import corpus
from edgekit.distill import Recipe, make_student
from edgekit.distill.held_out import held_out
from edgekit.distill.mapping import MAP_LEARNING_RATE, MAPPINGS, FeatureMatch
from edgekit.distill.objectives import Softly, features_objective, logits_objective
from edgekit.distill.students import load_model
from edgekit.distill.trainer import TrainSettings, train
from edgekit.distill.windows import Windows, windows_of

RESULTS = Path(__file__).parent / "results" / "layer_mapping.json"
LENGTH = 128
NEEDED = 0.8
"""Share of the seeds in which the learned map has to be at least as good."""


def teacher_recipe(smoke: bool) -> Recipe:
    return Recipe(
        name="mapping-teacher-smoke" if smoke else "mapping-teacher",
        architecture="qwen3",
        tokenizer="qwen3",
        hidden=128,
        layers=3 if smoke else 6,
        heads=4,
        kv_heads=2,
        head_dim=32,
        ffn=128 if smoke else 384,
        vocabulary=1024,
        extra=(("rope_theta", 1e6), ("rms_norm_eps", 1e-6)),
        characters=500_000 if smoke else 2_000_000,
        steps=200 if smoke else 500,
        batch=8,
        length=LENGTH,
        learning_rate=5e-3,
    )


def text_of(folder: Path, split: corpus.Split, count: int) -> Windows:
    """Windows of the split's text, `count` at most."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(corpus.text(split, characters=count * LENGTH * 5), add_special_tokens=False).ids
    return windows_of(ids[: count * LENGTH + 1], None, LENGTH)


def new_student(teacher: Any, seed: int) -> Any:
    config = teacher.config.__class__.from_dict(teacher.config.to_dict())
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = 2, 64, 192
    config.layer_types = config.layer_types[:2]
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config)


def taught(teacher: Any, windows: Windows, mapping: str, seed: int, given: Any) -> tuple[Any, Any]:
    """A student of `seed` after the steps, and the map that it learned by."""
    student = new_student(teacher, seed)
    softly = Softly(alpha=1.0, temperature=lambda *_: 1.0)
    settings = TrainSettings(steps=given.steps, batch=8, learning_rate=3e-3, seed=seed)
    if mapping == "none":
        train(student, windows, logits_objective(teacher, softly), settings)
        return student, None
    torch.manual_seed(seed)  # of the projection
    match = FeatureMatch(student.config, teacher.config, mapping, given.loss)
    objective = features_objective(teacher, match, softly, weight=given.weight)
    train(student, windows, objective, settings, extra=match.groups(3e-3, given.map_rate))
    return student, match.layer_map().weights


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--loss", default="cosine", choices=("cosine", "mse"))
    parser.add_argument("--weight", type=float, default=1.0, help="of the features beside the logits")
    parser.add_argument("--map-rate", type=float, default=MAP_LEARNING_RATE)
    parser.add_argument("--maps", default=",".join((*MAPPINGS, "none")))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; nothing is written")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.smoke:
        given.seeds, given.steps = 1, 10
    folder = make_student(teacher_recipe(given.smoke))
    teacher = load_model(folder).eval()
    windows, unseen = text_of(folder, "train", 256 if given.smoke else 2048), text_of(folder, "evaluation", 96)
    found: dict[str, list[float]] = {mapping: [] for mapping in given.maps.split(",")}
    maps: dict[str, list[Any]] = {mapping: [] for mapping in found}
    for seed in range(1, given.seeds + 1):
        for mapping in found:
            student, learned = taught(teacher, windows, mapping, seed, given)
            found[mapping].append(held_out(student, unseen, teacher=teacher).kld.value)
            maps[mapping].append(learned)
            shown = [[round(share, 2) for share in row] for row in learned or ()] if mapping == "learned" else ""
            print(f"seed {seed}  {mapping:9} {found[mapping][-1]:.4f} nats {shown}", file=sys.stderr, flush=True)
    wins = sum(own <= other for own, other in zip(found["learned"], found["uniform"], strict=True))
    for mapping, values in found.items():
        print(f"{mapping:9} {sum(values) / len(values):.4f} nats ({min(values):.4f} – {max(values):.4f})")
    print(f"learned at least as good as uniform in {wins} of {given.seeds} seeds")
    if not given.smoke:
        settings = ("seeds", "steps", "loss", "weight", "map_rate")
        write_result(
            RESULTS,
            {
                "circumstances": circumstances(folder / "model.safetensors"),
                "settings": {name: getattr(given, name) for name in settings},
                "teacher": folder.name,
                "klds": found,
                "learned_maps": maps["learned"],
                "learned_at_least_as_good": wins,
            },
        )
    return 0 if given.smoke or wins >= NEEDED * given.seeds else 1


if __name__ == "__main__":
    raise SystemExit(main())
