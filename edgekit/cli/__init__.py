"""The command line: parse, call one function of the pipeline, print, return an exit code.

Nothing heavy is imported at the top: `edgekit --help` must answer at once, so each verb imports what it runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from edgekit import __version__
from edgekit.cli import comparing, evaluating, making
from edgekit.cli.options import (
    BatchOption,
    ContextOption,
    DeviceOption,
    FlashOption,
    GatesOption,
    ItemsOption,
    JsonOption,
    KvOption,
    MmapOption,
    NameOption,
    QualityOption,
    QuietOption,
    ReferenceOption,
    RepackOption,
    RowsOption,
    TasksOption,
    TeacherOption,
    ThreadsOption,
    UbatchOption,
)
from edgekit.errors import EdgekitError, ExitCode

app = typer.Typer(
    help="Tells whether a distilled language model may ship to an edge device.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 pass, 1 fail, 2 usage or bad input, 3 unknown, 4 the run broke, 130 interrupted.",
)
devices_app = typer.Typer(help="List, show, check and anchor device profiles.", rich_markup_mode=None)
app.add_typer(devices_app, name="devices")


@app.command(short_help="Measure MODEL here, project it, judge it and report.")
def bench(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL]", help="GGUF file or ONNX folder. Without it: the device's reference student."),
    ] = None,
    device: DeviceOption = [],  # noqa: B006 - typer reads the default, nobody mutates it
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Ten of pp128/tg32: a third of the time, wider.")] = False,
    thorough: Annotated[bool, typer.Option("--thorough", help="More prompt lengths and depths.")] = False,
    sustained: Annotated[str, typer.Option("--sustained", help="Also decode this long, e.g. 10m.")] = "",
    max_repetitions: Annotated[
        int | None, typer.Option("--max-repetitions", min=10, help="Stop adding repetitions here.  [default: 60]")
    ] = None,
    gates: GatesOption = None,
    quality: QualityOption = None,
    reference: ReferenceOption = None,
    teacher: TeacherOption = None,
    tasks: TasksOption = None,
    items: ItemsOption = None,
    name: NameOption = [],  # noqa: B006
    context: ContextOption = None,
    batch: BatchOption = None,
    ubatch: UbatchOption = None,
    kv_type: KvOption = None,
    flash_attention: FlashOption = None,
    mmap: MmapOption = None,
    repack: RepackOption = None,
    threads: ThreadsOption = None,
    output_rows: RowsOption = None,
    on_device: Annotated[
        str, typer.Option("--on-device", help="This machine *is* the device of that name: nothing is projected to it.")
    ] = "",
    timeout: Annotated[str, typer.Option("--timeout", help="Give a worker up after this long.")] = "30m",
    json: JsonOption = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="Also write JUnit XML here.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Also write Markdown here.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write the HTML page here.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and how long.")] = False,
    quiet: QuietOption = False,
) -> int:
    """Measure MODEL here, project it to the devices, judge it and write the release gate report."""
    from functools import partial

    from edgekit import pipeline
    from edgekit.cli import reading, reading_quality, showing
    from edgekit.cli.places import Places
    from edgekit.cli.telling import progress
    from edgekit.pipeline.evaluating import appraise

    overrides = reading.overrides(context, batch, ubatch, kv_type, flash_attention, mmap, repack, threads, output_rows)
    workload = reading.workload(
        quick=quick, thorough=thorough, sustained=sustained, timeout=timeout, max_repetitions=max_repetitions
    )
    loaded_gates, judged_quality = reading.gates(gates), reading.quality(quality)
    asked = reading_quality.for_bench(model, quality, reference, teacher, tasks, items, name)
    pipeline.load_targets(device)
    pipeline.host_device(on_device, device)
    if dry_run:
        intents = pipeline.plan(model, device, workload=workload, overrides=overrides, on_device=on_device)
        return showing.show_plan(intents)
    places = Places.prepare(out, junit=junit, markdown=markdown, html=html)
    reports, written = [], []
    with progress(quiet=quiet) as told:
        for report in pipeline.bench(
            model,
            device,
            workload=workload,
            overrides=overrides,
            gates=loaded_gates,
            on_device=on_device,
            quality=judged_quality,
            appraise=partial(appraise, asked=asked, progress=told) if asked else None,
            progress=told,
        ):
            reports.append(report)
            written += places.write(report, among=len(set(device)))
    showing.show(reports, written, as_json=json)
    return pipeline.overall(reports)


@app.command(short_help="Memory and speed on a device from the header alone.")
def fit(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="GGUF file or ONNX folder; no weights are read.")],
    device: DeviceOption = [],  # noqa: B006
    gates: GatesOption = None,
    context: ContextOption = None,
    batch: BatchOption = None,
    ubatch: UbatchOption = None,
    kv_type: KvOption = None,
    flash_attention: FlashOption = None,
    mmap: MmapOption = None,
    repack: RepackOption = None,
    threads: ThreadsOption = None,
    output_rows: RowsOption = None,
    json: JsonOption = False,
) -> int:
    """Say from the header alone whether MODEL fits the device's memory, and how fast it should run there.

    The exit code answers for memory; projected speed is shown but not judged. `--gates FILE` judges by that file.
    """
    from edgekit import pipeline
    from edgekit.cli import reading
    from edgekit.cli.fit import show_fit

    overrides = reading.overrides(context, batch, ubatch, kv_type, flash_attention, mmap, repack, threads, output_rows)
    answer = pipeline.fit(model, reading.one_device(device), overrides=overrides, gates=reading.gates(gates))
    show_fit(answer, as_json=json)
    return answer.exit_code


@app.command(short_help="Judge recorded evidence again, without the model.")
def gate(
    evidence: Annotated[Path, typer.Argument(help="An `evidence.json` or `report.json` that bench wrote.")],
    device: DeviceOption = [],  # noqa: B006
    gates: GatesOption = None,
    quality: QualityOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the reports into this folder.")] = None,
    json: JsonOption = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="Also write JUnit XML here.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Also write Markdown here.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write the HTML page here.")] = None,
) -> int:
    """Judge recorded evidence again, with other gates or for another device; needs no model."""
    from edgekit import pipeline
    from edgekit.cli import reading, showing
    from edgekit.cli.places import Places

    pipeline.load_targets(device)
    loaded_gates, judged_quality = reading.gates(gates), reading.quality(quality)
    places = Places.prepare(out, junit=junit, markdown=markdown, html=html, wanted=out is not None)
    reports = pipeline.regate(reading.load_evidence(evidence), device, loaded_gates, judged_quality)
    written = [path for report in reports for path in places.write(report, among=len(reports))]
    showing.show(reports, written, as_json=json)
    return pipeline.overall(reports)


making.add_to(app)
evaluating.add_to(app)
comparing.add_to(app)


@app.command(short_help="Check claimed figures against physics.")
def audit(
    claims: Annotated[list[Path], typer.Argument(help="TOML files of claims.")],
    json: JsonOption = False,
) -> int:
    """Say for each claimed speed, memory and battery life whether physics allows it, with the arithmetic."""
    from edgekit.claims import audit as audit_claims
    from edgekit.cli import verbs

    return verbs.show_audit([result for path in claims for result in audit_claims(path)], as_json=json)


@app.command(short_help="Write a model of true size with random weights.")
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


@app.command(short_help="What this machine can measure, and what it lacks.")
def doctor(json: JsonOption = False, quiet: QuietOption = False) -> int:
    """Try every counter, limit and fence that a run would use; say what is lost without one, and how to have it."""
    from edgekit.cli import verbs

    return verbs.examine(as_json=json, quiet=quiet)


@app.command()
def schema() -> int:
    """Print the JSON Schema of the report."""
    import json as json_module

    from edgekit.storage import report_schema

    typer.echo(json_module.dumps(report_schema(), indent=2))
    return ExitCode.PASS


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


@devices_app.command("anchor")
def devices_anchor(
    name: Annotated[str, typer.Argument(help="Profile name or path the runs belong to.")],
    results: Annotated[Path, typer.Argument(help="llama-bench output (`-o json` or `-o jsonl`) from that device.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Profile to write; default ./NAME.toml.")] = None,
    model: Annotated[Path | None, typer.Option("--model", help="The GGUF that was run: exact bytes per token.")] = None,
) -> int:
    """Turn real llama-bench runs into anchors, so that the profile projects from your own device."""
    from edgekit.cli import verbs

    return verbs.add_anchors(name, results, out, model)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"edgekit {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Tells whether a distilled language model may ship to an edge device."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; every failure is one `error:` line with a hint."""
    bare = not (sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(args=["--help"] if bare else arguments, prog_name="edgekit", standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except EdgekitError as error:
        return _say(error.message, error.hint, error.code)
    except typer.TyperException as error:
        return _say(_one_line(error.format_message()), "", ExitCode.USAGE)
    except BrokenPipeError:  # `edgekit … | head` closed our stdout; nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKE
    except Exception as error:
        if os.environ.get("EDGEKIT_TRACEBACK"):
            raise
        message = f"edgekit itself failed ({type(error).__name__}: {_one_line(str(error))})"
        return _say(message, "a bug: please report it with the output of EDGEKIT_TRACEBACK=1", ExitCode.BROKE)
    if code == ExitCode.INTERRUPTED:  # typer turns Ctrl-C into an exit code
        return _interrupted()
    return ExitCode.USAGE if bare else int(code or 0)  # an empty call in a CI script must not read as a pass


def _interrupted() -> int:
    return _say("interrupted", "nothing half-written is left behind", ExitCode.INTERRUPTED)


def _one_line(text: str) -> str:
    """A library's message in our style: one line, lower-case start, no final period."""
    line = " ".join(text.split()).rstrip(".")
    return line[:1].lower() + line[1:]


def _say(message: str, hint: str, code: ExitCode) -> int:
    # messages quote names from strangers' files: no escape sequence and no second line may come through
    message, hint = ("".join(c if c.isprintable() else "\ufffd" for c in text) for text in (message, hint))
    print(f"error: {message}\n\nhint: {hint or 'see `edgekit --help`'}", file=sys.stderr)  # noqa: T201
    return code
