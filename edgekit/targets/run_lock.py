"""One run at a time in our folder on a device: a folder `lock` there, with its owner's name and last sign of life.

`mkdir` makes it, and a rename of the owner's file passes it on, so that of two who try one succeeds. It is taken from
an owner who is dead for certain: one of this machine whose lock on a file here is free, or one of another machine who
has said nothing for longer than all time limits of a step together. One who was asleep finds that at the next step.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgekit.errors import EdgekitError, ExitCode
from edgekit.files import cache_folder, lock, unwritable
from edgekit.targets.remote import Ran, Remote, TargetLost
from edgekit.units import format_duration

HELD, LOST = 46, 47
MAX_OWNER_CHARACTERS = 1000
MAX_SILENT_S = 30 * 86400.0

_SEEN = """
alive() { up=; read -r up x < /proc/uptime; echo "$up" > lock/seen; } 2>/dev/null
"""

# $1 folder, $2 token, $3 owner. A release that was cut off left its folder under another name. A lock without an owner
# is of somebody between two commands, or of a device that was switched off there: `rmdir` takes only an empty one, and
# who lost it that way finds no place for the name, or another name beside it: once more. So does who came into a folder
# that its owner was just about to remove.
_TAKE = (
    _SEEN
    + f"""
enter() {{ mkdir -p -- "$1" && chmod 700 -- "$1" && cd -- "$1"; }}
take() {{
  mkdir lock && printf '%s\\n' "$3" > "lock/$2.owner" || return 1
  for one in lock/*.owner; do
    [ "$one" = "lock/$2.owner" ] || {{ rm -f "lock/$2.owner"; return 1; }}
  done
  [ -e "$1/lock/$2.owner" ] || {{ rm -f "lock/$2.owner"; rmdir lock; return 1; }}
}}
enter "$@" || exit 45
for left in "$1".????????????????????????; do [ -d "$left" ] && rm -rf -- "$left"; done
tries=9
until take "$@"; do
  for one in lock/*.owner; do
    if [ -e "$one" ]; then
      echo "=owner $one"; head -c {MAX_OWNER_CHARACTERS} "$one"; echo
      seen=; read -r seen < lock/seen; echo "=seen $seen"
      up=; read -r up x < /proc/uptime; echo "=up $up"
      exit {HELD}
    fi
  done
  tries=$((tries - 1)); [ "$tries" -gt 0 ] || exit 45
  rmdir lock || sleep 1
  enter "$@" || exit 45
done 2>/dev/null
alive
"""
)

# $1 folder, $2 the old token, $3 ours, $4 the new owner
_TAKE_OVER = (
    _SEEN
    + f"""
cd -- "$1" && mv "lock/$2.owner" "lock/$3.owner" 2>/dev/null || exit {HELD}
printf '%s\\n' "$4" > "lock/$3.owner"; alive
"""
)

_RENEW = _SEEN + f'cd -- "$1" && [ -e "lock/$2.owner" ] || exit {LOST}\nalive\n'

# What is at work in the folder knows it by being in it; the name that a next run will use is free at once.
_RELEASE = f"""
[ -d "$1" ] || exit 0
[ -e "$1/lock/$2.owner" ] || exit {LOST}
mv -- "$1" "$1.$2" && rm -rf -- "$1.$2"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLock:
    """Our hold on the folder of `remote`."""

    remote: Remote
    token: str
    alive: Path
    """The file here that tells others of this machine that we live."""

    def renew(self) -> None:
        """Give a sign of life. Raises EdgekitError where another run has taken the folder, or nothing can be written
        there, and TargetLost.
        """
        ran = self.remote.script(_RENEW, self.remote.folder, self.token)
        if ran.returncode == LOST:
            raise EdgekitError(
                f"another run has taken the place of this one on `{self.remote.name}`: `{self.remote.folder}`",
                hint="this machine said nothing for long: was it asleep? run the same command when that run has ended",
                code=ExitCode.BROKE,
            )
        if ran.returncode:
            raise EdgekitError(
                f"cannot write on `{self.remote.name}` ({ran.said}): `{self.remote.folder}`",
                hint="free some space there, and run the same command",
                code=ExitCode.BROKE,
            )

    def clean_up(self) -> str:
        """Remove our folder there, and with it what `run_once` has at work; says what was left where that failed."""
        left = f"`{self.remote.folder}` is left on `{self.remote.name}`"
        try:
            ran = self.remote.script(_RELEASE, self.remote.folder, self.token)
        except EdgekitError as error:
            return f"{left}: {error.message}"
        if ran.returncode in (0, LOST):
            self.alive.unlink(missing_ok=True)
        if ran.returncode == LOST:
            return f"{left}: another run has taken it"
        return f"{left}: {ran.said}" if ran.returncode else ""


@contextmanager
def run_lock(remote: Remote, *, silent_s: float) -> Iterator[RunLock]:
    """Our folder there for this run alone; `silent_s` is the longest that it may be at one step. `clean_up` gives it
    back; without it, it is given to whoever comes after this process has ended.

    Raises EdgekitError where another run has the folder, or it cannot be made; and TargetLost.
    """
    token = secrets.token_hex(12)
    with _alive_here(token) as alive:
        held = RunLock(remote=remote, token=token, alive=alive)
        try:
            _take(remote, token, _owner(silent_s))
        except TargetLost:  # who knows how far it came: the file tells the next run of our end
            raise
        except EdgekitError:
            held.clean_up()  # a disk that is full has our name and not who we are: nobody could tell that we have ended
            raise
        yield held


def _take(remote: Remote, token: str, owner: str) -> None:
    ran = remote.script(_TAKE, remote.folder, token, owner)
    if ran.returncode == HELD:
        held = _read_holder(ran)
        if held.token == token:
            raise EdgekitError(f"no space left on `{remote.name}`: `{remote.folder}`", hint="free some space there")
        if not held.dead():
            raise _refusal(remote, held)
        ran = remote.script(_TAKE_OVER, remote.folder, held.token, token, owner)
        if ran.returncode == HELD:
            raise _refusal(remote, held)
        _file_of(held.token).unlink(missing_ok=True)
    if ran.returncode:
        raise EdgekitError(f"cannot make a folder on `{remote.name}` ({ran.said}): `{remote.folder}`")


# ---- the owner ----------------------------------------------------------------------------------------------------


def _owner(silent_s: float) -> str:
    """Who we are, in a line of JSON."""
    begun = datetime.now(UTC).isoformat(timespec="seconds")
    who = {"host": socket.gethostname()[:60], "process": os.getpid(), "begun": begun, "silent_s": round(silent_s)}
    return json.dumps(who)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holder:
    """What the lock says of its owner. `age_s` is how long ago it gave a sign of life, at least; `None` where the
    device tells no time.
    """

    token: str
    words: str
    age_s: float | None
    silent_s: float

    def dead(self) -> bool:
        """For certain."""
        here = _here(self.token)
        if here is not None:
            return not here
        return self.age_s is not None and self.age_s > self.silent_s


def _read_holder(ran: Ran) -> _Holder:
    """From what `_TAKE` printed; the device is believed in no more than words."""
    said = dict(re.findall(r"^=(owner|seen|up) +(\S+)$", ran.out, re.MULTILINE))
    token = re.fullmatch(r"lock/([0-9a-f]{24})\.owner", said.get("owner", ""))
    found: object = None
    for line in ran.out.splitlines():
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                continue
    owner = found if isinstance(found, dict) else {}
    silent = owner.get("silent_s")
    named = (str(owner.get(key, "?"))[:60] for key in ("host", "process", "begun"))
    return _Holder(
        token=token[1] if token else "",
        words="machine `{}`, process {}, begun {}".format(*named),
        age_s=_age_s(said.get("seen", ""), said.get("up", "")),
        silent_s=min(MAX_SILENT_S, max(0.0, silent)) if isinstance(silent, int) else MAX_SILENT_S,
    )


def _age_s(seen: str, up: str) -> float | None:
    """At least so long ago; both are /proc/uptime, which a restart sets back."""
    number = r"\d{1,12}(?:\.\d{1,3})?"
    if not re.fullmatch(number, up):
        return None
    if not re.fullmatch(number, seen) or float(seen) > float(up):
        return float(up) if seen else None
    return float(up) - float(seen)


def _refusal(remote: Remote, held: _Holder) -> EdgekitError:
    age = "" if held.age_s is None else f", last heard of {format_duration(held.age_s)} ago"
    by_hand = f"when it is dead for certain, remove `{remote.folder}/lock` there"
    hint = "wait until it has ended" if _here(held.token) else f"wait until it has ended; {by_hand}"
    return EdgekitError(
        f"another run of this model is at work on `{remote.name}` ({held.words}{age}): `{remote.folder}`", hint=hint
    )


# ---- whether an owner of this machine lives -----------------------------------------------------------------------


def _file_of(token: str) -> Path:
    """Named for this machine, too: some share their users' folders with others."""
    machine = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    return cache_folder("runs") / f"{token}-{machine}.alive"


@contextmanager
def _alive_here(token: str) -> Iterator[Path]:
    """A file here that is locked as long as we live, whatever ends us. It stays, to tell of our end."""
    path = _file_of(token)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _forget_old(path.parent)
        stream = path.open("xb")
    except OSError as error:
        raise unwritable(path, error) from None
    with stream:
        lock(stream)
        yield path


def _forget_old(folder: Path) -> None:
    """Files of those whose silence has told of their end long ago."""
    for path in folder.glob("*.alive"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > MAX_SILENT_S and _free(path):
                path.unlink()


def _here(token: str) -> bool | None:
    """Whether the owner, of this machine, lives; `None` where nothing here tells."""
    free = _free(_file_of(token))
    return None if free is None else not free


def _free(path: Path) -> bool | None:
    """Whether nobody locks the file; `None` where there is none, or no lock can be had."""
    try:
        import fcntl

        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)  # who asks at the same time does not count
            return True
    except ImportError:
        return None
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
