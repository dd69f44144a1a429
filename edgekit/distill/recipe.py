"""Recipes of distillation: a TOML file, shipped or the user's own, checked field by field before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from edgekit.distill import recipe_fields as keys
from edgekit.distill.prune_spec import parse_prune
from edgekit.distill.recipe_parts import (
    Data,
    DistillRecipe,
    Exporting,
    Gating,
    Machines,
    OnPolicy,
    Stage,
    Student,
    Synthesizing,
    Teacher,
    Temperature,
)
from edgekit.distill.students import Recipe
from edgekit.distill.synthesis import Synthesis
from edgekit.errors import EdgekitError
from edgekit.shapes import Shape, load_shape, shape_of
from edgekit.tables import nearest, number, parse_toml, read_file, refuse_unknown, table_at, tables_at, text_at

MAX_RECIPE_BYTES = 256 * 1024
SHIPPED = Path(__file__).parent / "recipes"
MOST_STUDENTS, MOST_STAGES = 16, 16


def shipped() -> tuple[str, ...]:
    """Names of the recipes inside the package."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.toml")))


def load_recipe(name_or_path: str | Path) -> DistillRecipe:
    """The shipped recipe of that name, or the one in a TOML file.

    Raises EdgekitError that names the table and key: unknown ones (with the nearest name), values out of range, and
    what does not fit together.
    """
    text = str(name_or_path)
    path = SHIPPED / f"{text}.toml" if text in shipped() else Path(name_or_path)
    if path.suffix != ".toml" and not path.is_file():
        raise EdgekitError(
            f"unknown recipe: `{text[:80]}`", hint=f"{nearest(text, shipped())} (your own is a path that ends in .toml)"
        )
    table = parse_toml(read_file(path, what="recipe", max_bytes=MAX_RECIPE_BYTES), what="recipe", origin=str(path))
    return _recipe(table, where=f"recipe `{path.name}`", stem=path.stem, folder=path.parent)


def with_student(recipe: DistillRecipe, source: str) -> DistillRecipe:
    """The same recipe with its student made of `source`, whose file lies where the caller is. Raises EdgekitError where
    it has several students.
    """
    if len(recipe.students) != 1:
        names = ", ".join(student.name for student in recipe.students)
        raise EdgekitError(
            f"the recipe has {len(recipe.students)} students ({names}), which of them is to be: `{source[:60]}`",
            hint="write a recipe of your own with `from = …` under each `[[student]]`",
        )
    _check_source(source, "`--student`")
    kind, _, rest = source.partition(":")
    shape = load_shape(rest) if kind == "shape" else None
    if kind == "config":
        source = f"config:{Path(rest).absolute()}"
    return replace(recipe, students=(replace(recipe.students[0], source=source, shape=shape),))


def _recipe(table: Mapping[str, Any], *, where: str, stem: str, folder: Path) -> DistillRecipe:
    refuse_unknown(table, keys.TOP, where=where)
    rows = tables_at(table, "student", where=where)
    if not 1 <= len(rows) <= MOST_STUDENTS:
        raise EdgekitError(
            f"{where} needs 1 to {MOST_STUDENTS} students, not `{len(rows)}`", hint="write `[[student]]`"
        )
    data = Data(**keys.read(table_at(table, "data", where=where), keys.DATA, f"`data` of {where}"))
    students = tuple(_student(row, place, where, folder) for place, row in enumerate(rows, 1))
    names = [student.name for student in students]
    if len(set(names)) < len(names):
        raise EdgekitError(f"two students of {where} have one name: `{max(names, key=names.count)}`")
    cluster = table_at(table, "cluster", where=where)
    return DistillRecipe(
        name=_name(table, where, stem),
        title=text_at(table, "title", where=where, default=""),
        seed=keys.whole(0, 2**31)(table, "seed", where) if "seed" in table else 1,
        teacher=_teacher(table_at(table, "teacher", where=where), f"`teacher` of {where}", folder),
        data=data,
        students=students,
        export=Exporting(**keys.read(table_at(table, "export", where=where), keys.EXPORT, f"`export` of {where}")),
        gate=Gating(**keys.read(table_at(table, "gate", where=where), keys.GATE, f"`gate` of {where}")),
        cluster=_made(Machines, cluster, keys.CLUSTER, f"`cluster` of {where}") if cluster else None,
        folder=folder,
    )


def _teacher(table: Mapping[str, Any], where: str, folder: Path) -> Teacher:
    refuse_unknown(table, ("path", "make", "shape"), where=where)
    if len(table) != 1:
        raise EdgekitError(
            f"{where} needs exactly one of `path`, `make` and `shape`, not `{len(table)}`",
            hint='`path = "DIR"` is a checkpoint, `[teacher.make]` trains one here, `shape = "base-7b"` foresees cost',
        )
    if "path" in table:
        return Teacher(path=text_at(table, "path", where=where))
    if "make" in table:
        recipe: Recipe = _made(Recipe, table_at(table, "make", where=where), keys.MAKE, f"`make` of {where}")
        _check_make(recipe, f"`make` of {where}")
        return Teacher(make=recipe)
    return Teacher(shape=_shape(table, "teacher", where, folder))


def _shape(table: Mapping[str, Any], name: str, where: str, folder: Path) -> Shape:
    """Of `shape = "base-7b"`, of a file that lies beside the recipe, or of a table of dimensions."""
    if isinstance(table.get("shape"), str):
        return _named_shape(text_at(table, "shape", where=where), folder)
    return shape_of({"name": name, **table_at(table, "shape", where=where)}, where=f"`shape` of {where}")


def _named_shape(name: str, folder: Path) -> Shape:
    return load_shape(folder / name if name.endswith(".toml") else name)


def _student(row: Mapping[str, Any], place: int, where: str, folder: Path) -> Student:
    where = f"student {place} of {where}"
    refuse_unknown(row, ("name", "from", "shape", "taught_by", "stage"), where=where)
    if ("from" in row) == ("shape" in row):
        raise EdgekitError(f"{where} needs exactly one of its keys: `from` or `shape`")
    name = _name(row, where, f"student-{place}")
    shape = _shape(row, name, where, folder) if "shape" in row else None
    source = f"shape:{shape.name}" if shape else text_at(row, "from", where=where)
    _check_source(source, where)
    if source.startswith("shape:") and shape is None:
        shape = _named_shape(source.removeprefix("shape:"), folder)
    stages = tables_at(row, "stage", where=where)
    if not 1 <= len(stages) <= MOST_STAGES:
        raise EdgekitError(
            f"{where} needs 1 to {MOST_STAGES} stages, not `{len(stages)}`", hint="write `[[student.stage]]`"
        )
    taught_by = keys.word("original", "previous")(row, "taught_by", where)
    return Student(
        name=name,
        source=source,
        shape=shape,
        taught_by=taught_by,
        stages=tuple(_stage(stage, f"stage {at} of {where}") for at, stage in enumerate(stages, 1)),
    )


def _stage(row: Mapping[str, Any], where: str) -> Stage:
    kind = keys.word(*keys.STAGE)(row, "kind", where) if "kind" in row else text_at(row, "kind", where=where)
    inner = keys.TABLES.get(kind, "temperature")
    found = keys.read(row, keys.STAGE[kind], where, besides=("temperature", inner))
    found["temperature"] = _temperature(row, where)
    table = table_at(row, inner, where=where) if kind in keys.TABLES else {}
    if kind == "task":
        found["synthesis"] = _synthesizing(table, f"`{inner}` of {where}")
        found.setdefault("alpha", 0.0)
    if kind == "on-policy":
        found["on_policy"] = OnPolicy(**keys.read(table, keys.ON_POLICY, f"`{inner}` of {where}"))
        found["alpha"] = 1.0
        found["temperature"] = found["temperature"] if "temperature" in row else Temperature(start=1.0)
    if ("steps" in found) == ("tokens" in found):
        raise EdgekitError(f"{where} needs exactly one of its keys: `steps` or `tokens`")
    for key in ("batch", "length", "learning_rate"):
        _require(found, key, where)
    tokens = found.pop("tokens", None)
    if tokens is not None:
        found["steps"] = max(1, round(tokens / (found["batch"] * found["length"])))
    stage = Stage(**found)
    _check_stage(stage, row, where)
    return stage


def _synthesizing(table: Mapping[str, Any], where: str) -> Synthesizing:
    asked = keys.read(table, keys.SYNTHESIS, where, besides=keys.SYNTHESIZING)
    rest = keys.read(table, keys.SYNTHESIZING, where, besides=keys.SYNTHESIS)
    idle = [key for key in keys.ASKED_OF_THE_CORPUS if key in table]
    if rest.get("prompts") and idle:
        raise EdgekitError(
            f"{where} asks your own questions (`prompts`), of which none is left out by: `{idle[0]}`",
            hint=f"leave out one of them: `prompts` or `{idle[0]}`",
        )
    return Synthesizing(asked=Synthesis(**{"domains": (), **asked}), **rest)


def _temperature(row: Mapping[str, Any], where: str) -> Temperature:
    value = row.get("temperature", {})
    if isinstance(value, dict):
        found = Temperature(**keys.read(value, keys.TEMPERATURE, f"`temperature` of {where}"))
    else:
        found = Temperature(start=number(value, where=f"`temperature` in {where}", low=0.1, high=100))
    if found.end is None and found.schedule != "constant":
        raise EdgekitError(f"`temperature` of {where} moves and needs its `end`: `{found.schedule}`")
    return found


def _check_stage(stage: Stage, row: Mapping[str, Any], where: str) -> None:
    """What each key allows and the stage as a whole does not."""
    if stage.micro_batch is not None and stage.micro_batch > stage.batch:
        raise EdgekitError(f"`micro_batch` of {where} is larger than its `batch`: `{stage.micro_batch}`")
    if stage.mix is not None and stage.loss not in ("jsd", "skew_kl"):
        raise EdgekitError(f"`mix` of {where} is for the losses jsd and skew_kl, not `{stage.loss}`")
    if stage.on_policy is not None:
        _check_on_policy(stage, stage.on_policy, where)
        return
    cool, hot = stage.temperature.ends
    if stage.cache == "offline" and stage.alpha > 0:
        if stage.loss != "forward_kl":
            raise EdgekitError(f"a cache of {where} serves the loss forward_kl alone, not `{stage.loss}`")
        if not 1 <= cool <= hot <= 4:
            raise EdgekitError(
                f"a cache of {where} serves temperatures from 1 to 4, not `{hot if hot > 4 else cool:g}`"
            )
    if stage.kind == "logits" and stage.alpha == 0 and "alpha" in row and "cache" in row:
        raise EdgekitError(f"{where} asks no teacher (`alpha` is 0), so it has nothing to cache: `cache`")


def _check_on_policy(stage: Stage, policy: OnPolicy, where: str) -> None:
    if stage.temperature.schedule != "constant":
        raise EdgekitError(
            f"`temperature` of {where} cannot move: its completions are drawn at it, `{stage.temperature.schedule}`"
        )
    if policy.most_tokens >= stage.length:
        raise EdgekitError(
            f"`length` of {where} leaves no room for a prompt beside its `most_tokens`: `{stage.length}`"
        )
    if stage.batch % (stage.micro_batch or stage.batch):
        raise EdgekitError(f"`micro_batch` of {where} must divide its `batch` = {stage.batch}: `{stage.micro_batch}`")


def _check_make(recipe: Recipe, where: str) -> None:
    wrong = ""
    if not re.fullmatch(keys.NAME, recipe.name):
        wrong = f"`name` may hold letters, digits, `.`, `_`, `-`: `{recipe.name[:60]}`"
    elif recipe.heads % recipe.kv_heads:
        wrong = f"`kv_heads` must divide `heads` = {recipe.heads}: `{recipe.kv_heads}`"
    elif recipe.head_dim % 2:
        wrong = f"`head_dim` must be even (rotary embedding pairs the values): `{recipe.head_dim}`"
    elif not recipe.steps or not (recipe.questions or recipe.characters):
        wrong = "it needs `steps`, and `questions` or `characters` to learn from"
    if wrong:
        raise EdgekitError(f"{where} is not possible: {wrong}")


def _check_source(source: str, where: str) -> None:
    kind, _, rest = source.partition(":")
    if kind not in ("prune", "config", "shape") or not rest:
        raise EdgekitError(
            f"{where}: a student cannot be made of `{source[:60]}`",
            hint="write `prune:depth=0.5`, `config:FILE.json` or `shape:nano-0.6b`",
        )
    if kind == "prune":
        parse_prune(source)


def _made(kind: Any, table: Mapping[str, Any], readers: Mapping[str, keys.Reader], where: str) -> Any:
    """A dataclass of what the table holds. Raises EdgekitError for a field without default that it lacks."""
    found = keys.read(table, readers, where)
    for one in fields(kind):
        if one.default is MISSING and one.default_factory is MISSING:
            _require(found, one.name, where)
    return kind(**found)


def _require(found: Mapping[str, Any], key: str, where: str) -> None:
    if key not in found:
        raise EdgekitError(f"{where} lacks a key: `{key}`")


def _name(table: Mapping[str, Any], where: str, default: str) -> str:
    name = text_at(table, "name", where=where, default=default)
    if not re.fullmatch(keys.NAME, name):
        raise EdgekitError(f"`name` of {where} may hold letters, digits, `.`, `_`, `-`: `{name[:60]}`")
    return name


__all__ = [
    "Data",
    "DistillRecipe",
    "Exporting",
    "Gating",
    "Machines",
    "OnPolicy",
    "Stage",
    "Student",
    "Synthesizing",
    "Teacher",
    "Temperature",
    "load_recipe",
    "shipped",
    "with_student",
]
