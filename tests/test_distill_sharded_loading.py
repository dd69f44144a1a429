"""Models that two processes share: each reads its rows, and what they learn is what one process learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="edgekit[distill] is not installed")
for module in ("accelerate", "safetensors", "transformers"):
    pytest.importorskip(module, reason="edgekit[distill] is not installed")

from edgekit.distill.loading import load_model  # noqa: E402
from edgekit.distill.sharded_loading import source_of, unread_model  # noqa: E402
from edgekit.distill.students import save_model  # noqa: E402
from edgekit.errors import EdgekitError  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without torch.distributed"),
]

CHILD = """
import json, os, sys, threading
from dataclasses import asdict
from pathlib import Path
import torch
torch.set_num_threads(1)
import accelerate, safetensors.torch, transformers.models.qwen3.modeling_qwen3
from edgekit.distill import sharded_loading, sharding, trainer
from edgekit.distill.loading import load_model
from edgekit.distill.settings import ParameterGroup, TrainSettings
from edgekit.distill.training import next_token_objective
from edgekit.distill.windows import windows_of

rank, folder, shared, steps = int(os.environ["RANK"]), Path(sys.argv[1]), sys.argv[2] == "shared", int(sys.argv[3])
if int(os.environ["WORLD_SIZE"]) > 1:
    meeting = f"file://{folder}/{'-'.join(sys.argv[2:4])}.meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
sharding.here()

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

peak, done = [0], threading.Event()
def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], anonymous())
before = anonymous()
threading.Thread(target=watch, daemon=True).start()
model = load_model(folder / "model", shared=shared)
unread = sharded_loading.source_of(model) is not None
windows = windows_of([7 * n * n % 512 for n in range(33 * 16)], None, 16)
settings = TrainSettings(steps=max(1, steps), batch=4, learning_rate=1e-3, precision="float32", log_every=1)
found = {"unread": unread}
if steps:
    training = trainer.train(model, windows, next_token_objective, settings, out=folder / f"{sys.argv[2]}-out")
    found |= {"losses": [loss for _, loss in training.losses], "key": sharded_loading.source_of(model) is None}
    found["tied"] = model.lm_head.weight is model.model.embed_tokens.weight
else:  # what loading takes alone
    model.requires_grad_(False)
    root = sharding.rooted(model, (), sharding.here())
    logits = sharding.inside(model, lambda: model(input_ids=torch.arange(8)[None]).logits.detach())
    found["logits"] = logits.flatten()[:64].tolist()
done.set()
found |= {"peak": peak[0] - before}
(folder / f"{sys.argv[2]}-{steps}-{rank}.json").write_text(json.dumps(found))
if int(os.environ["WORLD_SIZE"]) > 1:
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


def config(layers: int, hidden: int, *, tied: bool) -> Any:
    import transformers

    return transformers.Qwen3Config(
        vocab_size=512, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=4, head_dim=hidden // 8, tie_word_embeddings=tied,
    )  # fmt: skip


def written(folder: Path, made: Any) -> int:
    """A random model, stored in half precision; its bytes as it is trained."""
    import transformers

    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(made)
    save_model(model.bfloat16(), folder / "model")
    return sum(4 * parameter.numel() for parameter in model.parameters())


def run(folder: Path, how: str, *, steps: int, processes: int = 2) -> list[Any]:
    children = []
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        own |= {"LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
        if processes == 1:
            own = {"RANK": "0", "WORLD_SIZE": "1"}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **own}
        environment["MALLOC_MMAP_THRESHOLD_"] = "1000000"  # what is freed is given back, and so is seen
        command = [sys.executable, "-c", CHILD, str(folder), how, str(steps)]
        children.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [child.communicate(timeout=240)[1] for child in children]
    assert [child.returncode for child in children] == [0] * processes, errors
    return [json.loads((folder / f"{how}-{steps}-{rank}.json").read_text()) for rank in range(processes)]


def test_each_process_holds_its_share_alone(tmp_path: Path) -> None:
    """Of a model of 303 MB: its half and the blocks that are gathered, where each would read the whole."""
    size = written(tmp_path, config(24, 512, tied=True))
    assert size > 3e8
    shares, wholes = (run(tmp_path, how, steps=0) for how in ("shared", "whole"))
    assert all(one["unread"] for one in shares)
    assert not any(one["unread"] for one in wholes)
    assert max(one["peak"] for one in shares) < 0.8 * size
    assert min(one["peak"] for one in wholes) > 0.95 * size, "the whole one is seen by the same measure"
    for one, other in zip(shares, wholes, strict=True):
        assert one["logits"] == pytest.approx(other["logits"], abs=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_read_in_shares_learns_the_same(tmp_path: Path, tied: bool) -> None:
    written(tmp_path, config(2, 64, tied=tied))
    shares = run(tmp_path, "shared", steps=4)
    (alone,) = run(tmp_path, "alone", steps=4, processes=1)
    assert shares[0]["unread"]
    assert shares[0]["tied"] == tied
    for one in shares:
        assert one["losses"] == pytest.approx(alone["losses"], abs=1e-6)


def test_folders_are_refused_as_one_process_refuses_them(tmp_path: Path) -> None:
    written(tmp_path, config(1, 64, tied=True))
    folder = tmp_path / "model"
    (folder / "generation_config.json").write_text("{", encoding="utf-8")
    alone, shared = load_model(folder), unread_model(folder)
    told = [{key: value for key, value in one.generation_config.to_dict().items() if value} for one in (alone, shared)]
    assert told[0] == told[1], "the configuration's own"
    assert source_of(shared) is not None
    assert all(one.is_meta for one in shared.parameters())
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(said | {"hidden_act": "none-such"}), encoding="utf-8")
    for load in (load_model, unread_model):
        with pytest.raises(EdgekitError, match="transformers cannot load"):
            load(folder)
