"""How a worker ended, in the user's words: which signal, which limit, and llama.cpp's own last lines."""

from __future__ import annotations

import re
import signal

from edgekit.errors import EdgekitError, ExitCode
from edgekit.records import Finding, MemoryPeak
from edgekit.runtimes.protocol import Refused


class WorkerDied(EdgekitError):  # noqa: N818  (named for what happened)
    """The run broke in the worker. `finding` says how; samples already yielded stay valid; `peak` is the memory seen
    up to then, where it was sampled.

    `finding.code` is `model-rejected`, `context-rejected`, `step-rejected`, `text-rejected` or `reference-rejected`
    when the runtime declined in good order (bad input, exit code 2), else `worker-aborted`, `worker-segfault`,
    `worker-bus-error`, `worker-illegal-instruction`, `worker-out-of-memory`, `worker-killed`, `worker-timeout`,
    `worker-protocol` or `worker-exited` (exit code 4).
    """

    def __init__(self, finding: Finding, peak: MemoryPeak | None = None) -> None:
        declined = finding.code.endswith("-rejected")
        super().__init__(finding.message, hint=finding.hint, code=ExitCode.USAGE if declined else ExitCode.BROKE)
        self.finding = finding
        self.peak = peak


_SIGNALS = {
    signal.SIGABRT: ("worker-aborted", "llama.cpp aborted", "the file is likely damaged or beyond this llama.cpp"),
    signal.SIGSEGV: ("worker-segfault", "llama.cpp crashed", "the file is likely damaged or hostile"),
    signal.SIGBUS: (
        "worker-bus-error",
        "the model file vanished or shrank while it was mapped",
        "is the file still being written, or on a network disk?",
    ),
    signal.SIGFPE: ("worker-aborted", "llama.cpp divided by zero", "the file's header is likely damaged or hostile"),
    signal.SIGSYS: ("worker-aborted", "the worker's system call filter stopped it", "please report this as a bug"),
    signal.SIGILL: (
        "worker-illegal-instruction",
        "this llama.cpp build uses instructions that this CPU lacks",
        "rebuild it here: `pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python`",
    ),
}

_HINTS = (
    (r"quantized V cache", "use `flash_attention = \"auto\"` or an f16 KV cache"),
    (r"unknown model architecture", "this llama.cpp does not know the architecture: a newer one may"),
    (r"unable to allocate|failed to allocate|Cannot allocate|bad_alloc|out of memory|mmap failed|mem_buffer != NULL",
     "not enough memory: a smaller context, ubatch, KV type or quant needs less"),
    (r"missing tensor|tensor '.*' not found", "the file lacks a tensor: was it converted completely?"),
    (r"the vocabularies differ first|the models read the text",
     "scores need the same tokens: compare builds of one model"),
    (r"^the reference file cannot be used", "copy it again, or make it anew from the model it was made of"),
    (r"^the reference file cannot be read", "is it still there, and readable?"),
    (r"^the reference file was made of another text", "leave the text out: the file holds its own"),
    (r"^a prompt takes|^a continuation does not fit", "a larger context (`--context`), or a shorter question"),
    (r"^the text is too short", "a longer text or a smaller `--context`; ten chunks or more give a useful range"),
    (r"has invalid data", "its weights are NaN or infinite: it is damaged, or its training diverged"),
    (r"not within the file bounds|is corrupted|incomplete|truncat", "the file is truncated: copy or download it again"),
)  # fmt: skip


def explain_refusal(refused: Refused, log: str) -> Finding:
    """The runtime declined in good order; `log` holds its last words. What it says of a text or of a reference file it
    says in full.
    """
    if refused.stage in ("text", "reference"):
        message = refused.message
        return Finding(level="fault", code=f"{refused.stage}-rejected", message=message, hint=_hint(message, ""))
    stage = refused.stage if refused.stage in ("model", "context", "step") else "worker"
    code = f"{stage}-rejected" if stage != "worker" else "worker-exited"
    return Finding(level="fault", code=code, message=_quoting(refused.message, log), hint=_hint(log, ""))


def explain_exit(status: int, log: str, *, out_of_memory: bool) -> Finding:
    """The worker ended by itself with `status` as `subprocess` gives it: negative for a signal."""
    number = -status
    if number == signal.SIGKILL and out_of_memory:
        message = "the system ran out of memory and killed the worker"
        hint = "a smaller context, ubatch, KV type or quant needs less memory"
        return Finding(level="fault", code="worker-out-of-memory", message=_quoting(message, log), hint=hint)
    if number in _SIGNALS:
        code, message, hint = _SIGNALS[signal.Signals(number)]
        return Finding(level="fault", code=code, message=_quoting(message, log), hint=_hint(log, hint))
    if status < 0:
        message = f"the worker was killed by signal `{_signal_name(number)}`"
        hint = "out of memory, a user, or a service manager" if number == signal.SIGKILL else ""
        return Finding(level="fault", code="worker-killed", message=message, hint=hint)
    message = f"the worker ended early with status `{status}`"
    return Finding(level="fault", code="worker-exited", message=_quoting(message, log), hint=_hint(log, ""))


def explain_timeout(timeout_s: float, doing: str) -> Finding:
    """The parent's deadline passed while the worker was `doing` something."""
    message = f"the worker was still {doing} when its time was over: `{timeout_s:g} s`"
    return Finding(level="fault", code="worker-timeout", message=message, hint="raise the timeout or run less")


def explain_protocol(reason: str) -> Finding:
    """The worker said something that edgekit's own code never says."""
    message = f"the worker sent {reason}: its answers are not used"
    return Finding(
        level="fault", code="worker-protocol", message=message, hint="do not trust this model file: it may be hostile"
    )


def _quoting(message: str, log: str) -> str:
    return f"{message} ({log})" if log else message


def _hint(log: str, otherwise: str) -> str:
    return next((hint for pattern, hint in _HINTS if re.search(pattern, log, re.IGNORECASE)), otherwise)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
