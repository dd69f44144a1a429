"""Runners for devices without Python: which one a CPU can run, building one with real tools, and bringing it there."""

# ruff: noqa: F811 - fixtures of another file

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from test_targets_there import (  # noqa: F401 - fixtures
    SSH,
    WORKLOAD,
    artifact,
    bench_shim,
    findings,
    left_there,
    script,
    shims,
    ssh_shim,
)

from edgekit.errors import EdgekitError, ExitCode
from edgekit.pipeline.elsewhere import measure_there
from edgekit.pipeline.runners import build
from edgekit.records import Artifact, Runner, RunnerTarget
from edgekit.storage import write_record
from edgekit.targets.building import build_runners
from edgekit.targets.elf import Elf, read_elf, refuse_foreign
from edgekit.targets.runners import AUTO, list_runners, pick
from edgekit.targets.source import VERSION, scratch, tree_sha256, unpack_source
from edgekit.targets.toolchain import NDK_VARIABLES, find_toolchain
from edgekit.targets.variants import VARIANTS, check_variant, choose, features_of

# ---- which one ----------------------------------------------------------------------------------------------------

_A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_A510 = f"{_A76} jscvt fcma sha3 sm3 sm4 sha512 asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg dcpodp flagm2 frint"
# `Features` as owners of the devices posted it: github.com/hrw/arm-socs-table issues 96 (Pi 5), 60 (Pixel 6a), 99
# (Pixel 8 Pro), 129 (MT7988A); nicolargo/glances issue 2616 (Pi 4); ggml-org/llama.cpp issue 3622 (Honor Magic 5)
DEVICES = {
    "raspberry-pi-4": ("fp asimd evtstrm crc32 cpuid", "baseline"),
    "mt7988a": ("fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid", "baseline"),
    "raspberry-pi-5": (_A76, "dotprod"),
    "pixel-6a": (_A76, "dotprod"),
    "honor-magic-5": (f"{_A510} i8mm bf16 bti", "i8mm"),
    "pixel-8-pro": (f"{_A510} sve sve2 sveaes svepmull svebitperm svesha3 svesm4 svei8mm svebf16 i8mm bti mte", "i8mm"),
}


def cpuinfo(*cores: str) -> str:
    return "\n".join(f"processor\t: {n}\nFeatures\t: {words}\nCPU part\t: 0xd0b\n" for n, words in enumerate(cores))


@pytest.mark.parametrize("device", DEVICES)
def test_the_variant_is_that_of_the_cpu(device: str) -> None:
    features, variant = DEVICES[device]
    found = choose("Linux", "arm64", features_of(cpuinfo(*[features] * 4)))
    assert found.variant.name == variant
    assert found.targets == ("linux-arm64",)
    expected = {
        "baseline": "lacks asimddp, asimdhp, asimdrdm, atomics, fphp",
        "dotprod": "lacks i8mm",
        "i8mm": "has i8mm",
    }
    assert found.reason == f"the CPU {expected[variant]}"


def test_the_weakest_core_decides() -> None:
    strong, weak = DEVICES["honor-magic-5"][0], DEVICES["pixel-6a"][0]
    assert choose("Android", "arm64", features_of(cpuinfo(strong, weak, strong))).variant.name == "dotprod"


def test_a_cpu_that_does_not_tell_gets_what_runs_everywhere() -> None:
    found = choose("Android", "arm64", features_of("Hardware\t: Qualcomm\n"))
    assert (found.variant.name, found.reason) == ("baseline", "the device does not tell what its CPU can")
    assert found.targets == ("android-arm64", "linux-arm64"), "a static program needs no Android"


@pytest.mark.parametrize(
    ("system", "machine"), [("Linux", "armv7l"), ("Linux", "riscv64"), ("Darwin", "arm64"), ("", "")]
)
def test_machines_that_no_runner_is_for(system: str, machine: str) -> None:
    with pytest.raises(EdgekitError, match="no runner can be built") as caught:
        choose(system, machine, frozenset())
    assert "--runner FILE" in caught.value.hint


def test_an_x86_older_than_any_runner() -> None:
    assert choose("Linux", "x86_64", features_of("flags\t\t: sse4_2 avx avx2 fma f16c bmi2\n")).variant.name == "avx2"
    with pytest.raises(EdgekitError, match="it lacks `sse4_2`"):
        choose("Linux", "x86_64", frozenset({"sse2"}))


def test_each_variant_asks_for_more_than_the_one_before() -> None:
    for variants in VARIANTS.values():
        for less, more in pairwise(variants):
            assert less.needs < more.needs
            assert set(less.features.split()) < set(more.features.split())


# ---- programs of other machines -----------------------------------------------------------------------------------


def elf(path: Path, machine: int = 183, loader: bytes = b"", bits: int = 2) -> Path:
    """The smallest ELF program that says so much of itself."""
    head = b"\x7fELF" + bytes([bits, 1, 1]) + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64,
                                                                     56, 1 if loader else 0, 0, 0, 0)  # fmt: skip
    table = struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(loader) + 1, 0, 1) if loader else b""
    path.write_bytes(head + table + (loader + b"\0" if loader else b""))
    return path


def test_a_program_tells_its_machine_and_loader(tmp_path: Path) -> None:
    assert read_elf(elf(tmp_path / "a")) == Elf(machine="arm64", loader="")
    assert read_elf(elf(tmp_path / "b", 62, b"/lib64/ld-linux-x86-64.so.2")) == Elf(
        machine="x86_64", loader="/lib64/ld-linux-x86-64.so.2"
    )
    assert read_elf(script(tmp_path / "c", "exit 0")) is None
    if sys.platform == "linux":
        found = read_elf(Path(sys.executable))
        assert found is not None
        assert found.loader.startswith("/lib")


@pytest.mark.parametrize(
    ("program", "system", "message"),
    [
        ({"machine": 62}, "Linux", "is built for `x86_64`, and `ssh:pi` is `arm64`"),
        ({"machine": 40, "bits": 1}, "Linux", "is built for `arm`, and"),
        ({"machine": 9999}, "Linux", "a machine that edgekit does not know"),
        ({"loader": b"/lib/ld-linux-aarch64.so.1"}, "Android", "a loader that Android does not have"),
    ],
)
def test_a_foreign_program_is_refused_before_it_is_sent(
    tmp_path: Path, program: dict[str, Any], system: str, message: str
) -> None:
    path = elf(tmp_path / "llama-bench", **program)
    with pytest.raises(EdgekitError, match=message) as caught:
        refuse_foreign(path, machine="arm64", system=system, name="ssh:pi")
    assert "runner" in caught.value.hint
    refuse_foreign(elf(path, loader=b"/system/bin/linker64"), machine="arm64", system="Android", name="ssh:pi")


def test_half_a_program_is_refused(tmp_path: Path) -> None:
    path = elf(tmp_path / "llama-bench")
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(EdgekitError, match="is cut off"):
        read_elf(path)
    with pytest.raises(EdgekitError, match="cannot read the runner"):
        read_elf(tmp_path / "nowhere")


# ---- llama.cpp's source -------------------------------------------------------------------------------------------

PROGRAM = '#include <cstdio>\nint main() { std::printf("%s\\n%s\\n%s", LLAMA_BUILD_COMMIT, KERNELS, __FILE__); }\n'
CMAKE = """
cmake_minimum_required(VERSION 3.14)
project(llama.cpp C CXX)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_executable(llama-bench tools/llama-bench/main.cpp)
target_compile_definitions(llama-bench PRIVATE LLAMA_BUILD_COMMIT="${LLAMA_BUILD_COMMIT}")
option(GGML_AVX2 "" ON)
option(GGML_AVX512 "" OFF)
target_compile_definitions(llama-bench PRIVATE KERNELS="${GGML_AVX2} ${GGML_AVX512}")
"""


def small_llama(folder: Path, program: str = PROGRAM) -> Path:
    """A project with llama.cpp's layout that compiles in a second."""
    (folder / "tools/llama-bench").mkdir(parents=True)
    (folder / "CMakeLists.txt").write_text(CMAKE)
    (folder / "tools/llama-bench/main.cpp").write_text(program)
    (folder / "README.md").write_text("not compiled")
    return folder


def test_the_pinned_source_is_the_one_that_edgekit_runs_on() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert f"llama-cpp-python=={VERSION}" in project["project"]["dependencies"]


def test_a_source_is_the_same_however_it_comes(tmp_path: Path) -> None:
    checkout = small_llama(tmp_path / "checkout")
    sdist = tmp_path / "unpacked"
    shutil.copytree(checkout, sdist / "vendor/llama.cpp")
    (sdist / "CMakeLists.txt").write_text("the binding's own")
    with tarfile.open(tmp_path / "sdist.tar.gz", "w:gz") as tar:
        tar.add(sdist, "llama_cpp_python-9.9")
    found = []
    for index, given in enumerate((checkout, sdist, tmp_path / "sdist.tar.gz")):
        (tmp_path / f"work{index}").mkdir()
        found.append(unpack_source(given, tmp_path / f"work{index}"))
    assert len({(each.name, each.sha256) for each in found}) == 1
    assert found[0].name == f"llama.cpp-{found[0].sha256[:10]}", "what is not proven to be the sdist is not called so"
    assert not list(tmp_path.glob("work*/llama.cpp/README.md"))
    (checkout / "tools/llama-bench/main.cpp").write_text("int main() {}")
    (tmp_path / "work3").mkdir()
    assert unpack_source(checkout, tmp_path / "work3").sha256 != found[0].sha256


def test_an_archive_cannot_write_elsewhere(tmp_path: Path) -> None:
    archive, work = tmp_path / "evil.tar.gz", tmp_path / "work"
    work.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("x/tools/../../../escaped", "x/tools/llama-bench/main.cpp", "x/CMakeLists.txt"):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"a"))
        link = tarfile.TarInfo("x/tools/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    source = unpack_source(archive, work)
    assert sorted(path.name for path in work.rglob("*") if path.is_file()) == ["CMakeLists.txt", "main.cpp"]
    assert not (source.folder / "tools/link").exists()
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"not an archive", "cannot read the source"), ("folder", "there is no llama.cpp")],
)
def test_sources_refused(tmp_path: Path, content: bytes | str | None, message: str) -> None:
    given = tmp_path / "given"
    if content == "folder":
        given.mkdir()
    elif isinstance(content, bytes):
        given.write_bytes(content)
    with pytest.raises(EdgekitError, match=message) as caught:
        unpack_source(given, tmp_path)
    assert "--source" in caught.value.hint


def test_a_source_that_pip_cannot_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(EdgekitError, match="pip cannot fetch the source"):
        unpack_source(None, tmp_path)


# ---- tools --------------------------------------------------------------------------------------------------------

BASELINE = check_variant("android-arm64", "baseline")


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NDK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EdgekitError, match="`cmake`"):
        find_toolchain("linux-arm64", BASELINE)
    script(tmp_path / "cmake", "exit 0")
    with pytest.raises(EdgekitError, match="`ninja`"):
        find_toolchain("linux-arm64", BASELINE)
    script(tmp_path / "ninja", "exit 0")
    with pytest.raises(EdgekitError, match="no compiler for `linux-arm64` here: `aarch64-linux-gnu-g") as caught:
        find_toolchain("linux-arm64", BASELINE)
    assert "apt-get install gcc-aarch64-linux-gnu g++-aarch64-linux-gnu" in caught.value.hint
    with pytest.raises(EdgekitError, match="NDK is needed"):
        find_toolchain("android-arm64", BASELINE)
    with pytest.raises(EdgekitError, match="no Android NDK"):
        find_toolchain("android-arm64", BASELINE, tmp_path)


def test_an_ndk_for_another_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="builds for phones, not for `linux-arm64`"):
        find_toolchain("linux-arm64", BASELINE, tmp_path)


def test_an_ndk_is_taken_from_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cmake", "ninja"):
        script(tmp_path / "bin" / name, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    ndk = tmp_path / "ndk"
    (ndk / "build/cmake").mkdir(parents=True)
    (ndk / "build/cmake/android.toolchain.cmake").touch()
    (ndk / "source.properties").write_text("Pkg.Desc = Android NDK\nPkg.Revision = 27.2.12479018\n")
    monkeypatch.setenv("ANDROID_NDK_HOME", str(ndk))
    tools = find_toolchain("android-arm64", BASELINE)
    assert tools.compiler == "Android NDK 27.2.12479018"
    assert f"-DCMAKE_TOOLCHAIN_FILE={ndk}/build/cmake/android.toolchain.cmake" in tools.flags
    assert "-DGGML_CPU_ARM_ARCH=armv8-a" in tools.flags
    assert tools == find_toolchain("android-arm64", BASELINE, ndk)


# ---- building with real tools -------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/edgekit/runners"


@pytest.fixture
def tools() -> None:
    if not all(shutil.which(name) for name in ("cmake", "gcc", "g++")) or sys.platform != "linux":
        pytest.skip("needs Linux with cmake and a C++ compiler")
    if os.uname().machine != "x86_64":
        pytest.skip("builds for this machine are x86_64's")


X86 = check_variant("linux-x86_64", "baseline")


def test_a_runner_is_built_once_and_kept_with_its_hash(tmp_path: Path, cache: Path, tools: None) -> None:
    source = small_llama(tmp_path / "llama.cpp")
    [(built, new)] = build_runners("linux-x86_64", [X86], source=source, jobs=1)
    assert new
    said = subprocess.run([built.path], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == built.runner.source == f"llama.cpp-{built.runner.source_sha256[:10]}", "git was not asked"
    assert read_elf(built.path) == Elf(machine="x86_64", loader=""), "static"
    assert built.runner.sha256 == hashlib.sha256(built.path.read_bytes()).hexdigest()
    beside = built.path.with_name("llama-bench.sha256").read_text()
    assert beside == f"{built.runner.sha256}  llama-bench\n"
    assert str(tmp_path) not in built.path.read_bytes().decode("latin-1"), "no path of this machine is compiled in"
    [(again, new)] = build_runners("linux-x86_64", [X86], source=source)
    assert (again, new) == (built, False)
    assert [path.name for path in cache.iterdir()] == [built.path.parent.name], "nothing else is left"
    (source / "tools/llama-bench/main.cpp").write_text("int main() { return 1; }\n")
    [(other, new)] = build_runners("linux-x86_64", [X86], source=source)
    assert new
    assert other.path.parent != built.path.parent
    assert {each.path for each in list_runners()[0]} == {built.path, other.path}


def test_what_a_killed_build_left_is_removed(tmp_path: Path, cache: Path) -> None:
    for name in ("old", "new"):
        (cache / f".build-{name}/llama.cpp").mkdir(parents=True)
    for path in (cache / ".build-old/llama.cpp", cache / ".build-old"):
        os.utime(path, (1e9, 1e9))
    with scratch(cache) as folder:
        assert sorted(path.name for path in cache.iterdir()) == sorted([".build-new", Path(folder).name])


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, cache: Path, tools: None) -> None:
    source = small_llama(tmp_path / "llama.cpp", "int main() { return nothing; }\n")
    with pytest.raises(EdgekitError, match=r"the build of the runner failed .*error: .*nothing"):
        build_runners("linux-x86_64", [X86], source=source)
    assert list(cache.iterdir()) == []


def test_an_interrupted_build_leaves_nothing_and_nobody(tmp_path: Path, cache: Path, tools: None) -> None:
    source, mark = small_llama(tmp_path / "llama.cpp"), tmp_path / "pid"
    slow = f"execute_process(COMMAND sh -c \"echo $$ > '{mark}'; exec sleep 60\")\n"
    (source / "CMakeLists.txt").write_text(CMAKE + slow)
    command = [sys.executable, "-m", "edgekit", "runner", "build", "--target", "linux-x86_64", "--source", source]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=interruptible) as build:
        for _ in range(200):
            if mark.exists() and mark.read_text().strip():
                break
            time.sleep(0.1)
        build.send_signal(signal.SIGINT)
        said = build.communicate(timeout=30)[1]
    assert build.returncode == ExitCode.INTERRUPTED, said
    child = Path(f"/proc/{mark.read_text().strip()}")
    for _ in range(50):  # until its new parent has buried it
        if not child.exists():
            break
        time.sleep(0.1)
    assert not child.exists()
    assert list(cache.iterdir()) == []


def interruptible() -> None:
    """What a shell started in the background inherits no longer."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_cache_that_cannot_be_written(tmp_path: Path, cache: Path, tools: None) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    with pytest.raises(EdgekitError, match="cannot build a runner"):
        build_runners("linux-x86_64", [X86], source=small_llama(tmp_path / "llama.cpp"))


def test_a_program_for_another_machine_is_not_kept(tmp_path: Path, cache: Path, tools: None) -> None:
    """A compiler that is called aarch64's and is not."""
    source = small_llama(tmp_path / "llama.cpp")
    folder = tmp_path / "bin"
    for name in ("gcc", "g++"):
        script(folder / f"aarch64-linux-gnu-{name}", f'exec {shutil.which(name)} "$@"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        with pytest.raises(EdgekitError, match="the compiler built for `x86_64` and not for `arm64`"):
            build_runners("linux-arm64", [check_variant("linux-arm64", "baseline")], source=source)


# ---- bringing it there --------------------------------------------------------------------------------------------

HERE = features_of(Path("/proc/cpuinfo").read_text()) if sys.platform == "linux" else frozenset()


def keep(cache: Path, program: Path, target: RunnerTarget, variant: str) -> Path:
    """`program` in the cache, as if it had been built."""
    folder = cache / f"{target}-{variant}"
    folder.mkdir(parents=True)
    shutil.copy(program, folder / "llama-bench")
    record = Runner(target=target, variant=check_variant(target, variant).name, source=f"llama-cpp-python-{VERSION}",
                    source_sha256="0" * 64, compiler="g++ 12", flags=(), size_bytes=1, built_at="2026-11-22T11:00:00",
                    sha256=hashlib.sha256(program.read_bytes()).hexdigest())  # fmt: skip
    write_record(folder / "runner.json", record)
    return folder / "llama-bench"


@pytest.fixture
def fitting() -> str:
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        pytest.skip("the far side of the shims is this machine, and it has to be a Linux x86_64")
    return choose("Linux", "x86_64", HERE).variant.name


def test_auto_brings_the_variant_that_fits(
    ssh_shim: Path,
    artifact: Artifact,
    tmp_path: Path,
    cache: Path,
    fitting: str,
) -> None:
    for variant in ("baseline", "avx2", "avx512"):
        mark = "" if variant == fitting else "exit 9"
        keep(cache, bench_shim(tmp_path / variant, artifact, mark), "linux-x86_64", variant)
    run = measure_there(SSH, artifact, WORKLOAD, on_device="galaxy-s25", runner=AUTO)
    assert len(run.samples) == 20
    (told,) = [finding.message for finding in run.findings if finding.code == "runner"]
    assert f"`linux-x86_64 {fitting}` (llama-cpp-python-{VERSION}), as the CPU " in told
    assert run.runtime is not None
    assert run.runtime.cpu_features == check_variant("linux-x86_64", fitting).features
    assert left_there(tmp_path) == []


def test_auto_takes_no_slower_one_in_silence(
    ssh_shim: Path, artifact: Artifact, tmp_path: Path, cache: Path, fitting: str, cli: Any
) -> None:
    other = "baseline" if fitting != "baseline" else "avx2"
    keep(cache, bench_shim(tmp_path / other, artifact), "linux-x86_64", other)
    done = cli("bench", artifact.path, "-d", "galaxy-s25", "--on", "ssh:pi@device", "--runner", "auto", "-q")
    assert done.returncode == ExitCode.USAGE
    error, _, hint = done.stderr.splitlines()
    assert error.startswith(f"error: no runner is built for `ssh:pi@device`, which takes `{fitting}` (the CPU ")
    assert hint == f"hint: `edgekit runner build --target linux-x86_64 --variant {fitting}`"
    assert left_there(tmp_path) == []


def test_a_runner_that_was_changed_is_not_brought(
    ssh_shim: Path,
    artifact: Artifact,
    tmp_path: Path,
    cache: Path,
    fitting: str,
    cli: Any,
) -> None:
    kept = keep(cache, bench_shim(tmp_path / "runner", artifact), "linux-x86_64", fitting)
    assert cli("runner", "list").stdout.startswith(f"linux-x86_64 {fitting}: {kept}\n")
    kept.write_text("#!/bin/sh\nrm -rf /\n")
    with pytest.raises(EdgekitError, match="no runner is built"):
        measure_there(SSH, artifact, WORKLOAD, on_device="galaxy-s25", runner=AUTO)
    listed = cli("runner", "list")
    assert listed.stdout == ""
    assert "its hash differs" in listed.stderr


def test_a_runner_of_ours_is_known_by_its_hash(tmp_path: Path, cache: Path) -> None:
    program = elf(tmp_path / "mine")
    keep(cache, program, "linux-arm64", "i8mm")
    pixel, pi = (features_of(cpuinfo(DEVICES[name][0])) for name in ("pixel-8-pro", "raspberry-pi-5"))
    known = pick(program, system="Linux", machine="arm64", features=pixel, name="ssh:pi")
    assert "MATMUL_INT8" in known.features
    assert known.path == program
    with pytest.raises(EdgekitError, match="the runner is `i8mm`, and the CPU of `ssh:pi` lacks what it needs: `i8mm`"):
        pick(program, system="Linux", machine="arm64", features=pi, name="ssh:pi")
    on_phone = pick(AUTO, system="Android", machine="arm64", features=pixel, name="adb:X")
    assert on_phone.words.endswith("as the CPU has i8mm, static and so at home on Android, too")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--target", "linux-arm"], "no such target for a runner: `linux-arm`"),
        (["build", "--target", "linux-arm64", "--variant", "avx2"], "`linux-arm64` has no such variant: `avx2`"),
        (["build", "--target", "linux-x86_64", "--source", "nowhere"], "cannot read the source"),
    ],
)
def test_the_verb_refuses_in_one_line(cli: Any, cache: Path, arguments: list[str], message: str) -> None:
    done = cli("runner", *arguments, "-q")
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 3


def test_the_verb_builds_every_variant(tmp_path: Path, cache: Path, tools: None, cli: Any) -> None:
    source = small_llama(tmp_path / "llama.cpp")
    done = cli("runner", "build", "--target", "linux-x86_64", "--source", source, "--json", "-q")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["variant"] for record in records] == ["baseline", "avx2", "avx512"]
    said = [
        subprocess.run([each.path], capture_output=True, text=True, check=True).stdout for each in list_runners()[0]
    ]
    assert [each.splitlines()[1] for each in said] == ["OFF OFF", "ON OFF", "ON ON"], "no variant keeps another's flags"
    assert all(not new for _, new in build("linux-x86_64", source=source))
    assert tree_sha256(source / "tools") != records[0]["source_sha256"]
