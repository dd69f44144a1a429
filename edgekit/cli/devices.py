"""The verb for device profiles and the ones below it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.options import JsonOption
from edgekit.errors import ExitCode

devices_app = typer.Typer(
    help="List, show, check and anchor device profiles.", rich_markup_mode=None, add_completion=False
)


@devices_app.callback(invoke_without_command=True)
def devices(context: typer.Context, json: JsonOption = False) -> int:
    """List the device profiles."""
    if context.invoked_subcommand:
        return ExitCode.PASS
    from edgekit.cli import verbs

    return verbs.list_devices(as_json=json)


@devices_app.command("show")
def devices_show(
    name: Annotated[str, typer.Argument(help="Profile name or path.")],
    json: JsonOption = False,
) -> int:
    """Show a profile with the source of every number."""
    from edgekit.cli import verbs

    return verbs.show_device(name, as_json=json)


@devices_app.command("check")
def devices_check(file: Annotated[Path, typer.Argument(help="Your profile, a .toml.")]) -> int:
    """Check a profile file: keys, units, sources, gates."""
    from edgekit.devices import check_device

    device = check_device(file)
    typer.echo(f"ok: {device.title} ({device.name}), {len(device.anchors)} anchors, {len(device.gates.gates)} gates")
    return ExitCode.PASS


@devices_app.command("anchor", short_help="Turn real runs into anchors of a profile.")
def devices_anchor(
    name: Annotated[str, typer.Argument(help="Profile name or path the runs belong to.")],
    results: Annotated[
        Path, typer.Argument(help="llama-bench output (`-o json` or `-o jsonl`) or `evidence.json` from that device.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Profile to write; default ./NAME.toml.")] = None,
    model: Annotated[Path | None, typer.Option("--model", help="The GGUF that was run: exact bytes per token.")] = None,
) -> int:
    """Turn real runs into anchors, so that the profile projects from your own device: llama-bench's, or those that
    `bench --on`, `bench --on-device` and `import` left.
    """
    from edgekit.cli import verbs

    return verbs.add_anchors(name, results, out, model)
