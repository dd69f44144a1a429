"""Everything that can go wrong with a device, from the command line: what the user reads, and the exit code.

The programs on PATH are shims; edgekit is whole, from the flags to the report on disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_targets_importing import row, written
from test_targets_there import adb_shim, artifact, bench_shim, left_there, script, shims, ssh_shim

from edgekit.cli import main
from edgekit.records import Artifact
from edgekit.runtimes import amx

__all__ = ["adb_shim", "artifact", "shims", "ssh_shim"]

Said = tuple[int, str]
PHONE = "galaxy-s25"


@pytest.fixture
def edgekit(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Run the command line; (exit code, stderr)."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def run(*arguments: object) -> Said:
        code = main([str(argument) for argument in arguments])
        return code, capfd.readouterr().err

    return run


def refused(said: Said, words: str, code: int = 2) -> None:
    """One `error:` line, an empty one, one `hint:` line."""
    assert said[0] == code, said[1]
    lines = said[1].splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["error:", "", "hint:"], said[1]
    assert lines[2] != "hint: see `edgekit --help`"
    assert words in lines[0]
    assert not lines[0].endswith(".")


# ---- nothing was run ----------------------------------------------------------------------------------------------


def test_a_dry_run_foresees_no_time_of_a_machine_it_does_not_know(
    tiny_gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = ["bench", str(tiny_gguf), "--dry-run", "-d", PHONE]
    for where, told in (((), False), (("--on", "adb"), True)):
        assert main([*planned, *where]) == 0
        assert ("expected: unknown" in capsys.readouterr().out) == told
        assert main([*planned, *where, "--json"]) == 0
        assert (json.loads(capsys.readouterr().out)["low_s"] is None) == told


def test_one_machine_is_no_class(edgekit: Callable[..., Said], tiny_gguf: Path) -> None:
    for how in (("--on", "ssh:pi"), ("--on-device", "smartphone")):
        refused(
            edgekit("bench", tiny_gguf, "-d", "smartphone", *how), "one machine is no class of devices: `smartphone`"
        )


LISTED = "List of devices attached\\n"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("ssh: Could not resolve hostname pi: Name or service not known", "no such host: `ssh:pi`"),
        ("pi: Permission denied (publickey,password).", "the device refused the key: `ssh:pi`"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", "the device's host key has changed: `ssh:pi`"),
        ("ssh: connect to host pi port 22: Connection refused", "nothing answers there: `ssh:pi`"),
        ("ssh: connect to host pi port 22: No route to host", "the device cannot be reached: `ssh:pi`"),
    ],
)
def test_hosts(edgekit: Callable[..., Said], shims: Path, tiny_gguf: Path, said: str, words: str) -> None:
    script(shims / "ssh", f"echo '{said}' >&2; exit 255")
    refused(edgekit("bench", tiny_gguf, "-d", PHONE, "--on", "ssh:pi", "-q"), words)


@pytest.mark.parametrize(
    ("listed", "on", "words"),
    [
        ("", "adb", "no phone is attached"),
        ("A\\tunauthorized\\n", "adb", "the phone has not allowed this computer: `A`"),
        ("A\\toffline\\n", "adb", "the phone is offline: `A`"),
        ("A\\tdevice\\nB\\tdevice\\n", "adb", "several phones are attached: 2"),
        ("A\\tdevice\\n", "adb:B", "no such phone: `B`"),
        (
            "A\\tno permissions; see [http://developer.android.com]\\n",
            "adb",
            "this user may not talk to the phone: `A`",
        ),
    ],
)
def test_phones(edgekit: Callable[..., Said], shims: Path, tiny_gguf: Path, listed: str, on: str, words: str) -> None:
    script(shims / "adb", f"printf '{LISTED}{listed}'")
    refused(edgekit("bench", tiny_gguf, "-d", PHONE, "--on", on, "-q"), words)


def test_programs_that_are_missing(edgekit: Callable[..., Said], shims: Path, ssh_shim: Path, tiny_gguf: Path) -> None:
    refused(edgekit("bench", tiny_gguf, "-d", PHONE, "--on", "ssh:pi", "-q"), "can run a model: `llama-bench`")
    script(shims / "ssh", "echo 'Welcome to Raspbian'; echo /home/pi")
    refused(edgekit("bench", tiny_gguf, "-d", PHONE, "--on", "ssh:pi", "-q"), "login shell of the device says more")


def test_no_space_there(edgekit: Callable[..., Said], shims: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    script(shims / "ssh", 'case "$*" in *"-O exit"*) exit 0;; esac\nfor last; do :; done\n'
           'case "$last" in "cat > "*) cat >/dev/null; echo "cat: write error: No space left on device" >&2; exit 1;;'
           'esac\nexec sh -c "$last"')  # fmt: skip
    runner = script(tmp_path / "far/llama-bench", "exit 0")
    said = edgekit("bench", tiny_gguf, "-d", PHONE, "--on", "ssh:pi", "--runner", runner, "-q")
    refused(said, "no space left on `ssh:pi` for")
    assert left_there(tmp_path) == []


def test_a_runner_for_another_machine(
    edgekit: Callable[..., Said], adb_shim: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    other = tmp_path / "llama-bench"  # the head of an ELF file for RISC-V
    other.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00" + bytes(100))
    said = edgekit("bench", tiny_gguf, "-d", PHONE, "--on", "adb", "--runner", other, "-q")
    refused(said, "llama-bench")
    assert left_there(tmp_path) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--limit-memory", "much"], "not a size for `--limit-memory`: `much`"),
        (["--limit-memory", "9" * 400 + "GB"], "not a size for `--limit-memory`"),
        (["--limit-memory", "12"], "a size needs its unit"),
        (["--limit-memory", "1MB"], "no runtime starts in so little memory"),
        (["--limit-memory", "device", "--on", "adb"], "`--limit-memory` holds a run here"),
        (["--on", "ssh:-oProxyCommand=x"], "not an address for ssh"),
        (["--on", "usb"], "not a target for `--on`: `usb`"),
    ],
)
def test_flags(edgekit: Callable[..., Said], tiny_gguf: Path, flags: list[str], words: str) -> None:
    refused(edgekit("bench", tiny_gguf, "-d", PHONE, "-q", *flags), words)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"load_mode": "teleport"}, "a load mode that edgekit does not know: `teleport`"),  # a newer llama-bench
        ({"flash_attn": 9}, "an unknown `flash_attn`: `9`"),
        ({"avg_ts": 93.0}, "contradicts itself"),  # a clock that jumped
        ({"model_size": 5}, "of another model"),
        ({"samples_ns": []}, "keeps no repetitions"),
    ],
)
def test_runs_of_others(
    edgekit: Callable[..., Said], tiny_gguf: Path, tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    file = written(tmp_path, row(tiny_gguf, **changed))
    refused(edgekit("import", file, "--model", tiny_gguf, "-d", PHONE, "-q"), words)


def test_evidence_of_another_artifact(
    edgekit: Callable[..., Said], ssh_shim: Path, artifact: Artifact, tmp_path: Path
) -> None:
    runner = bench_shim(tmp_path / "far/runner", artifact, model_size=5)
    said = edgekit("bench", artifact.path, "-d", PHONE, "--on", "ssh:pi", "--runner", runner, "-q")
    refused(said, "the run is of another model")
    assert left_there(tmp_path) == []


# ---- the run broke: the report is written, and what was measured before is in it ------------------------------------


def broken(run: Callable[..., Said], artifact: Artifact, runner: Path, code: str, *, on: str = "ssh:pi") -> set[int]:
    """The processes whose samples were kept by a run that ended with the fault `code`."""
    said = run("bench", artifact.path, "-d", PHONE, "--on", on, "--runner", runner, "-q", "--out", "there")
    assert said[0] == 4, said[1]
    assert "Traceback" not in said[1]
    (report,) = Path("there").rglob("report.json")
    content = json.loads(report.read_text())
    assert content["exit_code"] == 4
    found = content["evidence"]["measurement"]
    (fault,) = [finding for finding in found["findings"] if finding["level"] == "fault"]
    assert fault["code"] == code, fault
    assert fault["hint"]
    assert "pass" not in {verdict["status"] for verdict in content["verdicts"]}
    assert fault["message"][:60] in (report.parent / "report.md").read_text()
    return {sample["process"] for sample in found["samples"]}


@pytest.mark.parametrize(
    ("before", "code"),
    [
        ("kill -ILL $$", "worker-illegal-instruction"),
        ("kill -KILL $$", "worker-killed"),
        ("exit 126", "runner-abi"),
        ("echo '[{'; exit 0", "target-output"),
    ],
)
def test_runners_that_break(
    edgekit: Callable[..., Said], ssh_shim: Path, artifact: Artifact, tmp_path: Path, before: str, code: str
) -> None:
    runner = bench_shim(tmp_path / "far/runner", artifact, before)
    assert broken(edgekit, artifact, runner, code) == set()
    assert left_there(tmp_path) == []


@pytest.mark.parametrize("changed", [{"load_mode": "teleport"}, {"avg_ts": 1.0}], ids=["newer", "clock"])
def test_answers_that_cannot_be_believed(
    edgekit: Callable[..., Said], ssh_shim: Path, artifact: Artifact, tmp_path: Path, changed: dict[str, Any]
) -> None:
    runner = bench_shim(tmp_path / "far/runner", artifact, **changed)
    assert broken(edgekit, artifact, runner, "target-output") == set()


def test_a_run_cut_off_half_way_keeps_its_first_process(
    edgekit: Callable[..., Said], ssh_shim: Path, artifact: Artifact, tmp_path: Path
) -> None:
    mark = tmp_path / "ran-once"
    runner = bench_shim(tmp_path / "far/runner", artifact, f"[ -e '{mark}' ] && kill -KILL $$; touch '{mark}'")
    assert broken(edgekit, artifact, runner, "worker-killed") == {0}


def test_a_connection_that_drops_keeps_what_came(
    edgekit: Callable[..., Said], shims: Path, artifact: Artifact, tmp_path: Path
) -> None:
    gone, mark = tmp_path / "gone", tmp_path / "ran-once"
    script(shims / "ssh", f'[ -e "{gone}" ] && {{ echo "Connection closed by remote host" >&2; exit 255; }}\n'
           'case "$*" in *"-O exit"*) exit 0;; esac\nfor last; do :; done\nexec sh -c "$last"')  # fmt: skip
    runner = bench_shim(tmp_path / "far/runner", artifact, f"[ -e '{mark}' ] && touch '{gone}'; touch '{mark}'")
    assert 0 in broken(edgekit, artifact, runner, "target-lost")


def test_a_phone_that_restarts_keeps_what_came(
    edgekit: Callable[..., Said], adb_shim: Path, artifact: Artifact, tmp_path: Path
) -> None:
    gone, mark = tmp_path / "gone", tmp_path / "ran-once"
    shell = adb_shim.read_text().split("\n", 1)[1]
    lost = "echo \"error: device 'SER1' not found\" >&2; exit 1"
    script(adb_shim, f'case "$1" in devices) ;; *) [ -e "{gone}" ] && {{ {lost}; }};; esac\n{shell}')
    runner = bench_shim(tmp_path / "far/runner", artifact, f"[ -e '{mark}' ] && touch '{gone}'; touch '{mark}'")
    assert 0 in broken(edgekit, artifact, runner, "target-lost", on="adb")


def test_a_model_beyond_its_limit_of_memory_is_a_report_and_no_bad_input(
    edgekit: Callable[..., Said], tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amx, "_known", {"state": "allowed"})  # as on a machine where nothing was found out yet
    limit = ["--limit-memory", "40MB", "--context", 65536, "--threads", 1]
    code, said = edgekit("bench", tiny_gguf, "-d", "raspberry-pi-5", "--quick", *limit, "-q", "--out", "held")
    assert code == 4, said
    (report,) = Path("held").rglob("report.json")
    found = json.loads(report.read_text())["evidence"]["measurement"]
    faults = [finding for finding in found["findings"] if finding["level"] == "fault"]
    assert [fault["code"] for fault in faults] == ["memory-limit"], faults
    assert found["memory_limit"]["limit_bytes"] == 40_000_000
    assert "the model does not fit into 40 MB" in (report.parent / "report.md").read_text()
