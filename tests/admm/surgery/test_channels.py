"""Channels of traced models: what is tied, what is pinned, what cannot be traced."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.nn.utils import parametrize  # noqa: E402

from mcompiler.admm.surgery.channels import ChannelGraph, find_batchnorm_pairs, find_shared_inputs, trace  # noqa: E402
from mcompiler.admm.surgery.removal import remove_unused  # noqa: E402
from mcompiler.errors import CompileError  # noqa: E402
from tests.support.networks import NETWORKS, ResNet, masked, random_support, settled  # noqa: E402

NO_REMOVAL_REMEDY = "set `remove_paths = false` to compress the model without removing paths"


class Calls(nn.Module):
    """Layers a (3 to 6), b (6 to 6), c (6 to 4) and a head under a forward that the test gives."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 4, 1)
        self.head, self.scale = nn.Linear(6, 2), nn.Parameter(torch.rand(1, 6, 1, 1))
        self._forward = forward

    def forward(self, x: Any) -> Any:
        return self._forward(self, x)


def image() -> Any:
    return torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def calls(forward: Any) -> nn.Module:
    torch.manual_seed(0)
    return Calls(forward).double().eval()


def pinned(graph: ChannelGraph, layer: str) -> set[str]:
    """Why filters of a layer must stay."""
    return {graph.pins[n] for n in graph.classes[graph.layers[layer].outputs].tolist() if n in graph.pins}


def same(model: nn.Module, x: Any, share: float = 0.6) -> None:
    """Whatever is pruned, the smaller model computes the same, or nothing is left to compute."""
    done = 0
    for seed in range(12):
        support = random_support(model, seed, share)
        try:
            small = remove_unused(model, x, support).model
        except CompileError:
            continue
        done += 1
        with torch.no_grad():
            for batch in (x, torch.cat([x, -x, x])):
                expected, got = masked(model, support)(batch.clone()), small(batch.clone())
                for one, other in zip(_tuple(expected), _tuple(got), strict=True):
                    assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)
    assert done > 2


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def test_the_model_is_left_alone() -> None:
    model = settled(ResNet, 0).train()
    model.get_submodule("bn").eval()
    before = deepcopy(model.state_dict())
    state = torch.get_rng_state()
    graph = trace(model, image())
    assert model.training
    assert not model.get_submodule("bn").training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert graph.model is model


def test_residual_channels_are_one() -> None:
    graph = trace(settled(ResNet, 0), image())

    def classes(name: str) -> list[int]:
        numbers: list[int] = graph.classes[graph.layers[name].outputs].tolist()
        return numbers

    assert classes("conv") == classes("layers.0.conv2")
    assert classes("layers.1.conv2") == classes("layers.1.shortcut.0") == classes("layers.2.conv2")
    assert not set(classes("layers.0.conv1")) & set(classes("conv"))
    assert graph.classes[graph.layers["fc"].inputs].tolist() == classes("layers.2.conv2")
    assert not any(pinned(graph, name) for name in graph.layers if name != "fc")
    assert list(graph.layers)[:3] == ["conv", "layers.0.conv1", "layers.0.conv2"]


def test_matrices_are_those_of_the_compiler() -> None:
    graph = trace(settled(NETWORKS["mobilenet"], 0), image())
    assert graph.layers["depthwise"].matrix == (6, 9, 1)
    assert graph.layers["grouped"].matrix == (4, 36, 3)
    assert graph.layers["fc"].matrix == (1, 12, 4)


def test_pairs_and_shared_inputs() -> None:
    graph = trace(settled(ResNet, 0), image())
    assert find_batchnorm_pairs(graph) == [
        ("conv", "bn"),
        *((f"layers.{i}.conv{j}", f"layers.{i}.bn{j}") for i in (0, 1) for j in (1, 2)),
        ("layers.1.shortcut.0", "layers.1.shortcut.1"),
        *((f"layers.2.conv{j}", f"layers.2.bn{j}") for j in (1, 2)),
    ]
    assert find_shared_inputs(graph) == [
        ("conv",),
        ("layers.0.conv1",),
        ("layers.0.conv2",),
        ("layers.1.conv1", "layers.1.shortcut.0"),
        ("layers.1.conv2",),
        ("layers.2.conv1",),
        ("layers.2.conv2",),
        ("fc",),
    ]


def test_pairs_where_somebody_else_reads_are_none() -> None:
    assert find_batchnorm_pairs(trace(settled(NETWORKS["densenet"], 0), image())) == []


def test_inputs_behind_dropout_and_of_repeated_layers_are_shared() -> None:
    def forward(m: Any, x: Any) -> Any:
        h = m.a(x)
        return m.c(functional.dropout(h, 0.1, m.training)).sum() + m.b(h).sum()

    assert find_shared_inputs(trace(calls(forward), image())) == [("a",), ("c", "b")]

    def twice(m: Any, x: Any) -> Any:
        h = m.a(x)
        return m.c(m.b(h)) + m.c(h)

    assert find_shared_inputs(trace(calls(twice), image())) == [("a",), ("b", "c")]


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda m, x: m.c(m.a(x).softmax(1)), "'softmax' (softmax) is not known to keep channels apart"),
        (
            lambda m, x: m.c(torch.cat(m.a(x).chunk(2, 1)[::-1], 1)),
            "'chunk' (chunk) is not known to keep channels apart",
        ),
        (lambda m, x: m.head(m.a(x).permute(0, 2, 3, 1)), "'permute' (permute) is not known to keep channels apart"),
        (lambda m, x: m.c(m.a(x).flip(1)), "'flip' (flip) is not known to keep channels apart"),
        (lambda m, x: m.c((lambda h: h * h.size(1))(m.a(x))), "'mul' uses how many there are"),
        (lambda m, x: m.c((lambda h: h / h.shape[1:2][0])(m.a(x))), "'truediv' uses how many there are"),
        (lambda m, x: m.a(x)[:, 1:], "'getitem' (getitem) is not known to keep channels apart"),
        (lambda m, x: m.a(x).sum((1, 2)), "'sum_1' (sum) is not known to keep channels apart"),
        (lambda m, x: m.a(x), "it is an output of the network"),
    ],
)
def test_what_is_not_known_is_pinned(forward: Any, reason: str) -> None:
    model = calls(forward)
    assert pinned(trace(model, image()), "a") == {reason}
    same(model, image(), 0.9)


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.c((m.a(x) * m.scale + 1).relu_()),
        lambda m, x: m.c(m.b(m.a(x)) + m.b(m.a(x) * 2)),  # layers that are used twice
        lambda m, x: m.head(m.b(m.a(x))[..., 0, 0]),
        lambda m, x: m.head(m.a(x)[:, :, ::2, 1:].amax((-1, -2))),
        lambda m, x: m.head((lambda h: h.view(h.size(0), h.shape[1], -1).mean(2))(m.a(x))),
        lambda m, x: m.head((lambda h: h.reshape(-1, 6, 16).mean(dim=-1))(m.a(x))),
        lambda m, x: m.head(functional.adaptive_avg_pool2d(m.a(x), 1).squeeze()),
        lambda m, x: m.head(functional.adaptive_avg_pool2d(m.a(x), 1).squeeze(-1).squeeze(-1)),
        lambda m, x: m.head(functional.avg_pool2d(m.a(x), m.a(x).size()[2:]).flatten(1)),
        lambda m, x: m.c(functional.pad(m.a(x).sigmoid(), (1, 1, 1, 1))),
        lambda m, x: m.c(functional.pad(m.b(m.a(x)), [0, 0, 0, 0, 1, 2], value=0.5)[:, 3:]),
        lambda m, x: m.c(m.a(x) - functional.pad(x[:, :, 1:-1, 1:-1], (0, 0, 0, 0, 2, 1))),
        lambda m, x: m.c(torch.cat((m.a(x), m.b(m.a(x))), dim=-3)[:, ::2]),
        lambda m, x: (m.c(m.a(x)), m.head(m.b(m.a(x)).mean((2, 3)))),
        lambda m, x: m.c(m.a(x).clamp(min=0.1) * torch.sigmoid(m.b(m.a(x)))),
    ],
)
def test_odd_models_stay_right(forward: Any) -> None:
    same(calls(forward), image(), 0.9)


def _overwritten(m: Any, x: Any) -> Any:
    h = m.a(x)
    seen = h.view(h.shape[0], 6, -1)
    functional.relu(h, inplace=True)
    return m.b(h) + seen.sum(2)[:, :, None, None]


def _added_in_place(m: Any, x: Any) -> Any:
    h = m.a(x)
    other = m.b(h)
    h += other
    return m.c(h) + m.c(other)


@pytest.mark.parametrize("forward", [_overwritten, _added_in_place])
def test_operations_in_place(forward: Any) -> None:
    same(calls(forward), image(), 0.9)


def test_tokens() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            x = x + self.down(functional.gelu(self.up(self.norm(x))))
            return self.head(x.mean(1))

    torch.manual_seed(0)
    model = Mixer().double().eval()
    tokens = torch.randn(2, 5, 8).double()
    same(model, tokens)
    table = remove_unused(model, tokens, random_support(model, 0, 0.6)).as_table()
    assert table["up"]["filters"][1] < 16
    assert table["up"]["filters"] == table["down"]["channels"]


def test_weights_that_belong_to_somebody_else_are_pinned() -> None:
    model = calls(lambda m, x: m.c(m.b(m.a(x))))
    parametrize.register_parametrization(model.get_submodule("b"), "weight", nn.Tanh())
    assert list(trace(model, image()).layers) == ["a", "c"]
    tied = calls(lambda m, x: m.c(m.b(m.b2(m.a(x)))))
    tied.b2 = deepcopy(tied.b)
    tied.get_submodule("b2").weight = tied.get_parameter("b.weight")
    assert list(trace(tied, image()).layers) == ["a", "b2", "c"]
    removal = remove_unused(model, image(), {"c": torch.ones(1, 6, 4, dtype=torch.bool)})
    assert list(removal.kept) == ["a", "c", "b"]
    assert removal.as_table()["b"] == {"filters": [6, 6], "channels": [6, 6]}


def test_models_that_cannot_be_traced() -> None:
    with pytest.raises(CompileError) as error:
        trace(calls(lambda m, x: m.c(m.a(x)) if x.sum() > 0 else x), image())
    assert str(error.value) == (
        "the model cannot be traced: symbolically traced variables cannot be used as inputs to control flow; remove "
        f"control flow that depends on data from its forward, or {NO_REMOVAL_REMEDY}"
    )
    with pytest.raises(CompileError) as error:
        trace(calls(lambda m, x: (m.a(x), m.b(m.a(x))) if m.training else m.a(x)), image())
    assert str(error.value) == (
        "the model computes something else in training than in evaluation (it asks `self.training`); use modules such "
        f"as nn.Dropout for that, or {NO_REMOVAL_REMEDY}"
    )
    with pytest.raises(CompileError, match=r"the model does not run on the example inputs: .*channels"):
        trace(calls(lambda m, x: m.c(m.a(x))), image()[:, :2])


def test_supports_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"support of 'a' is \(1, 27, 5\), its matrix is \(1, 27, 6\)"):
        remove_unused(calls(lambda m, x: m.c(m.a(x))), image(), {"a": torch.ones(1, 27, 5, dtype=torch.bool)})
