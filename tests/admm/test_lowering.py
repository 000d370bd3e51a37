"""The layers that can be compressed: found, refused, and seen as the compiler's matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.errors import CompileError

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils.parametrizations import weight_norm  # noqa: E402

from mcompiler.admm.lowering import CompressibleLayer, as_matrix, as_weight, find_layers, find_uncompressed  # noqa: E402


class Net(nn.Module):
    """Layers of every kind, and some that are not mapped."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 1, groups=2))
        self.line = nn.Conv1d(2, 3, 5)
        self.volume = nn.Conv3d(1, 2, (1, 2, 3))
        self.head = nn.Linear(6, 5)
        self.embedding = nn.Embedding(7, 3)
        self.back = nn.ConvTranspose2d(2, 2, 3)


def test_layers_are_found_in_the_order_of_the_modules() -> None:
    layers = find_layers(Net())
    assert {name: (layer.shape, layer.groups, layer.positions) for name, layer in layers.items()} == {
        "features.0": ((1, 27, 4), 1, 9),
        "features.3": ((2, 2, 3), 2, 1),
        "line": ((1, 10, 3), 1, 5),
        "volume": ((1, 6, 2), 1, 6),
        "head": ((1, 6, 5), 1, 1),
    }
    assert list(layers) == ["features.0", "features.3", "line", "volume", "head"]
    assert list(find_layers(Net(), skip=["line", "volume"], named=["head"])) == ["features.0", "features.3", "head"]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(1, 3), max_size=3))
def test_rows_are_channel_and_kernel_position_columns_are_filters(
    groups: int, inputs: int, outputs: int, kernel: list[int]
) -> None:
    groups = groups if kernel else 1
    shape = (groups * outputs, inputs, *kernel)
    weight = torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape)
    matrix = as_matrix(weight, groups)
    assert tuple(matrix.shape) == (groups, inputs * int(np.prod(kernel)), outputs)
    for g in range(groups):
        for n in range(outputs):
            row = 0
            for c in range(inputs):
                for position in np.ndindex(*kernel):
                    assert matrix[g, row, n] == weight[(g * outputs + n, c, *position)]
                    row += 1
    assert torch.equal(as_weight(matrix, shape), weight)


def test_a_matrix_is_a_view_without_gradient() -> None:
    layer = CompressibleLayer("a", nn.Conv2d(2, 4, 3))
    matrix = layer.matrix()
    assert not matrix.requires_grad
    assert torch.equal(layer.as_weight(matrix), layer.weight.detach())
    matrix.zero_()
    assert not layer.weight.any()


class Tied(nn.Module):
    """One weight in two modules."""

    def __init__(self, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.other = nn.Linear(3, 4, bias=False), second, nn.Linear(2, 2)
        self.second.weight = self.first.weight


def empty() -> nn.Module:
    with pytest.warns(UserWarning, match="zero-element"):
        return nn.Sequential(nn.Linear(3, 2), nn.Linear(0, 2))


@pytest.mark.parametrize(
    ("model", "skip", "named", "message"),
    [
        (Net, ["heat"], [], r"^the model has no layer 'heat'; did you mean 'head'\?$"),
        (Net, [], ["xyz"], r"^the model has no layer 'xyz'; the layers are 'features\.0', 'features\.3', 'line', 'vol"),
        (Net, [], ["features.1"], r"^'features\.1' \(BatchNorm2d\) is not mapped to crossbars; only convolutions and"),
        (Net, ["embedding"], [], r"^'embedding' \(Embedding\) is not mapped"),
        (Net, ["head"], ["head"], r"^node 'head': has a structure and is in `skip`; take it out of one$"),
        (nn.ReLU, [], [], r"^the model has no layer to compress; nn\.Conv1d, nn\.Conv2d"),
        (lambda: nn.Sequential(nn.Linear(2, 2)), ["0"], [], r"^the model has no layer to compress"),
        (lambda: nn.Linear(2, 2), [], [], r"^the model is a single layer, which has no name; wrap it: nn\.Sequential"),
        (lambda: Tied(nn.Linear(3, 4, bias=False)), [], [], r"^node 'second': shares its weights with 'first'; one m"),
        (lambda: Tied(nn.Linear(3, 4, bias=False)), ["first"], [], r"^node 'second': shares its weights with 'first'"),
        (lambda: Tied(nn.Embedding(4, 3)), [], [], r"^node 'first': shares its weights with 'second'"),
        (empty, [], [], r"^node '1': its weight of 2 x 0 is empty; take the layer out"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), [], [], r"^node '0': is lazy and has no weights yet; run the model"),
        (
            lambda: nn.Sequential(weight_norm(nn.Linear(2, 2))),
            [],
            [],
            r"^node '0': its weight is computed by _WeightNorm; make it a plain parameter first",
        ),
    ],
)
def test_what_cannot_be_compressed_is_named(model: Any, skip: list[str], named: list[str], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        find_layers(model(), skip, named)


def test_the_remedies_work() -> None:
    assert list(find_layers(Tied(nn.Linear(3, 4, bias=False)), ["first", "second"])) == ["other"]
    assert list(find_layers(Tied(nn.Embedding(4, 3)), ["first"])) == ["other"]
    assert list(find_layers(empty(), ["1"])) == ["0"]
    assert list(find_layers(nn.Sequential(nn.Linear(2, 2), weight_norm(nn.Linear(2, 2))), ["1"])) == ["0"]
    assert list(find_layers(nn.Sequential(nn.Linear(2, 2)))) == ["0"]


def test_one_bias_for_two_layers_is_no_matter() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    model[1].bias = model[0].bias
    assert list(find_layers(model)) == ["0", "1"]


def test_what_holds_matrices_and_is_not_compressed() -> None:
    model = nn.ModuleDict(
        {
            "words": nn.Embedding(5, 8),
            "up": nn.ConvTranspose2d(2, 3, 2),
            "norm": nn.BatchNorm2d(3),
            "memory": nn.LSTM(8, 4),
            "first": nn.Linear(8, 8),
            "last": nn.Linear(8, 2),
        }
    )
    assert find_uncompressed(model, find_layers(model)) == {"up": "ConvTranspose2d", "memory": "LSTM"}
    assert find_uncompressed(model, find_layers(model, ["last"])) == {
        "up": "ConvTranspose2d",
        "memory": "LSTM",
        "last": "Linear",
    }
