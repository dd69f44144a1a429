"""The child process: it alone opens model files. Commands come on stdin, messages leave on the pipe named in argv,
llama.cpp's log goes to stderr. It imports no more than it needs, because its baseline is subtracted from every peak.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from edgekit.records import Settings
from edgekit.runtimes import RUNTIMES, llamacpp, sandbox
from edgekit.runtimes.protocol import Done, Loaded, Message, Ready, Refused, SessionRefused, Step, encode
from edgekit.runtimes.steps import TimedSession, TokenSource, run_step

Send = Callable[[Message], None]
Serve = Callable[[dict[str, Any], Iterator[dict[str, Any]], Send], None]
"""What a worker does with its first command, those that follow, and a way to answer."""


def main(serve: Serve) -> int:
    """Serve commands until `quit` or until the parent is gone; 0 in good order, 1 after a refusal."""
    commands = _read_commands(sys.stdin.buffer)
    start = next(commands)
    sandbox.die_with_parent(start["parent"])
    out = os.fdopen(int(sys.argv[1]), "wb", buffering=0)

    def send(message: Message) -> None:
        out.write(encode(message))

    try:
        serve(start, commands, send)
    except SessionRefused as refusal:
        send(Refused(stage=refusal.stage, message=refusal.message))
        return 1
    except Exception as error:
        send(Refused(stage="worker", message=f"the worker failed: `{type(error).__name__}: {error}`"))
        return 1
    return 0


def _read_commands(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    """Commands until the parent closes the pipe; they come from edgekit and are trusted."""
    for line in stream:
        yield json.loads(line)


def serve_tests(start: dict[str, Any], commands: Iterator[dict[str, Any]], send: Send) -> None:
    """Open one model and time what is asked of it."""
    runtime: ModuleType = RUNTIMES[start["runtime"]]
    path, settings = Path(start["path"]), Settings(**start["settings"])
    if runtime is llamacpp:
        llamacpp.import_bindings_alone()
    if start["amx"] == "denied":
        sandbox.deny_amx()
    build, features = runtime.describe_build()
    readable = [Path(name) for name in start["readable"]]
    isolation = sandbox.fence_in(readable, sandbox.Limits(**start["limits"]))
    send(Ready(build=build, cpu_features=features, isolation=", ".join(isolation)))

    if next(commands, {"op": "quit"})["op"] != "load":
        return
    begun = time.perf_counter_ns()
    session = runtime.open_session(path, settings)
    loaded_ns = time.perf_counter_ns() - begun
    if start["amx"] == "allowed" and settings.repack and "AMX" in features:
        try_batch(session)
    if hasattr(session, "reserve"):
        session.reserve()
    send(
        Loaded(
            load_ns=loaded_ns,
            vocabulary=session.vocabulary,
            context_tokens=session.context_tokens,
            threads=session.threads,
        )
    )
    source = TokenSource(session.vocabulary, start["seed"])
    for command in commands:
        if command["op"] != "run":
            break
        for timed in run_step(session, Step(**command["step"]), source):
            send(timed)
        send(Done())


def try_batch(session: TimedSession) -> None:
    """Evaluate a few tokens at once: some compilers build AMX kernels that die at the first batch, and the parent
    wants to know before it counts on them.
    """
    session.decode([0] * min(32, session.batch_tokens, session.context_tokens))
    session.rewind(0)


def run(serve: Serve = serve_tests) -> None:
    """Serve and leave without C++ destructors and exit hooks: nothing here needs them, a corrupted heap may hang."""
    code = main(serve)
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
