"""ONNX export: wall time, peak memory and size of a shape with random weights, against the model builder's own export.

    python benchmarks/onnx_export.py [--shape nano-1.5b] [--precision int4 …] [--threads 2] [--peer] [--work DIR]

`--peer` runs onnxruntime-genai's builder alone on the same checkpoint (int4, block 32, `rtn_last`), in a process whose
own peak is read. One at a time, so the machine needs memory for one. Results: benchmarks/results/onnx_export.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgekit.bench import probe_host
from edgekit.files import replacing
from edgekit.quantize.onnx import PRECISIONS, Options, export_onnx, plan_export, read_source
from edgekit.shapes import Shape, load_shape
from edgekit.storage import to_json
from edgekit.units import format_bytes, format_duration

RESULTS = Path(__file__).parent / "results" / "onnx_export.json"

MAKE = """
import json, sys, torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
shape, out = json.loads(sys.argv[1]), sys.argv[2]
torch.manual_seed(1)
torch.set_num_threads(2)
torch.set_default_dtype(torch.bfloat16)
config = AutoConfig.for_model(shape.pop("model_type"), **shape)
with torch.device("meta"):
    model = AutoModelForCausalLM.from_config(config)
model = model.to_empty(device="cpu")
for name, parameter in model.named_parameters():
    with torch.no_grad():
        parameter.fill_(1) if parameter.ndim == 1 else parameter.normal_(0, 0.02)
model.tie_weights()
model.save_pretrained(out)
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate([*alphabet, "<|end|>"])}, []))
tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(out)
"""

PEER = """
import sys
from pathlib import Path
import onnxruntime_genai
sys.path.insert(0, str(Path(onnxruntime_genai.__file__).parent / "models"))
import builder
source, out = sys.argv[1:]
options = {"hf_token": "false", "algo_config": "rtn_last", "block_size": "32", "accuracy_level": "4"}
options = builder.parse_extra_options(
    None, source, out, "int4", "cpu", out + ".cache", [f"{name}={value}" for name, value in options.items()]
)
builder.create_model(None, source, out, "int4", "cpu", out + ".cache", **options)
print("peak", next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def make_checkpoint(shape: Shape, out: Path) -> None:
    """A Hugging Face folder of `shape` in bfloat16 with random weights."""
    described = {
        "model_type": shape.architecture,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.ffn,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied_embedding,
        "max_position_embeddings": shape.context_train,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_freq_base},
        "bos_token_id": 256,
        "eos_token_id": 256,
    }
    subprocess.run([sys.executable, "-c", MAKE, json.dumps(described), str(out)], check=True, capture_output=True)


def run_edgekit(checkpoint: Path, precision: str, out: Path, threads: int) -> dict[str, Any]:
    """One export's figures beside what the pre-flight said."""
    options = Options(threads=threads)
    plan = plan_export(read_source(checkpoint, exporter="genai"), precision, "genai", options)
    stages: dict[str, float] = {}
    last = [time.monotonic(), "starting"]

    def progress(stage: str, *_: object) -> None:
        now = time.monotonic()
        stages[str(last[1])] = stages.get(str(last[1]), 0.0) + now - float(last[0])
        last[:] = [now, stage]

    begun = time.monotonic()
    export_onnx(checkpoint, precision, out, options=options, force=True, progress=progress)
    progress("")
    record = json.loads((out / "edgekit.json").read_text(encoding="utf-8"))
    return {
        "what": f"edgekit {precision}",
        "wall_s": time.monotonic() - begun,
        "peak_bytes": record["peak_bytes"],
        "peaks": record["peaks"],
        "size_bytes": record["size_bytes"],
        "planned_peak_bytes": plan.memory.value,
        "planned_size_bytes": plan.out_bytes,
        "planned_s": plan.time_s.value,
        "stages_s": {name: round(spent, 1) for name, spent in stages.items() if spent >= 0.1},
        "checks": record["checks"],
    }


def run_peer(checkpoint: Path, out: Path, threads: int) -> dict[str, Any]:
    """The builder's own INT4 export."""
    begun = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", PEER, str(checkpoint), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    peak = next(int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("peak "))
    size = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    return {
        "what": "builder int4 rtn_last",
        "wall_s": time.monotonic() - begun,
        "peak_bytes": peak * 1024,
        "size_bytes": size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="nano-1.5b")
    parser.add_argument("--precision", nargs="*", default=["int4"], choices=PRECISIONS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--work", type=Path, help="where checkpoint and exports are kept (default: a temporary folder)")
    parser.add_argument("--no-record", action="store_true", help="print only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        checkpoint = work / f"checkpoint-{arguments.shape}"
        if not (checkpoint / "model.safetensors").is_file():
            make_checkpoint(load_shape(arguments.shape), checkpoint)
        rows = [
            run_edgekit(checkpoint, precision, work / f"{arguments.shape}-{precision}", arguments.threads)
            for precision in arguments.precision
        ]
        if arguments.peer:
            rows.append(run_peer(checkpoint, work / f"{arguments.shape}-peer", arguments.threads))
    for row in rows:
        print(
            f"{row['what']:24} {format_duration(row['wall_s']):>12}  peak {format_bytes(row['peak_bytes']):>9}"
            f"  size {format_bytes(row['size_bytes']):>9}  {row.get('stages_s', '')} {row.get('peaks', '')}"
        )
    if not arguments.no_record:
        host = json.loads(to_json(probe_host()))
        result = {"shape": arguments.shape, "threads": arguments.threads, "host": host, "rows": rows}
        with replacing(RESULTS) as file:
            file.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
