"""A checkpoint: the folder that transformers saves and loads, opened without torch and without reading weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NoReturn

from edgekit.checkpoint.safetensors import StoredTensor, no_duplicates, read_safetensors_header, shown
from edgekit.checkpoint.weights import float32, read_rows, read_tensor
from edgekit.errors import EdgekitError
from edgekit.progress import Progress, silent

MAX_CONFIG_BYTES, MAX_INDEX_BYTES, MAX_SHARDS = 16 * 2**20, 64 * 2**20, 1024
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HASH_STEP_BYTES = 2**20
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""What a tokenizer may lie in; of the older ones only some."""

_HASHED = ("config.json", "generation_config.json", *TOKENIZER_FILES, INDEX)
"""Whatever besides the weights an artifact is made of."""

TokenizerFiles = Literal["tokenizer.json", "tokenizer.model", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a model folder holds. `tensors` are in the order of the shards and of their data.

    `architecture` is `model_type` of `config.json`; `sha256` covers `config.json`, the index and the shard headers
    (not the weights: `hash_checkpoint` does).
    """

    path: Path
    architecture: str
    config_json: str
    tensors: tuple[StoredTensor, ...]
    shards: tuple[Path, ...]
    tokenizer: TokenizerFiles
    sha256: str

    @property
    def config(self) -> Mapping[str, Any]:
        """`config.json`, parsed: a stranger's values, to be checked before use."""
        parsed: Mapping[str, Any] = json.loads(self.config_json)
        return parsed

    @property
    def size_bytes(self) -> int:
        """Of all weights."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    def tensor(self, name: str) -> StoredTensor:
        """The tensor of that name. Raises EdgekitError where there is none."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise EdgekitError(f"the checkpoint `{self.path}` has no tensor `{shown(name)}`")


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in the folder `path`: `config.json` and safetensors, single or sharded.

    Reads headers only (milliseconds). Raises EdgekitError with one reason and a hint for pickled weights, a missing
    or corrupt file, an index that leads out of the folder or names what is not there.
    """
    try:
        return _open(path)
    except OSError as error:
        raise EdgekitError(
            f"cannot open the checkpoint ({(error.strerror or 'failed').lower()}): `{shown(path, 300)}`",
            hint="give the folder that holds `config.json`, readable by you",
        ) from None


def _open(path: Path) -> Checkpoint:
    if not path.is_dir():
        reason = "no such folder" if not path.exists() else "not a folder"
        raise EdgekitError(
            f"cannot open the checkpoint ({reason}): `{path}`", hint="give the folder that holds `config.json`"
        )
    if (path / "adapter_config.json").exists():
        raise EdgekitError(
            f"the checkpoint is an adapter, or has one beside it: `{path}`",
            hint="merge it into its base first (`merge_and_unload`, then `save_pretrained`), or remove it",
        )
    config_bytes = read_small(path / "config.json", MAX_CONFIG_BYTES)
    config = parse_json(path / "config.json", config_bytes)
    architecture = config.get("model_type")
    if not isinstance(architecture, str) or not 0 < len(architecture) <= 64:
        _refuse(path / "config.json", "it names no `model_type`")
    digest = hashlib.sha256(config_bytes)
    shards, placed = _shards(path, digest)
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        found, header = read_safetensors_header(shard)
        digest.update(header)
        for tensor in found:
            if tensor.name in tensors:
                _refuse(shard, f"tensor `{shown(tensor.name)}` is also in `{tensors[tensor.name].file.name}`")
            tensors[tensor.name] = tensor
    for name, shard_name in placed.items():
        if name not in tensors or tensors[name].file.name != shard_name:
            _refuse(path / INDEX, f"tensor `{shown(name)}` is not in `{shard_name}`")
    if not tensors:
        _refuse(shards[0], "it holds no tensors")
    return Checkpoint(
        path=path,
        architecture=shown(architecture, 64),
        config_json=config_bytes.decode(),
        tensors=tuple(tensors.values()),
        shards=shards,
        tokenizer=_tokenizer_files(path),
        sha256=digest.hexdigest(),
    )


def hash_checkpoint(checkpoint: Checkpoint, *, progress: Progress = silent) -> str:
    """sha256 over all that a conversion reads, weights and tokenizer included: name and size of each file, then its
    bytes. A pass over the weights. Raises EdgekitError where a file cannot be read.
    """
    digest, done = hashlib.sha256(), 0
    files = [path for name in _HASHED if (path := checkpoint.path / name).is_file()] + list(checkpoint.shards)
    try:
        sizes = [file.stat().st_size for file in files]
        for path, size in zip(files, sizes, strict=True):
            digest.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as file:
                while piece := file.read(_HASH_STEP_BYTES):
                    digest.update(piece)
                    done += len(piece)
                    progress("hashing the checkpoint", done, sum(sizes))
    except OSError as error:
        reason = (error.strerror or "failed").lower()
        raise EdgekitError(f"cannot read the checkpoint ({reason}): `{checkpoint.path}`") from None
    return digest.hexdigest()


def read_small(path: Path, cap: int) -> bytes:
    """The bytes of a JSON or text file of a checkpoint. Raises EdgekitError when it is missing or implausibly large."""
    try:
        if not path.is_file():
            raise EdgekitError(
                f"the checkpoint lacks `{path.name}`: `{path.parent}`",
                hint="give the folder that `save_pretrained` wrote, with model and tokenizer",
            )
        if path.stat().st_size > cap:
            _refuse(path, f"it is larger than {cap // 2**20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise EdgekitError(f"cannot read the checkpoint ({(error.strerror or 'failed').lower()}): `{path}`") from None


def parse_json(path: Path, data: bytes) -> dict[str, Any]:
    """The JSON table in `data`; `path` is for the message. Raises EdgekitError for everything else."""
    try:
        parsed = json.loads(data.decode(), object_pairs_hook=no_duplicates)
        if b"\\ud" in data.lower():  # half a pair can be escaped and is no text: nothing could write it again
            json.dumps(parsed, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "a key is there twice" if "twice" in str(error) else "it is not valid JSON"
        _refuse(path, reason)
    if not isinstance(parsed, dict):
        _refuse(path, "it is not a JSON table")
    return parsed


def _shards(path: Path, digest: Any) -> tuple[tuple[Path, ...], dict[str, str]]:
    """The weight files in order, and which tensor the index places where."""
    if not (path / INDEX).is_file():
        if (path / SINGLE).is_file():
            return (path / SINGLE,), {}
        _refuse_weightless(path)
    raw = read_small(path / INDEX, MAX_INDEX_BYTES)
    digest.update(raw)
    placed = parse_json(path / INDEX, raw).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        _refuse(path / INDEX, "it has no `weight_map`")
    names = sorted({_shard_name(path, name) for name in placed.values()})
    if len(names) > MAX_SHARDS:
        _refuse(path / INDEX, f"it names {len(names)} files, more than {MAX_SHARDS}")
    for name in names:
        if not (path / name).is_file():
            raise EdgekitError(
                f"a shard of the checkpoint is missing: `{path / name}`",
                hint=f"`{INDEX}` names it: download it again",
            )
    return tuple(path / name for name in names), placed


def _shard_name(path: Path, name: Any) -> str:
    """A file of this very folder: an index can name any path, and must not make us open it."""
    if not isinstance(name, str) or not name.endswith(".safetensors") or len(name) > 255:
        _refuse(path / INDEX, f"it names a file that is not safetensors: `{shown(name)}`")
    if PurePosixPath(name).name != name or "\\" in name or "\0" in name or ":" in name:
        _refuse(path / INDEX, f"it leads out of the checkpoint's folder: `{shown(name)}`")
    return name


def _refuse_weightless(path: Path) -> NoReturn:
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if pickles:
        raise EdgekitError(
            f"pickled weights can run code when they are opened, edgekit does not: `{path / pickles[0]}`",
            hint="convert to safetensors first: load it where you trust it and `model.save_pretrained(folder)`",
        )
    raise EdgekitError(
        f"the checkpoint has no weights (`{SINGLE}` or `{INDEX}`): `{path}`",
        hint="give the folder that `save_pretrained` wrote",
    )


def _tokenizer_files(path: Path) -> TokenizerFiles:
    if (path / "tokenizer.json").is_file():
        return "tokenizer.json"
    return "tokenizer.model" if (path / "tokenizer.model").is_file() else "none"


def _refuse(path: Path, reason: str) -> NoReturn:
    raise EdgekitError(
        f"not a usable checkpoint ({reason}): `{path}`", hint="download or save the checkpoint again, whole"
    )


__all__ = [
    "TOKENIZER_FILES",
    "Checkpoint",
    "StoredTensor",
    "float32",
    "hash_checkpoint",
    "open_checkpoint",
    "parse_json",
    "read_rows",
    "read_small",
    "read_tensor",
    "shown",
]
