"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError
from edgekit.files import replacing_folder


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
