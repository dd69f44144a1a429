"""The loss inside an FSDP2 module: two processes give the loss and the gradient of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="edgekit[distill] is not installed")

CHILD = """
import json, sys, warnings
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from edgekit.distill.losses import distillation_loss
from edgekit.errors import EdgekitError

rank, world, meeting = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
warnings.simplefilter("ignore")

class Student(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.middle = torch.nn.Embedding(50, 16), torch.nn.Linear(16, 16)
        self.head = torch.nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids, teacher, labels, normalizer):
        hidden = torch.tanh(self.middle(self.embed(ids)))
        return distillation_loss(hidden, self.head, teacher, labels, temperature=2, normalizer=normalizer).total

torch.manual_seed(0)
model, ids, labels = Student(), torch.randint(50, (4, 8)), torch.randint(50, (4, 8))
labels[0, :5] = -100  # the first process has fewer tokens that count
teacher, counted, part, refusal = torch.randn(4, 8, 50), float((labels != -100).sum()), slice(0, 4), ""
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    fully_shard(model.middle), fully_shard(model)
    part = slice(2 * rank, 2 * rank + 2)
    try:
        distillation_loss(torch.zeros(2, 8, 16), model.head, teacher[part], labels[part])
    except EdgekitError as error:
        refusal = error.message
loss = model(ids[part], teacher[part], labels[part], counted / world)
loss.backward()
gradient, total = model.embed.weight.grad, loss.detach().clone()
if world > 1:
    gradient = gradient.full_tensor()
    dist.all_reduce(total)
    dist.destroy_process_group()
print(json.dumps({"loss": float(total) / world, "gradient": gradient.flatten().tolist(), "refusal": refusal}))
"""


def run(world: int, meeting: Path) -> dict[str, object]:
    command = [sys.executable, "-c", CHILD]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen([*command, str(rank), str(world), str(meeting)], stdout=subprocess.PIPE, env=environment)
        for rank in range(world)
    ]
    outputs = [child.communicate(timeout=240)[0] for child in children]
    assert [child.returncode for child in children] == [0] * world
    found: dict[str, object] = json.loads(outputs[0])
    return found


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without torch.distributed")
def test_two_processes_are_as_good_as_one(tmp_path: Path) -> None:
    one, two = run(1, tmp_path / "one"), run(2, tmp_path / "two")
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-6)
    assert two["gradient"] == pytest.approx(one["gradient"], abs=1e-6)
    assert "of a sharded head" in str(two["refusal"])
