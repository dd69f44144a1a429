"""A command there that runs once: one that was at work when the connection dropped is waited for, one that has ended is
read again and not run again. What it leaves lies in our folder there, which goes when the run is over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.targets.remote import Ran, Remote

_FOUND = "=edgekit= found"

# $1 folder, $2 key, then the command. A shell that is still at it has the key in its command line; a process number
# may have gone to somebody else since. Once our folder is removed, nobody waits for what is at work in it.
_ONCE = f"""
cd -- "$1" || exit 45; key=$2; shift 2
trap '' HUP PIPE
at_it() {{ read -r was < "$key.pid" && [ "$was" != $$ ] && grep -q "$key" "/proc/$was/cmdline"; }}
while [ ! -e "$key.code" ] && at_it 2>/dev/null; do sleep 1; done
if [ -e "$key.code" ]; then echo '{_FOUND}' >&2
else
  echo $$ > "$key.pid"
  "$@" > "$key.out" 2> "$key.err" < /dev/null & job=$!
  (while [ -e "$key.pid" ]; do sleep 1; done; kill "$job") < /dev/null > /dev/null 2>&1 & guard=$!
  wait "$job"; echo $? > "$key.part"; mv "$key.part" "$key.code"; kill "$guard" 2>/dev/null
fi
cat "$key.out"; tail -c 4000 "$key.err" >&2; read -r code < "$key.code"; exit "$code"
"""

# $1 folder, $2 key. What is at work under another key ends when its guard misses the file.
_END_OTHERS = """
cd -- "$1" || exit 45
for file in run-*.pid; do
  one=${file%.pid}
  [ -e "$file" ] && [ "$one" != "$2" ] && [ ! -e "$one.code" ] || continue
  read -r was < "$file"; rm -f -- "$file"; tries=30
  while [ "$tries" -gt 0 ] && grep -q "$one" "/proc/$was/cmdline"; do sleep 1; tries=$((tries - 1)); done
  rm -f -- "$one".*
done 2>/dev/null
exit 0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """How the command ended, and whether that was before this connection."""

    ran: Ran
    found: bool


def key_of(*parts: str) -> str:
    """The same for the same command on the same files, and for nothing else."""
    return "run-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def end_others(remote: Remote, key: str) -> None:
    """End what runs that are dead left at work in our folder there, but for what `run_once` would take up by `key`: it
    would disturb what is measured next. Raises TargetLost.
    """
    remote.script(_END_OTHERS, remote.folder, key)


def run_once(remote: Remote, key: str, command: Sequence[str], *, timeout_s: float) -> Once:
    """Run `command` in our folder there, unless it has run under `key`. Raises TargetLost where the device is gone; the
    command goes on there, and the next call takes it up.
    """
    ran = remote.script(_ONCE, remote.folder, key, *command, timeout_s=timeout_s)
    before, found, after = ran.err.partition(f"{_FOUND}\n")  # ssh may have had its own word first
    return Once(ran=replace(ran, err=before + after), found=bool(found))
