"""Writes that leave no half file, and texts read whole. Apart from `storage`, which loads pydantic."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edgekit.errors import EdgekitError
from edgekit.units import format_bytes

_ABANDONED_S = 3600.0
"""Nobody writes for so long without touching anything."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well and vanishes otherwise, Ctrl-C
    included. Raises EdgekitError where `path` is something else than a file: a device's node is not to be replaced.
    """
    if path.exists() and not path.is_file():
        raise EdgekitError(f"the output is not a regular file: `{path}`", hint="name a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(path)
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


def lies_in(place: Path, source: Path) -> bool:
    """Whether `place` is `source`, or lies in it (an ONNX model is a folder)."""
    try:
        if place.samefile(source):
            return True
    except OSError:
        pass
    return source.is_dir() and source.resolve() in place.resolve().parents


@contextmanager
def replacing_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends well and vanishes otherwise, Ctrl-C
    included. An existing `path` is refused without `force`; with it, the old folder goes only when the new one stands.
    """
    if path.exists() and not force:
        raise EdgekitError(f"the output exists: `{path}`", hint="choose another place with `--out`, or add `--force`")
    if path.exists() and not path.is_dir():
        raise EdgekitError(f"the output is not a folder: `{path}`", hint="name a folder to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(path)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:80]}.", suffix=".partial"))
    except OSError as error:
        raise EdgekitError(
            f"cannot write ({(error.strerror or 'not writable').lower()}): `{path}`",
            hint="choose a writable place with `--out`",
        ) from None
    old = temporary.with_suffix(".old")
    try:
        yield temporary
        temporary.chmod(0o755 & ~_umask())
        if path.exists():
            path.replace(old)
        temporary.replace(path)
    except OSError as error:
        raise EdgekitError(f"cannot write ({(error.strerror or 'failed').lower()}): `{path}`") from None
    finally:
        if old.exists() and not path.exists():
            old.replace(path)
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


def check_space(out: Path, needed_bytes: float, what: str, *, hint: str = "") -> None:
    """Refuse before gigabytes are written, not after. Counts what `replacing` needs beside an old file. Raises
    EdgekitError.
    """
    try:
        place = next(parent for parent in out.absolute().parents if parent.exists())
        free = shutil.disk_usage(place).free
    except (OSError, StopIteration) as error:
        reason = (getattr(error, "strerror", None) or "failed").lower()
        raise EdgekitError(f"cannot write ({reason}): `{out}`", hint="choose a writable place with `--out`") from None
    if free < needed_bytes:
        raise EdgekitError(
            f"not enough free space for {what}: {format_bytes(needed_bytes)} needed, {format_bytes(free)} free"
            f" at `{place}`",
            hint=hint or "free some space, or choose another disk with `--out`",
        )


def open_file(path: Path) -> BinaryIO:
    """The file at `path`, to read. Raises OSError, also for what is no file: a pipe would be waited for without end,
    and a device may have none.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, os.strerror(code) if stat.S_ISDIR(mode) else "Not a file")
    return path.open("rb")


def read_whole(path: Path, most_bytes: int) -> bytes | None:
    """The bytes of the file at `path`; `None` of more than `most_bytes`, which are not read. Raises OSError as
    `open_file` does.
    """
    with open_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most_bytes:
            return None
        data = stream.read(size + 1)
        if len(data) > size:  # it grows, or tells no size
            data += stream.read(most_bytes + 1 - len(data))
    return data if len(data) <= most_bytes else None


def lock(stream: BinaryIO) -> bool:
    """Take an open file for oneself until it is closed; `False` where somebody has it. Windows has no such lock, nor
    have some network disks: there nobody is kept out.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


@contextmanager
def appending(path: Path, holds: str) -> Iterator[BinaryIO]:
    """The file at `path` to read and append to, this process's alone; `holds` names what it is of in messages. Raises
    EdgekitError where it is no file, cannot be written, or another process has it.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for without end
        raise EdgekitError(f"not a journal of {holds}: `{path}`", hint="name another file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise unwritable(path, error) from None
    with file:
        if not lock(file):
            raise EdgekitError(
                f"another run is keeping its {holds} there: `{path}`", hint="let it end, or choose another `--out`"
            )
        yield file


def unwritable(path: Path, error: OSError) -> EdgekitError:
    """What to raise where a journal cannot be written."""
    return EdgekitError(
        f"cannot write ({(error.strerror or 'failed').lower()}): `{path}`",
        hint="make room and run the same command: what was written is kept",
    )


def cache_folder(kind: str) -> Path:
    """Where edgekit keeps what it can make again: `$XDG_CACHE_HOME` or the OS's own place, then `edgekit` and `kind`.
    Raises EdgekitError where there is no home.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if Path(chosen).is_absolute():
        return Path(chosen) / "edgekit" / kind
    try:
        home = Path.home()
    except RuntimeError:
        raise EdgekitError(
            f"there is no home directory for the cache of {kind}", hint="set `XDG_CACHE_HOME` to a writable place"
        ) from None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "edgekit" / kind


def hash_file(path: Path) -> str:
    """SHA-256 of the file's bytes. Raises OSError as `open_file` does."""
    with open_file(path) as file:  # a buffered reader, whose `readinto` the type does not tell of
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


MAX_TEXT_BYTES = 256 * 2**20


def read_text(path: Path) -> str:
    """The text in `path`, its line ends as they are. Raises EdgekitError when it cannot be read, is empty, too large,
    or not UTF-8 (with the place of the first wrong byte).
    """
    try:
        data = read_whole(path, MAX_TEXT_BYTES)
    except OSError as error:
        raise EdgekitError(f"cannot read text ({(error.strerror or 'unreadable').lower()}): `{path}`") from None
    if data is None:
        raise EdgekitError(f"text is larger than 256 MiB: `{path}`", hint="a few megabytes are ample")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EdgekitError(
            f"text is not UTF-8 at byte {error.start}: `{path}`", hint="convert it with `iconv -t utf-8`"
        ) from None
    if not text.strip():
        raise EdgekitError(f"text is empty: `{path}`")
    return text


def _clear_abandoned(path: Path) -> None:
    """Remove what killed writers of `path` left beside it: gigabytes that nothing else would free."""
    stem = glob.escape(f".{path.name[:80]}.")
    for left in [*path.parent.glob(f"{stem}*.partial"), *path.parent.glob(f"{stem}*.work")]:
        newest = max((file.lstat().st_mtime for file in [left, *left.rglob("*")]), default=0.0)
        if time.time() - newest <= _ABANDONED_S:
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
