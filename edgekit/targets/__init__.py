"""Where a measurement runs when it does not run here, and what was run elsewhere by others."""

from __future__ import annotations
