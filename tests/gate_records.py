"""Small consistent records for the tests of the gate: a q4_0 student on a phone that passes everything."""

from __future__ import annotations

import math
from dataclasses import replace

from edgekit.records import (
    Artifact,
    Battery,
    Case,
    DepthPoint,
    Device,
    Estimate,
    Evidence,
    Figure,
    Gate,
    Gates,
    Header,
    Host,
    Measurement,
    MemoryBreakdown,
    MemoryPeak,
    Noise,
    Projection,
    Quality,
    Runtime,
    Sample,
    ScoredChunk,
    Settings,
    Sourced,
    TensorInfo,
    Unknown,
    Workload,
    exact,
)

ISA = "arm64+dotprod+i8mm"
HOST_ISA = "x86_64+avx2"
SETTINGS = Settings(threads=4)
SHA = "ab" * 32


def projected(low: float, value: float, high: float) -> Estimate:
    return Estimate(low=low, value=value, high=high, basis="projected")


def predicted(low: float, value: float, high: float) -> Estimate:
    return Estimate(low=low, value=value, high=high, basis="predicted")


HEADER = Header(
    architecture="qwen2",
    name="student",
    quant="q4_0",
    sha256="cd" * 32,
    size_bytes=900_000_000,
    layers=2,
    hidden=256,
    heads=(4, 4),
    kv_heads=(2, 2),
    key_dim=64,
    value_dim=64,
    ffn=(512, 512),
    vocabulary=1000,
    context_train=8192,
    tied_embedding=True,
    tensors=(TensorInfo(name="token_embd.weight", type="q4_0", shape=(256, 1000), size_bytes=144_000),),
)


PLAIN = replace(
    HEADER,
    quant="f16",
    tensors=(TensorInfo(name="token_embd.weight", type="f16", shape=(256, 1000), size_bytes=512_000),),
)


def gates(*lines: Gate, waivers: tuple = ()) -> Gates:
    return Gates(gates=lines, waivers=waivers, origin="test", sha256="9a" * 32)


MEMORY = Gate(metric="memory_bytes", max=1.2e9)
DECODE = Gate(metric="decode_tokens_per_s", min=50)
BATTERY = Gate(metric="battery_h", min=4)
RETENTION = Gate(metric="quality_retention", min=0.8)


def phone(name: str = "phone", **changes: object) -> Device:
    return replace(
        Device(
            name=name,
            title=name.title(),
            tier="device",
            device_class="smartphone",
            isa=ISA,
            ram_bytes=Sourced(value=8e9, source="test"),
            process_share=Sourced(value=0.5, source="test"),
            bandwidth_bytes_per_s=Sourced(value=70e9, source="a test sheet"),
            battery_wh=Sourced(value=20, source="test"),
            battery_usable=Sourced(value=0.85, low=0.8, high=0.9, source="test"),
            idle_power_w=Sourced(value=1, low=0.5, high=1.5, source="test"),
            sustained_power_w=Sourced(value=3.5, low=3, high=4, source="test"),
            settings=SETTINGS,
            gates=gates(MEMORY, DECODE),
            origin="test",
            sha256=f"{name}-sha",
        ),
        **changes,
    )


def memory(working_set: Figure | None = None, **changes: object) -> MemoryBreakdown:
    return replace(
        MemoryBreakdown(
            isa=ISA,
            settings=SETTINGS,
            weights_bytes=900_000_000,
            repacked_bytes=0,
            dormant_bytes=0,
            kv_bytes=100_000_000,
            compute_bytes=60_000_000,
            output_bytes=1_000_000,
            runtime_bytes=5_000_000,
            unevictable=predicted(1.6e8, 1.7e8, 1.8e8),
            working_set=working_set or predicted(1.05e9, 1.07e9, 1.09e9),
            resident=predicted(1.05e9, 1.07e9, 1.09e9),
        ),
        **changes,
    )


def projection(decode: Figure | None = None, **changes: object) -> Projection:
    return replace(
        Projection(
            device="phone",
            bytes_per_token=0.9e9,
            decode=decode or projected(55, 60, 66),
            prefill=projected(200, 256, 300),
            sustained=projected(30, 35, 40),
            depths=(DepthPoint(depth=1024, tokens_per_s=projected(50, 54, 60)),),
            bandwidth_bound=exact(70e9 / 0.9e9, "claimed"),
            devices_behind=12,
            calibrated=True,
        ),
        **changes,
    )


def battery(hours: Figure | None = None) -> Battery:
    return Battery(
        hours=hours or Estimate(low=4.5, value=5, high=6, basis="estimated"),
        at_tokens_per_s=projected(30, 35, 40),
        power_w=Estimate(low=3, value=3.5, high=4, basis="estimated"),
        joules_per_token=Estimate(low=0.08, value=0.1, high=0.12, basis="estimated"),
        usable_wh=Estimate(low=16, value=17, high=18, basis="estimated"),
    )


def case(device: Device | None = None, **changes: object) -> Case:
    device = device or phone()
    made = replace(
        Case(
            device=device.name,
            device_title=device.title,
            device_sha256=device.sha256,
            settings=SETTINGS,
            memory=memory(),
            projection=projection(),
            battery=battery(),
        ),
        **changes,
    )
    if not isinstance(made.projection, Projection):
        return made
    return replace(made, projection=replace(made.projection, device=made.device))


def evidence(*cases: Case, **changes: object) -> Evidence:
    return replace(
        Evidence(
            edgekit_version="0",
            created_at="2026-11-01T00:00:00+00:00",
            artifact=Artifact(path="student.gguf", sha256=SHA, header=HEADER),
            cases=cases or (case(),),
        ),
        **changes,
    )


def host(isa: str = HOST_ISA, ram_bytes: int = 8_000_000_000) -> Host:
    return Host(
        system="Linux",
        release="6",
        machine="x",
        cpu_model="x",
        isa=isa,
        physical_cores=4,
        logical_cores=4,
        ram_bytes=ram_bytes,
    )


def samples(test: str, tokens: int, rate: float) -> tuple[Sample, ...]:
    return tuple(
        Sample(test=test, process=i % 3, repetition=i, tokens=tokens, elapsed_s=tokens / rate * (1 + i / 1000))
        for i in range(12)
    )


def measurement(**changes: object) -> Measurement:
    """Taken on an x86 host unless `on_phone` changes it."""
    return replace(
        Measurement(
            artifact_sha256=SHA,
            started_at="2026-11-01T00:00:00+00:00",
            host=host(),
            runtime=Runtime(name="llama.cpp", version="x", build="x", backend="cpu", cpu_features="", threads=4),
            workload=Workload(settings=replace(SETTINGS, threads=0)),
            samples=samples("tg128", 128, 60) + samples("pp512", 512, 250),
            load_s=(0.5, 0.6, 0.7),
            noise=Noise(others_cpu_before=0.0, others_cpu_during=0.0, pressure_some_during=0.0),
        ),
        **changes,
    )


def on_phone(**changes: object) -> Measurement:
    return measurement(**{"host": host(ISA), "on_device": "phone", "peaks": (peak(1.1e9),), **changes})


def peak(working_set: float, unevictable: float = 1.7e8) -> MemoryPeak:
    return MemoryPeak(
        process=0, baseline_bytes=0, unevictable_bytes=int(unevictable), working_set_bytes=int(working_set)
    )


TOKENS = 1000
CHUNKS = 20


def quality(kld: Figure, **figures: Figure) -> Quality:
    """A record whose chunks are all alike and give the values of its figures."""
    unknown = Unknown(reason="not measured")
    made = Quality(
        reference="teacher",
        reference_quant="f16",
        perplexity=unknown,
        kld_mean=kld,
        top1_agreement=unknown,
        artifact_sha256=SHA,
        text_origin="a.txt",
        text_sha256="7e" * 32,
        context_tokens=2 * TOKENS,
    )
    made = replace(made, **figures)
    return replace(made, chunks=(_chunk(made),) * CHUNKS)


def _chunk(of: Quality) -> ScoredChunk:
    def value(figure: Figure, otherwise: float = 0.0) -> float:
        return figure.value if isinstance(figure, Estimate) else otherwise

    token = value(of.kld_p99, value(of.kld_median, value(of.kld_mean)))
    reference_nll = TOKENS * math.log(value(of.perplexity, 9.0) / value(of.perplexity_ratio, 1.0))
    return ScoredChunk(
        tokens=TOKENS,
        nll=TOKENS * math.log(value(of.perplexity, 9.0)),
        reference_nll=reference_nll,
        kld=TOKENS * value(of.kld_mean),
        top1=round(TOKENS * value(of.top1_agreement)),
        top5=round(TOKENS * value(of.top5_agreement)),
        dp2=TOKENS * value(of.dp_rms) ** 2,
        token_kld=(token,) * TOKENS,
    )
