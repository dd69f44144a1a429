"""Joules around each timed step, from whatever counters the machine has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.records import EnergyReading, Sample


@dataclass(slots=True, kw_only=True)
class EnergyMeter:
    """Reads every counter before and after a step. `unknown` says why there is none; never a silent zero."""

    unknown: str = ""
    readings: list[EnergyReading] = field(default_factory=list)

    @staticmethod
    def find(root: Path = Path("/")) -> EnergyMeter:
        return EnergyMeter(unknown="no energy counter was looked for")

    def start(self) -> None: ...

    def stop(self, test: str, samples: Sequence[Sample]) -> None: ...
