"""A machine with a RAPL counter, as a fixture tree: the whole bench reads it around timed steps only."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_fakes import Fakes, artifact

from edgekit.bench import measure
from edgekit.records import Settings, Workload
from edgekit.runtimes import Step


@pytest.fixture
def rapl(tmp_path: Path) -> Path:
    package = tmp_path / "sys/class/powercap/intel-rapl:0"
    package.mkdir(parents=True)
    (package / "name").write_text("package-0\n")
    (package / "energy_uj").write_text("0\n")
    (package / "max_energy_range_uj").write_text("262143328850\n")
    return tmp_path


def test_joules_are_read_around_timed_steps_only(rapl: Path) -> None:
    counter = rapl / "sys/class/powercap/intel-rapl:0/energy_uj"

    def draw(step: Step, process: int) -> None:
        counter.write_text(f"{int(counter.read_text()) + 2_000_000}\n")

    fakes = Fakes(dies=draw)
    measured = measure(
        artifact(),
        Workload(settings=Settings(context_tokens=8192), prompt_tokens=()),
        open_worker=fakes.open_worker,  # type: ignore[arg-type]
        clock=fakes.clock,
        sleep=fakes.clock.sleep,
        root=rapl,
    )
    assert [(reading.test, reading.tokens) for reading in measured.energy] == [
        ("tg128", 4 * 128),
        ("tg128", 3 * 128),
        ("tg128", 3 * 128),
    ]
    assert [reading.joules for reading in measured.energy] == [8.0, 6.0, 6.0]
    assert measured.energy_unknown == ""
