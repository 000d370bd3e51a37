"""ADMM in three lines of anyone's training loop: ``penalty()``, ``update()``, ``project()``.

    compressor = Compressor(model, target, spec)
    for epoch in range(epochs):
        for x, y in batches:
            loss = criterion(model(x), y) + compressor.penalty()
            ...
        compressor.update()
    compressor.project()  # from here on the weights obey their constraints, in training too

Minimises f(W) subject to W in P (structure) and W in Q (levels) with auxiliaries Y, Z and scaled duals U, V:
Yuan et al., ISLPED 2019 (arXiv 1908.11691); Boyd et al. 2011, section 3.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from mcompiler.admm.constraints import Structure, check_structure, project_structure
from mcompiler.admm.export import mapped_weight, original_weight, to_onnx, write_onnx
from mcompiler.admm.lowering import as_matrix, as_weight, find_layers
from mcompiler.admm.noise import cell_errors, injected
from mcompiler.admm.quantise import Levels, MappedWeight, best_scale, weight_levels
from mcompiler.admm.spec import Spec, as_spec
from mcompiler.admm.surgery.channels import fold_batchnorm_pairs, trace
from mcompiler.errors import CompileError
from mcompiler.geometry import array_shape, count_tiles, group_fragments
from mcompiler.target import Target, WeightEncoding, load_target

NOTHING_LEFT = "has no weight left; loosen its structure or the budget, or name it in `skip`"


@dataclass(frozen=True)
class Residuals:
    """How far one layer is from its constraints after an update.

    Attributes:
        primal_structure, primal_levels: |W - Y| / |W|, |W - Z| / |W|; 0 where there is no such constraint.
        dual: rho |change of Y and Z| / |W|.
        rho: of this update.
    """

    primal_structure: float
    primal_levels: float
    dual: float
    rho: float


@dataclass
class _State:
    """Auxiliaries and scaled duals of one layer, in the weight's shape; None where there is no such constraint."""

    y: torch.Tensor | None
    u: torch.Tensor | None
    z: torch.Tensor | None
    v: torch.Tensor | None
    middle: torch.Tensor  # the one point that the penalty pulls to
    factor: float  # rho / 2 for each constraint
    offset: float  # what the pull to one point leaves out of the value


class _Pull(torch.autograd.Function):
    """sum_i c_i |W_i - M_i|^2; its gradient is 2 c_i (W_i - M_i)."""

    @staticmethod
    def forward(ctx: Any, factors: list[float], middles: list[torch.Tensor], *weights: torch.Tensor) -> torch.Tensor:
        differences = torch._foreach_sub(list(weights), middles)
        ctx.save_for_backward(*differences)
        ctx.factors = factors
        norms = torch.stack(torch._foreach_norm(differences))
        return (norms.square() * torch.tensor(factors, dtype=norms.dtype, device=norms.device)).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        scales = [2 * factor * grads[0] for factor in ctx.factors]
        return None, None, *torch._foreach_mul(ctx.saved_tensors, scales)


class Compressor:
    """Constraints on the layers of a model, and the state of the alternation.

    Args:
        model: a trained model; its weights are changed by training, by ``project`` only then.
        target: the chip, by name, file or object; it sets levels and tile geometry.
        spec: hyper-parameters, or a file of them; structures by layer are in ``spec.layers``.
        structures: more structures, of a budget search.

    Raises:
        CompileError: a layer or structure that cannot be had on this target; the message names layer and remedy.
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
                "structures in `layers`, or take admm.compress"
            )
        self._model = model
        self.target = target if isinstance(target, Target) else load_target(target)
        self.shape = array_shape(self.target)
        self.structures = {**(structures or {}), **self.spec.layers}
        self.layers = find_layers(model, self.spec.skip, self.structures)
        if self.target.encoding.weights is WeightEncoding.POLARISED:  # it holds nothing else
            for name in self.layers:
                self.structures[name] = replace(self.structures.get(name, Structure()), one_sign=True)
        self.levels: dict[str, Levels | None] = {
            name: weight_levels(self.target, self.spec.quantisation.levels, name) for name in self.layers
        }
        for name, structure in self.structures.items():
            layer = self.layers[name]
            check_structure(name, structure, *layer.shape, layer.positions, self.target)
        if self.spec.retrain.noise is not None:
            injected(self.spec.retrain.noise, self.target)  # raises here what would end hours of training
        self.updates = 0
        self.projected = False
        self._states: dict[str, _State] = {}

    # --- the alternation ---------------------------------------------------------------------------------------------

    @property
    def rho(self) -> float:
        """Penalty of the present stage."""
        admm = self.spec.admm
        per_stage = max(1, admm.epochs * admm.updates_per_epoch)
        return admm.rho[min(self.updates // per_stage, len(admm.rho) - 1)]

    def penalty(self) -> torch.Tensor:
        """rho/2 |W - Y + U|^2 + rho/2 |W - Z + V|^2 over all layers, a scalar to add to the loss; 0 once projected."""
        if self.projected:
            return torch.zeros((), device=next(iter(self.layers.values())).weight.device)
        if not self._states:
            self._start()
        names = [name for name, state in self._states.items() if state.factor > 0]
        states = [self._states[name] for name in names]
        if not names:
            return torch.zeros((), device=next(iter(self.layers.values())).weight.device)
        pull: torch.Tensor = _Pull.apply(  # type: ignore[no-untyped-call]
            [s.factor for s in states], [s.middle for s in states], *(self.layers[name].weight for name in names)
        )
        return pull + sum(state.offset for state in states)

    @torch.no_grad()
    def update(self) -> dict[str, Residuals]:
        """Project W + U and W + V onto the constraints and update the duals; call it once an epoch, or more often.

        Behind ``project`` it fits the scales of the levels to the weights as they are, and returns nothing.
        """
        if self.projected:
            for layer in self.layers.values():
                mapped = mapped_weight(layer.module)
                if mapped is not None:
                    mapped.refit(original_weight(layer.module))
            return {}
        if not self._states:
            self._start()
        rho = self.rho
        found = {name: self._update(name, state, rho) for name, state in self._states.items()}
        self.updates += 1
        if self.rho != rho:  # scaled duals are duals / rho
            for state in self._states.values():
                for dual in (state.u, state.v):
                    if dual is not None:
                        dual.mul_(rho / self.rho)
        for state in self._states.values():
            self._aim(state)
        return found

    def _start(self) -> None:
        """Y and Z are the projections of W, the duals zero."""
        with torch.no_grad():
            for name, layer in self.layers.items():
                weight = layer.weight.detach()
                structured = name in self.structures
                levelled = self.spec.admm.levels and self.levels[name] is not None
                y = self._structured(name, weight) if structured else None
                z = self._levelled(name, weight, y) if levelled else None
                u, v = (None if part is None else torch.zeros_like(weight) for part in (y, z))
                state = _State(y, u, z, v, middle=torch.empty_like(weight), factor=0.0, offset=0.0)
                self._aim(state)
                self._states[name] = state

    def _aim(self, state: _State) -> None:
        """|W - A|^2 + |W - B|^2 = 2 |W - (A + B) / 2|^2 + |A - B|^2 / 2: one pull does for both constraints."""
        points = [a - d for a, d in ((state.y, state.u), (state.z, state.v)) if a is not None and d is not None]
        if not points:
            return
        state.factor = self.rho / 2 * len(points)
        if len(points) == 1:
            state.middle.copy_(points[0])
            state.offset = 0.0
        else:
            torch.add(points[0], points[1], out=state.middle).mul_(0.5)
            state.offset = self.rho / 4 * float((points[0] - points[1]).square().sum())

    def _update(self, name: str, state: _State, rho: float) -> Residuals:
        weight = self.layers[name].weight.detach()
        norm = float(weight.norm()) or 1.0
        if not torch.isfinite(weight).all():
            raise CompileError("its weights are not finite any more; lower the learning rate or admm.rho", name)
        primal, dual = [0.0, 0.0], 0.0
        if state.y is not None and state.u is not None:
            y = self._structured(name, weight + state.u)
            dual += float((y - state.y).square().sum())
            state.y = y
            state.u.add_(weight).sub_(y)
            primal[0] = float((weight - y).norm()) / norm
        if state.z is not None and state.v is not None:
            z = self._levelled(name, weight + state.v, state.y)
            dual += float((z - state.z).square().sum())
            state.z = z
            state.v.add_(weight).sub_(z)
            primal[1] = float((weight - z).norm()) / norm
        return Residuals(primal[0], primal[1], rho * dual**0.5 / norm, rho)

    def _structured(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The nearest weight that has the layer's structure."""
        layer = self.layers[name]
        matrix = project_structure(as_matrix(weight, layer.groups), self.structures[name], self.shape, layer.positions)
        return as_weight(matrix, weight.shape).contiguous()

    def _levelled(self, name: str, weight: torch.Tensor, structured: torch.Tensor | None) -> torch.Tensor:
        """The nearest weight on levels; what the structure prunes is not mapped and so zero."""
        levels, layer = self.levels[name], self.layers[name]
        assert levels is not None
        held = weight if structured is None else torch.where(structured != 0, weight, torch.zeros_like(weight))
        matrix = as_matrix(held, layer.groups)
        scale = best_scale(matrix, levels)
        values = as_weight(levels.nearest(matrix, scale) * scale[:, None], weight.shape).contiguous()
        return values if structured is None else torch.where(structured != 0, values, torch.zeros_like(values))

    # --- the hard projection -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def masks(self) -> dict[str, torch.Tensor]:
        """What may be non-zero, bool in the weight's shape, if the weights were projected now.

        Raises:
            CompileError: a layer of which nothing is left.
        """
        found = {}
        for name, layer in self.layers.items():
            weight = original_weight(layer.module).detach()
            mask = torch.ones_like(weight, dtype=torch.bool)
            if name in self.structures:  # a weight that happens to be zero stands in a kept line all the same
                mask = self._structured(name, torch.where(weight == 0, torch.full_like(weight, 1e-20), weight)) != 0
            if not mask.any():
                raise CompileError(NOTHING_LEFT, name)
            found[name] = mask
        return found

    @torch.no_grad()
    def project(
        self, masks: Mapping[str, torch.Tensor] | None = None, *, levels: bool = True
    ) -> dict[str, torch.Tensor]:
        """Project the weights onto their constraints for good: masked mapping.

        A parametrisation then holds them there: pruned weights are zero, the others take levels in the forward pass,
        whatever optimiser goes on. Optimisers that hold the parameters go on working.

        Args:
            masks: what may be non-zero, where something else than ``masks()`` is meant (purification).
            levels: False: masks only; a later call with True adds the levels.

        Returns:
            The masks, bool in the weight's shape.

        Raises:
            CompileError: a layer of which nothing is left.
        """
        masks = self.masks() if masks is None else dict(masks)
        for name, given in masks.items():
            layer = self.layers[name]
            module, weight = layer.module, original_weight(layer.module)
            mask = given.to(weight.device)
            if not mask.any():
                raise CompileError(NOTHING_LEFT, name)
            kind = self.levels[name] if levels else None
            held = mapped_weight(module)
            if held is None:
                sign = self._signs(name, weight, mask)
                groups, _, columns = layer.shape
                scale = torch.ones(groups, columns, device=weight.device, dtype=weight.dtype)
                entry = MappedWeight(mask, scale, groups, kind, sign)
                weight.mul_(mask)
                parametrize.register_parametrization(module, "weight", entry, unsafe=True)
            else:
                held.mask.copy_(mask)
                held.levels = kind
                weight.mul_(mask)
                entry = held
            entry.hold_lines = self._aligned(name)
            entry.noise = cell_errors(self.spec.retrain.noise, self.target, entry, kind is not None)
            entry.refit(original_weight(module))
        self.projected = True
        self._states.clear()
        return masks

    @torch.no_grad()
    def fitted(self, masks: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Masks that hold for the layers as they are cut now: rows that went have moved what stands in which tile."""
        found = dict(masks)
        for name, mask in masks.items():
            if self._aligned(name):
                found[name] = mask & (self._structured(name, original_weight(self.layers[name].module) * mask) != 0)
        return found

    def _aligned(self, name: str) -> bool:
        """Whether a row or column that rounds to zero would shift what stands in which tile."""
        structure = self.structures.get(name)
        return structure is not None and bool(structure.blocks or structure.one_sign or structure.column_nonzeros)

    def _signs(self, name: str, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
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

    # --- what others ask ---------------------------------------------------------------------------------------------

    def used(self) -> dict[str, torch.Tensor]:
        """Non-zero weights as they would be mapped now, bool [G, K, N] by layer."""
        found = {}
        for name, layer in self.layers.items():
            mapped = mapped_weight(layer.module)
            weight = original_weight(layer.module).detach()
            values = weight if mapped is None else mapped.values(weight)
            found[name] = as_matrix(values != 0, layer.groups)
        return found

    def tiles(self, names: Iterable[str] | None = None) -> dict[str, int]:
        """Array positions of each layer as the compiler would count them now."""
        used = self.used()
        chosen = used if names is None else {name: used[name] for name in names}
        return {name: count_tiles(matrix.cpu().numpy(), self.shape) for name, matrix in chosen.items()}

    def dense_tiles(self) -> dict[str, int]:
        """Array positions of each layer without any pruning."""
        return {name: count_tiles(np.ones(layer.shape, dtype=bool), self.shape) for name, layer in self.layers.items()}

    def export(self, path: str | Path, example: torch.Tensor | Sequence[torch.Tensor]) -> Path:
        """Write the projected model as ONNX with the integer weights that training found, normalisations folded.

        Inputs stay float: the compiler takes their ranges from calibration data.

        Args:
            path: the file.
            example: an input of the model, or several.

        Raises:
            CompileError: not projected yet.
            UserError: what ONNX or its exporter cannot carry.
        """
        if not self.projected:
            raise CompileError("the weights are not projected yet; call project() first, and train on if you like")
        inputs = (example,) if isinstance(example, torch.Tensor) else tuple(example)
        plain = copy.deepcopy(self._model)
        for name in self.layers:
            parametrize.remove_parametrizations(plain.get_submodule(name), "weight")
        try:
            pairs = fold_batchnorm_pairs(trace(plain, inputs))
        except CompileError:  # a model that cannot be traced keeps its normalisations
            pairs = []
        write_onnx(to_onnx(self._model, self.layers, pairs, inputs), Path(path))
        return Path(path)

    def state_dict(self) -> dict[str, Any]:
        """Auxiliaries and duals, for a checkpoint before the projection."""
        states = {name: {"y": s.y, "u": s.u, "z": s.z, "v": s.v} for name, s in self._states.items()}
        return {"updates": self.updates, "states": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo ``state_dict``; tensors come to where the weights are.

        Raises:
            CompileError: a state of other layers, or of layers of another shape.
        """
        states: dict[str, _State] = {}
        for name, parts in state["states"].items():
            layer = self.layers.get(name)
            if layer is None:
                raise CompileError(f"the saved state is of a layer '{name}', which this model has not; start anew")
            weight = layer.weight.detach()
            moved = {key: None if part is None else part.to(weight.device, copy=True) for key, part in parts.items()}
            if any(part is not None and part.shape != weight.shape for part in moved.values()):
                raise CompileError("has another shape in the saved state; start anew", name)
            states[name] = _State(**moved, middle=torch.empty_like(weight), factor=0.0, offset=0.0)
        self.updates, self._states = int(state["updates"]), states
        for entry in states.values():
            self._aim(entry)
