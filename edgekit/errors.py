"""The one exception a user sees, and the exit codes of design §3."""

from __future__ import annotations

from enum import IntEnum
from importlib import import_module
from typing import Any


class ExitCode(IntEnum):
    """What the shell is told. Over several devices the most urgent wins: 4 > 1 > 3 > 0."""

    PASS = 0
    FAIL = 1
    USAGE = 2
    UNKNOWN = 3
    BROKE = 4
    INTERRUPTED = 130


class EdgekitError(Exception):
    """A failure the user can act on: printed as `error: …`, a blank line and `hint: …`; never a traceback.

    `message` is one line, lower case, without a final period; literals stand in backticks, the value comes last.
    """

    def __init__(self, message: str, *, hint: str = "", code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


def import_extra(name: str, *, extra: str) -> Any:
    """The module `name` of an optional dependency. Raises EdgekitError with the command that installs `extra`."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        raise EdgekitError(
            f"a library that this needs is not installed: `{missing}`", hint=f"pip install 'edgekit[{extra}]'"
        ) from None
