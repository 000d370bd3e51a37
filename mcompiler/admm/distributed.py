"""Several processes under ``torchrun``: each takes its share of every batch, gradients are averaged.

The shares of a batch together are the batch, so several processes take the same training steps as one, up to the order
of additions. Batch normalisation uses the statistics of its process's share; running statistics are those of process 0.
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
    """Apply a function to the entries of a dict, list, tuple or named tuple; any other value is returned unchanged."""
    if isinstance(value, dict):
        return {key: change(entry) for key, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(change, value))
    return type(value)(map(change, value)) if isinstance(value, tuple | list) else value


@dataclass(frozen=True)
class ProcessRank:
    """This process's number and the number of processes."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def take_share(self, batch: Any) -> Any:
        """Every ``world``-th sample of a tensor, or of the tensors in a tuple, list or dict."""
        if self.world == 1:
            return batch
        if isinstance(batch, torch.Tensor):
            return batch[self.rank :: self.world]
        return map_nested(batch, self.take_share)

    def average_gradients(self, parameters: Iterable[nn.Parameter], samples: int) -> None:
        """Mean gradient over all samples; ``samples`` is the size of this process's share."""
        if self.world == 1:
            return
        trained = [p for p in parameters if p.requires_grad]
        counts = [float(samples), *(float(p.grad is not None) for p in trained)]
        total = torch.tensor(counts, dtype=torch.float64, device=trained[0].device)
        dist.all_reduce(total)
        all_samples, *with_gradient = total.tolist()
        if not all_samples:
            return
        # All processes must reduce the same list of gradients. A share without samples has none, so it adds zeros; a
        # parameter that no process has used is left out everywhere.
        for parameter, processes in zip(trained, with_gradient, strict=True):
            if processes and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p, used in zip(trained, with_gradient, strict=True) if used and p.grad is not None]
        # Each gradient is the mean over this process's share. Weighted by the share's part of the batch, the sum over
        # the processes is the mean over the whole batch, also for shares of unequal size.
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).mul_(samples / all_samples)
        dist.all_reduce(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def sum_over_ranks(self, *numbers: float) -> list[float]:
        """Sums over the processes."""
        if self.world == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        if dist.get_backend() == "nccl":
            sums = sums.cuda()
        dist.all_reduce(sums)
        return [float(value) for value in sums.cpu()]

    def broadcast_model(self, model: nn.Module) -> None:
        """Copy parameters and buffers of process 0 to all processes."""
        if self.world == 1:
            return
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.data, 0)

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.world > 1:
            dist.barrier()


def join_ranks(device: torch.device) -> ProcessRank:
    """Join the process group that ``torchrun`` set up, if that has not been done; without ``torchrun``: one process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not (dist.is_available() and dist.is_initialized()):
        return ProcessRank()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return ProcessRank(dist.get_rank(), dist.get_world_size())


def pick_device(wanted: str | None) -> torch.device:
    """The device of that name; for None this process's GPU where there is one, else the CPU.

    Raises:
        UserError: a device that PyTorch cannot use on this machine.
    """
    if wanted is not None:
        try:
            torch.empty(0, device=wanted)
        except (RuntimeError, AssertionError) as error:  # an assertion where PyTorch was built without CUDA
            first = str(error).splitlines()[0]
            raise UserError(f"device '{wanted}' cannot be used: {first}; leave it out for the default") from None
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
