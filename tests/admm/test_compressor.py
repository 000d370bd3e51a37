"""The hard projection under real optimisers, and what the compressor refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import pytest

from mcompiler.errors import CompileError
from mcompiler.geometry import group_fragments
from mcompiler.target import load_target

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.optim import SGD, Adam, Optimizer  # noqa: E402

from mcompiler.admm.compressor import Compressor  # noqa: E402
from mcompiler.admm.constraints import project_structure  # noqa: E402
from mcompiler.admm.export import get_mapped_weight, get_original_weight  # noqa: E402
from mcompiler.admm.lowering import as_matrix, as_weight  # noqa: E402
from mcompiler.admm.quantise import LevelSet  # noqa: E402
from mcompiler.admm.spec import Admm, Quantisation, Spec, Structure  # noqa: E402
from tests.support.compression import LAYERS, SMALL, TARGET, data, net  # noqa: E402

POLARISED = load_target(
    "generic_128", [*SMALL, "array.rows_active=4", "encoding.weights=polarised", "encoding.pedestal=digital_count"]
)
FLOAT = Quantisation(levels=LevelSet.NONE)


def holds(compressor: Compressor) -> None:
    """Every constraint, checked without the projections; on kept lines while weights are float and may be zero."""
    for name, layer in compressor.layers.items():
        matrix = as_matrix(layer.weight.detach(), layer.groups)
        used = matrix != 0
        structure = compressor.structures.get(name, Structure())
        if structure.filters is not None:
            assert int(used.any(dim=1).sum()) <= structure.filters
        if structure.shapes is not None:
            assert int(used.any(dim=2).sum()) <= structure.shapes
        if structure.blocks is not None:
            assert compressor.tiles()[name] <= structure.blocks
        mapped = get_mapped_weight(layer.module)
        assert mapped is not None
        kept_lines = used if mapped.levels is not None else as_matrix(mapped.mask, layer.groups)
        rows, columns = kept_lines.any(dim=2), kept_lines.any(dim=1)
        cuts = group_fragments(rows.sum(dim=1).numpy(), columns.sum(dim=1).numpy(), compressor.shape)
        for group in range(len(matrix)):
            kept = matrix[group][rows[group]]
            if structure.column_nonzeros is not None:
                for start in range(0, len(kept), compressor.shape.rows):
                    part = kept[start : start + compressor.shape.rows]
                    assert int((part != 0).sum(dim=0).max()) <= structure.column_nonzeros
            if structure.one_sign:
                for start, length in cuts[group]:
                    part = kept[start : start + length]
                    assert not bool(((part > 0).any(dim=0) & (part < 0).any(dim=0)).any())
        levels = compressor.levels[name]
        if levels is not None and mapped.levels is not None:
            codes = matrix / mapped.scale[:, None]
            assert torch.allclose(codes, codes.round(), atol=1e-3)
            assert float(codes.abs().max()) <= levels.top + 1e-3


OPTIMISERS: Mapping[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: Adam(p, lr=0.02, weight_decay=0.01),
}
CHIPS = {
    "pair": (TARGET, LAYERS),
    "polarised": (
        POLARISED,
        {"0": Structure(one_sign=True, filters=5), "2": Structure(one_sign=True, column_nonzeros=2)},
    ),
}


@pytest.mark.parametrize("kind", OPTIMISERS)
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("levels", [True, False])
def test_constraints_hold_through_further_training(kind: str, chip: str, levels: bool) -> None:
    """The optimiser was made before the projection, has momentum of every weight, and goes on training."""
    model = net()
    target, layers = CHIPS[chip]
    compressor = Compressor(model, target, Spec(layers=layers, admm=Admm(rho=(0.01,))))
    optimiser = OPTIMISERS[kind](model.parameters())
    x, y = data()

    def step() -> float:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y) + compressor.penalty()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return float(loss.detach())

    for _ in range(5):
        step()
    compressor.update()
    masks = compressor.project(levels=levels)
    holds(compressor)
    assert float(compressor.penalty()) == 0
    before = {name: get_original_weight(layer.module).detach().clone() for name, layer in compressor.layers.items()}
    losses = [step() for _ in range(40)]
    holds(compressor)
    assert losses[-1] < losses[0] * 0.95
    for name, layer in compressor.layers.items():
        assert not torch.equal(before[name], get_original_weight(layer.module))  # the old optimiser trains what it held
        assert not bool(layer.weight[~masks[name]].any())
    assert compressor.update() == {}
    holds(compressor)


def test_levels_may_follow_later() -> None:
    model = net()
    compressor = Compressor(model, TARGET, Spec(layers=LAYERS))
    masks = compressor.project(levels=False)
    floats = {name: layer.weight.detach().clone() for name, layer in compressor.layers.items()}
    holds(compressor)
    assert len(set(floats["0"][masks["0"]].tolist())) == 36
    compressor.project(masks, levels=True)
    holds(compressor)
    for name, layer in compressor.layers.items():
        error = float((layer.weight.detach() - floats[name]).norm() / floats[name].norm())
        assert 0 < error < 0.15
        assert len(set(layer.weight.flatten().tolist())) <= 15 * layer.shape[0] * layer.shape[2]


def test_the_projection_is_that_of_the_weights_themselves() -> None:
    """Hard projection: each kept weight stays as it is, the nearest point of the structure."""
    model = net()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    compressor = Compressor(model, TARGET, Spec(layers=LAYERS, quantisation=FLOAT))
    compressor.project()
    for name, layer in compressor.layers.items():
        w = before[f"{name}.weight"]
        matrix = as_matrix(w, layer.groups)
        nearest = project_structure(matrix, LAYERS[name], compressor.shape, layer.positions)
        assert torch.equal(layer.weight.detach(), as_weight(nearest, w.shape))
    assert torch.equal(model.get_parameter("0.bias"), before["0.bias"])


def test_weights_that_happen_to_be_zero_may_grow() -> None:
    model = net()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = 0
        model[4].weight[:, 3] = 0
    compressor = Compressor(model, TARGET, Spec(layers={"0": Structure(filters=6)}))
    masks = compressor.project(levels=False)
    assert all(bool(mask.all()) for mask in masks.values())
    model[0].weight.sum().backward()
    gradient = get_original_weight(model[0]).grad
    assert gradient is not None
    assert float(gradient[0, 0, 0, 0]) == 1


def test_an_all_zero_layer_can_be_projected() -> None:
    model = net()
    nn.init.zeros_(model[4].weight)
    compressor = Compressor(model, TARGET, Spec(layers=LAYERS))
    compressor.penalty()
    assert compressor.update()["4"].primal_structure == 0
    compressor.project()
    assert float(model[4].weight.detach().abs().max()) < 2e-3  # what holds its rows and columns is as good as zero
    assert compressor.tiles()["4"] == 2


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"5": Structure(filters=1)}, r"the model has no layer '5'; the layers are '0', '2', '4'"),
        ({"1": Structure(filters=1)}, r"'1' \(ReLU\) is not mapped to crossbars"),
        ({"0": Structure(one_sign=True)}, r"node '0': one_sign needs the encoding 'polarised'"),
        ({"0": Structure(column_nonzeros=9)}, r"node '0': column_nonzeros = 9, but a column of target"),
    ],
)
def test_what_cannot_be_had_is_refused_at_once(layers: dict[str, Structure], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        Compressor(net(), TARGET, Spec(layers=layers))
    with pytest.raises(CompileError, match=message):
        Compressor(net(), TARGET, structures=layers)


def test_a_structure_of_a_skipped_layer_is_refused() -> None:
    with pytest.raises(CompileError, match="node '0': has a structure and is in `skip`"):
        Compressor(net(), TARGET, Spec(skip=("0",)), {"0": Structure(filters=1)})


def test_a_mask_that_keeps_nothing_is_refused() -> None:
    compressor = Compressor(net(), TARGET)
    with pytest.raises(
        CompileError, match="node '0': has no weight left; loosen its structure or the budget, or name it"
    ):
        compressor.project({"0": torch.zeros(6, 2, 3, 3, dtype=torch.bool)})


def test_weights_that_are_not_finite_are_named() -> None:
    model = net()
    compressor = Compressor(model, TARGET, Spec(layers=LAYERS))
    compressor.penalty()
    with torch.no_grad():
        model[2].weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(CompileError, match="node '2': its weights are not finite any more; lower the learning rate or"):
        compressor.update()


def test_a_skipped_layer_is_left_alone() -> None:
    model = net()
    compressor = Compressor(model, TARGET, Spec(skip=("4",), layers={"0": Structure(filters=2)}))
    before = model[4].weight.detach().clone()
    compressor.project()
    assert torch.equal(model[4].weight, before)
    assert list(compressor.tiles()) == ["0", "2"]


def test_tiles_of_the_dense_model() -> None:
    compressor = Compressor(net(), TARGET)  # arrays of 8 rows and 16 / 8 weights
    assert compressor.dense_tiles() == {"0": 3 * 3, "2": 2 * 4 * 2, "4": 3 * 3}
    assert compressor.tiles() == compressor.dense_tiles()
    assert compressor.tiles(["4"]) == {"4": 9}


def test_a_target_by_name_and_default_specification() -> None:
    compressor = Compressor(net(), "yuan2019")
    assert compressor.spec == Spec()
    assert {levels.top for levels in compressor.levels.values() if levels is not None} == {15}


def test_a_loop_resumes_after_the_projection() -> None:
    spec = Spec(layers=LAYERS)
    models, optimisers = [], []
    for seed in (0, 1):
        model = net(seed)
        Compressor(model, TARGET, spec).project()
        models.append(model)
        optimisers.append(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    x, y = data()

    def step(number: int) -> None:
        optimisers[number].zero_grad()
        torch.nn.functional.cross_entropy(models[number](x), y).backward()
        optimisers[number].step()

    step(0)
    models[1].load_state_dict(models[0].state_dict())
    # A copy, as a checkpoint is: load_state_dict alone would let both optimisers share their momentum.
    optimisers[1].load_state_dict(deepcopy(optimisers[0].state_dict()))
    step(0)
    step(1)
    for one, other in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(models[0](x), models[1](x))
