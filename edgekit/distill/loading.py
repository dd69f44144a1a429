"""Models of a chain from and to their folders, in one process or many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.checkpoint import hash_checkpoint, open_checkpoint
from edgekit.distill import sharded_loading, sharding, students
from edgekit.distill.pruning import copy_tokenizer
from edgekit.errors import import_extra
from edgekit.files import replacing_folder


def load_model(path: Path, *, frozen: bool = False, shared: bool = False) -> Any:
    """The transformers model in the folder `path`: in float32 where it is to be trained or runs on a CPU, else
    (`frozen`) as it is stored. One that several processes are to share (`shared`) has no weights before `trainer.train`
    shards it, and then each process its own. Raises EdgekitError where it is none that transformers knows, or weights
    are missing.
    """
    open_checkpoint(path)  # says what is wrong with a folder before transformers does
    place = sharding.here()
    as_stored = frozen and place.device.type != "cpu"
    model = sharded_loading.unread_model(path, as_stored=as_stored) if shared and place.processes > 1 else None
    if model is None:
        model = students.load_model(path)
        model = model if as_stored else model.float()
    return model.requires_grad_(False).eval() if frozen else model


def save_model(model: Any, tokenizer: Path, out: Path) -> str:
    """Write `model`, sharded or not, and the tokenizer of the folder `tokenizer` into the folder `out`, whole or not at
    all; gives its hash. All processes must call it; one writes.
    """
    state = sharding.whole_weights(model)
    if sharding.here().index == 0:
        if model.config.get_text_config().tie_word_embeddings:
            state.pop("lm_head.weight", None)  # gathered apart from the table that it is
        with replacing_folder(out, force=True) as folder:
            students.save_model(model, folder, state)
            copy_tokenizer(tokenizer, folder)
    all_here()
    return hash_checkpoint(open_checkpoint(out))


@contextmanager
def in_turn() -> Iterator[None]:
    """The first process does it, the others after it, and find it done."""
    with _state().main_process_first():
        yield


def all_here() -> None:
    """Nobody goes on before all processes are here."""
    _state().wait_for_everyone()


def _state() -> Any:
    accelerate = import_extra("accelerate", extra="distill")
    return accelerate.PartialState(cpu=sharding.here().device.type == "cpu")
