"""A session of llama.cpp that keeps little in memory between two texts, for two models that are held side by side.

Beside its weights a model holds its vocabulary (at 151 936 tokens 45 MB), keys and values of its context, and logits
twice, where they are computed and where they are copied to. A lean session loads the vocabulary apart, for as long as
there is something to tokenize, gives keys and values back when a text is through, and computes its logits apart.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.records import Settings
from edgekit.runtimes import llamacpp
from edgekit.runtimes.cores import big_cores
from edgekit.runtimes.graph_end import GraphEnd, Product, give_back

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class LeanSession(llamacpp.Session):
    """`feed` works as ever, and as leanly as it can: for graphs whose end cannot be computed apart."""

    def __init__(
        self, bindings: Any, model: Any, context: Any, settings: Settings, threads: int, words: Any, end: GraphEnd
    ) -> None:
        super().__init__(bindings, model, context, settings, threads, words)
        self._vocabulary_alone, self._end = words, end
        self._product: Product | None = None
        self._outputs = 0
        """The most of any evaluation: llama.cpp has room for the logits of so many."""

    @property
    def splits(self) -> bool:
        """Whether `hidden_rows` and `logits_of` can be had."""
        return self._product is not None

    def learn(self) -> None:
        """Find out whether the end of the graph can be computed apart, by evaluating a token, and rest."""
        self.feed([self.opener or 0])
        self._product = self._end.product(self._c._lib, self.threads, self.vocabulary)
        self.rest()

    def hidden_rows(self, tokens: Sequence[int], outputs: int) -> NDArray[np.float32]:
        """Evaluate tokens up to the end of their graphs: the rows of the last so many, (outputs, hidden size).
        llama.cpp is asked for no more rows at once than it has room for the logits of.
        """
        import numpy as np

        assert self._product is not None
        found = []
        for part, wanted in self._ubatches(tokens, outputs):
            with self._end.cut(wanted):
                self.evaluate(part, min(wanted, self.output_rows or wanted) or 1)
                if wanted:
                    found.append(self._end.rows(self._product.engine))
        return np.concatenate(found)

    def _ubatches(self, tokens: Sequence[int], outputs: int) -> Iterator[tuple[Sequence[int], int]]:
        """`tokens` in parts, and how many of each part's last ones give rows: none of a batch, or some of a ubatch."""
        size, at = self.ubatch_tokens, max(0, len(tokens) - -(-outputs // self.ubatch_tokens) * self.ubatch_tokens)
        for begin in range(0, at, self.batch_tokens):
            yield tokens[begin : min(begin + self.batch_tokens, at)], 0
        while at < len(tokens):
            end = len(tokens) - (len(tokens) - at - 1) // size * size
            yield tokens[at:end], min(outputs - (len(tokens) - end), end - at)
            at = end

    def logits_of(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits of hidden rows, good until the next call or evaluation: in llama.cpp's own memory, where it has
        room for so many. It has it for the most that one evaluation gave, and a small ubatch gives few.
        """
        import numpy as np

        assert self._product is not None
        if len(hidden) > self._outputs:
            found = np.empty((len(hidden), self.vocabulary), np.float32)
            self._product.into(found.ctypes.data, hidden)
            return found
        pointer = self._c.llama_get_logits(self._context)
        self._product.into(ctypes.addressof(pointer.contents), hidden)
        return np.ctypeslib.as_array(pointer, shape=(len(hidden), self.vocabulary))

    def rest(self) -> None:
        """Forget every token, and give back the memory of keys and values, and of all that was computed."""
        self.reset()
        self._end.give_back_scratch(self._c._lib)
        self._end.give_back_caches(self._c._lib)
        logits = self._c.llama_get_logits(self._context)
        give_back(ctypes.addressof(logits.contents), 4 * self._outputs * self.vocabulary)

    def forget_words(self) -> None:
        """Free the vocabulary: tokens are evaluated all the same, and texts are read no more."""
        if self._vocabulary_alone is None:
            return
        self._c.llama_model_free(self._vocabulary_alone)
        self._vocabulary_alone = self._words = None
        if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)  # it was a hundred thousand small strings

    def close(self) -> None:
        """Free everything; the session is unusable afterwards."""
        if self._product is not None:
            self._product.close()
        self._product = None
        self.forget_words()
        super().close()

    def _feed_part(self, tokens: Sequence[int], *, outputs: int, begin: int) -> None:
        super()._feed_part(tokens, outputs=outputs, begin=begin)
        self._outputs = max(self._outputs, outputs)
        if not self.splits:
            self._end.give_back_scratch(self._c._lib)


def open_session(path: Path, settings: Settings, *, check_weights: bool = False) -> LeanSession:
    """As `llamacpp.open_session`."""
    c = llamacpp.bindings()
    threads, end = settings.threads or big_cores(), GraphEnd()
    end.callback = c.ggml_backend_sched_eval_callback(end)
    words = llamacpp.load_model(c, path, _words_only(c))
    model = None
    try:
        params = llamacpp.model_params(c, settings)
        params.kv_overrides = _without_words(c, words)
        params.check_tensors = check_weights
        model = llamacpp.load_model(c, path, params)
        context = llamacpp.open_context(c, model, settings, threads, on_node=end.callback)
        session = LeanSession(c, model, context, settings, threads, words, end)
    except BaseException:
        for loaded in filter(None, (model, words)):
            c.llama_model_free(loaded)
        raise
    session.learn()
    return session


def _words_only(c: Any) -> Any:
    params = c.llama_model_default_params()
    params.vocab_only = True
    return params


def _without_words(c: Any, words: Any) -> Any:
    """What has llama.cpp load a model so that it knows no more of its vocabulary than the size, which takes 6 MB where
    the words take 45: the metadata of models that were made without any.
    """
    architecture = ctypes.create_string_buffer(64)
    c.llama_model_meta_val_str(words, b"general.architecture", architecture, len(architecture))
    overrides = (c.llama_model_kv_override * 3)()  # the last one ends the list
    overrides[0].tag, overrides[0].key = c.LLAMA_KV_OVERRIDE_TYPE_STR, b"tokenizer.ggml.model"
    overrides[0].value.val_str = b"no_vocab"
    overrides[1].tag, overrides[1].key = c.LLAMA_KV_OVERRIDE_TYPE_INT, architecture.value + b".vocab_size"
    overrides[1].value.val_i64 = c.llama_vocab_n_tokens(c.llama_model_get_vocab(words))
    return overrides
