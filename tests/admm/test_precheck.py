"""What would fail behind hours of training fails before it, and names layer and remedy."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("torch", reason="needs the extra 'admm'")
import torch
from torch import nn

import mcompiler
from mcompiler import admm
from mcompiler.admm.precheck import check_before_training
from mcompiler.errors import UserError
from mcompiler.target import load_target

BRIEF = admm.Spec(admm=admm.Admm(rho=(1e-1,), epochs=1), retrain=admm.Retrain(epochs=1))


class Net(nn.Module):
    """Two products, called as a test wants."""

    def __init__(self, use: Callable[[Net, torch.Tensor], torch.Tensor], *, attention: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.use = nn.Linear(16, 16), nn.Linear(16, 4), use
        if attention:
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.use(self, x)


def attend(net: Net, x: torch.Tensor) -> torch.Tensor:
    y = net.a(x)[:, None]
    return net.b((y + net.attention(y, y, y, need_weights=False)[0])[:, 0])  # type: ignore[no-any-return]


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(8, 16), torch.randint(0, 4, (8,)))] * 2


def trained(model: nn.Module, target: str = "generic_128", spec: admm.Spec = BRIEF) -> admm.Compressed:
    return admm.compress(model, batches(), target, spec, device="cpu", progress=False, say=refuse_training)


def refuse_training(message: str) -> None:
    assert not message.startswith("admm"), "training began"


WRONG: dict[str, tuple[nn.Module, str, str]] = {
    "unused": (
        Net(lambda net, x: net.b(x)),
        "generic_128",
        r"'a'.*is not called when the model runs.*name it in `skip`",
    ),
    "read by other means": (
        Net(lambda net, x: nn.functional.linear(x, net.b.weight @ net.a.weight)),
        "generic_128",
        "'a'.*is not called",
    ),
    "attention": (Net(attend, attention=True), "generic_128", r"'attention\.out_proj'.*is not called.*`skip`"),
    "called twice": (Net(lambda net, x: net.b(net.a(net.a(x)))), "generic_128", "'a'.*is read 2 times.*of its own"),
    "no operator": (Net(lambda net, x: net.b(torch.special.i0e(net.a(x)))), "generic_128", "torch.onnx cannot export"),
    "bits": (Net(lambda net, x: net.b(net.a(x))), "isaac_16bit", r"inputs of 16 bits.*--set precision\.inputs=8"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("remove_paths", [True, False])
def test_fails_before_the_training(case: str, remove_paths: bool, capfd: pytest.CaptureFixture[str]) -> None:
    model, target, message = WRONG[case]
    spec = admm.Spec(admm=BRIEF.admm, retrain=BRIEF.retrain, remove_paths=remove_paths)
    with pytest.raises(UserError, match=message):
        trained(model, target, spec)
    assert capfd.readouterr().out == "", "standard output belongs to --json"


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_left_as_it_was(training: bool) -> None:
    model = Net(lambda net, x: net.b(net.a(x))).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_before_training(model, (batches()[0][0],), load_target("generic_128"), BRIEF)
    assert {module.training for module in model.modules()} == {training}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not model.a._forward_pre_hooks


def test_skipping_what_is_not_called_compresses_the_rest() -> None:
    spec = admm.Spec(admm=BRIEF.admm, retrain=BRIEF.retrain, skip=("attention.out_proj",))
    model = Net(attend, attention=True)
    result = admm.compress(model, batches(), "generic_128", spec, device="cpu", progress=False)
    assert set(result.layers) == {"a", "b"}
    assert result.uncompressed == {
        "attention": "MultiheadAttention",
        "attention.out_proj": "NonDynamicallyQuantizableLinear",
    }


def test_a_layer_that_the_trace_does_not_follow_keeps_its_size(tmp_path_factory: pytest.TempPathFactory) -> None:
    torch.manual_seed(0)
    inner = nn.TransformerDecoderLayer(16, 2, 32, dropout=0.0, batch_first=True)  # one call to torch.fx

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = inner, nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x[:, None]
            out: torch.Tensor = self.last(self.inner(y, y)[:, 0])
            return out

    spec = admm.Spec(
        layers={"inner.linear1": admm.Structure(filters=8)},
        admm=BRIEF.admm,
        retrain=BRIEF.retrain,
        skip=("inner.self_attn.out_proj", "inner.multihead_attn.out_proj"),
    )
    result = admm.compress(Outer(), batches(), "generic_128", spec, device="cpu", progress=False)
    linear1, linear2 = (result.layers[f"inner.linear{number}"] for number in (1, 2))
    assert int((linear1.weight != 0).any(dim=1).sum()) <= 8
    assert linear1.weight.shape == (32, 16)
    assert linear2.weight.shape == (16, 32)
    path = result.export(tmp_path_factory.mktemp("onnx") / "model.onnx")
    names = {layer.op.site.name for layer in mcompiler.compile(path, "generic_128", calibration="random").layer_data}
    assert {"inner.linear1", "inner.linear2", "last"} <= names
