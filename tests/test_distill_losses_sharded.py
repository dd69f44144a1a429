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

rank, meeting = int(sys.argv[1]), sys.argv[2]
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
teacher, counted = torch.randn(4, 8, 50), float((labels != -100).sum())
whole = model(ids, teacher, labels, counted)
whole.backward()
alone = model.embed.weight.grad
model.zero_grad(set_to_none=True)

dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
fully_shard(model.middle), fully_shard(model)
part, refusal = slice(2 * rank, 2 * rank + 2), ""
try:
    distillation_loss(torch.zeros(2, 8, 16), model.head, teacher[part], labels[part])
except EdgekitError as error:
    refusal = error.message
loss = model(ids[part], teacher[part], labels[part], counted / 2)
loss.backward()
gradient, total = model.embed.weight.grad.full_tensor(), loss.detach().clone()
dist.all_reduce(total)
dist.destroy_process_group()
losses = (float(whole.detach()), float(total) / 2)
apart = float((gradient - alone).abs().max() / alone.abs().max())
print(json.dumps({"losses": losses, "apart": apart, "refusal": refusal}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without torch.distributed")
def test_two_processes_are_as_good_as_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meeting")], stdout=subprocess.PIPE, env=environment)
        for rank in range(2)
    ]
    outputs = [child.communicate(timeout=240)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    for output in outputs:
        found = json.loads(output)
        assert found["losses"][1] == pytest.approx(found["losses"][0], abs=1e-6)
        assert found["apart"] < 1e-6
        assert "of a sharded head" in found["refusal"]
