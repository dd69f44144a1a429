"""A static llama-bench for another machine, compiled here."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.files import check_space, hash_file, replacing_folder
from edgekit.progress import Progress, silent
from edgekit.records.runner import Runner, RunnerTarget
from edgekit.storage import write_record
from edgekit.targets.elf import read_elf
from edgekit.targets.runners import RECORD, Built, read_built, runner_folder
from edgekit.targets.source import SDIST_NAME, TREE_SHA256, Source, scratch, unpack_source
from edgekit.targets.toolchain import Toolchain, find_toolchain
from edgekit.targets.variants import Variant

NEEDED_BYTES = 2**30
"""Source and objects of one build; a quarter of it at most has been seen."""

_STEP = re.compile(r"^\[\s*(\d+)(?:/(\d+)|%)\]")


def build_runners(
    target: RunnerTarget,
    variants: Sequence[Variant],
    *,
    source: Path | None = None,
    ndk: Path | None = None,
    jobs: int = 0,
    force: bool = False,
    progress: Progress = silent,
) -> list[tuple[Built, bool]]:
    """llama-bench for the `variants` of `target`, each in the user's cache; and whether it was built now.

    One of the same source, compiler and flags is kept unless `force` is given. `jobs` 0 means every core. Raises
    EdgekitError where a tool or the source is missing, there is no space, the compiler fails, or what it made is for
    another machine or not static.
    """
    tools = [find_toolchain(target, variant, ndk) for variant in variants]
    orders = [_Order(target=target, variant=variant, tools=each) for variant, each in zip(variants, tools, strict=True)]
    place = runner_folder()
    if source is None and not force:  # what would be fetched is known beforehand
        kept = [order.kept(place, Source(folder=Path(), name=SDIST_NAME, sha256=TREE_SHA256)) for order in orders]
        if all(kept):
            return [(built, False) for built in kept if built]
    check_space(place / "runner", NEEDED_BYTES, "building a runner", hint="set `XDG_CACHE_HOME` to a larger disk")
    with _disk_errors(place), scratch(place) as folder:
        work = Path(folder)
        progress("unpacking llama.cpp" if source else "fetching llama.cpp", 0, 1, str(source) if source else "by pip")
        found = unpack_source(source, work)
        return [_build(order, found, work, jobs or os.cpu_count() or 1, force, progress) for order in orders]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """One runner to build."""

    target: RunnerTarget
    variant: Variant
    tools: Toolchain

    def place(self, place: Path, source: Source) -> Path:
        parts = (source.sha256, self.tools.compiler, self.target, self.variant.name, *self.tools.flags)
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]
        return place / f"{self.target}-{self.variant.name}-{source.name}-{key}"

    def kept(self, place: Path, source: Source) -> Built | None:
        found = read_built(self.place(place, source))
        return found if isinstance(found, Built) else None


def _build(order: _Order, source: Source, work: Path, jobs: int, force: bool, progress: Progress) -> tuple[Built, bool]:
    place = runner_folder()
    kept = order.kept(place, source)
    if kept and not force:
        return kept, False
    program = _compile(source, order, work, jobs, progress)
    _check(program, order.target)
    return _keep(program, order.place(place, source), _record(program, order, source)), True


@contextmanager
def _disk_errors(place: Path) -> Iterator[None]:
    """A full or failing disk in the user's words."""
    try:
        yield
    except OSError as error:
        raise EdgekitError(
            f"cannot build a runner ({(error.strerror or 'failed').lower()}): `{place}`",
            hint="set `XDG_CACHE_HOME` to a place that can be written",
        ) from None


def _compile(source: Source, order: _Order, work: Path, jobs: int, progress: Progress) -> Path:
    """Configure and build; gives the program. Variants share the folder: only ggml's kernels are compiled for each."""
    tools, build = order.tools, work / "build"
    # paths of this machine stay out of the program, and git is not asked: it would name whatever checkout is around
    plain = f"-ffile-prefix-map={work}=."
    named = (f"-DLLAMA_BUILD_COMMIT={source.name}", "-DLLAMA_BUILD_NUMBER=0", f"-DCMAKE_C_FLAGS={plain}",
             f"-DCMAKE_CXX_FLAGS={plain}")  # fmt: skip
    anew = ("-U", "GGML_*", "-U", "HAVE_*")  # what the variant before chose and found
    configure = [tools.cmake, "-G", tools.generator, "-S", str(source.folder), "-B", str(build)]
    progress("configuring", 0, 1, tools.compiler)
    log = work / "build.log"

    def tell(line: str) -> None:
        step = _STEP.match(line)
        if step:
            progress(f"compiling {order.variant.name}", int(step[1]), int(step[2] or 100), f"{jobs} jobs")

    _run([*configure, *anew, *tools.flags, *named], log, tell)
    _run([tools.cmake, "--build", str(build), "--target", "llama-bench", "-j", str(jobs)], log, tell)
    program = build / "bin/llama-bench"
    if not program.is_file():
        raise EdgekitError("the build left no `llama-bench`", hint="is this source of another layout? try the default")
    return program


def _run(command: Sequence[str], log: Path, tell: Callable[[str], None]) -> None:
    """Run to the end, its words into `log`. Raises EdgekitError with the first error among them."""
    # the user's flags would be compiled in and told by no record
    env = {name: value for name, value in os.environ.items() if name not in _FLAGS_OF_THE_USER}
    env["NINJA_STATUS"] = "[%f/%t] "
    with (
        log.open("a", encoding="utf-8") as out,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
            errors="replace", env=env, start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            assert process.stdout is not None, "asked for"
            for line in process.stdout:
                out.write(line)
                tell(line)
            code = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # compilers are its children
            raise
    if code:
        said = _first_error(log.read_text(encoding="utf-8", errors="replace"))
        raise EdgekitError(f"the build of the runner failed ({said})", hint="is the compiler older than C++17?")


_FLAGS_OF_THE_USER = {
    "CC",
    "CXX",
    "CFLAGS",
    "CXXFLAGS",
    "CPPFLAGS",
    "LDFLAGS",
    "CMAKE_GENERATOR",
    "CMAKE_TOOLCHAIN_FILE",
}


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if re.search(r"\b(?:fatal )?error\b[: ]|No space left", line, re.IGNORECASE)]
    return (marked or lines[-1:] or ["no word of why"])[0][:300]


def _check(program: Path, target: RunnerTarget) -> None:
    elf = read_elf(program)
    machine = target.partition("-")[2]
    if elf is None or elf.machine != machine:
        raise EdgekitError(f"the compiler built for `{elf.machine if elf else 'no machine'}` and not for `{machine}`")
    if elf.loader and not (target.startswith("android") and elf.loader.startswith("/system/")):
        raise EdgekitError(
            f"the runner is not static, it asks for `{elf.loader}`", hint="is the static C library installed?"
        )


def _record(program: Path, order: _Order, source: Source) -> Runner:
    return Runner(
        target=order.target,
        variant=order.variant.name,
        source=source.name,
        source_sha256=source.sha256,
        compiler=order.tools.compiler,
        flags=order.tools.flags,
        sha256=hash_file(program),
        size_bytes=program.stat().st_size,
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _keep(program: Path, out: Path, record: Runner) -> Built:
    """Program, record and hash into the cache, all or none."""
    with replacing_folder(out, force=True) as folder:
        shutil.copy(program, folder / record.program)
        (folder / record.program).chmod(0o755)
        (folder / f"{record.program}.sha256").write_text(f"{record.sha256}  {record.program}\n", encoding="ascii")
        write_record(folder / RECORD, record)
    return Built(path=out / record.program, runner=record)
