"""The smaller verbs of `cli`: stand-ins, device profiles, claims. Loaded by verbs only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edgekit import devices
from edgekit.claims import ClaimResult
from edgekit.cli.telling import progress
from edgekit.errors import EdgekitError, ExitCode
from edgekit.records import Device, Sourced
from edgekit.storage import to_json
from edgekit.units import format_bytes


def write_stand_in(shape: str, quant: str, out: Path | None, *, force: bool, quiet: bool) -> int:
    """Write a stand-in to `out` (default `./SHAPE-TYPE.gguf`) and print its path."""
    from edgekit.shapes import load_shape, write_stand_in

    found = load_shape(shape)
    target = out or Path(f"{found.name}-{quant}.gguf")
    if target.exists() and not force:
        raise EdgekitError(f"file exists: `{target}`", hint="name another with `--out`, or add `--force`")
    with progress(quiet=quiet) as told:
        write_stand_in(found, quant, target, progress=told)
    print(target)  # noqa: T201
    return ExitCode.PASS


def list_devices(*, as_json: bool) -> int:
    """Every profile: a table, or one JSON record a line."""
    found = devices.list_devices()
    if as_json:
        print("\n".join(to_json(device, indent=None) for device in found))  # noqa: T201
        return ExitCode.PASS
    table = Table(box=None, pad_edge=False)
    for name in ("name", "device", "class", "RAM", "ISA", "anchors"):
        right, whole = name in ("RAM", "anchors"), name == "name"  # names are there to be copied
        table.add_column(name, overflow="fold", justify="right" if right else "left", no_wrap=whole)
    for device in found:
        anchors = f"{len(device.members)} devices" if device.tier == "class" else str(len(device.anchors))
        ram = format_bytes(device.ram_bytes.value)
        cells = (device.name, device.title, device.device_class, ram, device.isa, anchors)
        table.add_row(*map(_plain, cells))
    Console().print(table)
    return ExitCode.PASS


def show_device(name: str, *, as_json: bool) -> int:
    """One profile with the source of every number."""
    device = devices.load_device(name)
    if as_json:
        print(to_json(device))  # noqa: T201
        return ExitCode.PASS
    console = Console()
    console.print(f"{device.title} ({device.name}, {device.tier}) · {device.origin}", markup=False, style="bold")
    for line in (device.population, f"{device.soc} · {device.os} · {device.isa}".strip(" ·")):
        if line:
            console.print(line, markup=False)
    for table in (_figures(device), _gates(device), _anchors(device)):
        if table.row_count:
            console.print()
            console.print(table)
    return ExitCode.PASS


def _figures(device: Device) -> Table:
    table = Table("figure", "value", "source", box=None, pad_edge=False)
    for field in device.__slots__:
        figure = getattr(device, field)
        if isinstance(figure, Sourced):
            span = f" ({figure.low:g} – {figure.high:g})" if figure.low is not None and figure.high is not None else ""
            table.add_row(field, f"{figure.value:g}{span}", _plain(figure.source))
    for cluster in device.clusters:
        speed = f" at {cluster.max_ghz:g} GHz" if cluster.max_ghz else ""
        table.add_row("cluster", f"{cluster.cores} × {_plain(cluster.name)}{speed}", "big" if cluster.big else "")
    for name in device.settings.__slots__:
        table.add_row(f"workload.{name}", str(getattr(device.settings, name)), "")
    return table


def _gates(device: Device) -> Table:
    table = Table("gate", "limit", "level", "source", box=None, pad_edge=False)
    for gate in device.gates.gates:
        limit = f"≥ {gate.min:g}" if gate.min is not None else f"≤ {gate.max:g}"
        table.add_row(gate.metric, limit, gate.level, _plain(gate.source))
    return table


def _anchors(device: Device) -> Table:
    table = Table("anchor", "quant", "backend", "threads", "decode tok/s", "prefill tok/s", box=None, pad_edge=False)
    for name in device.members:
        table.add_row(name, "", "", "", "member", "")
    for anchor in device.anchors:
        speeds = [f"{rate:.3g}" if rate else "–" for rate in (anchor.decode_tokens_per_s, anchor.prefill_tokens_per_s)]
        table.add_row(_plain(anchor.id), anchor.quant, anchor.backend, str(anchor.threads or "–"), *speeds)
    return table


def _plain(text: str) -> str:
    """Untrusted text with rich's markup disarmed."""
    return text.replace("[", r"\[")


def add_anchors(name: str, results: Path, out: Path | None, model: Path | None) -> int:
    """Append llama-bench runs to a profile and print its path."""
    streamed = None
    if model is not None:
        from edgekit.header import read_header
        from edgekit.memory import streamed_bytes

        streamed = float(sum(size_bytes for _, size_bytes in streamed_bytes(read_header(model))))
    print(devices.add_anchors(name, results, out, bytes_per_token=streamed))  # noqa: T201
    return ExitCode.PASS


def show_audit(results: Sequence[ClaimResult], *, as_json: bool) -> int:
    """Every claimed figure with the arithmetic; exit code 1 when one is impossible."""
    from edgekit.claims import exit_code

    if as_json:
        print("\n".join(to_json(result, indent=None) for result in results))  # noqa: T201
        return exit_code(results)
    for result in results:
        print(result)  # noqa: T201
    return exit_code(results)


STATES = {"yes": "ok", "partly": "partly", "no": "no"}


def examine(*, as_json: bool, quiet: bool) -> int:
    """What this machine can measure; what it cannot, with the way to have it."""
    from edgekit.bench import examine

    with progress(quiet=quiet) as told:
        found = examine(progress=told)
    if as_json:
        print(to_json(found))  # noqa: T201
        return ExitCode.PASS
    table = Table(box=None, pad_edge=False)
    for name in ("area", "what", "", "found"):
        table.add_column(name, overflow="fold")
    for ability in found.abilities:
        table.add_row(*map(_plain, (ability.area, ability.name, STATES[ability.state], ability.found)))
    console = Console()
    console.print(table)
    lost = [ability for ability in found.abilities if ability.without]
    for ability in lost:
        enable = f" To have it: {ability.enable}." if ability.enable else ""
        console.print(f"\n{ability.name}: {ability.without}.{enable}", markup=False, highlight=False)
    return ExitCode.PASS
