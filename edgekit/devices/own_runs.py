"""Anchors out of edgekit's own evidence: a run on the device itself, over `--on`, with `--on-device`, or imported."""

from __future__ import annotations

import json
import re
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.records import Anchor, Device, Estimate, Evidence, Host, Measurement, Report
from edgekit.summary import by_process, speed, timed

_TEST = re.compile(r"(tg|pp)(\d{1,7})(?:@d(\d{1,7}))?")


def read_evidence(path: Path, device: Device) -> tuple[Anchor, ...] | None:
    """The anchors in an `evidence.json` or `report.json` of a run on `device`: one per decode test, with the prefill of
    the same run beside those at depth 0; `None` where `path` is no such file.

    A speed is the median of the repetitions. Raises EdgekitError where the run was not on that device, was not of the
    artifact that the evidence is of, ran no GGUF on llama.cpp, or decoded nothing.
    """
    evidence = _load(path)
    if evidence is None:
        return None
    run = evidence.measurement
    if run is None:
        raise EdgekitError(f"this evidence holds no measurement: `{path}`", hint="`edgekit bench --on …` makes one")
    _refuse(run, evidence, device, path)
    tests = sorted({sample.test for sample in run.samples})
    found = [anchor for test in tests for anchor in _anchor(run, test, evidence)]
    if not found:
        raise EdgekitError(f"this run decoded nothing: `{path}`", hint="an anchor needs a test such as `tg128`")
    return tuple(found)


def _load(path: Path) -> Evidence | None:
    from edgekit.storage import from_json, read_bounded

    try:
        text = read_bounded(path)
        found = json.loads(text)
    except (EdgekitError, ValueError, RecursionError):
        return None  # the reader of llama-bench's output says what is wrong with it
    kind = found.get("kind") if isinstance(found, dict) else None
    if kind == "report":
        return from_json(text, Report, origin=str(path)).evidence
    return from_json(text, Evidence, origin=str(path)) if kind == "evidence" else None


def _refuse(run: Measurement, evidence: Evidence, device: Device, path: Path) -> None:
    if run.on_device != device.name:
        raise EdgekitError(
            f"this run was on `{run.on_device or 'the machine of who ran it'}` and not on `{device.name}`: `{path}`",
            hint=f"run it there: `edgekit bench MODEL --device {device.name} --on ssh:user@host`",
        )
    if run.memory_limit is not None:
        raise EdgekitError(
            f"this run was held to less memory than the device has: `{path}`", hint="run it without `--limit-memory`"
        )
    doubt = _doubt(run.host, device)
    if doubt:
        raise EdgekitError(f"{doubt}: `{path}`", hint="an anchor of another machine would mislead every projection")
    if run.artifact_sha256 != evidence.artifact.sha256 or not run.artifact_sha256:
        raise EdgekitError(f"the measurement is of another artifact than the evidence: `{path}`")
    runtime = run.runtime.name if run.runtime else "nothing"
    if evidence.artifact.header.format != "gguf" or runtime != "llama.cpp":
        raise EdgekitError(f"anchors are of GGUF files on llama.cpp, and this run was of `{runtime}`: `{path}`")


def _doubt(host: Host, device: Device) -> str:
    from edgekit.gate.onsite import other_machine

    if host.isa:
        return other_machine(host, device)
    other = host.machine not in ("", device.isa.partition("+")[0])
    return f"the run claims to be on the device (`{device.isa}`) and its host is `{host.machine}`" if other else ""


def _anchor(run: Measurement, test: str, evidence: Evidence) -> list[Anchor]:
    """The anchor of a decode test; none of another."""
    from edgekit.memory import streamed_bytes

    parts = _TEST.fullmatch(test)
    decode = _median(run, test)
    if parts is None or parts[1] != "tg" or decode is None or run.runtime is None:
        return []
    depth, header = int(parts[3] or 0), evidence.artifact.header
    prompt, prefill = _prefill(run) if not depth else (0, None)
    words = (f"own {header.name or header.architecture}", header.quant, run.runtime.backend, f"t{run.runtime.threads}",
             test, evidence.artifact.sha256[:9], run.started_at)  # fmt: skip
    return [
        Anchor(
            id=re.sub(r"[^a-z0-9.]+", "-", " ".join(words).lower()).strip("-")[:200],
            model=header.name or header.architecture,
            quant=header.quant,
            bytes_per_token=float(sum(size for _, size in streamed_bytes(header))),
            backend=run.runtime.backend,
            runtime=f"llama.cpp {run.runtime.version.removeprefix('llama.cpp ')}".strip(),
            threads=run.runtime.threads,
            prompt_tokens=prompt,
            generated_tokens=int(parts[2]),
            depth=depth,
            decode_tokens_per_s=decode,
            prefill_tokens_per_s=prefill,
            source=_source(run, test),
        )
    ]


def _median(run: Measurement, test: str) -> float | None:
    """The median speed in tok/s, also of so few repetitions that they have no range."""
    found = speed(run, test)
    if isinstance(found, Estimate):
        return found.value
    rates = sorted(sample.tokens / sample.elapsed_s for sample in timed(run, test))
    return rates[len(rates) // 2] if rates else None


def _prefill(run: Measurement) -> tuple[int, float | None]:
    """Prompt length and speed of the prefill test nearest to pp512."""
    parts = [_TEST.fullmatch(sample.test) for sample in run.samples]
    lengths = {int(part[2]) for part in parts if part and part[1] == "pp" and not part[3]}
    if not lengths:
        return 0, None
    nearest = min(lengths, key=lambda length: (abs(length - 512), length))
    return nearest, _median(run, f"pp{nearest}")


def _source(run: Measurement, test: str) -> str:
    settings, found = run.workload.settings, timed(run, test)
    told = [finding.message for finding in run.findings if finding.level != "note"]
    cpu = run.host.cpu_model or run.host.isa or "an unnamed CPU"
    repack = "" if settings.repack else ", repacking off"
    parts = (
        f"own run: {run.imported_from or 'edgekit'} on {cpu}, {run.started_at}, KV {settings.kv_type}{repack}",
        f"median of {len(found)} repetitions in {len(by_process(found))} processes",
        "bytes per token: from the model's header",
        *told[:3],
    )
    return "; ".join(parts)[:1500]
