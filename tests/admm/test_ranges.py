"""Input quantisers at layers: who shares one, what they observe_ranges, when they act."""

from __future__ import annotations

from typing import Any

import pytest

from mcompiler.errors import CompileError
from mcompiler.target import load_target

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mcompiler.admm.distributed import ProcessRank  # noqa: E402
from mcompiler.admm.loop import ComputeSettings  # noqa: E402
from mcompiler.admm.lowering import find_layers  # noqa: E402
from mcompiler.admm.ranges import attach_quantisers, freeze_ranges, observe_ranges  # noqa: E402

CPU = ComputeSettings(torch.device("cpu"), False, False, ProcessRank())
TARGET = load_target("generic_128", ["precision.layers.c.inputs=4"])


class Net(nn.Module):
    """Three layers read x; one of them with inputs of its own precision."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Any) -> Any:
        return self.d(self.a(x) + self.b(x) + self.c(x))


def attached() -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = Net()
    return model, attach_quantisers(model, find_layers(model), [("a", "b", "c")], TARGET)


def test_layers_of_one_tensor_and_equal_bits_share_a_quantiser() -> None:
    model, quantisers = attached()
    assert list(quantisers) == ["a", "b", "c", "d"]
    assert quantisers["a"] is quantisers["b"] is model.a.input_quantiser
    assert len({id(quantiser) for quantiser in quantisers.values()}) == 3
    assert [quantisers[name].bits for name in "abcd"] == [8, 8, 4, 8]


def test_observing_changes_nothing_and_freezing_makes_codes() -> None:
    model, quantisers = attached()
    x = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    plain = Net()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "quantiser" not in k})
    model.train()
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
        observe_ranges(model, quantisers, iter([(x, 0), (x * 2, 0), (x * 100, 0)]), 2, CPU)
        assert model.training
        assert torch.equal(model(x), plain(x))
        freeze_ranges(quantisers, "minmax")
        assert (float(quantisers["a"].low), float(quantisers["a"].high)) == (-2, 4)  # two batches, not three
        assert float(quantisers["a"].scale) == pytest.approx(6 / 255)
        assert float(quantisers["c"].scale) == pytest.approx(6 / 15)
        found = plain.a(quantisers["a"](x)) + plain.b(quantisers["a"](x)) + plain.c(quantisers["c"](x))
        assert torch.allclose(model(x), plain.d(quantisers["d"](found)))
        assert not torch.equal(model(x), plain(x))


def test_observation_is_in_inference_mode() -> None:
    model: Any = nn.Sequential(nn.Dropout(0.9), nn.Linear(4, 2), nn.BatchNorm1d(2))
    quantisers = attach_quantisers(model, find_layers(model), (), TARGET)
    before = model[2].running_mean.clone()
    observe_ranges(model, quantisers, [(torch.ones(3, 4), 0)], 5, CPU)
    assert float(quantisers["1"].high) == 1
    assert torch.equal(model[2].running_mean, before)


def test_a_layer_without_observations_and_a_batch_that_is_no_pair_are_named() -> None:
    model, quantisers = attached()
    with pytest.raises(CompileError, match="a batch is a Tensor, not a pair"):
        observe_ranges(model, quantisers, [torch.ones(2, 2)], 1, CPU)
    with pytest.raises(CompileError, match="node 'a': got no input while input ranges were observed"):
        freeze_ranges(quantisers, "mse")


def test_bfloat16_values_are_quantised_in_float32() -> None:
    model, quantisers = attached()
    observe_ranges(
        model, quantisers, [(torch.randn(8, 2), 0)], 1, ComputeSettings(torch.device("cpu"), True, False, ProcessRank())
    )
    freeze_ranges(quantisers, "mse")
    y = quantisers["d"](torch.randn(3, 2, dtype=torch.bfloat16))
    assert y.dtype is torch.float32
    codes = y / quantisers["d"].scale
    assert torch.allclose(codes, codes.round(), atol=1e-3)


def test_quantisers_travel_in_the_state_of_the_model() -> None:
    model, quantisers = attached()
    observe_ranges(model, quantisers, [(torch.randn(8, 2), 0)], 1, CPU)
    freeze_ranges(quantisers, "mse")
    other, theirs = attached()
    other.load_state_dict(model.state_dict())
    for name, quantiser in theirs.items():
        assert torch.equal(quantiser.scale, quantisers[name].scale)
        assert torch.equal(quantiser.zero_point, quantisers[name].zero_point)
