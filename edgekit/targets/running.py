"""llama-bench on a device: what is asked of it, how its end is read, and what its processes held.

The device's shell samples `/proc/PID/status` beside it; every process is fresh. A run that breaks leaves what the
processes before it measured, and a finding of level `fault`.
"""

from __future__ import annotations

import re
import signal
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.records import Finding, MemoryPeak, Settings, Workload
from edgekit.targets.foreign import ForeignRun
from edgekit.targets.llama_bench import read_llama_bench_run
from edgekit.targets.once import key_of, run_once
from edgekit.targets.remote import Ran, Remote, TargetLost
from edgekit.targets.watching import NOTHING_SEEN, WATCH, Watched, read_watch

# $1 folder, $2 tenths of a second, then the program and its arguments. A zombie's status has no VmHWM, which ends the
# loop. The time is kept there, in rounds of a tenth and no clock that may jump: nobody here could stop it.
# smaps_rollup walks every page of the process (5 ms for 2 GB here): after a second, and then every ten.
_BESIDE = (
    WATCH
    + """
cd -- "$1" || exit 45; left=$2; late=; round=0; shift 2
"$@" > out.json 2> err.txt & pid=$!
trap 'kill -9 "$pid"; exit 143' TERM
: > memory.txt; look > watch.txt 2>/dev/null
while grep -E '^(VmHWM|RssAnon|VmSwap):' "/proc/$pid/status" >> memory.txt 2>/dev/null; do
  sleep 0.1; left=$((left - 1)); round=$((round + 1))
  if [ $((round % 100)) -eq 10 ]; then grep '^Pss:' "/proc/$pid/smaps_rollup" >> memory.txt 2>/dev/null; fi
  if [ $((round % 10)) -eq 0 ]; then look >> watch.txt 2>/dev/null; fi
  if [ "$left" -le 0 ]; then late=1; kill -9 "$pid"; break; fi
done
wait "$pid" 2>/dev/null; code=$?; [ -z "$late" ] || code=124
read -r up x < /proc/uptime; echo "=up $up" >> watch.txt
echo "=edgekit= code $code"
echo '=edgekit= memory'; sort -u memory.txt
echo '=edgekit= watch'; cat watch.txt
echo '=edgekit= err'; tail -c 4000 err.txt
echo '=edgekit= out'; cat out.json
rm -f out.json err.txt memory.txt watch.txt
"""
)


TARGET_LOST = "target-lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process of llama-bench: its run or the fault that it ended with, and its peak where the OS told it."""

    run: ForeignRun | None
    fault: Finding | None = None
    peak: MemoryPeak | None = None
    watched: Watched = NOTHING_SEEN
    found: bool = False
    """It had run to its end before this connection, and was not run again."""


def command_of(program: str, model: str, workload: Workload, repetitions: int) -> list[str]:
    """llama-bench's arguments for the workload at depth 0; settings that are its defaults are not spelled out, as
    their flags differ between its versions.
    """
    settings = workload.settings
    command = [program, "-m", model, "-o", "json", "-r", str(repetitions)]
    prompts, generated = map(_counts, (workload.prompt_tokens, workload.generated_tokens))
    command += ["-p", prompts, "-n", generated]
    command += ["-b", str(settings.batch_tokens), "-ub", str(settings.ubatch_tokens), "-ngl", "0"]
    if settings.threads:
        command += ["-t", str(settings.threads)]
    if settings.kv_type != "f16":
        command += ["-ctk", settings.kv_type, "-ctv", settings.kv_type]
    return command + _unusual(settings)


def _counts(tokens: tuple[int, ...]) -> str:
    return ",".join(map(str, tokens)) or "0"


def _unusual(settings: Settings) -> list[str]:
    flags = [] if settings.flash_attention == "auto" else ["-fa", settings.flash_attention]
    flags += [] if settings.mmap else ["-lm", "none"]
    return flags + ([] if settings.repack else ["--repack", "0"])


def process_key(command: list[str], index: int, *, sha256: str, timeout_s: float) -> str:
    """What `run_process` of the same arguments is known by there."""
    return key_of(sha256, str(index), _tenths(timeout_s), *command)


def _tenths(seconds: float) -> str:
    return str(max(1, int(seconds * 10)))


def run_process(remote: Remote, command: list[str], index: int, *, sha256: str, timeout_s: float) -> Process:
    """One fresh process there, or the one that ended there when the connection had dropped. A device that goes away is
    a fault of it, not an exception. `sha256` is of the program, where it was brought.
    """
    beside = ["sh", "-c", _BESIDE, "edgekit", remote.folder, _tenths(timeout_s), *command]
    key = process_key(command, index, sha256=sha256, timeout_s=timeout_s)
    try:
        # a round takes longer than its tenth on a busy device: the limit here is only for one that hangs
        once = run_once(remote, key, beside, timeout_s=4 * timeout_s + 60.0)
    except TargetLost as lost:
        return Process(run=None, fault=fault_of(lost))
    return replace(_ended(once.ran, command[0], index), found=once.found)


def fault_of(error: EdgekitError) -> Finding:
    """What went wrong on the device, `TARGET_LOST` where it went away."""
    code = TARGET_LOST if isinstance(error, TargetLost) else "target-failed"
    return Finding(level="fault", code=code, message=error.message, hint=error.hint)


def _ended(ran: Ran, program: str, index: int) -> Process:
    parts = dict(re.findall(_PARTS, ran.out, _LINES))
    code = re.search(r"^=edgekit= code (\d{1,3})$", ran.out, re.MULTILINE)
    if code is None:
        words = f"the device's shell ended early ({ran.said})"
        return Process(run=None, fault=Finding(level="fault", code="target-shell", message=words))
    peak, watched = _peak(parts.get("memory", ""), index), read_watch(parts.get("watch", ""), index)
    if code[1] != "0":
        fault = death(int(code[1]), parts.get("err", ""), program)
        return Process(run=None, fault=fault, peak=peak, watched=watched)
    return replace(_parsed(parts.get("out", ""), peak), watched=watched)


_PARTS = r"^=edgekit= (memory|watch|err|out)$\n(.*?)(?=^=edgekit= (?:watch|err|out)$|\Z)"
_LINES = re.MULTILINE | re.DOTALL


def _parsed(text: str, peak: MemoryPeak | None) -> Process:
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "llama-bench.json"
        path.write_text(text, encoding="utf-8")
        try:
            return Process(run=read_llama_bench_run(path, {}), peak=peak)
        except EdgekitError as error:
            return Process(
                run=None,
                fault=Finding(level="fault", code="target-output", message=error.message, hint=error.hint),
                peak=peak,
            )


def death(code: int, errors: str, program: str) -> Finding:
    """How llama-bench ended there, in the user's words. A shell says 128 + the signal."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    said = f": {lines[-1][:200]}" if lines else ""
    known = {
        128 + signal.SIGILL: (
            "worker-illegal-instruction",
            "the runner uses instructions that this CPU lacks",
            "`--runner auto` takes one by its features: no i8mm on a Raspberry Pi 5, no dotprod on a Pi 4",
        ),
        128 + signal.SIGKILL: (
            "worker-killed",
            "the system killed the runner, most likely for memory",
            "close other programs there, or try a smaller context, ubatch or quant",
        ),
        128 + signal.SIGSEGV: ("worker-segfault", "the runner crashed", "is it built for this system?"),
        128 + signal.SIGABRT: ("worker-aborted", f"the runner aborted{said}", "does its llama.cpp know the model?"),
        124: ("worker-timeout", "the runner did not end in its time", "raise `--timeout` or run less"),
        126: (
            "runner-abi",
            f"the runner cannot be executed there{said}",
            "is it built for the device's CPU and system? `--runner auto` takes one that is",
        ),
        127: (
            "runner-missing",
            f"the runner or its libraries are not there: `{program}`",
            "bring a static one: `edgekit runner build`, then `--runner auto`",
        ),
    }
    fallback = ("runner-exited", f"the runner ended with exit code {code}{said}", "is it an older llama-bench?")
    name, message, hint = known.get(code, fallback)
    return Finding(level="fault", code=name, message=message, hint=hint)


def _peak(text: str, index: int) -> MemoryPeak | None:
    """Peaks of the process as sampled ten times a second; anonymous memory and swap are each at their own highest."""
    found: dict[str, int] = {}
    for name, value in re.findall(r"^(\w+):\s+(\d{1,15}) kB", text, re.MULTILINE):
        found[name] = max(found.get(name, 0), int(value) * 1024)
    if "VmHWM" not in found:
        return None
    swap = found.get("VmSwap", 0)
    return MemoryPeak(
        process=index,
        baseline_bytes=0,
        unevictable_bytes=found["RssAnon"] + swap if "RssAnon" in found else None,
        working_set_bytes=None,
        pss_bytes=found.get("Pss"),
        hwm_bytes=found["VmHWM"],
        swap_bytes=swap,
    )
