"""The child's side of `jobs`: read one request from stdin, do it, answer on the pipe named in argv.

Runs in other environments too (`--exporter optimum`), so it imports nothing of edgekit that needs more than Python.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

from edgekit.errors import EdgekitError

Report = Callable[[str, float, float], None]
"""Progress: stage, done, total."""

JOBS = {
    "genai": "edgekit.quantize.onnx.genai:build",
    "dynamo": "edgekit.quantize.onnx.dynamo:build",
    "optimum": "edgekit.quantize.onnx.optimum:build",
    "torch logits": "edgekit.quantize.onnx.torch_logits:compute",
    "onnx logits": "edgekit.quantize.onnx.onnx_logits:compute",
    "quantize": "edgekit.quantize.onnx.graph:quantize_graph",
}


def main() -> int:
    """Do the one job; 0 when it was done."""
    request = json.load(sys.stdin)
    _die_with(request["parent"])
    out = os.fdopen(int(sys.argv[1]), "w", buffering=1, encoding="utf-8")

    def send(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")

    def report(stage: str, done: float, total: float) -> None:
        send({"stage": stage, "done": done, "total": total})

    module, _, function = JOBS[request["job"]].partition(":")
    try:
        result = getattr(import_module(module), function)(report=report, **request["arguments"])
    except EdgekitError as error:
        send({"error": error.message, "hint": error.hint, "code": int(error.code)})
        return 1
    except Exception as error:
        traceback.print_exc()
        send({"failed": f"{type(error).__name__}: {error}".partition("\n")[0][:300]})
        return 1
    send({"result": result, "peak_bytes": peak_bytes()})
    return 0


def peak_bytes() -> int:
    """The largest resident set of this process so far; 0 where the OS does not tell. `ru_maxrss` would count the
    parent's, too: it survives exec.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            lines = dict(line.split(":", 1) for line in status)
        return int(lines["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0


def _die_with(parent: int) -> None:
    """Have the kernel end this process with its parent (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != parent:
        os._exit(1)


def run() -> None:
    """Serve and leave without exit hooks: nothing needs them, and torch's take seconds."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
