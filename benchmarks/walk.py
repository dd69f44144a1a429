"""The whole walk, timed: a teacher trained, its student distilled, made, measured, evaluated, judged and reported.

    python benchmarks/walk.py [--recipe tiny] [--seeds 3] [--threads 2] [--keep DIR]

Each seed walks in a fresh folder and with an empty cache, so that the teacher is trained, too; then it walks again in
the same folder, which is what looking at everything costs. It writes down the commands, the minutes of every step, what
the student was worth after each stage, and what the gate saw: retention of the teacher, size and speed against it.
Ranges are those of the records. Writes `results/walk.json`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peer import circumstances, write_result

from edgekit.distill.recipe import load_recipe
from edgekit.records import DistillCost, Estimate, Figure, Link, Report, SweepRow, Walk
from edgekit.storage import load_record

RESULTS = Path(__file__).parent / "results" / "walk.json"
ENDED = (0, 1, 3)
"""The gate's own answers: anything else and the walk did not end."""


def figure_of(figure: Figure) -> list[float] | str:
    """Value, low and high; or why there is none."""
    return [figure.value, figure.low, figure.high] if isinstance(figure, Estimate) else figure.reason


def seeded(recipe: str, seed: int, folder: Path) -> Path:
    """The recipe with another seed for data, training and teacher alike, as a file of its own."""
    from edgekit.distill import recipe as recipes

    shipped = recipes.SHIPPED / f"{recipe}.toml"
    text = (shipped if shipped.is_file() else Path(recipe)).read_text(encoding="utf-8")
    lines = [f"seed = {seed}", *(line for line in text.splitlines() if not line.startswith("seed ="))]
    at = lines.index("[teacher.make]") + 1 if "[teacher.make]" in lines else len(lines)
    if at < len(lines):
        lines.insert(at, f"seed = {seed}")
    place = folder / f"{Path(recipe).stem}.toml"
    place.write_text("\n".join(lines) + "\n", encoding="utf-8")
    load_recipe(place)
    return place


def walk(recipe: Path, out: Path, cache: Path, threads: int) -> tuple[float, str]:
    """Seconds of one `edgekit run` as a user gives it, and the command."""
    command = ["run", str(recipe), "--out", str(out), "--threads", str(threads), "--quiet"]
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(cache),
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", *command], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode not in ENDED:
        sys.exit(f"the walk did not end ({done.returncode}):\n{done.stderr}")
    return time.monotonic() - started, f"edgekit {' '.join(command[:2])}"


# ---- what it found --------------------------------------------------------------------------------------------------


def stages(link: Link) -> list[dict[str, Any]]:
    """What the student is worth before its first stage and after each."""
    start = {"stage": "start", "loss": figure_of(link.start.loss), "kld": figure_of(link.start.kld)}
    return [
        start,
        *(
            {
                "stage": one.kind,
                "loss": figure_of(one.held_out.loss),
                "top1": figure_of(one.held_out.top1),
                "kld": figure_of(one.held_out.kld),
                "tokens": one.training.tokens,
                "seconds": one.cost.seconds,
                "tokens_per_s": one.training.tokens_per_s,
            }
            for one in link.stages
        ),
    ]


def row_of(row: SweepRow) -> dict[str, Any]:
    """One artifact: its size, what it retained, how far it is from the student at full precision, its verdict."""
    report = row.report
    if report is None or row.artifact is None:
        return {"target": row.target, "failed": row.failed.reason if row.failed else "unknown"}
    quality = report.evidence.quality
    tasks = quality.tasks if quality else None
    return {
        "target": row.target,
        "size_bytes": row.artifact.header.size_bytes,
        "retention": figure_of(tasks.overall.retention) if tasks else "not asked",
        "right": figure_of(tasks.overall.accuracy) if tasks else "not asked",
        "teacher_right": figure_of(tasks.overall.teacher_accuracy) if tasks else "not asked",
        "kld": figure_of(quality.kld_mean) if quality else "not scored",
        "verdict": report.verdicts[0].status,
    }


def brought(report: Report) -> dict[str, Any]:
    """Artifact ÷ teacher."""
    lineage = report.evidence.lineage
    assert lineage is not None
    chain = lineage.distillation
    return {
        "parameters": chain.student.parameters / chain.teacher.parameters,
        **{change.metric: figure_of(change.ratio) for change in lineage.changes},
        **({"not_compared": lineage.not_compared} if lineage.not_compared else {}),
    }


def outcome(walked: Walk) -> dict[str, Any]:
    """Everything of one walk."""
    report = walked.report
    assert report is not None
    lineage = report.evidence.lineage
    assert lineage is not None
    chain = lineage.distillation
    own = chain.teacher_cost
    return {
        "exit_code": walked.exit_code,
        "steps_s": {step.name: round(step.elapsed_s, 1) for step in walked.steps},
        "teacher": {
            "parameters": chain.teacher.parameters,
            "loss": figure_of(chain.teacher_held_out.loss),
            "seconds": own.seconds if isinstance(own, DistillCost) else own.reason,
        },
        "students": {link.student.name: stages(link) for link in chain.links},
        "artifacts": [row_of(row) for row in walked.sweep.rows],
        "artifact_over_teacher": brought(report),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny", help="a shipped recipe or a TOML file (tiny)")
    parser.add_argument("--seeds", type=int, default=3, help="walks, seeds from 1 (3)")
    parser.add_argument("--threads", type=int, default=2, help="of training and of what runs (2)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write (results/walk.json)")
    parser.add_argument("--keep", type=Path, help="leave the folders of the walks here")
    arguments = parser.parse_args()
    walks = []
    with tempfile.TemporaryDirectory() as scratch:
        home = arguments.keep or Path(scratch)
        for seed in range(1, arguments.seeds + 1):
            folder = home / f"{Path(arguments.recipe).stem}-{seed}"
            folder.mkdir(parents=True)
            recipe = seeded(arguments.recipe, seed, folder)
            out, cache = folder / "walk", folder / "cache"
            first_s, command = walk(recipe, out, cache, arguments.threads)
            found = outcome(load_record(out / "walk.json", Walk))
            again_s, _ = walk(recipe, out, cache, arguments.threads)
            walks.append({"seed": seed, "command": command, "minutes": first_s / 60, "again_s": again_s, **found})
            tell(walks[-1])
            shipped = sorted((out / "models").glob("*.gguf"))[-1]
            result = {**circumstances(shipped), "recipe": arguments.recipe, "threads": arguments.threads}
            write_result(arguments.results, {**result, "walks": walks})


def tell(one: dict[str, Any]) -> None:
    """A walk on a few lines."""
    print(f"seed {one['seed']}: {one['minutes']:.1f} min ({one['steps_s']}), again {one['again_s']:.0f} s", flush=True)
    for student, rows in one["students"].items():
        said = ", ".join(f"{row['stage']} {_short(row['loss'])}/{_short(row['kld'])}" for row in rows)
        print(f"  {student}, held-out loss/KLD: {said}; teacher {_short(one['teacher']['loss'])}")
    for row in one["artifacts"]:
        print(f"  {row}", flush=True)
    print(f"  artifact ÷ teacher: {one['artifact_over_teacher']}", flush=True)


def _short(figure: list[float] | str) -> str:
    return f"{figure[0]:.3g}" if isinstance(figure, list) else "?"


if __name__ == "__main__":
    main()
