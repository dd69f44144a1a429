"""Students carved out of teachers of which it is known what they can do without: their logits must stay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from students import random_student

for module in ("torch", "transformers", "tokenizers"):
    pytest.importorskip(module, reason="edgekit[distill] is not installed")

import torch  # noqa: E402

from edgekit.distill import pruning  # noqa: E402
from edgekit.distill.beginnings import student_of  # noqa: E402
from edgekit.distill.influence import influence_of  # noqa: E402
from edgekit.distill.prune_spec import Prune, parse_prune  # noqa: E402
from edgekit.distill.pruning import carve  # noqa: E402
from edgekit.distill.students import load_model, save_model  # noqa: E402
from edgekit.distill.windows import Windows  # noqa: E402
from edgekit.errors import EdgekitError  # noqa: E402

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
IDS = torch.randint(5, 1500, (3, 97), generator=torch.Generator().manual_seed(1))


def calibration() -> Windows:
    return Windows(ids=IDS, weights=torch.ones(IDS.shape))


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = load_model(folder).eval()(IDS[:, :-1]).logits
    return found


def changed(architecture: str, folder: Path, change: Callable[[Any], None]) -> Path:
    """A copy of the random student, with what `change` does to it."""
    model = load_model(random_student(architecture))
    with torch.no_grad():
        change(model)
    save_model(model, folder)
    pruning.copy_tokenizer(random_student(architecture), folder)
    return folder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_that_do_nothing_are_the_ones_that_go(architecture: str, tmp_path: Path) -> None:
    idle = (1, 2, 4) if architecture == "gemma3" else (0,)

    def silence(model: Any) -> None:
        for layer in idle:
            for matrix in (model.model.layers[layer].self_attn.o_proj, model.model.layers[layer].mlp.down_proj):
                matrix.weight.zero_()

    teacher = changed(architecture, tmp_path / "teacher", silence)
    made = carve(teacher, "prune:depth=0.5", tmp_path / "student", windows=calibration())
    layers = len(made.scores)
    assert made.kept_layers == tuple(layer for layer in range(layers) if layer not in idle)
    assert [layer for layer, score in enumerate(made.scores) if score < 1e-9] == list(idle)
    assert (logits(tmp_path / "student") - logits(teacher)).abs().max() < 1e-5
    config = json.loads((tmp_path / "student" / "config.json").read_text(encoding="utf-8"))
    assert config["num_hidden_layers"] == len(made.kept_layers)
    if architecture == "gemma3":  # the layer that attends to all keeps doing so, in its new place
        assert config["layer_types"] == ["sliding_attention"] * 2 + ["full_attention"]
    assert made.layer_map is not None
    assert [row.index(1.0) for row in made.layer_map.weights] == list(made.kept_layers)
    assert made.calibration_tokens == IDS[:, 1:].numel()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "student" / name).read_bytes() == (teacher / name).read_bytes()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_channels_and_heads_that_do_nothing_are_the_ones_that_go(architecture: str, tmp_path: Path) -> None:
    idle_heads = {"llama": (0, 1), "qwen3": (2, 3), "gemma3": (0, 2), "qwen2": ()}[architecture]
    generator = torch.Generator().manual_seed(7)

    def silence(model: Any) -> None:
        for layer in model.model.layers:
            gone = torch.randperm(layer.mlp.down_proj.in_features, generator=generator)
            layer.mlp.down_proj.weight[:, gone[: len(gone) // 2]] = 0
            width = layer.self_attn.head_dim
            for head in idle_heads:
                layer.self_attn.o_proj.weight[:, head * width : (head + 1) * width] = 0

    teacher = changed(architecture, tmp_path / "teacher", silence)
    made = carve(teacher, "prune:width=0.5", tmp_path / "student", windows=calibration())
    assert (logits(tmp_path / "student") - logits(teacher)).abs().max() < 1e-5
    assert made.kept_importance == pytest.approx([1.0] * len(made.kept_layers))
    own, before = (json.loads((place / "config.json").read_text()) for place in (tmp_path / "student", teacher))
    assert own["intermediate_size"] == before["intermediate_size"] // 2
    if architecture == "qwen2":
        assert "all heads stay" in made.notes[0]
        assert made.kept_heads == ()
    else:
        assert set(made.kept_heads) == {tuple(head for head in range(4) if head not in idle_heads)}
        assert own["num_attention_heads"] == 2
        assert own["num_key_value_heads"] == 1
    assert made.parameters < made.teacher_parameters


def test_scores_are_what_the_stream_loses_without_the_part() -> None:
    model = load_model(random_student("llama")).eval()
    found = influence_of(model, calibration())
    layer, heard = model.model.layers[0], {}
    layer.mlp.register_forward_hook(lambda _module, args, output: heard.update(mlp=(args[0], output)))
    layer.self_attn.register_forward_hook(lambda _module, _args, output: heard.update(attention=output[0]))
    with torch.no_grad():
        states = model.model(IDS[:, :-1], output_hidden_states=True).hidden_states
        whole, (given, written) = heard["attention"], heard["mlp"]
        turned = 1 - torch.cosine_similarity(states[0], states[1], dim=-1).mean()
        layer.self_attn.o_proj.weight[:, 64:128] = 0
        layer.mlp.down_proj.weight[:, 17] = 0
        model.model(IDS[:, :-1])
        without = layer.mlp(given)
    assert layer.self_attn.head_dim == 64  # so that columns 64–127 are the second head
    lost = (
        (whole - heard["attention"]).square().sum(-1).mean().sqrt(),
        (written - without).square().sum(-1).mean().sqrt(),
    )
    assert found.blocks[0].item() == pytest.approx(turned.item(), rel=1e-4)
    assert found.heads[0, 1].item() == pytest.approx(lost[0].item(), rel=1e-4)
    assert found.channels[0, 17].item() == pytest.approx(lost[1].item(), rel=1e-4)
    assert found.heads[0, 0] != found.heads[0, 1]


def test_only_tokens_that_count_are_scored() -> None:
    model = load_model(random_student("llama"))
    weights = torch.zeros(IDS.shape)
    weights[0] = 0.05
    some, one = (influence_of(model, Windows(ids=IDS, weights=weights)), influence_of(model, calibration()))
    alone = influence_of(model, Windows(ids=IDS[:1], weights=torch.ones(1, IDS.shape[1])))
    assert some.tokens == alone.tokens == 96
    assert torch.allclose(some.channels, alone.channels, rtol=1e-5)
    assert not torch.allclose(some.channels, one.channels, rtol=1e-5)
    with pytest.raises(EdgekitError, match="no token of the calibration text counts"):
        influence_of(model, Windows(ids=IDS, weights=torch.zeros(IDS.shape)))


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_carved_student_converts(architecture: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="edgekit[quantize] is not installed")
    from edgekit.checkpoint import open_checkpoint
    from edgekit.quantize.convert import convert
    from edgekit.records import Settings
    from edgekit.runtimes import llamacpp

    spec = "prune:depth=0.5,width=0.5"
    made = carve(random_student(architecture), spec, tmp_path / "student", text="a line of words " * 99)
    path = convert(open_checkpoint(Path(made.path)), tmp_path / "student.gguf", type="f32")
    session = llamacpp.open_session(path, Settings(context_tokens=128, flash_attention="off", repack=False, threads=2))
    try:
        got = torch.tensor(session.feed(IDS[0, :-1].tolist(), want="all")).log_softmax(-1)
    finally:
        session.close()
    wanted = logits(tmp_path / "student")[0].log_softmax(-1)
    assert (wanted.exp() * (wanted - got)).sum(-1).max() < 1e-4


def test_a_carved_student_is_carved_once(tmp_path: Path) -> None:
    teacher, out = random_student("qwen3"), tmp_path / "student"
    first = carve(teacher, "prune:depth=0.5", out, windows=calibration())
    written = (out / "model.safetensors").stat().st_mtime_ns
    assert carve(teacher, "prune:depth=0.5", out, windows=calibration()) == first
    assert (out / "model.safetensors").stat().st_mtime_ns == written
    moved = out.rename(tmp_path / "moved")
    assert carve(teacher, "prune:depth=0.5", moved, windows=calibration()).path == str(moved)
    moved.rename(out)
    with pytest.raises(EdgekitError, match="the output exists"):
        carve(teacher, "prune:ffn=0.5", out, windows=calibration())
    with pytest.raises(EdgekitError, match="the output exists"):  # of other text it could be another
        carve(teacher, "prune:depth=0.5", out, text="some words " * 200)


def test_weights_keep_their_type(tmp_path: Path) -> None:
    carve(random_student("llama", dtype="bfloat16"), "prune:depth=0.5", tmp_path / "out", windows=calibration())
    assert {parameter.dtype for parameter in load_model(tmp_path / "out").parameters()} == {torch.bfloat16}


def test_a_spec_says_what_stays() -> None:
    assert parse_prune("prune:depth=0.5") == Prune(depth=0.5)
    assert parse_prune("prune: width = 0.25 , depth=0.75") == Prune(depth=0.75, width=0.25)


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ("prune:dept=0.5", "pruning knows depth, width, ffn, heads, not `dept`", "did you mean `depth`"),
        ("prune:depth=0", "between 0 and 1, both excluded, not `0`", "keeps half"),
        ("prune:depth=1", "not `1`", "keeps half"),
        ("prune:depth=-0.5", "not `-0.5`", "keeps half"),
        ("prune:depth=nan", "not `nan`", "keeps half"),
        ("prune:depth=half", "not `half`", "keeps half"),
        ("prune:depth", "is said as `prune:depth=0.5,width=0.5`: `prune:depth`", "keeps half"),
        ("prune:depth=0.5,depth=0.5", "told twice what stays of `depth`", "keeps half"),
        ("prune:width=0.5,ffn=0.5", "told twice what stays of `ffn`", "keeps half"),
        ("prune:depth=0.2", "of 2 layers none would be left at `0.2`", "larger share"),
        ("prune:depth=0.9", "nothing would go with `depth=0.9`", "smaller share"),
        ("prune:heads=0.1", "of 2 key-value heads none would be left at `0.1`", "larger share"),
    ],
)
def test_what_cannot_be_carved_is_said(spec: str, message: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(EdgekitError) as failure:
        carve(random_student("llama"), spec, tmp_path / "out", windows=calibration())
    assert message in failure.value.message
    assert hint in failure.value.hint
    assert not (tmp_path / "out").exists()


def test_qwen2_keeps_its_heads(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="qwen2 has heads for its whole hidden size"):
        carve(random_student("qwen2"), "prune:heads=0.5", tmp_path / "out", windows=calibration())


def test_a_teacher_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    teacher = changed("llama", tmp_path / "teacher", lambda model: None)
    config = json.loads((teacher / "config.json").read_text(encoding="utf-8"))
    (teacher / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}), encoding="utf-8")
    with pytest.raises(EdgekitError, match=r"lacks 9 of its weights.*as `model.layers.2.input_layernorm.weight`"):
        carve(teacher, "prune:depth=0.5", tmp_path / "out", windows=calibration())
    (teacher / "config.json").write_text(json.dumps(config | {"model_type": "mixtral"}), encoding="utf-8")
    with pytest.raises(EdgekitError, match="carved out of llama, qwen2, qwen3, gemma3_text, not out of `mixtral`"):
        carve(teacher, "prune:depth=0.5", tmp_path / "out", windows=calibration())


def test_a_teacher_of_broken_weights_is_refused(tmp_path: Path) -> None:
    def spoil(model: Any) -> None:
        model.model.layers[1].mlp.up_proj.weight[3, 3] = float("nan")

    teacher = changed("llama", tmp_path / "teacher", spoil)
    with pytest.raises(EdgekitError, match="values that are no numbers"):
        carve(teacher, "prune:depth=0.5", tmp_path / "out", windows=calibration())


SMALL = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}


def test_a_student_of_a_configuration(tmp_path: Path) -> None:
    teacher, path = random_student("qwen3"), tmp_path / "small.json"
    path.write_text(json.dumps(SMALL), encoding="utf-8")
    made = student_of(f"config:{path}", teacher, tmp_path / "out", seed=3)
    model = load_model(tmp_path / "out")
    theirs = json.loads((teacher / "config.json").read_text(encoding="utf-8"))
    assert model.config.vocab_size == theirs["vocab_size"]
    assert model.config.eos_token_id == theirs["eos_token_id"]
    assert (made.parameters, made.kept_layers, made.layer_map) == (model.num_parameters(), (), None)
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert student_of(f"config:{path}", teacher, tmp_path / "out", seed=3) == made
    student_of(f"config:{path}", teacher, tmp_path / "same", seed=3)
    student_of(f"config:{path}", teacher, tmp_path / "other", seed=4)
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == weights
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != weights


@pytest.mark.parametrize("change", [{"num_labels": 10**9}, {"attn_implementation": "somebody/kernel"}])
def test_a_checkpoint_fills_no_memory_and_fetches_nothing(change: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(random_student("qwen3"), tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(EdgekitError, match=f"`{next(iter(change))}`"):
        load_model(tmp_path / "model")


def test_a_configuration_fills_no_memory_and_fetches_nothing(tmp_path: Path) -> None:
    strange = {
        "num_labels": 200_000,
        "_attn_implementation": "somebody/kernel",
        "attn_implementation": "somebody/kernel",
    }
    for name, config in (("plain", SMALL), ("strange", SMALL | strange)):
        (tmp_path / f"{name}.json").write_text(json.dumps(config), encoding="utf-8")
        student_of(f"config:{tmp_path / name}.json", random_student("qwen3"), tmp_path / name)
    assert (tmp_path / "plain" / "config.json").read_bytes() == (tmp_path / "strange" / "config.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 512, "intermediate_size": 4096}, "parameters, its teacher no more than"),
        ({"vocab_size": 100}, "has 100 tokens, the teacher's tokenizer"),
        ({"model_type": "mixtral"}, "is of `mixtral`"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"num_hidden_layers": None}, "lacks a key: `num_hidden_layers`"),
        ({"hidden_act": "nonsense"}, "transformers makes no model"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, "must divide 3 heads evenly: `2`"),
        ({"layer_types": ["full_attention"] * 4}, "must be equal to the number"),
        ({"rope_parameters": {"rope_type": "sideways"}}, "transformers makes no model"),
    ],
)
def test_a_configuration_that_makes_no_student_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(SMALL | change), encoding="utf-8")
    with pytest.raises(EdgekitError) as failure:
        student_of(f"config:{path}", random_student("qwen3"), tmp_path / "out")
    assert message in failure.value.message
    assert not (tmp_path / "out").exists()


def test_a_student_of_a_shape_and_of_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="its teacher no more than"):
        student_of("shape:nano-0.6b", random_student("qwen3"), tmp_path / "out")
    for spec in ("config:", "distil:depth=0.5", "", "prune"):
        with pytest.raises(EdgekitError, match=r"a student cannot be made of|is said as"):
            student_of(spec, random_student("qwen3"), tmp_path / "out")
    with pytest.raises(EdgekitError, match=r"configuration does not exist: `.*none.json`"):
        student_of(f"config:{tmp_path}/none.json", random_student("qwen3"), tmp_path / "out")
