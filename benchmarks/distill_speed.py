"""Whole steps of stage 1 against TRL's DistillationTrainer: tokens/s and memory at a vocabulary of 151 936.

    python benchmarks/distill_speed.py [--peer-python VENV/bin/python] [--rounds 5] [--threads 2] [--smoke]

Both train the same student from the same teacher on the same tokens with the same optimizer: pure forward KL, no
checkpointing of activations. TRL's trainer is whole (its loop, its loss path, AdamW) but for its generation, which is
replaced by the given tokens: it is on-policy, and generating would only make it slower. Every run is a process of its
own, the two in turn; a ratio is the median over the rounds of ours ÷ theirs in the same round. A run's time is that of
`--steps` steps after the first. `extra_bytes` is the most it held beyond both models, one gradient and the two moments
of the student, which any trainer holds; `peak_bytes` is the whole process.

What the vocabulary costs is the same for any depth, so the gain falls with the layers behind it: `--shapes` are the
widths of 0.6B ← 1.5B at 2 and 6 layers, and a small pair. Losses have to agree within 1 %, else it exits 1.
bfloat16 is autocast. Writes `results/distill_speed.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill_loss import _status, circumstances, compare

RESULTS = Path(__file__).parent / "results" / "distill_speed.json"
TEMPERATURE = 2.0
RATE = 1e-4
LENGTH = 128
SHAPES = {
    # (hidden, layers, heads, kv heads, head width, feed-forward) of student and teacher
    "small": ((256, 2, 4, 2, 64, 768), (512, 4, 8, 2, 64, 1536)),
    "0.6b-1.5b at 2 layers": ((1024, 2, 16, 8, 128, 3072), (1536, 2, 12, 2, 128, 8960)),
    "0.6b-1.5b at 6 layers": ((1024, 6, 16, 8, 128, 3072), (1536, 6, 12, 2, 128, 8960)),
}
FASTER, LEANER = 1.3, 0.75


# ---- in a process of its own -----------------------------------------------------------------------------------------


class Clock:
    """Of whole steps: what it is told at the end of each."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def tick(self) -> None:
        self.ends.append((time.perf_counter(), time.process_time()))
        if len(self.ends) == 1:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts here


def model_of(torch: Any, shape: list[int], vocabulary: int, seed: int) -> Any:
    import transformers

    hidden, layers, heads, kv_heads, head_dim, ffn = shape
    torch.manual_seed(seed)
    config = transformers.Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        tie_word_embeddings=True,
        initializer_range=hidden**-0.5,  # an untrained model that has opinions
    )
    return transformers.AutoModelForCausalLM.from_config(config)


def edgekit(_torch: Any, student: Any, teacher: Any, ids: Any, setting: dict[str, Any], clock: Clock) -> list[float]:
    """Our loop with the objective of a recipe's stage 1; the loss of every step."""
    import torch

    from edgekit.distill.heads import head_of
    from edgekit.distill.losses import distillation_loss
    from edgekit.distill.trainer import ParameterGroup, StepInfo, TrainSettings, train
    from edgekit.distill.windows import Windows

    def objective(model: Any, indices: Any, windows: Windows, info: StepInfo) -> Any:
        inputs, _, weights = windows.part(indices)
        with torch.no_grad():
            said = teacher.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        return distillation_loss(
            hidden,
            head_of(model),
            (said, head_of(teacher)),
            None,
            weights,
            temperature=TEMPERATURE,
            alpha=1.0,
            normalizer=info.normalizer,
        )

    settings = TrainSettings(
        steps=len(ids) // setting["batch"],
        batch=setting["batch"],
        learning_rate=RATE,
        warmup=0.0,
        floor=1.0,
        weight_decay=0.0,
        precision=setting["dtype"],
        log_every=1,
    )
    windows = Windows(ids=ids, weights=torch.ones(ids.shape))
    training = train(
        student,
        windows,
        objective,
        settings,
        extra=[ParameterGroup(name="teacher", module=teacher, learning_rate=None)],
        progress=lambda *_, **__: clock.tick(),
    )
    return [loss / TEMPERATURE**2 for _, loss in training.losses]  # TRL leaves T² out


def trl(torch: Any, student: Any, teacher: Any, ids: Any, setting: dict[str, Any], clock: Clock) -> list[float]:
    """DistillationTrainer on given tokens; the loss of every step, in our order."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import DistillationConfig, DistillationTrainer

    class OnGivenTokens(DistillationTrainer):  # type: ignore[misc]
        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            given = torch.stack([ids[int(one["prompt"])] for one in inputs])
            prompt, completion = given[:, :1], given[:, 1:]
            return {
                "prompt_ids": prompt,
                "prompt_mask": torch.ones_like(prompt),
                "completion_ids": completion,
                "completion_mask": torch.ones_like(completion),
                "num_items_in_batch": torch.tensor(completion.numel()),
            }

    class Ticks(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    words = Tokenizer(WordLevel({"<eos>": 0, "<pad>": 1}, unk_token="<eos>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<pad>")
    batch, steps = setting["batch"], len(ids) // setting["batch"]
    # the order of edgekit's windows, which the peer's interpreter does not have; the losses tell if it is another
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(1)).tolist()
    with tempfile.TemporaryDirectory() as place:
        arguments = DistillationConfig(
            output_dir=place,
            per_device_train_batch_size=batch,
            max_steps=steps,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            warmup_steps=0,
            adam_beta2=0.95,
            temperature=TEMPERATURE,
            beta=0.0,
            bf16=setting["dtype"] == "bfloat16",
            gradient_checkpointing=False,
            shuffle_dataset=False,
            use_cpu=True,
            save_strategy="no",
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
        )
        trainer = OnGivenTokens(
            model=student,
            teacher_model=teacher,
            args=arguments,
            train_dataset=[{"prompt": str(number)} for number in order],
            processing_class=tokenizer,
            callbacks=[Ticks()],
        )
        trainer.train()
    return [float(line["loss"]) for line in trainer.state.log_history if "loss" in line]


METHODS: dict[str, Callable[..., list[float]]] = {"edgekit": edgekit, "trl": trl}


def once(method: str, shape: str, dtype: str, threads: int, **setting: Any) -> dict[str, float]:
    """One training of a warm-up step and `steps` more: seconds and memory of these, and their losses."""
    import torch

    if method == "trl":
        import trl.trainer.distillation_trainer  # noqa: F401 (before memory is looked at)
    torch.set_num_threads(threads)
    student, teacher = (model_of(torch, one, setting["vocabulary"], seed) for seed, one in enumerate(SHAPES[shape]))
    generator = torch.Generator().manual_seed(1)
    count = setting["batch"] * (setting["steps"] + 1)
    ids = torch.randint(setting["vocabulary"], (count, LENGTH + 1), generator=generator)
    parameters = sum(parameter.numel() for parameter in student.parameters())
    held, clock = _status("VmRSS") + 3 * 4 * parameters, Clock()
    losses = METHODS[method](torch, student, teacher.eval(), ids, {**setting, "dtype": dtype}, clock)
    peak = _status("VmHWM")
    (wall, cpu), (wall_end, cpu_end) = clock.ends[0], clock.ends[-1]
    tokens = setting["batch"] * LENGTH * setting["steps"]
    return {
        "wall_s": wall_end - wall,
        "cpu_s": cpu_end - cpu,
        "tokens_per_s": tokens / (wall_end - wall),
        "extra_bytes": peak - held,
        "peak_bytes": peak,
        "held_bytes": held,
        "loss": losses[0],
        "last_loss": losses[-1],
    }


# ---- in turn ---------------------------------------------------------------------------------------------------------


def agree(run: dict[str, Any]) -> bool:
    """Whether both saw the same first loss, and the same last one: then they did the same work."""
    pairs = list(zip(*(run["samples"][method] for method in METHODS), strict=True))
    close = [abs(a[name] / b[name] - 1) < 0.01 for a, b in pairs for name in ("loss", "last_loss")]
    return all(close)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has trl")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="windows of 128 tokens a step")
    parser.add_argument("--steps", type=int, default=3, help="timed, after one that is not")
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES), default=list(SHAPES))
    parser.add_argument("--smoke", action="store_true", help="a small vocabulary, one round; nothing is written")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(once(**json.loads(given.one))))
        return 0
    from peer import write_result

    methods = {"edgekit": Path(sys.executable)} | ({"trl": given.peer_python} if given.peer_python else {})
    if "trl" not in methods:
        print("skipped: trl, there is no `--peer-python`", file=sys.stderr)
    if given.smoke:
        given.rounds, given.vocabulary, given.shapes = 1, 4096, ["small"]
    sizes = {name: getattr(given, name) for name in ("vocabulary", "batch", "steps", "threads")}
    runs = []
    for shape in given.shapes:
        for dtype in given.dtypes:
            setting = {"shape": shape, "dtype": dtype, **sizes}
            runs.append(run := compare(setting, methods, given.rounds, __file__))
            if "trl" in methods:
                ratios = run["ours_by"]["trl"]
                speed, memory = 1 / ratios["time_ratio_median"], ratios["memory_ratio_median"]
                verdict = "meets" if speed >= FASTER and memory <= LEANER else "misses"
                print(f"{shape}, {dtype}: {speed:.2f} × TRL's tokens/s, {memory:.2f} × its memory: {verdict} the goal")
    if not given.smoke:
        asked = {"temperature": TEMPERATURE, "alpha": 1.0, "length": LENGTH}
        shapes = {name: SHAPES[name] for name in given.shapes}
        write_result(given.out, {**circumstances(given.peer_python), **asked, "shapes": shapes, "runs": runs})
    return 0 if "trl" not in methods or all(agree(run) for run in runs) else 1


if __name__ == "__main__":
    raise SystemExit(main())
