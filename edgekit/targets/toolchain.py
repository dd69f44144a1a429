"""What compiles for another machine: cmake, a cross compiler of the distribution, or Android's NDK."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.records.runner import RunnerTarget
from edgekit.targets.variants import Variant

ANDROID_PLATFORM = "android-28"
"""Android 9, as llama.cpp's own Android builds ask for (docs/android.md)."""
NDK_VARIABLES = ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_NDK")

_CROSS = {
    "arm64": ("aarch64-linux-gnu-", "aarch64-unknown-linux-gnu-"),
    "x86_64": ("x86_64-linux-gnu-", "x86_64-unknown-linux-gnu-"),
}
_PACKAGE = {"arm64": "aarch64-linux-gnu", "x86_64": "x86-64-linux-gnu"}
_PROCESSOR = {"arm64": "aarch64", "x86_64": "x86_64"}
_HERE = {"aarch64": "arm64", "arm64": "arm64", "x86_64": "x86_64", "amd64": "x86_64"}

_ALWAYS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=OFF",
    # ggml's own threads: libgomp's spin without end where a phone parks one of them, and Android has no libgomp
    "-DGGML_OPENMP=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_COMMON=ON",
    "-DLLAMA_BUILD_TOOLS=ON",
    *(f"-DLLAMA_BUILD_{part}=OFF" for part in ("TESTS", "EXAMPLES", "SERVER", "APP")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """How cmake is called for a target. `compiler` says itself what it is; `generator` is cmake's word."""

    cmake: str
    generator: str
    compiler: str
    flags: tuple[str, ...]


def find_toolchain(target: RunnerTarget, variant: Variant, ndk: Path | None = None) -> Toolchain:
    """The tools that build `variant` of `target` here. Raises EdgekitError with what is missing and what brings it."""
    if ndk is not None and not target.startswith("android"):
        raise EdgekitError(f"an NDK builds for phones, not for `{target}`", hint="drop `--ndk`")
    cmake = shutil.which("cmake")
    if cmake is None:
        raise EdgekitError("cmake is needed to build a runner: `cmake`", hint="`pip install cmake ninja`")
    generator = "Ninja" if shutil.which("ninja") else "Unix Makefiles"
    if generator != "Ninja" and shutil.which("make") is None:
        raise EdgekitError("ninja or make is needed to build a runner: `ninja`", hint="`pip install ninja`")
    system, _, machine = target.partition("-")
    compiler, flags = _android(ndk) if system == "android" else _linux(machine)
    return Toolchain(cmake=cmake, generator=generator, compiler=compiler, flags=(*_ALWAYS, *flags, *variant.flags))


def _linux(machine: str) -> tuple[str, tuple[str, ...]]:
    native = platform.system() == "Linux" and _HERE.get(platform.machine().lower()) == machine
    for prefix in ("", *_CROSS[machine]) if native else _CROSS[machine]:
        c, cxx = shutil.which(f"{prefix}gcc"), shutil.which(f"{prefix}g++")
        if c and cxx:
            flags = (f"-DCMAKE_C_COMPILER={c}", f"-DCMAKE_CXX_COMPILER={cxx}", "-DCMAKE_EXE_LINKER_FLAGS=-static -s")
            # a system name of its own makes cmake cross-compile: nothing that it builds is run here
            cross = ("-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={_PROCESSOR[machine]}")
            return _version(cxx), flags if native else (*cross, *flags)
    package = "g++" if native else f"g++-{_PACKAGE[machine]}"
    raise EdgekitError(
        f"there is no compiler for `linux-{machine}` here: `{'g++' if native else _CROSS[machine][0] + 'g++'}`",
        hint=f"on Debian and Ubuntu: `apt-get install {package.replace('g++', 'gcc', 1)} {package}`",
    )


def _android(given: Path | None) -> tuple[str, tuple[str, ...]]:
    named = next((os.environ[name] for name in NDK_VARIABLES if os.environ.get(name)), "")
    if given is None and not named:
        raise EdgekitError(
            "Android's NDK is needed to build a runner for phones",
            hint="give its folder with `--ndk`, or set `ANDROID_NDK_HOME`; "
            "without it, `--target linux-arm64` builds a static one that Android's kernel runs, too",
        )
    ndk = (given or Path(named)).absolute()
    file = ndk / "build/cmake/android.toolchain.cmake"
    if not file.is_file():
        raise EdgekitError(f"this is no Android NDK, for it has no `build/cmake/android.toolchain.cmake`: `{ndk}`")
    revision = re.search(r"^Pkg\.Revision\s*=\s*(\S+)", _text(ndk / "source.properties"), re.MULTILINE)
    return f"Android NDK {revision[1] if revision else 'of an unknown revision'}", (
        f"-DCMAKE_TOOLCHAIN_FILE={file}",
        "-DANDROID_ABI=arm64-v8a",
        f"-DANDROID_PLATFORM={ANDROID_PLATFORM}",
        "-DANDROID_STL=c++_static",
        "-DANDROID_SUPPORT_FLEXIBLE_PAGE_SIZES=ON",  # phones with pages of 16 KiB; the default since NDK 28
    )


def _version(compiler: str) -> str:
    """The first line of `--version`, as `g++ (Debian 12.2.0-14) 12.2.0`."""
    try:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        done = None
    if done is None or done.returncode or not done.stdout.strip():
        raise EdgekitError(f"the compiler does not say what it is: `{compiler}`")
    return done.stdout.splitlines()[0][:120]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
