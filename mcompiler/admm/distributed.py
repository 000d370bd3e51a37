"""Several processes under ``torchrun``: each takes its share of every batch, gradients are averaged.

The shares of a batch together are the batch, so the processes walk the path of one, up to the order of additions.
Batch normalisation takes the statistics of its process's share; running statistics are those of process 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from mcompiler.errors import UserError


def map_nested(value: Any, change: Callable[[Any], Any]) -> Any:
    """A dict, list, tuple or named tuple of what ``change`` makes of its entries; anything else as it is."""
    if isinstance(value, dict):
        return {key: change(entry) for key, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(change, value))
    return type(value)(map(change, value)) if isinstance(value, tuple | list) else value


@dataclass(frozen=True)
class ProcessRank:
    """This process among its peers."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def share(self, batch: Any) -> Any:
        """Every ``world``-th sample of a tensor, or of the tensors in a tuple, list or dict."""
        if self.world == 1:
            return batch
        if isinstance(batch, torch.Tensor):
            return batch[self.rank :: self.world]
        return map_nested(batch, self.share)

    def average_gradients(self, parameters: Iterable[nn.Parameter], samples: int) -> None:
        """Mean gradient over all samples; ``samples`` is the size of this process's share."""
        if self.world == 1:
            return
        held = [p for p in parameters if p.requires_grad]
        counts = [float(samples), *(float(p.grad is not None) for p in held)]
        total = torch.tensor(counts, dtype=torch.float64, device=held[0].device)
        dist.all_reduce(total)
        everybody, *given = total.tolist()
        if not everybody:
            return
        for parameter, by in zip(held, given, strict=True):
            if by and parameter.grad is None:  # a share without samples has no gradients
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p, by in zip(held, given, strict=True) if by and p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).mul_(samples / everybody)
        dist.all_reduce(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def total(self, *numbers: float) -> list[float]:
        """Sums over the processes."""
        if self.world == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        if dist.get_backend() == "nccl":
            sums = sums.cuda()
        dist.all_reduce(sums)
        return [float(value) for value in sums.cpu()]

    def agree(self, model: nn.Module) -> None:
        """Buffers and parameters of process 0 for all."""
        if self.world == 1:
            return
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.data, 0)

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            dist.barrier()


def join_ranks(device: torch.device) -> ProcessRank:
    """The process group that ``torchrun`` set up for us, joined if need be; one process without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not (dist.is_available() and dist.is_initialized()):
        return ProcessRank()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return ProcessRank(dist.get_rank(), dist.get_world_size())


def pick_device(wanted: str | None) -> torch.device:
    """The device that is named, else this process's GPU where there is one, else the CPU.

    Raises:
        UserError: a device that PyTorch does not have here.
    """
    if wanted is not None:
        try:
            torch.empty(0, device=wanted)
        except (RuntimeError, AssertionError) as error:  # an assertion where PyTorch was built without CUDA
            first = str(error).splitlines()[0]
            raise UserError(f"device '{wanted}' cannot be used: {first}; leave it out to take what there is") from None
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
