"""The verb for llama-bench on machines without Python: runner build and runner list."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli.options import JsonOption, QuietOption
from edgekit.errors import ExitCode

if TYPE_CHECKING:
    from edgekit.pipeline.runners import Built

runner_app = typer.Typer(
    help="Build a llama-bench for a device without Python.", rich_markup_mode=None, add_completion=False
)


@runner_app.command("build", short_help="Cross-compile a static llama-bench, once.")
def runner_build(
    target: Annotated[str, typer.Option("--target", help="linux-arm64, android-arm64 or linux-x86_64.")],
    variant: Annotated[
        str,
        typer.Option("--variant", help="baseline, dotprod, i8mm; on x86: baseline, avx2, avx512.  [default: all]"),
    ] = "",
    source: Annotated[
        Path | None,
        typer.Option("--source", help="An sdist of llama-cpp-python or llama.cpp's source.  [default: by pip]"),
    ] = None,
    ndk: Annotated[Path | None, typer.Option("--ndk", help="Android's NDK.  [default: $ANDROID_NDK_HOME]")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=0, help="Compilers at once; 0: one a core.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Build again what is there.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Cross-compile a static llama-bench for a device, once; `bench --on … --runner auto` then brings it there.

    It lies in `~/.cache/edgekit/runners`, its hash beside it. A variant asks for no more than its CPU features:
    Raspberry Pi 4 takes `baseline`, Raspberry Pi 5 `dotprod`, flagship phones since 2022 `i8mm`.
    """
    from edgekit.cli.telling import progress
    from edgekit.pipeline.runners import build

    with progress(quiet=quiet) as told:
        found = build(target, variant, source=source, ndk=ndk, jobs=jobs, force=force, progress=told)
    for built, new in found:
        _tell(built, "" if new else " (was there)", as_json=json)
    return ExitCode.PASS


@runner_app.command("list")
def runner_list(json: JsonOption = False) -> int:
    """List the runners that were built here, each with its hash checked."""
    from rich.console import Console

    from edgekit.pipeline.runners import list_runners

    built, spoiled = list_runners()
    for each in built:
        _tell(each, "", as_json=json)
    err = Console(stderr=True)
    for left in spoiled:
        err.print(f"warning: no runner any more ({left.reason}): `{left.path}`", markup=False, highlight=False)
    if not built and not json:
        err.print("no runner is built: `edgekit runner build --help`", markup=False, highlight=False)
    return ExitCode.PASS


def _tell(built: Built, more: str, *, as_json: bool) -> None:
    from edgekit.storage import to_json
    from edgekit.units import format_bytes

    runner = built.runner
    if as_json:
        print(to_json(runner, indent=None))  # noqa: T201
        return
    print(f"{runner.target} {runner.variant}: {built.path}{more}")  # noqa: T201
    size = format_bytes(runner.size_bytes)
    print(f"  {size}, {runner.source}, {runner.compiler}, sha256 {runner.sha256}")  # noqa: T201
