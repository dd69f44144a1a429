"""llama.cpp through its own C functions: what llama-bench calls, without the Python wrapper around it.

The high-level wrapper loses 12–22 % of decode speed and is not what ships on a phone. Everything runs on the CPU
backends; no device is offloaded to. `swa_full` is off as in llama-bench and llama-server: a sliding-window cache has
the size of its window.
"""

from __future__ import annotations

import ctypes
import os
import sys
import types
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from edgekit.records import Settings
from edgekit.runtimes.cores import big_cores
from edgekit.runtimes.protocol import SessionRefused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # ggml_type in ggml.h
_FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}  # llama_flash_attn_type in llama.h
_LOAD_NONE, _LOAD_MMAP = 0, 1  # llama_load_mode in llama.h


def import_bindings_alone() -> None:
    """Make `llama_cpp.llama_cpp` importable without its package's `__init__`, which pulls in jinja2, sqlite and more:
    0.02 s and 5 MB instead of 0.25 s and 60 MB. For the worker only: `llama_cpp.Llama` is missing afterwards.
    """
    if "llama_cpp" in sys.modules:
        return
    spec = find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise SessionRefused("worker", "llama-cpp-python is not installed")
    package = types.ModuleType("llama_cpp")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["llama_cpp"] = package


def bindings() -> Any:
    """llama.cpp's functions."""
    import llama_cpp.llama_cpp as functions

    return functions


def describe_build() -> tuple[str, str]:
    """(llama.cpp and ggml version, CPU features) of the libraries, which are loaded and initialised by this call."""
    c = bindings()
    c.llama_backend_init()
    features = [part.split("=")[0].strip() for part in c.llama_print_system_info().decode().split("|") if "= 1" in part]
    features = [feature.removeprefix("CPU :").strip() for feature in features]
    return f"llama.cpp {_c_string(c, 'llama_version')}, {_ggml_version(c)}", " ".join(features)


def _c_string(c: Any, name: str) -> str:
    """What a `const char * name(void)` of the library returns; `unknown` in builds without it."""
    function = getattr(c._lib, name, None)
    if function is None:
        return "unknown"
    function.restype = ctypes.c_char_p
    return (function() or b"unknown").decode(errors="replace")


def _ggml_version(c: Any) -> str:
    return f"ggml {_c_string(c, 'ggml_version')} ({_c_string(c, 'ggml_commit')})"


class Node(NamedTuple):
    """A token of one or several of the texts that are evaluated together: those that share all up to it."""

    token: int
    position: int
    texts: Sequence[int]
    asks: bool
    """Whether the logits of what follows it are wanted."""


class Session:
    """A model and its context in this process. A hostile file can crash it: strangers' models belong into a worker."""

    def __init__(
        self, bindings: Any, model: Any, context: Any, settings: Settings, threads: int, words: Any = None
    ) -> None:
        c = self._c = bindings
        self._model, self._context = model, context
        self._memory = c.llama_get_memory(context)
        vocabulary = self._words = c.llama_model_get_vocab(words or model)  # `words` is a vocabulary loaded alone
        self.vocabulary: int = c.llama_vocab_n_tokens(vocabulary)
        bos = c.llama_vocab_bos(vocabulary) if c.llama_vocab_get_add_bos(vocabulary) else -1
        self.first_token: int | None = bos if 0 <= bos < self.vocabulary else None
        openers = (c.llama_vocab_bos(vocabulary), c.llama_vocab_eos(vocabulary))
        self.opener: int | None = next((token for token in openers if 0 <= token < self.vocabulary), None)
        self.window: int = c.llama_model_n_swa(model)
        self.sequences: int = c.llama_n_seq_max(context)
        self.batch_tokens: int = c.llama_n_batch(context)
        self.ubatch_tokens: int = c.llama_n_ubatch(context)
        self.context_tokens: int = c.llama_n_ctx(context)
        self.output_rows = settings.output_rows
        self.threads = threads
        self.position = 0
        self._single = (c.llama_token * 1)()
        self._single_batch = c.llama_batch_get_one(self._single, 1)

    def decode(self, tokens: list[int]) -> None:
        """Evaluate at most `batch_tokens` tokens; logits of the last one stand when this returns."""
        if len(tokens) == 1:
            self._single[0] = tokens[0]
            batch = self._single_batch
        else:
            array = (self._c.llama_token * len(tokens))(*tokens)
            batch = self._c.llama_batch_get_one(array, len(tokens))
        self._evaluate(batch, len(tokens))

    def _evaluate(self, batch: Any, count: int) -> None:
        status = self._c.llama_decode(self._context, batch)
        if status != 0:
            raise SessionRefused("step", f"llama.cpp could not evaluate {count} tokens: `llama_decode` gave `{status}`")
        self._c.llama_synchronize(self._context)
        self.position += count

    def feed(
        self, tokens: Sequence[int], want: Literal["last", "all"] | int = "last", *, copy: bool = True
    ) -> NDArray[np.float32]:
        """Evaluate `tokens` after what is in the context; logits as float32, (rows, vocabulary), of them `all`, of the
        `last` one, or of the last so many. Raises SessionRefused when they do not fit.

        Without `copy`, rows of one ubatch are llama.cpp's own memory, which the next evaluation overwrites.
        """
        import numpy as np

        rows = want if isinstance(want, int) else len(tokens) if want == "all" else 1
        if not tokens or self.position + len(tokens) > self.context_tokens:
            raise SessionRefused("step", f"context of {self.context_tokens} tokens cannot take `{len(tokens)}` more")
        if 0 < self.output_rows < min(rows, self.ubatch_tokens):
            raise SessionRefused("step", f"{rows} rows of logits need `output_rows = 0`, not `{self.output_rows}`")
        parts = []
        for part, outputs in self._parts(tokens, rows):
            self._feed_part(part, outputs=outputs or 1, begin=self.position)
            if outputs:
                pointer = self._c.llama_get_logits(self._context)
                part_rows = np.ctypeslib.as_array(pointer, shape=(outputs, self.vocabulary))
                parts.append(part_rows.copy() if copy or outputs < rows else part_rows)
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _parts(self, tokens: Sequence[int], rows: int) -> Iterator[tuple[Sequence[int], int]]:
        """`tokens` in batches, and how many of each batch's last ones give logits: at most a ubatch of them."""
        begin, silent = 0, len(tokens) - rows
        while begin < len(tokens):
            outputs = min(rows, self.ubatch_tokens)
            ahead = max(0, silent - begin)
            if ahead + outputs > self.batch_tokens:
                ahead, outputs = min(ahead, self.batch_tokens), 0
            yield tokens[begin : begin + ahead + outputs], outputs
            begin, rows = begin + ahead + outputs, rows - outputs

    def evaluate(self, tokens: Sequence[int], outputs: int | None = None) -> None:
        """Evaluate one batch with outputs for every token, or for the last so many, and leave the logits where they
        are: for `on_node`.
        """
        self._feed_part(tokens, outputs=len(tokens) if outputs is None else outputs, begin=self.position)

    def _feed_part(self, tokens: Sequence[int], *, outputs: int, begin: int) -> None:
        """Evaluate one batch with outputs for the last so many tokens."""
        c = self._c
        batch = c.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for index, token in enumerate(tokens):
                batch.token[index] = token
                batch.pos[index] = begin + index
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = 0
                batch.logits[index] = index >= len(tokens) - outputs
            self._evaluate(batch, len(tokens))
        finally:
            c.llama_batch_free(batch)

    def feed_tree(self, nodes: Sequence[Node]) -> NDArray[np.float32]:
        """Evaluate tokens of several texts at once; logits of those that ask for them, (asking, vocabulary), in
        llama.cpp's own memory until the next evaluation. `keep` or `reset` is next: `position` means nothing now.
        """
        import numpy as np

        c = self._c
        batch = c.llama_batch_init(len(nodes), 0, self.sequences)
        try:
            batch.n_tokens = len(nodes)
            for index, node in enumerate(nodes):
                batch.token[index], batch.pos[index] = node.token, node.position
                batch.n_seq_id[index] = len(node.texts)
                for place, text in enumerate(node.texts):
                    batch.seq_id[index][place] = text
                batch.logits[index] = node.asks
            self._evaluate(batch, len(nodes))
        finally:
            c.llama_batch_free(batch)
        shape = (sum(node.asks for node in nodes), self.vocabulary)
        return np.ctypeslib.as_array(c.llama_get_logits(self._context), shape=shape)

    def keep(self, tokens: int) -> None:
        """Forget all but the first `tokens` tokens of every text; for models without a sliding window."""
        for text in range(self.sequences):
            self._c.llama_memory_seq_rm(self._memory, text, tokens, -1)
        self.position = tokens

    def rewind(self, tokens: int) -> None:
        """Forget all but the first `tokens` tokens; everything where the model's memory cannot be cut."""
        if tokens >= self.position:
            return
        if tokens > 0 and self._c.llama_memory_seq_rm(self._memory, 0, tokens, -1) and self._sees_back(tokens):
            self.position = tokens
            return
        self.reset()

    def _sees_back(self, tokens: int) -> bool:
        """Whether what follows the first `tokens` tokens still finds all that its sliding window spans: a window's
        cache drops what it has passed. As llama.cpp's server decides it.
        """
        if self.window <= 0:
            return True
        return bool(self._c.llama_memory_seq_pos_min(self._memory, 0) <= max(0, tokens - self.window))

    def reset(self) -> None:
        """Forget every token."""
        self._c.llama_memory_clear(self._memory, False)
        self.position = 0

    def tokenize(self, text: str) -> list[int]:
        """The tokens of `text` as plain text: no special token is added, and none is read from it."""
        data = text.encode()
        room = len(data) + 16  # nearly every token stands for a byte or more
        for _ in range(2):
            tokens = (self._c.llama_token * room)()
            count = self._c.llama_tokenize(self._words, data, len(data), tokens, room, False, False)
            if count >= 0:
                return list(tokens[:count])
            room = -count
        raise SessionRefused("text", f"the tokenizer could not read the text: `{len(data)} bytes`")

    def text_of(self, tokens: Sequence[int]) -> bytes:
        """The UTF-8 that `tokens` stand for, control tokens left out; its last character may be cut off."""
        return b"".join(map(self._piece, tokens))

    def _piece(self, token: int) -> bytes:
        room = 64
        for _ in range(2):
            piece = ctypes.create_string_buffer(room)
            size = self._c.llama_token_to_piece(self._words, token, piece, room, 0, False)
            if size >= 0:
                return piece.raw[:size]
            room = -size
        return b""

    def ends(self, token: int) -> bool:
        """Whether the model ends a text with `token`."""
        return bool(self._c.llama_vocab_is_eog(self._words, token))

    def spellings(self) -> list[bytes]:
        """What each token stands for, as the vocabulary writes it, padding included."""
        return list(map(self._c.llama_vocab_get_text, repeat(self._words), range(self.vocabulary)))

    def token_texts(self) -> Iterator[str | None]:
        """What each token stands for, as the vocabulary writes it (`Ġthe`, `▁the`, `<0x0A>`); `None` for padding."""
        c, unused = self._c, self._c.LLAMA_TOKEN_ATTR_UNUSED
        for token in range(self.vocabulary):
            text = c.llama_vocab_get_text(self._words, token) or b""
            padding = c.llama_vocab_get_attr(self._words, token) & unused
            yield None if padding else text.decode("utf-8", "replace")

    def close(self) -> None:
        """Free context and model; the session is unusable afterwards."""
        if self._context is not None:
            self._c.llama_free(self._context)
            self._c.llama_model_free(self._model)
        self._context = self._model = None


def open_session(
    path: Path, settings: Settings, *, on_node: Any = None, check_weights: bool = False, sequences: int = 1
) -> Session:
    """Load the GGUF at `path` into this process. Raises SessionRefused, `stage` `model` or `context`.

    With `check_weights` a tensor that holds NaN or infinity is refused (0.25 s of CPU time a GB when quantized).
    `on_node`, a `ggml_backend_sched_eval_callback`, sees the evaluated nodes that it asks for; the caller keeps it
    alive. So many `sequences` share the context for `feed_tree`; a model with recurrent memory, of which each would
    take a copy, has one.
    """
    c = bindings()
    threads = settings.threads or big_cores()
    params = model_params(c, settings)
    params.check_tensors = check_weights
    model = load_model(c, path, params)
    try:
        context = open_context(c, model, settings, threads, on_node=on_node, sequences=sequences)
        return Session(c, model, context, settings, threads)
    except BaseException:
        c.llama_model_free(model)
        raise


def load_model(c: Any, path: Path, params: Any) -> Any:
    """llama.cpp's model, which the caller frees. Raises SessionRefused."""
    c.llama_backend_init()
    model = c.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise SessionRefused("model", f"llama.cpp could not load the model: `{path.name}`")
    return model


def open_context(
    c: Any, model: Any, settings: Settings, threads: int, *, on_node: Any = None, sequences: int = 1
) -> Any:
    """llama.cpp's context of a model that generates text, which the caller frees. Raises SessionRefused."""
    _check_model(c, model)
    params = _context_params(c, settings, threads)
    if on_node is not None:
        params.cb_eval = on_node
    if sequences > 1 and not (c.llama_model_is_recurrent(model) or c.llama_model_is_hybrid(model)):
        params.n_seq_max, params.kv_unified = sequences, True
    context = c.llama_init_from_model(model, params)
    if not context:
        raise SessionRefused("context", "llama.cpp could not set up the context")
    if not c.llama_get_memory(context):
        c.llama_free(context)
        raise SessionRefused("model", "the model has no memory of past tokens and cannot generate text")
    return context


def _check_model(c: Any, model: Any) -> None:
    if c.llama_model_has_encoder(model) or not c.llama_model_has_decoder(model):
        raise SessionRefused("model", "models with an encoder are not supported: edgekit runs decoders")
    if c.llama_vocab_n_tokens(c.llama_model_get_vocab(model)) <= 0:
        raise SessionRefused("model", "the model has an empty vocabulary")


def model_params(c: Any, settings: Settings) -> Any:
    """How a model is loaded under `settings`: on the CPU alone."""
    params = c.llama_model_default_params()
    params.n_gpu_layers = 0
    params.devices = ctypes.cast((ctypes.c_void_p * 1)(None), ctypes.c_void_p)  # an empty list: no GPU at all
    params.load_mode = _LOAD_MMAP if settings.mmap else _LOAD_NONE
    params.use_extra_bufts = settings.repack
    return params


def _context_params(c: Any, settings: Settings, threads: int) -> Any:
    params = c.llama_context_default_params()
    params.n_ctx = settings.context_tokens
    params.n_batch = settings.batch_tokens
    params.n_ubatch = settings.ubatch_tokens
    params.n_outputs_max = settings.output_rows
    params.type_k = params.type_v = _KV_TYPES[settings.kv_type]
    params.flash_attn_type = _FLASH_ATTENTION[settings.flash_attention]
    params.n_threads = params.n_threads_batch = threads
    params.swa_full = False
    return params
