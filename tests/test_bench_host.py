from __future__ import annotations

import hashlib
import platform
from dataclasses import replace
from pathlib import Path

import pytest
from bench_fakes import header

from edgekit.bench import hash_artifact, probe_host
from edgekit.bench.host import isa_of
from edgekit.bench.thermal import read_thermal
from edgekit.errors import EdgekitError

linux = pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc and /sys")


@pytest.mark.parametrize(
    ("machine", "flags", "isa"),
    [
        ("x86_64", "sse2", "x86_64"),
        ("x86_64", "avx avx2 fma", "x86_64+avx2"),
        ("x86_64", "avx2 avx_vnni", "x86_64+avx2+vnni"),
        ("x86_64", "avx2 avx512f avx512_vnni", "x86_64+avx512+vnni"),
        ("x86_64", "avx2 avx512f avx512_vnni avx_vnni amx_int8", "x86_64+avx512+vnni+amx"),
        ("arm64", "fp asimd crc32", "arm64"),
        ("arm64", "fp asimd asimddp", "arm64+dotprod"),
        ("arm64", "asimddp i8mm", "arm64+dotprod+i8mm"),
        ("arm64", "hw.optional.arm.FEAT_DotProd hw.optional.arm.FEAT_I8MM", "arm64+dotprod+i8mm"),
        ("arm64", "neon dotprod matmul_int8", "arm64+dotprod+i8mm"),
        ("x86_64", "sse3 avx2 avx512 avx512_vnni avx_vnni", "x86_64+avx512+vnni"),
        ("riscv64", "v", "riscv64"),
    ],
)
def test_isa(machine: str, flags: str, isa: str) -> None:
    assert isa_of(machine, frozenset(flags.split())) == isa


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@linux
def test_a_laptop_with_hyperthreads_on_battery(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": "processor : 0\nmodel name\t: Core 7\nflags\t\t: avx2 fma\n\nprocessor : 1\nflags : none\n",
            "proc/meminfo": "MemTotal:       32000000 kB\nMemFree: 1 kB\n",
            f"{cpu}/cpu0/topology/thread_siblings_list": "0-1\n",
            f"{cpu}/cpu1/topology/thread_siblings_list": "0-1\n",
            f"{cpu}/cpu2/topology/thread_siblings_list": "2\n",
            f"{cpu}/cpu0/cpufreq/scaling_governor": "powersave\n",
            "sys/class/power_supply/AC/type": "Mains\n",
            "sys/class/power_supply/AC/online": "0\n",
            "sys/class/power_supply/BAT0/type": "Battery\n",
            "sys/class/power_supply/BAT0/status": "Discharging\n",
        },
    )
    host = probe_host(root)
    assert (host.cpu_model, host.physical_cores, host.ram_bytes) == ("Core 7", 2, 32_768_000_000)
    assert (host.governor, host.power_source, host.virtualized) == ("powersave", "battery", "")
    write(root, {"sys/class/power_supply/AC/online": "1\n", ".dockerenv": ""})
    assert probe_host(root).power_source == "mains"
    assert probe_host(root).virtualized == "container"


@linux
def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    host = probe_host(tmp_path)
    assert (host.cpu_model, host.ram_bytes, host.governor, host.power_source) == ("", 0, "", "")
    assert host.physical_cores > 0


def test_this_machine() -> None:
    host = probe_host()
    assert host.ram_bytes > 1e8
    assert 0 < host.physical_cores <= host.logical_cores
    assert host.isa.startswith(host.machine)


def test_thermal_takes_the_mean_clock_and_the_hottest_plausible_zone(tmp_path: Path) -> None:
    assert read_thermal(1.0, tmp_path) is None
    write(
        tmp_path,
        {
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "3000000\n",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2000000\n",
            "sys/class/thermal/thermal_zone0/temp": "61500\n",
            "sys/class/thermal/thermal_zone1/temp": "-273000\n",
            "sys/class/thermal/thermal_zone2/temp": "not a number\n",
            "sys/class/thermal/thermal_zone3/temp": "48000\n",
        },
    )
    point = read_thermal(1.0, tmp_path)
    assert point is not None
    assert (point.at_s, point.frequency_mhz, point.temperature_c) == (1.0, 2500.0, 61.5)


def sized(size_bytes: int, shards: int = 1):  # type: ignore[no-untyped-def]
    return replace(header(), size_bytes=size_bytes, shards=shards)


def test_the_hash_covers_every_byte(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"x" * 10_000)
    told: list[float] = []
    found = hash_artifact(file, sized(10_000), progress=lambda stage, done, total, detail="": told.append(done))
    assert found.sha256 == hashlib.sha256(b"x" * 10_000).hexdigest()
    assert found.shard_sha256 == (found.sha256,)
    assert told[-1] == 10_000


def test_every_shard_has_its_hash_and_the_whole_is_their_bytes_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    found = hash_artifact(first, sized(6, shards=2))
    assert found.shard_sha256 == (hashlib.sha256(b"one").hexdigest(), hashlib.sha256(b"two").hexdigest())
    assert found.sha256 == hashlib.sha256(b"onetwo").hexdigest()


def test_a_file_that_grew_since_its_header_was_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"x" * 11)
    with pytest.raises(EdgekitError, match="changed"):
        hash_artifact(file, sized(10))
    with pytest.raises(EdgekitError, match="cannot read"):
        hash_artifact(tmp_path / "gone.gguf", sized(10))
