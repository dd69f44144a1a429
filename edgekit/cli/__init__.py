"""The command line: parse, call one function of the pipeline, print, return an exit code.

Nothing heavy is imported at the top: `edgekit --help` must answer at once, so each verb imports what it runs.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from edgekit import __version__
from edgekit.cli.lazy import Verbs
from edgekit.errors import EdgekitError, ExitCode

app = typer.Typer(
    cls=Verbs,
    help="Tells whether a distilled language model may ship to an edge device.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 pass, 1 fail, 2 usage or bad input, 3 unknown, 4 the run broke, 130 interrupted.",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"edgekit {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Tells whether a distilled language model may ship to an edge device."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; every failure is one `error:` line with a hint."""
    with _noticing_ctrl_c():
        return _called(arguments)


_noticed: list[int] = []
"""A signal number from the first Ctrl-C of this call on."""


def interrupted() -> bool:
    """Whether there was a Ctrl-C: a library that was being imported may have passed over it."""
    return bool(_noticed)


@contextmanager
def _noticing_ctrl_c() -> Iterator[None]:
    """While this lasts `interrupted` tells of a Ctrl-C: a library that is being imported may turn that into an error of
    its own.
    """
    _noticed.clear()
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return

    def notice(number: int, frame: FrameType | None) -> None:
        _noticed.append(number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, notice)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _called(arguments: list[str] | None) -> int:
    bare = not (sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(args=["--help"] if bare else arguments, prog_name="edgekit", standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except EdgekitError as error:
        return _say(error.message, error.hint, error.code)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        verb = context.command_path if context else "edgekit"
        return _say(_one_line(error.format_message()), f"see `{verb} --help`", ExitCode.USAGE)
    except (BrokenPipeError, SystemExit):  # `edgekit … | head` closed our stdout: typer and rich exit with 1, our FAIL
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKE
    except Exception as error:
        if interrupted():
            return _interrupted()
        if os.environ.get("EDGEKIT_TRACEBACK"):
            raise
        message = f"edgekit itself failed ({type(error).__name__}: {_one_line(str(error))})"
        return _say(message, "a bug: please report it with the output of EDGEKIT_TRACEBACK=1", ExitCode.BROKE)
    if code == ExitCode.INTERRUPTED:  # typer turns Ctrl-C into an exit code
        return _interrupted()
    return ExitCode.USAGE if bare else int(code or 0)  # an empty call in a CI script must not read as a pass


def _interrupted() -> int:
    return _say("interrupted", "nothing half-written is left behind", ExitCode.INTERRUPTED)


def _one_line(text: str) -> str:
    """A library's message in our style: one line, lower-case start, no final period."""
    line = " ".join(text.split()).rstrip(".")
    return line[:1].lower() + line[1:]


def _say(message: str, hint: str, code: ExitCode) -> int:
    # messages quote names from strangers' files: no escape sequence and no second line may come through
    message, hint = ("".join(c if c.isprintable() else "\ufffd" for c in text) for text in (message, hint))
    print(f"error: {message}\n\nhint: {hint or 'see `edgekit --help`'}", file=sys.stderr)  # noqa: T201
    return code
