"""lm-evaluation-harness's view of an artifact. Imports the harness at the top: only `harness` imports this module."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from lm_eval.api.model import LM

from edgekit.errors import EdgekitError
from edgekit.progress import Progress, silent
from edgekit.runtimes import Answerer, ChoiceScore, Generated, Roll, Weigh, Write

STAGE = "harness"
MAX_TOKENS = 256
"""Generated where a task does not say; the harness's own default."""

_LENGTH_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class EdgekitLM(LM):  # type: ignore[misc]  # the harness has no types
    """The three questions that the harness asks a model, put to an open `Answerer`: so a GGUF or an ONNX folder is
    judged by the runtime that it ships with, in its fenced process.

    Everything is greedy: a task that asks for sampling is refused. A prompt that is too long loses its beginning where
    continuations are weighed, as in the harness's own adapters, and is refused where text is generated.

    A continuation whose first letters make one token with the context's last (`otter` + `s`) is weighed from where
    the whole line's tokens begin to differ from the context's; the harness's own adapters weigh its later tokens after
    the context's old ones, a line that no tokenizer would write. Behind a space there is no difference.
    """

    def __init__(self, answerer: Answerer, *, progress: Progress = silent) -> None:
        super().__init__()
        self._answerer = answerer
        self._progress = progress
        self.broken = 0
        """Answers whose logits were no numbers."""

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether it is what the model would write) of each request's continuation.

        Continuations of one context are weighed together, so the context is read once.
        """
        pairs = [request.args for request in requests]
        questions = [
            Weigh(prompt=context, continuations=tuple(continuation for _, continuation in group), cut=True)
            for context, group in groupby(pairs, key=lambda pair: pair[0])
        ]
        replies = self._ask(questions, "weighing")
        scores = [(score.nats, score.greedy) for reply in replies for score in reply]
        self.broken += sum(score.broken for reply in replies for score in reply)
        for pair, score in zip(pairs, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, score)
        return scores

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood in nats of each request's whole text, however long."""
        texts = [request.args[0] for request in requests]
        replies: list[tuple[ChoiceScore, ...]] = self._ask([Roll(text=text) for text in texts], "reading")
        totals = [reply[0].nats for reply in replies]
        self.broken += sum(reply[0].broken for reply in replies)
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each request's context, up to one of its stop words."""
        pairs = [request.args for request in requests]
        replies: list[Generated] = self._ask([_write(context, options) for context, options in pairs], "writing")
        texts = [reply.text for reply in replies]
        self.broken += sum(reply.broken for reply in replies)
        for pair, text in zip(pairs, texts, strict=True):
            self.cache_hook.add_partial("generate_until", pair, text)
        return texts

    def _ask(self, questions: Sequence[Any], doing: str) -> list[Any]:
        replies = []
        for reply in self._answerer.ask(questions):
            replies.append(reply)
            self._progress(STAGE, len(replies), len(questions), doing)
        return replies


def _write(context: str, options: dict[str, Any]) -> Write:
    """The request as a question. Raises EdgekitError where it is not greedy."""
    if options.get("do_sample") or (options.get("do_sample") is None and float(options.get("temperature") or 0) > 0):
        raise EdgekitError(
            "the task asks for sampled text, and edgekit generates greedily",
            hint="set `do_sample: false` in the task's `generation_kwargs`",
        )
    until = options.get("until") or []
    stop = [until] if isinstance(until, str) else list(until)
    length = next((options[key] for key in _LENGTH_KEYS if options.get(key) is not None), MAX_TOKENS)
    return Write(prompt=context, max_tokens=int(length), stop=tuple(filter(None, stop)))
