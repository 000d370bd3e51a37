"""ADMM's alternation: auxiliaries and duals of every layer, and the penalty that pulls the weights to the constraints.

Minimises f(W) subject to W in P (structure) and W in Q (levels) with auxiliaries Y, Z and scaled duals U, V:
Yuan et al., ISLPED 2019 (arXiv 1908.11691); Boyd et al. 2011, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mcompiler.admm.lowering import CompressibleLayer, as_matrix, as_weight
from mcompiler.admm.quantise import Levels, fit_scales
from mcompiler.admm.spec import Admm
from mcompiler.errors import CompileError

LARGE_RESIDUAL = 0.1
"""Distance from the constraints, relative to the weights, from which the end of ADMM is worth a warning."""

BALANCE, RHO_STEP = 10.0, 2.0
"""Adaptive rho: ratio of the residuals from which it changes, and the factor (Boyd et al. 2011, section 3.4.1)."""


@dataclass(frozen=True)
class Residuals:
    """Distance of one layer from its constraints after an update.

    Attributes:
        primal_structure, primal_levels: |W - Y| / |W|, |W - Z| / |W|; 0 where there is no such constraint.
        dual: rho |change of Y and Z| / |W|.
        rho: of this update.
    """

    primal_structure: float
    primal_levels: float
    dual: float
    rho: float

    @property
    def primal(self) -> float:
        """The larger of the two distances from the constraints."""
        return max(self.primal_structure, self.primal_levels)


def describe_large_residuals(residuals: Mapping[str, Residuals]) -> str | None:
    """A warning for layers that are far from their constraints when ADMM ends; None where there is none."""
    large = {name: entry.primal for name, entry in residuals.items() if entry.primal > LARGE_RESIDUAL}
    if not large:
        return None
    names = ", ".join(f"'{name}' {share:.0%}" for name, share in sorted(large.items(), key=lambda item: -item[1])[:5])
    more = f" and {len(large) - 5} more layers" if len(large) > 5 else ""
    return (
        f"ADMM ends far from the constraints, and the projection will change the weights: {names}{more} of their norm; "
        "raise admm.epochs or the last values of admm.rho, or loosen the structure"
    )


@dataclass
class _AdmmVariables:
    """Auxiliaries and scaled duals of one layer, in the weight's shape; None where there is no such constraint.

    Its rho is that of the stage times ``factor``, its penalty ``coefficient`` |W - ``centre``|^2 + ``constant``.
    """

    y: torch.Tensor | None
    u: torch.Tensor | None
    z: torch.Tensor | None
    v: torch.Tensor | None
    centre: torch.Tensor
    factor: float = 1.0
    coefficient: float = 0.0
    constant: float = 0.0


def _balance(residuals: Residuals) -> float:
    """The factor of a layer's rho that brings its primal and dual residual closer to each other."""
    primal = math.hypot(residuals.primal_structure, residuals.primal_levels)
    if primal > BALANCE * residuals.dual:
        return RHO_STEP
    return 1 / RHO_STEP if residuals.dual > BALANCE * primal else 1.0


class _QuadraticPenalty(torch.autograd.Function):
    """sum_i c_i |W_i - M_i|^2; its gradient is 2 c_i (W_i - M_i).

    It is evaluated in every training step on all layers. Written as one autograd function it takes three fused calls
    for all layers together and keeps only the differences; autograd would record several operations for every layer.
    """

    @staticmethod
    def forward(
        ctx: Any, coefficients: list[float], centres: list[torch.Tensor], *weights: torch.Tensor
    ) -> torch.Tensor:
        differences = torch._foreach_sub(list(weights), centres)
        ctx.save_for_backward(*differences)
        ctx.coefficients = coefficients
        norms = torch.stack(torch._foreach_norm(differences))
        return (norms.square() * torch.tensor(coefficients, dtype=norms.dtype, device=norms.device)).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        scales = [2 * coefficient * grads[0] for coefficient in ctx.coefficients]
        return None, None, *torch._foreach_mul(ctx.saved_tensors, scales)


class Alternation:
    """Auxiliaries and duals of all layers, from the first penalty or update until the hard projection.

    Args:
        layers: the layers to which the penalty applies.
        structured: names of the layers that have a structure.
        levels: of each layer; None: its weights stay float.
        project_structure: from a layer's name and a weight to the nearest weight that has the layer's structure.
        options: of the ADMM stages.

    Attributes:
        residuals: of the last update, by layer.
    """

    def __init__(
        self,
        layers: Mapping[str, CompressibleLayer],
        structured: Collection[str],
        levels: Mapping[str, Levels | None],
        project_structure: Callable[[str, torch.Tensor], torch.Tensor],
        options: Admm,
    ) -> None:
        self._layers, self._structured, self._levels = layers, structured, levels
        self._project_structure, self._options = project_structure, options
        self._updates = 0
        self._variables: dict[str, _AdmmVariables] = {}
        self.residuals: dict[str, Residuals] = {}

    @property
    def rho(self) -> float:
        """Penalty parameter of the present stage."""
        per_stage = max(1, self._options.epochs * self._options.updates_per_epoch)
        return self._options.rho[min(self._updates // per_stage, len(self._options.rho) - 1)]

    def penalty(self) -> torch.Tensor:
        """rho/2 |W - Y + U|^2 + rho/2 |W - Z + V|^2 over all layers, a scalar."""
        if not self._variables:
            self._initialise()
        names = [name for name, variables in self._variables.items() if variables.coefficient > 0]
        constrained = [self._variables[name] for name in names]
        if not names:
            return torch.zeros((), device=next(iter(self._layers.values())).weight.device)
        distance: torch.Tensor = _QuadraticPenalty.apply(  # type: ignore[no-untyped-call]
            [variables.coefficient for variables in constrained],
            [variables.centre for variables in constrained],
            *(self._layers[name].weight for name in names),
        )
        return distance + sum(variables.constant for variables in constrained)

    @torch.no_grad()
    def update(self) -> dict[str, Residuals]:
        """Project W + U and W + V onto the constraints and update the duals.

        Raises:
            CompileError: weights that are not finite.
        """
        if not self._variables:
            self._initialise()
        rho = self.rho
        residuals = {name: self._update(name, v, rho * v.factor) for name, v in self._variables.items()}
        self._updates += 1
        self.residuals = residuals
        # U and V are the dual variables divided by rho. The dual variables do not change when a stage begins, so the
        # scaled ones shrink by the factor by which rho grows (Boyd et al. 2011, section 3.4.1).
        for name, variables in self._variables.items():
            before = rho * variables.factor
            if self._options.adaptive:
                variables.factor *= _balance(residuals[name])
            if self.rho * variables.factor != before:
                for dual in (variables.u, variables.v):
                    if dual is not None:
                        dual.mul_(before / (self.rho * variables.factor))
        for variables in self._variables.values():
            self._merge_penalty_terms(variables)
        return residuals

    def state_dict(self) -> dict[str, Any]:
        """Auxiliaries and duals, for a checkpoint."""
        states = {
            name: {"y": part.y, "u": part.u, "z": part.z, "v": part.v, "factor": torch.tensor(part.factor)}
            for name, part in self._variables.items()
        }
        return {"updates": self._updates, "states": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; tensors are moved to the device of the weights.

        Raises:
            CompileError: a state of other layers, or of layers of another shape.
        """
        loaded: dict[str, _AdmmVariables] = {}
        for name, parts in state["states"].items():
            layer = self._layers.get(name)
            if layer is None:
                raise CompileError(
                    f"the checkpoint holds the state of a layer '{name}' that this model does not have; start again "
                    "without it"
                )
            weight = layer.weight.detach()
            y, u, z, v = (
                None if parts[key] is None else parts[key].to(weight.device, copy=True) for key in ("y", "u", "z", "v")
            )
            if any(part is not None and part.shape != weight.shape for part in (y, u, z, v)):
                raise CompileError("has another shape in the checkpoint; start again without it", name)
            loaded[name] = _AdmmVariables(
                y, u, z, v, centre=torch.empty_like(weight), factor=float(parts.get("factor", 1.0))
            )
        self._updates, self._variables = int(state["updates"]), loaded
        for variables in loaded.values():
            self._merge_penalty_terms(variables)

    def clear(self) -> None:
        """Forget auxiliaries and duals: after the hard projection there is no penalty."""
        self._variables.clear()

    def _initialise(self) -> None:
        """Y and Z are the projections of W, the duals zero."""
        with torch.no_grad():
            for name, layer in self._layers.items():
                weight = layer.weight.detach()
                y = self._project_structure(name, weight) if name in self._structured else None
                z = self._project_levels(name, weight, y) if self._levels[name] is not None else None
                u, v = (None if part is None else torch.zeros_like(weight) for part in (y, z))
                self._variables[name] = _AdmmVariables(y, u, z, v, centre=torch.empty_like(weight))
                self._merge_penalty_terms(self._variables[name])

    def _merge_penalty_terms(self, variables: _AdmmVariables) -> None:
        """Write the penalty of a layer as one quadratic term and a constant."""
        pairs = ((variables.y, variables.u), (variables.z, variables.v))
        points = [auxiliary - dual for auxiliary, dual in pairs if auxiliary is not None and dual is not None]
        if not points:
            return
        rho = self.rho * variables.factor
        variables.coefficient = rho / 2 * len(points)
        if len(points) == 1:
            variables.centre.copy_(points[0])
            variables.constant = 0.0
            return
        # |W - A|^2 + |W - B|^2 = 2 |W - (A + B) / 2|^2 + |A - B|^2 / 2: the gradient of both terms is that of one term
        # with the mean as its centre. The last part does not depend on W; it only makes the reported value right.
        torch.add(points[0], points[1], out=variables.centre).mul_(0.5)
        variables.constant = rho / 4 * float((points[0] - points[1]).square().sum())

    def _update(self, name: str, variables: _AdmmVariables, rho: float) -> Residuals:
        weight = self._layers[name].weight.detach()
        norm = float(weight.norm()) or 1.0
        if not torch.isfinite(weight).all():
            raise CompileError("its weights are not finite any more; lower the learning rate or admm.rho", name)
        # Both constraints see the same W: given W, the augmented Lagrangian separates into one term for (Y, U) and one
        # for (Z, V), and its minimum over Y is the projection of W + U (over Z, of W + V). The dual then grows by the
        # distance W - Y that remains.
        primal, dual = [0.0, 0.0], 0.0
        if variables.y is not None and variables.u is not None:
            y = self._project_structure(name, weight + variables.u)
            dual += float((y - variables.y).square().sum())
            variables.y = y
            variables.u.add_(weight).sub_(y)
            primal[0] = float((weight - y).norm()) / norm
        if variables.z is not None and variables.v is not None:
            z = self._project_levels(name, weight + variables.v, variables.y)
            dual += float((z - variables.z).square().sum())
            variables.z = z
            variables.v.add_(weight).sub_(z)
            primal[1] = float((weight - z).norm()) / norm
        return Residuals(primal[0], primal[1], rho * dual**0.5 / norm, rho)

    def _project_levels(self, name: str, weight: torch.Tensor, structured: torch.Tensor | None) -> torch.Tensor:
        """The nearest weight on levels; weights that the structure prunes are zero."""
        levels, layer = self._levels[name], self._layers[name]
        assert levels is not None
        # Pruned weights are not mapped. They are left out before the scales are fitted, so that a scale fits the
        # remaining weights, and set to zero afterwards, since a level set without zero would give them a level.
        remaining = weight if structured is None else torch.where(structured != 0, weight, torch.zeros_like(weight))
        matrix = as_matrix(remaining, layer.groups)
        scale = fit_scales(matrix, levels)
        values = as_weight(levels.nearest(matrix, scale) * scale[:, None], weight.shape).contiguous()
        return values if structured is None else torch.where(structured != 0, values, torch.zeros_like(values))
