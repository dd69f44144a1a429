"""Trials in turn on fake workers whose truth is known, and the path from a header to a record."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from bench_fakes import Fakes, died

from edgekit.bench import noise
from edgekit.bench.trying import CONFIRMING_PAIRS, ROUNDS, Bench, ratio, speed, trial_plan
from edgekit.devices import load_device
from edgekit.errors import EdgekitError
from edgekit.pipeline import Overrides
from edgekit.pipeline import tuning as path
from edgekit.pipeline.tuning import Quest, Wish, prepare
from edgekit.pipeline.tuning_runs import Ran, Runs
from edgekit.progress import silent
from edgekit.records import Artifact, Estimate, Header, Settings, Tuning, Unknown
from edgekit.runtimes import Step
from edgekit.shapes import load_shape, plan_header
from edgekit.storage import from_json, to_json

BASE = Settings(context_tokens=4096, threads=4)
SLOW = replace(BASE, threads=2)


def header(name: str = "nano-0.6b") -> Header:
    return plan_header(load_shape(name), "q4_0")


def artifact(name: str = "nano-0.6b") -> Artifact:
    return Artifact(path="/nowhere/fake.gguf", sha256="11" * 32, header=header(name))


def fakes(factor: Callable[[Settings], float], *, drift: float = 0.0) -> Fakes:
    """Workers of which `factor` says how long their settings take, on a machine that slows by `drift` a second."""
    made = Fakes()

    def seconds(step: Step, process: int, repetition: int) -> float:
        machine = 1 + drift * (made.clock.now_s - 1000.0)
        return (step.prompt / 1000 + step.generate / 100) * factor(made.opened[process].settings) * machine

    made.seconds = seconds
    return made


def bench(made: Fakes, **changes: object) -> Bench:
    fields: dict[str, object] = {"artifact": artifact(), "together": True, "open_worker": made.open_worker}
    return Bench(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("together", [True, False])
def test_a_trial_tells_the_ratio_whatever_the_machine_does(together: bool) -> None:
    """A tenth slower after every minute, which one run after the other would take for a change."""
    made = fakes(lambda settings: 1 / 1.05 if settings.threads == 2 else 1.0, drift=0.002)
    tried = bench(made, together=together).run(BASE, SLOW)
    assert len(tried.rounds) == 2 * ROUNDS
    assert math.exp(tried.log_ratio("decode")) == pytest.approx(1.05, abs=0.004)
    assert math.exp(tried.log_ratio("prefill")) == pytest.approx(1.05, abs=0.01)
    assert all(one.closed and one.finished for one in made.opened)
    assert len(made.opened) == (2 if together else 6 * ROUNDS)


def test_one_round_already_takes_a_drift_from_both() -> None:
    made = fakes(lambda settings: 1.0, drift=0.02)
    assert abs(bench(made).run(BASE, SLOW, rounds=1).log_ratio("decode")) < 0.002


def test_what_is_much_slower_gets_one_round_and_what_is_much_faster_all() -> None:
    slower = bench(fakes(lambda settings: 1.5 if settings.threads == 2 else 1.0)).run(BASE, SLOW)
    faster = bench(fakes(lambda settings: 0.5 if settings.threads == 2 else 1.0)).run(BASE, SLOW)
    assert (len(slower.rounds), len(faster.rounds)) == (2, 2 * ROUNDS)


def test_rounds_that_disagree_show_no_change() -> None:
    made = fakes(lambda settings: 1.0)
    turns = iter(range(1000))
    plain = made.seconds
    made.seconds = lambda step, process, repetition: plain(step, process, repetition) * (1 + 0.02 * (next(turns) % 3))
    tried = bench(made).run(BASE, SLOW)
    assert tried.sure_log_ratio("decode") == 0.0
    assert len(tried.rounds) == 2 * 2, "a third could not make it sure"


def test_a_visit_decodes_behind_its_prompt() -> None:
    made = fakes(lambda settings: 1.0)
    bench(made).run(BASE, replace(BASE, context_tokens=300))
    steps = {(step.test, step.prompt, step.generate, step.depth) for step in made.opened[0].steps if not step.warmup}
    assert steps == {("pp512", 512, 0, 0), ("tg32@d512", 0, 32, 512)}


def test_warming_up_costs_little_of_a_trial() -> None:
    made = fakes(lambda settings: 1.0)
    bench(made).run(BASE, SLOW, rounds=1)
    warming = [step for step in made.opened[0].steps if step.warmup]
    assert [step.test for step in warming] == ["pp512", "tg32@d512"]
    assert sum(step.prompt + step.generate + step.depth for step in warming) < 0.15 * 512


def test_confirming_turns_the_order_and_gives_ranges() -> None:
    made = fakes(lambda settings: 1.25 if settings.threads == 2 else 1.0)
    pairs = bench(made).confirm(BASE, SLOW, lambda index: None)
    first = [made.opened[2 * index].settings.threads for index in range(CONFIRMING_PAIRS)]
    assert first == [4, 2] * (CONFIRMING_PAIRS // 2)
    found = ratio(pairs, "decode")
    assert isinstance(found, Estimate)
    assert found.value == pytest.approx(0.8)
    rate = speed(pairs, "decode", "tg32@d512", "measured-here")
    assert isinstance(rate, Estimate)
    assert rate.value == pytest.approx(80)
    assert isinstance(ratio(pairs[:4], "decode"), Unknown)  # two pairs


def test_the_plan_counts_what_runs() -> None:
    made = trial_plan(BASE, trials=7, rounds=3)
    assert len(made.main) == 2 * (7 + CONFIRMING_PAIRS)
    trial, confirming = made.main[0], made.main[-1]
    timed = [[(one.test, one.repetitions) for one in each.steps if not one.warmup] for each in (trial, confirming)]
    assert timed == [[("pp512", 3), ("tg32@d512", 6)], [("pp512", 1), ("tg32@d512", 2)]]
    assert [one.repetitions for one in trial.steps if one.warmup] == [1, 1]


@pytest.fixture(autouse=True)
def idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four CPUs that do nothing between two looks, where a test brings no machine of its own."""
    looks, truly = count(1), noise.read_counters

    def read(root: Path, clock: Callable[[], float]) -> noise.HostCounters | None:
        if root.exists():
            return truly(root, clock)
        now_s = float(next(looks))
        return noise.HostCounters(at_s=now_s, total_s=4 * now_s, idle_s=4 * now_s, own_s=0.0, pressure_s=0.0)

    monkeypatch.setattr(noise, "read_counters", read)


# ---- the path -------------------------------------------------------------------------------------------------------


def tuned(made: Fakes, wish: Wish, name: str = "nano-0.6b") -> Tuning:
    quest = prepare(header(name), wish)
    found = artifact(name)
    runs = Runs(artifact=found, quest=quest, wish=wish, progress=silent, root=Path("/nonexistent"))
    runs.bench = Bench(artifact=found, together=True, open_worker=made.open_worker, to_run=runs._here)  # type: ignore[arg-type]
    ran = runs.all() if quest.status == "pass" else Ran.nothing(quest)
    return path._conclude(found, quest, ran, "2026-11-22T00:00:00+00:00", 1.0)


def factor(settings: Settings) -> float:
    """Three threads are fastest, repacking helps, and small micro-batches prefill slower (through all steps)."""
    return (1 + 0.1 * abs(settings.threads - 3)) * (1.0 if settings.repack else 1.3)


def test_this_host_gets_its_own_figures() -> None:
    found = tuned(fakes(factor), Wish(memory_bytes=2e9))
    assert (found.status, found.targets[0].status) == ("pass", "pass")
    assert found.settings is not None
    assert (found.settings.threads, found.settings.repack, found.settings.output_rows) == (3, True, 1)
    decode = found.targets[0].decode
    assert isinstance(decode, Estimate)
    assert decode.basis == "measured-here"
    assert decode.value == pytest.approx(100)
    assert isinstance(found.decode_ratio, Estimate)
    assert found.decode_ratio.low >= 1.0
    assert len(found.trials) <= 20
    assert from_json(to_json(found), Tuning, origin="here") == found


def test_another_device_gets_memory_of_its_own_and_no_speed_of_this_host() -> None:
    made = fakes(factor)
    found = tuned(made, Wish(device="raspberry-pi-5"))
    assert found.settings is not None
    assert found.settings.threads == load_device("raspberry-pi-5").settings.threads
    assert {target.isa for target in found.targets} == {load_device("raspberry-pi-5").isa}
    assert all(isinstance(one.decode, Unknown) or one.decode.basis == "projected" for one in found.targets)
    assert {one.settings.threads for one in made.opened} == {0}  # this host's own big cores
    assert all(one.settings.repack == found.default.repack for one in made.opened)


def test_a_class_must_fit_on_every_member() -> None:
    found = tuned(fakes(factor), Wish(device="smartphone"), "nano-1.5b")
    assert found.settings is not None
    assert len(found.targets) == len(load_device("smartphone").members) > 1
    assert {target.status for target in found.targets} == {"pass"}
    assert all(target.memory.high <= 1.2e9 for target in found.targets)


def test_nothing_is_run_where_nothing_fits() -> None:
    made = fakes(factor)
    found = tuned(made, Wish(device="smartphone"), "base-7b")
    assert (found.status, found.settings, made.opened) == ("fail", None, [])
    assert "nothing of this file fits" in found.reason


def test_nothing_is_run_where_nothing_surely_fits() -> None:
    """The limit lies within the range of the leanest point at the shortest context that may be tried."""
    quest = prepare(header(), Wish(memory_bytes=1e12, overrides=Overrides(context_tokens=4096)))
    space = quest.space
    least = min(
        (memory.working_set for one in space.grid(4096) if (memory := space.memory(one, space.targets[0]))),
        key=lambda figure: figure.high,
    )
    made = fakes(factor)
    found = tuned(made, Wish(memory_bytes=least.high - 1, overrides=Overrides(context_tokens=4096)))
    assert (found.status, made.opened) == ("unknown", [])
    assert isinstance(found.decode_ratio, Unknown)


def test_tune_itself_runs_nothing_that_may_miss(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path, "Runs", None)
    found = path.tune(tiny_gguf, Wish(memory_bytes=5e6))
    assert (found.status, found.trials) == ("unknown", ())
    assert "may or may not fit" in found.reason


def test_a_shorter_context_is_taken_only_where_none_was_asked_for() -> None:
    limit = 6.3e8
    free = tuned(fakes(factor), Wish(memory_bytes=limit))
    assert free.settings is not None
    assert free.settings.context_tokens < 4096
    assert any("another product" in cost for cost in free.costs)
    asked = tuned(fakes(factor), Wish(memory_bytes=limit, overrides=Overrides(context_tokens=4096)))
    assert asked.settings is None


def test_a_point_that_dies_ends_alone_and_a_declined_file_ends_all() -> None:
    made = fakes(factor)

    def dies(process: int) -> None:
        if not made.opened[process].settings.repack:
            raise died("worker-killed")

    made.on_open = dies
    found = tuned(made, Wish(memory_bytes=2e9))
    assert found.settings is not None
    assert found.settings.threads == 3
    assert any(trial.outcome.startswith("broke") and not trial.rounds for trial in found.trials)

    def declines(process: int) -> None:
        raise died("model-rejected")

    with pytest.raises(EdgekitError):
        tuned(Fakes(on_open=declines), Wish(memory_bytes=2e9))


def test_a_search_that_was_misled_is_taken_back() -> None:
    """What was fastest while it searched is slower in fresh runs."""
    made = fakes(factor)
    plain = made.seconds
    loads = 0

    def seconds(step: Step, process: int, repetition: int) -> float:
        fresh = process >= loads > 0
        wrong = 1.5 if fresh and made.opened[process].settings.threads != 4 else 1.0
        return plain(step, process, repetition) * wrong

    made.seconds = seconds
    quest = prepare(header(), Wish(memory_bytes=2e9, overrides=Overrides()))
    quest = replace(quest, start=replace(quest.default, threads=4), space=replace_default(quest, 4))
    runs = Runs(artifact=artifact(), quest=quest, wish=Wish(), progress=silent, root=Path("/nonexistent"))

    class Watched(Bench):
        def confirm(self, one: Settings, other: Settings, progress: Callable[[int], None]):  # type: ignore[no-untyped-def]
            nonlocal loads
            loads = len(made.opened)
            return super().confirm(one, other, progress)

    runs.bench = Watched(artifact=artifact(), together=True, open_worker=made.open_worker)  # type: ignore[arg-type]
    ran = runs.all()
    assert ran.settings == quest.default
    assert [finding.code for finding in ran.findings if finding.code == "search-misled"]
    assert isinstance(ran.decode, Estimate)
    assert ran.decode.value == pytest.approx(100 / 1.1)


def replace_default(quest: Quest, threads: int):  # type: ignore[no-untyped-def]
    return replace(quest.space, default=replace(quest.space.default, threads=threads))


def test_a_busy_machine_settles_nothing(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    stat = tmp_path / "proc/stat"
    stat.write_text("cpu  0 0 0 0 0 0 0 0\n")
    made = fakes(factor)
    plain = made.seconds
    used = iter(range(100, 10_000_000, 100))

    def seconds(step: Step, process: int, repetition: int) -> float:
        stat.write_text(f"cpu  {next(used)} 0 0 0 0 0 0 0\n")
        return plain(step, process, repetition)

    made.seconds = seconds
    wish = Wish(memory_bytes=2e9)
    quest = prepare(header(), wish)
    runs = Runs(artifact=artifact(), quest=quest, wish=wish, progress=silent, root=tmp_path)
    runs.bench = bench(made)
    ran = runs.all()
    assert ran.spoilt
    assert path._status(quest, ran)[0] == "unknown"


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish(device="smartphone", on_device="smartphone"), "names a class of devices"),
        (Wish(device="pixel-8", on_device="raspberry-pi-5"), "another device than `--device`"),
        (Wish(device="pixel-8", on_device="pixel-8"), "claims to be on the device"),
        (Wish(device="no-such-phone"), "unknown device"),
        (Wish(overrides=Overrides(ubatch_tokens=2**30)), "`ubatch_tokens` must lie between"),
    ],
)
def test_wishes_that_cannot_be(wish: Wish, said: str) -> None:
    with pytest.raises(EdgekitError, match=said):
        prepare(header(), wish)


def test_an_onnx_model_is_refused() -> None:
    with pytest.raises(EdgekitError, match="the model is no GGUF"):
        prepare(replace(header(), format="onnx"), Wish())
