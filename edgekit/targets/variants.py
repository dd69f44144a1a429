"""What a runner can be built for, and which of its variants a CPU can run.

A variant asks for no instruction beyond the words in `needs`, which are the kernel's own in /proc/cpuinfo: the compiler
may use all that `-march` allows, anywhere, and one that the CPU lacks ends the run with SIGILL. So i8mm is added to
Armv8.2 rather than had through Armv8.6, which would also allow bf16, lrcpc and more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgekit.errors import EdgekitError
from edgekit.records.runner import RunnerTarget, RunnerVariant
from edgekit.tables import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """`flags` go to cmake; `features` are ggml's words for what its kernels then use."""

    name: RunnerVariant
    flags: tuple[str, ...]
    needs: frozenset[str]
    features: str


_V8_2 = frozenset({"atomics", "crc32", "asimdrdm"})  # what Armv8.1 and 8.2 oblige a CPU to have and a compiler may use
_DOTPROD = _V8_2 | {"asimddp", "fphp", "asimdhp"}
_AVX2 = frozenset({"avx", "avx2", "fma", "f16c", "bmi2", "sse4_2"})

_ARM = (
    Variant(name="baseline", flags=("-DGGML_CPU_ARM_ARCH=armv8-a",), needs=frozenset(), features="NEON ARM_FMA"),
    Variant(
        name="dotprod",
        flags=("-DGGML_CPU_ARM_ARCH=armv8.2-a+fp16+dotprod",),
        needs=_DOTPROD,
        features="NEON ARM_FMA FP16_VA DOTPROD",
    ),
    Variant(
        name="i8mm",
        flags=("-DGGML_CPU_ARM_ARCH=armv8.2-a+fp16+dotprod+i8mm",),
        needs=_DOTPROD | {"i8mm"},
        features="NEON ARM_FMA FP16_VA DOTPROD MATMUL_INT8",
    ),
)
_X86 = (
    Variant(
        name="baseline",
        flags=tuple(f"-DGGML_{name}=OFF" for name in ("AVX", "AVX2", "FMA", "F16C", "BMI2")),
        needs=frozenset({"sse4_2"}),
        features="SSE3 SSSE3",
    ),
    Variant(name="avx2", flags=(), needs=_AVX2, features="SSE3 SSSE3 AVX AVX2 F16C FMA BMI2"),
    Variant(
        name="avx512",
        flags=("-DGGML_AVX512=ON", "-DGGML_AVX512_VNNI=ON"),
        needs=_AVX2 | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
        features="SSE3 SSSE3 AVX AVX2 F16C FMA BMI2 AVX512 AVX512_VNNI",
    ),
)

VARIANTS: dict[RunnerTarget, tuple[Variant, ...]] = {"linux-arm64": _ARM, "android-arm64": _ARM, "linux-x86_64": _X86}
"""Each target's variants, from the one that runs everywhere to the fastest."""

SYSTEMS: dict[tuple[str, str], tuple[RunnerTarget, ...]] = {
    ("Linux", "arm64"): ("linux-arm64",),
    ("Linux", "x86_64"): ("linux-x86_64",),
    # Android's kernel is Linux, and a static program needs nothing else of it
    ("Android", "arm64"): ("android-arm64", "linux-arm64"),
}
"""System and machine of a device → the targets that run there, the best first."""


def check_target(name: str) -> RunnerTarget:
    """`name` as a target. Raises EdgekitError for anything else."""
    for target in VARIANTS:
        if target == name:
            return target
    hint = nearest(name, VARIANTS)
    raise EdgekitError(f"no such target for a runner: `{name[:40]}`", hint=hint)


def check_variant(target: RunnerTarget, name: str) -> Variant:
    """The variant `name` of `target`. Raises EdgekitError for one that it does not have."""
    known = {variant.name: variant for variant in VARIANTS[target]}
    for each, variant in known.items():
        if each == name:
            return variant
    hint = nearest(name, known)
    raise EdgekitError(f"`{target}` has no such variant: `{name[:40]}`", hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The fastest variant that a CPU can run, and why not a faster one."""

    targets: tuple[RunnerTarget, ...]
    variant: Variant
    reason: str


def features_of(cpuinfo: str) -> frozenset[str]:
    """What every processor in a /proc/cpuinfo can, in the kernel's words; empty where it does not tell."""
    lines = re.findall(r"^(?:Features|flags)[ \t]*:(.*)$", cpuinfo, re.MULTILINE)
    sets = [frozenset(line.split()) for line in lines]
    return frozenset.intersection(*sets) if sets else frozenset()


def choose(system: str, machine: str, features: frozenset[str]) -> Choice:
    """The variant for a device, by its CPU's features. Raises EdgekitError for a machine that none is built for."""
    targets = SYSTEMS.get((system, machine), ())
    if not targets:
        raise EdgekitError(
            f"no runner can be built for `{system or 'an unknown system'}` on `{machine or 'an unknown machine'}`",
            hint="install edgekit or llama.cpp there, or bring your own with `--runner FILE`",
        )
    variants = VARIANTS[targets[0]]
    able = [variant for variant in variants if variant.needs <= features]
    if not able:
        lacking = ", ".join(sorted(variants[0].needs - features))
        raise EdgekitError(f"the device's CPU is older than any runner: it lacks `{lacking}`")
    return Choice(targets=targets, variant=able[-1], reason=_reason(able[-1], variants, features))


def _reason(chosen: Variant, variants: tuple[Variant, ...], features: frozenset[str]) -> str:
    if not features:
        return "the device does not tell what its CPU can"
    index = variants.index(chosen)
    if index + 1 == len(variants):
        more = sorted(chosen.needs - variants[index - 1].needs)
        return f"the CPU has {', '.join(more)}"
    lacking = sorted(variants[index + 1].needs - features)
    return f"the CPU lacks {', '.join(lacking)}"
