"""On-policy stages: what a recipe may say, what they cost, who is asked what, and TRL's trainer on a tiny pair."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="edgekit[distill] is not installed")
for module in ("accelerate", "safetensors", "transformers"):
    pytest.importorskip(module, reason="edgekit[distill] is not installed")

from students import task_teacher  # noqa: E402
from test_distill_chain import SMALL, STAGE, Stop, recipe, stopping  # noqa: E402
from test_distill_recipe import BASE, written  # noqa: E402

from edgekit import corpus  # noqa: E402
from edgekit.checkpoint import open_checkpoint  # noqa: E402
from edgekit.distill import chain as chaining  # noqa: E402
from edgekit.distill import on_policy_stage, random_student, sharding, training_memory, trl_trainer  # noqa: E402
from edgekit.distill.asking import bare, evaluated  # noqa: E402
from edgekit.distill.chain import distill_student  # noqa: E402
from edgekit.distill.costs import forward_flops, training_flops  # noqa: E402
from edgekit.distill.loading import load_model  # noqa: E402
from edgekit.distill.material import held_out_questions  # noqa: E402
from edgekit.distill.model_facts import tokenizer_of  # noqa: E402
from edgekit.distill.on_policy import check_possible, train_on_policy  # noqa: E402
from edgekit.distill.on_policy_prompts import prompts_of  # noqa: E402
from edgekit.distill.planning import plan_distillation  # noqa: E402
from edgekit.distill.recipe import Data, DistillRecipe, Machines, OnPolicy, Student, Temperature, load_recipe  # noqa: E402
from edgekit.distill.stages import settings_of  # noqa: E402
from edgekit.distill.trl_trainer import tokenizer_for  # noqa: E402
from edgekit.errors import EdgekitError, ExitCode  # noqa: E402
from edgekit.records import Distillation, Estimate, Unknown  # noqa: E402

needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="edgekit[onpolicy] is not installed")
POLICY = OnPolicy(most_tokens=8, each=12)
ASKED = replace(STAGE, kind="on-policy", alpha=1.0, on_policy=POLICY, temperature=Temperature(start=1.0), micro_batch=2)
TOML = BASE.replace('kind = "logits"', 'kind = "on-policy"')
TEMPLATES = ("capital", "continent")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def on_policy(stage: Any = ASKED, **changed: Any) -> DistillRecipe:
    return recipe(Student(name="half", source="prune:depth=0.5", stages=(stage,)), **changed)


# ---- what a recipe may say ------------------------------------------------------------------------------------------


def test_a_recipe_says_what_is_completed(tmp_path: Path) -> None:
    more = TOML + '[student.stage.on_policy]\nbeta = 1\nmost_tokens = 16\ntemplates = ["capital"]\n'
    (stage,) = load_recipe(written(tmp_path, more)).students[0].stages
    assert stage.on_policy == OnPolicy(beta=1.0, most_tokens=16, templates=("capital",))
    assert (stage.alpha, stage.asks, stage.temperature.ends) == (1.0, True, (1.0, 1.0))
    (plain,) = load_recipe(written(tmp_path, TOML.replace("length = 32", "length = 64"))).students[0].stages
    assert plain.on_policy == OnPolicy()
    warm = load_recipe(written(tmp_path, more.replace("steps = 10", "steps = 10\ntemperature = 0.7")))
    assert warm.students[0].stages[0].temperature.start == 0.7
    assert (
        len({load_recipe(written(tmp_path, text)).sha256 for text in (more, more.replace("beta = 1", "beta = 0"))}) == 2
    )


def test_recipes_that_are_not_on_policy_keep_their_hashes(tmp_path: Path) -> None:
    """Folders of chains are known by them."""
    assert "on_policy" not in load_recipe(written(tmp_path, BASE)).students[0].stages[0].said
    assert "on_policy" in ASKED.said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("loss = 'jsd'", "unknown key in stage 1 of student 1 of recipe `mine.toml`: `loss`"),
        ("alpha = 0.5", "unknown key in stage 1 of student 1 of recipe `mine.toml`: `alpha`"),
        ("micro_batch = 3", "must divide its `batch` = 4: `3`"),
        ("temperature = { schedule = 'linear', start = 2, end = 1 }", "cannot move: its completions are drawn at it"),
        ("[student.stage.on_policy]\nbetta = 1", r"unknown key in `on_policy` of stage 1 .*: `betta`"),
        ("[student.stage.on_policy]\nbeta = 1.5", "`beta` in `on_policy` of stage 1"),
        ("[student.stage.on_policy]\nmost_tokens = 32", "leaves no room for a prompt beside its `most_tokens`: `32`"),
        ("[student.stage.on_policy]\nstyle = 'song'", "`style` in `on_policy`"),
        ("[student.stage.on_policy]\ntemplates = ['capitol']", "`templates` in `on_policy` .* cannot hold `capitol`"),
    ],
)
def test_mistakes_in_a_recipe_are_named(tmp_path: Path, changed: str, said: str) -> None:
    small = "" if "[" in changed and "on_policy" in changed else "\n[student.stage.on_policy]\nmost_tokens = 8"
    with pytest.raises(EdgekitError, match=said) as refused:
        load_recipe(written(tmp_path, f"{TOML}{changed}{small}\n"))
    if "betta" in changed or "capitol" in changed:
        assert re.search("beta|capital", refused.value.hint)


def test_only_on_policy_stages_have_its_table(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match=r"unknown key .*: `on_policy`"):
        load_recipe(written(tmp_path, BASE + "[student.stage.on_policy]\nbeta = 1\n"))


# ---- what is asked --------------------------------------------------------------------------------------------------


def test_prompts_are_of_the_train_split_and_each_is_asked_once_a_pass() -> None:
    tokenizer = tokenizer_of(open_checkpoint(random_student(SMALL)))
    prompts = prompts_of(replace(POLICY, each=30), tokenizer, length=64, templates=TEMPLATES, seed=1)
    judged = evaluated([corpus.task_bank(items=400, seed=7)])
    assert len(prompts.texts) > 40
    assert not {bare(text) for text in prompts.texts} & judged
    streams = corpus.templates("evaluation", "factual")
    held_out = {bare(item.prompt) for name in TEMPLATES for item, _ in zip(streams[name], range(200), strict=False)}
    assert held_out
    assert not {bare(text) for text in prompts.texts} & held_out
    count = len(prompts.texts)
    passes = [[prompts.at(at, 5) for at in range(begin, begin + count)] for begin in (0, count)]
    assert Counter(passes[0]) == Counter(passes[1]) == Counter(prompts.texts)
    assert passes[0] != passes[1]
    assert [prompts.at(at, 5) for at in range(count)] == passes[0] != [prompts.at(at, 6) for at in range(count)]
    assert all("\n" in tokenizer.decode([token]) for token in prompts.stops)
    assert tokenizer.encode("\n", add_special_tokens=False).ids[0] in prompts.stops
    assert (
        prompts_of(replace(POLICY, style="rationale"), tokenizer, length=200, templates=TEMPLATES, seed=1).stops == ()
    )


def test_prompts_that_are_too_long_are_left_out() -> None:
    tokenizer = tokenizer_of(open_checkpoint(random_student(SMALL)))
    whole = prompts_of(POLICY, tokenizer, length=400, templates=TEMPLATES, seed=1)
    longest = sorted(len(tokenizer.encode(text).ids) for text in whole.texts)
    some = prompts_of(POLICY, tokenizer, length=longest[-1] + 7, templates=TEMPLATES, seed=1)
    assert whole.left_out == 0 < some.left_out == len(whole.texts) - len(some.texts)
    assert "too long or held out were left out" in some.note
    assert some.sha256 != whole.sha256
    with pytest.raises(EdgekitError, match=r"no prompt is left .* `length` of `10`"):
        prompts_of(POLICY, tokenizer, length=10, templates=TEMPLATES, seed=1)


def test_questions_of_own_files_that_are_held_out_are_not_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, policy = tokenizer_of(open_checkpoint(random_student(SMALL))), replace(POLICY, each=60)
    whole = prompts_of(policy, tokenizer, length=48, templates=TEMPLATES, seed=1)
    texts = whole.texts
    rows = (json.dumps({"prompt": text, "answer": "x"}) for text in texts)
    (tmp_path / "own.jsonl").write_text("\n".join(rows), encoding="utf-8")
    data = Data(questions=4, templates=TEMPLATES, files=("own.jsonl",))
    apart = held_out_questions(data, tmp_path)
    held = {text for text in texts if bare(text) in apart}
    assert 0 < len(held) < len(texts) / 2
    found: list[Any] = []

    def made(*given: Any, **said: Any) -> None:
        found.append(prompts_of(*given, **said))
        raise Stop

    monkeypatch.setattr(on_policy_stage, "prompts_of", made)
    monkeypatch.setattr(chaining, "check_possible", lambda recipe: None)
    with pytest.raises(Stop):
        distill_student(on_policy(replace(ASKED, on_policy=policy), data=data, folder=tmp_path), tmp_path / "out")
    (prompts,) = found
    assert set(prompts.texts) == set(texts) - held
    assert prompts.left_out == whole.left_out + len(held)


# ---- what it costs --------------------------------------------------------------------------------------------------


def test_what_the_student_writes_is_counted() -> None:
    plan = plan_distillation(on_policy())
    (stage,) = plan.stages
    trained, read = (one(plan.students[0], 6 * 4 * 48, 48) for one in (training_flops, forward_flops))
    assert stage.student_flops.value == trained.value + read.value
    assert stage.student_flops.low == pytest.approx((trained.low + read.low) / 24)
    assert stage.teacher_tokens == stage.tokens == 6 * 4 * 48
    assert "they take that at most" in stage.notes[0]


def test_hours_of_writing_are_not_foreseen_and_many_machines_do_not_share_it() -> None:
    one, two = (
        plan_distillation(on_policy(cluster=Machines(accelerator="h100-80gb", count=count))) for count in (1, 2)
    )
    assert isinstance(one.hours, Unknown)
    assert "latency" in one.hours.reason
    assert (one.fits, two.fits) == ("yes", "no")
    assert "one process" in two.stages[0].reason
    other = recipe(
        Student(name="half", source="prune:depth=0.5", stages=(STAGE,)),
        cluster=Machines(accelerator="h100-80gb", count=1),
    )
    assert isinstance(plan_distillation(other).hours, Estimate)


def test_writing_a_large_batch_takes_memory_that_training_it_in_parts_does_not() -> None:
    few, many = (
        plan_distillation(on_policy(replace(ASKED, batch=batch, micro_batch=1))).stages[0].memory.activations
        for batch in (4, 4096)
    )
    assert many.value > 100 * few.value
    all_at_once = plan_distillation(on_policy(replace(ASKED, batch=4096, micro_batch=1, length=4096)))
    inner = 4096 * (4096 - POLICY.most_tokens) * (2 * 64 + 3 * 96)
    written = all_at_once.stages[0].memory.activations
    assert written.value - written.low == 2 * inner, "the prompts of all are read at once"
    cut = replace(ASKED, batch=4096, micro_batch=1, on_policy=replace(POLICY, top_p=0.9))
    ranked = plan_distillation(on_policy(cut)).stages[0].memory.activations
    assert ranked.value - many.value == 4 * 4096 * 5 * 400


def test_memory_is_foreseen_for_the_tiles_that_trl_makes() -> None:
    memory = plan_distillation(on_policy(replace(ASKED, batch=4096, micro_batch=1024))).stages[0].memory
    head = 4 * 400 * 64
    tiles = 2 * 4 * 4096 * 400
    assert memory.logits.value == tiles + head
    assert memory.logits.high == 3 * tiles + 2 * head
    few = plan_distillation(on_policy()).stages[0].memory.logits
    assert few.value == 2 * 4 * (2 * POLICY.most_tokens) * 400 + head
    if importlib.util.find_spec("trl") is not None:
        from trl.kernels import chunked_divergence as theirs

        assert training_memory.TRL_TILE == (theirs.TOKEN_CHUNK_SIZE, theirs.VOCAB_CHUNK_SIZE)


# ---- what cannot be -------------------------------------------------------------------------------------------------


def test_without_trl_it_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(EdgekitError, match="a library that this needs is not installed: `trl`") as refused:
        distill_student(on_policy(), tmp_path / "out")
    assert refused.value.hint == "pip install 'edgekit[onpolicy]'"
    assert not (tmp_path / "out").exists()
    check_possible(recipe())  # others need none


@pytest.mark.parametrize(("found", "has"), [("1.15.2", True), ("0.29.1", True), ("1.16.0", False)])
def test_a_trl_without_the_trainer_is_refused(monkeypatch: pytest.MonkeyPatch, found: str, has: bool) -> None:
    made = ModuleType("trl")
    if has:
        made.DistillationTrainer = object  # type: ignore[attr-defined]
    for name in ("trl", "datasets", "pandas"):
        monkeypatch.setitem(sys.modules, name, made)
    monkeypatch.setattr(trl_trainer, "version", lambda _: found)
    with pytest.raises(EdgekitError, match=f"no DistillationTrainer that is known here: `{found}`"):
        trl_trainer.trl_version()
    made.DistillationTrainer = object  # type: ignore[attr-defined]
    monkeypatch.setattr(trl_trainer, "version", lambda _: "2.0.dev0")
    assert trl_trainer.trl_version() == "2.0.dev0"


def test_many_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "here", lambda: sharding.Place(device=torch.device("cpu"), index=0, processes=2))
    with pytest.raises(EdgekitError, match="runs in one process, and these are `2`"):
        check_possible(on_policy())


def test_a_teacher_with_fewer_rows_is_refused(tmp_path: Path) -> None:
    student, teacher = padded(8), padded(0)
    tokenizer = tokenizer_of(open_checkpoint(random_student(SMALL)))
    prompts = prompts_of(POLICY, tokenizer, length=64, templates=TEMPLATES, seed=1)
    with pytest.raises(EdgekitError, match="table has 408 rows, its teacher's `400`"):
        train_on_policy(student, teacher, tokenizer, prompts, settings_of(ASKED, 1), POLICY, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_student_without_an_end_is_refused() -> None:
    """TRL ends completions at whatever fills up shorter prompts: that is no word of the student's."""
    import transformers

    tokenizer = tokenizer_of(open_checkpoint(random_student(SMALL)))
    for ends in ((), (10**6, 2**40)):
        with pytest.raises(EdgekitError, match="completions have no end that the student's tokenizer knows"):
            tokenizer_for(transformers, tokenizer, ends)
    assert tokenizer_for(transformers, tokenizer, (10**6, 5)).pad_token_id == 5


def padded(rows: int) -> Any:
    """The same model with so many more rows in its table."""
    model = load_model(random_student(SMALL))
    if rows:
        model.resize_token_embeddings(model.config.vocab_size + rows)
    return model


# ---- TRL's trainer --------------------------------------------------------------------------------------------------


@needs_trl
def test_trl_reads_prompts_as_the_house_does() -> None:
    import transformers

    tokenizer = tokenizer_of(open_checkpoint(random_student(SMALL)))
    before = tokenizer.to_str()
    theirs = tokenizer_for(transformers, tokenizer, (3,))
    for text in prompts_of(POLICY, tokenizer, length=64, templates=TEMPLATES, seed=1).texts:
        assert theirs(text=[text])["input_ids"] == [tokenizer.encode(text).ids]
    assert theirs.pad_token_id == theirs.eos_token_id == 3
    assert tokenizer.to_str() == before


def trained(out: Path, stage: Any = ASKED, **more: Any) -> tuple[dict[str, Any], Distillation]:
    chain = distill_student(on_policy(stage), out, **more)
    return load_model(Path(chain.student.path)).state_dict(), chain


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
import os, signal, torch
torch.set_num_threads(1)
from pathlib import Path
from test_distill_on_policy import trained

def progress(stage, done, total, detail=""):
    if stage == "1-half 1-on-policy" and done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

trained(Path(sys.argv[1]), progress=progress)
"""


@needs_trl
@pytest.mark.slow
def test_an_on_policy_stage_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.trainer import base_trainer

    def told(*_: Any, **__: Any) -> None:
        raise AssertionError("somebody was told of a user's training")

    monkeypatch.setattr(base_trainer, "send_telemetry", told)
    monkeypatch.delenv("CI", raising=False)
    random.seed(4)
    torch.manual_seed(4)
    whole, chain = trained(tmp_path / "whole")
    assert random.random() == random.Random(4).random()
    (stage,) = chain.links[0].stages
    assert (stage.kind, stage.training.steps, stage.training.resumed_at) == ("on-policy", 6, ())
    assert len(stage.training.losses) == 6
    assert stage.training.tokens == stage.cost.tokens == stage.cost.teacher_tokens
    assert 6 * 4 <= stage.cost.written_tokens <= 6 * 4 * POLICY.most_tokens
    assert stage.cost.written_tokens < stage.cost.tokens
    assert stage.notes[0].startswith("TRL ")
    assert ("beta", "0.5") in stage.settings
    place = tmp_path / "whole" / "1-half" / "1-on-policy"
    assert {path.name for path in place.iterdir()} == {"model", "stage.json", "training"}
    assert {path.name for path in (place / "training").iterdir()} == {"metrics.jsonl", ".rank-0.lock"}, "no pickle"
    config = json.loads((place / "model" / "config.json").read_text(encoding="utf-8"))
    start = json.loads((tmp_path / "whole" / "1-half" / "start" / "config.json").read_text(encoding="utf-8"))
    assert config == start
    (tmp_path / "killed.py").write_text(KILLED, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "killed.py"), str(tmp_path / "parts"), str(Path(__file__).parent)]
    assert subprocess.run(command, check=False).returncode == -9  # in step 3, behind the checkpoint of step 2
    with pytest.raises(Stop):  # in step 5
        trained(tmp_path / "parts", progress=stopping(3, "1-half 1-on-policy"))
    again, resumed = trained(tmp_path / "parts")
    assert resumed.links[0].stages[0].training.resumed_at == (2, 4)
    assert resumed.links[0].stages[0].training.tokens == stage.training.tokens
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert resumed.links[0].stages[0].training.losses == stage.training.losses
    other, _ = trained(tmp_path / "other", replace(ASKED, micro_batch=4))
    assert all(torch.allclose(whole[name], other[name], atol=2e-5) for name in whole)
    assert not all(
        torch.equal(whole[name], value) for name, value in load_model(place.parent / "start").state_dict().items()
    )


@needs_trl
@pytest.mark.slow
def test_a_teachers_rows_for_padding_change_nothing(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(open_checkpoint(random_student(SMALL)))
    prompts = prompts_of(POLICY, tokenizer, length=64, templates=TEMPLATES, seed=1)
    found = []
    for rows in (0, 8):
        student = load_model(random_student(replace(SMALL, name="chain-half", layers=2)))
        train_on_policy(
            student, padded(rows), tokenizer, prompts, settings_of(replace(ASKED, steps=2), 1), POLICY,
            out=tmp_path / str(rows),
        )  # fmt: skip
        found.append(student.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@needs_trl
@pytest.mark.slow
def test_a_diverged_one_says_so(tmp_path: Path) -> None:
    wild = replace(ASKED, steps=30, learning_rate=1e30, warmup=0.0, gradient_norm=1e6, weight_decay=0.0)
    with pytest.raises(EdgekitError, match=r"the on-policy stage stopped: diverged at step .* of 30") as refused:
        trained(tmp_path, wild)
    assert refused.value.code == ExitCode.BROKE
    assert not (tmp_path / "1-half" / "1-on-policy" / "stage.json").exists()


@needs_trl
@pytest.mark.slow
def test_a_student_learns_on_what_it_writes(tmp_path: Path) -> None:
    """From where it writes something sensible: a student that was only carved learns from its own noise."""
    warm = replace(STAGE, steps=40, batch=8, length=96, learning_rate=2e-3, temperature=Temperature(start=1.0))
    own = replace(ASKED, steps=24, batch=24, micro_batch=None, length=64, on_policy=replace(POLICY, each=60, beta=0.0))
    student = Student(name="half", source="prune:depth=0.5,width=0.5", stages=(warm, own))
    data = Data(questions=60, templates=("capital", "continent", "language"))
    (link,) = distill_student(recipe(student, data=data), tmp_path, teacher=task_teacher()).links
    before, after = (stage.held_out for stage in link.stages)
    assert isinstance(before.kld, Estimate)
    assert isinstance(after.kld, Estimate)
    assert after.kld.value < 0.9 * before.kld.value
    assert link.stages[1].training.losses[-1][1] < 0.7 * link.stages[1].training.losses[0][1]


@needs_trl
@pytest.mark.slow
def test_of_several_gpus_that_one_process_sees_one_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL refuses to put a copy of the student on each, which transformers would."""
    from trl import DistillationConfig

    real = DistillationConfig.__post_init__

    def seeing_two(self: Any) -> None:
        real(self)
        self._n_gpu = 2

    monkeypatch.setattr(DistillationConfig, "__post_init__", seeing_two)
    tokenizer = tokenizer_of(open_checkpoint(random_student(SMALL)))
    prompts = prompts_of(POLICY, tokenizer, length=64, templates=TEMPLATES, seed=1)
    student = load_model(random_student(replace(SMALL, name="chain-half", layers=2)))
    settings = settings_of(replace(ASKED, steps=1), 1)
    found = train_on_policy(student, padded(0), tokenizer, prompts, settings, POLICY, out=tmp_path)
    assert (found.training.steps, found.training.stopped) == (1, None)


@needs_trl
@pytest.mark.slow
def test_what_trl_sets_for_itself_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student that ends at more than its configuration says is saved with what that said."""
    tokenizer = tokenizer_of(open_checkpoint(random_student(SMALL)))
    prompts = prompts_of(POLICY, tokenizer, length=64, templates=TEMPLATES, seed=1)
    found = []
    for number, launched in enumerate(("no", "bf16")):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
        student = load_model(random_student(replace(SMALL, name="chain-half", layers=2)))
        student.config.eos_token_id, student.generation_config.eos_token_id = 5, [7, 5]
        before, told = student.config.to_dict(), student.generation_config.to_dict()
        settings = settings_of(replace(ASKED, steps=2), 1)
        train_on_policy(student, padded(0), tokenizer, prompts, settings, POLICY, out=tmp_path / str(number))
        assert (student.config.to_dict(), student.generation_config.to_dict()) == (before, told)
        assert os.environ["ACCELERATE_MIXED_PRECISION"] == launched
        found.append(student.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items()), "float32, as the stage says"
