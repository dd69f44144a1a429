"""Which processes run which tests: the whole run is planned before it starts, so that it can be shown and timed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgekit.records import Finding, Header, Settings, Workload
from edgekit.runtimes.protocol import Step
from edgekit.summary import SUSTAINED

PRESETS: dict[str, Workload] = {
    "default": Workload(),
    "quick": Workload(prompt_tokens=(128,), generated_tokens=(32,), depths=(), repetitions_max=10),
    "thorough": Workload(prompt_tokens=(128, 512, 2048), depths=(1024, 2048, 4096, 8192, 16384)),
}

WARMUP_PROMPT, WARMUP_TOKENS = 128, 8
"""A shorter prompt touches every weight and most of the buffers; the page faults it leaves to the first timed `pp512`
are 0.3 % of it (counted: 3500 on 0.6B), and a whole one in each of three processes is a tenth of the default run.
"""

EXTRA_REPETITIONS = 10
"""Repetitions an adaptive process adds to each unsettled test: a load is paid once for ten of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessPlan:
    """One fresh worker process. Only `judged` ones run every test under exactly the judged settings, so only their
    memory peaks and load times count: one without prefill never touches the buffers that prefill needs.
    """

    settings: Settings
    steps: tuple[Step, ...]
    judged: bool = True
    duration_s: float = 0.0
    """Of the sustained step, which is allowed on top of the time-out."""

    @property
    def repetitions(self) -> int:
        return sum(step.repetitions for step in self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The processes that always run, in order, and what was left out of the workload, with reasons.

    `main` holds the repetitions at depth 0 and may be followed by adaptive ones (`extra_process`); `after` holds
    depths that need a larger context and the sustained run.
    """

    main: tuple[ProcessPlan, ...]
    after: tuple[ProcessPlan, ...]
    notes: tuple[Finding, ...]


def plan_run(workload: Workload, header: Header) -> Plan:
    """The processes for `workload` on the model of `header`, bounded by the judged and the trained context."""
    tests, notes = _tests_that_fit(workload)
    depths, depth_notes = _depths_that_fit(workload, header)
    deepest = max(depths, default=0) + workload.depth_generated_tokens
    apart = deepest > workload.settings.context_tokens
    depth_steps = tuple(step for depth in depths for step in _depth_steps(workload, depth))
    shares = split(workload.repetitions_min, workload.processes)
    main = [_speed_process(workload, tests, share) for share in shares]
    after = []
    if depths and apart:
        # filled once from shallow to deep; a process of its own keeps the judged memory peaks at the judged context
        larger = replace(workload.settings, context_tokens=-(-deepest // 256) * 256)
        after.append(ProcessPlan(settings=larger, steps=depth_steps, judged=False))
        depth_notes += (_note("larger-context", f"depths ran in a context of {larger.context_tokens} tokens", ""),)
    elif depths:
        main[-1] = replace(main[-1], steps=main[-1].steps + depth_steps)
    if workload.sustained_s > 0:
        after.append(_sustained_process(workload))
    return Plan(main=tuple(main), after=tuple(after), notes=notes + depth_notes)


def extra_process(workload: Workload, tests: dict[str, int]) -> ProcessPlan:
    """A further process for the unsettled `tests` (name → repetitions to add)."""
    known, _ = _tests_that_fit(workload)
    steps = tuple(step for test in known if test.test in tests for step in _with_warmup(test, tests[test.test]))
    return ProcessPlan(settings=workload.settings, steps=steps, judged=False)


def split(total: int, parts: int) -> list[int]:
    """`total` in at most `parts` shares that differ by one at most, larger first: 10 in 3 is 4, 3, 3."""
    parts = max(1, min(parts, total))
    return [total // parts + (part < total % parts) for part in range(parts)]


def _tests_that_fit(workload: Workload) -> tuple[tuple[Step, ...], tuple[Finding, ...]]:
    """One step per test at depth 0; those longer than the judged context are left out with a note."""
    prompts = [Step(test=f"pp{count}", prompt=count) for count in workload.prompt_tokens]
    steps = prompts + [Step(test=f"tg{count}", generate=count) for count in workload.generated_tokens]
    context = workload.settings.context_tokens
    notes = tuple(
        _note("test-left-out", f"`{step.test}` does not fit into the judged context of {context} tokens", "--context")
        for step in steps
        if step.prompt + step.generate > context
    )
    return tuple(step for step in steps if step.prompt + step.generate <= context), notes


def _depths_that_fit(workload: Workload, header: Header) -> tuple[tuple[int, ...], tuple[Finding, ...]]:
    """Depths within the context the model was trained for; beyond it the figure would describe no use."""
    limit = header.context_train
    fits = tuple(
        depth for depth in sorted(set(workload.depths)) if not limit or depth + workload.depth_generated_tokens <= limit
    )
    left = [str(depth) for depth in workload.depths if depth not in fits]
    message = f"depth {', '.join(left)} is beyond the model's training context of {limit} tokens"
    return fits, (_note("depth-left-out", message, ""),) if left else ()


def _note(code: str, message: str, hint: str) -> Finding:
    return Finding(level="note", code=code, message=message, hint=hint)


def _speed_process(workload: Workload, tests: tuple[Step, ...], repetitions: int) -> ProcessPlan:
    ubatch = _untested_ubatch(workload)
    steps = tuple(step for test in tests for step in _with_warmup(test, repetitions, ubatch))
    return ProcessPlan(settings=workload.settings, steps=steps)


def _with_warmup(test: Step, repetitions: int, ubatch: int = 0) -> tuple[Step, Step]:
    """Warm-up, then the timed repetitions. `ubatch` makes a prefill warm up on that many tokens."""
    prompt = min(test.prompt, WARMUP_PROMPT) if not ubatch else ubatch if test.prompt else 0
    warmup = replace(test, prompt=prompt, generate=min(test.generate, WARMUP_TOKENS), warmup=True)
    return warmup, replace(test, repetitions=repetitions)


def _untested_ubatch(workload: Workload) -> int:
    """The ubatch, where no test prefills a whole one: the judged peak must hold a full compute buffer. Else 0."""
    settings = workload.settings
    ubatch = min(settings.ubatch_tokens, settings.batch_tokens, settings.context_tokens)
    return ubatch if max(workload.prompt_tokens, default=0) < ubatch else 0


def _depth_steps(workload: Workload, depth: int) -> tuple[Step, Step]:
    count = workload.depth_generated_tokens
    timed = Step(test=f"tg{count}@d{depth}", generate=count, depth=depth, repetitions=workload.depth_repetitions)
    return replace(timed, generate=1, repetitions=1, warmup=True), timed


def _sustained_process(workload: Workload) -> ProcessPlan:
    """Decode without a pause, rewound after every `tg` length so that the curve shows heat and not depth."""
    cycle = min(max(workload.generated_tokens, default=128), workload.settings.context_tokens)
    step = Step(test=SUSTAINED, generate=cycle, duration_s=workload.sustained_s)
    return ProcessPlan(settings=workload.settings, steps=(step,), judged=False, duration_s=workload.sustained_s)
