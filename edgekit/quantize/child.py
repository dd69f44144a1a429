"""The child process that quantizes and calibrates: strangers' model files are parsed there and nowhere else.

The same fence as the measuring worker's, but for one file that it may write. The upper half of this module runs in
edgekit, `serve` and below in the child.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.quantize import collector, quantizer
from edgekit.runtimes import llamacpp, sandbox, worker
from edgekit.runtimes.cores import check_threads
from edgekit.runtimes.handle import amx_state, start_child, worker_limits
from edgekit.runtimes.process import Child, worker_command
from edgekit.runtimes.protocol import Advanced, Done, Message, Ready

STALL_S = 3600.0
"""A child that says nothing for so long has hung: the slowest types take minutes for the largest tensors."""

Job = Mapping[str, Any]


class Work:
    """A child at work. `advances` gives what the running job tells until it is done; `start` begins the next one."""

    def __init__(self, child: Child, first: Message, doing: str) -> None:
        self._child, self._message, self._doing = child, first, doing

    def advances(self) -> Iterator[Advanced]:
        """The pieces of the running job as they come. Raises WorkerDied when it fails or says nothing for an hour."""
        while isinstance(self._message, Advanced):
            yield self._message
            self._message = _listen(self._child, self._doing)

    def start(self, job: Job, doing: str) -> None:
        """Begin the next job; the one before must have ended."""
        self._doing = doing
        self._child.command(dict(job))
        self._message = _listen(self._child, doing)

    def peak_bytes(self) -> int | None:
        """The largest resident set so far, where the system tells it."""
        peak = self._child.sampler.peak()
        return peak.hwm_bytes if peak is not None else None


@contextmanager
def working(
    job: Job, *, readable: Sequence[Path], writable: Path | None, file_bytes: int, doing: str
) -> Iterator[Work]:
    """A fenced child that has begun `job`; it is gone when the block ends, Ctrl-C included.

    It may read `readable` and write at most `file_bytes` into `writable`, which exists. Raises WorkerDied.
    """
    check_threads(int(job.get("threads", 0)))
    start = {
        "op": "start",
        "parent": os.getpid(),
        "readable": [str(path.absolute()) for path in readable],
        "writable": [str(writable.absolute())] if writable else [],
        "limits": worker_limits() | {"file_bytes": file_bytes},
    }

    def begin(child: Child) -> Message:
        child.command({**start, "amx": amx_state()})
        child.expect(Ready, doing="starting")
        child.command(dict(job))
        return _listen(child, doing)

    child, first = start_child(STALL_S, worker_command(__name__), begin)
    try:
        yield Work(child, first, doing)
    finally:
        child.close()


def _listen(child: Child, doing: str) -> Message:
    child.deadline = time.monotonic() + STALL_S
    return child.expect(Advanced, Done, doing=doing)


# ---- in the child -------------------------------------------------------------------------------------------------


def serve(start: dict[str, Any], commands: Iterator[dict[str, Any]], send: worker.Send) -> None:
    """Fence in, then do jobs until the parent closes the pipe. Raises SessionRefused for a job that cannot be done."""
    # nobody times single tokens here, and spinning threads would make a busy machine crawl
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    llamacpp.import_bindings_alone()
    if start["amx"] == "denied":
        sandbox.deny_amx()
    build, features = llamacpp.describe_build()
    jobs = {"quantize": quantizer.quantize_here, "calibrate": collector.calibrate_here}
    readable, writable = ([Path(name) for name in start[key]] for key in ("readable", "writable"))
    isolation = sandbox.fence_in(readable, sandbox.Limits(**start["limits"]), writable)
    send(Ready(build=build, cpu_features=features, isolation=", ".join(isolation)))
    for command in commands:
        if command["op"] not in jobs:
            break
        jobs[command["op"]](command, send)
        send(Done())


def run() -> None:
    """What the child process runs."""
    worker.run(serve)
