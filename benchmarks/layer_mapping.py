"""Does a learned layer map teach better than an even one?

    python benchmarks/layer_mapping.py [--seeds 5] [--layers 2] [--steps 200] [--maps learned,uniform] [--smoke]

A teacher of six layers, students of half its hidden size and two layers (or `--layers`). Of every seed students with
the same start and the same batches in the same order learn its logits (forward KL at temperature 1) and, beside them,
its hidden states through each map; `none` learns the logits alone, `learned-even` is a learned map that starts at the
even one's layers instead of those at the same relative depth. What counts is the divergence from the teacher on text
that neither saw. Rows already in `results/layer_mapping.json` under the same settings are not run again; exits 1 where
the learned map is not at least as good as the even one in four seeds of five, or where a seed is missing.
"""

from __future__ import annotations

import argparse
import json
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
from edgekit.distill.mapping import MAP_LEARNING_RATE, MAPPINGS, FeatureMatch, uniform
from edgekit.distill.objectives import Softly, features_objective, logits_objective
from edgekit.distill.students import load_model
from edgekit.distill.trainer import TrainSettings, train
from edgekit.distill.windows import Windows, windows_of

RESULTS = Path(__file__).parent / "results" / "layer_mapping.json"
LENGTH = 128
MAPS = (*MAPPINGS, "learned-even", "none")
SETTINGS = ("steps", "loss", "weight", "map_rate")
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


def new_student(teacher: Any, seed: int, layers: int) -> Any:
    config = teacher.config.__class__.from_dict(teacher.config.to_dict())
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = layers, 64, 192
    config.layer_types = config.layer_types[:layers]
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config)


def taught(teacher: Any, windows: Windows, mapping: str, seed: int, given: Any) -> tuple[Any, Any]:
    """A student of `seed` after the steps, and the map that it learned by."""
    student = new_student(teacher, seed, given.layers)
    softly = Softly(alpha=1.0, temperature=lambda *_: 1.0)
    settings = TrainSettings(steps=given.steps, batch=8, learning_rate=3e-3, seed=seed)
    if mapping == "none":
        train(student, windows, logits_objective(teacher, softly), settings)
        return student, None
    torch.manual_seed(seed)  # of the projection
    name, *starting = mapping.split("-")
    start = uniform(given.layers, teacher.config.num_hidden_layers).argmax(-1).tolist() if starting else None
    match = FeatureMatch(student.config, teacher.config, name, given.loss, start)
    objective = features_objective(teacher, match, softly, weight=given.weight)
    train(student, windows, objective, settings, extra=match.groups(3e-3, given.map_rate))
    return student, match.layer_map().weights


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--layers", type=int, default=2, help="of the student")
    parser.add_argument("--loss", default="cosine", choices=("cosine", "mse"))
    parser.add_argument("--weight", type=float, default=1.0, help="of the features beside the logits")
    parser.add_argument("--map-rate", type=float, default=MAP_LEARNING_RATE)
    parser.add_argument("--maps", default=",".join(MAPS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; nothing is written")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.smoke:
        given.seeds, given.steps = 1, 10
    folder = make_student(teacher_recipe(given.smoke))
    teacher = load_model(folder).eval()
    windows, unseen = text_of(folder, "train", 256 if given.smoke else 2048), text_of(folder, "evaluation", 96)
    settings = {name: getattr(given, name) for name in SETTINGS} | {"teacher": folder.name}
    rows = [] if given.smoke else rows_before(settings)
    for seed in range(1, given.seeds + 1):
        for mapping in given.maps.split(","):
            if any((row["map"], row["seed"], row["layers"]) == (mapping, seed, given.layers) for row in rows):
                continue
            student, learned = taught(teacher, windows, mapping, seed, given)
            kld = held_out(student, unseen, teacher=teacher).kld.value
            which = {"map": mapping, "seed": seed, "layers": given.layers}
            shares = learned if mapping.startswith("learned") else None
            rows.append({**which, "kld": kld, "shares": shares})
            shown = [[round(share, 2) for share in row] for row in shares or ()]
            print(f"seed {seed}  {mapping:16} {kld:.4f} nats {shown or ''}", file=sys.stderr, flush=True)
            if not given.smoke:
                about = circumstances(folder / "model.safetensors")
                outcome = {"rows": rows, "at_least_as_good_as_uniform": verdicts(rows)}
                write_result(RESULTS, {"circumstances": about, "settings": settings, **outcome})
    for mapping in MAPS:
        values = [row["kld"] for row in rows if (row["map"], row["layers"]) == (mapping, given.layers)]
        if values:
            print(f"{mapping:16} {sum(values) / len(values):.4f} nats ({min(values):.4f} – {max(values):.4f})")
    wins = won(rows, "learned", given.layers)
    print(f"learned at least as good as uniform in {sum(wins)} of {len(wins)} seeds")
    return 0 if given.smoke or (len(wins) >= given.seeds and sum(wins) >= NEEDED * len(wins)) else 1


def won(rows: list[dict[str, Any]], mapping: str, layers: int) -> list[bool]:
    """Whether this map was at least as good as the even one, in each seed that has both."""
    own, even = (
        {row["seed"]: row["kld"] for row in rows if (row["map"], row["layers"]) == (which, layers)}
        for which in (mapping, "uniform")
    )
    return [own[seed] <= even[seed] for seed in own if seed in even]


def verdicts(rows: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """By layers of the student and map: in how many seeds of how many."""
    shapes = sorted({row["layers"] for row in rows})
    found = {
        layers: {mapping: won(rows, mapping, layers) for mapping in MAPS if mapping != "uniform"} for layers in shapes
    }
    return {
        f"{layers} layers": {mapping: f"{sum(wins)} of {len(wins)}" for mapping, wins in some.items() if wins}
        for layers, some in found.items()
    }


def rows_before(settings: dict[str, Any]) -> list[dict[str, Any]]:
    if not RESULTS.is_file():
        return []
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found["rows"] if found["settings"] == settings else []


if __name__ == "__main__":
    raise SystemExit(main())
