"""The parent's side of the worker: start it, listen to it within bounds, and be sure that it ends.

One thread does everything: it waits for messages with a timeout of 10 to 100 ms and samples the worker's memory in
between, so that next to nothing of edgekit competes with the timed loop.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.runtimes.death import WorkerDied, explain_exit, explain_protocol, explain_refusal, explain_timeout
from edgekit.runtimes.log_parse import MAX_LOG_BYTES, LogDigest
from edgekit.runtimes.memory_sampling import Sampler
from edgekit.runtimes.protocol import MAX_MESSAGE_BYTES, Message, ProtocolError, Refused, decode, encode_plain

_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TERMUX_VERSION", "PREFIX")
_KEPT_PREFIXES = ("OMP_", "GOMP_", "KMP_")
_PACKAGES = ("edgekit", "llama_cpp", "typing_extensions", "numpy", "onnxruntime", "tokenizers")


class Child:
    """A running worker process and its three pipes."""

    def __init__(self, process: subprocess.Popen[bytes], messages: int, timeout_s: float) -> None:
        assert process.stdin is not None
        assert process.stderr is not None
        self.process = process
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.log = LogDigest()
        self.sampler = Sampler(process.pid)
        self._commands = process.stdin
        self._messages, self._errors = messages, process.stderr.fileno()
        self._buffer = b""
        self._poll = select.poll()
        for descriptor in (self._messages, self._errors):
            os.set_blocking(descriptor, False)
            self._poll.register(descriptor, select.POLLIN)
        self._open = {self._messages, self._errors}
        self._oom_kills = _count_oom_kills()

    def command(self, content: dict[str, Any], *, moves: bool = True) -> None:
        """Send one command. A dead worker is noticed when its answer is read. `moves` says that its memory will."""
        if moves:
            self.sampler.expect_movement()
        with contextlib.suppress(BrokenPipeError):
            self._commands.write(encode_plain(content))
            self._commands.flush()

    def expect(self, *kinds: type[Message], doing: str) -> Message:
        """The next message, which must be one of `kinds`. Raises WorkerDied when it is not, or does not come."""
        try:
            message = self._next_message()
        except TimeoutError:
            self.kill()
            raise WorkerDied(explain_timeout(self.timeout_s, doing), self._last_peak()) from None
        except ProtocolError as error:
            self.kill()
            raise WorkerDied(explain_protocol(str(error)), self._last_peak()) from None
        if message is None:
            raise self._died()
        if isinstance(message, Refused):
            self._drain_log()
            raise WorkerDied(explain_refusal(message, self.log.last_words()), self._last_peak())
        if not isinstance(message, kinds):
            self.kill()
            raise WorkerDied(explain_protocol("a message out of turn"), self._last_peak())
        return message

    def distrust(self, reason: str) -> WorkerDied:
        """Kill the worker for `reason`; the error to raise."""
        self.kill()
        return WorkerDied(explain_protocol(reason), self._last_peak())

    def _next_message(self) -> Message | None:
        """The next message, `None` when the worker has closed its pipe."""
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                self._read(self._errors)  # what was logged before the message counts as said before it
                return decode(line)
            if len(self._buffer) > MAX_MESSAGE_BYTES:
                raise ProtocolError(f"a message of more than {MAX_MESSAGE_BYTES} bytes")
            if self._messages not in self._open:
                return None
            self._pump()

    def _pump(self) -> None:
        """Wait a moment for anything; take it, and sample memory."""
        if time.monotonic() > self.deadline:
            raise TimeoutError
        for descriptor, _ in self._poll.poll(self.sampler.pause_s() * 1000):
            self._read(descriptor)
        if self.log.total_bytes > MAX_LOG_BYTES:
            raise ProtocolError("an endless log")
        self.sampler.sample()

    def _read(self, descriptor: int) -> None:
        """Take what stands in a pipe, at most what a Linux pipe holds."""
        if descriptor not in self._open:
            return
        try:
            data = os.read(descriptor, 2**16)
        except BlockingIOError:
            return
        if not data:
            self._poll.unregister(descriptor)
            self._open.discard(descriptor)
        elif descriptor == self._errors:
            self.log.feed(data)
        else:
            self._buffer += data

    def _drain_log(self) -> None:
        """What the worker still had to say; it is ending, and a second is ample."""
        until = min(time.monotonic() + 1.0, self.deadline)
        with contextlib.suppress(TimeoutError, ProtocolError):
            while self._errors in self._open and time.monotonic() < until:
                self._pump()
        self.log.close()

    def _died(self) -> WorkerDied:
        self._drain_log()
        try:
            status = self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return self.distrust("nothing more and stayed")
        out_of_memory = _count_oom_kills() > self._oom_kills
        return WorkerDied(explain_exit(status, self.log.last_words(), out_of_memory=out_of_memory), self._last_peak())

    def _last_peak(self) -> Any:
        return self.sampler.peak()

    def kill(self) -> None:
        """End the worker and whatever it started, and collect it. Safe to call at any time, also twice."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Kill, collect, and give every descriptor back."""
        self.kill()
        self.sampler.close()
        with contextlib.suppress(BrokenPipeError, OSError):
            self._commands.close()
        if self.process.stderr is not None:
            self.process.stderr.close()
        if self._messages >= 0:
            os.close(self._messages)
            self._messages = -1


def spawn(
    timeout_s: float, command: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
) -> Child:
    """Start a worker in its own session with a scrubbed environment, to which `environment` adds. `command` replaces
    the program, in tests and where something else starts it.
    """
    if sys.platform == "win32":
        raise EdgekitError(
            "measuring needs Linux or macOS: worker processes are not built for Windows yet",
            hint="`edgekit fit` works here; WSL 2 can measure",
        )
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [*(command or worker_command()), str(writing)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(writing,),
            env=scrubbed_environment(os.environ) | dict(environment or {}),
            cwd="/",
            start_new_session=True,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return Child(process, reading, timeout_s)


def worker_command(module: str = "edgekit.runtimes.worker") -> list[str]:
    """The interpreter on `module`, whose `run` serves."""
    return isolated_python(f"import {module} as w; w.run()")


def isolated_python(program: str) -> list[str]:
    """The interpreter on `program`: isolated (`-I`, so that nothing in the current folder is imported), without `site`
    (`-S`: 30 ms), and with only the directories that hold what a worker imports.
    """
    roots = []
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            place = Path(spec.origin).parent
            roots.append(str(place.parent if spec.submodule_search_locations else place))
    return [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {list(dict.fromkeys(roots))!r}; {program}"]


def scrubbed_environment(environment: Any) -> dict[str, str]:
    """What the worker may know: where programs and libraries are and how OpenMP should run; no secret, no home.

    Without an explicit `OMP_WAIT_POLICY` OpenMP spins, which is what measurements want on an idle machine.
    """
    kept = {name: environment[name] for name in _KEPT_VARIABLES if name in environment}
    kept |= {name: value for name, value in environment.items() if name.startswith(_KEPT_PREFIXES)}
    # a crash must not start a debugger, and texts must not depend on the user's language
    return kept | {"GGML_NO_BACKTRACE": "1", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}


def _count_oom_kills() -> int:
    """Processes the kernel has killed for want of memory since boot; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
