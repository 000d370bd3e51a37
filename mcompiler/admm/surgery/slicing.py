"""Cutting modules to the channels that stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mcompiler.admm.lowering import as_matrix, as_weight
from mcompiler.admm.surgery.steps import TracedLayer


@dataclass(frozen=True, eq=False)
class LayerSlice:
    """The filters and channels of a layer that stay.

    Attributes:
        shape: of the weight before: [O, C / G, *kernel] or [O, I].
        groups: G before.
        filters: outputs that stay, ascending, of O.
        channels: input channels (features) that stay, ascending, of all groups together.
    """

    shape: tuple[int, ...]
    groups: int
    filters: torch.Tensor
    channels: torch.Tensor

    @property
    def groups_after(self) -> int:
        """Groups that stay."""
        return len(torch.unique(self.filters // (self.shape[0] // self.groups)))

    def slice_weight(self, tensor: torch.Tensor) -> torch.Tensor:
        """Cut a tensor of the weight's shape."""
        filters, channels = self.filters.to(tensor.device), self.channels.to(tensor.device)
        if self.groups == 1:
            return tensor[filters][:, channels]
        per_group, width = self.shape[0] // self.groups, self.shape[1]
        parts = []
        for group in torch.unique(filters // per_group).tolist():
            group_filters = filters[filters // per_group == group]
            parts.append(tensor[group_filters][:, channels[channels // width == group] % width])
        return torch.cat(parts) if parts else tensor[:0]

    def slice(self, tensor: torch.Tensor) -> torch.Tensor:
        """Cut a matrix [G, K, N], or a tensor of the weight's shape."""
        if tuple(tensor.shape) == self.shape:
            return self.slice_weight(tensor)
        return as_matrix(self.slice_weight(as_weight(tensor, self.shape)), self.groups_after)

    def slice_vector(self, tensor: torch.Tensor) -> torch.Tensor:
        """Cut a tensor [O, ...], a bias."""
        return tensor[self.filters.to(tensor.device)]


def cut_layer(
    module: Any, traced: TracedLayer, kept: LayerSlice, support: torch.Tensor, added: torch.Tensor | None
) -> None:
    """Cut a layer in place; weights outside the support become zero.

    Other parameters and buffers of the layer itself that have its weight's shape (masks, duals) are cut alike.

    Args:
        module: the layer.
        traced: the layer in the graph.
        kept: filters and channels that stay.
        support: bool [G, K, N] before.
        added: float64 [O] to add to the bias, or None.
    """
    weight = module.weight
    mask = as_weight(support, weight.shape).to(weight.device)
    if added is not None:
        _add_bias(module, added)
    masked = torch.where(mask, weight.detach(), torch.zeros_like(weight))
    for tensors in (module._parameters, module._buffers):
        for name, tensor in list(tensors.items()):
            if tensor is None:
                continue
            if tensor.shape == weight.shape:
                _replace_tensor(module, name, kept.slice_weight(masked if name == "weight" else tensor.detach()))
            elif name == "bias":
                _replace_tensor(module, name, kept.slice_vector(tensor.detach()))
    if isinstance(module, nn.Linear):
        module.in_features, module.out_features = len(kept.channels), len(kept.filters)
    else:
        module.in_channels, module.out_channels = len(kept.channels), len(kept.filters)
        module.groups = kept.groups_after if traced.groups > 1 else 1


def cut_norm(module: Any, stay: torch.Tensor) -> None:
    """Cut the vectors of a normalisation (or PReLU) in place; stay bool [C]."""
    for tensors in (module._parameters, module._buffers):
        for name, tensor in list(tensors.items()):
            if tensor is not None and tuple(tensor.shape) == tuple(stay.shape):
                _replace_tensor(module, name, tensor.detach()[stay.to(tensor.device)])
    for name in ("num_features", "num_parameters"):
        if hasattr(module, name):
            setattr(module, name, int(stay.sum()))


def cut_constant(model: nn.Module, target: str, stay: torch.Tensor) -> None:
    """Cut a parameter or buffer [1, C, 1, ...] in place."""
    path, _, name = target.rpartition(".")
    owner = model.get_submodule(path)
    tensor = getattr(owner, name)
    _replace_tensor(owner, name, tensor.detach()[:, stay.to(tensor.device)])


def _replace_tensor(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    old = getattr(module, name)
    if isinstance(old, nn.Parameter):
        setattr(module, name, nn.Parameter(tensor.contiguous(), requires_grad=old.requires_grad))
    else:
        setattr(module, name, tensor.contiguous())


def _add_bias(module: Any, added: torch.Tensor) -> None:
    """Add to the bias, in float64 and rounded once; a layer without a bias gets one."""
    weight = module.weight
    before = torch.zeros_like(added) if module.bias is None else module.bias.detach().cpu().double()
    trains = weight.requires_grad if module.bias is None else module.bias.requires_grad
    bias = (before + added).to(device=weight.device, dtype=weight.dtype)
    module.bias = nn.Parameter(bias, requires_grad=trains)
