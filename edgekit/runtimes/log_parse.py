"""llama.cpp's log, read as it comes: buffers, repacking, flash attention, and the lines that say what went wrong.

The text comes from a process that parses strangers' files: it is cut, counted and made printable, and only whole
lines of a known form are believed (llama.cpp escapes newlines in metadata it prints).
"""

from __future__ import annotations

import re
from collections import deque
from typing import Literal

from edgekit.records import Buffer
from edgekit.runtimes.protocol import printable

MAX_LINE_BYTES = 600
MAX_BUFFERS = 256
MAX_LOG_BYTES = 256 * 2**20
"""A model with every debug line on writes about 100 kB."""

_BUFFER = re.compile(
    r"^[\w.:<>~]+:\s+(\S{1,40})\s+(model|KV|RS|compute|output) buffer size =\s*(\d{1,9}\.\d{1,4}) MiB$"
)
_REPACKED = re.compile(r"^[\w.:<>~]+: (?:amx )?repack tensor ")
_FLASH = re.compile(
    r"^(?:resolve_fused_ops: Flash Attention (enabled|not supported)|"
    r"\w+: flash_attn\s+= (enabled|disabled)|\w+: flash_attn is not compatible .*(forcing off))"
)
_CHATTER = b"llama_graph_n_input_tensors:"
_ERROR = re.compile(
    r"error|fail|assert|abort|unsupported|unknown|missing|invalid|corrupt|requires|exceed|cannot|not supported|"
    r"terminate called|what\(\)|out of memory|duplicate|wrong|mismatch",
    re.IGNORECASE,
)
_HARMLESS = re.compile(
    r"cannot be used with preferred buffer type|control token|not marked as|^print_info:|^llama_model_loader: - |"
    r"n_ctx_seq \(\d+\) < n_ctx_train|failed to load model$|failed to load model from "
)

Role = Literal["weights", "repacked", "kv", "compute", "output", "other"]
_ROLES: dict[str, Role] = {"KV": "kv", "RS": "kv", "compute": "compute", "output": "output"}


class LogDigest:
    """What is kept of a log of any length: at most a few hundred short lines."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.repacked_tensors = 0
        self.flash_attention: bool | None = None
        self.first_errors: list[str] = []
        self.last_errors: deque[str] = deque(maxlen=4)
        self.tail: deque[str] = deque(maxlen=30)
        self.total_bytes = 0
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take the next piece of the log, cut anywhere."""
        self.total_bytes += len(data)
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)
        self._rest = rest[:MAX_LINE_BYTES]

    def close(self) -> None:
        """Take an unfinished last line: crashes leave one."""
        if self._rest:
            self._take(self._rest)
        self._rest = b""

    def _take(self, line: bytes) -> None:
        if line.startswith(_CHATTER):  # hundreds of lines per graph
            return
        text = printable(line[:MAX_LINE_BYTES].decode("utf-8", errors="replace").strip())
        if not text.strip("."):
            return
        if _REPACKED.match(text):
            self.repacked_tensors += 1
            return
        self.tail.append(text)
        if "buffer size" in text:
            self._take_buffer(text)
        elif "lash" in text:
            self._take_flash(text)
        if _ERROR.search(text) and not _HARMLESS.search(text):
            self._take_error(text)

    def _take_error(self, text: str) -> None:
        if len(self.first_errors) < 4:
            self.first_errors.append(text)
        else:
            self.last_errors.append(text)

    def _take_buffer(self, text: str) -> None:
        match = _BUFFER.match(text)
        if match is None or len(self.buffers) >= MAX_BUFFERS:
            return
        name, what, mebibytes = match.groups()
        role = _ROLES.get(what) or _weights_role(name)
        size = round(float(mebibytes) * 2**20)
        self.buffers.append(Buffer(name=name, role=role, size_bytes=size, mapped=name.endswith("_Mapped")))

    def _take_flash(self, text: str) -> None:
        match = _FLASH.match(text)
        if match is not None:
            self.flash_attention = "enabled" in match.groups()

    def last_words(self, limit: int = 300) -> str:
        """The lines that most likely say what was at fault, joined, at most `limit` characters; empty without any."""
        lines = list(self.last_errors)[-2:] or self.first_errors[-2:]
        if lines:
            return "; ".join(_without_function(line) for line in lines)[:limit]
        return f"last log line: {self.tail[-1]}"[:limit] if self.tail else ""


def _weights_role(name: str) -> Role:
    """Buffer types other than the plain CPU's hold weights in a kernel's own layout."""
    return "weights" if name.removesuffix("_Mapped") in ("CPU", "CPU_HOST") else "repacked"


def _without_function(line: str) -> str:
    """`line` without the name of the C function and the build's directory: `llama-vocab.cpp:2544: …` stays."""
    return re.sub(r"^\S*/(?=[\w.-]+:\d+: )", "", re.sub(r"^\.*[\w:<>~]+: ", "", line))


__all__ = ["MAX_LOG_BYTES", "LogDigest"]
