"""The layers that can be compressed, and their weights as the matrices that the compiler will map."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from mcompiler.admm.arithmetic import describe_own_arithmetic, find_computed_parameter
from mcompiler.errors import CompileError
from mcompiler.geometry import conv_matrix

MAPPED_MODULES = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Modules that the compiler puts onto crossbars."""


@dataclass(frozen=True)
class CompressibleLayer:
    """One compressible layer.

    Attributes:
        name: its name in the model, as in ``named_modules``.
        module: nn.Conv1d, nn.Conv2d, nn.Conv3d or nn.Linear.
    """

    name: str
    module: nn.Module

    @property
    def weight(self) -> torch.Tensor:
        """[O, C / G, *kernel] or [O, I]."""
        weight = self.module.weight
        assert isinstance(weight, torch.Tensor)
        return weight

    @property
    def groups(self) -> int:
        """Groups of a convolution, 1 for a product."""
        return int(getattr(self.module, "groups", 1))

    @property
    def positions(self) -> int:
        """Kernel positions: rows of the matrix that one input channel takes."""
        return self.weight[0, 0].numel()

    @property
    def shape(self) -> tuple[int, int, int]:
        """G, K, N of its matrix."""
        outputs, inputs = self.weight.shape[:2]
        return self.groups, inputs * self.positions, outputs // self.groups

    def matrix(self) -> torch.Tensor:
        """The weights as the compiler lowers them: a view [G, K, N], without gradient."""
        return as_matrix(self.weight.detach(), self.groups)

    def as_weight(self, matrix: torch.Tensor) -> torch.Tensor:
        """The inverse of ``matrix``: [G, K, N] to the weight's shape."""
        return as_weight(matrix, self.weight.shape)


def as_matrix(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """[O, C / G, *kernel] or [O, I] to [G, K, N], the compiler's own lowering."""
    matrix: torch.Tensor = conv_matrix(weight, groups)
    return matrix


def as_weight(matrix: torch.Tensor, shape: Iterable[int]) -> torch.Tensor:
    """The inverse of ``as_matrix``."""
    return matrix.transpose(1, 2).reshape(tuple(shape))


def find_layers(model: nn.Module, skip: Iterable[str] = (), named: Iterable[str] = ()) -> dict[str, CompressibleLayer]:
    """The compressible layers of a model, in the order of its modules.

    Args:
        model: any module.
        skip: names of layers that are not compressed.
        named: names that a specification mentions; each must be a layer.

    Raises:
        CompileError: a name that is not a compressible layer, or that is skipped and named; weights that two modules
            share, that are empty, or that a hook or a parametrisation computes; a layer with a forward or with hooks
            of its own; no layer at all.
    """
    modules = dict(model.named_modules())
    compressible = {
        name: CompressibleLayer(name, module) for name, module in modules.items() if isinstance(module, MAPPED_MODULES)
    }
    skipped = set(skip)
    for name in dict.fromkeys([*skipped, *named]):
        if name not in compressible:
            raise CompileError(_describe_unknown(name, modules, compressible))
        if name in skipped and name in named:
            raise CompileError("has a structure and is in `skip`; take it out of one", name)
    found = {name: layer for name, layer in compressible.items() if name not in skipped}
    if not found:
        raise CompileError(
            "the model has no layer to compress; nn.Conv1d, nn.Conv2d, nn.Conv3d and nn.Linear are mapped to crossbars"
        )
    for layer in found.values():
        _check_layer(layer)
    _check_sharing(modules, found)
    return found


def find_uncompressed(model: nn.Module, layers: Mapping[str, CompressibleLayer]) -> dict[str, str]:
    """Modules that hold matrices and are not compressed, with their types.

    These are skipped layers, and modules that cannot be compressed (transposed convolutions, recurrent layers, the
    projections inside attention). The compiler maps some of them to arrays, which the counts of this package leave out.
    """
    return {
        name: type(module).__name__
        for name, module in model.named_modules()
        if name not in layers
        and not isinstance(module, nn.Embedding)
        and any(parameter is not None and parameter.ndim > 1 for parameter in module._parameters.values())
    }


def _check_layer(layer: CompressibleLayer) -> None:
    """Refuse layers whose weight is not a parameter that can be projected, or does not alone describe the layer."""
    module = layer.module
    if not layer.name:
        raise CompileError("the model is a single layer, which has no name; wrap it: nn.Sequential(layer)")
    if isinstance(module._parameters.get("weight"), UninitializedParameter):
        raise CompileError("is lazy and has no weights yet; run the model once", layer.name)
    kinds = [type(entry).__name__ for entry in _get_parametrisations(module)]
    others = [kind for kind in kinds if kind != "MappedWeight"]  # by name: its module imports this one
    if others:
        raise CompileError(
            f"its weight is computed by {others[0]}; make it a plain parameter first "
            "(torch.nn.utils.parametrize.remove_parametrizations), or name the layer in `skip`",
            layer.name,
        )
    computed = find_computed_parameter(module)
    if computed is not None:
        raise CompileError(
            f"its {computed} is computed from other parameters (by torch.nn.utils.prune, weight_norm or spectral_norm, "
            f"for example); make it a plain parameter first (prune.remove, remove_weight_norm, remove_spectral_norm, "
            "parametrize.remove_parametrizations), or name the layer in `skip`",
            layer.name,
        )
    different = describe_own_arithmetic(module)
    if different is not None:
        raise CompileError(f"{different}; or name the layer in `skip`", layer.name)
    if not layer.weight.numel():
        shape = " x ".join(map(str, layer.weight.shape))
        raise CompileError(
            f"its weight of {shape} is empty; take the layer out of the model or name it in `skip`", layer.name
        )


def _get_parametrisations(module: nn.Module) -> Iterable[nn.Module]:
    if not parametrize.is_parametrized(module, "weight"):
        return ()
    return module.parametrizations.weight  # type: ignore[union-attr,return-value]


def _check_sharing(modules: Mapping[str, nn.Module], layers: Mapping[str, CompressibleLayer]) -> None:
    """Refuse a weight that another module reads too: it is programmed once, and cannot have two masks."""
    weights = {name: layer.module._parameters.get("weight") for name, layer in layers.items()}
    owners = {id(weight): name for name, weight in weights.items() if weight is not None}
    for name, module in modules.items():
        for parameter in module._parameters.values():
            owner = owners.get(id(parameter), name)
            if owner != name:
                raise CompileError(
                    f"shares its weights with '{name}'; one matrix is programmed once and cannot follow two masks: "
                    "give each its own weights, or name both in `skip`",
                    owner,
                )


def _describe_unknown(name: str, modules: Mapping[str, nn.Module], layers: Mapping[str, CompressibleLayer]) -> str:
    if name in modules:
        kind = type(modules[name]).__name__
        return f"'{name}' ({kind}) is not mapped to crossbars; only convolutions and nn.Linear can be compressed"
    close = difflib.get_close_matches(name, layers, 1)
    hint = f"did you mean '{close[0]}'?" if close else f"the layers are {', '.join(map(repr, layers))}"
    return f"the model has no layer '{name}'; {hint}"
