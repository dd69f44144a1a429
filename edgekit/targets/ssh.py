"""A target over OpenSSH: the user's own configuration and keys, one connection for everything (ControlMaster)."""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.targets.remote import Ran, Remote, TargetLost, run_here

CONNECT_S = 15
COPY_S = 4 * 3600.0
_ADDRESS = re.compile(r"(?:[A-Za-z0-9._-]+@)?[A-Za-z0-9._:%\[\]-]+")
FAILED = 255
"""ssh's own exit code for its own failures; a remote command that ends with it is taken for one, too."""

_REFUSALS = (
    ("could not resolve hostname", "no such host", "is the name right? hosts of `~/.ssh/config` count, too"),
    ("permission denied", "the device refused the key", "copy yours there: `ssh-copy-id HOST`; no password is asked"),
    ("remote host identification has changed", "the device's host key has changed",
     "if it was installed anew, forget the old key: `ssh-keygen -R HOST`; else beware"),
    ("host key verification failed", "the device's host key is not known", "connect once by hand: `ssh HOST`"),
    ("connection refused", "nothing answers there", "is its ssh server running, and on that port?"),
    ("timed out", "the device does not answer", "is it on and in the same network?"),
    ("no route to host", "the device cannot be reached", "is it on and in the same network?"),
)  # fmt: skip


def check_address(address: str) -> str:
    """`user@host`, or a host of the user's ssh configuration. Raises EdgekitError for what ssh could take for an
    option.
    """
    host, _, port = address.rpartition(":")
    if port.isdigit() and host and ":" not in host:
        raise EdgekitError(
            f"a port does not go into the address: `ssh:{address[:80]}`",
            hint="give the host a name and its port in `~/.ssh/config`, and write that name: `ssh:NAME`",
        )
    if not _ADDRESS.fullmatch(address) or address.startswith("-"):
        raise EdgekitError(
            f"not an address for ssh: `{address[:80]}`",
            hint="write `ssh:user@host`; ports and jumps belong into `~/.ssh/config`",
        )
    return address


@contextmanager
def open_ssh(address: str, label: str) -> Iterator[Remote]:
    """A connection to `address`, closed at the end; `label` names our folder in the home folder there.

    Raises EdgekitError where ssh is not installed, or the device cannot be reached or refuses.
    """
    name = f"ssh:{check_address(address)}"
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        base = ("ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S}", "-o", "ServerAliveInterval=10",
                "-o", "ServerAliveCountMax=3", "-o", "ControlMaster=auto", "-o", f"ControlPath={folder}/%C",
                "-o", "ControlPersist=60", "-T")  # fmt: skip

        def execute(line: str, stdin: Path | None, timeout_s: float) -> Ran:
            try:
                ran = run_here([*base, "--", address, line], stdin=stdin, timeout_s=timeout_s)
            except subprocess.TimeoutExpired:
                raise TargetLost(name, f"no answer within {timeout_s:.0f} s") from None
            if ran.returncode == FAILED:
                raise TargetLost(name, ran.said)
            return ran

        def push(local: Path, there: str) -> Ran:
            # through `cat`: scp's treatment of quotes and spaces differs between its versions
            return execute(f"cat > {shlex.quote(there)}", local, COPY_S)

        home = _connect(base, address)
        try:
            yield Remote(name=name, folder=f"{home}/.cache/edgekit-{label}", execute=execute, push=push)
        finally:
            with suppress(EdgekitError, subprocess.TimeoutExpired):
                run_here([*base, "-O", "exit", "--", address], timeout_s=CONNECT_S)


def _connect(base: tuple[str, ...], address: str) -> str:
    """The home folder there. Raises EdgekitError in the user's words."""
    try:
        ran = run_here([*base, "--", address, 'printf "%s" "$HOME"'], timeout_s=CONNECT_S + 30.0)
    except subprocess.TimeoutExpired:
        raise EdgekitError(f"the device does not answer: `ssh:{address}`", hint="is it on?") from None
    if ran.returncode:
        said = ran.err.lower()
        for mark, words, hint in _REFUSALS:
            if mark in said:
                raise EdgekitError(f"{words}: `ssh:{address}`", hint=hint.replace("HOST", address))
        raise EdgekitError(f"cannot connect ({ran.said}): `ssh:{address}`", hint=f"try `ssh {address}` by hand")
    home = ran.out.rstrip("/")
    if not home.startswith("/") or "\n" in home:
        raise EdgekitError(
            f"the login shell of the device says more than it should: `ssh:{address}`",
            hint="its start files must print nothing when nobody is at a terminal",
        )
    return home
