"""`Generate` for teachers that one process does not serve: vLLM as the engine, Ray Data to feed several of them.

Both come with the extra `scale`. A request carries its seed, so a sample does not depend on its neighbours; vLLM draws
other numbers from a seed than `generating` does, and rounds by the batch: samples of the two are not the same, and a
file is of one of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekit.distill.generating import Batches, Completion, Generate, Request, Sampling
from edgekit.errors import import_extra

EXTRA = "scale"
_SEEDS = 2**31


def vllm_generate(teacher: Path, *, workers: int = 1, gpus: int = 1) -> Generate:
    """`Generate` of the checkpoint folder `teacher` by vLLM: one engine here or, with several `workers`, one in each of
    as many Ray actors, every engine on `gpus` GPUs. Large batches (hundreds of samples) keep an engine busy.

    Raises EdgekitError where the extra is not installed. Its engine is made at the first batch.
    """
    import_extra("vllm", extra=EXTRA)
    if workers > 1:
        return ray_generate(VllmEngine, (str(teacher), gpus), workers=workers, gpus=gpus)

    def generate(batches: Batches, sampling: Sampling) -> Iterator[tuple[int, Sequence[Completion]]]:
        engine: VllmEngine | None = None
        for number, requests in batches:
            engine = engine or VllmEngine(str(teacher), gpus)
            yield number, engine(requests, sampling)

    return generate


def ray_generate(
    engine: Callable[..., Callable[[Sequence[Request], Sampling], list[Completion]]],
    arguments: tuple[Any, ...],
    *,
    workers: int,
    gpus: int = 0,
) -> Generate:
    """`Generate` by Ray Data: `engine(*arguments)` is made once in each of `workers` actors, which hold `gpus` GPUs
    each; a batch goes to whoever is free, and is given back as soon as it is finished. An actor that dies is replaced
    and its batch asked again.

    Raises EdgekitError where the extra is not installed.
    """
    data = import_extra("ray.data", extra=EXTRA)

    def generate(batches: Batches, sampling: Sampling) -> Iterator[tuple[int, Sequence[Completion]]]:
        rows = [{"batch": number, "requests": _to_text(requests)} for number, requests in batches]
        if not rows:
            return
        said = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Worker,
            fn_constructor_args=(engine, arguments, sampling),
            batch_size=1,
            compute=data.ActorPoolStrategy(size=workers),
            num_gpus=gpus or None,
        )
        for row in said.iter_rows():
            yield int(row["batch"]), [Completion(**one) for one in json.loads(row["said"])]

    return generate


class VllmEngine:
    """One vLLM engine in this process, deterministic up to its own rounding."""

    def __init__(self, teacher: str, gpus: int = 1) -> None:
        self.vllm = import_extra("vllm", extra=EXTRA)
        # not the folder's own suggestions (a penalty, a top-k), and the likelihoods of the model itself
        self.engine = self.vllm.LLM(
            model=teacher,
            tensor_parallel_size=gpus,
            generation_config="vllm",
            logprobs_mode="raw_logprobs",
            trust_remote_code=False,
            disable_log_stats=True,
        )

    def __call__(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """What it writes, in the order of `requests`."""
        asked = [
            self.vllm.SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=one.seed % _SEEDS,
                max_tokens=one.most_tokens,
                stop=list(one.stop),
                logprobs=0,
            )
            for one in requests
        ]
        prompts = [{"prompt_token_ids": list(one.ids)} for one in requests]
        return [completion_of(one.outputs[0]) for one in self.engine.generate(prompts, asked, use_tqdm=False)]


def completion_of(output: Any) -> Completion:
    """vLLM's `CompletionOutput` as ours: what ended it is counted among the tokens and not in the likelihood."""
    finished = output.finish_reason == "stop"
    likely = [shares[token].logprob for token, shares in zip(output.token_ids, output.logprobs, strict=True)]
    return Completion(
        text=output.text,
        tokens=len(output.token_ids),
        nats=round(float(sum(likely[:-1] if finished else likely)), 4),
        finished=finished,
    )


class _Worker:
    """What Ray Data makes in each actor: one engine, asked a batch at a time."""

    def __init__(self, engine: Callable[..., Any], arguments: tuple[Any, ...], sampling: Sampling) -> None:
        self.engine, self.sampling = engine(*arguments), sampling

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[Any]]:
        said = [self.engine(_from_text(str(text)), self.sampling) for text in rows["requests"]]
        return {
            "batch": [int(number) for number in rows["batch"]],
            "said": [json.dumps([asdict(one) for one in completions]) for completions in said],
        }


def _to_text(requests: Sequence[Request]) -> str:
    """As text: columns of Ray Data are Arrow's, and these rows are ragged."""
    return json.dumps([asdict(one) for one in requests])


def _from_text(text: str) -> list[Request]:
    return [Request(**(one | {"ids": tuple(one["ids"]), "stop": tuple(one["stop"])})) for one in json.loads(text)]
