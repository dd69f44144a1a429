"""Is edgekit's conversion as fast as llama.cpp's `convert_hf_to_gguf.py`, in half the memory, with the same weights?

    python benchmarks/convert.py --peer LLAMA_CPP/convert_hf_to_gguf.py [--type f16] [--pairs 5] [--layers 22]

A checkpoint of TinyLlama's shape (1.1 billion parameters, bf16, random weights, two shards) with a SentencePiece
tokenizer, the one kind that the peer takes from a model it does not know. Fresh processes in turn, every other pair in
the other order; wall time from start to exit and peak resident memory as the kernel counts it (`wait4`). edgekit's time
includes the SHA-256 of the checkpoint, which the peer does not take. The figure is the geometric mean of edgekit ÷ peer
with its 95 % t-interval. Wanted: wall at most 1.0, memory at most 0.5, every tensor the same byte for byte. Writes
`results/convert.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from peer import circumstances, write_result
from scipy.stats import t

from edgekit import corpus
from edgekit.bench.noise import others_share, read_counters
from edgekit.distill.tokenizing import write_tokenizer
from edgekit.header.container import Container, parse

RESULTS = Path(__file__).parent / "results" / "convert.json"
WALL, MEMORY = 1.0, 0.5
HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 2048, 5632, 32, 4, 64, 32_000
SHARDS, NOISE_VALUES = 2, 2**24

_CONVERT = """
import sys
from pathlib import Path
from edgekit.checkpoint import open_checkpoint
from edgekit.quantize.convert import convert
folder, out, kind = sys.argv[1:]
convert(open_checkpoint(Path(folder)), Path(out), type=kind, force=True)
"""


_LAUNCH = """
import json, os, sys, time
started = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
spent = time.perf_counter() - started
print(json.dumps({"wall_s": spent, "maxrss": usage.ru_maxrss, "code": os.waitstatus_to_exitcode(status)}))
"""
"""A small process between: the kernel counts what a child was before its `exec`, which is this benchmark."""


def shapes(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a llama's weights as transformers saves them."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(layers):
        for part, shape in {
            "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
            "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
            "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
            "mlp.gate_proj": (FFN, HIDDEN),
            "mlp.up_proj": (FFN, HIDDEN),
            "mlp.down_proj": (HIDDEN, FFN),
        }.items():
            yield f"model.layers.{layer}.{part}.weight", shape
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def write_checkpoint(folder: Path, layers: int) -> None:
    """Random bf16 weights: cuts of one block of noise, so that a checkpoint of gigabytes takes seconds."""
    write_tokenizer("llama2", corpus.text("train", characters=1_000_000), 8192, folder)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    generator = np.random.default_rng(1)
    noise = generator.normal(0, 0.02, NOISE_VALUES).astype(np.float32)
    block = (noise.view(np.uint32) >> 16).astype(np.uint16)
    every = list(shapes(layers))
    placed: dict[str, str] = {}
    for number in range(SHARDS):
        name = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        part = dict(every[number * len(every) // SHARDS : (number + 1) * len(every) // SHARDS])
        write_shard(folder / name, part, block, generator)
        placed |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def write_shard(path: Path, part: Mapping[str, tuple[int, ...]], block: Any, generator: Any) -> None:
    header, at = {}, 0
    for name, shape in part.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in part.values():
            missing, start = math.prod(shape), int(generator.integers(0, NOISE_VALUES // 2))
            while missing:
                cut = block[start : start + missing]
                file.write(cut.tobytes())
                missing, start = missing - len(cut), 0


def run(command: list[object], out: Path) -> dict[str, float]:
    """Wall seconds and peak resident bytes of a process; raises SystemExit with its last words when it fails."""
    out.unlink(missing_ok=True)
    launcher = [sys.executable, "-S", "-c", _LAUNCH, *(str(part) for part in command)]
    done = subprocess.run(launcher, capture_output=True, text=True, check=False)
    told = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"code": done.returncode}
    if told["code"] or not out.is_file():
        raise SystemExit(f"{command[1]} died ({told['code']}):\n{done.stderr[-3000:]}")
    return {"wall_s": told["wall_s"], "peak_bytes": told["maxrss"] * (1 if sys.platform == "darwin" else 1024)}


def tensor_hashes(path: Path) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Type, shape and SHA-256 of every tensor by name."""
    found = {}
    with path.open("rb") as file:
        container = Container(file.read(64 * 2**20))
        at = parse(container, 0)
        for tensor in container.tensors:
            file.seek(at)
            digest = hashlib.sha256(file.read(tensor.size_bytes)).hexdigest()
            found[tensor.name] = (tensor.type, tensor.shape, digest)
            at += tensor.size_bytes + -tensor.size_bytes % 32
    return found


def ratio(pairs: list[dict[str, dict[str, float]]], key: str) -> dict[str, Any]:
    """Geometric mean of edgekit ÷ peer and its 95 % t-interval."""
    logs = [math.log(pair["edgekit"][key] / pair["peer"][key]) for pair in pairs]
    half = float(t.ppf(0.975, len(logs) - 1)) * stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    interval = [math.exp(mean(logs) - half), math.exp(mean(logs) + half)] if half < math.inf else None
    return {"ratio": math.exp(mean(logs)), "interval_95": interval}


def compare(arguments: argparse.Namespace, folder: Path, scratch: Path) -> dict[str, Any]:
    ours, theirs = scratch / "ours.gguf", scratch / "theirs.gguf"
    peer = [sys.executable, arguments.peer, folder, "--outfile", theirs, "--outtype", arguments.type]
    runs: list[tuple[str, Callable[[], dict[str, float]]]] = [
        ("edgekit", lambda: run([sys.executable, "-c", _CONVERT, folder, ours, arguments.type], ours)),
        ("peer", lambda: run(peer, theirs)),
    ]
    for _, once in runs:
        once()  # the checkpoint into the page cache
    pairs = []
    for index in range(arguments.pairs):
        pairs.append({name: once() for name, once in (runs if index % 2 == 0 else runs[::-1])})
        print(f"pair {index + 1}: {json.dumps(pairs[-1])}", flush=True)
    mine, peers = tensor_hashes(ours), tensor_hashes(theirs)
    differ = sorted(name for name in mine.keys() | peers.keys() if mine.get(name) != peers.get(name))
    return {
        "pairs": pairs,
        "wall": ratio(pairs, "wall_s"),
        "memory": ratio(pairs, "peak_bytes"),
        "tensors": len(mine),
        "tensors_that_differ": differ,
    }


def main() -> int:
    """0 when everything is as asked, or when the peer is missing and the run is skipped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", type=Path, default=os.environ.get("CONVERT_HF_TO_GGUF"), help="the peer's script")
    parser.add_argument("--type", default="f16", choices=("f32", "f16", "bf16"))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--work", type=Path, help="folder for some 8 GB of scratch files; default: the system's")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.peer is None or not Path(arguments.peer).is_file():
        print(
            "skipped: no `--peer PATH` and no $CONVERT_HF_TO_GGUF; the script is in llama.cpp's sources",
            file=sys.stderr,
        )
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        folder = Path(name) / "checkpoint"
        folder.mkdir()
        write_checkpoint(folder, arguments.layers)
        shard = next(folder.glob("*.safetensors"))
        before = read_counters()
        found = compare(arguments, folder, Path(name))
        result = {
            "kind": "convert_benchmark",
            "version": 1,
            **circumstances(shard),
            "parameters": sum(math.prod(shape) for _, shape in shapes(arguments.layers)),
            "type": arguments.type,
            **found,
            "others_cpu_share": others_share(before, read_counters()),
        }
    wall, memory = result["wall"]["ratio"], result["memory"]["ratio"]
    print(f"wall {wall:.2f}, memory {memory:.2f}, tensors that differ {len(result['tensors_that_differ'])}")
    write_result(arguments.out, result)
    return 0 if wall <= WALL and memory <= MEMORY and not result["tensors_that_differ"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
