"""One run at a time in a folder on a device: who is kept out, who may take over, and what is left."""

# ruff: noqa: F811 - fixtures of another file

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from test_targets_there import (  # noqa: F401 - fixtures
    ADB,
    SSH,
    WORKLOAD,
    adb_shim,
    artifact,
    bench_shim,
    findings,
    left_there,
    loopback,
    script,
    shims,
    ssh_shim,
)

from edgekit.errors import EdgekitError, ExitCode
from edgekit.files import cache_folder
from edgekit.pipeline.elsewhere import measure_there
from edgekit.records import Artifact
from edgekit.targets.remote import Ran, Remote
from edgekit.targets.run_lock import RunLock, run_lock
from edgekit.targets.where import Where, open_remote


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def alive_files() -> list[Path]:
    return list(cache_folder("runs").glob("*.alive"))


def folder_of(remote: Remote, tmp_path: Path) -> Path:
    """Where it lies here; the shim of adb has its /data elsewhere."""
    return Path(remote.folder.replace("/data/local/tmp", str(tmp_path / "data")))


# ---- who is kept out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [SSH, ADB], ids=["ssh", "adb"])
def test_a_second_run_is_refused_and_the_first_goes_on(
    where: Where, ssh_shim: Path, adb_shim: Path, artifact: Artifact, tmp_path: Path
) -> None:
    mark = tmp_path / "at work"
    runner = bench_shim(tmp_path / "far/runner", artifact, f"touch '{mark}'; sleep 1")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(measure_there, where, artifact, WORKLOAD, on_device="galaxy-s25", runner=runner)
        while not mark.exists():
            assert not first.done(), first.result()
            time.sleep(0.02)
        with pytest.raises(EdgekitError, match="another run of this model is at work on") as caught:
            measure_there(where, artifact, WORKLOAD, on_device="galaxy-s25", runner=runner)
        run = first.result()
    assert (caught.value.code, caught.value.hint) == (ExitCode.USAGE, "wait until it has ended")
    assert f"process {os.getpid()}, begun 2" in caught.value.message
    assert len(run.samples) == 20
    assert "fault" not in findings(run).values()
    assert left_there(tmp_path) == []
    assert alive_files() == [], "nor is anything left here"


def let_in(count: int, then: Callable[[RunLock], bool]) -> list[bool]:
    """What `then` gave those who were let in, of so many who came at once; False for all others, who came first to an
    end.
    """
    gate, ended = threading.Barrier(count), threading.Event()

    def come() -> bool:
        with open_remote(SSH, "x") as remote:
            gate.wait()
            try:
                with run_lock(remote, silent_s=60) as held:
                    ended.wait(timeout=30)
                    return then(held)
            except EdgekitError:
                return False

    with ThreadPoolExecutor(count) as pool:
        came = [pool.submit(come) for _ in range(count)]
        while sum(one.done() for one in came) < count - 1:
            time.sleep(0.02)
        ended.set()
        return sorted(one.result() for one in came)


def test_of_many_who_come_at_once_one_is_let_in(ssh_shim: Path) -> None:
    assert let_in(6, lambda held: held.clean_up() == "") == [False] * 5 + [True]


def meanwhile(shims: Path, what: str) -> None:
    """Have `what` happen on the far side when a lock is about to be made for the first time."""
    once = shims / "done"
    first = f"if [ \"$1\" = lock ] && [ ! -e '{once}' ]; then : > '{once}'; {what}; fi"
    script(shims / "mkdir", f'{first}\nexec /bin/mkdir "$@"')


def test_of_two_names_in_one_lock_neither_is_let_in_unseen(ssh_shim: Path, shims: Path) -> None:
    """Another found our lock empty, removed it and made its own, all before we had written our name."""
    rival = f"lock/{'a' * 24}.owner"
    meanwhile(shims, f"/bin/mkdir lock; rmdir lock; /bin/mkdir lock; echo '{{}}' > {rival}; exit 0")
    with open_remote(SSH, "x") as remote:
        with pytest.raises(EdgekitError, match="another run of this model is at work"):
            run_lock(remote, silent_s=60).__enter__()
        left = [path.name for path in (Path(remote.folder) / "lock").glob("*.owner")]
    assert left == [Path(rival).name]


def test_a_lock_in_a_folder_that_is_on_its_way_out_is_none(ssh_shim: Path, shims: Path) -> None:
    meanwhile(shims, 'mv "$PWD" "$PWD.gone"')
    with open_remote(SSH, "x") as remote, run_lock(remote, silent_s=60) as held:
        held.renew()
        assert list(Path(f"{remote.folder}.gone").iterdir()) == [], "its owner can remove it"
        assert held.clean_up() == ""


def full(remote: Remote, written: str) -> Remote:
    """The same device whose disk takes names of files and not `written`."""

    def execute(line: str, stdin: Path | None, timeout_s: float) -> Ran:
        return remote.execute(line.replace(written, f"{written} && false"), stdin, timeout_s)

    return replace(remote, execute=execute)


def test_a_full_disk_leaves_no_lock_of_nobody(ssh_shim: Path, tmp_path: Path) -> None:
    """A name without a word on whose it is would keep everybody out for ever."""
    with open_remote(SSH, "x") as remote:
        with pytest.raises(EdgekitError, match="no space left on"):
            run_lock(full(remote, '> "lock/$2.owner"'), silent_s=60).__enter__()
        with run_lock(remote, silent_s=60) as held:
            assert held.clean_up() == ""
    assert left_there(tmp_path) == []


def test_a_disk_that_fills_up_is_not_another_run(ssh_shim: Path) -> None:
    with open_remote(SSH, "x") as remote, run_lock(remote, silent_s=60) as held:
        with pytest.raises(EdgekitError, match="cannot write on") as caught:
            replace(held, remote=full(remote, "> lock/seen")).renew()
        assert caught.value.code is ExitCode.BROKE
        assert held.clean_up() == ""


# ---- who is dead --------------------------------------------------------------------------------------------------

DIES = """
import os, sys
from edgekit.targets.run_lock import RunLock, run_lock
from edgekit.targets.where import Where, open_remote
with open_remote(Where(kind="ssh", address="pi@device"), "x") as remote, run_lock(remote, silent_s=3600):
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def dead(ssh_shim: Path) -> None:
    """A lock there whose owner was killed with no chance to clean up."""
    assert subprocess.run([sys.executable, "-c", DIES], check=False).returncode == -9


def test_a_killed_run_of_this_machine_is_followed_at_once(dead: None, tmp_path: Path) -> None:
    (old,) = alive_files()
    with open_remote(SSH, "x") as remote, run_lock(remote, silent_s=60) as held:
        assert not old.exists()
        held.renew()
        assert held.clean_up() == ""
    assert left_there(tmp_path) == []


@pytest.mark.parametrize(("silent_s", "dead_too"), [(1800, False), (3700, True)])
def test_a_run_of_another_machine_is_dead_when_it_has_been_silent_for_too_long(
    dead: None, tmp_path: Path, silent_s: int, dead_too: bool
) -> None:
    (old,) = alive_files()
    old.unlink()  # as another machine sees it
    with open_remote(SSH, "x") as remote:
        seen = folder_of(remote, tmp_path) / "lock/seen"
        was = float(seen.read_text())
        seen.write_text(f"{was - silent_s:.2f}\n")
        if was < silent_s:
            pytest.skip("this machine was started just now")
        if not dead_too:
            with pytest.raises(EdgekitError, match=r"process \d+, begun .*, last heard of .* ago") as caught:
                run_lock(remote, silent_s=60).__enter__()
            assert f"remove `{remote.folder}/lock` there" in caught.value.hint
            return
        with run_lock(remote, silent_s=60) as held:
            assert held.clean_up() == ""
    assert left_there(tmp_path) == []


def test_of_many_who_follow_a_dead_run_one_is_let_in(dead: None) -> None:
    def renewed(held: RunLock) -> bool:
        held.renew()
        return True

    assert let_in(5, renewed) == [False] * 4 + [True]


def test_a_run_that_slept_too_long_finds_its_place_taken(ssh_shim: Path, tmp_path: Path) -> None:
    with open_remote(SSH, "x") as remote, run_lock(remote, silent_s=0) as sleeper:
        alive = sleeper.alive.rename(tmp_path / "of another machine")
        time.sleep(0.05)
        with run_lock(remote, silent_s=60) as held:
            with pytest.raises(EdgekitError, match="has taken the place of this one") as caught:
                sleeper.renew()
            assert caught.value.code is ExitCode.BROKE
            assert "another run has taken it" in sleeper.clean_up()
            held.renew()
            assert held.clean_up() == ""
        assert alive.exists()


@pytest.mark.parametrize("owner", ["", "{", '{"silent_s": 1e999}', '["a"]', '{"host": "\\u001b[31m", "silent_s": "x"}'])
def test_what_the_lock_says_is_not_believed(dead: None, tmp_path: Path, owner: str) -> None:
    (old,) = alive_files()
    old.unlink()
    with open_remote(SSH, "x") as remote:
        (file,) = folder_of(remote, tmp_path).glob("lock/*.owner")
        file.write_text(owner)
        with pytest.raises(EdgekitError, match="another run of this model is at work"):
            run_lock(remote, silent_s=60).__enter__()


def test_a_lock_without_an_owner_is_of_nobody(ssh_shim: Path, tmp_path: Path) -> None:
    """The device was switched off between two commands."""
    with open_remote(SSH, "x") as remote:
        (folder_of(remote, tmp_path) / "lock").mkdir(parents=True)
        with run_lock(remote, silent_s=60) as held:
            held.renew()


def test_what_a_release_that_was_cut_off_left_is_removed(ssh_shim: Path, tmp_path: Path) -> None:
    with open_remote(SSH, "x") as remote:
        left, other = Path(f"{remote.folder}.{'a' * 24}"), Path(f"{remote.folder}.mine")
        for folder in (left, other):
            folder.mkdir(parents=True)
            (folder / "model.gguf").touch()
        with run_lock(remote, silent_s=60) as held:
            assert not left.exists()
            assert held.clean_up() == ""
        assert (other / "model.gguf").exists()


# ---- OpenSSH itself -----------------------------------------------------------------------------------------------


@pytest.mark.reference
def test_a_lock_behind_a_real_ssh_server(loopback: Where, tmp_path: Path) -> None:
    with open_remote(loopback, "x") as remote, open_remote(loopback, "x") as other:
        with run_lock(remote, silent_s=60) as held:
            with pytest.raises(EdgekitError, match="another run of this model is at work on `ssh:loop`"):
                run_lock(other, silent_s=60).__enter__()
            held.renew()
            assert held.clean_up() == ""
        with run_lock(other, silent_s=60) as held:
            assert held.clean_up() == ""
