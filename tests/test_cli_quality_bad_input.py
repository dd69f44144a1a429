"""Bad input to what `evaluate` and `bench` say of quality, through the command line: one `error:` line with a hint,
exit 2, no traceback, before any long work, and every folder as it was.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import breakages
import pytest
from breakages import broken
from students import random_student

from edgekit.cli import main

pytestmark = pytest.mark.slow

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
nan_in_a_norm = partial(breakages.nan_weights, name="blk.1.ffn_norm.weight")

Damage = Callable[[Path], object]
"""Of the folder in which a case plays."""

ITEM = {"prompt": "A heron eats", "answer": "fish", "choices": ["fish", "stones"], "id": "heron"}
OTHER = {"prompt": "A bat is a", "answer": "mammal", "choices": ["mammal", "bird"]}
TEXT = ("--text", "{root}/text.txt", "--context", "32")
REFERRING = ("evaluate", "{root}/q4_0.gguf", *TEXT, "--reference")
TAUGHT = ("evaluate", "{root}/q4_0.gguf", "--teacher", "{root}/teacher.json", "--tasks", "{root}/tasks.jsonl")
ASKING = ("evaluate", "{root}/q4_0.gguf", "--tasks", "{root}/tasks.jsonl")
BENCHING = ("bench", "{root}/q4_0.gguf", "-d", "raspberry-pi-5", "--quick", "--out", "{root}/results")


def untouched(root: Path) -> None:
    """The arguments alone are wrong."""


def written(name: str, content: bytes | str) -> Damage:
    return lambda root: (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def tasks(*lines: object) -> Damage:
    return written("tasks.jsonl", "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))


def pipe(name: str) -> Damage:
    def make(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)

    return make


def cut(name: str, keep: float) -> Damage:
    return lambda root: os.truncate(root / name, int((root / name).stat().st_size * keep))


def flipped(name: str, place: float) -> Damage:
    """One bit, so far into the file."""

    def flip(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        data[int(len(data) * place)] ^= 1
        (root / name).write_bytes(data)

    return flip


def teacher(**changed: object) -> Damage:
    return lambda root: (root / "teacher.json").write_text(
        json.dumps({**json.loads((root / "teacher.json").read_text()), **changed})
    )


def fewer_answers(root: Path) -> None:
    teacher(answers=json.loads((root / "teacher.json").read_text())["answers"][1:])(root)


def impossible_chances(root: Path) -> None:
    answers = json.loads((root / "teacher.json").read_text())["answers"]
    teacher(answers=[{**answer, "chance": 2.0} for answer in answers])(root)


def with_nan(root: Path) -> None:
    broken(root / "q4_0.gguf", nan_in_a_norm, root / "nan.gguf").replace(root / "q4_0.gguf")


CASES: dict[str, tuple[Damage, tuple[str, ...], str]] = {
    # a reference kept in a file
    "no such reference": (untouched, (*REFERRING, "{root}/none.gguf"), "none.gguf"),
    "cut reference": (cut("kept.ref", 0.7), (*REFERRING, "{root}/kept.ref"), "kept.ref"),
    "reference cut in its header": (cut("kept.ref", 0.01), (*REFERRING, "{root}/kept.ref"), "kept.ref"),
    "bit rot in a chunk": (flipped("kept.ref", 0.9), (*REFERRING, "{root}/kept.ref"), "chunk"),
    "bit rot in the header": (flipped("kept.ref", 0.002), (*REFERRING, "{root}/kept.ref"), "kept.ref"),
    "reference and nothing more": (lambda r: os.truncate(r / "kept.ref", 8), (*REFERRING, "{root}/kept.ref"), "ref"),
    "something behind its end": (
        lambda root: (root / "kept.ref").write_bytes((root / "kept.ref").read_bytes() + b"more"),
        (*REFERRING, "{root}/kept.ref"),
        "behind its end",
    ),
    "reference of another text": (
        untouched,
        ("evaluate", "{root}/q4_0.gguf", "--text", "{root}/other.txt", "--context", "32", "-r", "{root}/kept.ref"),
        "another text",
    ),
    "reference of other chunks": (
        untouched,
        ("evaluate", "{root}/q4_0.gguf", "--text", "{root}/text.txt", "--context", "64", "-r", "{root}/kept.ref"),
        "--context 32",
    ),
    "more chunks than were kept": (untouched, (*REFERRING, "{root}/kept.ref", "--chunks", "900"), "900"),
    "reference of another tokenizer": (
        untouched,
        ("evaluate", "{root}/other.gguf", *TEXT, "--reference", "{root}/kept.ref"),
        "token",
    ),
    "a text as reference": (untouched, (*REFERRING, "{root}/text.txt"), "text.txt"),
    "reference is answers": (untouched, (*REFERRING, "{root}/teacher.json"), "teacher.json"),
    # a teacher
    "no such teacher": (untouched, ("evaluate", "{root}/q4_0.gguf", "--teacher", "{root}/none.json"), "none.json"),
    "no such teacher model": (
        untouched,
        ("evaluate", "{root}/q4_0.gguf", "--teacher", "{root}/none.gguf", "--items", "8"),
        "none.gguf",
    ),
    "teacher is no json": (written("teacher.json", "{"), TAUGHT, "teacher.json"),
    "teacher is empty": (written("teacher.json", ""), TAUGHT, "teacher.json"),
    "teacher is another record": (teacher(kind="quality"), TAUGHT, "kind"),
    "teacher of another version": (teacher(version=2), TAUGHT, "version"),
    "teacher with an unknown field": (teacher(passed=True), TAUGHT, "passed"),
    "teacher without answers": (teacher(answers=None), TAUGHT, "answers"),
    "teacher that is not finite": (
        lambda root: (root / "teacher.json").write_text(
            (root / "teacher.json").read_text().replace('"chance": 0.5', '"chance": NaN')
        ),
        TAUGHT,
        "chance",
    ),
    "teacher of other items": (tasks(ITEM), TAUGHT, "other items"),
    "teacher that lost an answer": (fewer_answers, TAUGHT, "teacher"),
    "teacher with impossible chances": (impossible_chances, TAUGHT, "chance"),
    "teacher of own tasks, and none given": (
        untouched,
        ("evaluate", "{root}/q4_0.gguf", "--teacher", "{root}/teacher.json"),
        "--tasks",
    ),
    "teacher of own tasks, and a number of items": (
        untouched,
        ("evaluate", "{root}/q4_0.gguf", "--teacher", "{root}/teacher.json", "--items", "16"),
        "--tasks",
    ),
    # tasks
    "no such tasks": (lambda root: (root / "tasks.jsonl").unlink(), ASKING, "tasks.jsonl"),
    "tasks are a folder": (untouched, ("evaluate", "{root}/q4_0.gguf", "--tasks", "{root}"), "cannot read"),
    "tasks are not utf-8": (written("tasks.jsonl", b'{"prompt": "gr\xf6\xdfer"}'), ASKING, "tasks.jsonl:1"),
    "no tasks": (written("tasks.jsonl", "\n\n"), ASKING, "no questions"),
    "a bad line": (tasks(ITEM, "{'prompt': 1}"), ASKING, "tasks.jsonl:2"),
    "a line that is no object": (tasks(ITEM, OTHER, "[1, 2]"), ASKING, "tasks.jsonl:3"),
    "a misspelt key": (tasks({**ITEM, "choises": ["a"]}), ASKING, "choices"),
    "a key twice": (tasks('{"prompt": "a", "prompt": "b", "answer": "c"}'), ASKING, "twice"),
    "no answer": (tasks({"prompt": "A heron eats"}), ASKING, "answer"),
    "an answer that is no choice": (tasks({**ITEM, "answer": "frogs"}), ASKING, "none of the choices"),
    "one choice": (tasks({**ITEM, "choices": ["fish"]}), ASKING, "choices"),
    "a prompt that is no text": (tasks({**ITEM, "prompt": 7}), ASKING, "prompt"),
    "the same id twice": (tasks(ITEM, {**OTHER, "id": "heron"}), ASKING, "tasks.jsonl:2"),
    "the same question twice": (tasks(ITEM, {**ITEM, "id": "again"}), ASKING, "tasks.jsonl:2"),
    "a question without end": (tasks({**ITEM, "prompt": "x" * 40_000}), ASKING, "tasks.jsonl:1"),
    "own tasks and a number of items": (untouched, (*ASKING, "--items", "20"), "--items"),
    "too few items": (untouched, ("evaluate", "{root}/q4_0.gguf", "--items", "3"), "--items"),
    "more items than there are": (untouched, ("evaluate", "{root}/q4_0.gguf", "--items", "999999999"), "items"),
    "an unknown domain": (untouched, ("evaluate", "{root}/q4_0.gguf", "--domain", "cooking"), "conservation"),
    # what is no file: a pipe would be waited for without end, and a device has none
    "tasks are a pipe": (pipe("tasks.jsonl"), ASKING, "not a file"),
    "tasks are a device": (untouched, ("evaluate", "{root}/q4_0.gguf", "--tasks", "/dev/zero"), "not a file"),
    "text is a pipe": (pipe("text.txt"), ("evaluate", "{root}/q4_0.gguf", *TEXT), "not a file"),
    "reference is a pipe": (pipe("kept.ref"), (*REFERRING, "{root}/kept.ref"), "kept.ref"),
    "teacher is a pipe": (pipe("teacher.json"), TAUGHT, "not a file"),
    "teacher model is a pipe": (
        pipe("teacher.gguf"),
        ("evaluate", "{root}/q4_0.gguf", "--teacher", "{root}/teacher.gguf", "--items", "8"),
        "teacher.gguf",
    ),
    "model is a pipe": (pipe("pipe.gguf"), ("evaluate", "{root}/pipe.gguf", *TEXT), "pipe.gguf"),
    "bench with a piped reference": (pipe("kept.ref"), (*BENCHING, "--reference", "{root}/kept.ref"), "kept.ref"),
    "bench with piped quality": (pipe("quality.json"), (*BENCHING, "--quality", "{root}/quality.json"), "not a file"),
    # how it is run
    "threads beyond reason": (untouched, (*REFERRING, "{root}/f16.gguf", "--threads", "100000"), "at most"),
    "threads beyond reason, for tasks": (untouched, (*ASKING, "--threads", "100000"), "at most"),
    # what is written
    "answers exist": (written("saved.json", "mine"), (*ASKING, "--save", "{root}/saved.json"), "saved.json"),
    "answers are not json": (untouched, (*ASKING, "--save", "{root}/saved.txt"), ".json"),
    "answers where a file is": (untouched, (*ASKING, "--save", "{root}/text.txt/saved.json"), "text.txt"),
    "answers over the record": (
        untouched,
        (*ASKING, "--save", "{root}/saved.json", "--out", "{root}/saved.json"),
        "the same file",
    ),
    "kept reference exists": (
        untouched,
        ("evaluate", "{root}/q4_0.gguf", *TEXT, "--save-reference", "{root}/kept.ref"),
        "--force",
    ),
    "kept reference is a folder": (
        untouched,
        ("evaluate", "{root}/q4_0.gguf", *TEXT, "--save-reference", "{root}"),
        "directory",
    ),
    "kept reference over the model": (
        untouched,
        ("evaluate", "{root}/q4_0.gguf", *TEXT, "--save-reference", "{root}/q4_0.gguf", "--force"),
        "q4_0.gguf",
    ),
    "record over the model": (
        untouched,
        ("evaluate", "{root}/q4_0.gguf", *TEXT, "--out", "{root}/q4_0.gguf", "--force"),
        "q4_0.gguf",
    ),
    "answers over the teacher's": (
        untouched,
        (*TAUGHT, "--save", "{root}/teacher.json", "--force"),
        "teacher.json",
    ),
    "a text of no chunk": (
        written("text.txt", "The heron stands."),
        ("evaluate", "{root}/q4_0.gguf", *TEXT, "--save-reference", "{root}/new.ref"),
        "short",
    ),
    # layer by layer
    "layers of nothing": (untouched, ("evaluate", "{root}/q4_0.gguf", *TEXT, "--by-layer"), "--reference"),
    "layers against a file": (untouched, (*REFERRING, "{root}/kept.ref", "--by-layer"), "--by-layer"),
    "layers of floats": (
        untouched,
        ("evaluate", "{root}/f16.gguf", *TEXT, "-r", "{root}/f16.gguf", "--by-layer"),
        "quantized",
    ),
    "layers of two models": (
        untouched,
        ("evaluate", "{root}/q4_0.gguf", *TEXT, "-r", "{root}/other.gguf", "--by-layer"),
        "another architecture",
    ),
    # weights
    "weights that are no numbers": (with_nan, (*REFERRING, "{root}/f16.gguf"), "invalid data"),
    # bench asks before it measures
    "bench of no model": (
        untouched,
        ("bench", "-d", "raspberry-pi-5", "--reference", "{root}/f16.gguf", "--out", "{root}/results"),
        "stand-in",
    ),
    "bench with quality twice": (
        written("quality.json", "{}"),
        (*BENCHING, "--quality", "{root}/quality.json", "--reference", "{root}/f16.gguf"),
        "quality",
    ),
    "bench without its reference": (untouched, (*BENCHING, "--reference", "{root}/none.gguf"), "none.gguf"),
    "bench with a cut reference": (cut("kept.ref", 0.5), (*BENCHING, "--reference", "{root}/kept.ref"), "kept.ref"),
    "bench without its teacher": (untouched, (*BENCHING, "--teacher", "{root}/none.json"), "none.json"),
    "bench with a teacher of other items": (
        tasks(ITEM),
        (*BENCHING, "--teacher", "{root}/teacher.json", "--tasks", "{root}/tasks.jsonl"),
        "other items",
    ),
    "bench with bad tasks": (tasks(ITEM, "{"), (*BENCHING, "--tasks", "{root}/tasks.jsonl"), "tasks.jsonl:2"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every case starts from: builds of two models, a text, tasks, and what the first says of both."""
    from edgekit.checkpoint import open_checkpoint
    from edgekit.quantize.convert import convert
    from edgekit.quantize.llama_quantize import quantize_gguf

    root = tmp_path_factory.mktemp("whole")
    convert(open_checkpoint(random_student("qwen3")), root / "f16.gguf")
    quantize_gguf(root / "f16.gguf", root / "q4_0.gguf", "q4_0")
    convert(open_checkpoint(random_student("llama")), root / "other.gguf")
    (root / "text.txt").write_text("The heron stands in the reeds and waits for a fish. " * 12)
    (root / "other.txt").write_text("The otter swims under the bridge and looks for crayfish. " * 12)
    tasks(ITEM, OTHER)(root)
    call = ("evaluate", root / "f16.gguf", "--text", root / "text.txt", "--context", 32, "--quiet")
    kept = ("--tasks", root / "tasks.jsonl", "--save", root / "teacher.json", "--save-reference", root / "kept.ref")
    assert main([str(part) for part in (*call, *kept)]) == 0
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def prepared(whole: Path, root: Path, damage: Damage) -> Path:
    """A copy of the whole, links for the models, damaged."""
    shutil.copytree(whole, root, copy_function=lambda a, b: os.link(a, b) if a.endswith(".gguf") else shutil.copy(a, b))
    damage(root)
    return root


@pytest.mark.parametrize("name", list(CASES))
def test_refused(name: str, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damage, arguments, expected = CASES[name]
    root = prepared(whole, tmp_path / "root", damage)
    before = contents(root)
    code = main([argument.format(root=root) for argument in arguments])
    told = capfd.readouterr().err
    assert code == 2, told
    assert len([line for line in told.splitlines() if line.startswith("error: ")]) == 1, told
    assert "\nhint: " in told
    assert "Traceback" not in told
    assert expected.lower() in told.lower()
    assert contents(root) == before, "something was left behind"
    assert not {"measuring …", "answering …"} & set(told.splitlines()), "it was found out after the work"


def test_bench_refuses_threads_beyond_reason(whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """When it opens its first worker: elsewhere there may be more cores."""
    root = prepared(whole, tmp_path / "root", untouched)
    assert main([argument.format(root=root) for argument in (*BENCHING, "--threads", "100000")]) == 2
    assert "error: this machine runs at most" in capfd.readouterr().err


def test_a_kept_reference_brings_its_text(whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As the hint of the refusal says: leave `--text` out."""
    code = main(["evaluate", str(whole / "q4_0.gguf"), "--reference", str(whole / "kept.ref"), "--context", "32", "-q"])
    assert code == 0, capfd.readouterr().err


def test_the_process_ends_so(whole: Path, tmp_path: Path, cli: Cli) -> None:
    """The same through a process of its own."""
    root = prepared(whole, tmp_path / "root", cut("kept.ref", 0.7))
    done = cli("evaluate", root / "q4_0.gguf", "--reference", root / "kept.ref")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-3].startswith("error: ")
    assert "Traceback" not in done.stderr
