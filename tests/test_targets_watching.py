"""What a device tells of itself while a run is at work there, what that says of energy, and runs taken up again.

Trees of /sys stand where the shim of `adb` finds the phone's; the shell that reads them is real.
"""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_targets_devices import phone
from test_targets_importing import row
from test_targets_there import ADB, SSH, WORKLOAD, bench_shim, findings, left_there, loopback, script, shims, ssh_shim

from edgekit.energy import measured_battery
from edgekit.errors import EdgekitError
from edgekit.pipeline import open_artifact
from edgekit.pipeline.elsewhere import in_a_row, measure_there
from edgekit.records import Artifact, Battery, DeviceState, EnergyReading, Gauge, Sample, Unknown
from edgekit.summary import sustained_speed
from edgekit.targets.facts import fetch_facts
from edgekit.targets.once import end_others, key_of, run_once
from edgekit.targets.readiness import judge_readiness
from edgekit.targets.remote import Ran, Remote, TargetLost
from edgekit.targets.repeating import spread
from edgekit.targets.run_lock import run_lock
from edgekit.targets.running import process_key, run_process
from edgekit.targets.state import FAKED
from edgekit.targets.watching import Watched, doubts_of, metered, read_watch
from edgekit.targets.where import Where, open_remote

__all__ = ["loopback", "phone", "shims", "ssh_shim"]


@pytest.fixture
def artifact(tiny_gguf: Path, tmp_path: Path) -> Artifact:
    shutil.copy(tiny_gguf, tmp_path / "student.gguf")
    return open_artifact(tmp_path / "student.gguf")


# ---- what a watch says --------------------------------------------------------------------------------------------

SECONDS, WATTS = 620, 4.0
BATTERY = "/sys/class/power_supply/battery"


def watch(at: Callable[[int], dict[str, str]], seconds: int = SECONDS, end: str = "") -> Watched:
    """A watch of a phone that draws 4 W at 4 V, one look a second."""
    lines = []
    for second in range(seconds):
        files = {f"{BATTERY}/type": "Battery", f"{BATTERY}/status": "Discharging", f"{BATTERY}/capacity": "80",
                 f"{BATTERY}/current_now": "-1000000", f"{BATTERY}/voltage_now": "4000000", **at(second)}  # fmt: skip
        lines += [f"=up {5000 + second}.25", *(f"{path} {text}" for path, text in files.items() if text)]
    return read_watch("\n".join([*lines, end or f"=up {5000 + seconds}.25"]), 0)


def repetitions(seconds: float = 600, each: float = 2.5) -> list[Sample]:
    count = int(seconds / each)
    return [Sample(test="tg128", process=3, repetition=i, tokens=128, elapsed_s=each) for i in range(count)]


def plain(second: int) -> dict[str, str]:
    return {}


def test_a_phones_draw_is_metered_by_itself() -> None:
    found = metered(watch(plain), repetitions(), "sustained")
    assert isinstance(found, EnergyReading)
    assert found.joules / found.elapsed_s == pytest.approx(WATTS)
    assert found.elapsed_s == pytest.approx(600, abs=2)
    assert found.joules / found.tokens == pytest.approx(WATTS * 2.5 / 128, rel=1e-3)
    assert (found.scope, found.counter) == ("device", "battery battery")


def test_what_came_before_the_test_does_not_count() -> None:
    """The model's load and the warm-up draw 16 W here; the test is what ran last."""
    heavy = watch(lambda s: {f"{BATTERY}/current_now": "-4000000"} if s < 15 else {})
    found = metered(heavy, repetitions(), "sustained")
    assert isinstance(found, EnergyReading)
    assert found.joules / found.elapsed_s == pytest.approx(WATTS)


CHARGER = {"/sys/class/power_supply/usb/type": "USB", "/sys/class/power_supply/usb/online": "1"}
DUMPSYS = "=d USB powered: {}\n=d status: {}\n=d level: 80\n=d scale: 100\n=d voltage: 4000\n=d Charge counter: {}"


def android(
    powered: str, status: int, count: Callable[[int], int] = lambda s: 3_000_000
) -> Callable[[int], dict[str, str]]:
    """Every tenth look holds what `dumpsys battery` says; /sys is closed to the shell, as on most phones."""
    hidden = {f"{BATTERY}/{name}": "" for name in ("type", "status", "current_now")}

    def at(second: int) -> dict[str, str]:
        text = DUMPSYS.format(powered, status, count(second))
        return hidden | ({"/sys/class/power_supply/x/type": f"USB\n{text}"} if second % 10 == 0 else {})

    return at


def test_android_alone_gives_it_by_the_count() -> None:
    found = metered(watch(android("false", 3, lambda s: 3_000_000 - s * 1_000_000 // 3600)), repetitions(), "sustained")
    assert isinstance(found, EnergyReading)
    assert found.counter == "dumpsys battery"
    assert found.joules / found.elapsed_s == pytest.approx(WATTS, rel=0.03)
    assert 0 < found.error < 0.1


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (watch(lambda s: CHARGER if s > 400 else {}), "on the charger"),
        (watch(lambda s: {f"{BATTERY}/status": "Charging"}), "`charging`"),
        (watch(android("true", 3)), "on the charger"),
        (watch(android("false", 2)), "`charging`"),
        (watch(lambda s: {"/sys/class/power_supply/x/type": "USB\n=d level: 80\n=d AC powered: true"}), "charger"),
        (watch(lambda s: {f"{BATTERY}/type": ""}), "shows no battery"),
        (watch(lambda s: {f"{BATTERY}/current_now": ""}), "neither power nor current"),
        (watch(plain, end="=up 17.00"), "went backwards"),  # restarted: what was seen before is of another life
        (watch(plain, seconds=300, end="=up 5600.25"), "seen for 299 s of `sustained`'s 600 s"),
        (watch(plain, seconds=300, end=f"=up 5620.25\n{BATTERY}/type Battery"), "says `nothing`"),
        (read_watch("", 0), "tells no time"),
        (read_watch("=up nan\n=up -3\n", 0), "tells no time"),
    ],
)
def test_a_draw_that_nobody_can_know(seen: Watched, words: str) -> None:
    found = metered(seen, repetitions(), "sustained")
    assert isinstance(found, Unknown), found
    assert words in found.reason


def test_short_tests_are_not_metered() -> None:
    found = metered(watch(plain), repetitions(seconds=10), "tg128")
    assert isinstance(found, Unknown)
    assert "was over after 10 s" in found.reason


def test_a_cap_in_the_middle_is_a_doubt_and_heat_is_the_work_itself() -> None:
    cpu = "/sys/devices/system/cpu/cpu4/cpufreq"
    throttled = watch(lambda s: {f"{cpu}/cpuinfo_max_freq": "3000000",
                                 f"{cpu}/scaling_max_freq": "3000000" if s < 300 else f"{1_500_000 + s * 1000}",
                                 "/sys/class/thermal/thermal_zone0/type": "cpu-0",
                                 "/sys/class/thermal/thermal_zone0/temp": "88000"})  # fmt: skip
    assert doubts_of(throttled) == ("during it clocks are capped at 60% on cpu4",)
    assert doubts_of(watch(plain)) == ()
    pretending = replace(throttled.states[0], clocks=(), gauges=(Gauge(name="b", percent=50, status=FAKED),))
    assert "made up" in doubts_of(Watched(states=(pretending,)))[0]


PHONE = {
    "sys/class/power_supply/battery/type": "Battery", "sys/class/power_supply/battery/status": "Discharging",
    "sys/class/power_supply/battery/capacity": "81", "sys/class/power_supply/battery/current_now": "-900000",
    "sys/class/power_supply/battery/voltage_now": "4000000", "sys/class/thermal/thermal_zone7/type": "skin-therm",
    "sys/class/thermal/thermal_zone7/temp": "31000",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1500000",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3000000",
}  # fmt: skip
SAYS = "echo '  USB powered: true'; echo '  status: 2'; echo '  level: 81'; echo '  scale: 100'; echo '  voltage: 4000'"


def test_a_phone_watches_itself_through_its_own_shell(shims: Path, artifact: Artifact, tmp_path: Path) -> None:
    for name, text in PHONE.items():
        (tmp_path / "phone" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "phone" / name).write_text(f"{text}\n")
    script(shims / "dumpsys", SAYS)
    moved = f"s#/data/local/tmp#{tmp_path}/data#g; s#/sys/#{tmp_path}/phone/sys/#g"
    back = f"s#{tmp_path}/phone/sys/#/sys/#g"
    script(shims / "adb", f"""
case "$1" in devices) printf 'List of devices attached\\nSER1\\tdevice\\n\\n'; exit 0;; esac
shift 2
case "$1" in
  shell) shift 2; sh -c "$(printf %s "$1" | sed '{moved}')" > {tmp_path}/said; code=$?
    sed '{back}' {tmp_path}/said; exit $code;;
  push) shift 2; to=$(printf %s "$2" | sed '{moved}'); exec cp -- "$1" "$to";;
esac
exit 1""")  # fmt: skip
    runner = bench_shim(tmp_path / "far/runner", artifact, "sleep 2.2")
    run = measure_there(ADB, artifact, replace(WORKLOAD, processes=1), on_device="galaxy-s25", runner=runner)
    assert "fault" not in findings(run).values(), run.findings
    before, *during = run.states
    assert [gauge.name for gauge in before.gauges] == ["battery", "dumpsys battery"]
    assert (before.zones[0].name, before.zones[0].temperature_c) == ("skin-therm", 31)
    assert len(during) >= 2
    assert all(state.gauges[0].current_now == -900000 and state.zones for state in during)
    assert [gauge.plugged for gauge in during[0].gauges] == [False, True], "Android knows of the charger"
    assert any("clocks are capped at 50%" in words for sample in run.samples for words in sample.doubts)
    assert any("charging" in finding.message for finding in run.findings if finding.code == "not-ready")
    assert run.energy == ()
    assert run.energy_unknown


# ---- a sustained run there ----------------------------------------------------------------------------------------


def sustained_shim(path: Path, artifact: Artifact) -> Path:
    """A llama-bench that answers at once: one repetition of either test, or as many of one as it is asked for."""
    model = Path(artifact.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    both = [row(model, (50.0,)), row(model, (400.0,), n_prompt=512, n_gen=0)]
    many = [row(model, (50.0,) * 240)]
    (path.parent / "both").write_text(json.dumps(both))
    (path.parent / "many").write_text(json.dumps(many))
    folder = shlex.quote(str(path.parent))
    answer = f'case "$*" in *"-p 0"*) cat {folder}/many;; *) cat {folder}/both;; esac'
    return script(path, f'echo "$*" >> {folder}/calls\nsleep 0.15\n{answer}')


def test_ten_minutes_on_the_device_by_llama_bench(ssh_shim: Path, artifact: Artifact, tmp_path: Path) -> None:
    runner = sustained_shim(tmp_path / "far/runner", artifact)
    run = measure_there(SSH, artifact, replace(WORKLOAD, sustained_s=600), on_device="galaxy-s25", runner=runner)
    assert "fault" not in findings(run).values()
    calls = (tmp_path / "far/calls").read_text().splitlines()
    assert len(calls) == 11
    assert "-r 236 " in calls[-1], "600 s at 50 tok/s in pieces of 128 tokens, and one more"
    speed = sustained_speed(run)
    assert not isinstance(speed, Unknown), speed
    assert speed.value == pytest.approx(50)
    assert run.energy == ()
    assert "shows no battery" in run.energy_unknown
    assert [peak.process for peak in run.peaks] == list(range(10)), "a sustained process never fills what prefill needs"


def test_hours_follow_from_the_draw_that_was_metered_there(ssh_shim: Path, artifact: Artifact, tmp_path: Path) -> None:
    from edgekit.devices import load_device

    runner = sustained_shim(tmp_path / "far/runner", artifact)
    run = measure_there(SSH, artifact, replace(WORKLOAD, sustained_s=600), on_device="galaxy-s25", runner=runner)
    reading = metered(watch(plain), in_a_row(repetitions()), "sustained")
    assert isinstance(reading, EnergyReading)
    found = measured_battery(load_device("galaxy-s25"), replace(run, energy=(reading,), energy_unknown=""))
    assert isinstance(found, Battery)
    assert not isinstance(found.power_w, Unknown)
    assert (found.power_w.value, found.power_w.basis) == (pytest.approx(WATTS), "measured")
    assert found.power_w.high >= 1.1 * WATTS


# ---- taken up again -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("short", [False, True], ids=["long", "short"])
def test_what_finished_before_the_connection_dropped_is_not_run_again(
    shims: Path, artifact: Artifact, tmp_path: Path, short: bool
) -> None:
    """Nor is it removed where the device can be reached again at once."""
    gone, back = tmp_path / "gone", tmp_path / "back"
    script(shims / "ssh", f'[ -e "{gone}" ] && [ ! -e "{back}" ] && {{ echo "Connection closed" >&2; exit 255; }}\n'
           'case "$*" in *"-O exit"*) exit 0;; esac\nfor last; do :; done\nsh -c "$last"; code=$?\n'
           f'[ -e "{gone}" ] && [ ! -e "{back}" ] && {{ {"" if not short else f"touch {back};"} exit 255; }}\n'
           'exit $code')  # fmt: skip
    count = tmp_path / "count"
    runner = bench_shim(
        tmp_path / "far/runner", artifact, f'echo x >> "{count}"; [ $(wc -l < "{count}") = 2 ] && touch "{gone}"'
    )
    workload = replace(WORKLOAD, repetitions_min=3)
    lost = measure_there(SSH, artifact, workload, on_device="galaxy-s25", runner=runner)
    assert {sample.process for sample in lost.samples} == {0}
    assert findings(lost) | {"target-lost": "fault", "left-behind": "warning"} == findings(lost)
    names = {path.name for path in left_there(tmp_path)}
    assert f"edgekit-{artifact.sha256[:16]}" in names
    assert len(names) <= 2, "beside it at most the sign of life, which may not be written yet on a busy machine"
    back.touch()
    run = measure_there(SSH, artifact, workload, on_device="galaxy-s25", runner=runner)
    assert count.read_text().count("x") == 3, "one of three was missing"
    assert {sample.process for sample in run.samples} == {0, 1, 2}
    told = [finding.message for finding in run.findings if finding.code == "resumed"]
    assert [words.split(" had run")[0] for words in told] == ["process 0", "process 1"]
    assert "fault" not in findings(run).values()
    assert left_there(tmp_path) == []


@pytest.fixture
def near(ssh_shim: Path) -> Remote:
    with open_remote(SSH, "label") as remote:
        remote.script('mkdir -p "$1"', remote.folder)
        return remote


def test_a_command_still_at_it_is_waited_for(near: Remote, tmp_path: Path) -> None:
    """The connection drops, the command goes on, and who asks again gets its answer."""
    command = ["sh", "-c", f"echo begun >> {tmp_path}/log; sleep 1.5; echo 'the \"answer\"'; exit 7"]
    with pytest.raises(TargetLost):
        run_once(near, key_of("a"), command, timeout_s=0.5)
    once = run_once(near, key_of("a"), command, timeout_s=20)
    assert (once.found, once.ran.returncode, once.ran.out) == (True, 7, 'the "answer"\n')
    assert (tmp_path / "log").read_text() == "begun\n"


@pytest.mark.reference
@pytest.mark.parametrize("behind", ["loopback", "phone"])
def test_a_real_connection_that_drops_ends_nothing_there(behind: str, request: pytest.FixtureRequest) -> None:
    """OpenSSH's server and Android's adbd, which hang up on what they have started."""
    where = request.getfixturevalue(behind)
    where = where if isinstance(where, Where) else ADB
    command = ["sh", "-c", 'echo begun >> log; sleep 4; echo "over $(wc -l < log)"; exit 7']
    with open_remote(where, "once") as remote:
        remote.script('rm -rf "$1"; mkdir -p "$1"', remote.folder)
        with pytest.raises(TargetLost):
            run_once(remote, key_of("a"), command, timeout_s=2)
    with open_remote(where, "once") as remote:
        once = run_once(remote, key_of("a"), command, timeout_s=30)
        remote.script('rm -rf -- "$1"', remote.folder)
    assert (once.found, once.ran.returncode, once.ran.out.split()) == (True, 7, ["over", "1"])


def is_over(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc to see processes in")
@pytest.mark.parametrize("beside", [False, True], ids=["edgekit", "llama-bench"])
def test_what_was_given_up_does_not_go_on_there(near: Remote, tmp_path: Path, beside: bool) -> None:
    """Ctrl-C here ends ssh and nothing there; our folder goes, and with it what was at work in it."""
    program = script(tmp_path / "far/long", f'echo $$ > "{tmp_path}/pid"; exec sleep 60')
    hasty = replace(near, execute=lambda line, stdin, _: near.execute(line, stdin, 1.0))
    if beside:
        process = run_process(hasty, [str(program)], 0, sha256="", timeout_s=60)
        assert process.fault is not None
        assert process.fault.code == "target-lost"
    else:
        with pytest.raises(TargetLost):
            run_once(hasty, key_of("g"), [str(program)], timeout_s=60)
    pid = int((tmp_path / "pid").read_text())
    assert not is_over(pid)
    with run_lock(near, silent_s=60) as held:
        assert held.clean_up() == ""
    until = time.monotonic() + 10
    while not is_over(pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert is_over(pid)
    assert left_there(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc to see processes in")
def test_what_a_dead_run_left_at_work_ends_before_another_measures(
    ssh_shim: Path, artifact: Artifact, tmp_path: Path
) -> None:
    """The same command would take it up; one that asks for something else would be measured beside it."""
    pid, both = tmp_path / "pid", tmp_path / "both"
    stays = script(tmp_path / "far/long", f'echo $$ > "{pid}"; exec sleep 60')
    with open_remote(SSH, artifact.sha256[:16]) as remote:
        hasty = replace(remote, execute=lambda line, stdin, _: remote.execute(line, stdin, 1.0))
        remote.script('mkdir -p "$1"', remote.folder)
        assert run_process(hasty, [str(stays)], 0, sha256="", timeout_s=60).fault is not None
        end_others(remote, process_key([str(stays)], 0, sha256="", timeout_s=60))
        assert not is_over(int(pid.read_text()))
        runner = bench_shim(
            tmp_path / "far/runner", artifact, f'grep -q . /proc/$(cat "{pid}")/cmdline && touch "{both}"'
        )
        run = measure_there(SSH, artifact, WORKLOAD, on_device="galaxy-s25", runner=runner)
    assert run.samples
    assert is_over(int(pid.read_text()))
    assert not both.exists()
    assert left_there(tmp_path) == []


def test_one_that_died_with_its_shell_is_run_anew(near: Remote, tmp_path: Path) -> None:
    Path(near.folder, f"{key_of('b')}.pid").write_text("1\n")  # a number that went to somebody else
    begun = time.monotonic()
    once = run_once(near, key_of("b"), ["echo", "x"], timeout_s=20)
    assert (once.found, once.ran.out) == (False, "x\n")
    assert time.monotonic() - begun < 10
    assert run_once(near, key_of("b"), ["echo", "x"], timeout_s=20).found
    assert not run_once(near, key_of("c"), ["echo", "x"], timeout_s=20).found
    assert key_of("a", "b") != key_of("ab")


def test_the_evidence_of_an_edgekit_there_is_taken_up(shims: Path, artifact: Artifact, tmp_path: Path) -> None:
    gone, count = tmp_path / "gone", tmp_path / "count"
    script(shims / "ssh", f'[ -e "{gone}" ] && {{ echo "Connection closed" >&2; exit 255; }}\n'
           'case "$*" in *"-O exit"*) exit 0;; esac\nfor last; do :; done\nsh -c "$last"; code=$?\n'
           f'[ -e "{gone}" ] && exit 255\nexit $code')  # fmt: skip
    script(shims / "edgekit", f'echo x >> "{count}"; [ $(wc -l < "{count}") = 1 ] && touch "{gone}"\n'
           'while [ "$1" != --out ]; do shift; done; mkdir -p "$2"; echo "{" > "$2/evidence.json"')  # fmt: skip
    from edgekit.bench import PRESETS

    with pytest.raises(TargetLost):
        measure_there(SSH, artifact, PRESETS["quick"], on_device="galaxy-s25")
    gone.unlink()
    with pytest.raises(EdgekitError, match="not a valid evidence"):  # it is read, and not made again
        measure_there(SSH, artifact, PRESETS["quick"], on_device="galaxy-s25")
    assert count.read_text() == "x\n"
    assert left_there(tmp_path) == []


# ---- devices that answer nonsense -----------------------------------------------------------------------------------


def answering(out: str, err: str = "") -> Remote:
    ran = Ran(returncode=0, out=out, err=err)
    return Remote(name="ssh:x", folder="/f", execute=lambda *_: ran, push=lambda *_: ran)


def test_files_that_cannot_be_and_numbers_that_are_none(tmp_path: Path) -> None:
    said = {"/proc/stat": "cpu ² 1 2 3 4", "/proc/stat/x": "1", "/proc/stat.later": "cpu 1 2 3 4 5", "/proc//": "x"}
    said["/sys/class/thermal/thermal_zone0/temp"] = "9" * 5000
    listing = "=edgekit= uname\nLinux\n6\naarch64\n" + "".join(f"=edgekit= {k}\n{v}\n" for k, v in said.items())
    assert fetch_facts(answering(listing), tmp_path) == ("Linux", "6", "aarch64")
    assert judge_readiness(tmp_path).obstacles == ()


def test_an_exit_code_that_is_none(shims: Path) -> None:
    found = run_process(answering(f"=edgekit= code {'9' * 5000}\n"), ["x"], 0, sha256="", timeout_s=1)
    assert found.fault is not None
    assert found.fault.code == "target-shell"
    listed = "case \"$1\" in devices) printf 'List of devices attached\\nSER1\\tdevice\\n'; exit 0;; esac\n"
    script(shims / "adb", listed + "printf '\\n=edgekit-end= ²'")
    with open_remote(ADB, "label") as remote, pytest.raises(TargetLost):
        remote.run(["true"])


def test_a_word_of_ssh_hides_no_run_that_was_taken_up() -> None:
    once = run_once(answering("", "Warning: a new key\n=edgekit= found\nits own words\n"), "key", ["x"], timeout_s=1)
    assert (once.found, once.ran.err) == (True, "Warning: a new key\nits own words\n")
    assert not run_once(answering("", "its own words"), "key", ["x"], timeout_s=1).found


# ---- how repetitions are spread -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lasted_s", "status", "repetitions", "words"),
    [
        (15.0, "", (1,) * 9, "each repetition ran in a process of its own"),
        (19.9, "Charging", (1,) * 9, "loading and warming up took 9.9 s beside 10.0 s"),
        (20.2, "", (5, 4), "repetitions shared processes"),
        (15.0, "Discharging", (1,) * 5 + (4,), "but for 4 in the last, long enough for the battery's gauge"),
        (None, "", (5, 4), "the device tells no time"),
        (-3.0, "", (5, 4), "the device tells no time"),
    ],
)
def test_repetitions_have_a_process_each_where_loading_is_short(
    lasted_s: float | None, status: str, repetitions: tuple[int, ...], words: str
) -> None:
    samples = [Sample(test=test, process=0, repetition=0, tokens=1, elapsed_s=5.0) for test in ("pp512", "tg128")]
    watched = Watched(begun_s=100.0, ended_s=None if lasted_s is None else 100.0 + lasted_s)
    before = (
        DeviceState(
            at_s=0.0,
            process=0,
            before="",
            zones=(),
            clocks=(),
            load=None,
            gauges=(Gauge(name="battery", percent=80, status=status),),
        )
        if status
        else None
    )
    workload = replace(WORKLOAD, processes=3, repetitions_min=10)
    found = spread(workload, samples, watched, before)
    assert found.repetitions == repetitions
    assert sum(found.repetitions) == 9, "with the first, as many as were asked for"
    assert words in found.told.message
    assert spread(replace(workload, repetitions_min=1), samples, watched, before).repetitions == ()
