"""A few tokens of a distribution tell its divergence: without bias, never below the lower bound, in a fiftieth of the
bytes.
"""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.runtimes.compact.chunks import Damaged, decode_chunk, encode_chunk, largest_chunk, scored_rows
from edgekit.runtimes.compact.keeping import LEAST_ROW_BYTES, row_bytes_for
from edgekit.runtimes.compact.rows import LEAST_CUT, Entries, Rows, join_rows, judge_rows, keep_rows
from edgekit.runtimes.scores import RowScores, score_rows

QWEN = 151_936
CONTEXT = 512


def zipf(rows: int, vocabulary: int, *, exponent: float = 1.1, seed: int = 1) -> np.ndarray:
    """Heavy tails: log p falls with the logarithm of the rank, in an order of its own in every row."""
    rng = np.random.default_rng(seed)
    level = -exponent * np.log(np.arange(1, vocabulary + 1))
    return np.stack([rng.permutation(level) for _ in range(rows)]).astype(np.float32)


def disturbed(logits: np.ndarray, by: float, seed: int = 2) -> np.ndarray:
    """As a quantized model's: every logit a little off, a few of them more."""
    rng = np.random.default_rng(seed)
    return (logits + by * rng.standard_t(5, logits.shape)).astype(np.float32)


def targets_of(logits: np.ndarray) -> list[int]:
    return np.random.default_rng(3).integers(0, logits.shape[1], len(logits)).tolist()


def kept(logits: np.ndarray, *, seed: int = 4, known: int = 0, row_bytes: int = 0) -> Rows:
    """As a file gives it back."""
    vocabulary = logits.shape[1]
    starts = np.random.default_rng(seed).random(len(logits))
    row_bytes = row_bytes or row_bytes_for(vocabulary, CONTEXT)
    rows = keep_rows(logits, targets_of(logits), starts, known=known or vocabulary, row_bytes=row_bytes)
    return decode_chunk(encode_chunk([0] * 8, rows, vocabulary), vocabulary, row_bytes)[1]


def both(reference: np.ndarray, logits: np.ndarray, **options: int) -> tuple[RowScores, RowScores]:
    """(from the kept tokens, from all of them)."""
    targets = targets_of(reference)
    return judge_rows(kept(reference, **options), logits, targets), score_rows(logits, reference, targets)


def exact_kld(reference: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """In float64 throughout."""
    p, q = (rows.astype(np.float64) - rows.max(axis=1, keepdims=True) for rows in (reference, logits))
    p, q = (rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)) for rows in (p, q))
    return (np.exp(p) * (p - q)).sum(axis=1)


SHAPES = {
    "heavy": zipf(6, QWEN),
    "flat": np.random.default_rng(5).normal(size=(6, QWEN)).astype(np.float32),
    "peaked": zipf(6, QWEN, exponent=3.0),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("by", [0.01, 1.0])
def test_the_mean_over_all_samples_is_the_divergence(shape: str, by: float) -> None:
    """Starts on a fine grid stand for the uniform ones: each sampled token is in the share of them that it ought to."""
    reference = SHAPES[shape][:1]
    logits, targets = disturbed(reference, by), targets_of(reference)
    (exact,) = exact_kld(reference, logits)
    estimates = []
    for start in (np.arange(40) + 0.5) / 40:
        rows = keep_rows(reference, targets, np.array([start]), known=QWEN, row_bytes=row_bytes_for(QWEN, CONTEXT))
        estimates.append(float(judge_rows(rows, logits, targets).kld[0]))
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(exact, abs=3.5 * error, rel=1e-5)
    assert error < 0.02 * exact


def test_without_the_weights_of_the_sample_it_would_be_off() -> None:
    """What the test above can see: the lumped tail alone misses a tenth and more."""
    lumped = both(SHAPES["heavy"], disturbed(SHAPES["heavy"], 0.1))
    assert lumped[0].kld_lower.sum() < 0.9 * lumped[1].kld.sum()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("by", [0.0, 1e-3, 0.03, 1.0, 10.0])
def test_the_lower_bound_is_one(shape: str, by: float) -> None:
    found, exact = both(SHAPES[shape], disturbed(SHAPES[shape], by))
    assert (found.kld_lower <= exact.kld + 1e-6 + 1e-5 * exact.kld).all()
    assert (found.kld_lower <= found.kld).all()
    assert (found.kld_lower >= 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_perfect_copy_differs_by_nothing(shape: str) -> None:
    found, _ = both(SHAPES[shape], SHAPES[shape])
    assert found.kld.max() < 1e-7
    assert found.top1.all()


@pytest.mark.slow
def test_small_divergences_come_out_within_a_percent() -> None:
    """Of q8_0's size, a hundred rows; each single row within a fifth."""
    reference = zipf(100, QWEN, exponent=1.3)
    found, exact = both(reference, disturbed(reference, 0.012))
    assert exact.kld.mean() == pytest.approx(1e-4, rel=0.3)
    assert found.kld.mean() == pytest.approx(exact.kld.mean(), rel=0.01)
    assert found.kld == pytest.approx(exact.kld, rel=0.25)


def test_what_needs_no_estimate_is_exact() -> None:
    reference = np.concatenate([SHAPES["heavy"], SHAPES["peaked"]])
    found, exact = both(reference, disturbed(reference, 2.0))
    assert found.nll == pytest.approx(exact.nll, rel=1e-6)
    assert found.reference_nll == pytest.approx(exact.reference_nll, rel=1e-6)
    assert found.top1.tolist() == exact.top1.tolist()
    assert found.top5.tolist() == exact.top5.tolist()
    assert 0 < exact.top5.sum() < len(reference)


def test_a_row_takes_a_fiftieth_of_llama_cpps() -> None:
    rows = scored_rows(CONTEXT)
    peer = rows * (2 * QWEN + 8)
    assert largest_chunk(CONTEXT, QWEN, row_bytes_for(QWEN, CONTEXT)) < peer / 50
    for reference in SHAPES.values():
        chunk = join_rows([kept(reference[:1])] * rows)
        assert len(encode_chunk([0] * CONTEXT, chunk, QWEN)) < peer / 50


def test_no_room_is_left_where_tokens_are_many() -> None:
    for shape in ("heavy", "flat"):
        size = len(encode_chunk([0] * CONTEXT, join_rows([kept(SHAPES[shape])] * 20), QWEN)) / 120
        assert size > 0.93 * (2 * QWEN + 8) / 50
    peaked = len(encode_chunk([0] * CONTEXT, join_rows([kept(SHAPES["peaked"])] * 20), QWEN)) / 120
    assert peaked < 2000  # below the least cut there is nothing worth a byte


@pytest.mark.parametrize("vocabulary", [5, 200, 70_000])
def test_any_vocabulary_is_kept(vocabulary: int) -> None:
    reference = zipf(4, vocabulary)
    found, exact = both(reference, disturbed(reference, 0.1))
    assert found.kld == pytest.approx(exact.kld, rel=0.2, abs=1e-7)
    if vocabulary <= 200:  # all of it is certain
        assert found.kld == pytest.approx(exact.kld, rel=1e-3, abs=1e-7)


def test_a_tail_beyond_float32_is_told() -> None:
    """An artifact so sure of itself that the rest has no exponential: the divergence is large and finite."""
    reference = zipf(3, QWEN)
    logits = 60 * reference
    found, exact = both(reference, logits)
    assert exact.kld.min() > 100
    assert found.kld == pytest.approx(exact.kld, rel=0.02)


def test_logits_that_are_no_numbers_are_told() -> None:
    reference = zipf(3, 1000)
    logits = disturbed(reference, 0.1)
    logits[1, 7], logits[2] = np.nan, np.inf
    found, exact = both(reference, logits)
    assert np.isnan(found.kld).tolist() == np.isnan(exact.kld).tolist() == [False, True, True]
    assert not found.top1[1:].any()
    sick = keep_rows(logits, [1, 2, 3], np.zeros(3), known=1000, row_bytes=500)
    assert np.isnan(sick.nll).tolist() == [False, True, True]


def test_a_shorter_padding_is_left_out() -> None:
    """The reference spends a few percent on padding that the artifact lacks."""
    reference = zipf(8, 1200)
    logits = disturbed(reference, 0.1)[:, :1100]
    targets = (np.array(targets_of(reference)) % 1000).tolist()
    rows = keep_rows(reference, targets, np.full(8, 0.5), known=1000, row_bytes=1200)
    found = judge_rows(rows.without_padding(1000), logits[:, :1000], targets)
    exact = score_rows(logits[:, :1000], reference[:, :1000], targets)
    assert found.kld.mean() == pytest.approx(exact.kld.mean(), rel=0.03)
    assert found.reference_nll == pytest.approx(exact.reference_nll, rel=1e-5)
    assert found.top1.tolist() == exact.top1.tolist()
    assert (np.abs(judge_rows(rows.without_padding(1000), reference[:, :1000], targets).kld) < 1e-6).all()


def test_a_likeliest_padding_gives_way() -> None:
    reference = zipf(2, 1200)
    reference[0, 1150] = 9.0
    rows = keep_rows(reference, [1, 2], np.zeros(2), known=1000, row_bytes=1200).without_padding(1000)
    assert rows.top.tolist() == reference[:, :1000].argmax(axis=1).tolist()


def test_threads_change_nothing() -> None:
    reference, logits = SHAPES["heavy"], disturbed(SHAPES["heavy"], 0.1)
    starts, targets = np.linspace(0, 0.9, 6), targets_of(reference)
    one, many = (keep_rows(reference, targets, starts, known=QWEN, row_bytes=3000, threads=n) for n in (1, 3))
    assert encode_chunk([1], one, QWEN) == encode_chunk([1], many, QWEN)
    assert judge_rows(one, logits, targets).kld.tolist() == judge_rows(many, logits, targets, threads=3).kld.tolist()


def test_the_bytes_come_back() -> None:
    reference = np.concatenate([SHAPES["heavy"], SHAPES["flat"], SHAPES["peaked"]])
    rows = keep_rows(reference, targets_of(reference), np.linspace(0, 0.99, 18), known=QWEN - 271, row_bytes=5000)
    tokens, back = decode_chunk(encode_chunk([QWEN - 1, 0, 65_536], rows, QWEN), QWEN, 5000)
    assert tokens == [QWEN - 1, 0, 65_536]
    for entries, ours in ((rows.certain, back.certain), (rows.sampled, back.sampled)):
        assert entries.tokens.tolist() == ours.tokens.tolist()
        assert entries.starts.tolist() == ours.starts.tolist()
        assert ours.log_p == pytest.approx(entries.log_p, abs=3e-4)
    assert back.certain.log_p == pytest.approx(rows.certain.log_p, abs=2e-6)
    for name in ("nll", "top", "log_cut", "tail", "padding"):
        assert getattr(back, name).tolist() == getattr(rows, name).tolist()
    assert rows.log_cut.min() >= np.log(LEAST_CUT) - 1e-6
    mass = np.bincount(back.certain.rows(), np.exp(back.certain.log_p), minlength=18)
    assert mass + back.tail == pytest.approx(1, abs=1e-12)


def test_strange_bytes_are_damaged_or_harmless() -> None:
    """Every checksum aside: what decodes gives finite scores, and nothing else is raised."""
    reference = zipf(5, 400)
    logits, targets = disturbed(reference, 0.1), targets_of(reference)
    rows = keep_rows(reference, targets, np.linspace(0, 0.9, 5), known=400, row_bytes=600)
    good = encode_chunk([1, 2, 3], rows, 400)
    rng, damaged = np.random.default_rng(6), 0
    for _ in range(600):
        data = bytearray(good)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        try:
            back = decode_chunk(bytes(data[: rng.integers(len(data)) if rng.random() < 0.1 else len(data)]), 400, 600)[
                1
            ]
        except Damaged:
            damaged += 1
            continue
        assert np.isfinite(judge_rows(back, logits, targets).kld).all()
    assert 100 < damaged < 600


# ---- tails that nothing stands for ----------------------------------------------------------------------------------


def made_up(certain: list[float], tail: float, log_cut: float, samples: int) -> bytes:
    """A row that says so."""
    taken = Entries(np.array([0, len(certain)]), np.arange(len(certain)), np.log(np.array(certain)))
    drawn = Entries(np.array([0, samples]), np.arange(1000, 1000 + samples), np.full(samples, log_cut - 0.5))
    column = np.ones(1)
    rows = Rows(3 * column, np.zeros(1, np.int64), log_cut * column, tail * column, 0 * column, taken, drawn)
    return encode_chunk([1, 2, 3], rows, 70_000)


@pytest.mark.parametrize(
    ("certain", "tail", "log_cut", "samples", "said"),
    [
        ([], 1.0, -5.0, 0, "not as many"),  # every artifact would differ by nothing
        ([], 1.0, -5.0, 100, "not as many"),
        ([0.5], 0.5, -7.0, 600, "not as many"),
        ([], 1.0, 0.0, 0, "too few"),
        ([], 1.0, np.log(1 / 100), 100, "too few"),
        ([0.51], 0.49, np.log(0.51), 0, "too few"),
        ([0.4], 0.6, np.log(0.3), 2, "too few"),
        ([0.001, 0.499], 0.5, np.log(0.5 / 300), 300, "should have been sampled"),
        ([1.0], 0.0, -5.0, 1, "samples of nothing"),
    ],
)
def test_a_tail_without_its_samples_is_refused(
    certain: list[float], tail: float, log_cut: float, samples: int, said: str
) -> None:
    with pytest.raises(Damaged, match=said):
        decode_chunk(made_up(certain, tail, float(log_cut), samples), 70_000, LEAST_ROW_BYTES)


def test_a_tail_with_them_is_none_of_these() -> None:
    """What the refusals above turn on: the same rows with as many as are due."""
    decode_chunk(made_up([], 1.0, float(np.log(1 / 300)), 300), 70_000, LEAST_ROW_BYTES)
    decode_chunk(made_up([0.5], 0.5, float(np.log(0.5 / 300)), 301), 70_000, LEAST_ROW_BYTES)
    decode_chunk(made_up([1.0], 0.0, -5.0, 0), 70_000, LEAST_ROW_BYTES)
    decode_chunk(made_up([1.0 - 1e-7], 1e-7, float(np.log(LEAST_CUT)), 0), 70_000, LEAST_ROW_BYTES)


@pytest.mark.parametrize("vocabulary", [3, 23, 24, 25, 239, 240, 241, 300, 2000, 70_000])
@pytest.mark.parametrize("shape", ["equal", "two", "normal", "geometric", "steep"])
def test_every_healthy_row_is_read(vocabulary: int, shape: str) -> None:
    """Few tokens of any size, plateaus, tails of next to nothing: none of it looks made up."""
    rank = np.arange(vocabulary)
    level = {
        "equal": 0.0 * rank,
        "two": np.where(rank < LEAST_ROW_BYTES // 5, 0.0, -18.0),
        "normal": np.random.default_rng(7).normal(size=vocabulary),
        "geometric": -0.7 * rank,
        "steep": -3.0 * np.log1p(rank),
    }[shape]
    reference = np.repeat(level[None].astype(np.float32), 8, axis=0)
    for row_bytes in (120, LEAST_ROW_BYTES, 5600):
        starts = np.linspace(0, 1, 8, endpoint=False)
        rows = keep_rows(reference, [0] * 8, starts, known=vocabulary, row_bytes=row_bytes)
        _, back = decode_chunk(encode_chunk([1], rows, vocabulary), vocabulary, row_bytes)
        assert judge_rows(back, reference, [0] * 8).kld.max() < 1e-6
