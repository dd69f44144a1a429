"""A reference kept in a file tells of an artifact what the model itself would tell; and what is wrong with a file is
said in one line.
"""

from __future__ import annotations

import dataclasses
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from students import tiny_student

from edgekit import corpus, open_artifact
from edgekit.bench import (
    evaluate,
    is_reference_file,
    open_reference_file,
    read_reference_text,
    reference_file,
    save_reference,
)
from edgekit.bench.reference_file import seat
from edgekit.checkpoint import open_checkpoint
from edgekit.errors import EdgekitError, ExitCode
from edgekit.quantize.convert import convert
from edgekit.quantize.llama_quantize import quantize_gguf
from edgekit.records import Artifact, Estimate, Quality, ReferenceFile, Settings
from edgekit.runtimes import WorkerDied, llamacpp
from edgekit.runtimes.compact import file as container
from edgekit.runtimes.compact import keeping
from edgekit.runtimes.compact.reference import open_reference
from edgekit.runtimes.scores import score_rows
from edgekit.shapes import load_shape, vocabulary, write_stand_in
from edgekit.storage import to_json

SETTINGS = Settings(repack=False)
CONTEXT = 128
CHUNKS = 10


@pytest.fixture(scope="module")
def text() -> str:
    return corpus.text("evaluation", characters=40_000)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("student")
    return open_artifact(convert(open_checkpoint(tiny_student("qwen3")), folder / "full-f16.gguf", type="f16"))


@pytest.fixture(scope="module")
def q4(full: Artifact) -> Artifact:
    path = Path(full.path)
    return open_artifact(quantize_gguf(path, path.with_name("student-q4_0.gguf"), "q4_0", threads=2))


def keep(artifact: Artifact, text: str, out: Path, **options: Any) -> ReferenceFile:
    options = {"context_tokens": CONTEXT, "chunks": CHUNKS, "threads": 2, "settings": SETTINGS} | options
    return save_reference(artifact, text, out, **options)


def judge(artifact: Artifact, reference: Artifact | ReferenceFile, text: str, **options: Any) -> Quality:
    options = {"context_tokens": CONTEXT, "chunks": CHUNKS, "threads": 2, "settings": SETTINGS} | options
    return evaluate(artifact, reference, text, **options)


@pytest.fixture(scope="module")
def reference(full: Artifact, text: str, tmp_path_factory: pytest.TempPathFactory) -> ReferenceFile:
    return keep(full, text, tmp_path_factory.mktemp("reference") / "full.edgekref", origin="corpus")


def value(figure: object) -> float:
    assert isinstance(figure, Estimate), figure
    return figure.value


@pytest.mark.parametrize("type", ["q8_0", "q4_0"])
def test_it_tells_what_the_model_would(
    full: Artifact,
    reference: ReferenceFile,
    text: str,
    type: str,  # noqa: A002  (as `quantize_gguf` calls it)
) -> None:
    path = Path(full.path)
    artifact = open_artifact(quantize_gguf(path, path.with_name(f"other-{type}.gguf"), type, threads=2, force=True))
    stored, live = judge(artifact, reference, text), judge(artifact, full, text)
    assert value(stored.kld_mean) == pytest.approx(value(live.kld_mean), rel=0.01)
    for name in ("perplexity", "reference_perplexity", "perplexity_ratio", "dp_rms"):
        assert value(getattr(stored, name)) == pytest.approx(value(getattr(live, name)), rel=1e-4)
    assert [(chunk.top1, chunk.top5, chunk.tokens) for chunk in stored.chunks] == [
        (chunk.top1, chunk.top5, chunk.tokens) for chunk in live.chunks
    ]
    for ours, exact in zip(stored.chunks, live.chunks, strict=True):
        assert ours.kld_lower is not None
        assert exact.kld is not None
        assert ours.kld is not None
        assert ours.kld_lower <= min(ours.kld, exact.kld * 1.0001 + 1e-6)
        assert ours.kld == pytest.approx(exact.kld, rel=0.05)
    assert value(stored.kld_lower) < value(live.kld_mean)
    assert (stored.reference_form, live.reference_form) == ("compact", "live")
    assert (stored.reference, stored.reference_sha256) == (live.reference, full.sha256)
    assert stored.reference_runtime == reference.runtime


def test_the_model_itself_differs_by_nothing(full: Artifact, reference: ReferenceFile, text: str) -> None:
    quality = judge(full, reference, text)
    assert value(quality.kld_mean) < 1e-6
    assert max(max(chunk.token_kld) for chunk in quality.chunks) < 1e-6
    assert value(quality.top1_agreement) == 1


def test_it_says_what_it_is(full: Artifact, reference: ReferenceFile, text: str) -> None:
    path = Path(reference.path)
    assert is_reference_file(path)
    assert open_reference_file(path) == reference
    assert reference.complete
    assert (reference.model, reference.artifact_sha256) == ("full-f16.gguf", full.sha256)
    assert (reference.context_tokens, reference.chunks, reference.text_origin) == (CONTEXT, CHUNKS, "corpus")
    assert reference.size_bytes == path.stat().st_size
    assert read_reference_text(reference) == text
    assert [child.name for child in path.parent.iterdir()] == ["full.edgekref"]
    assert not is_reference_file(Path(full.path))
    assert not is_reference_file(path.parent)
    assert not is_reference_file(path.with_name("nowhere"))


def test_fewer_chunks_may_be_asked_for(q4: Artifact, reference: ReferenceFile, text: str) -> None:
    assert len(judge(q4, reference, text, chunks=2).chunks) == 2
    assert len(judge(q4, reference, text, chunks=None).chunks) == CHUNKS


def test_long_chunks_come_in_parts(full: Artifact, q4: Artifact, text: str, tmp_path: Path) -> None:
    """A stop within a chunk, too: it goes on at the chunk's beginning."""
    out, options = tmp_path / "long.edgekref", {"context_tokens": 520, "chunks": 2}
    whole = parts_of(Path(keep(full, text, tmp_path / "whole", **options).path))
    assert len(whole) == 2 + 2 * 2
    with pytest.raises(Stopped):
        keep(full, text, out, progress=stop_after(2), **options)
    left = tmp_path / "long.edgekref.unfinished"
    left.write_bytes(left.read_bytes()[:-1000])
    assert open_reference_file(left).kept_chunks == 1
    kept = keep(full, text, out, **options)
    assert parts_of(out) == whole
    stored, live = judge(q4, kept, text, **options), judge(q4, full, text, **options)
    for ours, exact in zip(stored.chunks, live.chunks, strict=True):
        assert ours.kld == pytest.approx(exact.kld, rel=0.02)
        assert ours.reference_nll == pytest.approx(exact.reference_nll, rel=1e-6)
    (tmp_path / "cut").write_bytes(out.read_bytes()[:-1000])
    assert "unfinished, 1 of 2" in refused(lambda: judge(full, open_reference_file(tmp_path / "cut"), text, **options))


@pytest.mark.parametrize(("ours", "theirs", "columns"), [(1056, 1024, 1024), (1024, 1056, 900)])
def test_padding_may_differ_in_length(
    ours: int, theirs: int, columns: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A longer artifact is judged on the reference's columns, a shorter one on the tokens that stand for something."""
    monkeypatch.setattr(vocabulary, "_QWEN_BASE", 874)  # and 26 special ones
    tiny, logits = load_shape("tiny"), []
    settings = dataclasses.replace(SETTINGS, context_tokens=64, batch_tokens=64, ubatch_tokens=64, threads=2)
    for size, seed in ((ours, 1), (theirs, 2)):
        path = write_stand_in(dataclasses.replace(tiny, vocabulary=size), "q8_0", tmp_path / f"{size}.gguf", seed=seed)
        session = llamacpp.open_session(path, settings)
        tokens = session.tokenize(text)[:64]
        session.feed(tokens[:32])
        logits.append(session.feed(tokens[32:], want="all")[:-1, :columns])
        session.close()
    kept = keep(open_artifact(tmp_path / f"{theirs}.gguf"), text, tmp_path / "kept", context_tokens=64, chunks=1)
    quality = judge(open_artifact(tmp_path / f"{ours}.gguf"), kept, text, context_tokens=64, chunks=1)
    exact = score_rows(*map(np.ascontiguousarray, logits), tokens[33:])
    (chunk,) = quality.chunks
    assert chunk.kld == pytest.approx(exact.kld.sum(), rel=0.02)
    assert (chunk.nll, chunk.reference_nll) == pytest.approx((exact.nll.sum(), exact.reference_nll.sum()), rel=1e-3)
    assert "stand-in-quality" in [finding.code for finding in quality.findings]


# ---- writing again --------------------------------------------------------------------------------------------------


def parts_of(path: Path) -> list[bytes]:
    """All but the header."""
    with path.open("rb") as stream:
        layout = container.read_layout(stream, 99)
        return [container.read_section(stream, section, layout.seed) for section in layout.sections[1:]]


class Stopped(Exception):  # noqa: N818  (named for what happened)
    """What ends a run."""


def stop_after(chunks: int) -> Callable[..., None]:
    def progress(stage: str, done: float, total: float, detail: str = "") -> None:
        if total and done == chunks:
            raise Stopped

    return progress


@pytest.mark.parametrize("torn", [False, True])
def test_a_stopped_run_goes_on(
    full: Artifact, reference: ReferenceFile, text: str, tmp_path: Path, *, torn: bool
) -> None:
    out = tmp_path / "again.edgekref"
    with pytest.raises(Stopped):
        keep(full, text, out, progress=stop_after(5))
    (left,) = tmp_path.iterdir()
    assert left.name == "again.edgekref.unfinished"
    assert open_reference_file(left).kept_chunks >= 5
    assert not open_reference_file(left).complete
    with pytest.raises(EdgekitError, match="unfinished"):
        judge(full, open_reference_file(left), text)
    if torn:  # in the midst of the last chunk that was written
        left.write_bytes(left.read_bytes()[:-1000])
    told: list[float] = []
    whole = keep(full, text, out, progress=lambda stage, done, total, detail="": told.append(done))
    assert min(done for done in told[1:]) >= 4
    assert whole.complete
    assert parts_of(out) == parts_of(Path(reference.path))
    assert [child.name for child in tmp_path.iterdir()] == [out.name]


def test_a_damaged_rest_is_not_built_upon(full: Artifact, reference: ReferenceFile, text: str, tmp_path: Path) -> None:
    out = tmp_path / "again.edgekref"
    with pytest.raises(Stopped):
        keep(full, text, out, progress=stop_after(5))
    left = tmp_path / "again.edgekref.unfinished"
    with left.open("rb") as stream:
        third = container.read_layout(stream, 99).parts[2]
    data = bytearray(left.read_bytes())
    data[third.begin + 99] ^= 1
    left.write_bytes(data)
    told: list[float] = []
    keep(full, text, out, progress=lambda stage, done, total, detail="": told.append(done))
    assert told[:3] == [0, 2, 3]
    assert parts_of(out) == parts_of(Path(reference.path))


def test_what_another_model_left_is_begun_anew(
    full: Artifact, q4: Artifact, reference: ReferenceFile, text: str, tmp_path: Path
) -> None:
    out = tmp_path / "again.edgekref"
    with pytest.raises(Stopped):
        keep(q4, text, out, progress=stop_after(5))
    assert keep(full, text, out).artifact_sha256 == full.sha256
    assert parts_of(out) == parts_of(Path(reference.path))


def test_what_is_there_stays(full: Artifact, text: str, tmp_path: Path) -> None:
    out = tmp_path / "there.edgekref"
    out.write_text("precious", encoding="utf-8")
    with pytest.raises(EdgekitError, match="the output exists") as caught:
        keep(full, text, out)
    assert "--force" in caught.value.hint
    assert out.read_text(encoding="utf-8") == "precious"
    assert keep(full, text, out, chunks=1, force=True).complete
    with pytest.raises(EdgekitError, match="the output is a folder"):
        keep(full, text, tmp_path, force=True)


def test_only_one_writes(full: Artifact, text: str, tmp_path: Path) -> None:
    out = tmp_path / "one.edgekref"

    def second(stage: str, done: float, total: float, detail: str = "") -> None:
        if done == 1:
            with pytest.raises(EdgekitError, match="another edgekit is writing"):
                keep(full, text, out)

    assert keep(full, text, out, chunks=2, progress=second).complete


def test_the_lock_is_held_until_the_file_is_in_its_place(
    full: Artifact, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or another run would write into what is being renamed."""
    fcntl = pytest.importorskip("fcntl")
    tried = []

    def opened(path: Path) -> ReferenceFile:
        with path.open("rb") as stream, pytest.raises(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        tried.append(path.name)
        return open_reference_file(path)

    monkeypatch.setattr(reference_file, "open_reference_file", opened)
    assert keep(full, text, tmp_path / "out.edgekref", chunks=1).complete
    assert tried == ["out.edgekref.unfinished"]


def test_what_was_finished_while_waiting_for_the_lock_is_left_alone(
    full: Artifact, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run ends between the opening of its unfinished file and the lock."""
    fcntl = pytest.importorskip("fcntl")
    out, unfinished = tmp_path / "out.edgekref", tmp_path / "out.edgekref.unfinished"
    unfinished.write_bytes(b"all there")
    flock = fcntl.flock

    def lock(stream: Any, how: int) -> None:
        if unfinished.exists():
            unfinished.rename(out)
        flock(stream, how)

    monkeypatch.setattr(fcntl, "flock", lock)
    with pytest.raises(EdgekitError, match="another edgekit is writing"):
        keep(full, text, out, chunks=1)
    assert out.read_bytes() == b"all there"


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        ("", {}, "the text is empty"),
        ("Seven okapi.", {}, "too short"),
        ("\ud800" * 99, {}, "half a character"),
        (None, {"chunks": 0}, "at least one chunk"),
        (None, {"context_tokens": 8}, "chunks need 16"),
    ],
)
def test_what_cannot_be_kept_leaves_nothing(
    full: Artifact, text: str, tmp_path: Path, given: str | None, options: dict[str, int], said: str
) -> None:
    with pytest.raises(EdgekitError, match=said) as caught:
        keep(full, text if given is None else given, tmp_path / "out.edgekref", **options)
    assert caught.value.code == ExitCode.USAGE
    assert list(tmp_path.iterdir()) == []


# ---- bad files ------------------------------------------------------------------------------------------------------


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(EdgekitError) as caught:
        act()
    assert caught.value.code == ExitCode.USAGE, caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value.message


def test_another_text_is_refused(full: Artifact, reference: ReferenceFile, text: str) -> None:
    assert "of another text" in refused(lambda: judge(full, reference, text + "."))


def test_another_context_is_refused(full: Artifact, reference: ReferenceFile, text: str) -> None:
    assert "chunks of 128 tokens, not of `64`" in refused(lambda: judge(full, reference, text, context_tokens=64))


def test_more_chunks_than_there_are_are_refused(full: Artifact, reference: ReferenceFile, text: str) -> None:
    assert "holds 10 chunks" in refused(lambda: judge(full, reference, text, chunks=11))


def test_another_tokenizer_is_refused_by_its_first_token(tiny_gguf: Path, reference: ReferenceFile, text: str) -> None:
    message = refused(lambda: judge(open_artifact(tiny_gguf), reference, text))
    assert "of another model, `full-f16.gguf`: the vocabularies differ first at token" in message


def test_a_file_that_changed_since_is_refused(
    full: Artifact, reference: ReferenceFile, text: str, tmp_path: Path
) -> None:
    gone = dataclasses.replace(reference, path=str(tmp_path / "gone.edgekref"))
    assert "cannot be read" in refused(lambda: judge(full, gone, text))


@pytest.mark.parametrize("place", range(12))
def test_every_damage_is_found(full: Artifact, reference: ReferenceFile, text: str, tmp_path: Path, place: int) -> None:
    """One bit, anywhere: it is refused when the file is opened, or before anything is scored."""
    data = bytearray(Path(reference.path).read_bytes())
    with Path(reference.path).open("rb") as stream:
        layout = container.read_layout(stream, 99)
    sections = layout.sections
    places = [0, 9, *(sections[index].begin - 20 + at for index, at in ((0, 2), (1, 6), (3, 10), (4, 17)))]
    places += [sections[index].begin + 30 for index in (0, 1, 2, 3, len(sections) - 1)] + [len(data) - 1]
    data[places[place]] ^= 4
    bad = tmp_path / "bad.edgekref"
    bad.write_bytes(data)
    message = refused(lambda: judge(full, open_reference_file(bad), read_reference_text(open_reference_file(bad))))
    assert "reference" in message


@pytest.mark.parametrize("share", [0.0, 1e-5, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(
    full: Artifact, reference: ReferenceFile, text: str, tmp_path: Path, share: float
) -> None:
    data = Path(reference.path).read_bytes()
    bad = tmp_path / "bad.edgekref"
    bad.write_bytes(data[: int(share * len(data))])
    message = refused(lambda: judge(full, open_reference_file(bad), text))
    assert "unfinished" in message or "cannot be used" in message


def test_something_appended_is_refused(reference: ReferenceFile, tmp_path: Path) -> None:
    bad = tmp_path / "bad.edgekref"
    bad.write_bytes(Path(reference.path).read_bytes() + b"more")
    assert "behind its end" in refused(lambda: open_reference_file(bad))


def test_more_parts_than_the_header_tells_of_are_not_read(reference: ReferenceFile, tmp_path: Path) -> None:
    """A stranger's file may have millions of sections, each of which takes more memory than it has bytes."""
    bad = tmp_path / "bad.edgekref"
    with bad.open("wb") as stream:
        stream.write(Path(reference.path).read_bytes())
        for index in range(CHUNKS, CHUNKS + 500):
            container.append_section(stream, container.CHUNK, index, bytes(99), 0)
    assert "behind its end" in refused(lambda: open_reference_file(bad))
    with bad.open("rb") as stream:
        assert len(container.read_layout(stream, CHUNKS).parts) == CHUNKS
        assert len(container.read_layout(stream, 10**9).parts) == CHUNKS + 500


@pytest.mark.parametrize("size", [0, 16, 55])
def test_a_part_too_short_to_be_one_is_refused(reference: ReferenceFile, tmp_path: Path, size: int) -> None:
    bad = tmp_path / "bad.edgekref"
    with Path(reference.path).open("rb") as stream:
        end = container.read_layout(stream, CHUNKS).parts[4].end
    with bad.open("wb") as stream:
        stream.write(Path(reference.path).read_bytes()[:end])
        container.append_section(stream, container.CHUNK, 5, bytes(size), 0)
    assert "what should be part 6 of the chunks is something else" in refused(lambda: open_reference_file(bad))


def test_a_chunk_of_another_file_is_refused(
    full: Artifact, q4: Artifact, reference: ReferenceFile, text: str, tmp_path: Path
) -> None:
    other = keep(q4, text, tmp_path / "other.edgekref")
    data = bytearray(Path(reference.path).read_bytes())
    with Path(reference.path).open("rb") as one, Path(other.path).open("rb") as two:
        ours, theirs = container.read_layout(one, 99).parts[0], container.read_layout(two, 99).parts[0]
    foreign = Path(other.path).read_bytes()[theirs.begin - 20 : theirs.begin + theirs.length]
    data[ours.begin - 20 : ours.begin + ours.length] = foreign
    bad = tmp_path / "bad.edgekref"
    bad.write_bytes(data)
    assert "part 1 of the chunks is damaged" in refused(lambda: judge(full, open_reference_file(bad), text))


def test_another_version_is_refused(reference: ReferenceFile, tmp_path: Path) -> None:
    bad = tmp_path / "bad.edgekref"
    data = Path(reference.path).read_bytes()
    bad.write_bytes(data[:8] + b"\2" + data[9:])
    assert "version 2" in refused(lambda: open_reference_file(bad))


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_VOCABULARY_BYTES", 2**20)
    bomb = zlib.compress(bytes(2**22))
    assert len(bomb) < 2**13
    with pytest.raises(container.Damaged, match="too large"):
        container.unpack_vocabulary(bomb)


@pytest.mark.parametrize("texts", [["a", None, "ü", ""], [None], ["x"] * 1000, ["<|im_end|>", "Ġthe"]])
def test_a_vocabulary_comes_back(texts: list[str | None]) -> None:
    assert container.unpack_vocabulary(container.pack_vocabulary(texts)) == texts


@pytest.mark.parametrize(
    "change",
    [
        {"context_tokens": 10**9},
        {"chunks": 0},
        {"chunks": 2**28 // CONTEXT + 9},
        {"vocabulary": -1},
        {"vocabulary": 2**40},
        {"row_bytes": 2**50},
    ],
)
def test_a_header_of_sizes_that_cannot_be_is_refused(
    reference: ReferenceFile, tmp_path: Path, change: dict[str, Any]
) -> None:
    bad = tmp_path / "bad.edgekref"
    with bad.open("wb") as stream:
        container.start_file(stream, to_json(dataclasses.replace(reference, **change)).encode())
    assert "sizes that cannot be" in refused(lambda: open_reference_file(bad))


def test_a_reference_that_is_broken_is_not_kept(full: Artifact, text: str, tmp_path: Path) -> None:
    from gguf import GGUFReader

    sick = tmp_path / "sick.gguf"
    sick.write_bytes(Path(full.path).read_bytes())
    tensor = next(tensor for tensor in GGUFReader(sick).tensors if tensor.name == "output_norm.weight")
    with sick.open("r+b") as file:
        file.seek(tensor.data_offset)
        file.write(np.full(4, 3e38, np.float32).tobytes())  # finite, or llama.cpp would not load it
    with pytest.raises(WorkerDied, match="no numbers"):
        keep(open_artifact(sick), text, tmp_path / "out.edgekref")
    assert [child.name for child in tmp_path.iterdir()] == ["sick.gguf"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs the limit on a file's size")
def test_a_full_disk_ends_the_run_and_keeps_what_is_there(
    full: Artifact, reference: ReferenceFile, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.edgekref"
    monkeypatch.setattr(keeping, "_most_bytes", lambda *_: reference.size_bytes // 2)
    with pytest.raises(WorkerDied, match="cannot be written: `file too large`") as caught:
        keep(full, text, out)
    assert caught.value.code == ExitCode.BROKE
    assert 0 < open_reference_file(tmp_path / "out.edgekref.unfinished").kept_chunks < CHUNKS
    monkeypatch.undo()
    assert keep(full, text, out).complete
    assert parts_of(out) == parts_of(Path(reference.path))


def test_a_strangers_words_are_cleaned(reference: ReferenceFile, tmp_path: Path) -> None:
    rogue = dataclasses.replace(reference, model="a\x1b[2Jb\nc", findings=())
    with (tmp_path / "rogue.edgekref").open("wb") as stream:
        container.start_file(stream, to_json(rogue).encode())
    assert open_reference_file(tmp_path / "rogue.edgekref").model == "a·[2Jb·c"


# ---- what was kept before stays readable ----------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "golden" / "reference-v1.edgekref"


def test_a_file_of_version_one_reads_as_it_always_did() -> None:
    record = open_reference_file(GOLDEN)
    assert record.complete
    assert (record.model, record.vocabulary, record.context_tokens) == ("golden-f16.gguf", 70_000, 16)
    assert read_reference_text(record) == "Seven okapi crossed the river Ituri."
    stored = {name: known for name, known in seat(record).items() if name != "path"}
    reference = open_reference(GOLDEN, **stored)  # type: ignore[arg-type]
    tokens = [*range(5, 20), 66_001]
    reference.begin(0, tokens)
    level = -1.1 * np.log(np.arange(1, 70_001))
    logits = np.stack([np.roll(0.9 * level, 7000 * row) for row in range(7)]).astype(np.float32)
    scores = reference.score(tokens[8:], logits, tokens[9:], threads=1)
    reference.close()
    found = [0.070929, 0.067928, 0.067721, 0.067629, 0.06737, 0.066829, 0.066246]  # the truth is 0.066523
    assert scores.kld == pytest.approx(found, abs=2e-6)
    assert scores.kld_lower == pytest.approx([0.033052] * 7, abs=2e-6)
    assert scores.top1.all()
