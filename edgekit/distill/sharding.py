"""One process or many: where a training runs, and FSDP2 over all that has parameters, the teacher included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from edgekit.distill import sharded_loading
from edgekit.distill.settings import ParameterGroup
from edgekit.errors import EdgekitError, import_extra

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long processes wait for what one of them does alone, as asking a teacher; torch gives up after ten minutes."""

_ROOT = "_edgekit_root"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which of how many processes this is, and its device."""

    device: torch.device
    index: int
    processes: int

    def least(self, value: int) -> int:
        """The least of what the processes give; all must ask."""
        torch = import_extra("torch", extra="distill")
        if self.processes == 1:
            return value
        given = torch.tensor(value, dtype=torch.int64, device=self.device)
        torch.distributed.all_reduce(given, op=torch.distributed.ReduceOp.MIN)
        return int(given)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over the processes of what each gives; all must ask."""
        torch = import_extra("torch", extra="distill")
        if self.processes == 1:
            return values
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total / self.processes


def here() -> Place:
    """Where this process is, as `accelerate launch` or `torchrun` started it: a CUDA device, else the CPU."""
    torch = import_extra("torch", extra="distill")
    accelerate = import_extra("accelerate", extra="distill")
    state = accelerate.PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    return Place(device=state.device, index=state.process_index, processes=state.num_processes)


def alone() -> Place:
    """This process by itself, for what one of several does while the others wait."""
    return Place(device=here().device, index=0, processes=1)


def rooted(model: Any, extra: Sequence[ParameterGroup], place: Place) -> Any:
    """A module that runs a function inside its forward pass: there parameters are whole tensors, sharded or not.

    With several processes every transformer block is a shard of its own and what is left (embeddings, heads, the
    modules of `extra`) belongs to the root; of a model that is not read yet each process then reads its shards. Raises
    EdgekitError for a model that is sharded already.
    """
    torch = import_extra("torch", extra="distill")

    class Root(torch.nn.Module):  # type: ignore[misc,name-defined]
        """Calls what it is given."""

        def forward(self, function: Callable[..., T], *arguments: Any) -> T:
            return function(*arguments)

    modules = [model, *(group.module for group in extra)]
    if any(_ROOT in vars(module) for module in modules):
        raise EdgekitError("the model is sharded already", hint="load it anew for another training")
    root = Root()
    root.parts = torch.nn.ModuleList(modules)
    if place.processes == 1:
        return root
    mesh = torch.distributed.device_mesh.init_device_mesh(place.device.type, (place.processes,))
    shard = import_extra("torch.distributed.fsdp", extra="distill").fully_shard
    for module in modules:
        for block in blocks_of(module):
            shard(block, mesh=mesh)
        vars(module)[_ROOT] = root  # not as a submodule: the root owns the model, not the other way round
    shard(root, mesh=mesh)
    sharded_loading.read_into(root, modules, place.device)
    return root


def inside(model: Any, function: Callable[..., T], *arguments: Any) -> T:
    """`function(*arguments)` where the parameters of `model`, sharded by a training or not, can be used: to evaluate
    it. All processes must call it, and as often.
    """
    root = vars(model).get(_ROOT)
    if root is None:
        return function(*arguments)
    found: T = root(function, *arguments)
    root.reshard()
    return found


def whole_weights(model: Any) -> dict[str, torch.Tensor]:
    """The model's state, whole, on the CPU: what `save_pretrained(state_dict=…)` takes. All processes must call it;
    only the first is given the tensors, the others an empty dict.
    """
    found = {}
    for name, value in model.state_dict().items():
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        if here().index == 0:
            found[name] = whole.detach().cpu()
    return found


def blocks_of(module: Any) -> list[Any]:
    """The transformer blocks of a model, as transformers names them; none of another module."""
    names = set(getattr(module, "_no_split_modules", None) or ())
    return [inner for inner in module.modules() if type(inner).__name__ in names]
