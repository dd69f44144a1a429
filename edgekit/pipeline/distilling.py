"""The walk up the stream: a recipe → its teacher and students, or what they would cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgekit import corpus
from edgekit.distill.recipe import DistillRecipe, OnPolicy, Synthesizing, load_recipe, with_student
from edgekit.distill.synthesis import Synthesis
from edgekit.errors import ExitCode, import_extra
from edgekit.progress import Progress, silent
from edgekit.records import Distillation, DistillPlan

EXIT_CODES = {"yes": ExitCode.PASS, "no": ExitCode.FAIL, "unknown": ExitCode.UNKNOWN}
"""Of a plan, by whether it fits the accelerators named."""


def open_recipe(name_or_path: str, *, student: str = "") -> DistillRecipe:
    """The recipe, with its student made of `student` where that is given. Raises EdgekitError."""
    recipe = load_recipe(name_or_path)
    return with_student(recipe, student) if student else recipe


def distill(
    recipe: DistillRecipe, out: Path, *, teacher: Path | None = None, progress: Progress = silent
) -> Distillation:
    """Train the recipe's students in the folder `out`, going on where an earlier run of it stopped. Raises EdgekitError
    as `distill.chain.distill_student` does, and before anything is trained where `foresee_distillation` does.
    """
    from edgekit.bench import probe_host

    for library in ("torch", "transformers", "accelerate", "safetensors", "tokenizers"):  # missed now, not in an hour
        import_extra(library, extra="distill")
    foresee_distillation(recipe, teacher=teacher)
    from edgekit.distill.chain import distill_student

    return distill_student(recipe, out, teacher=teacher, host=probe_host(), progress=progress)


def foresee_distillation(recipe: DistillRecipe, *, teacher: Path | None = None) -> DistillPlan:
    """What the same would cost and whether it fits; nothing is trained. Raises EdgekitError, for a bad line of the
    recipe's own files too.
    """
    from edgekit.distill.own_texts import check_texts
    from edgekit.distill.planning import plan_distillation

    check_texts(recipe.data, recipe.folder)
    for student in recipe.students:
        for stage in student.stages:
            if stage.kind == "task":
                _check_questions(stage.synthesis, recipe)
            if stage.on_policy is not None:
                _check_templates(stage.on_policy, recipe)
    return plan_distillation(recipe, teacher=teacher)


def _check_questions(synthesis: Synthesizing, recipe: DistillRecipe) -> None:
    """Refuse now what the stage would refuse of its own questions after hours of training."""
    from edgekit.distill.own_questions import asked
    from edgekit.distill.synthesis import check_synthesis, check_votes

    settings, questions = synthesis.asked, synthesis.questions(recipe.folder)
    check_synthesis(settings)
    if questions.prompts is None:
        _check_templates(settings, recipe)
    if questions.prompts is not None or questions.held_out:
        items, _ = asked(replace(settings, domains=settings.domains or corpus.DOMAINS), questions)
        check_votes(items, settings)


def _check_templates(asked: Synthesis | OnPolicy, recipe: DistillRecipe) -> None:
    """The data's templates, which a stage without its own takes, may be of other domains than its own."""
    from edgekit.distill.asking import questions_of

    questions_of(asked.domains or corpus.DOMAINS, asked.templates or recipe.data.templates, 1, recipe.seed, most=1)
