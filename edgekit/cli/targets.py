"""The verb for runs that were made elsewhere: import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.options import GatesOption, JsonOption, QualityOption, QuietOption

import_app = typer.Typer(rich_markup_mode=None, add_completion=False)


@import_app.command("import")
def import_results(
    results: Annotated[Path, typer.Argument(help="`llama-bench -o json`, `-o jsonl`, or PocketPal's JSON.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The GGUF that ran.")],
    device: Annotated[str, typer.Option("--device", "-d", help="Profile of the device that it ran on.")],
    only: Annotated[
        list[str], typer.Option("--only", help="Choose one of several runs by its fields: n_threads=4.")
    ] = [],  # noqa: B006 - typer reads the default, nobody mutates it
    gates: GatesOption = None,
    quality: QualityOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results.")] = None,
    json: JsonOption = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="Also write JUnit XML here.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Also write Markdown here.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write the HTML page here.")] = None,
    quiet: QuietOption = False,
) -> int:
    """Make evidence of a run that llama-bench or PocketPal made on the device, and judge it as `measured`.

    That it ran on that device is your word. To project from such runs instead: `edgekit devices anchor`.
    """
    from edgekit import pipeline
    from edgekit.cli import reading, showing
    from edgekit.cli.places import Places
    from edgekit.cli.telling import progress
    from edgekit.pipeline.importing import import_run

    loaded_gates, judged_quality = reading.gates(gates), reading.quality(quality)
    places = Places.prepare(out, junit=junit, markdown=markdown, html=html)
    with progress(quiet=quiet) as told:
        report = import_run(
            results, model, device, only=only, gates=loaded_gates, quality=judged_quality, progress=told
        )
    showing.show([report], places.write(report, among=1), as_json=json)
    return pipeline.overall([report])
