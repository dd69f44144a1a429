"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError
from edgekit.files import MAX_TEXT_BYTES, lock, open_file, read_text, read_whole, replacing_folder


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write_and_fail(place: Path, failure: type[BaseException]) -> None:
    with replacing_folder(place, force=True) as folder:
        (folder / "new").write_text("new")
        raise failure


def test_a_folder_takes_its_name_at_the_end(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "deep" / "out") as folder:
        (folder / "file").write_text("new")
        assert not (tmp_path / "deep" / "out").exists()
    assert names(tmp_path) == ["deep", "deep/out", "deep/out/file"]
    assert (tmp_path / "deep" / "out").stat().st_mode & 0o700 == 0o700


def test_an_existing_folder_needs_force(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(EdgekitError, match="exists"), replacing_folder(tmp_path / "out"):
        pass
    (tmp_path / "out" / "old").write_text("old")
    with replacing_folder(tmp_path / "out", force=True) as folder:
        (folder / "new").write_text("new")
        assert (tmp_path / "out" / "old").exists()
    assert names(tmp_path) == ["out", "out/new"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_a_failure_keeps_the_old_and_leaves_nothing_new(tmp_path: Path, failure: type[BaseException]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with pytest.raises(failure):
        write_and_fail(tmp_path / "out", failure)
    assert names(tmp_path) == ["out", "out/old"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(EdgekitError, match="not a folder"), replacing_folder(tmp_path / "out", force=True):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def test_what_killed_writers_left_is_cleared_after_an_hour(tmp_path: Path) -> None:
    for name, age_s in (("abandoned", 7200), ("busy", 60)):
        left = tmp_path / f".out.{name}.partial"
        left.mkdir()
        (left / "half").write_text("half")
        then = left.stat().st_mtime - age_s
        for path in (left / "half", left):
            os.utime(path, (then, then))
    with replacing_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == [".out.busy.partial", ".out.busy.partial/half", "out"]


# ---- what is read ---------------------------------------------------------------------------------------------------


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """One that nobody writes to: opening it would wait without end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def read_as_bank(path: Path) -> object:
    from edgekit.corpus import read_bank

    return read_bank(path)


def read_as_record(path: Path) -> object:
    from edgekit.storage import read_bounded

    return read_bounded(path)


def read_as_imatrix(path: Path) -> object:
    from edgekit.quantize.imatrix import read_imatrix

    return read_imatrix(path)


@pytest.mark.parametrize("read", [read_text, read_as_bank, read_as_record, read_as_imatrix])
def test_pipes_and_devices_are_refused(read: Callable[[Path], object], pipe: Path) -> None:
    for path in (pipe, Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(EdgekitError, match=rf"\(not a file\): `{path}`"):
            read(path)
    with pytest.raises(EdgekitError, match="is a directory"):
        read(pipe.parent)


def test_a_pipe_is_no_reference(pipe: Path) -> None:
    from edgekit.bench import is_reference_file

    assert not is_reference_file(pipe)


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"ten bytes!")
    assert (read_whole(path, 10), read_whole(path, 9)) == (b"ten bytes!", None)
    os.truncate(path, MAX_TEXT_BYTES + 1)  # a hole
    with pytest.raises(EdgekitError, match="larger than 256 MiB"):
        read_text(path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_a_file_that_tells_no_size_is_read() -> None:
    status = Path("/proc/self/status")
    assert status.stat().st_size == 0
    assert (read_whole(status, 2**20) or b"").endswith(b"\n")
    assert read_whole(status, 20) is None


def test_a_locked_file_is_anothers(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with open_file(path) as one, open_file(path) as other:
        assert lock(one)
        assert not lock(other)
    with open_file(path) as later:
        assert lock(later)
