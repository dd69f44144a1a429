"""The quantizing half of a build, in the child: llama.cpp's `llama_model_quantize` with what llama-quantize gives it.

Follows `tools/quantize/quantize.cpp`. The log tells of every tensor as it is taken up: that is the progress, and in a
dry run the plan.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.quantize.ggml_types import FTYPE_NUMBERS, TENSOR_TYPES
from edgekit.quantize.imatrix import open_imatrix
from edgekit.runtimes.cores import big_cores
from edgekit.runtimes.protocol import Advanced, SessionRefused

_BUFFER_BYTES = 512 * 2**20
"""Rows held at once (llama.cpp's default is 8 GiB); the bytes written do not depend on it."""

_ROW = re.compile(rb"^\[ *(\d+)/ *(\d+)\] (.+?) +- \[[ \d,]+\], type = +(\w+), (.*)$", re.DOTALL)
_NEW_TYPE = re.compile(rb"\((\w+)\)$")


def quantize_here(job: Mapping[str, Any], send: Callable[[Any], None]) -> None:
    """Do a quantize job in this process, which is the fenced child. Raises SessionRefused when llama.cpp declines.

    Sends an Advanced message per tensor, `<type> <name>`: when it begins, or with the planned type in a dry run.
    """
    import llama_cpp.llama_cpp as c

    params = c.llama_model_quantize_default_params()
    params.ftype = FTYPE_NUMBERS[job["type"]]
    params.nthread = job["threads"] or big_cores()
    for field, name in (("output_tensor_type", "output_type"), ("token_embedding_type", "embedding_type")):
        if job[name]:
            setattr(params, field, TENSOR_TYPES[job[name]])
    params.pure, params.allow_requantize, params.dry_run = job["pure"], job["allow_requantize"], job["dry_run"]
    params.max_buf_size = _BUFFER_BYTES
    kept = [_point_at_types(c, params, job["tensor_types"]), _point_at_matrix(c, params, job)]

    def begun(number: int, total: int, name: bytes, kind: bytes) -> None:
        detail = f"{kind.decode(errors='replace').lower()} {name.decode(errors='replace')}"
        send(Advanced(done=number, total=total, detail=detail))

    log = _RowLog(begun, whole=job["dry_run"])
    callback = c.llama_log_callback(log.take)
    c.llama_log_set(callback, None)
    status = c.llama_model_quantize(os.fsencode(job["source"]), os.fsencode(job["out"]), ctypes.byref(params))
    c.llama_log_set(c.llama_log_callback(0), None)
    del kept
    if status:
        raise SessionRefused("model", "llama.cpp could not quantize the model")


class _RowLog:
    """llama.cpp's log: passed on to stderr, and its line per tensor told. Lines come in pieces."""

    def __init__(self, told: Callable[[int, int, bytes, bytes], None], *, whole: bool) -> None:
        self._told, self._whole = told, whole
        self._line = b""
        self._begun = False

    def take(self, level: int, text: bytes, user_data: object) -> None:
        os.write(2, text)
        *lines, rest = (self._line + text).split(b"\n")
        for line in lines:
            if self._whole or not self._begun:
                self._look(line)
            self._begun = False
        self._line = rest
        if not self._whole and not self._begun and rest:
            self._begun = self._look(rest)

    def _look(self, line: bytes) -> bool:
        row = _ROW.match(line)
        if row is None:
            return False
        number, total, name, kind, rest = row.groups()
        new = _NEW_TYPE.search(rest)
        self._told(int(number), int(total), name, new[1] if new else kind)
        return True


def _point_at_types(c: Any, params: Any, tensor_types: Sequence[tuple[str, str]]) -> Any:
    if not tensor_types:
        return None
    overrides = (c.llama_model_tensor_override * (len(tensor_types) + 1))()
    for override, (pattern, kind) in zip(overrides, tensor_types, strict=False):
        override.pattern, override.type = pattern.encode(), TENSOR_TYPES[kind]
    params.tt_overrides = overrides
    return overrides


def _point_at_matrix(c: Any, params: Any, job: Mapping[str, Any]) -> Any:
    """Importance matrix and keys, as llama-quantize gives them to `llama_model_quantize` (`tools/quantize`)."""
    keys: dict[str, str | int] = {}
    kept: list[Any] = []
    if job["imatrix"]:
        path = Path(job["imatrix"])
        matrix = open_imatrix(path)
        # the name alone: a model that ships need not tell its maker's folders
        keys["quantize.imatrix.file"] = path.name
        if matrix.dataset:
            keys["quantize.imatrix.dataset"] = matrix.dataset
        keys["quantize.imatrix.entries_count"] = len(matrix.values)
        if matrix.chunks > 0:
            keys["quantize.imatrix.chunks_count"] = matrix.chunks
        entries = (c.llama_model_imatrix_data * (len(matrix.values) + 1))()
        for entry, (name, values) in zip(entries, matrix.values.items(), strict=False):
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
        kept += [entries, matrix]
    keys |= job["keys"]
    overrides = (c.llama_model_kv_override * (len(keys) + 1))()
    for override, (key, value) in zip(overrides, keys.items(), strict=False):
        override.key = key.encode()
        if isinstance(value, int):
            override.tag, override.value.val_i64 = c.LLAMA_KV_OVERRIDE_TYPE_INT, value
        else:
            override.tag, override.value.val_str = c.LLAMA_KV_OVERRIDE_TYPE_STR, value.encode()[:127]
    params.kv_overrides = overrides
    return [*kept, overrides]
