"""Energy, measured where the machine has a counter; the model for where it has none is `edgekit.energy_model`."""

from __future__ import annotations

from edgekit.energy_model import estimate_battery

__all__ = ["estimate_battery"]
