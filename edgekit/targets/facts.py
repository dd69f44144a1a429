"""What a device tells of itself: files of /proc and /sys, brought here as a tree that the house's readers take."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.targets.remote import Remote
from edgekit.targets.state import DUMPSYS

_MARK = "=edgekit="
_PATH = re.compile(rf"/(?:proc|sys)/[A-Za-z0-9_/.:-]{{1,200}}|/{DUMPSYS}")
LOAD_S = 0.25
"""Between two looks at the CPU time: a hundredth of a second a CPU is its finest step."""
MAX_FILES = 2000

# /sys directories are named by the kernel and hold no blanks
_SCRIPT = f"""
echo '{_MARK} uname'; uname -s; uname -r; uname -m; getprop ro.build.version.release 2>/dev/null
for f in /proc/cpuinfo /proc/meminfo /proc/loadavg /proc/stat /proc/uptime /proc/device-tree/model \\
  /sys/hypervisor/type /sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list \\
  /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor \\
  /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq \\
  /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_max_freq \\
  /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq \\
  /sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp \\
  /sys/class/power_supply/*/type /sys/class/power_supply/*/online /sys/class/power_supply/*/status \\
  /sys/class/power_supply/*/capacity /sys/class/power_supply/*/scope /sys/class/power_supply/*/temp \\
  /sys/class/power_supply/*/current_now /sys/class/power_supply/*/voltage_now \\
  /sys/class/power_supply/*/power_now /sys/class/power_supply/*/charge_counter \\
  /sys/class/power_supply/*/charge_now /sys/class/power_supply/*/energy_now
do
  if [ -r "$f" ]; then echo "{_MARK} $f"; cat "$f" 2>/dev/null; echo; fi
done
if command -v dumpsys > /dev/null 2>&1; then echo '{_MARK} /{DUMPSYS}'; dumpsys battery 2>/dev/null; fi
if [ -n "$1" ]; then
  echo '{_MARK} /proc/stat'; cat /proc/stat; sleep "$1"; echo '{_MARK} /proc/stat.later'; cat /proc/stat
fi
exit 0
"""


def fetch_facts(remote: Remote, root: Path, *, load: bool = False) -> tuple[str, str, str]:
    """Write the device's files under `root`, as paths there; returns system, release and machine as `uname` says. With
    `load` its CPU time is looked at twice, for what others use of it while nothing of ours runs.

    Android calls itself `Android` here, as profiles do. Raises EdgekitError where the answer is no such listing.
    """
    ran = remote.script(_SCRIPT, str(LOAD_S) if load else "", timeout_s=60.0)
    parts = re.split(rf"^{_MARK} (.*)$", ran.out, flags=re.MULTILINE)
    named = dict(zip(parts[1:][::2], parts[2:][::2], strict=False))
    words = named.pop("uname", "").split("\n")
    known = [word.strip() for word in words if word.strip()]
    if len(known) < 3:
        raise EdgekitError(f"the device does not say what it is ({ran.said}): `{remote.name}`")
    for path, text in list(named.items())[:MAX_FILES]:
        if _PATH.fullmatch(path) and ".." not in path:
            target = root / path.lstrip("/")
            with suppress(FileExistsError, IsADirectoryError, NotADirectoryError):  # it is a folder of another answer
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text.strip() + "\n", encoding="utf-8")
    return ("Android" if len(known) > 3 else known[0]), known[1], known[2].lower()
