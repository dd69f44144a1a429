"""Students made here: a recipe gives a Hugging Face folder with a trained model and its tokenizer, cached.

They are small, but what quantization and distillation need of them is real: real architectures and tokenizers, and
weights that have learned (a student that has not is refused).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgekit import corpus
from edgekit.checkpoint import open_checkpoint, shown
from edgekit.distill import sharding
from edgekit.distill.checkpointing import OtherRun
from edgekit.distill.questions import packed, questions
from edgekit.distill.settings import TrainSettings
from edgekit.distill.tokenizing import write_tokenizer
from edgekit.distill.trainer import train
from edgekit.distill.training import next_token, next_token_objective, unigram_entropy
from edgekit.distill.windows import windows_of
from edgekit.errors import EdgekitError, import_extra
from edgekit.files import cache_folder, replacing_folder
from edgekit.progress import Progress, silent

FORMAT_VERSION = 1
"""Raised when the same recipe gives another student, so that caches of older versions are not read."""

FINGERPRINT_CHARACTERS = 60_000
HELD_OUT_CHARACTERS = 60_000
HELD_OUT_QUESTIONS = 20
"""Of each template."""
LEARNED = 0.75
"""A student must bring its held-out loss below this share of the unigram entropy."""

MOST_LOST = 200
"""Steps between checkpoints at most."""

RECORD = "edgekit-student.json"
_MOST_LABELS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that makes one student. `vocabulary` is the width of the embedding; the tokenizer has `spare` tokens fewer
    (real checkpoints pad theirs).
    """

    name: str
    architecture: str
    tokenizer: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    spare: int = 0
    tied: bool = True
    context: int = 4096
    extra: tuple[tuple[str, Any], ...] = ()
    """Further fields of the transformers config, as (name, value)."""
    characters: int = 0
    """Training text, four domains; also what the tokenizer is trained on (its first million)."""
    questions: int = 0
    """Of each template: a student of questions is trained on them alone, and its text is for the tokenizer only."""
    templates: tuple[str, ...] = ()
    """Of questions; empty: all."""
    prompt_weight: float = 0.05
    """Of a question's own tokens beside those of its answer."""
    steps: int = 0
    batch: int = 16
    length: int = 256
    learning_rate: float = 1e-3
    seed: int = 1
    dtype: str = "float32"
    """What the weights are saved as; training keeps them in float32."""


def make_student(recipe: Recipe, *, progress: Progress = silent) -> Path:
    """The folder of a trained student (config.json, model.safetensors, tokenizer files, `edgekit-student.json`), from
    the cache or trained now; a training that was killed goes on from its last checkpoint, to the same bytes. Where
    there are several processes, one makes it and the others wait.

    Raises EdgekitError when it did not learn: the error of quantizing noise means nothing.
    """
    return _cached(recipe, "trained", progress)


def random_student(recipe: Recipe) -> Path:
    """The same folder with random weights, norms and biases far from one and zero, so that a forgotten or misplaced
    tensor shows in the logits.
    """
    return _cached(recipe, "random", silent)


def place_of(recipe: Recipe, kind: str = "trained") -> Path:
    """Where the student of `recipe` is kept, or will be."""
    return cache_dir() / f"{recipe.name}-{kind}-{_key(recipe)}"


def _cached(recipe: Recipe, kind: str, progress: Progress) -> Path:
    folder = place_of(recipe, kind)
    if (folder / RECORD).is_file():
        return folder
    with _locked(folder):
        if not (folder / RECORD).is_file():  # another process may have made it while this one waited
            for killed in folder.parent.glob(f".{folder.name}.*.partial"):  # its maker held this lock
                shutil.rmtree(killed, ignore_errors=True)
            with replacing_folder(folder, force=True) as temporary:
                _make(recipe, kind, temporary, _training_of(folder), progress)
            shutil.rmtree(_training_of(folder), ignore_errors=True)
    return folder


def _training_of(folder: Path) -> Path:
    """Where the checkpoints of a student are while it is trained."""
    return folder.with_name(f".{folder.name}.training")


def _make(recipe: Recipe, kind: str, folder: Path, training: Path, progress: Progress) -> None:
    torch = import_extra("torch", extra="distill")
    text = _text(recipe)
    tokenizer = write_tokenizer(recipe.tokenizer, text[:1_000_000], recipe.vocabulary - recipe.spare, folder)
    torch.manual_seed(recipe.seed)
    model = _model(recipe, tokenizer)
    report: dict[str, Any] = {"recipe": asdict(recipe), "kind": kind, "parameters": _parameters(model)}
    if kind == "trained":
        report |= _train(recipe, model, tokenizer, text, training, progress)
    else:
        _scatter(torch, model, recipe.seed)
    save_model(model.to(getattr(torch, recipe.dtype)), folder)
    (folder / RECORD).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def save_model(model: Any, folder: Path, state: dict[str, Any] | None = None) -> None:
    """`model.save_pretrained` without its progress bar; `state` are the weights where the model's are sharded."""
    with _quiet():
        model.save_pretrained(folder, state_dict=state)


def load_model(folder: Path) -> Any:
    """The transformers causal LM in `folder`, in the dtype that it was saved in, nothing fetched and no code run.

    Raises EdgekitError where transformers cannot load it, or would invent weights that are not there.
    """
    transformers = import_extra("transformers", extra="distill")
    _check_config(folder)
    try:
        with _quiet():
            model, found = transformers.AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, dtype="auto", output_loading_info=True
            )
    except MemoryError:
        raise
    except Exception as error:  # transformers raises whatever a configuration's own checks do
        raise unloadable(folder, error) from None
    lacking = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if lacking:
        raise EdgekitError(
            f"the model lacks {len(lacking)} of its weights, or has them in another shape, as `{shown(lacking[0])}`: "
            f"`{folder}`",
            hint="download or save the checkpoint again, whole",
        )
    return model


def unloadable(folder: Path, error: Exception) -> EdgekitError:
    """What to raise where transformers makes no model of a folder."""
    reason = shown(" ".join(str(error).split()) or type(error).__name__, 200)
    return EdgekitError(f"transformers cannot load the model ({reason}): `{folder}`")


def read_config(folder: Path) -> Any:
    """The transformers configuration in `folder`, nothing fetched and no code run. Raises EdgekitError."""
    transformers = import_extra("transformers", extra="distill")
    _check_config(folder)
    try:
        with _quiet():
            return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever a configuration's own checks do
        raise EdgekitError(f"transformers cannot load the configuration ({shown(error)}): `{folder}`") from None


def _check_config(folder: Path) -> None:
    """Refuse what makes transformers fetch a kernel from the hub (which is code), or fill memory with names."""
    config = open_checkpoint(folder).config
    for name in ("attn_implementation", "_attn_implementation"):
        if "/" in str(config.get(name, "")):
            raise EdgekitError(f"the configuration asks for a kernel from elsewhere by `{name}`: `{folder}`")
    labels = config.get("num_labels")
    if isinstance(labels, int) and labels > _MOST_LABELS:
        raise EdgekitError(f"the configuration names {labels} labels by `num_labels`: `{folder}`")


@contextmanager
def _quiet() -> Iterator[None]:
    """One shard of some megabytes needs no bar."""
    logging = import_extra("transformers.utils.logging", extra="distill")
    shown_before, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown_before:
            logging.enable_progress_bar()


def _train(recipe: Recipe, model: Any, tokenizer: Any, text: str, out: Path, progress: Progress) -> dict[str, Any]:
    ids, weights = _tokens(recipe, tokenizer, text, "train")
    windows, alone = windows_of(ids, weights, recipe.length), sharding.alone()
    begin = partial(train, model, windows, next_token_objective, _settings(recipe), out=out, place=alone)
    try:
        training = begin(progress=progress)
    except OtherRun:
        shutil.rmtree(out)  # of another version of torch, or in another precision: a cache asks nobody to remove it
        training = begin(progress=progress)
    if training.stopped is not None:
        shutil.rmtree(out, ignore_errors=True)  # a recipe that diverges has to be another
        raise EdgekitError(f"training {training.stopped} with learning rate `{recipe.learning_rate}`")
    unseen = "" if recipe.questions else corpus.text("evaluation", characters=HELD_OUT_CHARACTERS)
    held_out, weights = _tokens(recipe, tokenizer, unseen, "evaluation")
    entropy = unigram_entropy([token for token, weight in zip(held_out, weights, strict=True) if weight])
    score = next_token(model, held_out, length=recipe.length, weights=weights)
    if score.loss > LEARNED * entropy:
        shutil.rmtree(out, ignore_errors=True)
        raise EdgekitError(
            f"the model did not learn: held-out loss {score.loss:.2f} nats against an entropy of {entropy:.2f}: "
            f"`{recipe.name}`",
            hint="give it more `steps`; where it saw little text, more `questions` and `characters`",
        )
    losses = [loss for _, loss in training.losses]
    last = losses[-max(1, len(losses) // 20) :]
    return {
        "training_seconds": training.seconds,
        "training_tokens": training.tokens,
        "text_tokens": len(ids),
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "training_loss": sum(last) / len(last),
        "held_out": asdict(score),
        "held_out_unigram_entropy": entropy,
    }


def _settings(recipe: Recipe) -> TrainSettings:
    return TrainSettings(
        steps=recipe.steps,
        batch=recipe.batch,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        checkpoint_every=max(1, min(MOST_LOST, recipe.steps // 10)),
        log_every=1,
    )


def _tokens(recipe: Recipe, tokenizer: Any, text: str, split: corpus.Split) -> tuple[list[int], list[float]]:
    """Ids and weights of the text, or of the split's questions; of held-out questions only the answers count."""
    if recipe.questions:
        each = recipe.questions if split == "train" else HELD_OUT_QUESTIONS
        asked = questions(split, each=each, templates=recipe.templates, seed=recipe.seed)
        weight = recipe.prompt_weight if split == "train" else 0.0
        return packed(tokenizer, asked, length=recipe.length, prompt_weight=weight)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return ids, [1.0] * len(ids)


CLASSES = {"llama": "LlamaConfig", "qwen2": "Qwen2Config", "qwen3": "Qwen3Config", "gemma3_text": "Gemma3TextConfig"}


def _model(recipe: Recipe, tokenizer: Any) -> Any:
    transformers = import_extra("transformers", extra="distill")
    settings: dict[str, Any] = {
        "vocab_size": recipe.vocabulary,
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.ffn,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.kv_heads,
        "head_dim": recipe.head_dim,
        "max_position_embeddings": recipe.context,
        "tie_word_embeddings": recipe.tied,
        **deepcopy(dict(recipe.extra)),  # transformers writes into the dicts it is given
        **_marks(recipe.tokenizer, tokenizer),
    }
    if recipe.architecture == "qwen2":  # its head width is always hidden / heads
        del settings["head_dim"]
    config = getattr(transformers, CLASSES[recipe.architecture])(**settings)
    return transformers.AutoModelForCausalLM.from_config(config)


MARKS = {
    "qwen2": {"eos_token_id": "<|im_end|>", "bos_token_id": "<|endoftext|>"},
    "qwen3": {"eos_token_id": "<|im_end|>", "bos_token_id": "<|endoftext|>"},
    "llama3": {"eos_token_id": "<|eot_id|>", "bos_token_id": "<|begin_of_text|>"},
    "smollm": {"eos_token_id": "<|im_end|>", "bos_token_id": "<|im_start|>", "pad_token_id": "<|im_end|>"},
    "llama2": {"eos_token_id": "</s>", "bos_token_id": "<s>"},
    "gemma": {"eos_token_id": "<eos>", "bos_token_id": "<bos>", "pad_token_id": "<pad>"},
}


def _marks(family: str, tokenizer: Any) -> dict[str, int]:
    return {field: tokenizer.token_to_id(token) for field, token in MARKS[family].items()}


def _scatter(torch: Any, model: Any, seed: int) -> None:
    """Matrices that keep the size of their input; norms and biases that no default value could stand for."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)
            else:
                parameter.uniform_(0.25, 0.75, generator=generator)


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _text(recipe: Recipe) -> str:
    return corpus.text("train", seed=recipe.seed, characters=max(recipe.characters, FINGERPRINT_CHARACTERS))


def _key(recipe: Recipe) -> str:
    """The recipe and the beginning of what it learns: a changed corpus (or another Python's sources) is another
    student.
    """
    beginning = [corpus.text("train", seed=recipe.seed, characters=FINGERPRINT_CHARACTERS)]
    if recipe.questions:
        some = questions("train", each=min(recipe.questions, 10), templates=recipe.templates, seed=recipe.seed)
        beginning += [item.line for item in some]
    # the newest field, left out where it says nothing: students made before there was one are still theirs
    fields = {name: value for name, value in asdict(recipe).items() if value or name != "templates"}
    words = (str(FORMAT_VERSION), json.dumps(fields, sort_keys=True), *beginning)
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:10]


def cache_dir() -> Path:
    """Where students are kept: `$XDG_CACHE_HOME` or the OS's own place, then `edgekit/students`."""
    return cache_folder("students")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process makes a student, the others wait for it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = (folder.parent / f".{folder.name}.lock").open("w")
    except OSError as error:
        raise EdgekitError(
            f"cannot write to the cache of students ({(error.strerror or 'failed').lower()}): `{folder.parent}`",
            hint="set `XDG_CACHE_HOME` to a writable place",
        ) from None
    with lock:  # the kernel lets go of it when its holder dies
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
