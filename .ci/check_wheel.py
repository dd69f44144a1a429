"""Check that the wheel carries what a user needs, and works from outside the checkout."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

MUST_HOLD = ("edgekit/py.typed", "edgekit/data/projection.json")
DATA = ("*.toml", "*.json", "*.csv", "*.j2", "*.css")
"""Of the package: whatever stands beside the code must be beside it in the wheel."""


def main(wheel: str) -> int:
    checkout = Path(__file__).resolve().parent.parent
    names = set(zipfile.ZipFile(wheel).namelist())
    package = [path for pattern in DATA for path in (checkout / "edgekit").rglob(pattern)]
    wanted = {
        *MUST_HOLD,
        *(str(path.relative_to(checkout)) for path in package),
        *(f"edgekit/data/devices/{file.name}" for file in (checkout / "devices").glob("*.toml")),
    }
    missing = sorted(wanted - names)
    if missing or not any(name.endswith("licenses/LICENSE") for name in names):
        print(f"the wheel lacks: {', '.join(missing) or 'LICENSE'}")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, wheel]
        subprocess.run(pip, check=True)
        lines = ("import sys", f"sys.path.insert(0, {folder!r})", "from edgekit.cli import main", "main(['devices'])")
        subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    print(f"wheel holds {len(names)} files, {len(wanted)} required ones among them, and lists its devices")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
