"""One epoch of training: learning rates, what it counts, and what it says of losses and batches that are wrong."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.errors import CompileError

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mcompiler import admm  # noqa: E402
from mcompiler.admm.distributed import ProcessRank  # noqa: E402
from mcompiler.admm.inputs import run_model  # noqa: E402
from mcompiler.admm.loop import (  # noqa: E402
    ComputeSettings,
    EpochResult,
    TrainingStage,
    compute_learning_rate,
    count_batches,
    count_samples,
    get_batches,
    iterate_pairs,
    make_optimiser,
    measure_accuracy,
    train_epoch,
)
from mcompiler.admm.spec import LearningRateSchedule, Optimiser  # noqa: E402

CPU = ComputeSettings(torch.device("cpu"), False, False, ProcessRank())
PLAIN = Optimiser(learning_rate=0.1, momentum=0, weight_decay=0, schedule=LearningRateSchedule.CONSTANT, warmup=0)
cross_entropy = nn.functional.cross_entropy


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def batches(count: int = 3, size: int = 5) -> list[tuple[Any, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 3, generator=generator), torch.randint(0, 2, (size,), generator=generator))
        for _ in range(count)
    ]


def train(model: Any, data: Any, options: Optimiser = PLAIN, loss: Any = cross_entropy, **more: Any) -> EpochResult:
    compute, penalty = more.pop("compute", CPU), more.pop("penalty", None)
    optimiser = more.pop("optimiser", None) or make_optimiser(model, options)
    progress = more.pop("progress", lambda share: share)
    stage = TrainingStage(model, loss, optimiser, options, compute=compute, penalty=penalty)
    return train_epoch(stage, data, progress, **more)


# --- learning rate ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LearningRateSchedule), st.floats(0, 1), st.floats(0, 1))
def test_rates_are_positive_and_at_most_the_peak(
    schedule: LearningRateSchedule, warmup: float, progress: float
) -> None:
    options = Optimiser(learning_rate=0.5, schedule=schedule, warmup=warmup)
    assert 0 <= compute_learning_rate(options, progress) <= 0.5


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (LearningRateSchedule.CONSTANT, [0.001, 0.5, 1, 1, 1, 1]),
        (LearningRateSchedule.LINEAR, [0.001, 0.5, 1, 0.75, 0.25, 0]),
        (LearningRateSchedule.COSINE, [0.001, 0.5, 1, 0.5 + 0.5**1.5, 0.5 - 0.5**1.5, 0]),
        ("cosine", [0.001, 0.5, 1, 0.5 + 0.5**1.5, 0.5 - 0.5**1.5, 0]),
    ],
)
def test_warmup_then_schedule(schedule: LearningRateSchedule, rates: list[float]) -> None:
    options = Optimiser(learning_rate=1.0, schedule=schedule, warmup=0.2)
    found = [compute_learning_rate(options, progress) for progress in (0, 0.1, 0.2, 0.4, 0.8, 1)]
    assert found == pytest.approx(rates, abs=1e-9)


def test_all_of_a_stage_may_be_warmup() -> None:
    assert compute_learning_rate(Optimiser(learning_rate=1.0, warmup=1.0), 1.0) == 1
    assert compute_learning_rate(Optimiser(learning_rate=1.0, warmup=0.0), 0.0) == 1


def test_the_rate_follows_the_progress_within_the_epoch() -> None:
    seen = []
    options = Optimiser(learning_rate=1e-3, schedule=LearningRateSchedule.LINEAR, warmup=0)
    model = net()
    optimiser = make_optimiser(model, options)
    optimiser.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    result = train(model, batches(4), options, optimiser=optimiser, progress=lambda share: (1 + share) / 2)
    assert seen == pytest.approx([0.5e-3, 0.375e-3, 0.25e-3, 0.125e-3])
    assert result.learning_rate == seen[-1]


# --- the optimiser ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_weights_decay_biases_and_normalisations_do_not(name: Any, kind: type[Any]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    model[2].bias.requires_grad_(False)
    optimiser = make_optimiser(model, Optimiser(name=name, weight_decay=0.3, momentum=0.5))
    assert type(optimiser) is kind
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert decay == {
        id(model[0].weight): 0.3,
        id(model[2].weight): 0.3,
        id(model[0].bias): 0,
        id(model[1].weight): 0,
        id(model[1].bias): 0,
    }


def test_no_scale_decays_whatever_its_shape() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma, self.tokens = nn.Parameter(torch.ones(4, 1, 1)), nn.Parameter(torch.ones(3, 4))
            self.norm, self.line = nn.LayerNorm((3, 4)), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
            self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)

    model = Scaled()
    groups = make_optimiser(model, Optimiser(weight_decay=0.3)).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    assert names == {
        "line.parametrizations.weight.original1",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    }


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_follows_its_options(name: Any) -> None:
    model = nn.Linear(2, 2, bias=False)
    model.weight.data.fill_(2.0)
    options = Optimiser(name=name, learning_rate=0.1, momentum=0.5, weight_decay=0.25)
    optimiser = make_optimiser(model, options)
    v, m, s = 2.0, 0.0, 0.0  # Adam as published, with beta 1 of 0.5
    for step, gradient in enumerate((1.0, -3.0, 0.5), 1):
        model.weight.grad = torch.full_like(model.weight, gradient)
        optimiser.step()
        g = gradient + (0.25 * v if name == "adam" else 0.0)
        v -= 0.1 * 0.25 * v if name == "adamw" else 0.0
        m, s = 0.5 * m + 0.5 * g, 0.999 * s + 0.001 * g * g
        v -= 0.1 * m / (1 - 0.5**step) / ((s / (1 - 0.999**step)) ** 0.5 + 1e-8)
    assert model.weight.detach().flatten().tolist() == pytest.approx([v] * 4, rel=1e-5)


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(CompileError, match="the model has no parameter to train; set requires_grad on its weights"):
        make_optimiser(net().requires_grad_(False), PLAIN)


# --- an epoch --------------------------------------------------------------------------------------------------------


def test_an_epoch_is_gradient_descent_on_loss_and_penalty() -> None:
    model, twin = net(), net()
    steps: list[int] = []
    shares: list[float] = []

    def after_step(count: int, share: float | None) -> None:
        steps.append(count)
        shares.append(share or 0.0)

    result = train(model, batches(), penalty=lambda: model[0].weight.square().sum(), after_step=after_step)
    losses, penalties = [], []
    for x, y in batches():
        twin.zero_grad()
        loss, penalty = cross_entropy(twin(x), y), twin[0].weight.square().sum()
        (loss + penalty).backward()
        losses.append(float(loss.detach()))
        penalties.append(float(penalty.detach()))
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter -= 0.1 * parameter.grad
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)
    assert (result.loss, result.penalty) == pytest.approx((sum(losses) / 3, sum(penalties) / 3), rel=1e-5)
    assert (result.steps, steps) == (3, [1, 2, 3])
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])
    assert result.seconds > 0
    assert model.training


def test_the_mean_loss_is_over_samples_not_batches() -> None:
    model = net()
    x, y = batches(1, 6)[0]
    uneven = [(x[:5], y[:5]), (x[5:], y[5:])]
    options = Optimiser(learning_rate=1e-12, momentum=0, weight_decay=0)
    assert train(model, uneven, options).loss == pytest.approx(float(cross_entropy(model(x), y).detach()), rel=1e-5)


def test_gradients_are_clipped_to_a_norm() -> None:
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    options = Optimiser(
        learning_rate=1.0, momentum=0, weight_decay=0, schedule=LearningRateSchedule.CONSTANT, warmup=0, clip=1e-3
    )
    train(model, batches(1), options)
    moved = torch.cat([(p.detach() - q).flatten() for p, q in zip(model.parameters(), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)


def test_bfloat16_reaches_the_layers_and_not_the_loss() -> None:
    seen = []
    model = net()
    model[2].register_forward_hook(lambda module, args, output: seen.append(output.dtype))

    def loss(output: Any, y: Any) -> Any:
        seen.append(output.dtype)
        return cross_entropy(output, y)

    train(model, batches(1), loss=loss, compute=ComputeSettings(torch.device("cpu"), True, False, ProcessRank()))
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("supported", [False, True])
def test_bfloat16_on_a_cpu_without_units_for_it_is_told(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    said: list[str] = []
    for precision in ("float32", "bfloat16"):
        spec = admm.Spec(precision=precision, admm=admm.Admm(epochs=0), retrain=admm.Retrain(epochs=0))
        admm.compress(net(), batches(1), "yuan2019", spec, device="cpu", progress=False, say=said.append)
        slow = [line for line in said if "no bfloat16 units" in line]
        assert len(slow) == (precision == "bfloat16" and not supported)


def test_batches_by_generator_by_epoch_and_with_several_inputs() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, a: Any, b: Any) -> Any:
            return self.inner(a + b)

    data = [((x, x), y) for x, y in batches()]
    assert train(Sum(), (batch for batch in data)).steps == 3
    assert list(get_batches(lambda epoch: [(epoch, 0)], 4)) == [(4, 0)]
    assert get_batches(data, 3) is data
    assert (count_batches(data), count_batches(iter(data))) == (3, None)

    class Unknown:
        def __len__(self) -> int:
            raise TypeError("as a DataLoader over an iterable")

    assert count_batches(Unknown()) is None  # type: ignore[arg-type]
    assert torch.equal(run_model(nn.Identity(), torch.ones(2)), torch.ones(2))


def test_batches_of_every_shape_are_moved_as_they_are() -> None:
    Two = namedtuple("Two", "a b")
    value = {"x": [torch.ones(2, 3), 5], "y": Two(torch.zeros(1), "text")}
    moved = ComputeSettings(torch.device("meta"), False, True, ProcessRank()).move_batch(value)
    assert moved["x"][0].device.type == "meta"
    assert moved["x"][1] == 5
    assert type(moved["y"]) is Two
    assert (moved["y"].a.device.type, moved["y"].b) == ("meta", "text")
    last = ComputeSettings(torch.device("cpu"), False, True, ProcessRank())
    assert last.move_batch(torch.ones(2, 3, 4, 5)).is_contiguous(memory_format=torch.channels_last)
    model: Any = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv3d(2, 3, 3))
    weights = [layer.weight for layer in model]
    last.move_model(model)
    assert all(layer.weight is weight for layer, weight in zip(model, weights, strict=True))  # optimisers hold them
    assert weights[0].is_contiguous(memory_format=torch.channels_last)
    assert weights[1].is_contiguous()
    assert count_samples({"x": (torch.ones(7, 2), torch.ones(3))}) == 7


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_the_layer() -> None:
    model = net()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(CompileError) as caught:
        train(model, batches(), label="stage admm, epoch 3")
    assert str(caught.value) == (
        "the loss is nan in stage admm, epoch 3, step 0: the weights of layer '2' are not finite; lower the "
        "learning rate, or set clip in the stage's optimiser"
    )


def test_an_output_that_is_not_finite_names_the_layer() -> None:
    class Logarithm(nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.log(-x.abs())

    model = nn.Sequential(nn.Linear(3, 2), Logarithm(), nn.Linear(2, 2))
    with pytest.raises(CompileError, match="step 0: layer '1' is the first whose output is not finite; lower"):
        train(model, batches())


@pytest.mark.parametrize("where", ["inputs", "targets"])
def test_data_that_are_not_finite_are_named(where: str) -> None:
    x, y = torch.ones(4, 3), torch.ones(4, 2)
    (x if where == "inputs" else y)[1, 1] = float("inf")
    with pytest.raises(CompileError, match="step 1: the batch itself holds values that are not finite; check"):
        train(net(), [(torch.ones(4, 3), torch.ones(4, 2)), (x, y)], loss=nn.functional.mse_loss)


def test_a_penalty_that_is_not_finite_is_called_so() -> None:
    model = net()
    with torch.no_grad():
        model[2].weight[0, 0] = -1e5
    with pytest.raises(
        CompileError,
        match=r"the penalty is inf in training, step 0: layer '2' has weights of up to 1e\+05; lower the learning rate",
    ):
        train(model, batches(), penalty=lambda: model[0].weight.sum() * 0 + math.inf)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "training: the training data gives no batches; if it is a generator, give a function of the epoch"),
        ([torch.ones(2, 3)], r"a batch is a Tensor, not a pair \(inputs, targets\); targets may be a tuple"),
        ([(torch.ones(2, 3),)], "a batch is a tuple, not a pair"),
        (
            [(torch.ones(2, 3).numpy(), 1)],
            "the inputs of a batch are of type ndarray, not tensors; use torch",
        ),
        ([((), 1)], "the inputs of a batch are of type tuple, not tensors"),
    ],
)
def test_wrong_batches(data: list[Any], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        train(net(), data)


def test_a_loss_of_many_numbers_is_refused() -> None:
    with pytest.raises(CompileError, match=r"training, step 0: the loss has shape \[5\]; give one number, its mean"):
        train(net(), batches(), loss=lambda output, y: cross_entropy(output, y, reduction="none"))


# --- accuracy --------------------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """Logits that are its input, or its input among others."""

    def __init__(self, several: bool = False) -> None:
        super().__init__()
        self.several, self.modes = several, list[bool]()

    def forward(self, x: Any) -> Any:
        self.modes.append(self.training)
        return (x, x * 0) if self.several else x


@pytest.mark.parametrize("several", [False, True])
def test_accuracy_counts_samples_in_inference_mode(several: bool) -> None:
    one, two, none = torch.eye(3), torch.eye(3)[:1], torch.zeros(0, 3)
    labels = torch.tensor([0, 1, 0]), torch.tensor([0]), torch.zeros(0, dtype=torch.long)
    data: list[Any] = list(zip((one, two, none), labels, strict=True))
    data = [(x, (y, "more")) for x, y in data] if several else data
    model = Fixed(several)
    assert measure_accuracy(model, data, CPU) == 0.75
    assert not any(model.modes)
    assert model.training
    assert measure_accuracy(model.eval(), data, CPU, exact=True) == 0.75
    assert not model.training


def test_accuracy_of_pixels() -> None:
    logits = torch.zeros(1, 2, 2, 2)
    logits[:, 1, 0] = 1
    assert measure_accuracy(Fixed(), [(logits, torch.tensor([[[1, 1], [0, 1]]]))], CPU) == 0.75


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the test data gives no batches; if it is a generator, give a function of the epoch"),
        ([(torch.ones(2, 3), torch.ones(2, 3))], r"cannot be scored: outputs \[2, 3\] against labels \[2, 3\]; top-1"),
        ([(torch.ones(2), torch.ones(2))], r"cannot be scored: outputs \[2\] against labels \[2\]"),
        ([(torch.ones(2, 3), 4)], r"cannot be scored: outputs \[2, 3\] against labels int"),
        ([torch.ones(2, 3)], "a batch is a Tensor, not a pair"),
    ],
)
def test_accuracy_of_wrong_data(data: list[Any], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        measure_accuracy(Fixed(), data, CPU)


def test_pairs_come_one_by_one() -> None:
    found = iterate_pairs(iter([(torch.ones(1), 0), "no pair"]))
    assert next(iter(found))[1] == 0
