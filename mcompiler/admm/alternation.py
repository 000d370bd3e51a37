"""The alternation: weights are pulled to where their constraints are, by auxiliaries and duals of every layer.

Minimises f(W) subject to W in P (structure) and W in Q (levels) with auxiliaries Y, Z and scaled duals U, V:
Yuan et al., ISLPED 2019 (arXiv 1908.11691); Boyd et al. 2011, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mcompiler.admm.lowering import Layer, as_matrix, as_weight
from mcompiler.admm.quantise import Levels, best_scale
from mcompiler.admm.spec import Admm
from mcompiler.errors import CompileError


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


class Alternation:
    """Auxiliaries and duals of all layers, from the first penalty or update until the hard projection.

    Args:
        layers: whose weights are pulled.
        structured: names of those that have a structure.
        levels: of each layer; None: its weights stay float.
        nearest: from a layer's name and a weight to the nearest weight that has its structure.
        options: of the stages.
    """

    def __init__(
        self,
        layers: Mapping[str, Layer],
        structured: Collection[str],
        levels: Mapping[str, Levels | None],
        nearest: Callable[[str, torch.Tensor], torch.Tensor],
        options: Admm,
    ) -> None:
        self._layers, self._structured, self._levels = layers, structured, levels
        self._nearest, self._options = nearest, options
        self._updates = 0
        self._states: dict[str, _State] = {}

    @property
    def rho(self) -> float:
        """Penalty of the present stage."""
        per_stage = max(1, self._options.epochs * self._options.updates_per_epoch)
        return self._options.rho[min(self._updates // per_stage, len(self._options.rho) - 1)]

    def penalty(self) -> torch.Tensor:
        """rho/2 |W - Y + U|^2 + rho/2 |W - Z + V|^2 over all layers, a scalar."""
        if not self._states:
            self._start()
        names = [name for name, state in self._states.items() if state.factor > 0]
        states = [self._states[name] for name in names]
        if not names:
            return torch.zeros((), device=next(iter(self._layers.values())).weight.device)
        pull: torch.Tensor = _Pull.apply(  # type: ignore[no-untyped-call]
            [s.factor for s in states], [s.middle for s in states], *(self._layers[name].weight for name in names)
        )
        return pull + sum(state.offset for state in states)

    @torch.no_grad()
    def update(self) -> dict[str, Residuals]:
        """Project W + U and W + V onto the constraints and update the duals.

        Raises:
            CompileError: weights that are not finite.
        """
        if not self._states:
            self._start()
        rho = self.rho
        found = {name: self._update(name, state, rho) for name, state in self._states.items()}
        self._updates += 1
        if self.rho != rho:  # scaled duals are duals / rho
            for state in self._states.values():
                for dual in (state.u, state.v):
                    if dual is not None:
                        dual.mul_(rho / self.rho)
        for state in self._states.values():
            self._aim(state)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Auxiliaries and duals, for a checkpoint."""
        states = {name: {"y": s.y, "u": s.u, "z": s.z, "v": s.v} for name, s in self._states.items()}
        return {"updates": self._updates, "states": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo ``state_dict``; tensors come to where the weights are.

        Raises:
            CompileError: a state of other layers, or of layers of another shape.
        """
        states: dict[str, _State] = {}
        for name, parts in state["states"].items():
            layer = self._layers.get(name)
            if layer is None:
                raise CompileError(f"the saved state is of a layer '{name}', which this model has not; start anew")
            weight = layer.weight.detach()
            moved = {key: None if part is None else part.to(weight.device, copy=True) for key, part in parts.items()}
            if any(part is not None and part.shape != weight.shape for part in moved.values()):
                raise CompileError("has another shape in the saved state; start anew", name)
            states[name] = _State(**moved, middle=torch.empty_like(weight), factor=0.0, offset=0.0)
        self._updates, self._states = int(state["updates"]), states
        for entry in states.values():
            self._aim(entry)

    def clear(self) -> None:
        """Behind the hard projection nothing is pulled any more."""
        self._states.clear()

    def _start(self) -> None:
        """Y and Z are the projections of W, the duals zero."""
        with torch.no_grad():
            for name, layer in self._layers.items():
                weight = layer.weight.detach()
                y = self._nearest(name, weight) if name in self._structured else None
                z = self._levelled(name, weight, y) if self._levels[name] is not None else None
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
        weight = self._layers[name].weight.detach()
        norm = float(weight.norm()) or 1.0
        if not torch.isfinite(weight).all():
            raise CompileError("its weights are not finite any more; lower the learning rate or admm.rho", name)
        primal, dual = [0.0, 0.0], 0.0
        if state.y is not None and state.u is not None:
            y = self._nearest(name, weight + state.u)
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

    def _levelled(self, name: str, weight: torch.Tensor, structured: torch.Tensor | None) -> torch.Tensor:
        """The nearest weight on levels; what the structure prunes is not mapped and so zero."""
        levels, layer = self._levels[name], self._layers[name]
        assert levels is not None
        held = weight if structured is None else torch.where(structured != 0, weight, torch.zeros_like(weight))
        matrix = as_matrix(held, layer.groups)
        scale = best_scale(matrix, levels)
        values = as_weight(levels.nearest(matrix, scale) * scale[:, None], weight.shape).contiguous()
        return values if structured is None else torch.where(structured != 0, values, torch.zeros_like(values))
