"""The verb for pull requests: compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.options import ContextOption, JsonOption, KvOption, QuietOption, ThreadsOption, UbatchOption
from edgekit.errors import EdgekitError


def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="Model file, or the evidence.json of its run.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The same of the build that is judged.")],
    max_regress: Annotated[
        str, typer.Option("--max-regress", help="What may get worse, e.g. decode=3%,memory=1%.")
    ] = "decode=3%,memory=1%",
    context: ContextOption = None,
    ubatch: UbatchOption = None,
    kv_type: KvOption = None,
    threads: ThreadsOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the record here, as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Also write Markdown here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace outputs that exist.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Say whether NEW is worse than BASE: both run here in turn, until every limit is settled or 40 pairs are done.

    Metrics: decode, prefill, memory, load, size. Exit code 1 where a limit is broken, 3 where the machine was too
    noisy to tell. Recorded runs are compared as far as that can be done, and refused where they were not alike.
    """
    from edgekit.cli import reading, reading_comparing
    from edgekit.cli.reading_making import free
    from edgekit.cli.showing_making import show_comparison
    from edgekit.cli.telling import progress
    from edgekit.pipeline import comparing

    limits = reading_comparing.limits(max_regress)
    if out is not None and markdown is not None and out.absolute() == markdown.absolute():
        raise EdgekitError(f"two outputs are the same file: `{out.name}`", hint="give each a name of its own")
    for path in (out, markdown):
        free(path, force=force, inputs=(base, new))
    recorded = reading_comparing.recorded(base, new)
    settings = reading.overrides(context, None, ubatch, kv_type, None, None, None, threads, None)
    with progress(quiet=quiet) as told:
        if recorded is not None:
            found = comparing.compare_recorded(*recorded, limits)
        else:
            found = comparing.compare(base, new, limits, settings=reading_comparing.settings(settings), progress=told)
    show_comparison(found, out, markdown, as_json=json)
    return comparing.EXIT_CODES[found.status]
