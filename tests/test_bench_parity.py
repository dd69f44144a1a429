"""A GGUF and an ONNX folder of one student are the same model: scored by two runtimes, they agree to rounding."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgekit import corpus, open_artifact
from edgekit.bench import compare_outputs, evaluate, save_reference
from edgekit.checkpoint import open_checkpoint
from edgekit.errors import EdgekitError, ExitCode
from edgekit.quantize.convert import convert
from edgekit.records import Artifact, Estimate

for _module in ("onnxruntime", "onnxruntime_genai", "torch", "tokenizers"):
    pytest.importorskip(_module)

# building torch's and onnxruntime's graphs takes most of it
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def text() -> str:
    return corpus.text("evaluation", characters=30_000)


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """qwen2, whose embedding is wider than its tokenizer: padding in the GGUF, nothing in `tokenizer.json`."""
    from students import tiny_student

    from edgekit.quantize.onnx import export_onnx

    folder, student = tmp_path_factory.mktemp("builds"), tiny_student("qwen2")
    gguf = convert(open_checkpoint(student), folder / "student-f32.gguf", type="f32")
    return open_artifact(gguf), open_artifact(export_onnx(student, "fp32", folder / "student-onnx"))


def test_two_runtimes_agree(builds: tuple[Artifact, Artifact], text: str) -> None:
    gguf, onnx = builds
    quality = compare_outputs(gguf, onnx, text, context_tokens=256, chunks=6, threads=2).quality
    assert isinstance(quality.kld_mean, Estimate)
    assert isinstance(quality.top1_agreement, Estimate)
    assert isinstance(quality.perplexity_ratio, Estimate)
    # flash attention computes in half precision, and llama.cpp's cache is half precision too
    assert quality.kld_mean.high < 1e-5
    assert quality.top1_agreement.value > 0.995
    assert quality.perplexity_ratio.value == pytest.approx(1, abs=2e-3)
    assert quality.runtime is not None
    assert quality.reference_runtime is not None
    assert (quality.reference_runtime.name, quality.runtime.name) == ("llama.cpp", "onnxruntime")


def test_either_may_be_the_reference(builds: tuple[Artifact, Artifact], text: str) -> None:
    gguf, onnx = builds
    parity = compare_outputs(onnx, gguf, text, context_tokens=128, chunks=2, threads=2)
    assert (parity.a, parity.b) == ("student-onnx", "student-f32.gguf")
    assert isinstance(parity.quality.kld_mean, Estimate)
    assert parity.quality.kld_mean.value < 1e-5


def test_a_reference_file_may_be_of_either(builds: tuple[Artifact, Artifact], text: str, tmp_path: Path) -> None:
    for index, (reference, artifact) in enumerate((builds, builds[::-1])):
        kept = save_reference(reference, text, tmp_path / f"{index}.edgekref", context_tokens=128, chunks=2, threads=2)
        quality = evaluate(artifact, kept, text, context_tokens=128, threads=2)
        assert isinstance(quality.kld_mean, Estimate)
        assert quality.kld_mean.value < 1e-5
        assert quality.reference == Path(reference.path).name


def test_another_tokenizer_in_the_folder_is_refused(
    builds: tuple[Artifact, Artifact], text: str, tmp_path: Path
) -> None:
    gguf, onnx = builds
    folder = shutil.copytree(onnx.path, tmp_path / "other")
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["model"]["merges"] = content["model"]["merges"][: len(content["model"]["merges"]) // 2]
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(EdgekitError, match="read the text differently from its token") as caught:
        compare_outputs(gguf, open_artifact(folder), text, context_tokens=128, chunks=1, threads=2)
    assert caught.value.code == ExitCode.USAGE
