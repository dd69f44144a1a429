"""The runners that were built on this machine, and the one for a device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.files import cache_folder, hash_file
from edgekit.records.runner import Runner
from edgekit.storage import load_record
from edgekit.targets.elf import refuse_foreign
from edgekit.targets.variants import VARIANTS, Choice, Variant, check_variant, choose

AUTO = Path("auto")
"""What `--runner auto` names; a file of that name is `$PWD/auto`."""
RECORD = "runner.json"
MAX_RUNNERS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A runner in the cache: its program, and what it is."""

    path: Path
    runner: Runner


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoiled:
    """A folder of the cache that holds no runner any more, and why."""

    path: Path
    reason: str


def runner_folder() -> Path:
    """`$XDG_CACHE_HOME` or the OS's own place, then `edgekit/runners`. Raises EdgekitError where there is no home."""
    return cache_folder("runners")


def read_built(folder: Path) -> Built | Spoiled:
    """The runner in `folder`, its program's hash checked against its record."""
    try:
        record = load_record(folder / RECORD, Runner)
        if record.program != "llama-bench":  # a name, never a path out of the folder
            return Spoiled(path=folder, reason=f"its record names another program: `{record.program[:60]}`")
        sha256 = hash_file(folder / record.program)
    except EdgekitError as error:
        return Spoiled(path=folder, reason=error.message)
    except OSError as error:
        return Spoiled(path=folder, reason=(error.strerror or "unreadable").lower())
    if sha256 != record.sha256:
        return Spoiled(path=folder, reason="the program is not what was built: its hash differs")
    return Built(path=folder / record.program, runner=record)


def list_runners() -> tuple[tuple[Built, ...], tuple[Spoiled, ...]]:
    """Every runner in the cache, the newest of a kind first, and the folders that hold none."""
    folders = sorted(path for path in runner_folder().glob("[!.]*") if path.is_dir())[:MAX_RUNNERS]
    found = [read_built(folder) for folder in folders]
    built = [each for each in found if isinstance(each, Built)]
    built.sort(key=lambda each: each.runner.built_at, reverse=True)
    built.sort(key=lambda each: _place(each.runner))
    return tuple(built), tuple(each for each in found if isinstance(each, Spoiled))


def _place(runner: Runner) -> tuple[int, int]:
    names = [variant.name for variant in VARIANTS[runner.target]]
    return list(VARIANTS).index(runner.target), names.index(runner.variant) if runner.variant in names else -1


def runner_for(choice: Choice, name: str) -> Built:
    """The newest runner of the chosen variant, for the best target that has one. Raises EdgekitError with the command
    that builds it: a slower variant is not taken in silence.
    """
    built, _ = list_runners()
    for target in choice.targets:
        for each in built:
            if (each.runner.target, each.runner.variant) == (target, choice.variant.name):
                return each
    raise EdgekitError(
        f"no runner is built for `{name}`, which takes `{choice.variant.name}` ({choice.reason})",
        hint=f"`edgekit runner build --target {choice.targets[-1]} --variant {choice.variant.name}`",
    )


# ---- the one for a device -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """A program to bring to a device. `features` are ggml's words for its kernels and `words` tell what it is and why;
    both empty for a program that was not built here.
    """

    path: Path
    sha256: str
    features: str = ""
    words: str = ""


def pick(given: Path, *, system: str, machine: str, features: frozenset[str], name: str) -> Picked:
    """The runner for the device `name`: `given`, or with `AUTO` the variant that fits its CPU's features.

    Raises EdgekitError where none fits or is built, and where `given` cannot run there, as far as its header and what
    is known of its build tell.
    """
    if given == AUTO:
        choice = choose(system, machine, features)
        built = runner_for(choice, name)
        static = ", static and so at home on Android, too" if (system == "Android") != _for_android(built) else ""
        return _picked(built, choice.variant, f"as {choice.reason}{static}")
    refuse_foreign(given, machine=machine, system=system, name=name)
    sha256 = file_sha256(given)
    for built in list_runners()[0]:
        if built.runner.sha256 == sha256:
            variant = check_variant(built.runner.target, built.runner.variant)
            _refuse_lacking(variant, features, name)
            return replace(_picked(built, variant, "as `--runner` says"), path=given)
    return Picked(path=given, sha256=sha256)


def _picked(built: Built, variant: Variant, why: str) -> Picked:
    runner = built.runner
    words = f"brought the runner `{runner.target} {runner.variant}` ({runner.source}), {why}"
    return Picked(path=built.path, sha256=runner.sha256, features=variant.features, words=words)


def _for_android(built: Built) -> bool:
    return built.runner.target.startswith("android")


def _refuse_lacking(variant: Variant, features: frozenset[str], name: str) -> None:
    lacking = sorted(variant.needs - features)
    if features and lacking:
        raise EdgekitError(
            f"the runner is `{variant.name}`, and the CPU of `{name}` lacks what it needs: `{', '.join(lacking)}`",
            hint="`--runner auto` takes the variant that fits",
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file. Raises EdgekitError where it cannot be read."""
    try:
        return hash_file(path)
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        raise EdgekitError(f"cannot read what is to run there ({reason}): `{path}`") from None
