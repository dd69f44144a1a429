"""Training data that a teacher writes: asked per domain, each answer checked, kept as it comes, one file at the end.

The same teacher, questions and settings give the same file: after a kill, and from several workers (`shards`), since
what is asked together is decided before and each sample has a randomness of its own.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgekit import corpus
from edgekit.corpus.item import Item
from edgekit.distill.asking import STYLES, Ask, Plan, planned, questions_of
from edgekit.distill.generating import Batches, Completion, Generate, Sampling, generate_with
from edgekit.distill.sample_files import Head, Journal, digest_of, gather, open_journal, read_head, shard_path, write
from edgekit.distill.samples import Sample, golden, is_text, marked, read_samples, spread
from edgekit.distill.selecting import STRATEGIES, disagreements, select, windows_of_samples
from edgekit.errors import EdgekitError, import_extra
from edgekit.progress import Progress, silent
from edgekit.records.synthesis import DomainYield, SynthesisReport
from edgekit.tables import nearest, number

STAGE = "asking the teacher"
LIMITS = {
    "each": (1, 1e6),
    "questions": (0, 1e8),
    "samples": (1, 64),
    "temperature": (0, 10),
    "top_p": (0.01, 1),
    "most_tokens": (1, 4096),
    "most_reasoning_tokens": (1, 32_768),
    "batch": (1, 65_536),
    "seed": (0, 2**31),
}
FEWEST_VOTES = 3
"""Samples of a question whose answer nobody knows, so that a majority means something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesis:
    """What is asked and how. `each` questions of every template (or of those in `templates`) of `domains`, of all
    together at most `questions` (0: as many as there are), in every one of `styles`, `samples` times. A plain answer
    may take `most_tokens`, one with reasons `most_reasoning_tokens`; `batch` samples are written at a time.
    """

    domains: tuple[str, ...] = corpus.DOMAINS
    templates: tuple[str, ...] = ()
    each: int = 50
    questions: int = 0
    styles: tuple[str, ...] = ("answer",)
    samples: int = 1
    temperature: float = 0.7
    top_p: float = 0.95
    most_tokens: int = 32
    most_reasoning_tokens: int = 256
    batch: int = 32
    seed: int = 1

    @property
    def limits(self) -> dict[str, int]:
        """Most tokens by style."""
        return {style: self.most_tokens if style == "answer" else self.most_reasoning_tokens for style in STYLES}


def synthesize(
    model: Any,
    tokenizer: Any,
    settings: Synthesis,
    out: Path,
    progress: Progress = silent,
    *,
    items: Sequence[Item] | None = None,
    held_out: Collection[str] = (),
    turn: Callable[[str], str] | None = None,
    teacher_sha256: str = "",
    shards: tuple[int, int] = (0, 1),
    generate: Generate | None = None,
    decoded_by: str = "transformers",
) -> SynthesisReport:
    """Ask `model` (a transformers causal LM) and write its samples, marked and without repetitions, to the JSONL file
    `out`. What an earlier call wrote there is returned as it stands; one that was killed is gone on with.

    `tokenizer` is a `tokenizers.Tokenizer`. `items` are asked in place of the corpus' (an empty answer: not known, and
    judged by agreement); questions whose `asking.bare` text is in `held_out` are not. `turn` puts each into the
    teacher's chat template (`chatting.chat_of`). `teacher_sha256` names the
    weights (`checkpoint.hash_checkpoint`); they are hashed here where it is left out. `shards` (which, of how many)
    asks a part, into a file beside `out`; whoever finishes last joins them in `out`. `generate` takes the place of the
    model's own batched decoding (`decoded_by` names it); then `model` may be its configuration alone.

    Raises EdgekitError for settings out of range, where `out` holds samples of another teacher, questions or settings,
    where another process writes it, or the disk is full (what was kept stays), and for logits that are no numbers.
    """
    check_synthesis(settings, shards)
    asked = items if items is not None else asked_of(settings)
    check_votes(asked, settings)
    context = context_of(getattr(model, "config", model))
    plan = plan_of(tokenizer, asked, settings, held_out=held_out, turn=turn, context=context)
    teacher_sha256 = teacher_sha256 or weights_sha256(model)
    key = _key(plan, settings, teacher_sha256, decoded_by)
    mine = range(shards[0], len(plan.batches), shards[1])
    head = Head(
        key=key,
        teacher_sha256=teacher_sha256,
        shard=shards,
        asked=dict(sorted(Counter(ask.item.domain for at in mine for ask in plan.batches[at]).items())),
        too_long=plan.too_long,
        held_out=plan.held_out,
        settings=asdict(settings),
    )
    started, generated = time.monotonic(), 0
    place = shard_path(out, shards)
    if read_head(out, key) is None and read_head(place, key) is None:
        generate = generate or generate_with(model, tokenizer)
        with open_journal(place, key) as journal:
            before = journal.tokens
            _ask_missing(plan, mine, settings, generate, journal, progress)
            generated = journal.tokens - before
            write(place, *_judged(plan, mine, settings, journal, head))
    gather(out, key, shards[1])
    here, batches = (out, range(len(plan.batches))) if out.exists() else (place, mine)
    read = settings.samples * sum(len(ask.ids) for at in batches for ask in plan.batches[at])
    return replace(_report(here, key, generated, time.monotonic() - started), read_tokens=read)


def asked_of(settings: Synthesis) -> tuple[Item, ...]:
    """The questions of the corpus that these settings ask. Raises EdgekitError for unknown domains and templates."""
    s = settings
    return questions_of(s.domains, s.templates, s.each, s.seed, most=s.questions)


def plan_of(
    tokenizer: Any,
    items: Iterable[Item],
    settings: Synthesis,
    *,
    held_out: Collection[str] = (),
    turn: Callable[[str], str] | None = None,
    context: int | None = None,
) -> Plan:
    """What would be asked, in which batches. Raises EdgekitError where nothing is."""
    return planned(
        tokenizer,
        items,
        settings.styles,
        most_tokens=settings.limits,
        questions_a_batch=max(1, settings.batch // settings.samples),
        context=context,
        held_out=held_out,
        turn=turn,
    )


def context_of(config: Any) -> int | None:
    """Tokens that a model reads and writes at most, None where its configuration (of transformers, or `config.json`'s
    table) does not say.
    """
    if isinstance(config, Mapping):
        text = config.get("text_config")
        found = (text if isinstance(text, Mapping) else config).get("max_position_embeddings")
    else:
        found = getattr(getattr(config, "get_text_config", lambda: config)(), "max_position_embeddings", None)
    return found if type(found) is int and found > 0 else None


def weights_sha256(model: Any) -> str:
    """sha256 over names, shapes and bytes of a model's weights: whose samples these are. A pass over all of them."""
    torch = import_extra("torch", extra="distill")
    digest = hashlib.sha256(b"edgekit weights 1\n")
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _ask_missing(
    plan: Plan, mine: range, settings: Synthesis, generate: Generate, journal: Journal, progress: Progress
) -> None:
    """Have every batch answered that the journal lacks, and kept there as soon as it is."""
    for at, kept in journal.found.items():
        if at not in mine or len(kept) != len(plan.batches[at]) * settings.samples:
            raise journal.strange()
    missing = [at for at in mine if at not in journal.found]
    asks = sum(len(plan.batches[at]) for at in mine) * settings.samples
    started, before = time.monotonic(), journal.tokens

    def batches() -> Batches:
        for at in missing:
            requests = (a.requests(settings.samples, settings.limits[a.style], settings.seed) for a in plan.batches[at])
            yield at, [one for several in requests for one in several]

    progress(STAGE, journal.samples, asks)
    if not missing:  # whoever generates may load gigabytes before it looks
        return
    for at, said in generate(batches(), Sampling(temperature=settings.temperature, top_p=settings.top_p)):
        journal.keep(at, said)
        rate = (journal.tokens - before) / max(1e-9, time.monotonic() - started)
        progress(STAGE, journal.samples, asks, f"{rate:.0f} tok/s")


def _judged(plan: Plan, mine: range, settings: Synthesis, journal: Journal, head: Head) -> tuple[Head, list[Sample]]:
    """(the head with what was left out, the samples in the order of the file)."""
    found: list[Sample] = []
    worded = 0
    for at in mine:
        said = iter(journal.found[at])
        for ask in plan.batches[at]:
            some = [one for one in _samples(ask, said, settings.samples) if is_text(one.completion)]
            worded += len(some)
            found += marked(some, asked=settings.samples)
    duplicates, wordless = worded - len(found), journal.samples - worded
    return replace(head, tokens=journal.tokens, duplicates=duplicates, wordless=wordless), list(spread(found))


def _samples(ask: Ask, said: Iterator[Completion], count: int) -> Iterator[Sample]:
    for number_, one in zip(range(1, count + 1), said, strict=False):
        yield ask.sample(number_, one.text, tokens=one.tokens, nats=one.nats, finished=one.finished)


def _report(path: Path, key: str, generated: int, seconds: float) -> SynthesisReport:
    """What the file at `path` holds."""
    found = read_head(path, key)
    assert found is not None
    samples = read_samples(path, empty=True)
    of_domain = {domain: [one for one in samples if one.domain == domain] for domain in found.asked}
    return SynthesisReport(
        path=str(path),
        sha256=digest_of(path),
        teacher_sha256=found.teacher_sha256,
        key=key,
        questions=sum(found.asked.values()),
        samples=len(samples),
        duplicates=found.duplicates,
        wordless=found.wordless,
        unfinished=sum(not one.finished for one in samples),
        too_long=found.too_long,
        held_out=found.held_out,
        domains=tuple(_yield(domain, found.asked[domain], mine) for domain, mine in of_domain.items()),
        tokens=found.tokens,
        generated=generated,
        seconds=round(seconds, 3),
    )


def _yield(domain: str, questions: int, samples: Sequence[Sample]) -> DomainYield:
    known = [one for one in samples if one.correct is not None]
    return DomainYield(
        domain=domain,
        questions=questions,
        samples=len(samples),
        checked=len(known),
        correct=sum(bool(one.correct) for one in known),
        agreed=sum(one.usable for one in samples if one.correct is None),
    )


def _key(plan: Plan, settings: Synthesis, teacher_sha256: str, decoded_by: str) -> str:
    """What must be the same for samples to be the same: teacher, what is asked and in what batches, and how."""
    asked = [[(ask.id, ask.prompt, ask.item.answer, ask.ids) for ask in batch] for batch in plan.batches]
    text = json.dumps([1, teacher_sha256, decoded_by, asdict(settings), asked])
    return hashlib.sha256(text.encode()).hexdigest()


def check_synthesis(settings: Synthesis, shards: tuple[int, int] = (0, 1)) -> None:
    """Raise EdgekitError for settings out of range, unknown styles, and a shard that is none."""
    for name, (low, high) in LIMITS.items():
        number(getattr(settings, name), where=f"`{name}` of a synthesis", low=low, high=high)
    if not settings.styles:
        raise EdgekitError("a synthesis needs a style", hint=f"known: {', '.join(STYLES)}")
    for style in settings.styles:
        if style not in STYLES:
            raise EdgekitError(f"unknown style of samples: `{style[:40]}`", hint=nearest(style, STYLES))
    if settings.samples > 1 and settings.temperature == 0:
        raise EdgekitError(
            f"at temperature 0 all of a question's samples are the same, asked for: `{settings.samples}`",
            hint="raise the temperature, or take one sample",
        )
    if not 0 <= shards[0] < shards[1] <= 4096:
        raise EdgekitError(f"a shard is one of several, counted from 0, not `{shards[0]}` of {shards[1]}")


def check_votes(items: Sequence[Item], settings: Synthesis) -> None:
    """Raise EdgekitError where questions without a known answer are asked too few times for a majority."""
    unknown = sum(not item.answer for item in items)
    if unknown and settings.samples < FEWEST_VOTES:
        raise EdgekitError(
            f"{unknown} questions have no known answer: telling by agreement takes {FEWEST_VOTES} samples or more, not"
            f" `{settings.samples}`",
            hint=f"ask for them: `--samples {FEWEST_VOTES + 2}`",
        )


__all__ = [
    "STRATEGIES",
    "Sample",
    "Synthesis",
    "SynthesisReport",
    "asked_of",
    "disagreements",
    "golden",
    "plan_of",
    "read_samples",
    "select",
    "synthesize",
    "windows_of_samples",
]
