"""FSDP2 over two processes: the losses, the weights and the checkpoints of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="edgekit[distill] is not installed")
for module in ("accelerate", "safetensors", "transformers"):
    pytest.importorskip(module, reason="edgekit[distill] is not installed")

from trainings import exercise  # noqa: E402

from edgekit.distill import sharding  # noqa: E402
from edgekit.errors import EdgekitError  # noqa: E402

CHILD = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from trainings import digest, exercise, torch
from edgekit.distill import sharding
from edgekit.errors import EdgekitError

rank, out = int(os.environ["RANK"]), Path(sys.argv[2])
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{out}.meeting", rank=rank, world_size=2)
PROBE = torch.arange(32).view(2, 16)

class Killed(BaseException):
    pass

broken = exercise()
def until_step_6(model, indices, windows, info):
    if info.step == 6:
        raise Killed
    return broken.objective(model, indices, windows, info)
try:
    broken.train(out, until_step_6, micro_batch=2)
except Killed:
    pass
given = exercise()
training = given.train(out, micro_batch=2)
logits = sharding.inside(given.student, lambda: given.student(input_ids=PROBE).logits.detach())
whole = sharding.whole_weights(given.student)
models = (given.student, given.teacher, given.projection)
sharded = sum(hasattr(parameter, "full_tensor") for model in models for parameter in model.parameters())
refusals = []
for again in (given, exercise()):
    try:
        again.train(None, batch=8 if again is given else 7)
    except EdgekitError as error:
        refusals.append(error.message)
torch.distributed.destroy_process_group()
if rank == 0:
    found = {"losses": dict(training.losses), "resumed_at": training.resumed_at, "logits": logits.tolist()}
    found |= {"weights": {name: value.tolist() for name, value in whole.items()}}
    found |= {"sharded": sharded, "refusals": refusals}
    (out / "found.json").write_text(json.dumps(found))
else:
    assert not whole
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training by two processes, broken off and taken up again."""
    out = tmp_path_factory.mktemp("two") / "out"
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(out)]
    children = []
    for rank in range(2):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0", **own}
        children.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [child.communicate(timeout=240)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], errors
    return out


@pytest.fixture(scope="module")
def found(two: Path) -> Any:
    return json.loads((two / "found.json").read_text())


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without torch.distributed")
def test_two_processes_give_the_losses_and_weights_of_one(found: Any) -> None:
    alone = exercise()
    losses = alone.train(None).losses
    assert {int(step): loss for step, loss in found["losses"].items()} == pytest.approx(dict(losses), abs=1e-5)
    assert found["resumed_at"] == [4]
    parameters = sum(len(list(m.parameters())) for m in (alone.student, alone.teacher, alone.projection))
    assert found["sharded"] == parameters  # the teacher's too
    state = alone.student.state_dict()
    assert set(found["weights"]) == set(state)
    for name, values in found["weights"].items():
        assert torch.allclose(torch.tensor(values), state[name], atol=1e-3), name
    with torch.no_grad():
        logits = alone.student(input_ids=torch.arange(32).view(2, 16)).logits
    assert torch.allclose(torch.tensor(found["logits"]), logits, atol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without torch.distributed")
def test_what_does_not_go_with_two_processes_is_said(found: Any, two: Path) -> None:
    sharded, uneven = found["refusals"]
    assert sharded == "the model is sharded already"
    assert uneven == "2 processes cannot share a batch of windows evenly: `7`"
    with pytest.raises(EdgekitError, match="of 2 processes, not of 1"):
        exercise().train(two)
    assert sorted(path.name for path in (two / "checkpoint-00000012").iterdir()) == [
        f"rank-{rank}-of-2.{kind}" for rank in range(2) for kind in ("json", "safetensors")
    ]


def test_processes_wait_long_for_what_one_does_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher is asked for hours by the first of them."""
    told: dict[str, Any] = {}
    state = SimpleNamespace(device=torch.device("cpu"), process_index=0, num_processes=1)
    monkeypatch.setattr("accelerate.PartialState", lambda **said: told.update(said) or state)
    assert sharding.here().processes == 1
    assert told["timeout"].total_seconds() >= 12 * 3600
