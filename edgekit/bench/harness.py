"""EleutherAI's lm-evaluation-harness on the artifact that ships: its tasks and metrics, edgekit's runtime and ranges.

The harness is an extra (`edgekit[eval]`). It fetches the data of its published tasks from the Hugging Face hub by
itself, unless `HF_HUB_OFFLINE=1` or the hub is out of reach; tasks of one's own stand in a folder, with their data
beside them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partialmethod
from pathlib import Path
from typing import Any, Protocol

import edgekit
from edgekit import runtimes
from edgekit.bench.harness_figures import scores
from edgekit.bench.harness_tasks import check_tasks, sandboxed
from edgekit.bench.host import probe_host
from edgekit.bench.hub import offline_unless_reachable
from edgekit.errors import EdgekitError, import_extra
from edgekit.progress import Progress, silent
from edgekit.records import Artifact, Finding, HarnessRun, Settings
from edgekit.tables import nearest

EXTRA = "eval"
CONTEXT_TOKENS = 4096


class OpenAnswerer(Protocol):
    """`runtimes.open_answerer`, or a stand-in for it in tests."""

    def __call__(self, artifact: Path, settings: Settings) -> AbstractContextManager[runtimes.Answerer]: ...


def run_harness(
    artifact: Artifact,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    fewshot: int | None = None,
    include_path: Path | None = None,
    run_task_code: bool = False,
    settings: Settings | None = None,
    threads: int = 0,
    progress: Progress = silent,
    open_answerer: OpenAnswerer = runtimes.open_answerer,
) -> HarnessRun:
    """The harness's scores of `artifact` on `tasks`, each with a 90 % range over the items.

    `limit` items of each task are asked (`None`: all) after `fewshot` examples (`None`: as the task says).
    `include_path` is a folder of one's own task files; they are programs: what names Python code is refused, and
    templates run in Jinja's sandbox, unless `run_task_code`, which also allows published tasks that run the code a
    model wrote. `settings` are the artifact's (default: llama.cpp's own, a context of 4096 tokens); the context is no
    longer than it was trained on. Raises EdgekitError for unknown tasks, for tasks that the harness cannot load or
    that ask for sampling, and without the extra; WorkerDied for a process that dies.
    """
    if not tasks or (limit is not None and limit < 1):
        raise EdgekitError(f"a harness run needs tasks and at least one item: `{', '.join(tasks)}`, limit `{limit}`")
    import_extra("lm_eval", extra=EXTRA)
    settings = settings or Settings(context_tokens=CONTEXT_TOKENS)
    context = min(settings.context_tokens, artifact.header.context_train or settings.context_tokens)
    settings = replace(settings, context_tokens=context, threads=threads or settings.threads)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    strangers = include_path is not None and not run_task_code
    with _quiet(), sandboxed() if strangers else nullcontext(), offline_unless_reachable() as online:
        manager = _task_manager(tasks, include_path, run_task_code=run_task_code)
        with open_answerer(Path(artifact.path), settings) as answerer:
            from edgekit.bench.harness_model import EdgekitLM

            model = EdgekitLM(answerer, progress=progress)
            with _telling(tasks, online=online):
                found = _evaluate(model, tasks, manager, limit=limit, fewshot=fewshot, unsafe=run_task_code)
            findings = (*answerer.findings, *_doubts(artifact, model.broken))
            runtime = answerer.runtime
    return HarnessRun(
        edgekit_version=edgekit.__version__,
        harness_version=_harness_version(),
        model=Path(artifact.path).name,
        artifact_sha256=artifact.sha256,
        scores=tuple(scores(found, broken=bool(model.broken))),
        limit=limit,
        settings=settings,
        runtime=runtime,
        host=probe_host(),
        started_at=started_at,
        findings=findings,
    )


def _evaluate(
    model: Any, tasks: Sequence[str], manager: Any, *, limit: int | None, fewshot: int | None, unsafe: bool
) -> Any:
    """The harness's own results."""
    import lm_eval
    import numpy as np

    with np.errstate(all="ignore"):  # likelihoods of a broken artifact are minus infinity
        return lm_eval.simple_evaluate(
            model=model,
            tasks=list(tasks),
            num_fewshot=fewshot,
            limit=limit,
            task_manager=manager,
            bootstrap_iters=1000,
            torch_random_seed=None,
            confirm_run_unsafe_code=unsafe,
        )


@contextmanager
def _telling(tasks: Sequence[str], *, online: bool) -> Iterator[None]:
    """Whatever the harness raises becomes one line."""
    try:
        yield
    except EdgekitError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0][:200].rstrip(".")
        raise EdgekitError(
            f"lm-evaluation-harness stopped ({type(error).__name__}: {first}): `{', '.join(tasks)}`",
            hint="published tasks fetch their data from the Hugging Face hub, which "
            + (
                "did not give them"
                if online
                else "is out of reach (or `HF_HUB_OFFLINE` is set): run once where it is not"
            ),
        ) from error


def _doubts(artifact: Artifact, broken: int) -> Iterator[Finding]:
    if broken:
        message = f"the artifact is broken: {broken} answers met logits that are no numbers"
        yield Finding(level="warning", code="broken-logits", message=message, hint="was it converted rightly?")
    if artifact.header.stand_in:
        message = "stand-in weights are random numbers: these scores say nothing of a model"
        yield Finding(level="warning", code="stand-in-quality", message=message)


# ---- tasks --------------------------------------------------------------------------------------------------------


def _task_manager(tasks: Sequence[str], folder: Path | None, *, run_task_code: bool) -> Any:
    """The harness's index of tasks, of the published ones only where they are needed: reading those takes seconds."""
    from lm_eval.tasks import TaskManager

    if folder is not None:
        if not run_task_code:
            check_tasks(folder)
        own = TaskManager(include_path=str(folder), include_defaults=False)
        if set(tasks) <= set(own.all_tasks):
            return own
    manager = TaskManager(include_path=str(folder) if folder else None)
    unknown = next((task for task in tasks if task not in set(manager.all_tasks)), None)
    if unknown is not None:
        hint = nearest(unknown, manager.all_tasks)
        raise EdgekitError(
            f"lm-evaluation-harness has no such task: `{unknown[:80]}`",
            hint=hint if hint.startswith("did you mean") else "`lm-eval ls tasks` lists them",
        )
    return manager


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness and its libraries log, draw bars, and describe the machine (which asks git and pip of the user's
    folder, and takes seconds); edgekit does all that itself.
    """
    import datasets
    from lm_eval import evaluator
    from tqdm.std import tqdm

    logger, begin = logging.getLogger("lm_eval"), tqdm.__init__
    level, bars = logger.level, datasets.are_progress_bars_disabled()
    told = {name: getattr(evaluator, name) for name in ("add_env_info", "get_git_commit_hash")}
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    tqdm.__init__ = partialmethod(begin, disable=True)
    for name in told:
        setattr(evaluator, name, lambda *_: None)
    try:
        yield
    finally:
        for name, function in told.items():
            setattr(evaluator, name, function)
        tqdm.__init__ = begin
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


def _harness_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"lm_eval {version('lm_eval')}"
    except PackageNotFoundError:
        return "lm_eval"
