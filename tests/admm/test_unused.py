"""Unused paths: the smaller model computes what the masked one does, the oracle, on networks of every kind."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")
from torch import nn
from torch.nn import functional

from mcompiler.admm.lowering import as_matrix, find_layers
from mcompiler.admm.paths import fold_batchnorm_pairs, shared_inputs, trace
from mcompiler.admm.spec import Purify
from mcompiler.admm.unused import clear_shifts, purify, remove_unused
from mcompiler.errors import CompileError


class Residual(nn.Module):
    """Blocks with identity, projected and option-A shortcuts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.down1 = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(12, 12, 3, padding=1)
        self.shortcut = nn.Conv2d(8, 12, 1, stride=2)
        self.wide = nn.Conv2d(12, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x))))) + x)
        x = functional.relu(self.down2(functional.relu(self.down1(x))) + self.shortcut(x))
        x = functional.relu(self.wide(x) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        y: torch.Tensor = self.head(x.mean((2, 3)))
        return y


class Dense(nn.Module):
    """Concatenations, a depthwise convolution, a view with a number in it, functional dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 4, 3, padding=1)
        self.depthwise = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.norm = nn.BatchNorm2d(10)
        self.point = nn.Conv2d(10, 8, 1)
        self.fc = nn.Linear(8 * 16, 10)
        self.out = nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.first(x))
        x = torch.cat([x, torch.relu(self.second(x))], dim=1)
        x = functional.max_pool2d(functional.relu(self.norm(self.depthwise(x))), 2)
        x = functional.relu(self.point(x)).view(-1, 128)
        x = functional.dropout(functional.relu(self.fc(x)), 0.2, self.training)
        y: torch.Tensor = self.out(x)
        return y


def sequential() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 7, 3, padding=1, bias=False), nn.BatchNorm2d(7), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(7, 9, 3), nn.BatchNorm2d(9), nn.PReLU(9), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(9, 12), nn.Tanh(),
        nn.Linear(12, 4),
    )  # fmt: skip


NETWORKS = {"sequential": sequential, "residual": Residual, "dense": Dense}
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def network(kind: str, seed: int) -> Any:
    """A network in float64 with normalisations that shift and scale."""
    torch.manual_seed(seed)
    model = NETWORKS[kind]().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def prune(model: Any, share: float, seed: int) -> dict[str, torch.Tensor]:
    """Zero random filters and input channels, never all; the support that is left."""
    draw = torch.Generator().manual_seed(seed)
    support = {}
    for name, layer in find_layers(model).items():
        with torch.no_grad():
            for axis in (0, 1):
                gone = torch.rand(layer.weight.shape[axis], generator=draw) < share
                gone[int(torch.randint(len(gone), (1,), generator=draw))] = False
                if axis == 1 or name not in ("head", "out", "11"):
                    layer.weight.index_fill_(axis, gone.nonzero()[:, 0], 0.0)
        support[name] = as_matrix(layer.weight.detach() != 0, layer.groups)
    return support


@settings(max_examples=15, deadline=None)
@given(kind=st.sampled_from(list(NETWORKS)), share=st.floats(0, 0.9), seed=st.integers(0, 1000), cleared=st.booleans())
def test_the_smaller_model_computes_the_same(kind: str, share: float, seed: int, cleared: bool) -> None:
    model = network(kind, seed)
    support = prune(model, share, seed)
    if cleared:
        clear_shifts(model, (X,), support)
    wanted = model(X).detach()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        found = remove_unused(model, (X,))
    except CompileError:  # a chain of which nothing is left
        reject()
    assert torch.allclose(found.model(X), wanted, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "the model was touched"
    for name, kept in found.kept.items():
        weight = found.model.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        assert weight.shape[0] == len(kept.outputs)
        assert (
            found.support[name].shape == as_matrix(weight, getattr(found.model.get_submodule(name), "groups", 1)).shape
        )


def test_filters_and_channels_go_through_flatten() -> None:
    model = network("sequential", 0)
    with torch.no_grad():
        model.get_submodule("4").weight[2:] = 0
    clear_shifts(model, (X,), {"4": as_matrix(model.get_submodule("4").weight.detach() != 0, 1)})
    table = remove_unused(model, (X,)).as_table()
    assert table["4"] == {"filters": [9, 2], "channels": [7, 7]}
    assert table["9"] == {"filters": [12, 12], "channels": [9, 2]}


def test_what_nobody_reads_goes() -> None:
    model = network("sequential", 0)
    with torch.no_grad():
        model.get_submodule("4").weight[:, 3:] = 0
    assert remove_unused(model, (X,)).as_table()["0"]["filters"] == [7, 3]


def test_a_constant_is_folded_where_no_border_is_padded() -> None:
    """Filter 2 of the first convolution is zero; its normalisation leaves a constant, and the next one pads nothing."""
    model = network("sequential", 3)
    with torch.no_grad():
        model.get_submodule("0").weight[2] = 0
        model.get_submodule("1").bias[2] = 4.0
    found = remove_unused(model, (X,))
    assert found.as_table()["0"]["filters"] == [7, 6]
    assert found.folded == {"4": 1}
    assert torch.allclose(found.model(X), model(X), rtol=1e-12, atol=1e-12)


def test_a_constant_that_meets_padding_stays() -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).double().eval()
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = 1.0
    found = remove_unused(model, (X,))
    assert found.as_table()["0"]["filters"] == [4, 4]
    assert found.pinned == {"0": 1}


def test_a_branch_of_zeros_vanishes() -> None:
    model = network("residual", 1)
    with torch.no_grad():
        model.conv2.weight.zero_()
    clear_shifts(model, (X,), {"conv2": as_matrix(model.conv2.weight.detach() != 0, 1)})
    found = remove_unused(model, (X,))
    assert "conv1" not in found.kept
    assert "conv2" not in found.kept
    assert torch.allclose(found.model(X), model(X), rtol=1e-12, atol=1e-12)


def test_a_chain_of_zeros_is_an_error_with_the_layer() -> None:
    model = network("sequential", 1)
    with torch.no_grad():
        model.get_submodule("4").weight.zero_()
    clear_shifts(model, (X,), {"4": as_matrix(model.get_submodule("4").weight.detach() != 0, 1)})
    with pytest.raises(CompileError, match="no weight left"):
        remove_unused(model, (X,))


def test_cleared_shifts_leave_no_constant() -> None:
    model = network("residual", 5)
    support = prune(model, 0.5, 5)
    clear_shifts(model, (X,), support)
    seen: dict[str, torch.Tensor] = {}
    model.norm1.register_forward_hook(lambda module, args, output: seen.update(norm1=output))
    model(X)
    empty = ~support["conv1"].any(dim=1)[0]
    assert empty.any()
    assert not seen["norm1"][:, empty].any()


def test_purification_drops_weak_channels_and_filters() -> None:
    model = network("sequential", 2)
    with torch.no_grad():
        weight = model.get_submodule("4").weight
        assert isinstance(weight, torch.Tensor)
        weight[:, 2] = 0
        weight[0, 2, 1, 1] = 1e-4  # one weak row of channel 2
    support = {name: as_matrix(layer.weight.detach() != 0, 1) for name, layer in find_layers(model).items()}
    kept = purify(model, (X,), support, Purify(columns=1, energy=0.01))
    assert not kept["4"][0].reshape(7, 9, 9)[2].any()
    assert not kept["0"][0][:, 2].any(), "the filter that fed it goes too"
    assert kept["4"].sum() == support["4"].sum() - 1
    same = purify(model, (X,), support, Purify())
    assert all(torch.equal(same[name], support[name]) for name in support if name != "0")


def test_normalisations_and_shared_inputs() -> None:
    graph = trace(network("residual", 0), (X,))
    assert fold_batchnorm_pairs(graph) == [("stem", "norm"), ("conv1", "norm1"), ("conv2", "norm2")]
    assert ["down1", "shortcut"] in shared_inputs(graph)


def test_the_smaller_model_trains_copies_and_pickles() -> None:
    model = network("dense", 0).train()
    prune(model, 0.3, 1)
    found = remove_unused(model, (X,)).model
    assert found.training
    assert not torch.equal(found(X), found(X)), "dropout follows the mode"
    found.eval()
    wanted = found(X)
    assert torch.equal(copy.deepcopy(found)(X), wanted)
    assert torch.equal(pickle.loads(pickle.dumps(found))(X), wanted)


class Unknown(nn.Module):
    """A sort along the channels: nobody knows what becomes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 5, 3)
        self.two = nn.Conv2d(5, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.two(torch.sort(self.one(x), dim=1).values)
        return y


def test_what_is_not_known_stays() -> None:
    model: Any = Unknown().double().eval()
    with torch.no_grad():
        model.one.weight[0] = 0
        model.one.bias[0] = 0
        model.two.weight[:, 1] = 0
    found = remove_unused(model, (X,))
    assert found.as_table()["one"]["filters"] == [5, 5]
    assert torch.equal(found.model(X), model(X))


class Branching(nn.Module):
    """Control flow that depends on data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_untraceable_models_are_an_error_with_a_remedy() -> None:
    with pytest.raises(CompileError, match=r"cannot be traced.*remove_paths = false"):
        trace(Branching(), (X,))
