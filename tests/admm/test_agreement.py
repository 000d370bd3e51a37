"""The exported file is what was trained: layers with arithmetic of their own are refused, the others compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("torch", reason="needs the extra 'admm'")
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from mcompiler import admm
from mcompiler.admm.agreement import check_exported, check_same_outputs
from mcompiler.admm.lowering import find_layers
from mcompiler.admm.surgery.channels import trace
from mcompiler.errors import CompileError, UserError

BRIEF = admm.Spec(admm=admm.Admm(epochs=0), retrain=admm.Retrain(epochs=0))


class SamePadded(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(functional.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


class OtherInside(nn.Conv2d):
    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        y: torch.Tensor = super()._conv_forward(x, weight.tanh(), bias)
        return y


def network(conv: nn.Module | None = None) -> Any:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3, 2) if conv is None else conv
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def changed(change: Callable[[Any], object]) -> Any:
    net = network()
    change(net)
    return net


def images(count: int = 16) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(count, 3, 8, 8, generator=generator), torch.randint(0, 4, (count,), generator=generator))]


def apply(method: str, module: nn.Module, name: str) -> None:
    getattr(prune, method)(module, name, 0.5)


def replace_forward(net: Any) -> None:
    net[0].forward = lambda x: functional.conv2d(x, net[0].weight, None, 2)


DIFFERENT: dict[str, tuple[Callable[[], Any], str]] = {
    "forward": (lambda: network(SamePadded(3, 8, 3, 2)), r"'0'.*SamePadded with a forward of its own.*plain nn.Conv2d"),
    "part of forward": (lambda: network(OtherInside(3, 8, 3, 2)), r"'0'.*_conv_forward of its own.*`skip`"),
    "forward of one object": (lambda: changed(replace_forward), r"'0'.*forward of its own"),
    "hook": (lambda: changed(lambda net: net[0].register_forward_hook(lambda *a: a[2].tanh())), "'0'.*a forward hook"),
    "pre-hook": (
        lambda: changed(lambda net: net[4].register_forward_pre_hook(lambda _, args: (args[0] * 2,))),
        "'4'.*a forward pre-hook.*remove the hook",
    ),
    "pruned": (lambda: changed(lambda net: apply("l1_unstructured", net[4], "weight")), r"'4'.*its weight is comp"),
    "pruned bias": (lambda: changed(lambda net: apply("random_unstructured", net[4], "bias")), r"'4'.*its bias is"),
    "weight norm": (lambda: changed(lambda net: nn.utils.weight_norm(net[0])), r"'0'.*remove_weight_norm"),
    "spectral norm": (lambda: changed(lambda net: nn.utils.spectral_norm(net[0])), r"'0'.*remove_spectral_norm"),
    "parametrisation": (lambda: changed(lambda net: parametrizations.orthogonal(net[4])), r"'4'.*_Orthogonal"),
}


@pytest.mark.parametrize("case", DIFFERENT)
@pytest.mark.filterwarnings("ignore")
def test_a_layer_with_arithmetic_of_its_own_is_refused_by_name(case: str) -> None:
    make, message = DIFFERENT[case]
    with pytest.raises(UserError, match=message):
        admm.Compressor(make(), "generic_128")
    with pytest.raises(UserError, match=message):
        admm.compress(make(), images(), "generic_128", BRIEF, device="cpu", progress=False)


def test_a_skipped_layer_keeps_its_own_arithmetic(tmp_path: Path) -> None:
    net = network(SamePadded(3, 8, 3, 2))
    net[1].register_forward_hook(lambda module, args, out: out + 0.25)
    spec = admm.Spec(admm=BRIEF.admm, retrain=BRIEF.retrain, skip=("0",))
    result = admm.compress(net, images(), "generic_128", spec, device="cpu", progress=False)
    file, x = result.export(tmp_path / "model.onnx"), images()[0][0]
    found = onnxruntime.InferenceSession(str(file)).run(None, {"x": x.numpy()})[0]
    with torch.no_grad():
        real, trained = net(x).numpy(), result.model(x).numpy()
    assert np.abs(found - trained).max() < 1e-4 * np.abs(trained).max()
    assert np.abs(found - real).max() < 0.05 * np.abs(real).max()  # levels of 8 bits; the hook moves more


def test_a_module_with_a_hook_is_not_followed_as_one_without() -> None:
    net = network()
    net[1].register_forward_hook(lambda module, args, out: out + 1)
    kinds = [str(node.target) for node in trace(net, images()[0][0]).graph.nodes]
    assert "1" not in kinds
    assert {"0", "2", "4"} <= set(kinds)


class Counting(nn.Module):
    """It computes something else at every call, which an export cannot see."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.calls = nn.Linear(6, 3), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        y: torch.Tensor = self.line(x) * self.calls
        return y


def test_a_file_that_computes_something_else_is_refused_before_the_training() -> None:
    told: list[str] = []
    spec = admm.Spec(admm=BRIEF.admm, remove_paths=False)
    batches = [(torch.ones(4, 6), torch.zeros(4, dtype=torch.long))]
    with pytest.raises(CompileError, match=r"before the training: the exported file does not compute.*differ by"):
        admm.compress(Counting(), batches, "generic_128", spec, device="cpu", progress=False, say=told.append)
    assert not told


class Branching(nn.Module):
    """A branch that data decide: the file holds the one of the first sample."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.line(x)
        return y if float(x.sum()) > 0 else -y


def test_a_difference_on_a_later_sample_is_found() -> None:
    net, x = Branching(), torch.ones(4, 6)
    check_exported(net, find_layers(net), (), (x,), "here")
    x[0] *= -1
    with pytest.raises(CompileError, match="here: the exported file does not compute"):
        check_exported(net, find_layers(net), (), (x,), "here")


def test_different_outputs_are_found_to_a_thousandth() -> None:
    net, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.load_state_dict(net.state_dict())
    example = (torch.randn(5, 4),)
    check_same_outputs(net, other, example)
    with torch.no_grad():
        other.bias.add_(0.01)
    with pytest.raises(CompileError, match="removing unused paths changes the outputs"):
        check_same_outputs(net, other, example)
