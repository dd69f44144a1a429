"""A teacher's cache: what comes out is what went in, a killed writer goes on to the same bytes, and damage is seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from students import random_student

from edgekit.checkpoint import open_checkpoint
from edgekit.distill import cache
from edgekit.distill.alignment import Alignment, align
from edgekit.distill.cache import CacheKey, cache_key, open_cache, write_cache
from edgekit.distill.cache_shards import HEADER_BYTES, shard_path, write_shard
from edgekit.distill.losses import distillation_loss
from edgekit.distill.sparse import sparse_forward_kl
from edgekit.distill.sparse_rows import CacheSettings
from edgekit.distill.speaking import cached_teacher, teacher_of
from edgekit.errors import EdgekitError

VOCABULARY, WINDOWS, LENGTH = 300, 10, 16
SETTINGS = CacheSettings(top=8, draws=4)
ALIGNMENT = Alignment(
    vocabulary=VOCABULARY, teacher_rows=320, student_rows=320, teacher_tokens=300, student_tokens=300, sha256="0" * 64
)
TABLE = 3 * torch.randn(VOCABULARY, 320, generator=torch.Generator().manual_seed(1))


def windows() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (WINDOWS, LENGTH), generator=torch.Generator().manual_seed(2))


def speak(asked: torch.Tensor) -> Iterator[torch.Tensor]:
    """A teacher that looks at one token only, in blocks that respect nothing."""
    yield from TABLE[asked.flatten()].split(7)


def key_of(**fields: object) -> CacheKey:
    key = cache_key(windows(), teacher_sha256="a" * 64, alignment=ALIGNMENT, settings=SETTINGS, precision="float32")
    return replace(key, **fields)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD_BYTES", 3 * LENGTH * SETTINGS.record_bytes)  # three windows each


def written(out: Path) -> Path:
    write_cache(speak, windows(), out, key_of(), batch=2)
    return out


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith(".")}


def test_what_comes_out_is_what_the_teacher_said(tmp_path: Path) -> None:
    found = open_cache(written(tmp_path / "cache"), key_of())
    assert found.key.shards == 4
    numbers = torch.tensor([9, 0, 4])
    for temperature in (1.0, 2.0):
        teacher = found.teacher(numbers, temperature=temperature)
        said = TABLE[windows()[numbers].flatten()][:, :VOCABULARY] / temperature
        assert len(teacher) == 3 * LENGTH
        assert sparse_forward_kl(teacher, said).abs().max() < 1e-5
        assert sparse_forward_kl(teacher, said.roll(1, 0)).min() > 0.1


def test_few_files_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_MOST_OPEN", 2)
    out = written(tmp_path / "cache")
    before = len(os.listdir("/proc/self/fd"))
    found = open_cache(out)
    for _ in range(2):
        for number in range(WINDOWS):
            one = found.teacher(torch.tensor([number]))
            assert torch.equal(one.ids, open_cache(out).teacher(torch.tensor([number])).ids)
            assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_the_size_is_what_the_key_says(tmp_path: Path) -> None:
    out = written(tmp_path / "cache")
    assert sum(path.stat().st_size for path in out.glob("shard-*")) == key_of().size_bytes


def test_a_writer_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole = contents(written(tmp_path / "whole"))
    asked: list[int] = []

    def stopping(part: torch.Tensor) -> Iterator[torch.Tensor]:
        asked.append(len(part))
        if sum(asked) > 7:
            raise KeyboardInterrupt
        return speak(part)

    out = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        write_cache(stopping, windows(), out, key_of(), batch=2)
    assert len(list(out.glob("shard-*"))) == 2
    with pytest.raises(EdgekitError, match=r"not finished \(2 of 4 shards are missing\)"):
        open_cache(out)
    asked.clear()
    write_cache(lambda part: [asked.append(len(part)), speak(part)][1], windows(), out, key_of(), batch=2)
    assert sum(asked) == WINDOWS - 6
    assert contents(out) == whole


def test_a_windows_draws_do_not_hang_on_its_batch(tmp_path: Path) -> None:
    whole, out = contents(written(tmp_path / "whole")), tmp_path / "cache"
    write_cache(speak, windows(), out, key_of(), batch=3)
    assert contents(out) == whole


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
import test_distill_cache as here
here.cache.SHARD_BYTES = 3 * here.LENGTH * here.SETTINGS.record_bytes
def slowly(part):
    time.sleep(0.2)
    return here.speak(part)
here.write_cache(slowly, here.windows(), here.Path({out!r}), here.key_of(), batch=2)
"""


def test_a_killed_writer_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole, out = contents(written(tmp_path / "whole")), tmp_path / "cache"
    code = KILLED.format(tests=str(Path(__file__).parent), out=str(out))
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    until = time.monotonic() + 120
    while not shard_path(out, 0).exists():
        assert child.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert len(list(out.glob("shard-*"))) < 4
    (out / ".shard-000002.bin.abc.partial").write_bytes(b"half")  # what a kill in the middle of a shard leaves
    written(out)
    assert contents(out) == whole
    assert not list(out.glob(".*.partial"))


def test_shares_make_one_cache(tmp_path: Path) -> None:
    whole, out = contents(written(tmp_path / "whole")), tmp_path / "cache"
    for which in (1, 0):
        write_cache(speak, windows(), out, key_of(), batch=2, share=(which, 2))
    assert contents(out) == whole


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "cache"

    def meanwhile(part: torch.Tensor) -> Iterator[torch.Tensor]:
        with pytest.raises(EdgekitError, match="another process is writing"):
            written(out)
        return speak(part)

    write_cache(meanwhile, windows(), out, key_of(), batch=10)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: flip(path, HEADER_BYTES + 100), "its checksum is wrong|holds what no teacher says"),
        (lambda path: flip(path, HEADER_BYTES + 8 * 3 + 4 * 3 + 1), "its checksum is wrong|holds what no teacher says"),
        (lambda path: flip(path, 0), "it is something else"),
        (lambda path: flip(path, 20), "of another cache"),
        (lambda path: flip(path, 44), "header is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes of"),
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "it is cut off"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "bytes of"),
        (lambda path: path.write_bytes(b""), "it is cut off"),
        (lambda path: path.write_bytes(shard_path(path.parent, 0).read_bytes()), "header is damaged"),
    ],
)
def test_damage_is_seen_and_mended(tmp_path: Path, damage: object, says: str) -> None:
    out = written(tmp_path / "cache")
    whole, path = contents(out), shard_path(out, 1)
    damage(path)  # type: ignore[operator]
    found = open_cache(out)
    found.teacher(torch.tensor([0]))
    with pytest.raises(EdgekitError, match=says):
        found.teacher(torch.tensor([4]))
    asked: list[int] = []
    write_cache(lambda part: [asked.append(len(part)), speak(part)][1], windows(), out, key_of(), batch=2)
    assert sum(asked) == 3
    assert contents(out) == whole


def test_every_bit_of_a_shard_counts(tmp_path: Path) -> None:
    out = written(tmp_path / "cache")
    path = shard_path(out, 3)  # one window
    whole = path.read_bytes()
    used = [*range(12 + 48 + 32), *range(HEADER_BYTES, len(whole))]
    for place in used[:: len(used) // 150]:
        flip(path, place)
        with pytest.raises(EdgekitError, match="not usable"):
            open_cache(out).teacher(torch.tensor([9]))
        path.write_bytes(whole)


def test_a_strangers_shard_with_the_right_checksum(tmp_path: Path) -> None:
    out = written(tmp_path / "cache")
    records = open_cache(out)._window(9).copy()
    records["ids"][0, 0] = 255
    write_shard(out, 3, key_of().digest, records)
    with pytest.raises(EdgekitError, match="holds what no teacher says"):
        open_cache(out).teacher(torch.tensor([9]))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"teacher_sha256": "b" * 64}, "of another teacher"),
        ({"tokens_sha256": "b" * 64}, "of another text"),
        ({"alignment_sha256": "b" * 64}, "of another tokenizer"),
        ({"precision": "bfloat16"}, "with `precision` float32 and not bfloat16"),
        ({"settings": replace(SETTINGS, draws=5)}, "with `draws` 4 and not 5"),
    ],
)
def test_another_cache_is_not_taken_for_this(tmp_path: Path, other: dict[str, object], says: str) -> None:
    out = written(tmp_path / "cache")
    with pytest.raises(EdgekitError, match=says):
        open_cache(out, key_of(**other))
    if "tokens_sha256" not in other:
        with pytest.raises(EdgekitError, match=says):
            write_cache(speak, windows(), out, key_of(**other))


def test_other_windows_are_not_written_under_this_key(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="not those of the cache's key"):
        write_cache(speak, windows() + 0 * 1 - (windows() > 0).long(), tmp_path / "cache", key_of())


def test_a_writer_that_was_killed_before_its_record_stood_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / ".cache.json.abc.partial").write_text("{")
    written(tmp_path)
    assert open_cache(tmp_path, key_of()).key == key_of()


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(EdgekitError, match="holds other things"):
        written(tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"mine"}


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ('"windows": 10', '"windows": 0'),
        ('"length": 16', '"length": -16'),
        ('"vocabulary": 300', '"vocabulary": 99999999999'),
        ('"version": 1', '"version": 2'),
        ('"top": 8', '"top": 0'),
        ('"kind"', '"knd"'),
        ('"draws": 4', '"draws": 4, "more": 1'),
        ("{", ""),
    ],
)
def test_a_record_that_cannot_be(tmp_path: Path, was: str, now: str) -> None:
    out = written(tmp_path / "cache")
    path = out / "cache.json"
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, now, 1))
    with pytest.raises(EdgekitError) as caught:
        open_cache(out).teacher(torch.tensor([0]))
    assert "\n" not in caught.value.message


def test_no_cache_at_all(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="not a teacher's cache"):
        open_cache(tmp_path)


@pytest.mark.parametrize("numbers", [[], [10], [-1]])
def test_windows_that_are_not_there(tmp_path: Path, numbers: list[int]) -> None:
    with pytest.raises(EdgekitError, match="has 10 windows"):
        open_cache(written(tmp_path / "cache")).teacher(torch.tensor(numbers, dtype=torch.long))


FULL = """
import resource, sys
sys.path.insert(0, {tests!r})
import test_distill_cache as here
resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))
try:
    here.write_cache(here.speak, here.windows(), here.Path({out!r}), here.key_of())
except here.EdgekitError as error:
    print(error.message, "|", error.hint)
"""


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    """A limit on file sizes stands for it: the write itself fails."""
    out = tmp_path / "cache"
    code = FULL.format(tests=str(Path(__file__).parent), out=str(out), most=3000)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "cannot write" in done.stdout
    assert "finished shards are kept" in done.stdout
    assert not list(out.glob("*.partial"))
    write_cache(speak, windows(), out, replace(key_of()))


def test_too_little_space_is_said_before_the_teacher_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 100})())
    with pytest.raises(EdgekitError, match="not enough free space for the teacher's cache"):
        write_cache(lambda part: pytest.fail("asked"), windows(), tmp_path / "cache", key_of())


@pytest.mark.parametrize(
    ("teacher", "says"),
    [
        (lambda part: iter([TABLE[part.flatten()][:, :299]]), "logits are not of these windows"),
        (lambda part: iter([TABLE[part.flatten()][:-1]]), "31 rows of logits for tokens: `32`"),
        (lambda part: iter([TABLE[part.flatten()]] * 2), "logits are not of these windows"),
        (lambda part: iter([TABLE[part.flatten()] * float("nan")]), "no numbers"),
    ],
)
def test_a_teacher_that_says_something_else(tmp_path: Path, teacher: cache.Speak, says: str) -> None:
    with pytest.raises(EdgekitError, match=says):
        write_cache(teacher, windows(), tmp_path / "cache", key_of(), batch=2)


def test_tokens_that_no_one_knows() -> None:
    strange = windows()
    strange[3, 3] = VOCABULARY
    with pytest.raises(EdgekitError, match="`300`"):
        cache_key(strange, teacher_sha256="a", alignment=ALIGNMENT, settings=SETTINGS, precision="float32")


@pytest.mark.parametrize("shape", [(0, 16), (10, 0), (160,)])
def test_windows_of_no_shape(shape: tuple[int, ...]) -> None:
    empty = torch.zeros(shape, dtype=torch.long)
    with pytest.raises(EdgekitError, match="windows of equal length"):
        cache_key(empty, teacher_sha256="a", alignment=ALIGNMENT, settings=SETTINGS, precision="float32")


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_a_real_teacher(family: str, tmp_path: Path) -> None:
    """The chunked head, the padding, and the loss that takes what the cache gives."""
    transformers = pytest.importorskip("transformers")
    folder = random_student(family)
    checkpoint, model = open_checkpoint(folder), transformers.AutoModelForCausalLM.from_pretrained(folder)
    alignment = align(checkpoint, checkpoint)
    ids = torch.randint(0, alignment.vocabulary, (4, 24), generator=torch.Generator().manual_seed(1))
    found = cached_teacher(model, checkpoint, ids, tmp_path / "cache", alignment=alignment)
    asked: list[str] = []
    again = cached_teacher(
        model, checkpoint, ids, tmp_path / "cache", alignment=alignment, progress=lambda stage, *_: asked.append(stage)
    )
    assert again.key == found.key
    assert "asking the teacher" not in asked
    said = found.teacher(torch.tensor([3, 1]), temperature=2.0)
    with torch.no_grad():
        logits = alignment.common(model(input_ids=ids[[3, 1]]).logits).flatten(0, 1)
        states = model.base_model(input_ids=ids[[3, 1]]).last_hidden_state
    assert sparse_forward_kl(said, logits / 2).abs().max() < 1e-5
    options = {"temperature": 2.0, "alpha": 1.0, "vocabulary": alignment.vocabulary}
    same = distillation_loss(states, model.get_output_embeddings(), said, None, **options)
    assert abs(float(same.distill)) < 1e-4
    other = states.roll(1, 0)
    cached = distillation_loss(other, model.get_output_embeddings(), said, None, **options)
    dense = distillation_loss(other, model.get_output_embeddings(), logits.view(2, 24, -1), None, **options)
    assert float(cached.distill) == pytest.approx(float(dense.distill), rel=0.1)


def test_a_model_whose_logits_are_something_else() -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(random_student("qwen2"))
    model.register_forward_hook(lambda module, inputs, output: setattr(output, "logits", output.logits * 2))
    with pytest.raises(EdgekitError, match="not its last states times its output matrix"):
        next(teacher_of(model)(torch.zeros(1, 4, dtype=torch.long)))
