"""What `--on` means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from edgekit.errors import EdgekitError
from edgekit.tables import nearest
from edgekit.targets.adb import open_adb
from edgekit.targets.remote import Remote
from edgekit.targets.ssh import check_address, open_ssh

_SERIAL = re.compile(r"[A-Za-z0-9._:-]{1,100}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A place to run: this machine, a host of ssh, or a phone (the only one attached where `address` is empty)."""

    kind: Literal["local", "ssh", "adb"]
    address: str = ""


def parse_where(text: str) -> Where:
    """`local`, `ssh:user@host`, `adb` or `adb:SERIAL`. Raises EdgekitError for anything else."""
    kind, colon, address = text.partition(":")
    if kind == "local" and not colon:
        return Where(kind="local")
    if kind == "ssh":
        return Where(kind="ssh", address=check_address(address))
    if kind == "adb" and (not colon or (_SERIAL.fullmatch(address) and not address.startswith("-"))):
        return Where(kind="adb", address=address)
    if kind == "adb":
        raise EdgekitError(f"not a serial for adb: `{address[:80]}`", hint="`adb devices` lists them")
    raise EdgekitError(
        f"not a target for `--on`: `{text[:80]}`",
        hint=nearest(kind, ("local", "ssh", "adb")) + " (`local`, `ssh:user@host`, `adb`, `adb:SERIAL`)",
    )


@contextmanager
def open_remote(where: Where, label: str) -> Iterator[Remote]:
    """A connection to a place that is not this machine; `label` names our folder there."""
    if where.kind == "ssh":
        with open_ssh(where.address, label) as remote:
            yield remote
    else:
        yield open_adb(where.address, label)
