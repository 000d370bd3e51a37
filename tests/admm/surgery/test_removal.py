"""Removal of unused paths: the smaller model computes what the masked one computed."""

from __future__ import annotations

import contextlib
import copy
import pickle
import re
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import example as case
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mcompiler.admm.lowering import as_matrix, as_weight, find_layers  # noqa: E402
from mcompiler.admm.surgery.channels import trace  # noqa: E402
from mcompiler.admm.surgery.removal import RemovalResult, clear_constant_biases, remove_unused  # noqa: E402
from mcompiler.errors import CompileError  # noqa: E402
from tests.support.networks import NETWORKS, Random, ResNet, masked, random_support, settled  # noqa: E402

NOTHING_LEFT = (
    "node 'features.4': no weights are left in it that the outputs of the network need, and no other path bypasses it: "
    "loosen its structure or the budget, or name it in `skip`"
)


def example(size: int = 8, batch: int = 2) -> Any:
    return torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def check(model: nn.Module, support: dict[str, Any], x: Any) -> RemovalResult | None:
    """Hold the smaller model against the masked one; an error only where the masked one is a constant."""
    large = masked(model, support)
    before = deepcopy(model.state_dict())
    more = torch.cat([x, -x, 3 * x])
    with torch.no_grad():
        expected = large(more)
        if torch.allclose(expected, expected[:1], rtol=0, atol=1e-12):
            with contextlib.suppress(CompileError):  # a constant: an error unless some other output is none
                remove_unused(model, x, support)
            return None
        removal = remove_unused(model, x, support)
        assert torch.allclose(removal.model(more), expected, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for name, layer in find_layers(removal.model).items():
        assert removal.support[name].shape == layer.shape
        assert not layer.matrix()[~removal.support[name]].any()
        assert torch.equal(removal.kept[name].slice(masks(large, name)) & removal.support[name], removal.support[name])
    return removal


def masks(model: nn.Module, name: str) -> Any:
    layer = find_layers(model)[name]
    return layer.matrix() != 0


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 0.8, 0.95]), st.booleans())
def test_smaller_networks_compute_the_same(name: str, seed: int, share: float, clear: bool) -> None:
    model = settled(NETWORKS[name], seed)
    support = random_support(model, seed, share)
    if clear:
        clear_constant_biases(model, trace(model, example()), support)
    check(model, support, example())


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from([0.5, 0.8, 0.95]))
@case(9736, 0.5)  # a sum of a sum, both with a term that is constant
def test_random_networks(seed: int, share: float) -> None:
    model = settled(lambda: Random(seed), seed)
    check(model, random_support(model, seed, share), example(4))


@pytest.mark.parametrize("name", NETWORKS)
def test_float32_within_1e_5(name: str) -> None:
    model = settled(NETWORKS[name], 3)
    support = random_support(model, 3, 0.9)
    model, x = model.float(), example().float()
    small = remove_unused(model, x, support).model
    with torch.no_grad():
        expected = masked(model, support)(x)
        assert torch.allclose(small(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def chain(*modules: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*modules).double().eval()


def without_filters(model: nn.Module, name: str, *filters: int) -> dict[str, Any]:
    support = torch.ones(find_layers(model)[name].shape, dtype=torch.bool)
    support[0, :, list(filters)] = False
    return {name: support}


def test_a_dead_filter_takes_the_features_behind_a_flatten() -> None:
    model = chain(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    removal = check(model, without_filters(model, "0", 1, 3), example())
    assert removal is not None
    assert removal.as_table() == {
        "0": {"filters": [4, 2], "channels": [3, 3]},
        "3": {"filters": [5, 5], "channels": [144, 72]},
    }
    assert removal.kept["3"].channels.tolist() == [*range(36), *range(72, 108)]
    assert not removal.folded
    assert not removal.pinned


def test_an_unread_channel_takes_the_filter() -> None:
    model = chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    support = torch.ones(1, 36, 2, dtype=torch.bool)
    support[:, 9:18] = False
    removal = check(model, {"3": support}, example())
    assert removal is not None
    assert removal.kept["0"].filters.tolist() == [0, 2, 3]
    assert removal.model.get_submodule("1").num_features == 3


def test_a_constant_is_folded_behind_unpadded_layers() -> None:
    model = chain(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 2, 3, bias=False))
    removal = check(model, without_filters(model, "0", 2), example())
    assert removal is not None
    assert removal.kept["2"].channels.tolist() == [0, 1, 3]
    assert removal.folded == {"2": 1}
    assert removal.model.get_submodule("2").bias is not None


def test_a_constant_before_a_border_stays_and_says_so() -> None:
    model = chain(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    model.get_parameter("0.bias").data.fill_(0.25)
    removal = check(model, without_filters(model, "0", 2), example())
    assert removal is not None
    assert removal.as_table()["0"] == {"filters": [4, 4], "channels": [3, 3]}
    assert removal.pinned == {"0": {2: "it is 0.25 everywhere, and '2' pads or is used twice"}}


def test_borders_that_repeat_the_constant_fold() -> None:
    model = chain(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular"))
    removal = check(model, without_filters(model, "0", 0), example())
    assert removal is not None
    assert removal.folded == {"2": 1}


def test_shifts_before_a_padded_convolution_are_cleared() -> None:
    model = settled(NETWORKS["vgg"], 0)
    support = without_filters(model, "features.0", 0, 5)
    model.get_parameter("features.1.bias").data[[0, 5]] = 9.0  # so that the activation does not make it zero
    cleared = clear_constant_biases(model, trace(model, example()), support)
    assert sorted(cleared) == ["features.0.bias", "features.1.bias", "features.1.weight"]
    assert cleared["features.1.bias"].nonzero().flatten().tolist() == [0, 5]
    assert model.get_parameter("features.1.bias")[[0, 5]].tolist() == [0, 0]
    removal = check(model, support, example())
    assert removal is not None
    assert not removal.folded


def test_a_shift_that_can_be_folded_is_not_cleared() -> None:
    model: Any = chain(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    support = without_filters(model, "0", 1, 4) | without_filters(model, "2", 2)
    x = torch.randn(16, 6).double()
    masked = copy.deepcopy(model)
    for name, mask in support.items():
        masked.get_submodule(name).get_parameter("weight").data.mul_(mask[0].T)
    expected = masked(x)
    assert clear_constant_biases(model, trace(model, x), support) == {}
    removal = remove_unused(model, x, support)
    assert removal.as_table()["2"] == {"filters": [5, 4], "channels": [8, 6]}
    assert torch.allclose(removal.model(x), expected, atol=1e-12)


def test_the_bias_of_an_output_is_not_cleared() -> None:
    model = chain(nn.Flatten(), nn.Linear(192, 4))
    support = without_filters(model, "1", 2)
    assert clear_constant_biases(model, trace(model, example()), support) == {}
    removal = check(model, support, example())
    assert removal is not None
    assert removal.pinned == {"1": {2: "it is an output of the network"}}


@pytest.mark.parametrize("projection", [True, False])
def test_an_empty_branch_vanishes(projection: bool) -> None:
    model = settled(lambda: ResNet(projection), 1)
    support = {"layers.0.conv2": torch.zeros(1, 54, 6, dtype=torch.bool)}
    clear_constant_biases(model, trace(model, example()), support)
    removal = check(model, support, example())
    assert removal is not None
    assert "layers.0.conv1" not in removal.kept
    assert "layers.0.conv2" not in removal.kept
    assert removal.as_table()["layers.0.conv2"] == {"filters": [6, 0], "channels": [6, 0]}
    assert not [name for name, _ in removal.model.named_modules() if name.startswith("layers.0.")]


def test_a_branch_of_constants_becomes_a_buffer() -> None:
    model = settled(ResNet, 1)
    removal = check(model, {"layers.0.conv2": torch.zeros(1, 54, 6, dtype=torch.bool)}, example())
    assert removal is not None
    assert "layers.0.conv2" not in removal.kept
    names = [name for name, _ in removal.model.named_buffers() if name.endswith("_constant")]
    assert len(names) == 1
    again = check(removal.model, random_support(removal.model, 5, 0.9), example())  # its buffer is cut in turn
    assert again is not None


def test_an_empty_shortcut_vanishes() -> None:
    model = settled(ResNet, 2)
    support = {"layers.1.shortcut.0": torch.zeros(1, 6, 10, dtype=torch.bool)}
    clear_constant_biases(model, trace(model, example()), support)
    removal = check(model, support, example())
    assert removal is not None
    assert "layers.1.shortcut.0" not in removal.kept


def test_an_empty_layer_of_a_chain_is_an_error() -> None:
    model = settled(NETWORKS["vgg"], 0)
    support = {"features.4": torch.zeros(1, 72, 12, dtype=torch.bool)}
    with pytest.raises(CompileError, match=re.escape(NOTHING_LEFT)):
        remove_unused(model, example(), support)
    with pytest.raises(CompileError, match=r"node 'features\.4': "):
        remove_unused(model, example(), support, graph=trace(model, example()))


def test_stride_and_option_a_cut_the_pads() -> None:
    model = settled(lambda: ResNet(False), 4)
    support = without_filters(model, "layers.1.conv2", *range(10)) | without_filters(
        model, "layers.2.conv2", *range(10)
    )
    clear_constant_biases(model, trace(model, example()), support)
    removal = check(model, support, example())
    assert removal is not None  # only what the shortcut passes on is left
    assert removal.as_table()["fc"] == {"filters": [4, 4], "channels": [10, 6]}


def test_groups_stay_even() -> None:
    model = chain(nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 8, 3, groups=4, bias=False), nn.Conv2d(8, 2, 1))
    support = without_filters(model, "0", 0, 1, 2)  # group 0 reads nothing, group 1 one channel
    removal = check(model, support, example())
    assert removal is not None
    assert removal.as_table()["1"] == {"filters": [8, 6], "channels": [8, 6]}
    assert removal.model.get_submodule("1").groups == 3
    assert removal.pinned == {"0": {2: "the groups of '1' must be of one size"}}
    assert removal.kept["1"].slice(as_matrix(model.get_submodule("1").weight, 4)).shape == (3, 18, 2)  # type: ignore[arg-type]


def test_tensors_of_a_layer_follow() -> None:
    model = settled(NETWORKS["mobilenet"], 7)
    removal = check(model, random_support(model, 7, 0.8), example())
    assert removal is not None
    for name, kept in removal.kept.items():
        weight = model.get_parameter(f"{name}.weight").detach()
        small = removal.model.get_parameter(f"{name}.weight").detach()
        rest = removal.support[name]
        assert torch.equal(kept.slice_weight(weight)[as_weight(rest, small.shape)], small[as_weight(rest, small.shape)])
        assert torch.equal(kept.slice(weight), kept.slice_weight(weight))
        assert len(kept.filters) == small.shape[0]
        assert kept.filters.tolist() == sorted(set(kept.filters.tolist()))
        assert kept.channels.tolist() == sorted(set(kept.channels.tolist()))


def test_modes_gradients_and_dropout_are_kept() -> None:
    model = settled(NETWORKS["vgg"], 0).train()
    model.get_submodule("features.1").eval()
    model.get_parameter("features.0.weight").requires_grad_(False)
    removal = remove_unused(model, example(), random_support(model, 2, 0.9))
    small = removal.model
    assert small.training
    assert not small.get_submodule("features.1").training
    assert not small.get_parameter("features.0.weight").requires_grad
    assert small.get_parameter("head.weight").requires_grad
    small(example()).sum().backward()
    assert small.get_parameter("head.weight").grad is not None
    assert not torch.equal(small(example()), small(example()))  # the functional dropout draws
    small.eval()
    assert torch.equal(small(example()), small(example()))
    assert model.training


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_pickles_and_repeats(name: str) -> None:
    model = settled(NETWORKS[name], 11)
    support = random_support(model, 11, 0.9)
    one, two = remove_unused(model, example(), support), remove_unused(model, example(), support)
    assert one.model.code == two.model.code
    state = one.model.state_dict()
    assert all(torch.equal(value, two.model.state_dict()[key]) for key, value in state.items())
    with torch.no_grad():
        expected = one.model(example())
        assert torch.equal(deepcopy(one.model)(example()), expected)
        assert torch.equal(pickle.loads(pickle.dumps(one.model))(example()), expected)
    again = remove_unused(one.model, example(), one.support)  # nothing more follows
    assert again.as_table() == {
        k: {p: [n, n] for p, (_, n) in v.items()} for k, v in one.as_table().items() if k in one.kept
    }


def test_without_support_the_zeros_of_the_weights_count() -> None:
    model = chain(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Conv1d(4, 5, 1), nn.Flatten(), nn.Linear(30, 2))
    model.get_parameter("0.weight").data[1] = 0
    model.get_parameter("0.bias").data[1] = 0
    model.get_parameter("4.weight").data[:, 6:18] = 0
    removal = remove_unused(model, example()[:, :, 0])
    assert removal.as_table() == {
        "0": {"filters": [4, 3], "channels": [3, 3]},
        "2": {"filters": [5, 3], "channels": [4, 3]},
        "4": {"filters": [2, 2], "channels": [30, 18]},
    }


def test_volumes() -> None:
    model = chain(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(32, 2))
    clear_constant_biases(model, trace(model, torch.zeros(1, 3, 6, 6, 6).double()), without_filters(model, "0", 1))
    x = torch.randn(2, 3, 6, 6, 6).double()
    removal = check(model, without_filters(model, "0", 1), x)
    assert removal is not None
    assert removal.as_table()["5"]["channels"] == [32, 24]
