"""How good an artifact is: text it was scored on, tasks it answered, and how like its teacher it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.records.measured import Finding, Host, Runtime
from edgekit.records.numbers import Figure, Unknown
from edgekit.records.run import Settings

_NOT_RECORDED = Unknown(reason="not recorded")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredChunk:
    """Raw scores of one chunk of text: sums over its scored `tokens`, in nats.

    `kld` is KL(reference ‖ artifact), `top1` the number of tokens on which both have the same likeliest one, `top5` of
    those whose likeliest token in the reference is among the artifact's five; `dp2` the sum of (p − p_reference)² of
    the tokens that followed. `None` without a reference, and in records of older versions. `broken` tokens got logits
    that are no numbers: they count in `tokens` and disagree, and the sums leave them out.
    """

    tokens: int
    nll: float
    reference_nll: float | None = None
    kld: float | None = None
    top1: int | None = None
    broken: int = 0
    top5: int | None = None
    dp2: float | None = None
    kld_lower: float | None = None
    """With the reference's tail lumped into one token: at most `kld`. Only of a compact reference."""
    token_kld: tuple[float, ...] = ()
    """KLD of every scored token, in the text's order; broken ones left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One item, answered. `picked` is the choice taken, or what was generated (cut to 200 characters)."""

    item: str
    domain: str
    template: str
    mode: Literal["choice", "generate"]
    correct: bool
    chance: float
    """What guessing scores: 1 ÷ choices; 0 for generated answers."""
    picked: str = ""
    margin_nats: float | None = None
    """Log-likelihood of the right choice less that of the best wrong one; `None` for generated answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a model generated, greedily, for an open prompt of `edgekit`'s own list."""

    prompt: str
    """The prompt's id."""
    text: str
    tokens: int
    stopped: bool
    """Whether the model ended by itself, or the length limit ended it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Everything one model answered: what `evaluate TEACHER --save teacher.json` keeps. Raw; judged against another's.

    `bank` names the items (`edgekit-tasks-1`, or the name of a user's file), `bank_sha256` is of the very items asked,
    in order, with the way they were asked. `checkpoint_sha256` is of the checkpoint that the artifact says to be made
    of, empty where it says nothing.
    """

    kind: Literal["answers"] = "answers"
    version: Literal[1] = 1
    edgekit_version: str
    model: str
    artifact_sha256: str
    bank: str
    bank_sha256: str
    answers: tuple[Answer, ...]
    responses: tuple[Response, ...] = ()
    stand_in: bool = False
    checkpoint_sha256: str = ""
    settings: Settings | None = None
    runtime: Runtime | None = None
    host: Host | None = None
    started_at: str = ""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainScore:
    """One domain of a task bank: shares of right answers, and retention = (student − chance) ÷ (teacher − chance)."""

    domain: str
    items: int
    chance: float
    accuracy: Figure
    teacher_accuracy: Figure = _NOT_RECORDED
    retention: Figure = _NOT_RECORDED
    discordant: float | None = None
    """Share of the items that exactly one of the two answers rightly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Tasks answered by the artifact and by its teacher, item by item."""

    answers: Answers
    teacher: Answers | None = None
    overall: DomainScore
    domains: tuple[DomainScore, ...]
    cliffs: tuple[str, ...] = ()
    """Domains whose retention is far below the overall one, beyond what chance explains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Similarity:
    """How alike the artifact's and the teacher's generations are, on the same prompts; 1 is the same text."""

    teacher: str
    responses: int
    edit: Figure
    """Mean of 1 − edit distance ÷ length of the longer, over characters."""
    overlap: Figure
    """Mean F1 of shared word n-grams (1 to 3)."""
    agreement: Figure
    """Share of prompts with a final answer on which both give the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityClaim:
    """A response in which the artifact says to be someone else's model."""

    prompt: str
    text: str
    claimed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What the artifact says to be, asked in several ways."""

    prompts: int
    expected: tuple[str, ...]
    """Names it may use; empty: none was told, so every known name counts as someone else's."""
    claims: tuple[IdentityClaim, ...]
    share: Figure
    """Of prompts answered with someone else's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShare:
    """A group of tensors, and the KLD that its quantization alone brings into the reference."""

    group: str
    layer: int | None
    tensors: tuple[str, ...]
    types: tuple[str, ...]
    size_bytes: int
    kld: Figure
    share: float
    """Of the sum over the groups."""
    suggestion: str = ""
    """A type that would take most of it away; empty where nothing stands out."""
    suggested_extra_bytes: int = 0
    suggested_kld: Figure = _NOT_RECORDED
    """The group's KLD in the suggested type, measured the same way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Where the KLD of a quantized artifact comes from, group by group, the worst first."""

    method: str
    rows: tuple[LayerShare, ...]
    sum: Figure
    """Of the groups' KLDs; differs from the artifact's own where errors compound or cancel."""
    whole: Figure
    """KLD of the artifact on the same text, by its own kernels."""
    weights: Figure = _NOT_RECORDED
    """KLD of all groups at once in the reference: what `whole` has more, the kernels round off what they multiply."""
    chunks: int
    text_sha256: str
    reference_sha256: str
    artifact_sha256: str
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """Whether the artifact's chat templates are its parent's: byte for byte but for what no template engine sees
    (`\\r\\n` for `\\n`, one newline at the end), and every named one. The hashes are those of the default one.
    """

    status: Literal["same", "changed", "lost", "added", "none"]
    parent: str
    """Name of the artifact or checkpoint it was compared with."""
    sha256: str = ""
    parent_sha256: str = ""
    detail: str = ""
    """Where the first difference is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Quality of the artifact: against a reference on one text, against a teacher on tasks. What was not asked for is
    `Unknown` or `None`; the raw scores are in `chunks`, in the text's order, and in `tasks`.

    The text is cut into chunks of `context_tokens`, the second half of each is scored (`llama-perplexity`'s way).
    `kld_mean` is nats per token, `perplexity_ratio` the artifact's ÷ the reference's, from the same chunks.
    """

    kind: Literal["quality"] = "quality"
    version: Literal[1] = 1
    reference: str
    """Name of the reference artifact; empty without one."""
    reference_form: Literal["", "live", "compact"] = ""
    """`live` ran here beside the artifact, `compact` is a file of what it said."""
    perplexity: Figure
    kld_mean: Figure
    """KLD gates judge the upper end. Of a compact reference: the unbiased estimate."""
    top1_agreement: Figure
    reference_perplexity: Figure = _NOT_RECORDED
    perplexity_ratio: Figure = _NOT_RECORDED
    kld_lower: Figure = _NOT_RECORDED
    """Lower bound of `kld_mean`, the tail as one token; only of a compact reference."""
    kld_median: Figure = _NOT_RECORDED
    kld_p90: Figure = _NOT_RECORDED
    kld_p99: Figure = _NOT_RECORDED
    kld_p999: Figure = _NOT_RECORDED
    kld_max: Figure = _NOT_RECORDED
    top5_agreement: Figure = _NOT_RECORDED
    dp_rms: Figure = _NOT_RECORDED
    """Root mean square of the change in the probability of the token that followed."""
    chunks: tuple[ScoredChunk, ...] = ()
    context_tokens: int = 0
    text_tokens: int = 0
    """Of the whole text, scored or not."""
    text_sha256: str = ""
    text_origin: str = ""
    tasks: Tasks | None = None
    similarity: Similarity | None = None
    identity: Identity | None = None
    layers: Layers | None = None
    template: ChatTemplate | None = None
    artifact_sha256: str = ""
    reference_sha256: str = ""
    reference_quant: str = ""
    """How the reference's matrices are stored (`header.precision.stored_as`); empty without one, and where nobody said.
    """
    edgekit_version: str = ""
    settings: Settings | None = None
    runtime: Runtime | None = None
    reference_runtime: Runtime | None = None
    host: Host | None = None
    started_at: str = ""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceFile:
    """A compact reference: what `model` said of a text, kept in a file that takes its place. The header of the file,
    and in the last fields what was found at `path`.

    The file holds the text itself, compressed, and of every scored token's distribution as much as `row_bytes` take.
    """

    kind: Literal["reference-file"] = "reference-file"
    version: Literal[1] = 1
    edgekit_version: str
    created_at: str
    model: str
    """Name of the artifact."""
    quant: str
    artifact_sha256: str
    stand_in: bool = False
    text_sha256: str
    text_origin: str
    text_tokens: int
    """Of the whole text, kept or not."""
    context_tokens: int
    chunks: int
    """That it holds once it is complete."""
    vocabulary: int
    """Columns of the model's logits, padding and all."""
    row_bytes: int
    seed: int
    settings: Settings
    runtime: Runtime
    host: Host | None = None
    findings: tuple[Finding, ...] = ()
    shape_sha256: str = ""
    """Of the model's layers, sizes and heads (`header.provenance.shape_digest`)."""
    templates: tuple[tuple[str, str], ...] | None = None
    """Name and SHA-256 of each of the model's chat templates; `None` where nobody looked (older versions)."""
    path: str = ""
    size_bytes: int = 0
    kept_chunks: int = 0

    @property
    def complete(self) -> bool:
        """Whether every chunk is there."""
        return self.kept_chunks == self.chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Two builds of one model on one text, such as a GGUF and an ONNX folder: `b` judged with `a` as its reference.

    `quality.perplexity` is b's, `quality.reference_perplexity` a's, `quality.kld_mean` KL(a ‖ b).
    """

    kind: Literal["parity"] = "parity"
    version: Literal[1] = 1
    a: str
    b: str
    quality: Quality
