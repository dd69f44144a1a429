"""edgekit itself on the far side: the same loop, memory and energy readers there, and its evidence brought back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

from edgekit.bench import PRESETS
from edgekit.devices import load_device, profile_folder
from edgekit.errors import EdgekitError, ExitCode
from edgekit.records import Artifact, Evidence, Finding, Measurement, Settings, Workload
from edgekit.storage import from_json
from edgekit.targets.once import key_of, run_once
from edgekit.targets.remote import Ran, Remote, place

RUN_S = 4 * 3600.0

_FIND = 'command -v edgekit || { [ -x "$HOME/.local/bin/edgekit" ] && echo "$HOME/.local/bin/edgekit"; }'

_AFRESH = ["sh", "-c", 'rm -rf -- "$1"; shift; exec "$@"', "edgekit"]
"""What an earlier run left, and this is not to find."""

_FLAGS = {
    "context_tokens": "--context",
    "batch_tokens": "--batch",
    "ubatch_tokens": "--ubatch",
    "kv_type": "--kv-type",
    "flash_attention": "--flash-attention",
    "output_rows": "--output-rows",
}


def edgekit_there(remote: Remote) -> str:
    """The path of edgekit on the device, empty where it is not installed."""
    found = remote.script(_FIND).out.strip()
    return found if found.startswith("/") and "\n" not in found else ""


def bench_there(
    remote: Remote,
    program: str,
    artifact: Artifact,
    workload: Workload,
    on_device: str,
    sha256: str,
    begins: Callable[[str], None],
) -> Measurement:
    """`edgekit bench` there with the judged settings; its measurement, checked to be of this file and this workload.

    `sha256` is that of the profile's file; `begins` is called when all is there, with the key that the run is known by
    (`targets.once`). Raises EdgekitError in the words of the edgekit there where it refuses, and
    where what comes back is of something else.
    """
    device = load_device(on_device)
    model = place(remote, Path(artifact.path), "model.gguf", artifact.sha256)
    profile = place(remote, profile_file(on_device), f"{device.name}.toml", sha256)
    out = f"{remote.folder}/out"
    command = [program, "bench", model, "--device", profile, "--on-device", profile, "--out", out, "--quiet"]
    kept = f"XDG_CACHE_HOME={remote.folder}/cache"  # what it would note for its next run goes with our folder
    whole = ["env", kept, *command, *flags_of(workload)]
    key = key_of(artifact.sha256, sha256, *whole)
    begins(key)
    once = run_once(remote, key, [*_AFRESH, out, *whole], timeout_s=RUN_S)
    evidence = remote.script('cat -- "$1"', f"{out}/evidence.json")
    if evidence.returncode:
        raise _refused(once.ran, remote.name)
    measurement = from_json(evidence.out, Evidence, origin=f"{remote.name} evidence.json").measurement
    if measurement is None or measurement.artifact_sha256 != artifact.sha256:
        raise EdgekitError(f"what came back from `{remote.name}` is evidence of another artifact", code=ExitCode.BROKE)
    if measurement.on_device != device.name or measurement.workload.settings != workload.settings:
        raise EdgekitError(
            f"what came back from `{remote.name}` was run for another device or with other settings",
            hint="is the edgekit there of this version?",
            code=ExitCode.BROKE,
        )
    if not once.found:
        return measurement
    words = (
        f"it had run to its end when the connection was lost (begun {measurement.started_at}), and was not run again"
    )
    return replace(measurement, findings=(*measurement.findings, Finding(level="note", code="resumed", message=words)))


def profile_file(name: str) -> Path:
    """The file of a profile that was named, or given as a path."""
    packaged = profile_folder() / f"{name}.toml"
    return packaged if packaged.exists() else Path(name)


def flags_of(workload: Workload) -> list[str]:
    """The flags of `bench` that ask for `workload`. Raises EdgekitError for one that none of its presets is."""
    asked = [name for name, preset in PRESETS.items() if _same_tests(preset, workload)]
    if not asked:
        raise EdgekitError(
            "only bench's own presets run on another machine", hint="`--quick`, `--thorough`, or neither"
        )
    settings = workload.settings
    flags = [] if asked[0] == "default" else [f"--{asked[0]}"]
    flags += ["--timeout", f"{workload.timeout_s:.0f}s"]
    if workload.repetitions_max >= 10:
        flags += ["--max-repetitions", str(workload.repetitions_max)]
    if workload.sustained_s:
        flags += ["--sustained", f"{workload.sustained_s:.0f}s"]
    return flags + _settings_flags(settings)


def _settings_flags(settings: Settings) -> list[str]:
    flags = [part for name, flag in _FLAGS.items() for part in (flag, str(getattr(settings, name)))]
    flags += ["--mmap" if settings.mmap else "--no-mmap", "--repack" if settings.repack else "--no-repack"]
    return flags + (["--threads", str(settings.threads)] if settings.threads else [])


_FREE = ("settings", "timeout_s", "repetitions_max", "sustained_s")


def _same_tests(preset: Workload, workload: Workload) -> bool:
    names = [field.name for field in fields(Workload) if field.name not in _FREE]
    return all(getattr(preset, name) == getattr(workload, name) for name in names)


def _refused(ran: Ran, name: str) -> EdgekitError:
    """What the edgekit there said: its own `error:` line, or the end of what it wrote."""
    lines = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    said = lines[-1].removeprefix("error: ")[:300] if lines else ran.said
    code = ExitCode.USAGE if ran.returncode == ExitCode.USAGE else ExitCode.BROKE
    return EdgekitError(
        f"edgekit on `{name}` says: {said}", hint="is it of this version? `edgekit --version`", code=code
    )
