"""The verbs and where they are: one is built when it is called. Building all of them takes typer as long as everything
else that `edgekit --help` does.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from edgekit.errors import EdgekitError

VERBS: dict[str, tuple[str, str]] = {
    "bench": ("gating", "Measure MODEL here, project it, judge it and report."),
    "fit": ("gating", "Memory and speed on a device from the header alone."),
    "gate": ("gating", "Judge recorded evidence again, without the model."),
    "run": ("walking", "The whole walk: distil, make, measure, judge."),
    "distill": ("distilling", "Train students from a teacher, by a recipe."),
    "synthesize": ("synthesizing", "Have a teacher write training data."),
    "quantize": ("making", "Make GGUF and ONNX artifacts of a checkpoint."),
    "sweep": ("making", "Several precisions, judged for one device."),
    "evaluate": ("evaluating", "How good an artifact is: KLD, tasks, retention."),
    "parity": ("evaluating", "Hold two builds of one model against each other."),
    "harness": ("evaluating", "lm-evaluation-harness on an artifact."),
    "compare": ("comparing", "Is a new build slower or larger than the old one?"),
    "runner": ("runner", "Build a llama-bench for a device without Python."),
    "import": ("targets", "Evidence from a run of llama-bench or PocketPal."),
    "tune": ("tuning", "Find the settings that fit a device and decode fastest."),
    "audit": ("smaller", "Check claimed figures against physics."),
    "standin": ("smaller", "Write a model of true size with random weights."),
    "doctor": ("smaller", "What this machine can measure, and what it lacks."),
    "schema": ("smaller", "Print the JSON Schema of the report."),
    "devices": ("devices", "List, show, check and anchor device profiles."),
}
"""Verb → the module of `edgekit.cli` that holds its function, and a line of help. A group of verbs is that module's
`<verb>_app`.
"""


class Verbs(TyperGroup):
    """A group whose commands are `VERBS`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        if cmd_name not in self.commands:
            self.commands[cmd_name] = _build(cmd_name)
        return self.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, words) for verb, (_, words) in VERBS.items()])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in VERBS and not args[0].startswith("-"):
            near = get_close_matches(args[0], VERBS, n=1)
            hint = f"did you mean `{near[0]}`?" if near else "see `edgekit --help`"
            raise EdgekitError(f"no such command: `{args[0][:40]}`", hint=hint)
        return super().resolve_command(ctx, args)


def _build(verb: str) -> Any:
    where, words = VERBS[verb]
    module = import_module(f"edgekit.cli.{where}")
    group = getattr(module, f"{verb}_app", None)
    if group is not None:
        return typer.main.get_command(group)
    alone = typer.Typer(rich_markup_mode=None, add_completion=False)
    alone.command(verb, short_help=words)(getattr(module, verb))
    return typer.main.get_command(alone)
