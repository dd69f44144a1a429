"""What the converter refuses, by name and without a half file; and what small hand-made checkpoints become."""

from __future__ import annotations

import copy
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import CONFIG, QWEN_SPLIT, tokenizer, weights, write_checkpoint

from edgekit import __version__
from edgekit.checkpoint import hash_checkpoint, open_checkpoint
from edgekit.errors import EdgekitError, ExitCode
from edgekit.header import read_header
from edgekit.header.provenance import read_provenance
from edgekit.quantize.convert import convert
from edgekit.quantize.convert.plan import plan_tensors
from edgekit.quantize.convert.settings import read_model
from edgekit.quantize.convert.stream import convert_rows, round_to_bf16
from edgekit.quantize.convert.vocabulary import read_vocabulary

gguf = pytest.importorskip("gguf", reason="gguf is not installed")

Tokens = dict[str, Any]


def refusal(folder: Path, **options: Any) -> EdgekitError:
    """The refusal of a conversion, which leaves nothing behind."""
    out = folder.parent / "out" / "model.gguf"
    with pytest.raises(EdgekitError) as caught:
        convert(open_checkpoint(folder), out, **options)
    error = caught.value
    assert error.code == ExitCode.USAGE
    assert error.hint
    assert "\n" not in error.message
    assert not out.parent.exists() or not list(out.parent.iterdir())
    return error


def written(folder: Path, **options: Any) -> Any:
    """What the gguf package reads in the converted file."""
    return gguf.GGUFReader(convert(open_checkpoint(folder), folder / "model.gguf", **options))


# ---- weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("to", ["f32", "f16", "bf16"])
def test_weights_that_are_not_finite(tmp_path: Path, bad: float, to: str) -> None:
    tensors = weights()
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = bad
    error = refusal(write_checkpoint(tmp_path / "bad", tensors=tensors), type=to)
    assert "`model.layers.1.mlp.up_proj.weight` holds NaN or infinity" in error.message


def test_nan_in_bfloat16_that_is_copied(tmp_path: Path) -> None:
    tensors = {name: round_to_bf16(value) for name, value in weights().items()}
    tensors["lm_head.weight"][100, 7] = 0x7FC0
    error = refusal(write_checkpoint(tmp_path / "bad", tensors=tensors), type="bf16")
    assert "`lm_head.weight` holds NaN" in error.message


@pytest.mark.parametrize("to", ["f32", "f16", "bf16"])
def test_every_bfloat16_is_rounded_as_numpy_does(tmp_path: Path, to: str) -> None:
    every = np.arange(2**16, dtype=np.uint16)
    values = (every.astype(np.uint32) << 16).view(np.float32)
    kept = every[np.abs(np.nan_to_num(values, nan=np.inf)) < 65504]
    names = {"lm_head.weight": "output.weight", "model.embed_tokens.weight": "token_embd.weight"}
    names["model.layers.0.mlp.up_proj.weight"] = "blk.0.ffn_up.weight"
    tensors = {name: round_to_bf16(value) for name, value in weights().items()}
    tensors["lm_head.weight"] = np.resize(kept, (272, 64))
    tensors["model.embed_tokens.weight"] = np.resize(kept[::-1], (272, 64))
    tensors["model.layers.0.mlp.up_proj.weight"] = np.resize(kept[272 * 64 :], (96, 64))
    assert len({*np.concatenate([tensors[name].ravel() for name in names])}) == len(kept)
    folder = write_checkpoint(tmp_path / "every", tensors=tensors)
    found = {tensor.name: tensor for tensor in written(folder, type=to).tensors}
    for theirs, ours in names.items():
        stored = tensors[theirs]
        expected = (stored.astype(np.uint32) << 16).view(np.float32)
        made = {"f32": expected, "f16": expected.astype(np.float16), "bf16": stored}[to]
        assert found[ours].data.tobytes() == made.tobytes()


def test_values_beyond_half_precision(tmp_path: Path) -> None:
    tensors = weights()
    tensors["lm_head.weight"][0, 0] = 70_000
    folder = write_checkpoint(tmp_path / "large", tensors=tensors)
    for stored in (
        folder,
        write_checkpoint(tmp_path / "bf16", tensors={n: round_to_bf16(v) for n, v in tensors.items()}),
    ):
        error = refusal(stored)
        assert "beyond f16" in error.message
    assert "bf16" in error.hint
    assert read_header(convert(open_checkpoint(folder), tmp_path / "large.gguf", type="bf16")).quant == "bf16"


def test_wrong_shape(tmp_path: Path) -> None:
    tensors = weights()
    tensors["model.layers.0.mlp.down_proj.weight"] = np.zeros((64, 95), np.float32)
    message = refusal(write_checkpoint(tmp_path / "bad", tensors=tensors)).message
    assert "`model.layers.0.mlp.down_proj.weight` is [64, 95], its config says [64, 96]" in message


def test_missing_tensor(tmp_path: Path) -> None:
    tensors = weights()
    del tensors["model.layers.1.self_attn.k_norm.weight"]
    folder = write_checkpoint(tmp_path / "bad", tensors=tensors)
    assert "`model.layers.1.self_attn.k_norm.weight` is missing" in refusal(folder).message


def test_tensor_without_a_place(tmp_path: Path) -> None:
    tensors = {**weights(), "model.layers.0.self_attn.q_proj.lora_A": np.zeros((4, 64), np.float32)}
    folder = write_checkpoint(tmp_path / "bad", tensors=tensors)
    assert "lora_A` has no place in a `qwen3` model" in refusal(folder).message


def test_integers_for_weights(tmp_path: Path) -> None:
    tensors = weights()
    tensors["lm_head.weight"] = np.zeros((272, 64), np.int32)
    assert "stored as `I32`" in refusal(write_checkpoint(tmp_path / "bad", tensors=tensors)).message


# ---- config ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "mamba"}, "cannot convert this architecture to GGUF: `mamba`"),
        ({"hidden_size": None}, "`hidden_size` is None"),
        ({"hidden_size": "64"}, "`hidden_size` is 64"),
        ({"hidden_size": -64}, "`hidden_size` is -64"),
        ({"num_hidden_layers": 10**9}, "`num_hidden_layers` is 1000000000"),
        ({"num_attention_heads": True}, "`num_attention_heads` is True"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3"),
        ({"head_dim": 33}, "a head of 33"),
        ({"rms_norm_eps": "small"}, "`rms_norm_eps`"),
        ({"rms_norm_eps": -1}, "`rms_norm_eps`"),
        ({"tie_word_embeddings": 1}, "`tie_word_embeddings`"),
        ({"hidden_act": "relu"}, "`hidden_act` is relu"),
        ({"use_sliding_window": True}, "`use_sliding_window`"),
        ({"attention_bias": True}, "`attention_bias`"),
        ({"quantization_config": {"quant_method": "gptq"}}, "`quantization_config`"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope scaling `yarn`"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope scaling `longrope`"),
        ({"rope_parameters": {"rope_type": "linear"}}, "`factor`"),
        ({"rope_parameters": 7}, "rope settings"),
        ({"rope_parameters": {"rope_theta": "big"}}, "`rope_theta`"),
        ({"partial_rotary_factor": 0.5}, "`partial_rotary_factor`"),
    ],
)
def test_config_that_llama_cpp_cannot_follow(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    assert says in refusal(write_checkpoint(tmp_path / "bad", config=change)).message


def test_old_and_new_rope_settings_are_read_alike(tmp_path: Path) -> None:
    """transformers 4 says `rope_theta`, 5 nests it; read wrongly it would silently be 10000."""
    new = write_checkpoint(tmp_path / "new")
    old = write_checkpoint(tmp_path / "old", config={"rope_parameters": None, "rope_theta": 1e6, "rope_scaling": None})
    assert read_model(open_checkpoint(new)).rope.base == 1e6
    assert read_model(open_checkpoint(old)) == read_model(open_checkpoint(new))


def test_linear_scaling_in_both_spellings(tmp_path: Path) -> None:
    new = {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}}
    old = {"rope_parameters": None, "rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4.0}}
    for name, change in {"new": new, "old": old}.items():
        rope = read_model(open_checkpoint(write_checkpoint(tmp_path / name, config=change))).rope
        assert (rope.base, rope.linear_factor) == (1e6, 4.0)


GEMMA = {
    **dict.fromkeys(CONFIG),
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 7,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 272,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "sliding_window": 64,
    "query_pre_attn_scalar": 32,
}


def test_gemma_settings_in_both_spellings(tmp_path: Path) -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"]
    local, full = {"rope_type": "default", "rope_theta": 2e4}, {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e6}
    new = {"layer_types": kinds, "rope_parameters": {"sliding_attention": local, "full_attention": full}}
    old = {
        "sliding_window_pattern": 6,
        "rope_theta": 2e6,
        "rope_local_base_freq": 2e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    models = [
        read_model(open_checkpoint(write_checkpoint(tmp_path / name, config={**GEMMA, **change})))
        for name, change in {"new": new, "old": old}.items()
    ]
    assert models[0] == models[1]
    assert models[0].sliding == (True,) * 5 + (False, True)
    assert (models[0].rope.base, models[0].rope.sliding_base, models[0].rope.linear_factor) == (2e6, 2e4, 8.0)
    assert models[0].tied


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"query_pre_attn_scalar": 256}, "`query_pre_attn_scalar` is 256, llama.cpp computes with 32"),
        ({"attn_logit_softcapping": 50.0}, "`attn_logit_softcapping`"),
        ({"use_bidirectional_attention": True}, "`use_bidirectional_attention`"),
        ({"attention_bias": True}, "`attention_bias`"),
        ({"layer_types": ["sliding_attention"]}, "`layer_types`"),
        ({"hidden_activation": "gelu"}, "`hidden_activation` is gelu"),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "linear"}}}, "does not scale sliding layers"),
    ],
)
def test_gemma_that_llama_cpp_cannot_follow(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    assert says in refusal(write_checkpoint(tmp_path / "bad", config={**GEMMA, **change})).message


# ---- tokenizer ---------------------------------------------------------------------------------------------------


def _drop_merges(tokens: Tokens) -> None:
    del tokens["model"]["merges"]


def _other_split(tokens: Tokens) -> None:
    tokens["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": QWEN_SPLIT + "|x"}


def _merged_split(tokens: Tokens) -> None:
    tokens["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "MergedWithNext"


def _spaced(tokens: Tokens) -> None:
    tokens["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True


TOKENIZERS: dict[str, tuple[Callable[[Tokens], Any], str]] = {
    "no merges": (_drop_merges, "no merges"),
    "empty merges": (lambda t: t["model"].update(merges=[]), "no merges"),
    "a merge of three": (lambda t: t["model"].update(merges=[["a", "b", "c"]]), "not a pair"),
    "a merge with a space": (lambda t: t["model"].update(merges=[["a b", "c"]]), "contains a space"),
    "a merge of numbers": (lambda t: t["model"].update(merges=[[1, 2]]), "not a pair"),
    "no model": (lambda t: t.pop("model"), "its model is `none`"),
    "unigram": (lambda t: t["model"].update(type="Unigram"), "its model is `Unigram`"),
    "no vocabulary": (lambda t: t["model"].update(vocab={}), "no usable vocabulary"),
    "token without number": (lambda t: t["model"]["vocab"].update(x="7"), "without a valid number"),
    "number twice": (lambda t: t["model"]["vocab"].update(zz=5), "token 5 is there twice"),
    "number beyond the embedding": (lambda t: t["model"]["vocab"].update(zz=272), "no row in the embedding of 272"),
    "added over another": (lambda t: t["added_tokens"][0].update(id=5), "token 5 is both"),
    "added without text": (lambda t: t["added_tokens"][0].update(content=None), "added token is not valid"),
    "half a surrogate pair": (lambda t: t["model"]["vocab"].update({"\ud800": 261}), "not valid JSON"),
    "a text twice to its zero byte": (lambda t: t["model"]["vocab"].update({"the\0x": 261}), "same text"),
    "a text twice": (lambda t: t["added_tokens"][0].update(content="the"), "same text"),
    "unknown split": (_other_split, "no known name for this pre-tokenizer"),
    "other behaviour": (_merged_split, "no known name for this pre-tokenizer"),
    "space in front": (_spaced, "no known name for this pre-tokenizer"),
    "no pre-tokenizer": (lambda t: t.update(pre_tokenizer=None), "no known name for this pre-tokenizer"),
    "lower case": (lambda t: t.update(normalizer={"type": "Lowercase"}), "does not normalize"),
    "merges ignored": (lambda t: t["model"].update(ignore_merges=True), "`ignore_merges`"),
    "subword prefix": (lambda t: t["model"].update(continuing_subword_prefix="##"), "`continuing_subword_prefix`"),
    "post-processor": (lambda t: t.update(post_processor={"type": "BertProcessing"}), "`BertProcessing`"),
    "broken template": (lambda t: t.update(post_processor={"type": "TemplateProcessing"}), "not a template"),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizer_that_llama_cpp_cannot_follow(tmp_path: Path, case: str) -> None:
    change, says = TOKENIZERS[case]
    tokens = tokenizer()
    change(tokens)
    assert says in refusal(write_checkpoint(tmp_path / "bad", tokens=tokens)).message


def test_no_tokenizer(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "bad")
    (folder / "tokenizer.json").unlink()
    assert "no `tokenizer.json`" in refusal(folder).message


def test_special_token_that_is_no_token(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "bad", tokenizer_config={"eos_token": "<|nowhere|>"})
    assert "`eos_token` is not in the vocabulary: <|nowhere|>" in refusal(folder).message


def test_chat_template_that_is_no_text(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "bad", tokenizer_config={"chat_template": [{"name": "x y", "template": "z"}]})
    assert "chat template `x y`" in refusal(folder).message


def test_pieces_that_only_llama_cpp_would_join(tmp_path: Path) -> None:
    """SentencePiece joins any two pieces that make a third; a tokenizer whose merges do less cannot be expressed."""
    tokens = tokenizer()
    vocab = {f"<0x{value:02X}>": value for value in range(256)} | {"a": 256, "b": 257, "ab": 258, "▁": 259, "▁a": 261}
    tokens["model"] |= {"byte_fallback": True, "vocab": vocab, "merges": [["a", "b"], ["▁", "a"]]}
    tokens |= {
        "pre_tokenizer": None,
        "post_processor": None,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    }
    sound = read_vocabulary(open_checkpoint(write_checkpoint(tmp_path / "sound", tokens=tokens)), 272)
    assert sound.model == "llama"
    assert sound.scores[258] > sound.scores[261] > sound.scores[256]
    hidden = copy.deepcopy(tokens)
    hidden["model"]["merges"] = [["a", "b"]]
    rewritten = read_vocabulary(open_checkpoint(write_checkpoint(tmp_path / "hidden", tokens=hidden)), 272)
    assert rewritten.tokens[261] == " a"  # printed alike, never looked up
    tokens["model"]["merges"] = [["▁", "a"]]
    assert "see the piece `ab`" in refusal(write_checkpoint(tmp_path / "bad", tokens=tokens)).message


def test_pieces_in_an_order_that_no_scores_give(tmp_path: Path) -> None:
    tokens = tokenizer()
    vocab = {f"<0x{value:02X}>": value for value in range(256)} | {"a": 256, "b": 257, "ab": 258, "ba": 259}
    vocab |= {"aba": 261, "bab": 262}
    merges = [["a", "b"], ["b", "a"], ["ab", "a"], ["b", "ab"], ["a", "ba"], ["ba", "b"]]
    tokens["model"] |= {"byte_fallback": True, "vocab": vocab, "merges": merges}
    tokens |= {"pre_tokenizer": None, "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}}
    assert "see the piece `aba`" in refusal(write_checkpoint(tmp_path / "bad", tokens=tokens)).message
    tokens["model"]["merges"] = [["a", "b"], ["b", "a"], ["ab", "a"], ["a", "ba"], ["b", "ab"], ["ba", "b"]]
    folder = write_checkpoint(tmp_path / "sound", tokens=tokens)
    assert read_vocabulary(open_checkpoint(folder), 272).scores[258] == 0.0
    runs = {"a": 256, "aa": 257, "aaa": 258, "aaaa": 259}
    tokens["model"]["vocab"] = {piece: number for piece, number in vocab.items() if number < 256} | runs
    # 3 + 1 before 2 + 2: of four the list makes 2 + 2 and the scores as well, of five 2 + 3 and not 4 + 1
    tokens["model"]["merges"] = [["a", "a"], ["a", "aaa"], ["aa", "a"], ["a", "aa"], ["aa", "aa"], ["aaa", "a"]]
    assert "see the piece `aaaaa`" in refusal(write_checkpoint(tmp_path / "runs", tokens=tokens)).message


def test_a_merge_that_makes_no_token(tmp_path: Path) -> None:
    tokens = tokenizer()
    vocab = {f"<0x{value:02X}>": value for value in range(256)} | {"a": 256, "b": 257}
    tokens["model"] |= {"byte_fallback": True, "vocab": vocab, "merges": [["a", "b"], ["b", "b"], ["a", "b"]]}
    tokens |= {"pre_tokenizer": None, "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}}
    assert "makes what is no token: `ab`" in refusal(write_checkpoint(tmp_path / "bad", tokens=tokens)).message


def test_an_empty_token_is_padding(tmp_path: Path) -> None:
    """Llama 2 has one."""
    tokens = tokenizer()
    tokens["model"]["vocab"][""] = 261
    found = read_vocabulary(open_checkpoint(write_checkpoint(tmp_path / "checkpoint", tokens=tokens)), 272)
    assert (found.tokens[261], found.types[261]) == ("[PAD261]", 5)


# ---- output ------------------------------------------------------------------------------------------------------


def test_an_existing_file_stays(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "checkpoint"))
    out = tmp_path / "model.gguf"
    out.write_text("mine")
    with pytest.raises(EdgekitError, match="the output exists"):
        convert(checkpoint, out)
    assert out.read_text() == "mine"
    convert(checkpoint, out, force=True)
    assert read_header(out).architecture == "qwen3"


def test_output_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="the output is a directory"):
        convert(open_checkpoint(write_checkpoint(tmp_path / "checkpoint")), tmp_path, force=True)


def test_unknown_type(tmp_path: Path) -> None:
    assert "choose one of f32, f16, bf16" in refusal(write_checkpoint(tmp_path / "good"), type="q4_k_m").hint


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "not enough free space" in refusal(write_checkpoint(tmp_path / "good")).message


def test_interrupted(tmp_path: Path) -> None:
    def stop(stage: str, done: float, total: float, detail: str = "") -> None:
        if done:
            raise KeyboardInterrupt

    out = tmp_path / "out" / "model.gguf"
    with pytest.raises(KeyboardInterrupt):
        convert(open_checkpoint(write_checkpoint(tmp_path / "checkpoint")), out, progress=stop)
    assert not list(out.parent.iterdir())


def test_same_bytes_twice(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "checkpoint"))
    one, two = (convert(checkpoint, tmp_path / f"{number}.gguf").read_bytes() for number in (1, 2))
    assert one == two


@pytest.mark.parametrize("to", ["f32", "f16", "bf16"])
def test_what_gguf_reads(tmp_path: Path, to: str) -> None:
    """Every tensor in its type and value, against the gguf package's own conversions."""
    reader = written(write_checkpoint(tmp_path / "checkpoint", shards=2), type=to)
    found = {tensor.name: tensor for tensor in reader.tensors}
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.1.self_attn.q_proj.weight": "blk.1.attn_q.weight",
        "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
        "lm_head.weight": "output.weight",
    }
    assert len(found) == len(weights())
    for theirs, ours in names.items():
        tensor = found[ours]
        assert tensor.tensor_type.name.lower() == to
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        expected = weights()[theirs]
        rounded = gguf.dequantize(gguf.quantize(expected, tensor.tensor_type), tensor.tensor_type)
        np.testing.assert_array_equal(values.reshape(expected.shape), rounded)
    norm = found["output_norm.weight"]
    assert norm.tensor_type.name == "F32"
    np.testing.assert_array_equal(norm.data, weights()["model.norm.weight"])
    assert reader.fields["general.file_type"].contents() == {"f32": 0, "f16": 1, "bf16": 32}[to]


def test_model_keys(tmp_path: Path) -> None:
    """Numbers too small to show in logits, or that only a loader reads."""
    reader = written(write_checkpoint(tmp_path / "checkpoint", config={"rms_norm_eps": 3e-6}))
    said = {key.removeprefix("qwen3."): field.contents() for key, field in reader.fields.items()}
    assert said["attention.layer_norm_rms_epsilon"] == np.float32(3e-6)
    assert said["rope.freq_base"] == 1e6
    assert said["rope.dimension_count"] == 32
    assert said["context_length"] == 512
    assert said["general.architecture"] == "qwen3"
    assert said["general.type"] == "model"
    assert said["general.name"] == "checkpoint"


def test_tokenizer_keys(tmp_path: Path) -> None:
    settings = {"eos_token": {"content": "<|end|>"}, "chat_template": "{{ 1/0 }}", "add_bos_token": True}
    reader = written(write_checkpoint(tmp_path / "checkpoint", tokenizer_config=settings))
    said = {key.removeprefix("tokenizer."): field.contents() for key, field in reader.fields.items()}
    assert said["ggml.model"] == "gpt2"
    assert said["ggml.pre"] == "qwen2"
    assert len(said["ggml.tokens"]) == 272
    assert said["ggml.tokens"][260] == "<|end|>"
    assert said["ggml.tokens"][271] == "[PAD271]"
    assert said["ggml.token_type"][258:262] == [1, 1, 3, 5]
    assert said["ggml.merges"][:2] == ["t h", "th e"]
    assert said["ggml.eos_token_id"] == 260
    assert "ggml.bos_token_id" not in said
    assert said["ggml.add_bos_token"] is False  # there is no such token to add
    assert said["chat_template"] == "{{ 1/0 }}"  # stored, never rendered
    assert any("NFC" in note for note in said["edgekit.conversion_notes"])


def test_a_tied_head_that_was_saved_is_left_out(tmp_path: Path) -> None:
    tied = {"tie_word_embeddings": True}
    tensors = weights()
    folder = write_checkpoint(tmp_path / "two", config=tied, tensors=tensors)
    assert "`lm_head.weight` is not the embedding" in refusal(folder).message
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "tied", config=tied, tensors=tensors))
    assert read_header(convert(checkpoint, tmp_path / "tied.gguf")).tied_embedding


def test_the_file_names_its_checkpoint(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "checkpoint"))
    found = read_provenance(read_header(convert(checkpoint, tmp_path / "model.gguf")))
    assert found is not None
    assert found.checkpoint_sha256 == hash_checkpoint(checkpoint)
    assert found.edgekit_version == __version__


def test_memory_stays_small_for_a_large_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are read a piece at a time and no piece is larger than asked, whatever the tensor."""
    monkeypatch.setattr("edgekit.quantize.convert.stream.PIECE_VALUES", 640)
    folder = write_checkpoint(tmp_path / "checkpoint")
    checkpoint = open_checkpoint(folder)
    whole = {tensor.name: tensor for tensor in plan_tensors(checkpoint, read_model(checkpoint), "f16")}
    out = convert(checkpoint, tmp_path / "pieces.gguf")
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(out).tensors}
    for name, planned in whole.items():
        assert found[name].data.tobytes() == convert_rows(planned, 0, planned.shape[0]).tobytes()


def test_config_is_data(tmp_path: Path) -> None:
    """A config that asks for code of its own is converted as data or refused; nothing is imported."""
    folder = write_checkpoint(tmp_path / "remote", config={"auto_map": {"AutoModel": "evil.Model"}})
    (folder / "evil.py").write_text("raise SystemExit(1)")
    assert read_header(convert(open_checkpoint(folder), tmp_path / "remote.gguf")).architecture == "qwen3"
    assert json.loads((folder / "config.json").read_text())["auto_map"]


ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 7, 2**70, 0.5, 1e400, "", "x", "▁", "\0", "ß" * 300, [], {}, [None], [[]], [1, 2]),
    *({"type": "Sequence"}, {"type": "ByteLevel"}, {"x": {}}, ["a", "b"], [["a", "b"]], {"a": 1}, {"id": 1}),
)


def damaged(value: Any, generator: random.Random) -> Any:
    """A copy with one value, anywhere in it, replaced or taken away."""
    if not isinstance(value, dict | list) or not value or generator.random() < 0.15:
        return generator.choice(ODD_VALUES)
    made = copy.copy(value)
    key = generator.choice(list(value)) if isinstance(value, dict) else generator.randrange(len(value))
    if generator.random() < 0.1:
        del made[key]
    else:
        made[key] = damaged(value[key], generator)
    return made


@pytest.mark.parametrize("family", ["byte-level", "SentencePiece"])
def test_any_damage_is_refused_or_harmless(tmp_path: Path, family: str) -> None:
    """600 times one value of the JSON files is another: an EdgekitError or a vocabulary of the right size."""
    tokens = tokenizer()
    config = {**CONFIG, "bos_token_id": 0}
    around = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [260], "tokens": ["<|end|>"]}},
    }
    tokens["post_processor"] = {"type": "Sequence", "processors": [tokens["post_processor"], around]}
    settings: dict[str, Any] = {"bos_token": "<|end|>", "eos_token": {"content": "<|end|>"}, "chat_template": [{}]}
    settings["chat_template"] = [{"name": "default", "template": "x"}]
    if family == "SentencePiece":
        vocab = {f"<0x{value:02X}>": value for value in range(256)} | {"a": 256, "b": 257, "ab": 258, "▁": 259}
        tokens["model"] |= {"byte_fallback": True, "vocab": vocab, "merges": [["a", "b"]], "unk_token": "a"}
        metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
        tokens |= {"pre_tokenizer": metaspace, "normalizer": None, "post_processor": around}
    whole = {"config": {**config, "rope_scaling": None}, "tokens": tokens, "settings": settings}
    folder = write_checkpoint(tmp_path / "checkpoint")
    messages = []
    for seed in range(600):
        broken = damaged(whole, random.Random(seed))
        names = {"config": "config.json", "tokens": "tokenizer.json", "settings": "tokenizer_config.json"}
        for key, name in names.items():
            part = broken.get(key) if isinstance(broken, dict) else None
            (folder / name).write_text(json.dumps(part))
        try:
            checkpoint = open_checkpoint(folder)
            model = read_model(checkpoint)
            found = read_vocabulary(checkpoint, min(model.rows, 10_000))
        except EdgekitError as error:
            messages.append(error.message)
            continue
        assert len(found.tokens) == len(found.types) == len(set(found.tokens)) == min(model.rows, 10_000)
    assert 100 < len(messages) < 600
    assert not [message for message in messages if "\n" in message or len(message) > 1000]
