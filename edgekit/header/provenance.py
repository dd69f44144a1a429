"""What a model file says of its own origin: the `edgekit.*` keys that quantizing and converting leave."""

from __future__ import annotations

import hashlib
import json
import re

from edgekit.records import Header, Provenance

PROVENANCE_KEYS = {
    "parent_sha256": "edgekit.parent.sha256",
    "checkpoint_sha256": "edgekit.checkpoint.sha256",
    "imatrix_sha256": "edgekit.imatrix.sha256",
    "calibration_sha256": "edgekit.calibration.sha256",
    "plan_sha256": "edgekit.plan.sha256",
    "edgekit_version": "edgekit.version",
}
"""Field of `records.Provenance` → key in the file."""


def read_provenance(header: Header) -> Provenance | None:
    """What the file's keys say, `None` where they say nothing. A claim of whoever wrote the file, no proof; texts that
    are no SHA-256 count as absent.
    """
    found = dict(header.metadata)
    fields = {name: found.get(key, "") for name, key in PROVENANCE_KEYS.items()}
    for name, text in fields.items():
        if name.endswith("sha256") and not re.fullmatch(r"[0-9a-f]{64}", text):
            fields[name] = ""
    return Provenance(**fields) if any(fields.values()) else None


def shape_digest(header: Header) -> str:
    """SHA-256 of what two builds of one model share whatever their types: layers, hidden size, heads of each layer."""
    shape = [header.layers, header.hidden, header.heads, header.kv_heads]
    return hashlib.sha256(json.dumps(shape).encode()).hexdigest()
