"""ADMM in three lines of the user's own training loop: ``penalty()``, ``update()``, ``project()``.

    compressor = Compressor(model, target, spec)
    for epoch in range(epochs):
        for x, y in batches:
            loss = criterion(model(x), y) + compressor.penalty()
            ...
        compressor.update()
    compressor.project()  # from now on the weights obey their constraints, in training too

The penalty and the updates are computed in ``mcompiler.admm.alternation``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from mcompiler.admm.agreement import check_exported
from mcompiler.admm.alternation import Alternation, Residuals, describe_large_residuals
from mcompiler.admm.constraints import check_structure, project_structure
from mcompiler.admm.export import build_deployed, get_mapped_weight, get_original_weight, write_onnx
from mcompiler.admm.inputs import as_inputs, unwrap_model
from mcompiler.admm.lowering import as_matrix, as_weight, find_layers
from mcompiler.admm.noise import make_cell_errors, select_effects
from mcompiler.admm.quantise import Levels, MappedWeight, get_weight_levels
from mcompiler.admm.spec import Spec, Structure, as_spec
from mcompiler.admm.surgery.channels import find_batchnorm_pairs, trace
from mcompiler.errors import CompileError
from mcompiler.geometry import array_shape, count_tiles, group_fragments
from mcompiler.target import Target, load_target

NO_WEIGHTS = "has no weight left; loosen its structure or the budget, or name it in `skip`"


class Compressor:
    """Constraints on the layers of a model, and the state of the alternation.

    Args:
        model: a trained model; ``project`` changes its weights, nothing before it does.
        target: the chip, by name, file or object; it sets levels and tile geometry.
        spec: hyper-parameters, or a file of them; structures by layer are in ``spec.layers``.
        structures: further structures, from a budget search.

    Raises:
        CompileError: a layer or structure that this target does not support; the message names layer and remedy.
    """

    def __init__(
        self,
        model: nn.Module,
        target: str | Target,
        spec: Spec | str | Path | None = None,
        structures: Mapping[str, Structure] | None = None,
    ) -> None:
        self.spec = as_spec(spec)
        if self.spec.budget is not None and structures is None:
            raise CompileError(
                "a [budget] needs training data to search with, which a loop of your own does not give; name "
                "structures in `layers`, or use admm.compress"
            )
        model = self._model = unwrap_model(model)
        self.target = target if isinstance(target, Target) else load_target(target)
        self.shape = array_shape(self.target)
        self.structures = {**(structures or {}), **self.spec.layers}
        self.layers = find_layers(model, self.spec.skip, self.structures)
        if self.target.weight_encoding.signed_fragments:  # the encoding holds one sign per fragment only
            for name in self.layers:
                self.structures[name] = replace(self.structures.get(name, Structure()), one_sign=True)
        self.levels: dict[str, Levels | None] = {
            name: get_weight_levels(self.target, self.spec.quantisation.levels, name) for name in self.layers
        }
        for name, structure in self.structures.items():
            check_structure(self.layers[name], structure, self.target)
        if self.spec.retrain.noise is not None:
            select_effects(self.spec.retrain.noise, self.target)  # raises now, not after hours of training
        self.projected = False
        levels = self.levels if self.spec.admm.levels else dict.fromkeys(self.layers)
        self._alternation = Alternation(self.layers, self.structures, levels, self._project_structure, self.spec.admm)

    # --- the alternation ---------------------------------------------------------------------------------------------

    @property
    def rho(self) -> float:
        """Penalty parameter of the present stage."""
        return self._alternation.rho

    @property
    def residuals(self) -> Mapping[str, Residuals]:
        """Distances of the layers from their constraints at the last update; empty before the first."""
        return self._alternation.residuals

    def penalty(self) -> torch.Tensor:
        """rho/2 |W - Y + U|^2 + rho/2 |W - Z + V|^2 over all layers, a scalar to add to the loss; 0 once projected."""
        if self.projected:
            return torch.zeros((), device=next(iter(self.layers.values())).weight.device)
        return self._alternation.penalty()

    @torch.no_grad()
    def update(self) -> dict[str, Residuals]:
        """Project W + U and W + V onto the constraints and update the duals; call it once an epoch, or more often.

        After ``project`` it fits the scales of the levels to the present weights, and returns an empty dict.
        """
        if not self.projected:
            return self._alternation.update()
        for layer in self.layers.values():
            mapped = get_mapped_weight(layer.module)
            if mapped is not None:
                mapped.refit(get_original_weight(layer.module))
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Auxiliaries and duals, for a checkpoint before the projection."""
        return self._alternation.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; tensors are moved to the device of the weights.

        Raises:
            CompileError: a state of other layers, or of layers of another shape.
        """
        self._alternation.load_state_dict(state)

    def _project_structure(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The nearest weight that has the layer's structure."""
        layer = self.layers[name]
        matrix = project_structure(as_matrix(weight, layer.groups), self.structures[name], self.shape, layer.positions)
        return as_weight(matrix, weight.shape).contiguous()

    # --- the hard projection -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def masks(self) -> dict[str, torch.Tensor]:
        """Which weights would be kept if they were projected now, bool in the weight's shape, by layer.

        Raises:
            CompileError: a layer without remaining weights.
        """
        found = {}
        for name, layer in self.layers.items():
            weight = get_original_weight(layer.module).detach()
            mask = torch.ones_like(weight, dtype=torch.bool)
            # A weight that happens to be zero may lie in a kept row and column, and become non-zero in retraining. The
            # tiny value lets the projection keep it there without changing which rows and columns it chooses.
            if name in self.structures:
                mask = (
                    self._project_structure(name, torch.where(weight == 0, torch.full_like(weight, 1e-20), weight)) != 0
                )
            if not mask.any():
                raise CompileError(NO_WEIGHTS, name)
            found[name] = mask
        return found

    @torch.no_grad()
    def project(
        self, masks: Mapping[str, torch.Tensor] | None = None, *, levels: bool = True
    ) -> dict[str, torch.Tensor]:
        """Project the weights onto their constraints and keep them there (hard projection).

        A parametrisation enforces the constraints in every forward pass: pruned weights are zero, the others take
        levels. The parameters stay the same objects, so that optimisers go on working.

        Args:
            masks: which weights may be non-zero; default: ``masks()``. (Purification gives smaller ones.)
            levels: False: masks only; a later call with True adds the levels.

        Returns:
            The masks, bool in the weight's shape.

        Raises:
            CompileError: a layer without remaining weights.
        """
        warning = None if self.projected else describe_large_residuals(self.residuals)
        if warning is not None:
            warnings.warn(warning, stacklevel=2)
        masks = self.masks() if masks is None else dict(masks)
        for name, given in masks.items():
            layer = self.layers[name]
            module, weight = layer.module, get_original_weight(layer.module)
            mask = given.to(weight.device)
            if not mask.any():
                raise CompileError(NO_WEIGHTS, name)
            level_set = self.levels[name] if levels else None
            existing = get_mapped_weight(module)
            if existing is None:
                sign = self._find_signs(name, weight, mask)
                groups, _, columns = layer.shape
                scale = torch.ones(groups, columns, device=weight.device, dtype=weight.dtype)
                entry = MappedWeight(mask, scale, groups, level_set, sign)
                weight.mul_(mask)
                _register(module, entry)
            else:
                existing.mask.copy_(mask)
                existing.levels = level_set
                weight.mul_(mask)
                entry = existing
            entry.preserve_lines = self._depends_on_tiles(name)
            entry.noise = make_cell_errors(self.spec.retrain.noise, self.target, entry)
            entry.refit(get_original_weight(module))
        self.projected = True
        self._alternation.clear()
        return masks

    @torch.no_grad()
    def fit_masks(self, masks: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Masks that are feasible for the tiles of smaller layers: removing rows has moved weights to other tiles."""
        found = dict(masks)
        for name, mask in masks.items():
            if self._depends_on_tiles(name):
                found[name] = mask & (
                    self._project_structure(name, get_original_weight(self.layers[name].module) * mask) != 0
                )
        return found

    def _depends_on_tiles(self, name: str) -> bool:
        """Whether the layer's structure refers to tiles, so that an emptied row or column would invalidate it."""
        structure = self.structures.get(name)
        return structure is not None and bool(structure.blocks or structure.one_sign or structure.column_nonzeros)

    def _find_signs(self, name: str, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
        """The sign of each weight's fragment, in the weight's shape; None without polarisation."""
        structure = self.structures.get(name)
        if structure is None or not structure.one_sign:
            return None
        layer = self.layers[name]
        matrix = as_matrix(weight.detach() * mask, layer.groups)
        used = as_matrix(mask, layer.groups)
        rows, columns = used.any(dim=2), used.any(dim=1)
        signs = torch.ones_like(matrix)
        cuts = group_fragments(rows.sum(dim=1).cpu().numpy(), columns.sum(dim=1).cpu().numpy(), self.shape)
        for group, fragments in enumerate(cuts):
            kept = torch.nonzero(rows[group])[:, 0]
            for start, length in fragments:
                part = kept[start : start + length]
                signs[group, part] = torch.where(matrix[group, part].sum(dim=0, keepdim=True) < 0, -1.0, 1.0)
        return as_weight(signs, weight.shape).contiguous()

    # --- counts and export -------------------------------------------------------------------------------------------

    def used(self) -> dict[str, torch.Tensor]:
        """Non-zero weights as they would be mapped now, bool [G, K, N] by layer."""
        found = {}
        for name, layer in self.layers.items():
            mapped = get_mapped_weight(layer.module)
            weight = get_original_weight(layer.module).detach()
            values = weight if mapped is None else mapped.values(weight)
            found[name] = as_matrix(values != 0, layer.groups)
        return found

    def tiles(self, names: Iterable[str] | None = None) -> dict[str, int]:
        """Array positions of each layer as the compiler would count them for the present weights."""
        used = self.used()
        chosen = used if names is None else {name: used[name] for name in names}
        return {name: count_tiles(matrix.cpu().numpy(), self.shape) for name, matrix in chosen.items()}

    def dense_tiles(self) -> dict[str, int]:
        """Array positions of each layer without any pruning."""
        return {name: count_tiles(np.ones(layer.shape, dtype=bool), self.shape) for name, layer in self.layers.items()}

    def export(self, path: str | Path, example: torch.Tensor | Sequence[torch.Tensor] | dict[str, Any]) -> Path:
        """Write the projected model as ONNX with the integer weights of training, normalisations folded.

        Inputs stay float: the compiler determines their ranges from the data that it is given for calibration.

        Args:
            path: the file.
            example: an input of the model, several, or a dict by the names of its forward.

        Raises:
            CompileError: not projected yet.
            UserError: what ONNX or its exporter cannot express.
        """
        if not self.projected:
            raise CompileError(
                "the weights are not projected yet; call project() first, and continue training if needed"
            )
        inputs = as_inputs(example)
        plain = build_deployed(self._model, self.layers, (), exact=False)
        try:
            pairs = find_batchnorm_pairs(trace(plain, inputs))
        except CompileError:  # a model that cannot be traced keeps its normalisations as separate operations
            pairs = []
        write_onnx(check_exported(self._model, self.layers, pairs, inputs, "at the export"), Path(path))
        return Path(path)


def _register(module: nn.Module, entry: MappedWeight) -> None:
    """Make the weight of a layer pass through a parametrisation, and keep the parameter and its autograd state."""
    # Registration calls `set_` on the parameter, which gives it another AccumulateGrad node. DistributedDataParallel
    # waits for the node that it knows, so a stand-in is registered, and then replaced by the parameter.
    weight = module._parameters["weight"]
    assert weight is not None
    module._parameters["weight"] = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    parametrize.register_parametrization(module, "weight", entry, unsafe=True)
    module.parametrizations.weight._parameters["original"] = weight  # type: ignore[union-attr]
