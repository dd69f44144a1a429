"""The heavy steps of an export, each in a process of its own: their memory is gone when they end, their libraries'
chatter (INFO logs, progress bars, warnings) goes to a file, and a crash is an error message.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import edgekit
from edgekit.errors import EdgekitError, ExitCode
from edgekit.progress import Progress, silent

_ROOT = Path(edgekit.__file__).parent.parent
_PROGRAM = "import sys; sys.path[:0] = [sys.argv[2]]; from edgekit.quantize.onnx.child import run; run()"
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
    "LC_ALL": "C.UTF-8",
}
_SECRETS = ("TOKEN", "SECRET", "PASSWORD", "KEY")
MAX_LOG_TAIL = 4000


def run_job(
    job: str,
    arguments: Mapping[str, Any],
    *,
    threads: int = 0,
    python: str = "",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Run `edgekit.quantize.onnx.child`'s `job` in a fresh interpreter; its result with `peak_bytes` added.

    `python` is another environment's interpreter, which needs none of edgekit's dependencies. Raises EdgekitError with
    the child's own message, or with its last words when it crashed.
    """
    request = json.dumps({"job": job, "arguments": dict(arguments), "parent": os.getpid()}).encode()
    with tempfile.TemporaryFile() as log:
        reading, writing = os.pipe()
        try:
            process = subprocess.Popen(
                [python or sys.executable, "-c", _PROGRAM, str(writing), str(_ROOT)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(writing,),
                env=_environment(threads),
                start_new_session=True,
            )
        except OSError as error:
            os.close(reading)
            raise EdgekitError(f"cannot start python ({error.strerror}): `{python}`") from None
        finally:
            os.close(writing)
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(request)
                process.stdin.close()
            with os.fdopen(reading, "rb") as messages:
                outcome = _listen(messages, progress)
            status = process.wait()
        finally:
            _end(process)
        return _outcome(job, outcome, status, _tail(log))


def _listen(messages: BinaryIO, progress: Progress) -> dict[str, Any]:
    """Pass progress on until the child closes its end; its last word."""
    outcome: dict[str, Any] = {}
    for line in messages:
        message = json.loads(line)
        if "stage" in message:
            progress(message["stage"], message["done"], message["total"])
        else:
            outcome = message
    return outcome


def _outcome(job: str, outcome: dict[str, Any], status: int, log: str) -> dict[str, Any]:
    if "result" in outcome:
        return {**outcome["result"], "peak_bytes": outcome["peak_bytes"]}
    if "error" in outcome:
        raise EdgekitError(outcome["error"], hint=outcome["hint"], code=ExitCode(outcome["code"]))
    if status == -signal.SIGKILL:
        raise EdgekitError(
            f"the export's process was killed during `{job}`",
            hint="out of memory? `edgekit quantize --dry-run` says what it takes",
            code=ExitCode.BROKE,
        )
    reason = outcome.get("failed") or _last_line(log) or f"status {status}"
    raise EdgekitError(f"the export broke during `{job}`: `{reason}`", hint=_hint(job), code=ExitCode.BROKE)


def _hint(job: str) -> str:
    return "another exporter may know the model: `--exporter dynamo`" if job == "genai" else ""


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _tail(log: Any) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - MAX_LOG_TAIL))
    text: str = log.read().decode("utf-8", "replace")
    if os.environ.get("EDGEKIT_TRACEBACK"):
        sys.stderr.write(text)
    return text


def _environment(threads: int) -> dict[str, str]:
    """The user's environment without secrets, offline and quiet; OpenMP must not spin beside other work."""
    kept = {name: value for name, value in os.environ.items() if not any(word in name for word in _SECRETS)}
    kept.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if threads:
        kept["OMP_NUM_THREADS"] = str(threads)
    kept.pop("PYTHONPATH", None)
    return kept | _QUIET


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing behind, whatever ended the wait (Ctrl-C too)."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
