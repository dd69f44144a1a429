"""For which machine a program is: enough of its ELF header to refuse it before megabytes are sent.

Layout: System V ABI, chapter 4 (ELF-64), and the processor numbers of its registry.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.files import open_file

_MACHINES = {3: "x86", 40: "arm", 62: "x86_64", 183: "arm64", 243: "riscv64"}
_PT_INTERP = 3
_MAX_HEADERS = 128
_MAX_PATH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Elf:
    """What the header says. `loader` is the dynamic linker it asks for, empty for a static program."""

    machine: str
    loader: str


def read_elf(path: Path) -> Elf | None:
    """The facts of an ELF program; `None` for anything else, a script for one. Raises EdgekitError where the file
    cannot be read, or begins as an ELF program and does not go on as one.
    """
    try:
        with open_file(path) as stream:
            head = stream.read(64)
            if head[:4] != b"\x7fELF":
                return None
            if len(head) < 64 or head[5] != 1:  # every target here is little-endian
                raise EdgekitError(
                    f"the runner is cut off, or of a big-endian machine: `{path}`",
                    hint="copy it anew, or build one: `edgekit runner build --help` lists for which devices",
                )
            machine = _MACHINES.get(struct.unpack_from("<H", head, 18)[0], "a machine that edgekit does not know")
            if head[4] != 2:
                return Elf(machine=machine, loader="")
            at, size, count = (
                *struct.unpack_from("<Q", head, 32),
                *struct.unpack_from("<HH", head, 54),
            )
            stream.seek(min(at, 2**40))
            table = stream.read(min(count, _MAX_HEADERS) * 56) if size == 56 else b""
            for offset in range(0, len(table) - 55, 56):
                kind, _, start, _, _, length = struct.unpack_from("<IIQQQQ", table, offset)
                if kind == _PT_INTERP:
                    stream.seek(min(start, 2**40))
                    name = stream.read(min(length, _MAX_PATH)).split(b"\0")[0]
                    return Elf(machine=machine, loader=name.decode("utf-8", "replace"))
            return Elf(machine=machine, loader="")
    except OSError as error:
        raise EdgekitError(f"cannot read the runner ({(error.strerror or 'unreadable').lower()}): `{path}`") from None


def refuse_foreign(path: Path, *, machine: str, system: str, name: str) -> None:
    """Raise EdgekitError where the program at `path` cannot run on the device `name`: another machine's, or one that
    asks for a loader which Android does not have. What is no ELF program is tried there.
    """
    elf = read_elf(path)
    if elf is None:
        return
    if machine and elf.machine != machine:
        raise EdgekitError(
            f"the runner is built for `{elf.machine}`, and `{name}` is `{machine}`: `{path}`",
            hint="`--runner auto` takes one built for it; `edgekit runner build --help` lists what can be built",
        )
    if system == "Android" and elf.loader and not elf.loader.startswith("/system/"):
        raise EdgekitError(
            f"the runner asks for a loader that Android does not have, `{elf.loader}`: `{path}`",
            hint="bring a static one: `edgekit runner build --target linux-arm64`",
        )
