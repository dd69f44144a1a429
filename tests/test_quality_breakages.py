"""Students broken on purpose fail their quality gates, and whole ones pass the same: through `evaluate` and the judge.

The gates are those one would set for a quantized build of a small student: what `q4_k_m` costs it passes, and nothing
that `breakages` does to a `q8_0` may. A model that cannot even be compared is refused with exit code 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import breakages
import numpy as np
import pytest
from breakages import Breakage, broken
from students import task_questions, task_teacher, tiny_student

from edgekit import bench, corpus
from edgekit.checkpoint import open_checkpoint
from edgekit.devices import load_device
from edgekit.errors import EdgekitError, ExitCode
from edgekit.gate.gates import load_gates
from edgekit.pipeline import asking, evaluating, gating
from edgekit.quantize.convert import convert
from edgekit.quantize.llama_quantize import quantize_gguf
from edgekit.records import Answers, Estimate, Quality, Report, Unknown

pytestmark = pytest.mark.slow

GATES = """
[gates]
kld_mean = { max = 0.003 }
top1_agreement = { min = 0.93 }
chat_template_kept = { min = 1 }
"""
"""What these students' q4_k_m costs, with room."""

STRICT = """
[gates]
kld_mean = { max = 0.0005 }
top1_agreement = { min = 0.97 }
"""
"""What their q8_0 costs, with room."""

DEVICE = "raspberry-pi-5"
"""No gate here is about the device."""


@dataclass(frozen=True)
class Builds:
    """Of one student: whole in f16, quantized, and broken; what was evaluated once is not evaluated again."""

    folder: Path
    whole: Path
    known: dict[Path, Quality] = field(default_factory=dict)

    def quantized(self, kind: str, *, pure: bool = False) -> Path:
        path = self.folder / f"{kind}{'-pure' if pure else ''}.gguf"
        return path if path.exists() else quantize_gguf(self.whole, path, kind, pure=pure)

    def broken(self, name: str, breakage: Breakage) -> Path:
        path = self.folder / f"{name}.gguf"
        return path if path.exists() else broken(self.quantized("q8_0"), breakage, path)

    def report(self, artifact: Path, gates: str = GATES) -> Report:
        """What the user gets: evaluated against the whole, gathered, and judged by a gates file."""
        if artifact not in self.known:
            text = asking.Text(content=corpus.text("evaluation", characters=40_000), origin="test")
            asked = asking.Asked(reference=self.whole, text=text, context_tokens=256, chunks=16, threads=2)
            self.known[artifact] = evaluating.evaluate(artifact, asked)
        path = artifact.with_suffix(".toml")
        path.write_text(gates)
        device = load_device(DEVICE)
        evidence = gating.gather(gating.open_artifact(artifact), device, quality=self.known[artifact])
        return gating.conclude(evidence, device, load_gates(path))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Builds]:
    @cache
    def made(architecture: str) -> Builds:
        folder = tmp_path_factory.mktemp(architecture)
        return Builds(folder, convert(open_checkpoint(tiny_student(architecture)), folder / "f16.gguf"))

    return made


def checks(told: Report) -> dict[str, str]:
    return {check.metric: check.status for check in told.verdicts[0].checks}


@pytest.mark.parametrize("kind", ["q8_0", "q4_k_m"])
@pytest.mark.parametrize("architecture", ["qwen3", "qwen2", "llama"])
def test_healthy_builds_pass(student: Callable[[str], Builds], architecture: str, kind: str) -> None:
    builds = student(architecture)
    told = builds.report(builds.quantized(kind))
    assert told.verdicts[0].status == "pass", told.verdicts[0].reason
    assert told.exit_code == ExitCode.PASS


BREAKAGES: dict[str, tuple[str, Breakage]] = {
    "random tensor": ("qwen3", breakages.random_tensor),
    "swapped layers": ("qwen3", breakages.swapped_layers),
    "wrong rope base": ("qwen3", breakages.rope_base),
    "zeroed norm": ("qwen3", breakages.zeroed_norm),
    "wrong norm epsilon": ("qwen3", breakages.norm_epsilon),
    "transposed projection": ("llama", breakages.transposed),
    "swapped gate and up": ("qwen3", breakages.swapped_gate_and_up),
    "flipped sign": ("qwen3", breakages.flipped_sign),
    "rotated heads": ("qwen3", breakages.rotated_heads),
    "rotation of other pairs": ("llama", breakages.unpaired_rotation),
    "embedding off by a row": ("qwen3", breakages.shifted_embedding),
    "scaled output": ("qwen3", breakages.scaled_output),
    "overflowing norm": ("qwen3", breakages.overflowing_norm),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_broken_build_fails(student: Callable[[str], Builds], name: str) -> None:
    architecture, breakage = BREAKAGES[name]
    builds = student(architecture)
    told = builds.report(builds.broken(name, breakage))
    assert told.verdicts[0].status == "fail", told.verdicts[0].reason
    assert told.exit_code == ExitCode.FAIL
    assert checks(told)["kld_mean"] in ("fail", "unknown")  # never a pass: of NaN there is no divergence


def test_two_bits_everywhere_fail(student: Callable[[str], Builds]) -> None:
    """q2_k for every matrix, the embedding too: "drops sharply" is not a crash, and is no pass either."""
    builds = student("qwen3")
    told = builds.report(builds.quantized("q2_k", pure=True))
    assert told.verdicts[0].status == "fail", told.verdicts[0].reason


def test_an_unbroken_copy_is_the_model_itself(student: Callable[[str], Builds]) -> None:
    """What the helper itself changes of a file is nothing that is read."""
    builds = student("qwen3")
    whole, copy = breakages.Copy(builds.quantized("q8_0")), breakages.Copy(builds.broken("whole", lambda copy: None))
    assert copy.keys == whole.keys
    assert copy.names == whole.names
    assert all(np.array_equal(copy[name], whole[name]) for name in whole.names)
    told = builds.report(builds.broken("whole", lambda copy: None))
    assert told.evidence.quality is not None
    healthy = builds.report(builds.quantized("q8_0")).evidence.quality
    assert healthy is not None
    assert told.evidence.quality.chunks == healthy.chunks


@pytest.mark.parametrize("breakage", [breakages.zeroed_bias, breakages.missing_bias], ids=("zeroed", "missing"))
def test_biases_that_hardly_learned(student: Callable[[str], Builds], breakage: Breakage) -> None:
    """A student trained for seconds has small biases: without them it is no worse than three bits would make it. The
    gates of a q4_k_m cannot tell that from quantizing, and do not pass it for certain; those of a q8_0 see it.
    """
    builds = student("qwen2")
    strict = builds.report(builds.broken(breakage.__name__, breakage), STRICT)
    assert checks(strict)["kld_mean"] == "fail", strict.verdicts[0].reason
    assert strict.exit_code == ExitCode.FAIL
    assert builds.report(builds.quantized("q8_0"), STRICT).exit_code == ExitCode.PASS


def test_an_epsilon_that_is_too_small_to_matter(student: Callable[[str], Builds]) -> None:
    """Another family's epsilon (1e-5 for 1e-6) costs a tenth of what q8_0 does: the gates pass it, rightly."""
    builds = student("qwen3")
    told = builds.report(builds.broken("epsilon", partial(breakages.norm_epsilon, epsilon=1e-5)), STRICT)
    assert told.exit_code == ExitCode.PASS


def test_divergence_finds_what_agreement_cannot(student: Callable[[str], Builds]) -> None:
    """Logits at twice their size pick the same tokens: a gate on top-1 alone would let every temperature be wrong."""
    builds = student("qwen3")
    found = checks(builds.report(builds.broken("scaled output", breakages.scaled_output)))
    assert (found["kld_mean"], found["top1_agreement"]) == ("fail", "pass")


def test_no_number_is_no_figure(student: Callable[[str], Builds]) -> None:
    builds = student("qwen3")
    quality = builds.report(builds.broken("overflowing norm", breakages.overflowing_norm)).evidence.quality
    assert quality is not None
    assert isinstance(quality.kld_mean, Unknown)
    assert isinstance(quality.perplexity, Unknown)
    assert isinstance(quality.top1_agreement, Estimate)
    assert quality.top1_agreement.high < 0.01
    assert "broken-logits" in [finding.code for finding in quality.findings]


REFUSED: dict[str, tuple[Breakage, str]] = {
    "truncated vocabulary": (breakages.truncated_vocabulary, "the vocabularies differ first at token"),
    "other pre-tokenizer": (breakages.other_pre_tokenizer, "the models read the text differently from its token"),
    "NaN in a block": (breakages.nan_weights, "tensor 'blk.1.ffn_up.weight' has invalid data"),
    "NaN in a norm": (partial(breakages.nan_weights, name="blk.1.ffn_norm.weight"), "'blk.1.ffn_norm.weight' has inv"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compared_is_refused(student: Callable[[str], Builds], name: str) -> None:
    """Of a NaN no score tells: x86 kernels lose it, and the model would pass here and be dead on an Arm phone."""
    breakage, says = REFUSED[name]
    builds = student("qwen3")
    with pytest.raises(EdgekitError) as caught:
        builds.report(builds.broken(name, breakage))
    assert caught.value.code == ExitCode.USAGE
    assert caught.value.hint
    assert says in caught.value.message


@pytest.mark.parametrize("breakage", [breakages.dropped_template, breakages.changed_template], ids=("lost", "changed"))
def test_chat_template_is_a_check_of_its_own(student: Callable[[str], Builds], breakage: Breakage) -> None:
    """Not a logit differs on plain text: only the comparison with the parent tells."""
    builds = student("qwen3")
    told = builds.report(builds.broken(breakage.__name__, breakage))
    assert checks(told) == {"kld_mean": "pass", "top1_agreement": "pass", "chat_template_kept": "fail"}
    assert told.exit_code == ExitCode.FAIL


# ---- on tasks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taught:
    """A model that answers, and what it answered whole: the teacher of its own builds."""

    builds: Builds
    bank: corpus.Bank
    teacher: Answers

    def report(self, path: Path) -> Report:
        artifact = gating.open_artifact(path)
        tasks = bench.judge_answers(bench.answer(artifact, self.bank, threads=2), self.teacher)
        quality = Quality(
            reference="",
            perplexity=evaluating.NOT_SCORED,
            kld_mean=evaluating.NOT_SCORED,
            top1_agreement=evaluating.NOT_SCORED,
            tasks=tasks,
            artifact_sha256=artifact.sha256,
        )
        gates = path.with_suffix(".toml")
        gates.write_text("[gates]\nquality_retention = { min = 0.8 }\n")
        device = load_device(DEVICE)
        return gating.conclude(gating.gather(artifact, device, quality=quality), device, load_gates(gates))


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    folder = tmp_path_factory.mktemp("taught")
    whole = convert(open_checkpoint(task_teacher()), folder / "f16.gguf")
    bank = task_questions(200)
    return Taught(Builds(folder, whole), bank, bench.answer(gating.open_artifact(whole), bank, threads=2))


@pytest.mark.parametrize("kind", ["q8_0", "q4_k_m"])
def test_healthy_builds_retain(taught: Taught, kind: str) -> None:
    told = taught.report(taught.builds.quantized(kind))
    assert told.exit_code == ExitCode.PASS, told.verdicts[0].checks[0].reason


FORGETTING: dict[str, Breakage] = {
    "random tensor": breakages.random_tensor,
    "swapped layers": breakages.swapped_layers,
    "embedding off by a row": breakages.shifted_embedding,
    "rotated heads": breakages.rotated_heads,
}


@pytest.mark.parametrize("name", FORGETTING)
def test_broken_builds_forget(taught: Taught, name: str) -> None:
    """Retention alone, without a reference on a text, fails them."""
    told = taught.report(taught.builds.broken(name, FORGETTING[name]))
    assert told.exit_code == ExitCode.FAIL, told.verdicts[0].checks[0].reason


def test_tasks_overlook_what_divergence_sees(taught: Taught) -> None:
    """Of some choices the likeliest stays so at every temperature: neither gate stands in for the other."""
    told = taught.report(taught.builds.broken("scaled output", breakages.scaled_output))
    assert told.exit_code == ExitCode.PASS, told.verdicts[0].checks[0].reason
