"""Training for one epoch, and accuracy; the same for all stages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from mcompiler.admm.distributed import ProcessRank, map_nested
from mcompiler.admm.divergence import check_loss, check_penalty
from mcompiler.admm.inputs import TARGETS, Inputs, as_inputs, list_tensors, run_model, take_samples
from mcompiler.admm.spec import LearningRateSchedule, Optimiser
from mcompiler.errors import CompileError

Batch = tuple[Any, Any] | dict[str, Any]
Batches = Iterable[Batch] | Callable[[int], Iterable[Batch]]
"""(x, y) batches: an iterable that can be iterated again each epoch, or a function from the epoch to its batches.

A batch may be a dict: its entry ``labels`` is y, the other entries are keyword arguments of the model.
"""

PRODUCT_MODULES = (_ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention, nn.RNNBase)
"""Modules whose weights decay: matrices that multiply, of which none is a scale or a shift."""

ADAM_BETA2 = 0.999

EXAMPLE_SAMPLES = 8
"""Samples with which a model is traced, and on which the exported file is compared with it."""

Loss = Callable[[Any, Any], torch.Tensor]

SLOW_BFLOAT16 = "this CPU has no bfloat16 units: every step will take many times as long as with precision = 'float32'"


@dataclass(frozen=True)
class ComputeSettings:
    """Device, precision and memory layout of the computation, and this process's rank."""

    device: torch.device
    bfloat16: bool
    channels_last: bool
    ranks: ProcessRank

    def autocast(self) -> torch.autocast:
        """Mixed precision, where it is requested."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)

    @property
    def emulates_bfloat16(self) -> bool:
        """Whether bfloat16 is requested on a CPU that computes it in software, many times slower than float32."""
        if not self.bfloat16 or self.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return False
        return not torch.ops.mkldnn._is_mkldnn_bf16_supported()

    def move_batch(self, value: Any) -> Any:
        """The tensors of a batch on the device, in the memory layout."""
        if isinstance(value, torch.Tensor):
            layout = torch.channels_last if self.channels_last and value.ndim == 4 else torch.preserve_format
            return value.to(self.device, memory_format=layout)
        return map_nested(value, self.move_batch)

    def move_model(self, model: nn.Module) -> nn.Module:
        """The model on the device, in the memory layout; its parameters stay the same objects."""
        model = model.to(self.device)
        for tensor in [*model.parameters(), *model.buffers()] if self.channels_last else []:
            if tensor.ndim == 4:  # Module.to would refuse models with tensors of five dimensions
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        return model


def get_batches(data: Batches, epoch: int) -> Iterable[Batch]:
    """The batches of an epoch."""
    return data(epoch) if callable(data) else data


def choose_example(train: Batches, given: Any) -> Inputs:
    """The inputs that a user gave, or those of the first batch: at most EXAMPLE_SAMPLES of them.

    Raises:
        CompileError: data that can be iterated only once, or that give no inputs.
    """
    if isinstance(train, Iterator):
        raise CompileError(
            "the training data can be iterated only once; give a list, a DataLoader or a function of the epoch"
        )
    if given is None:
        first = next(iter(get_batches(train, 0)), None)
        if first is None:
            raise CompileError("the training data give no pair (inputs, targets); give a list or DataLoader of them")
        given, _ = split_batch(first)
    inputs: Inputs = take_samples(as_inputs(given), EXAMPLE_SAMPLES)
    return inputs


def make_optimiser(model: nn.Module, options: Optimiser) -> torch.optim.Optimizer:
    """The optimiser of a stage, with weight decay on the weights of products only."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = {id(parameter) for parameter in _list_product_weights(model)}
    groups = [
        {"params": [p for p in trained if id(p) in decayed], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if id(p) not in decayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise CompileError("the model has no parameter to train; set requires_grad on its weights")
    if options.name == "sgd":
        return torch.optim.SGD(
            groups, lr=options.learning_rate, momentum=options.momentum, nesterov=options.momentum > 0
        )
    kind = torch.optim.Adam if options.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=options.learning_rate, betas=(options.momentum, ADAM_BETA2))


def _list_product_weights(model: nn.Module) -> Iterator[nn.Parameter]:
    """The weights of products, also those behind a parametrisation; no biases, normalisations and layer scales."""
    for module in model.modules():
        if isinstance(module, PRODUCT_MODULES):
            owners = [module]
            if parametrize.is_parametrized(module):
                owners += list(module.parametrizations.values())  # type: ignore[operator]
            for owner in owners:
                yield from (p for p in owner._parameters.values() if p is not None and sum(n > 1 for n in p.shape) > 1)


def compute_learning_rate(options: Optimiser, progress: float) -> float:
    """The learning rate after a fraction of a stage's steps."""
    if options.warmup > 0 and progress < options.warmup:
        return options.learning_rate * max(progress / options.warmup, 1e-3)
    rest = (progress - options.warmup) / max(1e-9, 1 - options.warmup)
    if options.schedule == LearningRateSchedule.COSINE:
        return options.learning_rate * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))
    if options.schedule == LearningRateSchedule.LINEAR:
        return options.learning_rate * max(0.0, 1 - rest)
    return options.learning_rate


@dataclass(frozen=True)
class TrainingStage:
    """All that stays the same over the epochs of a stage.

    Attributes:
        model: the model to train.
        loss: of (output, targets), a scalar.
        optimiser: of the model's parameters.
        options: learning rate and clipping.
        compute: device and precision.
        penalty: added to every loss; None: nothing is added.
    """

    model: nn.Module
    loss: Loss
    optimiser: torch.optim.Optimizer
    options: Optimiser
    compute: ComputeSettings
    penalty: Callable[[], torch.Tensor] | None = None


@dataclass(frozen=True)
class EpochResult:
    """Result of one epoch: mean loss and penalty over samples, steps, seconds, last learning rate."""

    loss: float
    penalty: float
    steps: int
    seconds: float
    learning_rate: float


def train_epoch(
    stage: TrainingStage,
    batches: Iterable[Batch],
    progress: Callable[[float], float],
    *,
    after_step: Callable[[int, float | None], None] | None = None,
    length: int | None = None,
    label: str = "training",
) -> EpochResult:
    """Train for one epoch.

    Args:
        stage: model, loss, optimiser and settings.
        batches: of this epoch.
        progress: from the fraction of this epoch's steps to the fraction of the stage's steps.
        after_step: called after each step with the number of steps and the fraction of the epoch (None: not known).
        length: number of batches, where ``batches`` has no length; None: the learning rate is that of the middle of the
            epoch throughout.
        label: stage and epoch, for messages.

    Raises:
        CompileError: a loss that is not finite; no batches.
    """
    model, compute = stage.model.train(), stage.compute
    started = time.perf_counter()
    length = count_batches(batches) or length
    total = torch.zeros(2, dtype=torch.float64)
    seen, steps, rate = 0.0, 0, 0.0
    for step, batch in enumerate(batches):
        x, y = split_batch(batch)
        rate = compute_learning_rate(stage.options, progress(min(step / length, 1.0) if length else 0.5))
        for group in stage.optimiser.param_groups:
            group["lr"] = rate
        x, y = compute.move_batch(compute.ranks.take_share(x)), compute.move_batch(compute.ranks.take_share(y))
        count = count_samples(x)
        stage.optimiser.zero_grad(set_to_none=True)
        loss, penalty = _backpropagate(stage, x, y, f"{label}, step {step}")
        compute.ranks.average_gradients(model.parameters(), count)
        if stage.options.clip:
            nn.utils.clip_grad_norm_(model.parameters(), stage.options.clip)
        stage.optimiser.step()
        total += torch.tensor([loss * count, penalty * count])
        seen, steps = seen + count, steps + 1
        if after_step is not None:
            after_step(steps, steps / length if length else None)
    loss_sum, penalty_sum, seen = compute.ranks.sum_over_ranks(float(total[0]), float(total[1]), seen)
    if not seen:
        raise CompileError(
            f"{label}: the training data gives no batches; if it is a generator, give a function of the epoch"
        )
    return EpochResult(loss_sum / seen, penalty_sum / seen, steps, time.perf_counter() - started, rate)


def _backpropagate(stage: TrainingStage, x: Any, y: Any, label: str) -> tuple[float, float]:
    """Write the gradients of one batch into the parameters; return its mean loss and penalty.

    This process's share of a batch may be empty: then there is no loss and no gradient.
    """
    model, compute = stage.model, stage.compute
    penalty = stage.penalty() if stage.penalty is not None else None
    loss_value, penalty_value = 0.0, 0.0 if penalty is None else float(penalty.detach())
    if count_samples(x):
        with compute.autocast():
            output = run_model(model, x)
        loss = _compute_loss(stage.loss, _to_float32(output), y, label)
        if loss.numel() != 1:
            raise CompileError(f"{label}: the loss has shape {list(loss.shape)}; give one number, its mean")
        loss_value = float(loss.detach())
        (loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]

    def run_again() -> Any:
        with compute.autocast():
            return run_model(model, x)

    check_loss(loss_value, model, (x, y), run_again, label)
    check_penalty(penalty_value, model, label)
    return loss_value, penalty_value


def split_batch(batch: Any) -> tuple[Any, Any]:
    """Inputs and targets of a batch.

    Raises:
        CompileError: neither a pair nor a dict with labels; inputs without tensors.
    """
    if isinstance(batch, Mapping):
        if TARGETS not in batch:
            raise CompileError(f"a batch is a dict without '{TARGETS}'; give that entry, or pairs (inputs, targets)")
        batch = ({key: value for key, value in batch.items() if key != TARGETS}, batch[TARGETS])
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise CompileError(f"a batch is a {type(batch).__name__}, not a pair (inputs, targets); targets may be a tuple")
    if _first_tensor(batch[0]) is None:
        kind = type(batch[0][0] if isinstance(batch[0], tuple | list) and batch[0] else batch[0]).__name__
        raise CompileError(f"the inputs of a batch are of type {kind}, not tensors; use torch.as_tensor")
    return batch[0], batch[1]


def _first_tensor(x: Any) -> torch.Tensor | None:
    """The first tensor of a nested tuple, list or dict; None where there is none."""
    return next(list_tensors(x), None)


def count_batches(batches: Iterable[Any]) -> int | None:
    """The number of batches; None where they have no length."""
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:  # a generator, or a DataLoader over an iterable
        return None


def count_samples(x: Any) -> int:
    """Size of the first tensor's first axis."""
    first = _first_tensor(x)
    assert first is not None
    return int(first.shape[0])


def _compute_loss(loss: Loss, output: Any, y: Any, label: str) -> torch.Tensor:
    """The loss of one batch; where it cannot be computed, output and targets do not fit, which is the user's to fix."""
    try:
        return loss(output, y)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CompileError(f"{label}: the loss does not take the model's output and these targets: {first}") from error


def _to_float32(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return output.float() if output.dtype is torch.bfloat16 else output
    return output


@torch.no_grad()
def measure_accuracy(
    model: nn.Module, batches: Iterable[Batch], compute: ComputeSettings, *, exact: bool = False
) -> float:
    """Top-1 accuracy, a fraction: argmax over the second axis against integer labels.

    Args:
        model: classifier; evaluated in inference mode, left in the mode it was in.
        batches: (x, y), y int [n] (or a tuple whose first entry is that).
        compute: device and precision.
        exact: float32, also where ``compute`` says bfloat16.
    """
    training = model.training
    model.eval()
    correct, seen = 0.0, 0.0
    for x, y in iterate_pairs(batches):
        x, y = compute.move_batch(compute.ranks.take_share(x)), compute.move_batch(compute.ranks.take_share(y))
        if not count_samples(x):
            continue
        output = _predict(model, x, compute, exact=exact)
        classes, labels = _predict_classes(next(list_tensors(output), output), next(list_tensors(y), y))
        correct += float((classes == labels).sum())
        seen += float(labels.numel())
    model.train(training)
    correct, seen = compute.ranks.sum_over_ranks(correct, seen)
    if not seen:
        raise CompileError("the test data gives no batches; if it is a generator, give a function of the epoch")
    return correct / seen


def _predict(model: nn.Module, x: Any, compute: ComputeSettings, *, exact: bool) -> Any:
    """The model's output on one test batch."""
    try:
        if exact:
            return run_model(model, x)
        with compute.autocast():
            return run_model(model, x)
    except RuntimeError as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CompileError(f"the model does not run on the test data: {first}") from error


def _predict_classes(output: Any, labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Argmax over the classes, and the labels."""
    classes = output.argmax(dim=1) if isinstance(output, torch.Tensor) and output.ndim > 1 else None
    if classes is None or not isinstance(labels, torch.Tensor) or classes.shape != labels.shape:
        shapes = [list(v.shape) if isinstance(v, torch.Tensor) else type(v).__name__ for v in (output, labels)]
        raise CompileError(
            f"the test data cannot be scored: outputs {shapes[0]} against labels {shapes[1]}; top-1 accuracy takes "
            "logits [n, classes] and class numbers [n]; leave the test data out where the model is no classifier"
        )
    return classes, labels


def iterate_pairs(batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """(inputs, targets) of each batch.

    Raises:
        CompileError: a batch that is no pair, or without tensors.
    """
    for batch in batches:
        yield split_batch(batch)
