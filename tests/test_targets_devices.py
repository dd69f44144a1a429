"""Real far sides: arm64 programs under qemu, the native runner behind an sshd, and a phone of Debian's adbd.

They need what a machine may lack, and say so: `edgekit runner build`, qemu-user, an sshd, adb with adbd.
"""

# ruff: noqa: F811 - fixtures of another file

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from peer_tools import peer
from phone import PORT
from test_energy_gauge import PIXEL as BATTERY
from test_targets_runners import DEVICES, cpuinfo
from test_targets_there import (  # noqa: F401 - fixtures
    PHONE,
    REPETITIONS,
    SSH,
    WORKLOAD,
    answer_of,
    artifact,
    findings,
    loopback,
    script,
    shims,
    ssh_shim,
)

from edgekit.errors import EdgekitError
from edgekit.pipeline.elsewhere import measure_there
from edgekit.records import Artifact, RunnerTarget, Settings, Workload
from edgekit.targets.runners import AUTO, list_runners, runner_folder
from edgekit.targets.running import command_of, run_process
from edgekit.targets.variants import choose, features_of
from edgekit.targets.where import Where, open_remote

pytestmark = [pytest.mark.reference, pytest.mark.slow]

REAL_CACHE = runner_folder()
"""Where the user's runners are, before a test gives itself another home."""

SMALL = Workload(settings=Settings(threads=1), processes=1, repetitions_min=2, prompt_tokens=(16,),
                 generated_tokens=(4,), timeout_s=120)  # fmt: skip


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Callable[[RunnerTarget, str], Path]:
    """The runner that the user built, by target and variant; skips without it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(REAL_CACHE.parent.parent))

    def find(target: RunnerTarget, variant: str) -> Path:
        for each in list_runners()[0]:
            if (each.runner.target, each.runner.variant) == (target, variant):
                return each.path
        pytest.skip(f"not built here: `edgekit runner build --target {target} --variant {variant}`")

    return find


# ---- arm64 programs -----------------------------------------------------------------------------------------------

_QEMU = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")


@pytest.fixture
def qemu() -> str:
    if _QEMU is None:
        pytest.skip("no `qemu-aarch64` here: apt-get install qemu-user")
    return _QEMU


@pytest.mark.parametrize(
    ("variant", "cpu", "code"),
    [
        ("baseline", "cortex-a72", None),  # Raspberry Pi 4
        ("dotprod", "cortex-a76", None),  # Raspberry Pi 5
        ("i8mm", "max", None),
        ("dotprod", "cortex-a72", "worker-illegal-instruction"),
        ("i8mm", "cortex-a76", "worker-illegal-instruction"),
    ],
)
def test_a_variant_runs_where_its_features_are(
    ssh_shim: Path,
    artifact: Artifact,
    built: Callable[[RunnerTarget, str], Path],
    qemu: str,
    variant: str,
    cpu: str,
    code: str | None,
) -> None:
    program = built("linux-arm64", variant)
    with open_remote(SSH, "qemu") as remote:
        remote.script('mkdir -p -- "$1"', remote.folder)
        command = command_of(str(program), artifact.path, SMALL, 2)
        done = run_process(remote, [qemu, "-cpu", cpu, *command], 0, sha256="", timeout_s=120)
    if code is not None:
        assert done.fault is not None
        assert (done.fault.code, done.run) == (code, None)
        return
    assert done.fault is None, done.fault
    assert done.run is not None
    assert done.run.version.startswith("llama-cpp-python-"), "git was not asked for a commit"
    assert [sample.test for sample in done.run.samples] == ["pp16", "pp16", "tg4", "tg4"]


# ---- the native runner behind an sshd -----------------------------------------------------------------------------


@pytest.fixture(params=["auto", "given"])
def native(request: pytest.FixtureRequest, tmp_path: Path, built: Callable[[RunnerTarget, str], Path]) -> Path:
    """This machine's own llama-bench: the one that `runner build` made for its CPU, and llama.cpp's usual build."""
    if request.param == "auto":
        features = features_of(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        chosen = choose("Linux", {"aarch64": "arm64"}.get(os.uname().machine, os.uname().machine), features)
        built(chosen.targets[0], chosen.variant.name)
        return AUTO
    tool = peer("LLAMA_BENCH")
    # as edgekit's own worker, it is not to use AMX where this build's kernels for it are broken
    start = (
        "import os, sys; from edgekit.runtimes import sandbox; sandbox.deny_amx(); os.execv(sys.argv[1], sys.argv[1:])"
    )
    libraries = f"LD_LIBRARY_PATH={shlex.quote(str(tool.parent.parent / 'lib'))}"
    words = [sys.executable, "-c", start, str(tool)]
    return script(tmp_path / "far/native", f'exec env {libraries} {shlex.join(words)} "$@"')


def test_the_native_runner_behind_a_real_ssh_server(loopback: Where, artifact: Artifact, native: Path) -> None:
    work = replace(SMALL, processes=2, generated_tokens=(64,))
    run = measure_there(loopback, artifact, work, on_device="galaxy-s25", runner=native)
    assert "fault" not in findings(run).values(), run.findings
    assert [(sample.test, sample.process) for sample in run.samples] == [
        ("pp16", 0), ("tg64", 0), ("pp16", 1), ("tg64", 1),
    ]  # fmt: skip
    assert run.runtime is not None
    assert run.runtime.version
    assert findings(run).get("runner") == ("note" if native == AUTO else None)
    assert len(run.peaks) == 2
    size = Path(artifact.path).stat().st_size
    for peak in run.peaks:
        assert peak.hwm_bytes is not None
        assert size < peak.hwm_bytes < size + 2**30, "of the process, never of the machine"


# ---- a phone of Debian's adbd -------------------------------------------------------------------------------------

# an app's user sees no battery in /sys, and asks the service
PIXEL = {name: text for name, text in PHONE.items() if name.startswith("sys/") and "power_supply" not in name}


@pytest.fixture
def phone(tmp_path: Path, shims: Path) -> Iterator[Phone]:
    """A Pixel 8 Pro as far as its files tell, behind a real adb; skips where Debian's adbd cannot run."""
    adb = os.environ.get("EDGEKIT_ADB") or shutil.which("adb", path="/usr/bin:/bin")
    adbd = os.environ.get("EDGEKIT_ADBD") or shutil.which("adbd", path="/usr/lib/android-sdk/platform-tools")
    if not (adb and adbd):
        pytest.skip("no adb with adbd here: Debian 13's, or name them in EDGEKIT_ADB and EDGEKIT_ADBD")
    found = Phone(tmp_path, shims, adb, adbd)
    try:
        found.start()
        yield found
    finally:
        found.stop()


class Phone:
    """The processes and the root folder of the phone."""

    def __init__(self, tmp_path: Path, shims: Path, adb: str, adbd: str) -> None:
        self.adb, self.adbd, self.shims = adb, adbd, shims
        self.root = tmp_path / "phone"
        self.log = tmp_path / "adbd.log"
        self.running: list[subprocess.Popen[bytes]] = []
        for name, text in {**PIXEL, "over/cpuinfo": cpuinfo(*[DEVICES["pixel-8-pro"][0]] * 9)}.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)
        (self.root / "data/local/tmp").mkdir(parents=True)
        script(self.root / "phone/getprop", "echo 14")
        self.battery(BATTERY)
        script(self.root / "phone/uname", 'case "$1" in -s) echo Linux;; -r) echo 5.15.110;; -m) echo aarch64;; esac')

    def battery(self, said: str) -> None:
        """What `dumpsys battery` answers there."""
        script(self.root / "phone/dumpsys", f"[ \"$1\" = battery ] && cat <<'END'\n{said}END")

    def start(self) -> None:
        here = [sys.executable, str(Path(__file__).with_name("phone.py")), str(self.root), self.adbd]
        with self.log.open("wb") as log:
            self.running.append(subprocess.Popen(["unshare", "-rmn", *here], stdout=log, stderr=log))
        self._wait_for("adbd started", self.log)
        # not started by the client: adb under a loader of its own cannot start itself
        server, quiet = [*self._beside(0), "nodaemon", "server"], subprocess.DEVNULL
        self.running.append(subprocess.Popen(server, stdout=quiet, stderr=quiet))
        time.sleep(0.2)  # until it has entered the network that it keeps alive
        script(self.shims / "adb", f'exec {shlex.join(self._beside(1))} "$@"')
        connect = [self.shims / "adb", "connect", f"localhost:{PORT}"]
        for _ in range(50):
            done = subprocess.run(connect, capture_output=True, check=False)
            if b"connected to" in done.stdout:
                return
            time.sleep(0.1)
        pytest.skip(f"adb cannot reach adbd: {done.stdout.decode()[-200:]}")

    def _beside(self, process: int) -> list[str]:
        """adb in the network of a process."""
        inside = ["nsenter", "-t", str(self.running[process].pid), "-U", "-n", "--preserve-credentials", "--"]
        return [*inside, self.adb]

    def _wait_for(self, mark: str, file: Path) -> None:
        for _ in range(50):
            if mark in file.read_text(errors="replace"):
                return
            if self.running[0].poll() is not None:
                break
            time.sleep(0.1)
        pytest.skip(f"adbd does not start here: {file.read_text(errors='replace').strip()[-200:]}")

    def stop(self) -> None:
        for process in reversed(self.running):
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(timeout=10)

    def left(self) -> list[str]:
        return [path.name for path in (self.root / "data/local/tmp").iterdir()]


def answering(path: Path, artifact: Artifact, before: str = "") -> Path:
    """A llama-bench for the phone, which sees no folder of ours: its answer is within it."""
    answers = [f"{count}) cat <<'END'\n{json.dumps(answer_of(artifact, count))}\nEND\n;;" for count in (1, 5)]
    choice = "\n".join(answers)
    return script(path, f'{before}\nsleep 0.15\n{REPETITIONS}\ncase "$count" in\n{choice}\nesac')


ADB = Where(kind="adb")


def test_a_run_on_a_phone_through_adbd(phone: Phone, artifact: Artifact, tmp_path: Path) -> None:
    run = measure_there(ADB, artifact, WORKLOAD, on_device="pixel-8", runner=answering(tmp_path / "a runner", artifact))
    assert "fault" not in findings(run).values()
    assert len(run.samples) == 20
    assert (run.host.system, run.host.machine, run.host.logical_cores) == ("Android", "arm64", 9)
    assert run.host.isa == "arm64+dotprod+i8mm+sve"
    assert [bool(peak.hwm_bytes) for peak in run.peaks] == [True] * 6, "its gauge has five repetitions in the last"
    assert phone.left() == []


def test_an_arm64_runner_on_a_phone_through_adbd(
    phone: Phone, artifact: Artifact, tmp_path: Path, built: Callable[[RunnerTarget, str], Path], qemu: str
) -> None:
    shutil.copy(built("linux-arm64", "i8mm"), phone.root / "data/llama-bench")
    wrapper = script(tmp_path / "wrapper", f'exec {qemu} -cpu max /data/llama-bench "$@"')
    run = measure_there(ADB, artifact, SMALL, on_device="pixel-8", runner=wrapper)
    assert "fault" not in findings(run).values()
    assert [sample.test for sample in run.samples] == ["pp16", "tg4"] * 2
    if not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
        alone = measure_there(ADB, artifact, SMALL, on_device="pixel-8", runner=AUTO)
        assert findings(alone)["runner-abi"] == "fault", "this is no arm64 machine, and the shell there says so"
        (told,) = [finding.message for finding in alone.findings if finding.code == "runner"]
        assert "`linux-arm64 i8mm`" in told
    assert phone.left() == []


def test_two_phones_and_a_serial(phone: Phone, artifact: Artifact, tmp_path: Path) -> None:
    subprocess.run([phone.shims / "adb", "connect", f"127.0.0.1:{PORT}"], capture_output=True, check=True)
    runner = answering(tmp_path / "runner", artifact)
    with pytest.raises(EdgekitError, match="several phones are attached: 2"):
        measure_there(ADB, artifact, WORKLOAD, on_device="pixel-8", runner=runner)
    one = Where(kind="adb", address=f"127.0.0.1:{PORT}")
    assert measure_there(one, artifact, WORKLOAD, on_device="pixel-8", runner=runner).samples
    subprocess.run([phone.shims / "adb", "disconnect"], capture_output=True, check=True)
    with pytest.raises(EdgekitError, match="no phone is attached"):
        measure_there(ADB, artifact, WORKLOAD, on_device="pixel-8", runner=runner)


def test_a_phone_on_a_charger_says_so(phone: Phone, artifact: Artifact, tmp_path: Path) -> None:
    runner = answering(tmp_path / "runner", artifact)
    run = measure_there(ADB, artifact, WORKLOAD, on_device="pixel-8", runner=runner)
    assert not [finding for finding in run.findings if finding.level != "note" and "battery" in finding.message]
    gauges = {gauge.name: gauge for state in run.states for gauge in state.gauges}
    assert gauges["dumpsys battery"].percent == 83
    phone.battery(BATTERY.replace("status: 3", "status: 2").replace("AC powered: false", "AC powered: true"))
    run = measure_there(ADB, artifact, WORKLOAD, on_device="pixel-8", runner=runner)
    told = [finding.message for finding in run.findings if finding.code == "not-ready"]
    assert any("is charging" in message for message in told)
    assert run.energy == ()


SECOND = "echo run >> /data/count; [ -e /data/ran ] && { touch /data/second; sleep 4; }; touch /data/ran"
"""Of two processes the second takes its time, and leaves a mark when it begins."""


def in_the_second(phone: Phone, *command: object) -> subprocess.Popen[bytes]:
    """Do something to the phone while its second process runs."""
    waiting = 'while [ ! -e "$0" ]; do sleep 0.1; done; sleep 0.3; exec "$@"'
    return subprocess.Popen(["sh", "-c", waiting, phone.root / "data/second", *map(str, command)])


def test_a_phone_that_goes_away_keeps_what_was_measured(phone: Phone, artifact: Artifact, tmp_path: Path) -> None:
    runner = answering(tmp_path / "runner", artifact, SECOND)
    plug = in_the_second(phone, "kill", "-KILL", phone.running[0].pid)
    run = measure_there(ADB, artifact, WORKLOAD, on_device="pixel-8", runner=runner)
    plug.wait(timeout=20)
    assert {sample.process for sample in run.samples} == {0}
    assert findings(run)["target-lost"] == "fault"
    assert findings(run)["left-behind"] == "warning"
    with pytest.raises(EdgekitError, match="the phone is offline"):
        measure_there(Where(kind="adb", address=f"localhost:{PORT}"), artifact, WORKLOAD, on_device="pixel-8")


def test_a_cable_pulled_and_put_back(phone: Phone, artifact: Artifact, tmp_path: Path) -> None:
    runner = answering(tmp_path / "runner", artifact, SECOND)
    cable = in_the_second(phone, phone.shims / "adb", "disconnect")
    run = measure_there(ADB, artifact, WORKLOAD, on_device="pixel-8", runner=runner)
    cable.wait(timeout=20)
    assert {sample.process for sample in run.samples} == {0}
    assert findings(run)["target-lost"] == "fault"
    subprocess.run([phone.shims / "adb", "connect", f"localhost:{PORT}"], capture_output=True, check=True)
    run = measure_there(ADB, artifact, WORKLOAD, on_device="pixel-8", runner=runner)
    assert len(run.samples) == 20
    assert "fault" not in findings(run).values()
    assert findings(run)["resumed"] == "note"
    assert (phone.root / "data/count").read_text().split() == ["run"] * 6, "nothing was run twice"
    assert phone.left() == []
