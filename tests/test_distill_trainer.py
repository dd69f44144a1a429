"""The training loop: the same weights however it is cut up, and its ways to end before the last step."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="edgekit[distill] is not installed")
for module in ("accelerate", "safetensors", "transformers"):
    pytest.importorskip(module, reason="edgekit[distill] is not installed")

from trainings import SETTINGS, digest, exercise, some_windows  # noqa: E402

from edgekit.distill import checkpointing, stepping  # noqa: E402
from edgekit.distill.optimizing import rate  # noqa: E402
from edgekit.distill.trainer import ParameterGroup, train  # noqa: E402
from edgekit.distill.watching import FAR, PATIENCE, SEEN, Watch  # noqa: E402
from edgekit.errors import EdgekitError  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """One training without a break: what it gave, what it trained, and its folder."""
    out, given = tmp_path_factory.mktemp("whole") / "out", exercise(dropout=0.1)
    torch.set_num_threads(1)
    return given.train(out), given, out


def steps_of(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("checkpoint-*"))


# ---- what a step is --------------------------------------------------------------------------------------------------


def test_it_learns_and_says_what_it_took(whole: tuple[Any, Any, Path]) -> None:
    training, given, out = whole
    losses = [loss for _, loss in training.losses]
    assert [step for step, _ in training.losses] == list(range(1, 13))
    assert sum(losses[-3:]) < sum(losses[:3])
    assert (training.steps, training.tokens) == (12, 12 * 8 * 16)
    assert training.tokens_per_s == pytest.approx(training.tokens / training.seconds)
    assert training.peak_bytes > 1e7
    assert (training.stopped, training.resumed_at) == (None, ())
    assert not given.student.training
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == list(training.losses)
    assert all(line["distill"] > 0 and line["ce"] > 0 and line["gradient_norm"] > 0 for line in lines)


def test_small_micro_batches_give_the_same_although_some_count_little() -> None:
    whole, parts = exercise(), exercise()
    one, other = whole.train(None, steps=6), parts.train(None, steps=6, micro_batch=1)
    assert dict(other.losses) == pytest.approx(dict(one.losses), rel=1e-5)
    pairs = zip(whole.student.parameters(), parts.student.parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) < 1e-4


def test_gradient_checkpointing_changes_no_loss() -> None:
    plain, saving = exercise(), exercise()
    expected, found = plain.train(None, steps=4), saving.train(None, steps=4, gradient_checkpointing=True)
    assert dict(found.losses) == pytest.approx(dict(expected.losses), rel=1e-6)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in saving.student.modules())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, while it traces
def test_compiled_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_in_place, compiled = torch.nn.Module.compile, []

    def without_a_compiler(module: Any, **settings: Any) -> None:
        compiled.append(type(module).__name__)
        compile_in_place(module, backend="eager", **settings)  # traced, and left at that

    monkeypatch.setattr(torch.nn.Module, "compile", without_a_compiler)
    plain, fast = exercise(), exercise()
    expected, found = plain.train(None, steps=1), fast.train(None, steps=1, compile=True)
    assert dict(found.losses) == pytest.approx(dict(expected.losses), rel=1e-6)
    assert compiled == ["Qwen3DecoderLayer"] * 2


def test_what_cannot_be_compiled_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_backend(*_: Any) -> Any:
        raise OSError("no compiler found")

    compile_in_place = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile_in_place(module, backend=no_backend))
    with pytest.raises(EdgekitError, match="torch cannot compile this model here") as refusal:
        exercise().train(None, steps=1, compile=True)
    assert "leave `compile` out" in refusal.value.hint


def test_each_group_has_its_rate_and_a_teacher_has_none() -> None:
    still, moved = exercise(), exercise()
    teacher, projection = digest(moved.teacher), moved.projection.weight.detach().clone()
    slow = ParameterGroup(name="projection", module=still.projection, learning_rate=1e-12)
    train(still.student, still.windows, still.objective, replace(SETTINGS, steps=2), extra=[slow])
    moved.train(None, steps=2)
    assert torch.allclose(still.projection.weight, projection, atol=1e-9)
    # Adam's first steps are of the size of the rate: up to 1e-2 each, not the student's 3e-3
    assert 1e-2 < float((moved.projection.weight - projection).detach().abs().max()) <= 2.1e-2
    assert digest(moved.teacher) == teacher


def test_weights_of_half_precision_are_trained_in_single() -> None:
    given = exercise()
    given.student.bfloat16()
    given.train(None, steps=1)
    assert {parameter.dtype for parameter in given.student.parameters()} == {torch.float32}


def test_bfloat16_is_used_where_it_is_asked_for() -> None:
    exact, coarse = exercise().train(None, steps=1), exercise().train(None, steps=1, precision="bfloat16")
    assert exact.losses[0][1] == pytest.approx(coarse.losses[0][1], rel=2e-2)
    assert exact.losses != coarse.losses


def test_the_rate_rises_and_falls_to_its_floor() -> None:
    settings = replace(SETTINGS, steps=200, warmup=0.1, floor=0.2)
    rates = [rate(step, settings) for step in range(200)]
    assert rates[19] == max(rates) == 1.0
    assert rates[:20] == sorted(rates[:20])
    assert rates[-1] == pytest.approx(0.2, abs=0.01)


def test_a_step_in_which_nothing_counts_changes_no_weight_but_by_decay() -> None:
    given = exercise()
    given.windows.weights.zero_()
    before = given.student.model.norm.weight.detach().clone()
    assert given.train(None, steps=2).losses == ((1, 0.0), (2, 0.0))
    assert torch.equal(given.student.model.norm.weight, before)


def test_the_callers_random_numbers_stay_his() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    given = exercise()
    torch.manual_seed(11)
    given.train(None, steps=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "`steps` of a training is 1 or more, not `0`"),
        ({"micro_batch": 0}, "`micro_batch` of a training is 1 or more"),
        ({"learning_rate": math.nan}, "`learning_rate` of a training is a number above zero, not `nan`"),
        ({"warmup": 1.5}, "`warmup` of a training is between 0 and 1, not `1.5`"),
        ({"precision": "float16"}, "in `auto`, `float32` or `bfloat16`, not in `float16`"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(EdgekitError, match=words):
        exercise().train(None, **changes)


def test_names_of_groups_are_their_own() -> None:
    given = exercise()
    with pytest.raises(EdgekitError, match="names of their own"):
        train(given.student, given.windows, given.objective, SETTINGS, extra=[given.extra[0]] * 2)


# ---- killed and resumed ----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nothing of the training may catch it."""


def killed_at(given: Any, step: int) -> Any:
    def objective(model: Any, indices: Any, windows: Any, info: stepping.StepInfo) -> Any:
        if info.step == step:
            raise Killed
        return given.objective(model, indices, windows, info)

    return objective


def test_a_broken_run_goes_on_to_the_same_bits(whole: tuple[Any, Any, Path], tmp_path: Path) -> None:
    training, reference, _ = whole
    for step in (2, 5, 11):
        given = exercise(dropout=0.1)
        with pytest.raises(Killed):
            given.train(tmp_path, killed_at(given, step))
    last = exercise(dropout=0.1)
    told: list[str] = []
    found = train(
        last.student,
        last.windows,
        last.objective,
        SETTINGS,
        out=tmp_path,
        extra=last.extra,
        progress=lambda stage, done, total, detail="": told.append(detail),
    )
    assert digest(last.student, last.projection) == digest(reference.student, reference.projection)
    assert found.losses == training.losses
    assert found.resumed_at == (4, 8)
    assert told[0] == "from step 8"
    assert len(told) == 5
    assert steps_of(tmp_path) == ["checkpoint-00000008", "checkpoint-00000012"]


def test_a_finished_run_is_only_loaded(whole: tuple[Any, Any, Path]) -> None:
    training, reference, out = whole
    given = exercise(dropout=0.1)
    found = given.train(out, killed_at(given, 0))
    assert digest(given.student) == digest(reference.student)
    assert (found.steps, found.losses, found.resumed_at) == (12, training.losses, (12,))


CHILD = """
import os, random, signal, sys, time, traceback
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from trainings import digest, exercise, torch
torch.set_num_threads(1)
dice = random.Random(sys.argv[3])
exercise().train(None, steps=1)  # all libraries are loaded, once for all runs

def trained(out):
    given = exercise(dropout=0.1, count=24)
    training = given.train(out, steps=48, batch=4, checkpoint_every=2)
    (out / "weights").write_text(digest(given.student, given.projection))
    (out / "losses").write_text(repr(training.losses))

def started(out):
    child = os.fork()
    if child == 0:
        try:
            trained(out)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child

def lines(out):
    try:
        return (out / "metrics.jsonl").read_bytes().count(b"\\n")
    except FileNotFoundError:
        return 0

place = Path(sys.argv[2])
for name in ("whole", "killed"):
    (place / name).mkdir()
assert os.waitpid(started(place / "whole"), 0)[1] == 0
kills = 0
while True:
    child, out = started(place / "killed"), place / "killed"
    goal, deadline = (lines(out) if kills else 0) + dice.randint(1, 9), time.monotonic() + 60
    while lines(out) < goal and time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, status
            print(kills)
            raise SystemExit
        time.sleep(0.001)
    time.sleep(dice.random() * 0.02)  # anywhere in a step, or while a checkpoint is written
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kills += 1
    assert kills < 100
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_changes_no_bit(tmp_path: Path) -> None:
    seed = os.urandom(4).hex()
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path), seed]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5, seed
    for name in ("weights", "losses", "metrics.jsonl"):
        one, other = ((tmp_path / run / name).read_text() for run in ("whole", "killed"))
        if name == "metrics.jsonl":  # but for the clock
            timed = ("seconds", "tokens_per_s")
            one, other = (
                str([{k: v for k, v in json.loads(line).items() if k not in timed} for line in text.splitlines()])
                for text in (one, other)
            )
        assert one == other, seed
    assert not list((tmp_path / "killed").glob(".checkpoint*"))


# ---- whose checkpoints -----------------------------------------------------------------------------------------------


def test_checkpoints_of_another_run_are_refused(whole: tuple[Any, Any, Path]) -> None:
    out = whole[2]
    before = steps_of(out)
    with pytest.raises(EdgekitError, match=r"with other settings \(learning_rate 0.003, not 0.004\)"):
        exercise(dropout=0.1).train(out, learning_rate=4e-3)
    with pytest.raises(EdgekitError, match="on another text"):
        replace(exercise(dropout=0.1), windows=some_windows(seed=4)).train(out)
    other = exercise(dropout=0.1)
    with torch.no_grad():
        other.student.model.norm.weight[0] += 1e-3
    with pytest.raises(EdgekitError, match="of a model that began otherwise"):
        other.train(out)
    given = exercise(dropout=0.1)
    with pytest.raises(EdgekitError, match="with another objective"):
        train(given.student, given.windows, given.objective, SETTINGS, out=out, extra=given.extra, about="reverse")
    with pytest.raises(EdgekitError, match="in float32, not in bfloat16"):
        exercise(dropout=0.1).train(out, precision="bfloat16")
    assert steps_of(out) == before


def test_what_only_moves_memory_about_does_not_make_it_another_run(whole: tuple[Any, Any, Path]) -> None:
    found = exercise(dropout=0.1).train(whole[2], micro_batch=2, checkpoint_every=1, gradient_checkpointing=True)
    assert found.resumed_at == (12,)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))


def test_a_damaged_checkpoint_is_passed_over(whole: tuple[Any, Any, Path], tmp_path: Path) -> None:
    given = exercise(dropout=0.1)
    given.train(tmp_path)
    damage(tmp_path / "checkpoint-00000012" / "rank-0-of-1.safetensors")
    again = exercise(dropout=0.1)
    assert again.train(tmp_path).resumed_at == (8,)
    assert digest(again.student) == digest(whole[1].student)
    for step in (8, 12):
        (tmp_path / f"checkpoint-{step:08d}" / "rank-0-of-1.json").write_text("{")
    anew = exercise(dropout=0.1)
    assert anew.train(tmp_path).resumed_at == ()
    assert digest(anew.student) == digest(whole[1].student)


def test_one_training_at_a_time(tmp_path: Path) -> None:
    given = exercise()

    def objective(*arguments: Any) -> Any:
        with pytest.raises(EdgekitError, match="another process is training there"):
            exercise().train(tmp_path)
        return given.objective(*arguments)

    given.train(tmp_path, objective, steps=1)


def test_what_is_kept_elsewhere_is_discarded(tmp_path: Path) -> None:
    exercise().train(tmp_path, steps=1)
    checkpointing.discard(tmp_path)
    assert not steps_of(tmp_path)
    assert (tmp_path / "metrics.jsonl").is_file()


# ---- ends before the last step ---------------------------------------------------------------------------------------


def scaled(given: Any, factor: Any) -> Any:
    """Its objective, times what `factor` says of a step."""

    def objective(model: Any, indices: Any, windows: Any, info: stepping.StepInfo) -> Any:
        parts = given.objective(model, indices, windows, info)
        return replace(parts, total=parts.total * factor(info.step))

    return objective


def test_a_loss_that_is_no_number_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    given, good = exercise(), exercise()
    with pytest.raises(Killed):
        good.train(tmp_path / "good", killed_at(good, 4))
    training = given.train(tmp_path / "out", scaled(given, lambda step: math.nan if step == 6 else 1.0))
    assert training.stopped == "diverged at step 7 of 12 (the loss is no number: nan)"
    assert (training.steps, len(training.losses)) == (4, 6)
    assert digest(given.student) == digest(good.student)  # as after step 4
    again = exercise()
    found = again.train(tmp_path / "out", scaled(again, lambda step: math.nan if step == 6 else 1.0))
    assert (found.stopped, found.resumed_at) == (training.stopped, (4,))


def test_without_a_folder_a_step_that_is_no_number_is_not_taken() -> None:
    given, good = exercise(), exercise()
    training = given.train(None, scaled(given, lambda step: math.inf if step == 3 else 1.0))
    with pytest.raises(Killed):
        good.train(None, killed_at(good, 3))
    assert training.stopped == "diverged at step 4 of 12 (the loss is no number: inf)"
    assert digest(given.student) == digest(good.student)


def test_a_loss_far_above_its_median_ends_the_training_and_spoils_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.distill.watching.SEEN", 6)
    monkeypatch.setattr("edgekit.distill.watching.PATIENCE", 3)
    given = exercise()
    training = given.train(tmp_path, scaled(given, lambda step: 5.0 if step >= 14 else 1.0), steps=30)
    assert training.stopped is not None
    assert training.stopped.startswith("diverged at step 17 of 30 (the loss has been above 2 times its running median")
    assert training.steps == 12  # step 16 was due, and suspicious
    assert steps_of(tmp_path) == ["checkpoint-00000008", "checkpoint-00000012"]


def seen(losses: list[float]) -> str | None:
    watch, reason = Watch(), None
    for loss in losses:
        reason = watch.see(loss, 1.0)
        watch = Watch(watch.recent)  # all of its memory is in there
        if reason is not None:
            break
    return reason


def test_what_is_a_divergence_and_what_is_not() -> None:
    calm = [2.0 + 0.3 * math.sin(step) for step in range(SEEN)]
    assert seen(calm + [2.1 * FAR] * PATIENCE) is not None
    assert seen(calm + [2.1 * FAR] * (PATIENCE - 1)) is None
    assert seen(calm + [9.0, 2.0] * SEEN) is None  # hard batches, one by one
    assert seen([5.0 * 0.99**step for step in range(4 * SEEN)]) is None
    assert seen([1e-4] * SEEN + [1e-2] * SEEN) is None  # next to nothing may double
    assert seen([2.0 * 1.01**step for step in range(SEEN)] + [20.0 * 1.02**step for step in range(SEEN)]) is not None
    assert Watch().see(1.0, math.inf) == "the gradient is no number: its norm is inf"


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    import resource

    given, reference = exercise(), exercise()
    reference.train(None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def objective(model: Any, indices: Any, windows: Any, info: stepping.StepInfo) -> Any:
        if info.step == 6:  # no file may grow beyond this: the kernel's refusal comes in the middle of the tensors
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        return given.objective(model, indices, windows, info)

    try:
        with pytest.raises(EdgekitError, match=r"of step 8 cannot be written \(file too large\), that of step 4 stays"):
            given.train(tmp_path, objective)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert steps_of(tmp_path) == ["checkpoint-00000004"]
    assert not list(tmp_path.glob(".checkpoint*"))
    again = exercise()
    assert again.train(tmp_path).resumed_at == (4,)
    assert digest(again.student) == digest(reference.student)


def test_too_little_room_is_said_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.files.shutil.disk_usage", lambda place: type("Usage", (), {"free": 100_000}))
    given = exercise()
    with pytest.raises(EdgekitError, match="not enough free space for checkpoints"):
        given.train(tmp_path, killed_at(given, 0))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc to limit memory by")
def test_out_of_memory_names_a_micro_batch_that_fits() -> None:
    import resource

    given = exercise(count=64)
    given.train(None, steps=1)  # whatever is allocated once is there

    floats = 2**22  # 16 MiB a window

    def objective(model: Any, indices: Any, windows: Any, info: stepping.StepInfo) -> Any:
        parts = given.objective(model, indices, windows, info)
        return replace(parts, total=parts.total + torch.zeros(len(indices), floats).sum())

    status = Path("/proc/self/status").read_text()
    used = int(next(line for line in status.splitlines() if line.startswith("VmData")).split()[1]) * 1024
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    settings: dict[str, Any] = {"steps": 2, "batch": 64}
    resource.setrlimit(resource.RLIMIT_DATA, (used + 22 * 2**24, limits[1]))
    try:
        with pytest.raises(EdgekitError, match="cpu memory does not suffice for a micro-batch of `64`") as whole:
            given.train(None, objective, **settings)
        with pytest.raises(EdgekitError, match="cpu memory does not suffice for a micro-batch of `32`"):
            given.train(None, objective, micro_batch=32, **settings)
        assert whole.value.hint == "set `micro_batch` to 16, which fits: the result is the same"
        assert given.train(None, objective, micro_batch=16, **settings).steps == 2
        floats = 2**28  # a window of 1 GiB fits into nothing that was freed before
        with pytest.raises(EdgekitError) as none:
            given.train(None, objective, **settings)
        assert none.value.hint.startswith("not one window fits")
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)


def test_another_failure_is_not_taken_for_memory() -> None:
    given = exercise()

    def objective(*_: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        given.train(None, objective)
