"""A phone over adb: no root, files under /data/local/tmp."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.targets.remote import Ran, Remote, TargetLost, run_here

FOLDER = "/data/local/tmp"
COPY_S = 4 * 3600.0

_END = "\n=edgekit-end= "
"""What a command line there says last, with its exit code: adb (34 at least) ends with code 0 where the phone goes away
in the middle, and before Android 7 with code 0 always.
"""

_STATES = {
    "unauthorized": ("the phone has not allowed this computer", "unlock it and accept the question about debugging"),
    "offline": ("the phone is offline", "plug it in again, or `adb reconnect`"),
    "no permissions": ("this user may not talk to the phone", "add udev rules for it, or `adb kill-server` and retry"),
    "recovery": ("the phone is in recovery mode", "boot it into Android"),
    "sideload": ("the phone waits for a sideload", "boot it into Android"),
    "bootloader": ("the phone is in its bootloader", "boot it into Android"),
}
_GONE = ("device not found", "device offline", "no devices/emulators", "closed", "device still connecting", "not found")


def attached(listing: str) -> dict[str, str]:
    """Serial → state out of `adb devices`."""
    found = {}
    for line in listing.splitlines():
        serial, _, state = line.strip().partition("\t")
        if serial and state:
            found[serial] = "no permissions" if state.startswith("no permissions") else state.split()[0]
    return found


def choose(listing: str, serial: str) -> str:
    """The serial to talk to. Raises EdgekitError for none, for several without a choice, and for one not ready."""
    found = attached(listing)
    if serial and serial not in found:
        known = ", ".join(f"`{each[:60]}`" for each in list(found)[:8]) or "none"
        raise EdgekitError(f"no such phone: `{serial}`", hint=f"attached: {known}")
    if not found:
        raise EdgekitError("no phone is attached", hint="plug one in with USB debugging on, or `adb connect HOST`")
    if not serial and len(found) > 1:
        named = ", ".join(f"`adb:{each[:60]}`" for each in list(found)[:8])
        raise EdgekitError(f"several phones are attached: {len(found)}", hint=f"name one with `--on`: {named}")
    chosen = serial or next(iter(found))
    if found[chosen] != "device":
        fallback = (f"the phone is not ready ({found[chosen][:40]})", "`adb devices` says when it is")
        words, hint = _STATES.get(found[chosen], fallback)
        raise EdgekitError(f"{words}: `{chosen}`", hint=hint)
    return chosen


def open_adb(serial: str, label: str) -> Remote:
    """The phone `serial`, or the only one attached. Raises EdgekitError where adb is not installed or none is ready."""
    try:
        listing = run_here(["adb", "devices"], timeout_s=30.0)
    except subprocess.TimeoutExpired:
        raise EdgekitError("adb does not answer", hint="`adb kill-server`, then again") from None
    if listing.returncode:
        raise EdgekitError(f"adb cannot list phones ({listing.said})", hint="`adb kill-server`, then again")
    chosen = choose(listing.out, serial)
    name = f"adb:{chosen}"

    def call(arguments: list[str], timeout_s: float) -> Ran:
        try:
            ran = run_here(["adb", "-s", chosen, *arguments], timeout_s=timeout_s)
        except subprocess.TimeoutExpired:
            raise TargetLost(name, f"no answer within {timeout_s:.0f} s") from None
        errors = ran.err.lower()
        own = errors.startswith(("error:", "adb: error: failed to get feature set", "adb: device"))
        if ran.returncode and own and any(mark in errors for mark in _GONE):
            raise TargetLost(name, ran.said)
        return ran

    def execute(line: str, stdin: Path | None, timeout_s: float) -> Ran:
        assert stdin is None, "old adb shells alter what comes in: files are pushed"
        ran = call(["shell", "-T", f"{line}\nprintf '{_END}%d' $?"], timeout_s)
        out, mark, code = ran.out.rpartition(_END)
        if not mark or not re.fullmatch(r"[0-9]{1,3}", code):
            raise TargetLost(name, ran.said if ran.returncode else "it closed in the middle of a command")
        return Ran(returncode=int(code), out=out, err=ran.err)

    def push(local: Path, there: str) -> Ran:
        return call(["push", "--", str(local.absolute()), there], COPY_S)

    return Remote(name=name, folder=f"{FOLDER}/edgekit-{label}", execute=execute, push=push)
