"""An ONNX model's folder: which files it has, and what its configuration files say of the model's shape.

onnxruntime-genai writes `genai_config.json`, transformers and optimum write `config.json`; either is enough, and where
both speak they must agree. Nothing here imports more than json: the worker that runs the model reads the same file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.header.container import clean, refuse

MAX_FILES, MAX_CONFIG_BYTES = 1024, 16 * 2**20
MAX_LAYERS, MAX_LENGTH = 512, 2**31 - 1
GENAI, TRANSFORMERS, GENERATION = "genai_config.json", "config.json", "generation_config.json"
MAX_ENDS = 64


def is_onnx(path: Path) -> bool:
    """Whether `path` names an ONNX model: its folder, or the graph in it."""
    return path.is_dir() or path.suffix.lower() == ".onnx"


def folder_of(path: Path) -> Path:
    """The model's folder, absolute: `path` itself, or where the graph it names lies."""
    path = path.absolute()
    return path if path.is_dir() else path.parent


def folder_files(path: Path) -> tuple[Path, ...]:
    """Every file of the model's folder, sorted by its name within it. Hidden files and what lies in hidden folders
    belong to other tools. Raises EdgekitError.
    """
    folder = folder_of(path)
    found: list[Path] = []
    try:
        for place, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [Path(place, name) for name in names if not name.startswith(".")]
            if len(found) > MAX_FILES:
                raise EdgekitError(f"holds more than {MAX_FILES} files: `{path}`", hint="give the model's own folder")
    except OSError as error:
        raise EdgekitError(f"cannot read the model ({(error.strerror or 'failed').lower()}): `{path}`") from None
    for file in found:
        if not file.is_file():
            raise EdgekitError(f"not a regular file: `{file}`", hint="give a folder that holds the model alone")
    return tuple(sorted(found, key=lambda file: file.relative_to(folder).as_posix()))


def _raise(error: OSError) -> None:
    raise error


# ---- the configuration ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the configuration files say. Zero, or empty, where they are silent."""

    architecture: str
    graph: str
    """File name of the graph."""
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    context_train: int
    tied_embedding: bool
    experts: int
    sliding_window: tuple[int, ...]
    bos: int | None
    """Beginning-of-text, where the model has one."""
    adds_bos: bool
    """The tokenizer is told to put it in front of a text."""
    shares_cache: bool
    """Past and present keys and values are one buffer of the full context."""
    ends: frozenset[int] = frozenset()
    """Tokens with which the model ends a text."""


def read_config(path: Path) -> Config:
    """The configuration of the model at `path` (its folder, or its graph). Raises Unusable and EdgekitError."""
    folder = folder_of(path)
    genai, plain = (_read_json(folder / name) for name in (GENAI, TRANSFORMERS))
    if not genai and not plain:
        refuse(f"neither `{GENAI}` nor `{TRANSFORMERS}` lies beside the graph")
    model = _table(genai, "model")
    decoder = _table(model, "decoder")
    text = _table(plain, "text_config") or plain
    facts = _Facts(genai={**model, **decoder}, plain=text)
    heads, hidden = facts.number("num_attention_heads"), facts.number("hidden_size")
    layers = facts.number("num_hidden_layers", high=MAX_LAYERS)
    return Config(
        architecture=_name(text.get("model_type") or model.get("type")),
        graph=_graph_name(folder, path, decoder.get("filename")),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=facts.number("num_key_value_heads", default=heads),
        head_dim=facts.number("head_size", "head_dim", default=hidden // heads),
        ffn=facts.number("intermediate_size", default=0, low=0),
        vocabulary=facts.number("vocab_size"),
        context_train=facts.number("context_length", "max_position_embeddings"),
        tied_embedding=text.get("tie_word_embeddings") is True,
        experts=_experts(text),
        sliding_window=_sliding_window(decoder, text, layers),
        bos=facts.number("bos_token_id", default=-1, low=-1) if facts.states("bos_token_id") else None,
        adds_bos=_read_json(folder / "tokenizer_config.json").get("add_bos_token") is True,
        shares_cache=_table(genai, "search").get("past_present_share_buffer") is True,
        ends=frozenset().union(*map(_ends, (model, text, _read_json(folder / GENERATION)))),
    )


def _ends(table: Mapping[str, Any]) -> frozenset[int]:
    """Its end tokens: a number, or a list of some."""
    stated = table.get("eos_token_id")
    listed = stated[:MAX_ENDS] if isinstance(stated, list) else [stated]
    return frozenset(token for token in listed if type(token) is int and 0 <= token < MAX_LENGTH)


@dataclass(frozen=True, slots=True)
class _Facts:
    """Numbers that both files may state: genai's name first, transformers' name second where it has another."""

    genai: Mapping[str, Any]
    plain: Mapping[str, Any]

    def states(self, name: str) -> bool:
        """Whether either file gives a number for `name`; of several (a list of end tokens) it gives none."""
        return any(isinstance(table.get(name), int) for table in (self.genai, self.plain))

    def number(
        self, name: str, other: str = "", *, default: int | None = None, low: int = 1, high: int = MAX_LENGTH
    ) -> int:
        here, there = self.genai.get(name), self.plain.get(other or name)
        if here is not None and there is not None and here != there:
            refuse(f"`{GENAI}` says `{name}` {_shown(here)} and `{TRANSFORMERS}` says {_shown(there)}")
        value = here if here is not None else there if there is not None else default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            refuse(f"`{other or name}` is {'missing' if value is None else _shown(value)}, not a number from {low}")
        return value


def _read_json(file: Path) -> Mapping[str, Any]:
    """An object, empty where there is no such file."""
    try:
        if not file.exists():
            return {}
        if file.stat().st_size > MAX_CONFIG_BYTES or not file.is_file():
            refuse(f"`{file.name}` is no configuration file")
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise EdgekitError(f"cannot read ({(error.strerror or 'failed').lower()}): `{file}`") from None
    except (ValueError, RecursionError):
        refuse(f"`{file.name}` is not JSON")
    return content if isinstance(content, dict) else refuse(f"`{file.name}` is not a JSON object")


def _table(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key, {})
    return value if isinstance(value, dict) else refuse(f"`{key}` in the configuration is not an object")


def _name(value: object) -> str:
    return clean(value, 64) if isinstance(value, str) and value else refuse("the configuration names no architecture")


def _shown(value: object) -> str:
    return clean(str(value), 40)


def _graph_name(folder: Path, path: Path, named: object) -> str:
    """The file that holds the graph: the one given, else the one configured, else the only one there."""
    if path.suffix.lower() == ".onnx" and not path.is_dir():
        return path.name
    if named is not None:
        if not isinstance(named, str) or named != Path(named).name or "\\" in named or named in ("", ".", ".."):
            refuse(f"`{GENAI}` names the graph `{_shown(named)}`, which is no file of this folder")
        return named
    graphs = sorted(file.name for file in folder.glob("*.onnx"))
    if "model.onnx" in graphs:
        return "model.onnx"
    if len(graphs) != 1:
        refuse("there is no `model.onnx` in it" if not graphs else f"it holds {len(graphs)} graphs and names none")
    return graphs[0]


def _experts(text: Mapping[str, Any]) -> int:
    found = [text.get(key) for key in ("num_local_experts", "num_experts", "n_routed_experts")]
    return max((count for count in found if isinstance(count, int)), default=0)


def _sliding_window(decoder: Mapping[str, Any], text: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """Window per layer, 0 = full attention; empty where every layer attends in full."""
    stated = _table(decoder, "sliding_window")
    if stated:
        window, local = stated.get("window_size"), stated.get("layers")
        if not isinstance(window, int) or not isinstance(local, list):
            refuse(f"the sliding window in `{GENAI}` is incomplete")
        return tuple(window if layer in local else 0 for layer in range(layers))
    kinds = text.get("layer_types")
    window = text.get("sliding_window")
    if not isinstance(window, int) or not isinstance(kinds, list) or len(kinds) != layers:
        return ()
    found = tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    return found if any(found) else ()
