"""A machine at the other end of a command: run a command line there, put a file there, and say what went wrong.

Arguments are quoted for a POSIX shell one by one; nothing that a user or a device wrote is ever read as shell.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgekit.errors import EdgekitError, ExitCode

MAX_OUTPUT_BYTES = 64 * 2**20
"""A device that says more than this says nothing we asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a command ended, and what it said."""

    returncode: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The last line of its errors, for messages."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1][:200] if lines else f"exit code {self.returncode}"


class TargetLost(EdgekitError):  # noqa: N818  (named for what happened)
    """The device went away in the middle. What was measured before stays valid."""

    def __init__(self, name: str, reason: str) -> None:
        hint = "is it on, awake and in reach? then run the same command again"
        super().__init__(f"the connection to `{name}` was lost ({reason})", hint=hint, code=ExitCode.BROKE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A device that answers. `execute` takes one line for its shell, an optional file as input and a time limit, and
    raises TargetLost where the device is gone; `folder` is an absolute path for files of ours.
    """

    name: str
    folder: str
    execute: Callable[[str, Path | None, float], Ran]
    push: Callable[[Path, str], Ran]

    def run(self, arguments: Sequence[str], *, timeout_s: float = 60.0) -> Ran:
        """Run a program there, its arguments quoted."""
        return self.execute(shlex.join(arguments), None, timeout_s)

    def script(self, text: str, *arguments: str, timeout_s: float = 60.0) -> Ran:
        """Run a script of ours there; what varies comes in as `$1`, `$2`, …"""
        return self.run(["sh", "-c", text, "edgekit", *arguments], timeout_s=timeout_s)


def run_here(command: Sequence[str], *, stdin: Path | None = None, timeout_s: float) -> Ran:
    """Run a local command (ssh, adb) with bounded output. Raises EdgekitError where the program is not installed, and
    TimeoutExpired.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        source: IO[bytes] | int = stdin.open("rb") if stdin else subprocess.DEVNULL
        try:
            done = subprocess.run(command, stdin=source, stdout=out, stderr=err, timeout=timeout_s, check=False)
        except FileNotFoundError:
            raise EdgekitError(
                f"a program that this target needs is not installed: `{command[0]}`", hint=_INSTALL.get(command[0], "")
            ) from None
        finally:
            if not isinstance(source, int):
                source.close()
        return Ran(returncode=done.returncode, out=_head(out), err=_head(err))


_INSTALL = {"ssh": "install OpenSSH's client", "adb": "install Android's platform tools"}


def _head(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(MAX_OUTPUT_BYTES).decode("utf-8", "replace")


# ---- files there --------------------------------------------------------------------------------------------------


def place(remote: Remote, local: Path, name: str, sha256: str, *, executable: bool = False) -> str:
    """Put `local` into the remote folder as `name` and check its hash there; one that is there already is kept.

    Returns its path there. Raises EdgekitError where there is no space, the hash differs, or nothing there can hash.
    """
    there = f"{remote.folder}/{name}"
    made = remote.script('mkdir -p -- "$1" && chmod 700 -- "$1"', remote.folder)
    if made.returncode:
        raise EdgekitError(f"cannot make a folder on `{remote.name}` ({made.said}): `{remote.folder}`")
    if hash_there(remote, there) != sha256:
        pushed = remote.push(local, there)
        if pushed.returncode:
            remote.script('rm -f -- "$1"', there)
            if "no space" in pushed.err.lower() + pushed.out.lower():
                size = local.stat().st_size
                raise EdgekitError(
                    f"no space left on `{remote.name}` for {size} bytes: `{local}`", hint="free some space there"
                )
            raise EdgekitError(f"cannot copy to `{remote.name}` ({pushed.said}): `{local}`")
        if hash_there(remote, there) != sha256:
            remote.script('rm -f -- "$1"', there)
            raise EdgekitError(
                f"what arrived on `{remote.name}` is not what was sent: `{local}`",
                hint="the copy was cut off, or the disk there is failing: run it again",
            )
    if executable:
        remote.script('chmod 700 -- "$1"', there)
    return there


def hash_there(remote: Remote, path: str) -> str:
    """SHA-256 of a file there; empty where it is not there. Raises EdgekitError where nothing there can hash."""
    ran = remote.script(
        '[ -f "$1" ] || exit 44; sha256sum -- "$1" 2>/dev/null || toybox sha256sum -- "$1" || shasum -a 256 -- "$1"',
        path,
        timeout_s=600.0,
    )
    if ran.returncode == 44:
        return ""
    digest = ran.out.partition(" ")[0].removeprefix("\\").strip()
    if ran.returncode or len(digest) != 64:
        raise EdgekitError(f"`{remote.name}` cannot hash files ({ran.said})", hint="it needs `sha256sum` or `shasum`")
    return digest
