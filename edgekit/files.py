"""Writes that leave no half file. Apart from `storage`, which loads pydantic."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.errors import EdgekitError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well and vanishes otherwise, Ctrl-C
    included.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.", suffix=".partial")
    except OSError as error:
        raise EdgekitError(
            f"cannot write ({(error.strerror or 'not writable').lower()}): `{path}`",
            hint="choose a writable place with `--out`",
        ) from None
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise EdgekitError(f"cannot write ({(error.strerror or 'failed').lower()}): `{path}`") from None
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
