"""Checkpoint → ONNX folder: build in float32, hold it against torch, quantize, hold that against torch."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.checkpoint import TOKENIZER_FILES, hash_checkpoint
from edgekit.errors import import_extra
from edgekit.files import replacing_folder
from edgekit.progress import Progress, silent
from edgekit.quantize.onnx import parity
from edgekit.quantize.onnx.graph import Recipe
from edgekit.quantize.onnx.jobs import run_job
from edgekit.quantize.onnx.options import Exporter, Options, Precision, check_choices, optimum_python
from edgekit.quantize.onnx.preflight import plan_export, refuse_what_cannot_fit
from edgekit.quantize.onnx.source import Source, check_weights, read_source, write_old_style
from edgekit.records import LogitsCheck, OnnxExport
from edgekit.storage import write_record

PROVENANCE = "edgekit.json"
_NEEDED = ("torch", "transformers", "onnxruntime", "onnx_ir", "onnxscript")


def export_onnx(
    checkpoint_dir: Path,
    precision: Precision,
    out_dir: Path,
    *,
    exporter: Exporter = "genai",
    options: Options = Options(),  # noqa: B008  (frozen)
    source_sha256: str = "",
    force: bool = False,
    progress: Progress = silent,
) -> Path:
    """Write the folder `out_dir` with `model.onnx`, its data, `genai_config.json`, tokenizer files, `config.json` and
    `edgekit.json` (an `OnnxExport`); gives `out_dir`. It appears whole or not at all.

    `source_sha256` is what `hash_checkpoint` gave, where the caller knows it; else it is computed. Every export is
    built in float32 first and compared with torch (KLD ≤ 1e-5 at every position), then quantized and
    compared again at loose bounds (`parity.QUANTIZED_BOUNDS`). Raises EdgekitError for unknown names, a checkpoint
    that is damaged or that the exporter would misread, too little disk or memory, and (exit code 1) a wrong model.
    """
    check_choices(precision, exporter, options)
    for module in _NEEDED:
        _require(module)
    source = read_source(checkpoint_dir, exporter=exporter)
    refuse_what_cannot_fit(plan_export(source, precision, exporter, options), out_dir)
    check_weights(source.checkpoint, progress=progress)
    with (
        replacing_folder(out_dir, force=force) as folder,
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{out_dir.name[:80]}.", suffix=".work") as work,
    ):
        digest = source_sha256 or hash_checkpoint(source.checkpoint, progress=progress)
        export = _Export(source, precision, exporter, options, Path(work), progress, digest)
        export.into(folder)
    return out_dir


class _Export:
    """One export under way: its figures gather while it runs."""

    def __init__(
        self,
        source: Source,
        precision: str,
        exporter: str,
        options: Options,
        work: Path,
        progress: Progress,
        source_sha256: str,
    ) -> None:
        self.source_sha256 = source_sha256
        self.source = source
        self.precision = precision
        self.exporter = exporter
        self.options = options
        self.work = work
        self.progress = progress
        self.peaks: dict[str, int] = {}
        self.versions: dict[str, str] = {}
        self.checks: list[LogitsCheck] = []
        self.probe = parity.make_probe(source.vocabulary, context=source.context, window=source.window)

    def into(self, folder: Path) -> None:
        """Fill `folder`."""
        started = time.monotonic()
        plain = self.precision == "fp32"
        float_folder = folder if plain else self._subfolder("fp32")
        self._build(float_folder, shared=plain and self.source.tied)
        reference = self._reference("torch")
        self._check_float(float_folder, reference)
        found: Mapping[str, Any] = {"tied_table_shared": plain and self.source.tied and self.exporter == "genai"}
        if not plain:
            found = self._quantize(float_folder, folder)
            self._check_quantized(folder, reference)
        self._write_provenance(folder, found, time.monotonic() - started)

    def _build(self, folder: Path, *, shared: bool) -> None:
        checkpoint = self.source.checkpoint.path.resolve()
        if self.exporter == "optimum":
            checkpoint = self._subfolder("old-style")
            write_old_style(self.source, checkpoint)
        result = self._run(
            self.exporter,
            {
                "checkpoint": str(checkpoint),
                "out": str(folder),
                "cache": str(self._subfolder("cache")),
                "shared": shared,
            },
            python=optimum_python(self.options) if self.exporter == "optimum" else "",
        )
        self.versions |= result["versions"]
        self._copy_beside(folder)

    def _copy_beside(self, folder: Path) -> None:
        """The checkpoint's own tokenizer and configuration, byte for byte: what exporters save anew is not the same."""
        for name in (*TOKENIZER_FILES, "generation_config.json", "config.json"):
            if (self.source.checkpoint.path / name).is_file():
                shutil.copyfile(self.source.checkpoint.path / name, folder / name)

    def _reference(self, name: str, recipe: Mapping[str, Any] | None = None) -> Path:
        """Logits of the checkpoint in torch, with its weights rounded by `recipe` where there is one."""
        out = self.work / f"{name}.npy"
        tokens = {"tokens": self.probe.tokens, "rows": self.probe.rows}
        checkpoint = str(self.source.checkpoint.path.resolve())
        self._run("torch logits", {"checkpoint": checkpoint, **tokens, "recipe": recipe, "out": str(out)})
        return out

    def _logits(self, folder: Path, *, prepack: bool) -> Path:
        """Logits of the model in `folder` in onnxruntime."""
        out = self.work / f"{folder.name}.npy"
        arguments = {
            "model": str(folder / "model.onnx"),
            "tokens": self.probe.tokens,
            "rows": self.probe.rows,
            "decoded": self.probe.decoded,
            "head_dim": self.source.head_dim,
            "kv_heads": self.source.kv_heads,
            "prepack": prepack,
            "out": str(out),
            "threads": self.options.threads,
        }
        self._run("onnx logits", arguments)
        return out

    def _check_float(self, folder: Path, reference: Path) -> None:
        """Hold the float32 model in `folder` against torch. Raises EdgekitError when it is out of its bound."""
        logits = self._logits(folder, prepack=False)
        check = parity.compare(reference, logits, precision="fp32", probe=self.probe)
        parity.require(check)
        self.checks.append(check)

    def _check_quantized(self, folder: Path, reference: Path) -> None:
        """The same for the quantized model, and against torch rounded alike where rounding alone may be to blame."""
        logits = self._logits(folder, prepack=True)
        check = parity.compare(reference, logits, precision=self.precision, probe=self.probe)
        self.checks.append(check)
        if parity.within_bound(check):
            return
        alike = self._reference("alike", asdict(self._recipe()))
        check = parity.compare(alike, logits, precision=self.precision, probe=self.probe, rounded_alike=True)
        parity.require(check)
        self.checks.append(check)

    def _recipe(self) -> Recipe:
        return Recipe(
            bits={"int4": 4, "int8": 8, "int8-dynamic": 0}[self.precision],
            head_bits=8,
            block_size=self.options.block_size,
            method=self.options.method,
            threads=self.options.threads or 4,
        )

    def _quantize(self, float_folder: Path, folder: Path) -> dict[str, Any]:
        found = self._run(
            "quantize",
            {
                "model": str(float_folder / "model.onnx"),
                "out": str(folder),
                "tied": self.source.tied,
                "recipe": asdict(self._recipe()),
            },
        )
        for file in float_folder.iterdir():
            if file.is_file() and not file.name.startswith("model.onnx"):
                shutil.copyfile(file, folder / file.name)
        return found

    def _run(self, job: str, arguments: Mapping[str, Any], *, python: str = "") -> dict[str, Any]:
        self.progress("loading libraries", 0, 0)
        result = run_job(job, arguments, threads=self.options.threads, python=python, progress=self.progress)
        self.peaks[job] = max(self.peaks.get(job, 0), result["peak_bytes"])
        return result

    def _subfolder(self, name: str) -> Path:
        folder = self.work / name
        folder.mkdir(exist_ok=True)
        return folder

    def _write_provenance(self, folder: Path, found: Mapping[str, Any], elapsed_s: float) -> None:
        quantized = self.precision != "fp32"
        in_blocks = self.precision in ("int8", "int4")
        record = OnnxExport(
            edgekit_version=__version__,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            precision=self.precision,
            exporter=self.exporter,
            architecture=self.source.architecture,
            parameters=self.source.parameters,
            source=self.source.checkpoint.path.name,
            source_sha256=self.source_sha256,
            block_size=self.options.block_size if in_blocks else 0,
            head_bits=8 if quantized else 32,
            embedding_bits=found.get("embedding_bits", 32),
            method=self.options.method if in_blocks else "",
            tied_table_shared=found["tied_table_shared"],
            versions=tuple(sorted((self.versions | _versions()).items())),
            checks=tuple(self.checks),
            size_bytes=sum(file.stat().st_size for file in folder.iterdir()),
            peak_bytes=max(self.peaks.values()),
            peaks=tuple(self.peaks.items()),
            elapsed_s=round(elapsed_s, 3),
        )
        write_record(folder / PROVENANCE, record)


def _require(module: str) -> None:
    """Look for a library without importing it: torch alone takes seconds, and only the children need it."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        import_extra(module, extra="onnx")


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("onnxruntime", "torch", "transformers", "onnx-ir"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """`genai_config.json` of an exported folder, parsed."""
    config: dict[str, Any] = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    return config
