"""A run that another tool made → a Measurement of a file at hand, on the device that the user names.

Such a tool hashes no model. What it does tell (bytes of all tensors, parameters, file type) must be that of the file to
the last byte, or it is refused: files that agree in all of it stream the same bytes through the same kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.records import Artifact, Buffer, Finding, Host, Measurement, Runtime, Sample, Settings, Workload
from edgekit.tables import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRun:
    """What another tool's file tells of one run: `None` and empty where it does not tell."""

    tool: str
    file: str
    version: str
    started_at: str
    cpu_model: str
    machine: str
    """`arm64` or `x86_64`, empty where nothing in the file shows it."""
    backend: str
    settings: Settings
    samples: tuple[Sample, ...]
    buffers: tuple[Buffer, ...] = ()
    quant: str
    weights_bytes: int | None = None
    parameters: int | None = None
    findings: tuple[Finding, ...] = ()


def measurement_of(run: ForeignRun, artifact: Artifact, device: str) -> Measurement:
    """`run` as a measurement of `artifact` on the profile `device`, with basis `measured`.

    Raises EdgekitError where the run is of another model, and for accelerators, whose speed says nothing of the
    judged configuration.
    """
    refuse_other_model(run, artifact)
    if run.backend != "cpu":
        raise EdgekitError(
            f"the run was on an accelerator, and gates judge the CPU: `{run.backend}`",
            hint="run it on the CPU; an anchor may be of any backend: `edgekit devices anchor NAME FILE`",
        )
    return Measurement(
        artifact_sha256=artifact.sha256,
        started_at=run.started_at,
        host=_host(run),
        runtime=Runtime(
            name="llama.cpp",
            version=run.version,
            build=run.tool,
            backend=run.backend,
            cpu_features="",
            threads=run.settings.threads,
        ),
        workload=Workload(settings=run.settings, depths=()),
        samples=run.samples,
        buffers=run.buffers,
        energy_unknown=f"{run.tool} reads no energy counter",
        findings=(_word_of(run, device), *run.findings),
        on_device=device,
        imported_from=run.tool,
    )


def _word_of(run: ForeignRun, device: str) -> Finding:
    matched = "its size, parameters and type are those of the file" if run.weights_bytes else "only its type is checked"
    return Finding(
        level="warning",
        code="imported",
        message=f"imported from {run.tool} (`{run.file}`): that `{device}` ran it, and that it ran this very file, is "
        f"the word of who imported it; {matched}",
        hint=f"to be sure: `edgekit bench MODEL --device {device} --on-device {device}` on the device",
    )


def _host(run: ForeignRun) -> Host:
    """No more than the tool told: a host made up from the profile would prove itself."""
    return Host(
        system="",
        release="",
        machine=run.machine,
        cpu_model=run.cpu_model,
        isa="",
        physical_cores=0,
        logical_cores=0,
        ram_bytes=0,
    )


def refuse_other_model(run: ForeignRun, artifact: Artifact) -> None:
    """Raise EdgekitError naming what differs between the model that ran and the file at hand."""
    header = artifact.header
    if header.format != "gguf":
        raise EdgekitError(f"{run.tool} runs GGUF files: `{artifact.path}`", hint="name the GGUF that ran")
    held = sum(tensor.size_bytes for tensor in header.tensors)
    count = sum(math.prod(tensor.shape) for tensor in header.tensors)
    known: tuple[tuple[str, object, object], ...] = (
        ("bytes of weights", run.weights_bytes, held),
        ("parameters", run.parameters, count),
        ("type", run.quant if run.quant != "unknown" else None, header.quant),
    )
    for what, ran, have in known:
        if ran is not None and ran != have:
            raise EdgekitError(
                f"the run is of another model, with {what} `{ran}` and not `{have}`: `{run.file}`",
                hint="name the very GGUF that ran with `--model`",
            )


# ---- one run out of a file of many --------------------------------------------------------------------------------


def parse_only(texts: Sequence[str]) -> dict[str, str]:
    """`n_threads=4` of `--only` → field and value. Raises EdgekitError for anything else."""
    chosen = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise EdgekitError(f"not a choice for `--only`: `{text[:60]}`", hint="write it as `--only n_threads=4`")
        chosen[key.strip()] = value.strip()
    return chosen


def chosen_rows(rows: Sequence[Mapping[str, Any]], only: Mapping[str, str], *, file: str) -> list[Mapping[str, Any]]:
    """The rows whose fields have the values of `only`, as text. Raises EdgekitError where none is left."""
    for key, value in only.items():
        known = {name for row in rows for name in row}
        if key not in known:
            raise EdgekitError(f"no such field in `{file}`: `{key[:60]}`", hint=nearest(key, known))
        seen = sorted({as_text(row.get(key)) for row in rows})
        rows = [row for row in rows if as_text(row.get(key)) == value]
        if not rows:
            raise EdgekitError(f"no run in `{file}` has `{key[:60]}` of `{value[:60]}`", hint=f"it has {some(seen)}")
    return list(rows)


def refuse_several(circumstances: Sequence[Mapping[str, Any]], *, file: str) -> None:
    """Raise EdgekitError where runs under different circumstances are left, with the field that tells them apart."""
    first = circumstances[0]
    for key in sorted({name for each in circumstances for name in each}):
        values = sorted({as_text(each.get(key)) for each in circumstances})
        if any(each.get(key) != first.get(key) for each in circumstances):
            raise EdgekitError(
                f"runs under different circumstances are never joined, and `{key[:60]}` differs in `{file}`",
                hint=f"choose one with `--only {key[:60]}=VALUE`, VALUE one of {some(values)}",
            )


def as_text(value: object) -> str:
    """A field as the file spells it: `true`, not `True`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def some(values: Iterable[str]) -> str:
    shown = [f"`{value[:60]}`" for value in values]
    return ", ".join(shown[:8]) + (" …" if len(shown) > 8 else "")
