"""Runs on another machine: a loopback sshd where one is installed, shims of ssh, adb and llama-bench everywhere.

The shims are programs on PATH; everything of edgekit's is real, down to the device's shell.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_targets_importing import row

from edgekit.bench import PRESETS
from edgekit.cli.reading_on import device_there
from edgekit.devices import load_device
from edgekit.errors import EdgekitError, ExitCode
from edgekit.pipeline import open_artifact
from edgekit.pipeline.edgekit_there import flags_of
from edgekit.pipeline.elsewhere import measure_there
from edgekit.records import Artifact, Evidence, Measurement, Settings, Workload
from edgekit.storage import to_json
from edgekit.targets.adb import attached, choose
from edgekit.targets.readiness import Readiness, judge_readiness, wait_until_ready
from edgekit.targets.remote import TargetLost, place
from edgekit.targets.running import command_of, death
from edgekit.targets.where import Where, open_remote, parse_where

WORKLOAD = Workload(settings=Settings(threads=6), processes=2, repetitions_min=10, timeout_s=60)
SSH, ADB = Where(kind="ssh", address="pi@device"), Where(kind="adb")


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def shims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder before everything else on PATH, and a home of its own for the far side."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")  # without the edgekit of an activated environment
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return folder


@pytest.fixture
def ssh_shim(shims: Path) -> Path:
    """An `ssh` that runs the command line here, as the login shell of a device would."""
    return script(shims / "ssh", 'case "$*" in *"-O exit"*) exit 0;; esac\nfor last; do :; done\nexec sh -c "$last"')


@pytest.fixture
def adb_shim(shims: Path, tmp_path: Path) -> Path:
    """An `adb` with one phone whose /data lies in the test's folder."""
    body = f"""
case "$1" in devices) printf 'List of devices attached\\nSER1\\tdevice\\n\\n'; exit 0;; esac
shift 2
case "$1" in
  shell) shift 2; exec sh -c "$(printf %s "$1" | sed 's#/data/local/tmp#{tmp_path}/data#g')";;
  push) shift 2; to=$(printf %s "$2" | sed 's#/data/local/tmp#{tmp_path}/data#'); exec cp -- "$1" "$to";;
esac
exit 1"""
    return script(shims / "adb", body)


@pytest.fixture
def artifact(tiny_gguf: Path, tmp_path: Path) -> Artifact:
    odd = tmp_path / "my 'student' $(touch pwned).gguf"
    shutil.copy(tiny_gguf, odd)
    return open_artifact(odd)


def bench_shim(path: Path, artifact: Artifact, before: str = "", **changed: Any) -> Path:
    """A llama-bench that answers at once with the repetitions asked for, of pp512 and tg128 of `artifact`."""
    answers = path.parent / f"{path.name}.answers"
    answers.mkdir(parents=True, exist_ok=True)
    for count in range(1, 13):
        (answers / str(count)).write_text(json.dumps(answer_of(artifact, count, **changed)))
    return script(path, f"{before}\nsleep 0.15\n{REPETITIONS}\ncat {shlex.quote(str(answers))}/$count")


REPETITIONS = 'while [ "$1" != -r ]; do shift; done; count=$2'
"""Shell of a llama-bench: what was asked of it."""


def answer_of(artifact: Artifact, count: int, **changed: Any) -> list[dict[str, Any]]:
    """llama-bench's rows of so many repetitions."""
    model = Path(artifact.path)
    decode, prefill = ([rate + step * (index % 5) for index in range(count)] for rate, step in ((60, 1), (400, 10)))
    return [row(model, tuple(decode), **changed), row(model, tuple(prefill), n_prompt=512, n_gen=0, **changed)]


def findings(run: Measurement) -> dict[str, str]:
    return {finding.code: finding.level for finding in run.findings}


def left_there(tmp_path: Path) -> list[Path]:
    """Here the far side's home is this side's, too: its cache may stay, with nothing in it that a run holds."""
    cache = tmp_path / "home/.cache/edgekit"
    places = (cache.parent, cache / "runs", tmp_path / "data")
    return [path for place in places if place.exists() for path in place.iterdir() if path != cache]


# ---- a run there --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [SSH, ADB], ids=["ssh", "adb"])
def test_a_run_leaves_a_record_and_nothing_else(
    where: Where, ssh_shim: Path, adb_shim: Path, artifact: Artifact, tmp_path: Path
) -> None:
    runner = bench_shim(tmp_path / "far/run 'er", artifact)
    run = measure_there(where, artifact, WORKLOAD, on_device="galaxy-s25", runner=runner)
    assert run.on_device == "galaxy-s25"
    assert run.imported_from == "llama-bench"
    assert sorted((sample.test, sample.process) for sample in run.samples) == [
        (test, process) for test in ("pp512", "tg128") for process in range(10)
    ]
    (told,) = [finding.message for finding in run.findings if finding.code == "repetitions"]
    assert told.startswith("each repetition ran in a process of its own")
    assert run.host.isa, "the far side's own files say what it is"
    assert run.host.ram_bytes > 0
    assert [peak.process for peak in run.peaks] == list(range(10))
    assert all(peak.hwm_bytes and peak.unevictable_bytes for peak in run.peaks)
    assert "fault" not in findings(run).values()
    assert left_there(tmp_path) == []
    assert not list(tmp_path.rglob("pwned"))


def test_llama_bench_found_there_is_used(ssh_shim: Path, shims: Path, artifact: Artifact) -> None:
    bench_shim(shims / "llama-bench", artifact)
    assert measure_there(SSH, artifact, WORKLOAD, on_device="galaxy-s25").samples


EDGEKIT = f'exec {shlex.quote(sys.executable)} -m edgekit "$@"'
HERE = replace(PRESETS["quick"], settings=Settings(threads=1, context_tokens=1024), timeout_s=120)


@pytest.mark.slow
def test_the_edgekit_there_measures_everything(ssh_shim: Path, shims: Path, artifact: Artifact, tmp_path: Path) -> None:
    script(shims / "edgekit", EDGEKIT)
    profile = tmp_path / "this's one.toml"
    profile.write_text(PROFILE)
    run = measure_there(SSH, artifact, HERE, on_device=str(profile))
    assert run.imported_from == "", "edgekit's own loop timed it"
    assert run.on_device == load_device(str(profile)).name
    assert {sample.test for sample in run.samples} >= {"pp128", "tg32"}
    assert any(peak.unevictable_bytes for peak in run.peaks)
    assert run.workload.settings == HERE.settings
    assert left_there(tmp_path) == []


PROFILE = """
title = "this machine"
class = "laptop"
isa = "x86_64"
source = "test"
ram_bytes = { value = 16e9, source = "test" }
"""


@pytest.mark.parametrize(
    ("answer", "message", "code"),
    [
        ("echo 'error: not a GGUF file: `x`' >&2; exit 2", "edgekit on `ssh:pi@device` says: not a GGUF file", 2),
        ("echo 'Killed' >&2; exit 137", "says: Killed", 4),
        (
            'while [ "$1" != --out ]; do shift; done; mkdir "$2"; echo "{" > "$2/evidence.json"',
            "not a valid evidence",
            2,
        ),
        ('while [ "$1" != --out ]; do shift; done; mkdir "$2"; cp "$EVIDENCE" "$2/"', "of another artifact", 4),
    ],
)
def test_an_edgekit_there_that_cannot_be_believed(
    ssh_shim: Path,
    shims: Path,
    artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    message: str,
    code: int,
) -> None:
    other = replace(artifact, sha256="00" * 32)
    evidence = Evidence(edgekit_version="0", created_at="", artifact=other, cases=())
    (tmp_path / "evidence.json").write_text(to_json(evidence))
    monkeypatch.setenv("EVIDENCE", str(tmp_path / "evidence.json"))
    script(shims / "edgekit", answer)
    with pytest.raises(EdgekitError, match=message) as caught:
        measure_there(SSH, artifact, HERE, on_device="galaxy-s25")
    assert caught.value.code == code
    assert left_there(tmp_path) == []


def test_a_workload_of_nobodys_is_refused() -> None:
    assert flags_of(HERE)[:3] == ["--quick", "--timeout", "120s"]
    assert "--quick" not in flags_of(replace(PRESETS["default"], timeout_s=9))
    with pytest.raises(EdgekitError, match="only bench's own presets"):
        flags_of(replace(HERE, prompt_tokens=(3,)))


def test_a_copy_that_is_there_is_used_again(ssh_shim: Path, artifact: Artifact, tmp_path: Path) -> None:
    with open_remote(SSH, "label") as remote:
        there = Path(place(remote, Path(artifact.path), "model.gguf", artifact.sha256))
        before = there.stat().st_mtime_ns
        place(remote, Path(artifact.path), "model.gguf", artifact.sha256)
        assert there.stat().st_mtime_ns == before
        there.write_bytes(there.read_bytes()[:-1])  # as a dropped connection leaves it
        place(remote, Path(artifact.path), "model.gguf", artifact.sha256)
        assert there.read_bytes() == Path(artifact.path).read_bytes()


@pytest.mark.parametrize(
    ("before", "code"),
    [
        ("kill -ILL $$", "worker-illegal-instruction"),
        ("kill -KILL $$", "worker-killed"),
        ("kill -SEGV $$", "worker-segfault"),
        ("kill -ABRT $$", "worker-aborted"),
        ("echo 'unknown model architecture' >&2; exit 1", "runner-exited"),
        ("exit 127", "runner-missing"),
        ("exit 126", "runner-abi"),
        ("echo '[{'; exit 0", "target-output"),
        ("exit 0", "target-output"),
    ],
)
def test_a_runner_that_breaks_is_a_finding(
    ssh_shim: Path, artifact: Artifact, tmp_path: Path, before: str, code: str
) -> None:
    runner = bench_shim(tmp_path / "far/runner", artifact, before)
    run = measure_there(SSH, artifact, WORKLOAD, on_device="galaxy-s25", runner=runner)
    assert findings(run)[code] == "fault"
    assert run.samples == ()
    assert left_there(tmp_path) == []


def test_a_runner_that_hangs_is_killed_there(ssh_shim: Path, artifact: Artifact, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    runner = bench_shim(tmp_path / "far/runner", artifact, f"echo $$ > '{mark}'; exec sleep 300")
    run = measure_there(SSH, artifact, replace(WORKLOAD, timeout_s=1), on_device="galaxy-s25", runner=runner)
    assert findings(run)["worker-timeout"] == "fault"
    assert not Path(f"/proc/{mark.read_text().strip()}").exists()
    assert left_there(tmp_path) == []


def test_what_was_measured_before_a_death_is_kept(ssh_shim: Path, artifact: Artifact, tmp_path: Path) -> None:
    mark = tmp_path / "ran-once"
    runner = bench_shim(tmp_path / "far/runner", artifact, f"[ -e '{mark}' ] && kill -KILL $$; touch '{mark}'")
    run = measure_there(SSH, artifact, WORKLOAD, on_device="galaxy-s25", runner=runner)
    assert {sample.process for sample in run.samples} == {0}
    assert findings(run)["worker-killed"] == "fault"


def test_a_device_that_goes_away_is_a_finding(shims: Path, artifact: Artifact, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    script(shims / "ssh", f'[ -e "{gone}" ] && {{ echo "Connection closed by remote host" >&2; exit 255; }}\n'
           'case "$*" in *"-O exit"*) exit 0;; esac\nfor last; do :; done\nexec sh -c "$last"')  # fmt: skip
    mark = tmp_path / "ran-once"
    runner = bench_shim(tmp_path / "far/runner", artifact, f"[ -e '{mark}' ] && touch '{gone}'; touch '{mark}'")
    run = measure_there(SSH, artifact, replace(WORKLOAD, processes=3), on_device="galaxy-s25", runner=runner)
    assert {sample.process for sample in run.samples} <= {0, 1}
    assert run.samples
    assert findings(run)["target-lost"] == "fault"
    assert findings(run)["left-behind"] == "warning", "nobody could clean up"


def test_another_model_there_is_refused(ssh_shim: Path, artifact: Artifact, tmp_path: Path) -> None:
    runner = bench_shim(tmp_path / "far/runner", artifact, model_size=5)
    with pytest.raises(EdgekitError, match="of another model"):
        measure_there(SSH, artifact, WORKLOAD, on_device="galaxy-s25", runner=runner)
    assert left_there(tmp_path) == []


# ---- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("ssh: Could not resolve hostname device: Name or service not known", "no such host: `ssh:pi@device`"),
        ("pi@device: Permission denied (publickey).", "the device refused the key"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", "host key has changed"),
        ("Host key verification failed.", "host key is not known"),
        ("ssh: connect to host device port 22: Connection refused", "nothing answers there"),
        ("ssh: connect to host device port 22: Connection timed out", "does not answer"),
        ("ssh: connect to host device port 22: No route to host", "cannot be reached"),
        ("kex_exchange_identification: banner line too long", "cannot connect .kex_exchange"),
    ],
)
def test_what_ssh_says_is_put_in_words(shims: Path, artifact: Artifact, said: str, message: str) -> None:
    script(shims / "ssh", f"echo '{said}' >&2; exit 255")
    with pytest.raises(EdgekitError, match=message) as caught:
        measure_there(SSH, artifact, WORKLOAD, on_device="galaxy-s25")
    assert caught.value.hint


def test_a_login_shell_that_talks_is_refused(shims: Path, artifact: Artifact) -> None:
    script(shims / "ssh", "echo 'Welcome to Raspbian'; echo /home/pi")
    with pytest.raises(EdgekitError, match="says more than it should"):
        measure_there(SSH, artifact, WORKLOAD, on_device="galaxy-s25")


def test_no_llama_bench_there(ssh_shim: Path, artifact: Artifact) -> None:
    with pytest.raises(EdgekitError, match="can run a model: `llama-bench`"):
        measure_there(SSH, artifact, WORKLOAD, on_device="galaxy-s25")


def test_no_space_there(shims: Path, artifact: Artifact, tmp_path: Path) -> None:
    script(shims / "ssh", 'case "$*" in *"-O exit"*) exit 0;; esac\nfor last; do :; done\n'
           'case "$last" in "cat > "*) cat >/dev/null; echo "cat: write error: No space left on device" >&2; exit 1;;'
           'esac\nexec sh -c "$last"')  # fmt: skip
    with pytest.raises(EdgekitError, match="no space left on `ssh:pi@device` for"):
        measure_there(SSH, artifact, WORKLOAD, on_device="galaxy-s25", runner=script(tmp_path / "r", "exit 0"))
    assert left_there(tmp_path) == []


def test_a_copy_cut_off_is_not_run(shims: Path, artifact: Artifact, tmp_path: Path) -> None:
    script(shims / "ssh", 'case "$*" in *"-O exit"*) exit 0;; esac\nfor last; do :; done\n'
           'case "$last" in "cat > "*) exec sh -c "head -c 3 $(printf %s "$last" | cut -c4-)";; esac\n'
           'exec sh -c "$last"')  # fmt: skip
    with pytest.raises(EdgekitError, match="is not what was sent"):
        measure_there(SSH, artifact, WORKLOAD, on_device="galaxy-s25", runner=script(tmp_path / "r", "exit 0"))


def test_ssh_not_installed(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for where, program in ((SSH, "ssh"), (ADB, "adb")):
        with pytest.raises(EdgekitError, match=f"is not installed: `{program}`"):
            measure_there(where, artifact, WORKLOAD, on_device="galaxy-s25")


@pytest.mark.parametrize(
    "text",
    ["shh:pi", "ssh:", "ssh:-oProxyCommand=touch x", "ssh:a b", "ssh:pi@host;reboot", "adb:", "adb:-s", "adb:a b",
     "ssh:127.0.0.1:1", "ssh:pi@host:2222", "local:x", "", "usb"],
)  # fmt: skip
def test_places_refused(text: str) -> None:
    with pytest.raises(EdgekitError) as caught:
        parse_where(text)
    assert caught.value.code is ExitCode.USAGE
    assert caught.value.hint


def test_places_read() -> None:
    assert parse_where("local") == Where(kind="local")
    assert parse_where("ssh:pi@10.0.0.2") == Where(kind="ssh", address="pi@10.0.0.2")
    assert parse_where("ssh:fe80::1") == Where(kind="ssh", address="fe80::1")
    assert parse_where("adb") == Where(kind="adb")
    assert parse_where("adb:192.168.1.5:5555") == Where(kind="adb", address="192.168.1.5:5555")


def test_flags_that_contradict() -> None:
    assert device_there("ssh:pi", ["raspberry-pi-5"], "", None) == "raspberry-pi-5"
    assert device_there("local", ["a", "b"], "a", None) == "a"
    with pytest.raises(EdgekitError, match="2 are judged"):
        device_there("ssh:pi", ["a", "b"], "", None)
    with pytest.raises(EdgekitError, match="contradict each other: `b`"):
        device_there("ssh:pi", ["a"], "b", None)
    with pytest.raises(EdgekitError, match="for another machine"):
        device_there("local", ["a"], "", Path("llama-bench"))


# ---- adb ----------------------------------------------------------------------------------------------------------

HEAD = "List of devices attached\n"


def test_attached_phones() -> None:
    listing = HEAD + "R5CX\tdevice\nemulator-5554\toffline\nX1\tno permissions (user in plugdev group); see [http]\n\n"
    assert attached(listing) == {"R5CX": "device", "emulator-5554": "offline", "X1": "no permissions"}
    assert choose(listing, "R5CX") == "R5CX"
    assert choose(HEAD + "R5CX\tdevice\n", "") == "R5CX"


@pytest.mark.parametrize(
    ("listing", "serial", "message"),
    [
        (HEAD, "", "no phone is attached"),
        (HEAD + "A\tdevice\nB\tdevice\n", "", "several phones are attached: 2"),
        (HEAD + "A\tdevice\n", "B", "no such phone: `B`"),
        (HEAD + "A\tunauthorized\n", "", "has not allowed this computer: `A`"),
        (HEAD + "A\toffline\n", "", "the phone is offline: `A`"),
        (HEAD + "A\tno permissions (udev)\n", "A", "this user may not talk"),
        (HEAD + "A\trecovery\n", "", "recovery mode"),
        (HEAD + "A\tauthorizing\n", "", "not ready .authorizing."),
    ],
)
def test_phones_refused(listing: str, serial: str, message: str) -> None:
    with pytest.raises(EdgekitError, match=message) as caught:
        choose(listing, serial)
    assert caught.value.hint


def test_a_phone_that_reboots(shims: Path, artifact: Artifact) -> None:
    listed = "case \"$1\" in devices) printf 'List of devices attached\\nSER1\\tdevice\\n'; exit 0;; esac\n"
    script(shims / "adb", listed + "echo \"error: device 'SER1' not found\" >&2; exit 1")
    with pytest.raises(TargetLost, match="`adb:SER1` was lost") as caught:
        measure_there(ADB, artifact, WORKLOAD, on_device="galaxy-s25")
    assert caught.value.code is ExitCode.BROKE


def test_a_phone_that_goes_away_in_silence(shims: Path, artifact: Artifact) -> None:
    """adb 34 ends with code 0 and says nothing when the phone is gone: that is no answer."""
    script(shims / "adb", "case \"$1\" in devices) printf 'List of devices attached\\nSER1\\tdevice\\n';; esac; exit 0")
    with pytest.raises(TargetLost, match="in the middle of a command"):
        measure_there(ADB, artifact, WORKLOAD, on_device="galaxy-s25")


# ---- what is asked of llama-bench ---------------------------------------------------------------------------------


def test_settings_become_flags() -> None:
    usual = command_of("llama-bench", "/m.gguf", WORKLOAD, 4)
    assert usual[:7] == ["llama-bench", "-m", "/m.gguf", "-o", "json", "-r", "4"]
    assert not {"-fa", "-lm", "-ctk", "--repack"} & set(usual), "flags of defaults differ between versions"
    settings = Settings(kv_type="q8_0", flash_attention="on", mmap=False, repack=False, threads=3)
    odd = " ".join(command_of("llama-bench", "/m.gguf", replace(WORKLOAD, settings=settings), 4))
    for part in ("-t 3", "-ctk q8_0 -ctv q8_0", "-fa on", "-lm none", "--repack 0"):
        assert part in odd


def test_deaths_have_hints() -> None:
    assert all(death(code, "", "x").hint for code in (1, 126, 127, 132, 134, 137, 139))


# ---- readiness ----------------------------------------------------------------------------------------------------

# file → content, as two phones and a Pi show them
PHONE = {
    "sys/class/thermal/thermal_zone0/type": "battery", "sys/class/thermal/thermal_zone0/temp": "31000",
    "sys/class/thermal/thermal_zone1/type": "cpu-0-0-usr", "sys/class/thermal/thermal_zone1/temp": "52000",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "2265600",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "2265600",
    "sys/class/power_supply/battery/type": "Battery", "sys/class/power_supply/battery/status": "Discharging",
    "sys/class/power_supply/battery/capacity": "81", "proc/loadavg": "0.30 0.20 0.10 1/900 1234",
    "proc/cpuinfo": "processor\t: 0\n\nprocessor\t: 1\n\nprocessor\t: 2\n\nprocessor\t: 3\n",
}  # fmt: skip


def tree(root: Path, **changed: str) -> Path:
    for name, text in {**PHONE, **{key.replace("__", "/"): value for key, value in changed.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_cool_phone_is_ready(tmp_path: Path) -> None:
    state = judge_readiness(tree(tmp_path))
    assert state.obstacles == ()
    assert state.seen == ("battery 31 °C", "cpu-0-0-usr 52 °C", "1 clocks", "battery 81 % discharging", "load 0.30")


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("sys/class/thermal/thermal_zone0/temp", "47000", "`battery` is at 47 °C"),
        ("sys/class/thermal/thermal_zone0/temp", "47", "`battery` is at 47 °C"),
        ("sys/class/thermal/thermal_zone1/temp", "91000", "`cpu-0-0-usr` is at 91 °C"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq", "1497600", "capped at 66% on cpu0"),
        ("sys/class/power_supply/battery/status", "Charging", "is charging"),
        ("sys/class/power_supply/battery/capacity", "9", "at 9 %, below 20 %"),
        ("proc/loadavg", "3.10 2.0 1.0 4/900 1", "a load of 3.10 on 4 cores"),
    ],
)
def test_obstacles(tmp_path: Path, file: str, text: str, words: str) -> None:
    tree(tmp_path)
    (tmp_path / file).write_text(text)
    (obstacle,) = judge_readiness(tmp_path).obstacles
    assert words in obstacle


def test_nonsense_is_no_obstacle(tmp_path: Path) -> None:
    tree(tmp_path)
    for name, text in (("temp", "-273000"), ("type", "battery")):
        (tmp_path / "sys/class/thermal/thermal_zone0" / name).write_text(text)
    assert judge_readiness(tmp_path).obstacles == ()
    empty = judge_readiness(tmp_path / "empty")
    assert (empty.obstacles, empty.seen) == ((), ())


def test_waiting_ends_when_cool_or_late() -> None:
    now = [0.0]
    hot, cool = Readiness(passing=("hot",)), Readiness()

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def look() -> Readiness:
        return cool if now[0] >= 40 else hot

    assert wait_until_ready(look, limit_s=300, sleep=sleep, clock=lambda: now[0]) == cool
    assert now[0] == 45
    now[0] = 0.0
    assert wait_until_ready(lambda: hot, limit_s=60, sleep=sleep, clock=lambda: now[0]) == hot
    assert now[0] == 60
    now[0] = 0.0
    capped = Readiness(standing=("capped",))
    assert wait_until_ready(lambda: capped, limit_s=60, sleep=sleep, clock=lambda: now[0]) == capped
    assert now[0] == 0, "waiting mends no cap"


# ---- OpenSSH itself -----------------------------------------------------------------------------------------------


@pytest.fixture
def loopback(tmp_path: Path, shims: Path) -> Iterator[Where]:
    """An sshd of our own on a high port, and an `ssh` that knows it under the name `loop`."""
    sshd = os.environ.get("EDGEKIT_SSHD") or shutil.which("sshd", path="/usr/sbin:/usr/bin")
    real, keygen = shutil.which("ssh", path="/usr/bin:/bin"), shutil.which("ssh-keygen")
    if not (sshd and real and keygen):
        pytest.skip("no OpenSSH server here: install openssh-server, or name one in EDGEKIT_SSHD")
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", keys / name], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"ListenAddress": "127.0.0.1", "AuthorizedKeysFile": keys / "user.pub", "StrictModes": "no",
               "UsePAM": "no", "PidFile": "none", "PermitRootLogin": "yes",
               "SetEnv": f"HOME={tmp_path / 'home'}"}  # fmt: skip
    flags = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    log = (tmp_path / "sshd.log").open("wb")
    server = subprocess.Popen([sshd, "-D", "-e", "-f", "/dev/null", "-p", str(port), "-h", keys / "host", *flags],
                              stderr=log)  # fmt: skip
    (keys / "config").write_text(
        f"Host loop\n HostName 127.0.0.1\n Port {port}\n IdentityFile {keys}/user\n IdentitiesOnly yes\n"
        f" StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR\n"
    )
    script(shims / "ssh", f'exec {real} -F {keys}/config "$@"')
    for _ in range(50):
        if "listening" in (tmp_path / "sshd.log").read_text(errors="replace") or server.poll() is not None:
            break
        time.sleep(0.1)
    if server.poll() is not None:
        pytest.skip(f"sshd does not start: {(tmp_path / 'sshd.log').read_text(errors='replace').strip()[-200:]}")
    yield Where(kind="ssh", address="loop")
    server.terminate()
    server.wait(timeout=10)
    log.close()


@pytest.mark.slow
@pytest.mark.reference
def test_a_real_ssh_server(loopback: Where, artifact: Artifact, tmp_path: Path) -> None:
    runner = bench_shim(tmp_path / "far/run 'er", artifact)
    run = measure_there(loopback, artifact, WORKLOAD, on_device="galaxy-s25", runner=runner)
    assert len(run.samples) == 20
    assert len(run.peaks) == 10
    assert "fault" not in findings(run).values()
    assert not list(tmp_path.rglob("pwned"))
    with open_remote(loopback, artifact.sha256[:16]) as remote:
        assert remote.script('[ -e "$1" ]', remote.folder).returncode == 1, "nothing is left there"
        assert remote.run(["printf", "%s|", "a b", "c'd", "$HOME", '"', "*"]).out == "a b|c'd|$HOME|\"|*|"
        assert remote.script("exit 7").returncode == 7


@pytest.mark.reference
def test_a_real_ssh_server_that_refuses_the_key(loopback: Where, artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "keys/user.pub").write_text("")
    with pytest.raises(EdgekitError, match="the device refused the key: `ssh:loop`"):
        measure_there(loopback, artifact, WORKLOAD, on_device="galaxy-s25")


# ---- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--on", "usb"], "not a target for `--on`: `usb`"),
        (["--on", "ssh:pi", "-d", "oneplus-13"], "`--on` measures one device, and 2 are judged"),
        (["--on", "ssh:pi", "--on-device", "oneplus-13"], "contradict each other: `oneplus-13`"),
        (["--runner", "llama-bench"], "`--runner` is for another machine"),
    ],
)
def test_bench_refuses_in_one_line(tiny_gguf: Path, cli: Any, flags: list[str], message: str) -> None:
    done = cli("bench", tiny_gguf, "-d", "galaxy-s25", *flags)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 3


def test_bench_on_a_phone_writes_a_measured_report(
    adb_shim: Path, artifact: Artifact, tmp_path: Path, cli: Any
) -> None:
    runner = bench_shim(tmp_path / "far/runner", artifact)
    done = cli("bench", artifact.path, "-d", "galaxy-s25", "--on", "adb", "--runner", runner, "--json", "-q")
    assert done.returncode == ExitCode.UNKNOWN, done.stderr
    report = json.loads(done.stdout)
    assert report["evidence"]["measurement"]["on_device"] == "galaxy-s25"
    decode = next(c for c in report["verdicts"][0]["checks"] if c["metric"] == "decode_tokens_per_s")
    assert decode["status"] == "unknown", "this machine is no phone, whoever says so"
    assert "its host is" in decode["reason"] or "cores" in decode["reason"]
