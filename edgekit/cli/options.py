"""Options that several verbs share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

DeviceOption = Annotated[
    list[str], typer.Option("--device", "-d", help="Profile name or a path to your own .toml; may be repeated.")
]
GatesOption = Annotated[
    Path | None, typer.Option("--gates", help="Judge by this gates file instead of the profile's [gates].")
]
QualityOption = Annotated[
    Path | None, typer.Option("--quality", help="Quality of this very file, as `edgekit evaluate --out` wrote it.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="JSON on stdout; one document a line where there are several.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
ContextOption = Annotated[int | None, typer.Option("--context", min=1, help="Context in tokens.")]
BatchOption = Annotated[int | None, typer.Option("--batch", min=1, help="Batch in tokens.")]
UbatchOption = Annotated[int | None, typer.Option("--ubatch", min=1, help="Micro-batch in tokens.")]
KvOption = Annotated[Literal["f16", "q8_0", "q4_0"] | None, typer.Option("--kv-type", help="KV cache type.")]
FlashOption = Annotated[
    Literal["auto", "on", "off"] | None, typer.Option("--flash-attention", help="Fused attention kernels.")
]
MmapOption = Annotated[bool | None, typer.Option("--mmap/--no-mmap", help="Map the weights, or read them in.")]
RepackOption = Annotated[bool | None, typer.Option("--repack/--no-repack", help="Repack weights for the kernels.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", "-t", min=1, help="Default: the big cores.")]
RowsOption = Annotated[int | None, typer.Option("--output-rows", min=0, help="Rows of logits; 0: llama.cpp's default.")]
ReferenceOption = Annotated[
    Path | None,
    typer.Option("--reference", "-r", help="The full-precision build or the teacher, or what `--save-reference` kept."),
]
TeacherOption = Annotated[
    Path | None, typer.Option("--teacher", help="The teacher's build, or its answers as `--save` kept them.")
]
TasksOption = Annotated[Path | None, typer.Option("--tasks", help="Your own items, JSONL.  [default: edgekit's]")]
ItemsOption = Annotated[
    int | None, typer.Option("--items", min=8, help="Items to ask.  [default: as many as the teacher's file, or 2000]")
]
NameOption = Annotated[list[str], typer.Option("--name", help="A name the model may call itself by; may be repeated.")]
TextOption = Annotated[
    Path | None, typer.Option("--text", help="UTF-8 text to judge on.  [default: edgekit's held-out corpus]")
]
ReferenceContext = Annotated[int, typer.Option("--context", min=32, help="Tokens in a chunk; its second half counts.")]
ChunksOption = Annotated[int | None, typer.Option("--chunks", min=1, help="Chunks to score.  [default: all]")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace outputs that exist.")]
