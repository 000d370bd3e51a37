"""ADMM's alternation against a textbook version in numpy, its convergence, and its state."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.errors import CompileError

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.optim import SGD  # noqa: E402

from mcompiler.admm.alternation import Residuals, _balance  # noqa: E402
from mcompiler.admm.compressor import Compressor  # noqa: E402
from mcompiler.admm.constraints import project_structure  # noqa: E402
from mcompiler.admm.lowering import as_matrix, as_weight  # noqa: E402
from mcompiler.admm.quantise import LevelSet, fit_scales  # noqa: E402
from mcompiler.admm.spec import Admm, Quantisation, Spec, Structure  # noqa: E402
from tests.support.compression import LAYERS, TARGET, data, net  # noqa: E402

FLOAT = Quantisation(levels=LevelSet.NONE)


class Textbook:
    """Scaled ADMM of one layer with two constraints, in numpy float64 but for the projections (Boyd 2011, 3.1.1)."""

    def __init__(self, name: str, compressor: Compressor, weight: Any) -> None:
        self.name, self.compressor = name, compressor
        self.y, self.z = self.structured(weight), self.levelled(weight, self.structured(weight))
        self.u, self.v = np.zeros_like(weight), np.zeros_like(weight)

    def structured(self, w: Any) -> Any:
        layer = self.compressor.layers[self.name]
        structure = self.compressor.structures.get(self.name, Structure())
        matrix = as_matrix(torch.tensor(w, dtype=torch.float32), layer.groups)
        found = project_structure(matrix, structure, self.compressor.shape, layer.positions)
        return as_weight(found, w.shape).double().numpy()

    def levelled(self, w: Any, support: Any) -> Any:
        layer, levels = self.compressor.layers[self.name], self.compressor.levels[self.name]
        assert levels is not None
        held = np.where(support != 0, w, 0)
        matrix = as_matrix(torch.tensor(held, dtype=torch.float32), layer.groups)
        scale = fit_scales(matrix, levels)
        found = levels.nearest(matrix, scale) * scale[:, None]
        return np.where(support != 0, as_weight(found, w.shape).double().numpy(), 0)

    def penalty(self, w: Any, rho: float) -> float:
        pulls = [np.square(w - self.y + self.u).sum(), np.square(w - self.z + self.v).sum()]
        return float(rho / 2 * sum(pulls))

    def gradient(self, w: Any, rho: float) -> Any:
        return rho * (w - self.y + self.u) + rho * (w - self.z + self.v)

    def update(self, w: Any, rho: float, after: float) -> tuple[float, float, float]:
        y, z = self.structured(w + self.u), self.levelled(w + self.v, self.structured(w + self.u))
        dual = rho * np.sqrt(np.square(y - self.y).sum() + np.square(z - self.z).sum())
        self.u, self.v, self.y, self.z = self.u + w - y, self.v + w - z, y, z
        primal = np.linalg.norm(w - y), np.linalg.norm(w - z)
        self.u, self.v = self.u * rho / after, self.v * rho / after
        norm = np.linalg.norm(w)
        return float(primal[0] / norm), float(primal[1] / norm), float(dual / norm)


def numpy_weights(model: nn.Module, compressor: Compressor) -> dict[str, Any]:
    return {name: layer.weight.detach().double().numpy() for name, layer in compressor.layers.items()}


def test_penalty_gradient_and_updates_are_the_textbook_s() -> None:
    """Three stages of rho, two updates each, with weights that move in between."""
    model = net()
    rhos = (0.01, 0.05, 0.4)
    compressor = Compressor(model, TARGET, Spec(layers=LAYERS, admm=Admm(rho=rhos, epochs=2)))
    books = {name: Textbook(name, compressor, w) for name, w in numpy_weights(model, compressor).items()}
    generator = torch.Generator().manual_seed(1)
    for step in range(7):
        rho = rhos[min(step // 2, 2)]
        assert compressor.rho == rho
        weights = numpy_weights(model, compressor)
        model.zero_grad()
        penalty = compressor.penalty()
        assert float(penalty.detach()) == pytest.approx(
            sum(b.penalty(weights[n], rho) for n, b in books.items()), rel=1e-4
        )
        (3 * penalty).backward()  # type: ignore[no-untyped-call]
        for name, book in books.items():
            gradient = compressor.layers[name].weight.grad
            assert gradient is not None
            expected = 3 * book.gradient(weights[name], rho)
            np.testing.assert_allclose(gradient.double().numpy(), expected, rtol=1e-4, atol=1e-6)
        residuals = compressor.update()
        after = rhos[min((step + 1) // 2, 2)]
        for name, book in books.items():
            primal, levels, dual = book.update(weights[name], rho, after)
            found = residuals[name]
            assert found.rho == rho
            assert found.primal_structure == pytest.approx(primal if name in LAYERS else 0, rel=1e-3, abs=1e-6)
            assert (found.primal_levels, found.dual) == pytest.approx((levels, dual), rel=1e-3, abs=1e-6)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1 << 20), st.booleans(), st.booleans())
def test_the_gradient_of_the_penalty_is_that_of_autograd(seed: int, structured: bool, levelled: bool) -> None:
    model = net(seed)
    layers = LAYERS if structured else {}
    compressor = Compressor(model, TARGET, Spec(layers=layers, admm=Admm(rho=(0.3,), levels=levelled)))
    compressor.penalty()
    compressor.update()
    weights = [layer.weight for layer in compressor.layers.values()]
    parts: list[Any] = []
    for name, state in compressor.state_dict()["states"].items():
        for point, dual in (("y", "u"), ("z", "v")):
            if state[point] is not None:
                parts.append(0.15 * (compressor.layers[name].weight - state[point] + state[dual]).square().sum())
    penalty = compressor.penalty()
    if not parts:
        assert float(penalty) == 0
        assert not penalty.requires_grad
        return
    plain = torch.stack(parts).sum()
    assert float(penalty.detach()) == pytest.approx(float(plain.detach()), rel=1e-4)
    expected = torch.autograd.grad(plain, weights, allow_unused=True)
    found = torch.autograd.grad(penalty, weights, allow_unused=True, retain_graph=True)
    again = torch.autograd.grad(penalty, weights, allow_unused=True)
    for want, first, second in zip(expected, found, again, strict=True):
        assert (want is None) == (first is None)
        if want is not None:
            assert torch.allclose(first, want, rtol=1e-4, atol=1e-6)
            assert torch.equal(first, second)


def test_a_convex_problem_converges_to_its_constrained_optimum() -> None:
    """Minimise |W - A|^2 / 2 with three filters: keep the three of largest norm; residuals vanish."""
    torch.manual_seed(0)
    aim = torch.randn(6, 5) * torch.tensor([0.3, 2.0, 0.2, 1.5, 0.1, 3.0])[:, None]
    model: Any = nn.Sequential(nn.Linear(5, 6, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(6, 5) * 0.1 + aim)
    spec = Spec(layers={"0": Structure(filters=3)}, admm=Admm(rho=(1.0,), epochs=60), quantisation=FLOAT)
    compressor = Compressor(model, TARGET, spec)
    optimiser = SGD(model.parameters(), lr=0.4)
    history = []
    for _ in range(60):
        for _ in range(30):
            optimiser.zero_grad()
            ((model[0].weight - aim).square().sum() / 2 + compressor.penalty()).backward()
            optimiser.step()
        history.append(compressor.update()["0"])
    assert history[0].primal_structure > 0.02
    assert history[-1].primal_structure < 1e-4
    assert history[-1].dual < 1e-4
    kept = torch.tensor([False, True, False, True, False, True])
    compressor.project()
    assert torch.allclose(model[0].weight, aim * kept[:, None], atol=1e-3)


def test_state_dict_round_trip_goes_on_bit_for_bit() -> None:
    def train(model: nn.Module, compressor: Compressor, steps: int) -> None:
        optimiser = SGD(model.parameters(), lr=0.05)
        x, y = data()
        for _ in range(steps):
            optimiser.zero_grad()
            (nn.functional.cross_entropy(model(x), y) + compressor.penalty()).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            compressor.update()

    spec = Spec(layers=LAYERS, admm=Admm(rho=(0.01, 0.1, 0.3), epochs=2))
    model = net()
    compressor = Compressor(model, TARGET, spec)
    train(model, compressor, 3)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(compressor.state_dict())
    train(model, compressor, 3)
    other = net(9)
    other.load_state_dict(weights)
    resumed = Compressor(other, TARGET, spec)
    resumed.load_state_dict(state)
    assert resumed.rho == 0.1
    train(other, resumed, 3)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name
    for mine, theirs in zip(
        compressor.state_dict()["states"].values(), resumed.state_dict()["states"].values(), strict=True
    ):
        assert all((mine[key] is None) == (theirs[key] is None) for key in mine)
        assert all(torch.equal(mine[key], theirs[key]) for key in mine if mine[key] is not None)


def test_a_loaded_state_is_a_copy() -> None:
    compressor = Compressor(net(), TARGET, Spec(layers=LAYERS))
    compressor.update()
    state = compressor.state_dict()
    kept = copy.deepcopy(state)
    other = Compressor(net(), TARGET, Spec(layers=LAYERS))
    other.load_state_dict(state)
    other.update()
    assert torch.equal(state["states"]["0"]["u"], kept["states"]["0"]["u"])


def test_a_state_of_another_model_is_refused() -> None:
    compressor = Compressor(net(), TARGET, Spec(layers=LAYERS))
    compressor.update()
    state = compressor.state_dict()
    other = Compressor(nn.Sequential(nn.Linear(3, 3)), TARGET)
    with pytest.raises(
        CompileError, match="the checkpoint holds the state of a layer '2' that this model does not have"
    ):
        other.load_state_dict({**state, "states": {"2": state["states"]["2"]}})
    with pytest.raises(CompileError, match="node '0': has another shape in the checkpoint; start again without it"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("primal", "dual", "factor"), [(0.3, 0.02, 2.0), (0.3, 0.04, 1.0), (0.02, 0.3, 0.5), (0.0, 0.0, 1.0)]
)
def test_adaptive_rho_balances_the_residuals(primal: float, dual: float, factor: float) -> None:
    assert _balance(Residuals(0.6 * primal, 0.8 * primal, dual, 1.0)) == factor  # a norm of 0.6 and 0.8 is 1


def test_adaptive_rho_keeps_the_dual_variables() -> None:
    states, gradients = [], []
    for adaptive in (False, True):
        model = net()
        compressor = Compressor(
            model, TARGET, Spec(layers=LAYERS, admm=Admm(rho=(1e-3,), adaptive=adaptive), quantisation=FLOAT)
        )
        compressor.update()
        states.append(compressor.state_dict()["states"]["0"])
        compressor.penalty().backward()  # type: ignore[no-untyped-call]
        gradients.append(model[0].weight.grad)
    fixed, scaled = states
    assert float(scaled["factor"]) == 2
    assert torch.allclose(2 * scaled["u"], fixed["u"])  # rho U is the dual variable
    weight = net()[0].weight.detach()
    assert torch.allclose(gradients[1], 2e-3 * (weight - scaled["y"] + scaled["u"]), atol=1e-9)
    restored = Compressor(net(), TARGET, Spec(layers=LAYERS, admm=Admm(rho=(1e-3,), adaptive=True), quantisation=FLOAT))
    restored.load_state_dict(compressor.state_dict())
    assert restored.penalty().item() == compressor.penalty().item()


def test_the_end_of_admm_far_from_the_constraints_is_told() -> None:
    compressor = Compressor(net(), TARGET, Spec(layers=LAYERS, admm=Admm(rho=(1e-4,)), quantisation=FLOAT))
    worst = max(entry.primal for entry in compressor.update().values())
    with pytest.warns(UserWarning, match=rf"ADMM ends far from the constraints.* {worst:.0%}.*raise admm.epochs"):
        compressor.project()
