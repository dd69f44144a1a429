"""llama.cpp's source: the one inside the llama-cpp-python sdist that edgekit runs on, or one that the user names."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.errors import EdgekitError
from edgekit.files import hash_file

VERSION = "0.3.36"
"""Of llama-cpp-python, as edgekit depends on it."""
SDIST_NAME = f"llama-cpp-python-{VERSION}"
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
"""Of `llama_cpp_python-0.3.36.tar.gz` (pypi.org, files of release 0.3.36)."""

_INSIDE = ("vendor", "llama.cpp")
_PARTS = ("CMakeLists.txt", "LICENSE", "cmake", "common", "ggml", "include", "licenses", "src", "tools", "vendor")
"""What the compiler may read for llama-bench; models, documents and other programs are left where they are."""
TREE_SHA256 = "f5e7e067f9aa3beaf00b986c5212083e1c5121c178180dc00794ef01f79edb24"
"""Of llama.cpp in it, as `tree_sha256` finds it: whatever a folder calls itself, this is it or is not."""
MAX_SOURCE_BYTES = 2**30
MAX_SOURCE_FILES = 50_000
FETCH_S = 3600.0
ABANDONED_S = 3600.0
"""No step of a build is silent for so long."""
_SCRATCH = ".build-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A folder with llama.cpp's CMakeLists.txt, what to call it, and a hash over all of its names and contents."""

    folder: Path
    name: str
    sha256: str


def unpack_source(given: Path | None, work: Path) -> Source:
    """llama.cpp below `work`: out of `given`, an sdist of llama-cpp-python or its folder or a checkout of llama.cpp;
    without it, out of the sdist that pip fetches, whose hash is checked.

    Raises EdgekitError where `given` holds no llama.cpp, or pip cannot fetch or brings something else.
    """
    target = work / "llama.cpp"
    if given is not None and given.is_dir():
        _copy(given, target)
    else:
        _extract(given or _fetch(work), target)
    if not (target / "tools/llama-bench").is_dir() or not (target / "CMakeLists.txt").is_file():
        raise EdgekitError(f"there is no llama.cpp with llama-bench in the source: `{given}`", hint=_HINT)
    sha256 = tree_sha256(target)
    name = SDIST_NAME if sha256 == TREE_SHA256 else f"llama.cpp-{sha256[:10]}"
    return Source(folder=target, name=name, sha256=sha256)


_HINT = "give an sdist of llama-cpp-python, its folder, or a checkout of llama.cpp with `--source`"


def tree_sha256(folder: Path) -> str:
    """SHA-256 over the sorted names and the contents of all files below `folder`."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{content}  {path.relative_to(folder).as_posix()}\n".encode())
    return total.hexdigest()


def _fetch(work: Path) -> Path:
    """The sdist, by pip, which knows the user's index and proxies; with its hash required."""
    wanted = work / "requirements.txt"
    wanted.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", "llama-cpp-python", "--require-hashes", "--dest", str(work), "-r", str(wanted)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=FETCH_S, check=False)
        said = [line for line in done.stderr.splitlines() if line.strip()]
    except subprocess.TimeoutExpired:
        said = [f"not done after {FETCH_S:.0f} s"]
    archive = work / f"llama_cpp_python-{VERSION}.tar.gz"
    if not archive.is_file():
        last = said[-1].strip()[:200] if said else "no file came"
        raise EdgekitError(
            f"pip cannot fetch the source of llama.cpp ({last})",
            hint=f"give an sdist of llama-cpp-python {VERSION} with `--source`",
        )
    if hash_file(archive) != SDIST_SHA256:
        raise EdgekitError(f"what pip brought is not llama-cpp-python {VERSION}: `{archive.name}`")
    return archive


def _extract(archive: Path, target: Path) -> None:
    """Write the plain files of llama.cpp in a tar file below `target`; links and odd names are passed over."""
    try:
        with tarfile.open(archive) as tar:
            written = 0
            for member, inside in _wanted(tar):
                written += member.size
                if written > MAX_SOURCE_BYTES:
                    raise EdgekitError(f"the source is larger than 1 GiB: `{archive}`", hint=_HINT)
                stream = tar.extractfile(member)
                if stream is None:
                    continue
                path = target / inside
                path.parent.mkdir(parents=True, exist_ok=True)
                with stream, path.open("wb") as out:
                    shutil.copyfileobj(stream, out)
    except (OSError, tarfile.TarError, EOFError) as error:
        reason = (getattr(error, "strerror", None) or str(error) or "unreadable").splitlines()[0].lower()
        raise EdgekitError(f"cannot read the source ({reason[:120]}): `{archive}`", hint=_HINT) from None


def _wanted(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """Members that belong to llama.cpp, with their place in it. The first folder is the archive's own."""
    members = []
    for member in tar:
        members.append((member, PurePosixPath(member.name).parts[1:]))
        if len(members) > MAX_SOURCE_FILES:
            raise tarfile.TarError("too many files")
    within = len(_INSIDE) if any(parts[: len(_INSIDE)] == _INSIDE for _, parts in members) else 0
    for member, parts in members:
        mine = parts[:within] == _INSIDE[:within] and len(parts) > within and parts[within] in _PARTS
        if member.isfile() and mine and ".." not in parts:
            yield member, PurePosixPath(*parts[within:])


def _copy(given: Path, target: Path) -> None:
    """Copy llama.cpp out of a folder, so that nothing is built in the user's."""
    inner = given.joinpath(*_INSIDE)
    root = inner if inner.is_dir() else given
    try:
        for part in _PARTS:
            if (root / part).is_dir():
                shutil.copytree(root / part, target / part, symlinks=True)
            elif (root / part).is_file():
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / part, target / part)
    except (OSError, shutil.Error) as error:
        reason = (getattr(error, "strerror", None) or "unreadable").lower()
        raise EdgekitError(f"cannot read the source ({reason}): `{given}`", hint=_HINT) from None


def scratch(place: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder to build in, on the disk of the cache: a gigabyte is much for a /tmp in memory. What killed builds left
    there is removed.
    """
    place.mkdir(parents=True, exist_ok=True)
    for left in place.glob(f"{_SCRATCH}*"):
        newest = max((file.lstat().st_mtime for file in (left, *left.glob("*"))), default=0.0)  # its log is written to
        if time.time() - newest > ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=place)
