"""Synthetic but realistic reports for the tests of the report formats."""

from __future__ import annotations

from dataclasses import replace

from edgekit import __version__
from edgekit.records import (
    Anchor,
    Artifact,
    Battery,
    Buffer,
    Case,
    Check,
    DepthPoint,
    EnergyReading,
    Estimate,
    Evidence,
    Figure,
    Finding,
    Header,
    Host,
    Measurement,
    MemoryBreakdown,
    MemoryPeak,
    Noise,
    Projection,
    Quality,
    Report,
    Runtime,
    Sample,
    ScoredChunk,
    Settings,
    TensorInfo,
    ThermalPoint,
    Unknown,
    Verdict,
    Waiver,
    Workload,
    exact,
)

SETTINGS = Settings(ubatch_tokens=128, threads=4)
HOSTILE = {
    "script": "<script>window.hacked=1</script>",
    "attribute": "\"'><img src=x onerror=window.hacked=1>",
    "cdata": "a]]>b<![CDATA[c",
    "override": "safe\u202egnp.exe\u2066x\u2069\u200b",
    "control": "a\x00b\x07c\x1b[31md\x9be\r\nf\x85g\ufffeh\ud800i",
    "long": "x" * 10_000,
    "markdown": "|cell| [link](http://evil.example) @everyone #1 `code` **bold** <b>tag</b>\n# heading",
    "template": "{{ 7*7 }} {% raw %} ${7*7}",
    "markup": "[bold red]rich[/] :bomb: [link=http://evil.example]x[/link]",
    "empty": "",
}


def header(name: str = "zen-nano-1.5b", *, stand_in: bool = False) -> Header:
    return Header(
        architecture="qwen2",
        name=name,
        quant="q4_0",
        sha256="5f" * 32,
        size_bytes=872_415_232,
        layers=28,
        hidden=1536,
        heads=(12,) * 28,
        kv_heads=(2,) * 28,
        key_dim=128,
        value_dim=128,
        ffn=(8960,) * 28,
        vocabulary=151_936,
        context_train=32_768,
        tied_embedding=True,
        stand_in=stand_in,
        tensors=(TensorInfo(name="token_embd.weight", type="q4_0", shape=(1536, 151_936), size_bytes=131_272_704),),
        metadata=(("general.name", name), ("general.license", "apache-2.0")),
    )


def artifact(
    name: str = "zen-nano-1.5b-q4_0.gguf", *, stand_in: bool = False, model: str = "zen-nano-1.5b"
) -> Artifact:
    return Artifact(path=f"/models/{name}", sha256="ab12" * 16, header=header(model, stand_in=stand_in))


def memory(scale: float = 1.0) -> MemoryBreakdown:
    working = 892e6 + 117e6 + 76e6 * scale + 23e6
    return MemoryBreakdown(
        isa="arm64+dotprod+i8mm",
        settings=SETTINGS,
        weights_bytes=872_000_000,
        repacked_bytes=850_000_000,
        dormant_bytes=830_000_000,
        kv_bytes=117_440_512,
        compute_bytes=int(76e6 * scale),
        output_bytes=620_000,
        runtime_bytes=23_000_000,
        unevictable=Estimate(
            value=working - 42e6, low=(working - 42e6) * 0.97, high=(working - 42e6) * 1.03, basis="predicted"
        ),
        working_set=Estimate(value=working, low=working * 0.97, high=working * 1.03, basis="predicted"),
        resident=Estimate(value=working + 830e6, low=working + 800e6, high=working + 860e6, basis="predicted"),
    )


def around(value: float, spread: float, basis: str = "projected") -> Estimate:
    return Estimate(value=value, low=value / spread, high=value * spread, basis=basis)  # type: ignore[arg-type]


def projection(device: str, decode: float) -> Projection:
    return Projection(
        device=device,
        bytes_per_token=8.72e8,
        decode=around(decode, 1.22),
        prefill=around(decode * 5.2, 1.6),
        sustained=around(decode * 0.58, 1.5),
        depths=tuple(
            DepthPoint(depth=depth, tokens_per_s=around(decode / (1 + depth / 6000), 1.22 + depth / 40_000))
            for depth in (0, 1024, 4096)
        ),
        bandwidth_bound=around(decode * 2.1, 1.001, "claimed"),
        method="nearest anchor scaled by bytes per token and the quant factors of 14 devices",
        anchors=("galaxy-s24-q4_0-4t", "oneplus-13-q4_0-6t"),
        devices_behind=14,
        calibrated=True,
    )


def battery(hours: float) -> Battery:
    return Battery(
        hours=around(hours, 1.9, "estimated"),
        at_tokens_per_s=around(18.0, 1.5),
        power_w=around(4.6, 1.7, "estimated"),
        joules_per_token=around(0.26, 1.8, "estimated"),
        usable_wh=around(15.2, 1.08, "claimed"),
    )


def decode_check(value: float, limit: float = 50.0, spread: float = 1.22) -> Check:
    figure = around(value, spread)
    status = "pass" if figure.low >= limit else "fail" if figure.high < limit else "unknown"
    reason = {
        "pass": "the whole range clears the limit",
        "fail": "the whole range misses the limit",
        "unknown": "the range straddles the limit and leans to fail"
        if value < limit
        else "the range straddles the limit",
    }[status]
    return Check(
        metric="decode_tokens_per_s",
        title="decode speed",
        unit="tok/s",
        operating_point="burst tg128 at depth 0",
        level="required",
        min=limit,
        max=None,
        figure=figure,
        status=status,  # type: ignore[arg-type]
        reason=reason,
        margin=value / limit - 1,
        physics="68.3 GB/s ÷ 0.872 GB per token = 78.3 tok/s at most; the kernels reach 41 % of it",
        remedy=""
        if status == "pass"
        else "a `nano-0.6b` student in `q4_0` would clear it; a draft model that accepts 1.9 tokens a step"
        + ("; to settle: run it on the device itself" if status == "unknown" else ""),
    )


def memory_check(breakdown: MemoryBreakdown, limit: float = 1.2e9) -> Check:
    figure = breakdown.working_set
    status = "pass" if figure.high <= limit else "fail" if figure.low > limit else "unknown"
    return Check(
        metric="working_set_bytes",
        title="working set",
        unit="bytes",
        operating_point="context 4096, ubatch 128, KV f16",
        level="required",
        min=None,
        max=limit,
        figure=figure,
        status=status,  # type: ignore[arg-type]
        reason={"pass": "the whole range stays below the limit"}.get(status, "the range reaches over the limit"),
        margin=1 - figure.value / limit,
        physics="weights alone take 0.87 GB",
        remedy="" if status == "pass" else "q8_0 KV saves 55 MB; ubatch 64 saves 38 MB",
    )


def battery_check(hours: float) -> Check:
    figure = around(hours, 1.9, "estimated")
    return Check(
        metric="battery_hours",
        title="battery, continuous",
        unit="h",
        operating_point="at the sustained speed of 18.0 tok/s",
        level="required",
        min=4.0,
        max=None,
        figure=figure,
        status="unknown",
        reason="the range straddles the limit and leans to fail",
        margin=hours / 4 - 1,
        physics="15.2 Wh ÷ 4.6 W = 3.3 h",
        remedy="to settle: `edgekit bench MODEL --device ./my-phone.toml --sustained 10m` on the device itself",
    )


def quality_check() -> Check:
    return Check(
        metric="quality_retention",
        title="quality retained",
        unit="fraction",
        operating_point="share of the teacher above chance, worst domain",
        level="required",
        min=0.8,
        max=None,
        figure=Unknown(
            reason="not measured: stand-in weights have no quality", settle="edgekit evaluate MODEL --reference TEACHER"
        ),
        status="unknown",
        reason="not measured: stand-in weights have no quality",
        remedy="to settle: edgekit evaluate MODEL --reference TEACHER",
    )


def sustained_check(value: float) -> Check:
    return replace(
        decode_check(value, 30.0, 1.5),
        metric="sustained_tokens_per_s",
        title="sustained decode",
        operating_point="after ten minutes",
        level="advisory",
        waiver=Waiver(metric="sustained_tokens_per_s", until="2027-01-31", reason="field trial, answers are short"),
    )


def _speeds(test: str, base: float, count: int, tokens: int, *, wobble: float = 0.012) -> tuple[Sample, ...]:
    samples = []
    for index in range(count):
        rate = base * (1 + wobble * (((index * 37) % 19) / 9 - 1) - (0.05 if index == 7 else 0))
        step = 1 / rate
        times = tuple(step * (1 + 0.04 * ((index + k) % 5 - 2)) for k in range(tokens)) if test.startswith("tg") else ()
        samples.append(
            Sample(
                test=test,
                process=index % 3,
                repetition=index,
                tokens=tokens,
                elapsed_s=tokens / rate,
                token_s=times,
                started_s=index * 2.0,
            )
        )
    return tuple(samples)


def _sustained(seconds: int = 600) -> tuple[Sample, ...]:
    samples = []
    for index in range(0, seconds, 10):
        rate = 101.0 if index < 90 else 101.0 - 36.0 * min(1.0, (index - 90) / 200) + (index % 30) / 20
        samples.append(
            Sample(
                test="sustained",
                process=9,
                repetition=index // 10,
                tokens=int(rate * 10),
                elapsed_s=10.0,
                started_s=200.0 + index,
            )
        )
    return tuple(samples)


def host() -> Host:
    return Host(
        system="Linux",
        release="6.8.0",
        machine="x86_64",
        cpu_model="AMD EPYC 9R14",
        isa="x86_64+avx512+vnni",
        physical_cores=4,
        logical_cores=4,
        ram_bytes=32 * 2**30,
        governor="performance",
        virtualized="kvm",
        power_source="mains",
    )


def measurement(*, sustained: bool = True, findings: tuple[Finding, ...] = ()) -> Measurement:
    samples = (
        *_speeds("pp512", 446.0, 12, 512),
        *_speeds("tg128", 102.0, 12, 128),
        *_speeds("tg16@d1024", 91.0, 10, 16),
        *_speeds("tg16@d4096", 71.0, 10, 16, wobble=0.03),
    )
    return Measurement(
        artifact_sha256="ab12" * 16,
        started_at="2026-11-22T01:00:00+00:00",
        host=host(),
        runtime=Runtime(
            name="llama.cpp",
            version="0.3.36",
            build="0c1e57098",
            backend="CPU_REPACK",
            cpu_features="AVX512 VNNI",
            threads=4,
            flash_attention=True,
            repacked_tensors=197,
            isolation="seccomp, landlock, rlimits",
        ),
        workload=Workload(settings=SETTINGS, sustained_s=600.0 if sustained else 0.0),
        samples=samples + (_sustained() if sustained else ()),
        load_s=(0.62, 0.59, 0.61),
        peaks=(
            MemoryPeak(
                process=0,
                baseline_bytes=61_000_000,
                unevictable_bytes=1_041_000_000,
                working_set_bytes=1_083_000_000,
                working_set_method="anonymous + mapped pages still referenced",
                rss_bytes=1_914_000_000,
                hwm_bytes=1_920_000_000,
                read_bytes_per_token=0.0,
            ),
        ),
        buffers=(
            Buffer(name="CPU_Mapped", role="weights", size_bytes=872_000_000, mapped=True),
            Buffer(name="CPU_REPACK", role="repacked", size_bytes=850_000_000),
            Buffer(name="CPU KV", role="kv", size_bytes=117_440_512),
            Buffer(name="CPU compute", role="compute", size_bytes=76_000_000),
            Buffer(name="CPU output", role="output", size_bytes=620_000),
        ),
        energy=(
            EnergyReading(
                scope="package", counter="intel-rapl:0", test="tg128", joules=410.0, elapsed_s=15.0, tokens=1536
            ),
        ),
        thermal=tuple(
            ThermalPoint(at_s=float(s), frequency_mhz=3700 - 2 * s, temperature_c=52 + s / 20)
            for s in range(0, 600, 60)
        ),
        noise=Noise(others_cpu_before=0.01, others_cpu_during=0.03, pressure_some_during=0.002),
        findings=findings,
    )


def case(device: str, title: str, decode: float, breakdown: MemoryBreakdown | Unknown | None = None) -> Case:
    return Case(
        device=device,
        device_title=title,
        device_sha256="cd" * 32,
        settings=SETTINGS,
        memory=breakdown or memory(),
        projection=projection(device, decode),
        battery=battery(3.3),
    )


def device_verdict(device: str, title: str, checks: tuple[Check, ...]) -> Verdict:
    statuses = [check.status for check in checks if check.level == "required"]
    status = "fail" if "fail" in statuses else "unknown" if "unknown" in statuses or not statuses else "pass"
    missed = [check.title for check in checks if check.status == status and check.level == "required"]
    reason = {
        "pass": "every required check clears its limit over its whole range",
        "fail": f"misses its limit: {', '.join(missed)}",
        "unknown": f"cannot be said from the evidence at hand: {', '.join(missed)}",
    }[status]
    return Verdict(
        device=device,
        device_title=title,
        status=status,  # type: ignore[arg-type]
        reason=reason,
        checks=checks,
        gates_sha256="ef" * 32,
        gates_origin="devices/smartphone.toml",
    )


def _report(evidence: Evidence, verdict: Verdict, code: int | None = None) -> Report:
    meaning = {"pass": 0, "fail": 1, "unknown": 3}
    return Report(evidence=evidence, verdicts=(verdict,), exit_code=meaning[verdict.status] if code is None else code)


def evidence(*cases: Case, measured: Measurement | None = None, stand_in: bool = False) -> Evidence:
    return Evidence(
        edgekit_version="0.1.0",
        created_at="2026-11-22T01:05:00+00:00",
        artifact=artifact(stand_in=stand_in),
        cases=cases,
        measurement=measured,
    )


def passing() -> Report:
    one = case("oneplus-13", "OnePlus 13", 66.0)
    checks = (decode_check(66.0), memory_check(memory()))
    return _report(evidence(one, measured=measurement()), device_verdict("oneplus-13", "OnePlus 13", checks))


def failing() -> Report:
    one = case("galaxy-s24", "Galaxy S24", 31.2)
    checks = (decode_check(31.2), memory_check(memory(4.0)), battery_check(3.3), quality_check(), sustained_check(18.0))
    return _report(evidence(one, measured=measurement()), device_verdict("galaxy-s24", "Galaxy S24", checks))


def quality(
    kld: float, *, chunks: int = 24, text: str = "corpus: evaluation, seed 1", sha: str = "ab12" * 16
) -> Quality:
    """A quality record as `evaluate` makes it, from raw chunks whose mean KLD is about `kld` nats a token."""
    from edgekit.bench import text_figures

    scored = tuple(
        ScoredChunk(
            tokens=256,
            nll=256 * (2.31 + 0.05 * ((n * 7) % 11 - 5) / 5 + kld / 2 * (1 + (n * 5) % 13 / 13)),
            reference_nll=256 * (2.31 + 0.05 * ((n * 7) % 11 - 5) / 5),
            kld=256 * kld * (1 + 0.4 * ((n * 37) % 19 - 9) / 9),
            top1=round(256 * (1 - min(0.9, 2.2 * kld**0.6)) - n % 3),
        )
        for n in range(chunks)
    )
    runtime = measurement(sustained=False).runtime
    return Quality(
        reference="zen-nano-1.5b-f16.gguf",
        perplexity=text_figures.perplexity(scored),
        kld_mean=text_figures.kld_mean(scored),
        top1_agreement=text_figures.top1_agreement(scored),
        reference_perplexity=text_figures.reference_perplexity(scored),
        perplexity_ratio=text_figures.perplexity_ratio(scored),
        chunks=scored,
        context_tokens=512,
        text_tokens=chunks * 512 + 77,
        text_sha256="7e" * 32,
        text_origin=text,
        artifact_sha256=sha,
        reference_sha256="f1" * 32,
        reference_quant="f16",
        edgekit_version=__version__,
        settings=SETTINGS,
        runtime=runtime,
        reference_runtime=runtime,
        host=host(),
        started_at="2026-11-22T01:10:00+00:00",
        findings=(Finding(level="note", code="few-chunks", message="24 chunks of text are few"),),
    )


def judged_for_quality() -> Report:
    """Quality among the evidence and among the gates."""
    base, found = passing(), quality(0.0123)
    check = replace(
        quality_check(),
        metric="kld_mean",
        title="mean KL divergence",
        unit="nat",
        operating_point="against the reference's own distribution",
        min=None,
        max=0.02,
        figure=found.kld_mean,
        status="pass",
        reason="the whole range stays below the limit",
        margin=0.385,
        remedy="",
    )
    verdict = device_verdict("oneplus-13", "OnePlus 13", (*base.verdicts[0].checks, check))
    return _report(replace(base.evidence, quality=found), verdict)


def judged_for_tasks() -> Report:
    """Everything that quality can be, and gates on most of it: an overall pass with a cliff."""
    from quality_records import full

    base, found = passing(), full()
    assert found.tasks is not None
    domains = {score.domain: score.retention for score in found.tasks.domains}
    checks = (
        _share_check("quality_retention", "quality retained", found.tasks.overall.retention, 0.7),
        _share_check("retention_coding", "quality retained in coding", domains["coding"], 0.6),
        _share_check("retention_factual", "quality retained in facts", domains["factual"], 0.9, "advisory"),
        replace(
            _share_check("kld_p99", "99th percentile of KL divergence", found.kld_p99, 0.2),
            unit="nat",
            min=None,
            max=0.2,
        ),
    )
    verdict = device_verdict("oneplus-13", "OnePlus 13", (*base.verdicts[0].checks, *checks))
    return _report(replace(base.evidence, quality=found), verdict)


def judged_in_trouble() -> Report:
    """A lost chat template, claims to be another's model, a cliff, and retention that is unknown in one domain."""
    from quality_records import troubled

    base, found = passing(), troubled()
    assert found.tasks is not None
    check = _share_check("quality_retention", "quality retained", found.tasks.overall.retention, 0.8)
    verdict = device_verdict("oneplus-13", "OnePlus 13", (*base.verdicts[0].checks, check))
    return _report(replace(base.evidence, quality=found), verdict)


def _share_check(metric: str, title: str, figure: Figure, limit: float, level: str = "required") -> Check:
    assert isinstance(figure, Estimate)
    status = "pass" if figure.low >= limit else "fail" if figure.high < limit else "unknown"
    if metric.startswith("kld"):
        status = "pass" if figure.high <= limit else "unknown"
    return replace(
        quality_check(),
        metric=metric,
        title=title,
        operating_point="on the same items as the teacher",
        level=level,  # type: ignore[arg-type]
        min=limit,
        figure=figure,
        status=status,  # type: ignore[arg-type]
        reason=f"{figure.low:.3f} to {figure.high:.3f} (measured-here), {limit} asked",
        margin=figure.value / limit - 1,
        remedy="",
    )


def unknown() -> Report:
    """From the header alone (`fit`): nothing was run."""
    one = case("pixel-8", "Pixel 8", 48.0, Unknown(reason="the memory predictor does not know this architecture"))
    checks = (decode_check(48.0), quality_check())
    return _report(evidence(one, stand_in=True), device_verdict("pixel-8", "Pixel 8", checks))


MEMBERS = (
    ("galaxy-s25-ultra", "Galaxy S25 Ultra", 71.0, 3.9),
    ("oneplus-13", "OnePlus 13", 66.0, 4.4),
    ("iphone-16-pro", "iPhone 16 Pro", 58.0, 2.9),
    ("galaxy-s24", "Galaxy S24", 47.0, 3.3),
    ("pixel-9-pro", "Pixel 9 Pro", 33.0, 3.6),
    ("poco-x6", "POCO X6", 24.0, 4.0),
    ("redmi-note-13", "Redmi Note 13", 14.5, 5.1),
)


def phone_class(*, stand_in: bool = True) -> Report:
    members = tuple(
        device_verdict(
            device, title, (decode_check(speed), memory_check(memory()), battery_check(hours), quality_check())
        )
        for device, title, speed, hours in MEMBERS
    )
    verdict = Verdict(
        device="smartphone",
        device_title="Smartphone, 8 GB",
        status="unknown",
        reason="3 of 7 devices fail, none passes every required check: galaxy-s25-ultra lacks quality and battery",
        members=members,
        population="Android and iOS phones with 8 GB of RAM sold 2023–2026",
        gates_sha256="ef" * 32,
        gates_origin="devices/smartphone.toml",
    )
    cases = tuple(case(device, title, speed) for device, title, speed, _ in MEMBERS)
    return _report(evidence(*cases, measured=measurement(), stand_in=stand_in), verdict)


def broken() -> Report:
    fault = Finding(
        level="fault",
        code="worker-killed",
        message="the worker was killed by the kernel for memory while loading `blk.17.ffn_up.weight`",
        hint="choose a smaller quant or turn repacking off with `--no-repack`",
    )
    died = replace(
        measurement(sustained=False, findings=(fault,)), samples=(), runtime=None, peaks=(), buffers=(), noise=None
    )
    one = case("galaxy-s24", "Galaxy S24", 31.2)
    return _report(evidence(one, measured=died), device_verdict("galaxy-s24", "Galaxy S24", (decode_check(31.2),)), 4)


def hostile(text: str) -> Report:
    """`text` wherever an outsider's words can reach: model name, path, device, reasons, findings, circumstances."""
    base = phone_class(stand_in=False)
    check = replace(
        quality_check(), title=text, reason=text, operating_point=text, remedy=text, physics=text, unit=text
    )
    known = replace(
        decode_check(31.0), title=text, reason=text, unit=text, waiver=Waiver(metric="m", until=text, reason=text)
    )
    member = replace(
        base.verdicts[0].members[0],
        device=text,
        device_title=text,
        reason=text,
        checks=(check, known),
        gates_origin=text,
    )
    bad = replace(
        base.evidence.artifact,
        path=f"/models/{text}",
        header=replace(
            base.evidence.artifact.header, name=text, architecture=text, quant=text, metadata=((text, text),)
        ),
    )
    assert base.evidence.measurement is not None
    runtime = replace(base.evidence.measurement.runtime, backend=text, build=text)  # type: ignore[type-var]
    measured = replace(
        base.evidence.measurement,
        findings=(Finding(level="warning", code=text, message=text, hint=text),),
        runtime=runtime,
        samples=tuple(replace(sample, test=text) for sample in base.evidence.measurement.samples),
        buffers=(Buffer(name=text, role="other", size_bytes=1),),
        energy_unknown=text,
        host=replace(base.evidence.measurement.host, cpu_model=text),
        started_at=text,
    )
    cases = tuple(replace(one, device_title=text, device=text) for one in base.evidence.cases[:1])
    judged = quality(0.01)
    from lineage_records import hostile_lineage
    from quality_records import hostile_quality

    scored = replace(
        hostile_quality(text, judged),
        reference=text,
        text_origin=text,
        text_sha256=text,
        runtime=runtime,
        host=measured.host,
        started_at=text,
        kld_mean=Unknown(reason=text, settle=text),
        findings=(Finding(level="warning", code=text, message=text, hint=text),),
    )
    found = replace(
        base.evidence,
        artifact=bad,
        measurement=measured,
        cases=cases,
        quality=scored,
        lineage=hostile_lineage(text),
        edgekit_version=text,
        created_at=text,
    )
    verdict = replace(base.verdicts[0], device_title=text, device=text, reason=text, population=text, members=(member,))
    return Report(evidence=found, verdicts=(verdict, member), exit_code=3)


def _distilled() -> Report:
    from lineage_records import distilled

    return distilled()


REPORTS = {
    "pass": passing,
    "fail": failing,
    "unknown": unknown,
    "class": phone_class,
    "broken": broken,
    "quality": judged_for_quality,
    "tasks": judged_for_tasks,
    "trouble": judged_in_trouble,
    "distilled": _distilled,
}

__all__ = ["HOSTILE", "REPORTS", "Anchor", "exact"]
