"""What a teacher's batched decoding is worth, and how far a sample depends on its batch.

    python benchmarks/synthesis.py [--rounds 5] [--threads 2] [--shape 8,512,8,4,64,1536] [--smoke]

Speed: tokens/s of the same prompts of the corpus, 32 at a time, one at a time, and by transformers' own sampling 32 at
a time, in turn; a ratio is the median over the rounds of ours ÷ theirs in the same round. The model has random weights
and the vocabulary of Qwen (151 936): its shape is layers, hidden, heads, kv heads, head width, ffn, and its
logits are spread as a trained model's are. Every sample takes the same number of tokens: none of them stops.

Independence: how many samples of a trained teacher (`tests/students.py`, two million parameters, temperature 1, top-p
1) come out otherwise when they are asked alone and 32 at a time, with float32 and with bfloat16 weights.
Writes `results/synthesis.json`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from edgekit import corpus
from edgekit.bench import probe_host
from edgekit.distill.asking import questions_of
from edgekit.distill.generating import Completion, Request, Sampling, generate_with

RESULTS = Path(__file__).parent / "results" / "synthesis.json"
VOCABULARY, AT_A_TIME = 151_936, 32
LOGITS_SPREAD = 4.0
"""Standard deviation over the vocabulary: the likeliest thousand tokens hold the nucleus, as a trained model's do."""
SAMPLING = Sampling(temperature=0.7, top_p=0.95)


def opened(folder: Path) -> tuple[Any, Any]:
    from tokenizers import Tokenizer

    from edgekit.distill.loading import load_model

    return load_model(folder, frozen=True), Tokenizer.from_file(str(folder / "tokenizer.json"))


def requests(tokenizer: Any, count: int, most: int, stop: tuple[str, ...]) -> list[Request]:
    """Questions of all domains, those of like length together, as `synthesize` asks them."""
    made = [
        Request(
            id=item.id,
            prompt=item.prompt,
            ids=tuple(tokenizer.encode(item.prompt).ids),
            most_tokens=most,
            stop=stop,
            seed=Request.seed_of(1, item.id),
        )
        for item in questions_of(corpus.DOMAINS, (), 100, 1, most=count)
    ]
    return sorted(made, key=lambda one: len(one.ids))


def said(pair: tuple[Any, Any], asked: Sequence[Request], sampling: Sampling, at_a_time: int) -> list[Completion]:
    parts = [asked[begin : begin + at_a_time] for begin in range(0, len(asked), at_a_time)]
    found = dict(generate_with(*pair)(enumerate(parts), sampling))
    return [one for at in range(len(parts)) for one in found[at]]


def theirs(pair: tuple[Any, Any], asked: Sequence[Request]) -> None:
    """`generate(do_sample=True)` on the same padded batches, with the same temperature and top-p."""
    import torch

    model, _ = pair
    for begin in range(0, len(asked), AT_A_TIME):
        some = asked[begin : begin + AT_A_TIME]
        width = max(len(one.ids) for one in some)
        ids = torch.tensor([[0] * (width - len(one.ids)) + list(one.ids) for one in some])
        mask = torch.tensor([[0] * (width - len(one.ids)) + [1] * len(one.ids) for one in some])
        kept = {"temperature": SAMPLING.temperature, "top_p": SAMPLING.top_p, "top_k": 0, "eos_token_id": None}
        with torch.no_grad():
            model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                max_new_tokens=some[0].most_tokens,
                pad_token_id=0,
                **kept,
            )


def random_model(shape: str) -> Any:
    import torch
    import transformers

    layers, hidden, heads, kv_heads, width, ffn = map(int, shape.split(","))
    torch.manual_seed(1)
    config = transformers.Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=width,
        tie_word_embeddings=True,
        eos_token_id=None,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(0, VOCABULARY, (1, 32))
    with torch.no_grad():
        model.model.norm.weight *= LOGITS_SPREAD / model(ids).logits.std()
    return model


def speed(tokenizer: Any, shape: str, count: int, most: int, rounds: int) -> dict[str, Any]:
    pair = (random_model(shape), tokenizer)
    asked = requests(tokenizer, count, most, ())
    ways = {
        "batched": lambda: said(pair, asked, SAMPLING, AT_A_TIME),
        "one at a time": lambda: said(pair, asked[::8], SAMPLING, 1),
        "transformers": lambda: theirs(pair, asked),
    }
    tokens = {"batched": len(asked) * most, "one at a time": len(asked[::8]) * most, "transformers": len(asked) * most}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if turn:  # the first is to warm up
                found[name].append(tokens[name] / (time.perf_counter() - begin))
    ratios = {
        f"batched ÷ {name}": round(median(a / b for a, b in zip(found["batched"], found[name], strict=True)), 2)
        for name in ("one at a time", "transformers")
    }
    print(ratios, {name: round(median(rates), 1) for name, rates in found.items()}, flush=True)
    return {"shape": shape, "prompts": len(asked), "tokens_each": most, "tokens_per_s": found, "ratios": ratios}


def independence(folder: Path, count: int, dtype: str) -> dict[str, Any]:
    import torch

    model, tokenizer = opened(folder)
    pair = (model.to(getattr(torch, dtype)), tokenizer)
    asked = requests(tokenizer, count, 24, ("\n",))
    hot = Sampling(temperature=1.0, top_p=1.0)
    alone, together = said(pair, asked, hot, 1), said(pair, asked, hot, AT_A_TIME)
    differ = sum(one.text != other.text for one, other in zip(alone, together, strict=True))
    tokens = sum(one.tokens for one in alone)
    print(f"{dtype}: {differ} of {len(asked)} samples differ, {tokens} tokens", flush=True)
    return {"dtype": dtype, "samples": len(asked), "tokens": tokens, "differ": differ}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24, help="that each sample takes")
    parser.add_argument("--samples", type=int, default=4000, help="for independence; 0: not")
    parser.add_argument("--shape", default="8,512,8,4,64,1536")
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs; writes nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    import torch
    from students import task_teacher

    torch.set_num_threads(given.threads)
    if given.smoke:
        given.prompts, given.tokens, given.samples, given.rounds, given.shape = 16, 4, 40, 1, "1,64,2,1,32,64"
    _, tokenizer = opened(task_teacher())
    runs = speed(tokenizer, given.shape, given.prompts, given.tokens, given.rounds)
    apart = [independence(task_teacher(), given.samples, kind) for kind in ("float32", "bfloat16") if given.samples]
    if given.smoke:
        return
    from peer import write_result

    versions = {name: version(name) for name in ("torch", "transformers")}
    circumstances = {"host": asdict(probe_host()), "versions": versions, "threads": given.threads}
    write_result(given.out, {**circumstances, "speed": runs, "independence": apart})


if __name__ == "__main__":
    main()
