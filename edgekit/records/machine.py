"""What a machine can measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.records.measured import Host


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """One thing that edgekit would like of a machine. `found` says what is there, `without` what is lost where it is
    not whole, `enable` how to have it.
    """

    area: Literal["runtime", "cpu", "memory", "noise", "energy", "fence"]
    name: str
    state: Literal["yes", "partly", "no"]
    found: str
    without: str = ""
    enable: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What this machine can measure and what it cannot."""

    kind: Literal["examination"] = "examination"
    version: Literal[1] = 1
    edgekit_version: str
    host: Host
    abilities: tuple[Ability, ...]
