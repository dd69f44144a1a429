"""Task files of lm-evaluation-harness that strangers wrote: they are programs, and are read as if they were not.

A task file can name Python functions, classes, metrics and included files; its templates are Jinja, which reaches any
Python object. Nothing of that is run here unasked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.tables import read_file

MAX_FILES, MAX_BYTES = 2000, 2**20
_CODE_KEYS = ("class", "hf_evaluate", "custom_dataset", "unsafe_code", "use_prompt")
"""Keys that name Python code to run, here or from the hub."""

_ALLOW = "read it, and allow its code with `--run-task-code` where you trust it"


def check_tasks(folder: Path) -> None:
    """Raise EdgekitError for a folder without task files, and for task files that would run code of their own."""
    try:
        found = list(islice(folder.rglob("*.y*ml"), MAX_FILES + 1))
    except OSError as error:
        raise EdgekitError(f"cannot read tasks ({(error.strerror or 'unreadable').lower()}): `{folder}`") from None
    files = [path for path in sorted(found) if path.suffix in (".yaml", ".yml")]
    if not 0 < len(files) <= MAX_FILES:
        raise EdgekitError(
            f"a folder of tasks holds 1 to {MAX_FILES} YAML files, not {len(files)}: `{folder}`",
            hint="one file a task, as lm-evaluation-harness's task guide says",
        )
    root, waiting, seen = folder.resolve(), files, set[Path]()
    while waiting:
        path = waiting.pop()
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        waiting += [_within(root, path, name) for name in _included(path)]


def _included(path: Path) -> list[str]:
    """What the task file includes. Raises EdgekitError where it names code."""
    content = _load(path)
    included: list[str] = []
    for table in _tables(content):
        named = next((key for key in _CODE_KEYS if table.get(key)), None)
        if named is not None:
            raise EdgekitError(f"a task file names code to run (`{named}`): `{path}`", hint=_ALLOW)
        metric = table.get("metric")
        if isinstance(metric, str) and not _is_own_metric(metric):
            raise EdgekitError(
                f"a task file names a metric that is not the harness's own (`{metric[:60]}`): `{path}`", hint=_ALLOW
            )
        names = table.get("include", [])
        included += [str(name) for name in (names if isinstance(names, list) else [names])]
    return included


def _load(path: Path) -> Any:
    import yaml

    text = read_file(path, what="the task file", max_bytes=MAX_BYTES)
    try:
        return yaml.safe_load(text)  # knows no `!function`
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if b"!function" in text:
            raise EdgekitError(f"a task file names code to run (`!function`): `{path}`", hint=_ALLOW) from None
        reason = (str(error).splitlines() or ["not YAML"])[0][:160].rstrip(".")
        raise EdgekitError(f"the task file is not plain YAML ({reason}): `{path}`") from None


def _tables(content: Any) -> Iterator[dict[Any, Any]]:
    """Every table in `content`, each once: aliases can make a small file endless."""
    waiting, seen = [content], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or not isinstance(node, dict | list):
            continue
        seen.add(id(node))
        if isinstance(node, dict):
            yield node
        waiting += node.values() if isinstance(node, dict) else node


def _is_own_metric(name: str) -> bool:
    """Whether the harness has the metric itself; it loads every other one's code from the hub, or from a file."""
    import lm_eval.api.metrics  # noqa: F401  (fills the registry)
    from lm_eval.api.registry import metric_registry

    return name in metric_registry


def _within(root: Path, path: Path, name: str) -> Path:
    """The included file. Raises EdgekitError where it lies outside of the folder."""
    included = (path.parent / name).resolve()
    if not included.is_relative_to(root):
        raise EdgekitError(f"a task file includes one outside of its folder (`{name[:60]}`): `{path}`", hint=_ALLOW)
    return included


@contextmanager
def sandboxed() -> Iterator[None]:
    """Templates of task files run in Jinja's sandbox."""
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    plain = utils.env
    sandbox = SandboxedEnvironment(undefined=plain.undefined, keep_trailing_newline=True)
    sandbox.filters.update(plain.filters)
    utils.env = sandbox
    try:
        yield
    finally:
        utils.env = plain
