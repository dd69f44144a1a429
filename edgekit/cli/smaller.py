"""The smaller verbs: audit, standin, doctor, schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.options import JsonOption, QuietOption
from edgekit.errors import ExitCode


def audit(
    claims: Annotated[list[Path], typer.Argument(help="TOML files of claims.")],
    json: JsonOption = False,
) -> int:
    """Say for each claimed speed, memory and battery life whether physics allows it, with the arithmetic."""
    from edgekit.claims import audit as audit_claims
    from edgekit.cli import verbs

    return verbs.show_audit([result for path in claims for result in audit_claims(path)], as_json=json)


def standin(
    shape: Annotated[str, typer.Argument(help="nano-0.6b, nano-1.5b, mini-3b, mini-4b, base-7b, tiny or a .toml.")],
    type: Annotated[str, typer.Option("--type", help="q4_0, q4_k_m, q5_k_m, q6_k, q8_0 or f16.")] = "q4_0",  # noqa: A002
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    quiet: QuietOption = False,
) -> int:
    """Write a stand-in: a model of SHAPE with random weights, of true size, memory and speed and no quality."""
    from edgekit.cli import verbs

    return verbs.write_stand_in(shape, type, out, force=force, quiet=quiet)


def doctor(json: JsonOption = False, quiet: QuietOption = False) -> int:
    """Try every counter, limit and fence that a run would use; say what is lost without one, and how to have it."""
    from edgekit.cli import verbs

    return verbs.examine(as_json=json, quiet=quiet)


def schema() -> int:
    """Print the JSON Schema of the report."""
    import json as json_module

    from edgekit.storage import report_schema

    typer.echo(json_module.dumps(report_schema(), indent=2))
    return ExitCode.PASS
