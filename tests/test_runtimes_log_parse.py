"""llama.cpp's log, as real runs wrote it, and as a liar would."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.runtimes.log_parse import LogDigest

REAL = b"""\
llama_model_loader: - kv   3:                            general.name str              = error: missing tensor
load_tensors: tensor 'token_embd.weight' (q6_K) (and 113 others) cannot be used with preferred buffer type CPU_REPACK
repack: repack tensor blk.0.attn_q.weight with q4_0_8x8
load_tensors:   CPU_Mapped model buffer size =   356.53 MiB
load_tensors:   CPU_REPACK model buffer size =   236.25 MiB
set_tensor: amx repack tensor blk.0.attn_k.weight of type q4_0
llama_context: flash_attn            = auto
llama_context:        CPU  output buffer size =     0.58 MiB
llama_kv_cache:        CPU KV buffer size =   448.00 MiB
llama_graph_n_input_tensors: input tensor 'x' failed
resolve_fused_ops: Flash Attention enabled
sched_reserve:        CPU compute buffer size =   312.76 MiB
"""


def digest_of(data: bytes) -> LogDigest:
    digest = LogDigest()
    digest.feed(data)
    digest.close()
    return digest


def test_buffers_with_roles_and_sizes() -> None:
    buffers = digest_of(REAL).buffers
    assert [(b.name, b.role, b.size_bytes, b.mapped) for b in buffers] == [
        ("CPU_Mapped", "weights", 373848801, True),
        ("CPU_REPACK", "repacked", 247726080, False),
        ("CPU", "output", 608174, False),
        ("CPU", "kv", 469762048, False),
        ("CPU", "compute", 327952630, False),
    ]


def test_amx_counts_as_repacked() -> None:
    (buffer,) = digest_of(b"load_tensors:          AMX model buffer size =   357.96 MiB\n").buffers
    assert (buffer.name, buffer.role) == ("AMX", "repacked")


def test_repacked_tensors_and_flash_attention() -> None:
    digest = digest_of(REAL)
    assert digest.repacked_tensors == 2
    assert digest.flash_attention is True


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"llama_context: flash_attn            = auto\n", None),
        (b"llama_context: flash_attn            = disabled\n", False),
        (b"llama_context: flash_attn            = enabled\n", True),
        (b"resolve_fused_ops: Flash Attention not supported, set to disabled\n", False),
    ],
)
def test_flash_attention_states(line: bytes, expected: bool | None) -> None:
    assert digest_of(line).flash_attention is expected


def test_metadata_is_neither_an_error_nor_a_buffer() -> None:
    forged = b"llama_model_loader: - kv 1: general.name str = load_tensors: CPU KV buffer size = 1.00 MiB error\n"
    digest = digest_of(forged)
    assert digest.buffers == []
    assert digest.first_errors == []


def test_last_words_prefer_errors_and_are_printable() -> None:
    digest = digest_of(
        b"llama_model_load: error loading model: missing tensor 'blk.0\x1b[31m.attn_q.weight'\nnothing else\n"
    )
    assert digest.last_words() == "error loading model: missing tensor 'blk.0·[31m.attn_q.weight'"


def test_last_words_without_errors_are_the_last_line() -> None:
    assert digest_of(b"one\nload_tensors: loading blk.7").last_words() == "last log line: load_tensors: loading blk.7"
    assert digest_of(b"").last_words() == ""


def test_a_flood_stays_small() -> None:
    digest = LogDigest()
    for _ in range(300):
        digest.feed(b"error " + b"x" * 20_000)
        digest.feed(b"\nx: CPU KV buffer size = 1.00 MiB\n" * 100)
    assert len(digest.buffers) <= 256
    kept = [*digest.first_errors, *digest.last_errors, *digest.tail]
    assert len(kept) < 50
    assert max(map(len, kept)) <= 600
    assert len(digest.last_words()) <= 300


@given(st.lists(st.integers(0, len(REAL)), max_size=6))
def test_pieces_may_be_cut_anywhere(cuts: list[int]) -> None:
    digest = LogDigest()
    edges = [0, *sorted(cuts), len(REAL)]
    for begin, end in itertools.pairwise(edges):
        digest.feed(REAL[begin:end])
    whole = digest_of(REAL)
    assert digest.buffers == whole.buffers
    assert digest.repacked_tensors == whole.repacked_tensors
    assert list(digest.tail) == list(whole.tail)
