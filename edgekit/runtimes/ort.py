"""ONNX models through onnxruntime on the CPU, its inputs and outputs bound to memory that stays.

A decoded token changes one number in three small inputs; keys and values never move. Graphs of onnxruntime-genai's
model builder write them in place into one buffer of the full context (`past_present_share_buffer`), others give back
a longer copy each time. Names of inputs and outputs are those of onnxruntime-genai and optimum.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.errors import EdgekitError
from edgekit.records import Settings
from edgekit.runtimes.cores import big_cores
from edgekit.runtimes.protocol import SessionRefused, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.header.onnx_folder import Config

PROVIDER = "CPUExecutionProvider"
_ENDS = ("</s>", "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>", "<eos>")
"""What llama.cpp takes for an end, too, whatever the metadata say."""

_CONTEXT_INPUTS = ("input_ids", "attention_mask", "position_ids")
_KV_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}
_ERRORS_ONLY = 3  # ORT_LOGGING_LEVEL_ERROR
_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES = -3, 2**20  # malloc.h


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise SessionRefused("worker", "onnxruntime is not installed: pip install 'edgekit[onnx]'") from None
    return onnxruntime


def describe_build() -> tuple[str, str]:
    """(version, commit and how sessions are set up, no CPU features: onnxruntime does not tell which it uses)."""
    ort = _onnxruntime()
    ort.set_default_logger_severity(_ERRORS_ONLY)
    commit = re.search(r"git-commit-id=(\w+)", ort.get_build_info())
    version = f"onnxruntime {ort.__version__} {commit[1] if commit else 'of unknown commit'}"
    return f"{version}, all graph optimizations, no arena, no memory patterns, blocks of 1 MiB returned at once", ""


class Session:
    """A model and its keys and values in this process. A hostile file can crash it: strangers' models belong into a
    worker.
    """

    def __init__(self, session: Any, folder: Path, config: Config, settings: Settings, threads: int) -> None:
        import numpy as np

        self._session, self._folder, self._config = session, folder, config
        self.vocabulary = config.vocabulary
        self.first_token = config.bos if config.adds_bos else None
        self.opener = config.bos if config.bos is not None else min(config.ends, default=None)
        self.context_tokens = settings.context_tokens
        self.batch_tokens = settings.batch_tokens
        self.ubatch_tokens = min(settings.ubatch_tokens, settings.batch_tokens, settings.context_tokens)
        self.threads = threads
        self.sequences = 1
        self.position = 0
        self._binding = session.io_binding()
        self._inputs = {port.name for port in session.get_inputs()}.intersection(_CONTEXT_INPUTS)
        self._tokens = np.zeros((1, self.ubatch_tokens), np.int64)
        self._places = np.arange(self.context_tokens, dtype=np.int64)[None]
        self._mask = np.ones((1, self.context_tokens), np.int64)
        logits = next(port for port in session.get_outputs() if port.name == "logits")
        self.all_rows = len(logits.shape) == 3 and logits.shape[1] != 1
        dtype = np.dtype(_dtype_of(logits))
        self._logits = np.full((self.ubatch_tokens if self.all_rows else 1, self.vocabulary), 0, dtype)
        self._cache: Any = (_SharedCache if config.shares_cache else _GrowingCache)(
            self._binding, session, config, settings
        )
        self._tokenizer: Any = None

    def decode(self, tokens: Sequence[int]) -> None:
        """Evaluate at most `batch_tokens` tokens; logits of the last one stand when this returns."""
        for start in range(0, len(tokens), self.ubatch_tokens):
            self._evaluate(tokens[start : start + self.ubatch_tokens])

    def feed(
        self, tokens: Sequence[int], want: Literal["last", "all"] | int = "last", *, copy: bool = True
    ) -> NDArray[np.float32]:
        """Evaluate `tokens` after what is in the context; logits as float32, (rows, vocabulary), of them `all`, of the
        `last` one, or of the last so many. Raises SessionRefused when they do not fit; a graph that gives the last row
        alone evaluates rows one by one.

        Without `copy`, rows of one ubatch may be the buffer that the next evaluation overwrites.
        """
        import numpy as np

        if not tokens:
            raise SessionRefused("step", f"context of {self.context_tokens} tokens was given `0` more")
        rows = want if isinstance(want, int) else len(tokens) if want == "all" else 1
        silent = len(tokens) - rows if rows > 1 else 0
        if silent:
            self.decode(tokens[:silent])
        if rows > 1 and not self.all_rows:
            return np.concatenate([self.feed([token]) for token in tokens[silent:]])
        parts = []
        for start in range(silent, len(tokens), self.ubatch_tokens):
            count = self._evaluate(tokens[start : start + self.ubatch_tokens])
            if rows > 1:
                parts.append(self._logits[:count].astype(np.float32, copy=copy or rows > count))
        if rows > 1:
            return np.concatenate(parts) if len(parts) > 1 else parts[0]
        return self._logits[count - 1 : count].astype(np.float32, copy=copy)

    def _evaluate(self, tokens: Sequence[int]) -> int:
        """Run the graph on at most a ubatch; how many rows of logits stand."""
        count, total = len(tokens), self.position + len(tokens)
        if total > self.context_tokens:
            raise SessionRefused("step", f"context of {self.context_tokens} tokens cannot take `{count}` more")
        self._tokens[0, :count] = tokens
        rows = count if self.all_rows else 1
        self._bind("input_ids", self._tokens[:, :count])
        self._bind("attention_mask", self._mask[:, :total])
        self._bind("position_ids", self._places[:, self.position : total])
        self._cache.bind(self.position)
        row = self._logits[:rows]
        self._binding.bind_output("logits", "cpu", 0, row.dtype, (1, *row.shape), row.ctypes.data)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # onnxruntime has a class for each status and no base
            raise SessionRefused("step", f"onnxruntime could not evaluate {count} tokens: `{_words(error)}`") from None
        self._cache.keep()
        self.position = total
        return rows

    def _bind(self, name: str, values: NDArray[np.int64]) -> None:
        if name in self._inputs:
            self._binding.bind_input(name, "cpu", 0, values.dtype, values.shape, values.ctypes.data)

    def reserve(self) -> None:
        """Evaluate the last ubatch of a full context once: what the graph needs at most, a peak then holds, as
        llama.cpp's does, which reserves its buffers when it loads.
        """
        count = min(self.ubatch_tokens, self.context_tokens)
        self.position = self.context_tokens - count
        self._cache.widen(self.position)
        self._evaluate([0] * count)
        self.rewind(0)

    def rewind(self, tokens: int) -> None:
        """Forget all but the first `tokens` tokens."""
        if tokens < self.position:
            self._cache.cut(tokens)
            self.position = tokens

    def reset(self) -> None:
        """Forget every token."""
        self.rewind(0)

    def close(self) -> None:
        """Free the model; the session is unusable afterwards."""
        self._session = self._binding = self._cache = None

    # ---- text -------------------------------------------------------------------------------------------------------

    def tokenize(self, text: str) -> list[int]:
        """The tokens of `text` as plain text: no special token is added, and none is read from it."""
        ids: list[int] = self._text().encode(text, add_special_tokens=False).ids
        return ids

    def text_of(self, tokens: Sequence[int]) -> bytes:
        """The UTF-8 that `tokens` stand for, control tokens left out; a cut-off character is written as `�`."""
        text: str = self._text().decode([int(token) for token in tokens], skip_special_tokens=True)
        return text.encode()

    def ends(self, token: int) -> bool:
        """Whether the model ends a text with `token`: as its configuration says, or by the name it has everywhere."""
        return token in self._config.ends or self._text().id_to_token(token) in _ENDS

    def token_texts(self) -> list[str | None]:
        """What each token stands for, as the tokenizer's file writes it; `None` for padding."""
        tokenizer = self._text()
        return [tokenizer.id_to_token(token) for token in range(self.vocabulary)]

    def _text(self) -> Any:
        """The tokenizer; from here on it says whether texts begin with beginning-of-text, as its file decides."""
        if self._tokenizer is None:
            self._tokenizer = _open_tokenizer(self._folder)
            opening = self._tokenizer.encode("", add_special_tokens=True).ids[:1]
            self.first_token = self._config.bos if opening == [self._config.bos] else None
        return self._tokenizer


class _SharedCache:
    """Keys and values of the full context, written in place. Their pages are touched at once, so that a measured peak
    holds the whole cache, as llama.cpp's does.
    """

    def __init__(self, binding: Any, session: Any, config: Config, settings: Settings) -> None:
        import numpy as np

        self.buffers = []
        for past, present, shape, dtype in _cache_ports(session, config):
            buffer = np.full((1, shape[0], settings.context_tokens, shape[1]), 0, dtype)
            self.buffers.append(buffer)
            binding.bind_input(past, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)
            binding.bind_output(present, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)

    def bind(self, position: int) -> None:
        """Nothing to do: the bindings last."""

    def keep(self) -> None:
        """Nothing to do: the graph has written in place."""

    def cut(self, tokens: int) -> None:
        """Nothing to do: what lies beyond the position is never read."""

    def widen(self, tokens: int) -> None:
        """Nothing to do: there is room for the whole context."""


class _GrowingCache:
    """Keys and values as the graph gives them back, one longer copy after another."""

    def __init__(self, binding: Any, session: Any, config: Config, settings: Settings) -> None:

        self.binding = binding
        self.ports = _cache_ports(session, config)
        self.values: list[Any] = []
        self.widen(0)

    def bind(self, position: int) -> None:
        """Hand in what is there, and let onnxruntime make room for what comes."""
        self.binding.clear_binding_outputs()
        for (past, present, *_), value in zip(self.ports, self.values, strict=True):
            self.binding.bind_ortvalue_input(past, value)
            self.binding.bind_output(present)

    def keep(self) -> None:
        """Take the present as the next past. Outputs come in the order they were bound, the logits last."""
        self.values = self.binding.get_outputs()[: len(self.ports)]

    def cut(self, tokens: int) -> None:
        """Copy out the first `tokens` tokens."""
        import numpy as np

        self.values = [_ort_value(np.ascontiguousarray(value.numpy()[:, :, :tokens])) for value in self.values]

    def widen(self, tokens: int) -> None:
        """Stand as if `tokens` tokens had been evaluated."""
        import numpy as np

        self.values = [_ort_value(np.zeros((1, shape[0], tokens, shape[1]), dtype)) for *_, shape, dtype in self.ports]


def _ort_value(array: Any) -> Any:
    return _onnxruntime().OrtValue.ortvalue_from_numpy(array)


def _cache_ports(session: Any, config: Config) -> list[tuple[str, str, tuple[int, int], str]]:
    """(past name, present name, (heads, values a head), dtype) of every layer's keys and values."""
    inputs: Mapping[str, Any] = {port.name: port for port in session.get_inputs()}
    outputs = {port.name for port in session.get_outputs()}
    found = []
    for layer in range(config.layers):
        for part in ("key", "value"):
            past, present = f"past_key_values.{layer}.{part}", f"present.{layer}.{part}"
            if past not in inputs or present not in outputs:
                raise SessionRefused("model", f"the graph does not keep the keys and values of layer `{layer}`")
            found.append((past, present, (config.kv_heads, config.head_dim), _dtype_of(inputs[past])))
    return found


def _dtype_of(port: Any) -> str:
    if port.type not in _KV_DTYPES:
        raise SessionRefused("model", f"`{_shown(port.name)}` is of a type edgekit does not feed: `{port.type}`")
    return _KV_DTYPES[port.type]


def _open_tokenizer(folder: Path) -> Any:
    """The folder's `tokenizer.json`, set to read special tokens as plain text and to cut nothing."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise SessionRefused("worker", "tokenizers is not installed: pip install 'edgekit[onnx]'") from None
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exception
        raise SessionRefused("text", f"the model's `tokenizer.json` cannot be read: `{_words(error)}`") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


# ---- opening --------------------------------------------------------------------------------------------------------


def open_session(path: Path, settings: Settings, *, check_weights: bool = False) -> Session:
    """Load the ONNX model at `path`, its folder or its graph. Raises SessionRefused, `stage` `model` or `context`.

    With `check_weights` a tensor that holds NaN, or a weight that holds infinity, is refused.
    """
    from edgekit.header.container import Unusable  # imported here: the GGUF worker loads this module, too
    from edgekit.header.onnx_folder import folder_of, read_config
    from edgekit.header.onnx_values import broken_tensor

    check_settings(settings)
    try:
        config = read_config(path)
        broken = broken_tensor(path) if check_weights else ""
    except (Unusable, EdgekitError) as error:
        raise SessionRefused("model", str(error)) from None
    if broken:
        raise SessionRefused("model", f"a tensor holds what is no number: `{_shown(broken)}`")
    if settings.context_tokens > config.context_train:
        raise SessionRefused(
            "context",
            f"the graph has positions for {config.context_train} tokens, fewer than the context asked for "
            f"(`--context {config.context_train}` fits): `{settings.context_tokens}`",
        )
    folder, threads = folder_of(path), settings.threads or big_cores()
    _return_large_blocks()
    ort = _onnxruntime()
    ort.set_default_logger_severity(_ERRORS_ONLY)
    try:
        session = ort.InferenceSession(
            str(folder / config.graph), _session_options(ort, settings, threads), providers=[PROVIDER]
        )
    except Exception as error:  # onnxruntime has a class for each status and no base
        raise SessionRefused("model", f"onnxruntime could not load the model: `{_words(error)}`") from None
    known = {port.name for port in session.get_inputs()}
    strange = [name for name in known if name not in _CONTEXT_INPUTS and not name.startswith("past_key_values.")]
    if strange:
        raise SessionRefused("model", f"the graph asks for an input edgekit does not know: `{_shown(strange[0])}`")
    return Session(session, folder, config, settings, threads)


def _return_large_blocks() -> None:
    """Have glibc give blocks of a megabyte and more back as soon as they are freed, so that a peak is what the graph
    needs and not what the heap kept of earlier lengths; zeroing them again costs a prefill under a thousandth.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def check_settings(settings: Settings) -> None:
    """Raise SessionRefused for settings that a graph cannot follow: it fixes its attention and its cache's type."""
    for name, wanted, reason in (
        ("kv_type", "f16", "an ONNX graph fixes the type of its KV cache"),
        ("flash_attention", "auto", "an ONNX graph fixes its attention kernel"),
        ("mmap", True, "onnxruntime maps external data whether asked or not"),
    ):
        if getattr(settings, name) != wanted:
            raise SessionRefused("context", f"{reason}: `{name} = {getattr(settings, name)}`")


def _session_options(ort: Any, settings: Settings, threads: int) -> Any:
    """No memory patterns: onnxruntime would keep one for every length of the attention mask. No arena: it grows by
    doubling, and what it holds is no measure of what the model needs.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    options.log_severity_level = _ERRORS_ONLY
    if not settings.repack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE":  # what a busy machine is told by
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _words(error: Exception) -> str:
    """onnxruntime's message on one line, without its error code, the builder's paths and the stack."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return _shown(re.sub(r"/\S+/(?=[\w.-]+)", "", text), 300)


def _shown(text: str, most: int = 80) -> str:
    return printable(text)[:most]
