"""One epoch of training, whatever the stage; and accuracy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mcompiler.admm.distributed import ProcessRank, map_nested
from mcompiler.admm.spec import LearningRateSchedule, Optimiser
from mcompiler.errors import CompileError

Batch = tuple[Any, Any]
Batches = Iterable[Batch] | Callable[[int], Iterable[Batch]]
"""(x, y) batches: something that can be walked again each epoch, or what gives the batches of an epoch."""

SLOW_BFLOAT16 = "this CPU has no bfloat16 units: every step will take many times as long as with precision = 'float32'"

DIVERGENCE_REMEDY = "lower the learning rate, or set clip in the stage's optimiser"

Loss = Callable[[Any, Any], torch.Tensor]
Tick = Callable[[int], None]


@dataclass(frozen=True)
class ComputeSettings:
    """Where and how numbers are crunched."""

    device: torch.device
    bfloat16: bool
    channels_last: bool
    ranks: ProcessRank

    def autocast(self) -> torch.autocast:
        """Mixed precision, where asked for."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)

    @property
    def emulates_bfloat16(self) -> bool:
        """Whether bfloat16 is asked of a CPU that computes it in software, many times slower than float32."""
        if not self.bfloat16 or self.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return False
        return not torch.ops.mkldnn._is_mkldnn_bf16_supported()

    def moved(self, value: Any) -> Any:
        """Tensors in a batch on the device, in the memory layout."""
        if isinstance(value, torch.Tensor):
            layout = torch.channels_last if self.channels_last and value.ndim == 4 else torch.preserve_format
            return value.to(self.device, memory_format=layout)
        return map_nested(value, self.moved)

    def placed(self, model: nn.Module) -> nn.Module:
        """The model on the device, in the memory layout."""
        model = model.to(self.device)
        for tensor in [*model.parameters(), *model.buffers()] if self.channels_last else []:
            if tensor.ndim == 4:  # Module.to would refuse models with tensors of five
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        return model


def get_batches(data: Batches, epoch: int) -> Iterable[Batch]:
    """The batches of an epoch."""
    return data(epoch) if callable(data) else data


def forward(model: nn.Module, x: Any) -> Any:
    """The model on one batch; several inputs come as a tuple."""
    return model(*x) if isinstance(x, tuple | list) else model(x)


def make_optimiser(model: nn.Module, options: Optimiser) -> torch.optim.Optimizer:
    """The optimiser of a stage; weights decay, biases and normalisations do not."""
    held = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in held if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in held if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise CompileError("the model has no parameter to train; set requires_grad on its weights")
    if options.name == "sgd":
        return torch.optim.SGD(
            groups, lr=options.learning_rate, momentum=options.momentum, nesterov=options.momentum > 0
        )
    kind = torch.optim.Adam if options.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=options.learning_rate)


def learning_rate(options: Optimiser, progress: float) -> float:
    """The learning rate at a share of a stage's steps."""
    if options.warmup > 0 and progress < options.warmup:
        return options.learning_rate * max(progress / options.warmup, 1e-3)
    rest = (progress - options.warmup) / max(1e-9, 1 - options.warmup)
    if options.schedule == LearningRateSchedule.COSINE:
        return options.learning_rate * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))
    if options.schedule == LearningRateSchedule.LINEAR:
        return options.learning_rate * max(0.0, 1 - rest)
    return options.learning_rate


@dataclass(frozen=True)
class EpochResult:
    """What an epoch came to: mean loss and penalty over samples, steps, seconds, last learning rate."""

    loss: float
    penalty: float
    steps: int
    seconds: float
    learning_rate: float


def train_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    loss_of: Loss,
    optimiser: torch.optim.Optimizer,
    options: Optimiser,
    progress: Callable[[float], float],
    compute: ComputeSettings,
    *,
    penalty: Callable[[], torch.Tensor] | None = None,
    often: Callable[[float], None] | None = None,
    tick: Tick | None = None,
    length: int | None = None,
    where: str = "training",
) -> EpochResult:
    """Train for one epoch.

    Args:
        model, batches, loss_of, optimiser, options, setting: what is trained, and how.
        progress: share of the stage's steps that lies behind, from the share of this epoch.
        penalty: added to every loss.
        often: told the share of the epoch after each step.
        tick: told how many steps are done.
        length: how many batches there are, where they do not know themselves; None: the learning rate is that of the
            middle of the epoch throughout, and ``often`` is told nothing.
        where: stage and epoch, for messages.

    Raises:
        CompileError: a loss that is not finite; no batches.
    """
    model.train()
    started = time.perf_counter()
    length = count_batches(batches) or length
    total = torch.zeros(2, dtype=torch.float64)
    seen, steps, rate = 0.0, 0, 0.0
    for step, batch in enumerate(batches):
        x, y = _split(batch)
        rate = learning_rate(options, progress(min(step / length, 1.0) if length else 0.5))
        for group in optimiser.param_groups:
            group["lr"] = rate
        x, y = compute.moved(compute.ranks.share(x)), compute.moved(compute.ranks.share(y))
        count = count_samples(x)
        optimiser.zero_grad(set_to_none=True)
        value, pull = _gradients(model, x, y, loss_of, penalty, compute, f"{where}, step {step}")
        compute.ranks.average_gradients(model.parameters(), count)
        if options.clip:
            nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        optimiser.step()
        total += torch.tensor([value * count, pull * count])
        seen, steps = seen + count, steps + 1
        if often is not None and length:
            often((step + 1) / length)
        if tick is not None:
            tick(steps)
    loss_sum, penalty_sum, seen = compute.ranks.total(float(total[0]), float(total[1]), seen)
    if not seen:
        raise CompileError(
            f"{where}: the training data gives no batches; if it is a generator, give a function of the epoch"
        )
    return EpochResult(loss_sum / seen, penalty_sum / seen, steps, time.perf_counter() - started, rate)


def _gradients(
    model: nn.Module,
    x: Any,
    y: Any,
    loss_of: Loss,
    penalty: Callable[[], torch.Tensor] | None,
    compute: ComputeSettings,
    where: str,
) -> tuple[float, float]:
    """Gradients of one batch, in the parameters; its mean loss and penalty. An empty share has no gradients."""
    extra = penalty() if penalty is not None else None
    value, pull = 0.0, 0.0 if extra is None else float(extra.detach())
    if count_samples(x):
        with compute.autocast():
            output = forward(model, x)
        loss = _loss(loss_of, _float(output), y, where)
        if loss.numel() != 1:
            raise CompileError(f"{where}: the loss has shape {list(loss.shape)}; give one number, its mean")
        value = float(loss.detach())
        (loss if extra is None else loss + extra).backward()  # type: ignore[no-untyped-call]
    if not math.isfinite(value + pull):
        if math.isfinite(value):
            raise CompileError(
                f"the penalty is {pull} in {where}{_largest(model)}; {DIVERGENCE_REMEDY}, or lower admm.rho"
            )
        raise CompileError(f"the loss is {value} in {where}{_explain_nonfinite_loss(model, x, y, compute)}")
    return value, pull


def _split(batch: Any) -> Batch:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise CompileError(f"a batch is a {type(batch).__name__}, not a pair (inputs, targets); targets may be a tuple")
    if not isinstance(_leaf(batch[0]), torch.Tensor):
        raise CompileError(
            f"the inputs of a batch are of type {type(_leaf(batch[0])).__name__}, not tensors; use torch.as_tensor"
        )
    return batch[0], batch[1]


def _leaf(x: Any) -> Any:
    """The first tensor of several."""
    while isinstance(x, tuple | list | dict) and len(x):
        x = next(iter(x.values())) if isinstance(x, dict) else x[0]
    return x


def count_batches(batches: Iterable[Any]) -> int | None:
    """How many batches there are, where they know."""
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:  # a generator, or a DataLoader over an iterable
        return None


def count_samples(x: Any) -> int:
    """Size of the first tensor's first axis."""
    return int(_leaf(x).shape[0])


def _loss(loss_of: Loss, output: Any, y: Any, where: str) -> torch.Tensor:
    """The loss of one batch; what it says against the targets is the user's to fix."""
    try:
        return loss_of(output, y)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CompileError(f"{where}: the loss does not take the model's output and these targets: {first}") from error


def _float(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return output.float() if output.dtype is torch.bfloat16 else output
    return output


def _has_nonfinite(value: Any) -> bool:
    """Whether a batch's inputs or targets hold a NaN or an infinity."""
    if isinstance(value, tuple | list):
        return any(map(_has_nonfinite, value))
    return isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all())


def _largest(model: nn.Module) -> str:
    """The layer whose weights have grown most."""
    sizes = {
        name: float(weight.detach().abs().max())
        for name, module in model.named_modules()
        if isinstance(weight := getattr(module, "weight", None), torch.Tensor) and weight.numel()
    }
    broken = [name for name, size in sizes.items() if not math.isfinite(size)]
    if broken:
        return f": the weights of layer '{broken[0]}' are not finite"
    name = max(sizes, key=sizes.__getitem__, default=None)
    return "" if name is None else f": layer '{name}' has weights of up to {sizes[name]:.3g}"


def _explain_nonfinite_loss(model: nn.Module, x: Any, y: Any, compute: ComputeSettings) -> str:
    """The first layer whose weights or output are not finite, and what to do."""
    if _has_nonfinite(x) or _has_nonfinite(y):
        return ": the batch itself holds values that are not finite; check the data"
    remedy = f"; {DIVERGENCE_REMEDY}"
    found: list[str] = []
    hooks = []
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and not torch.isfinite(weight).all():
            found.append(f"the weights of layer '{name}' are not finite")
        if not list(module.children()):

            def look(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                if isinstance(output, torch.Tensor) and not torch.isfinite(output).all():
                    found.append(f"layer '{name}' is the first whose output is not finite")

            hooks.append(module.register_forward_hook(look))
    try:
        with torch.no_grad(), compute.autocast():
            forward(model, x)
    except RuntimeError:  # the loss is what matters here
        pass
    for hook in hooks:
        hook.remove()
    return f": {found[0]}{remedy}" if found else remedy


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[Batch], compute: ComputeSettings, *, exact: bool = False) -> float:
    """Top-1 accuracy, a fraction: argmax over the second axis against integer labels.

    Args:
        model: classifier; evaluated in inference mode, left in the mode it was in.
        batches: (x, y), y int [n] (or a tuple whose first entry that is).
        setting: device and precision.
        exact: float32 whatever the setting says.
    """
    training = model.training
    model.eval()
    right, seen = 0.0, 0.0
    for x, y in pairs(batches):
        x, y = compute.moved(compute.ranks.share(x)), compute.moved(compute.ranks.share(y))
        if not count_samples(x):
            continue
        output = _predict(model, x, compute, exact=exact)
        labels = _leaf(y)
        found = _predict_classes(_leaf(output), labels)
        right += float((found == labels).sum())
        seen += float(labels.numel())
    model.train(training)
    right, seen = compute.ranks.total(right, seen)
    if not seen:
        raise CompileError("the test data gives no batches; if it is a generator, give a function of the epoch")
    return right / seen


def _predict_classes(output: Any, labels: Any) -> torch.Tensor:
    """Argmax over the classes."""
    classes = output.argmax(dim=1) if isinstance(output, torch.Tensor) and output.ndim > 1 else None
    if classes is None or not isinstance(labels, torch.Tensor) or classes.shape != labels.shape:
        shapes = [list(v.shape) if isinstance(v, torch.Tensor) else type(v).__name__ for v in (output, labels)]
        raise CompileError(
            f"the test data cannot be scored: outputs {shapes[0]} against labels {shapes[1]}; top-1 accuracy takes "
            "logits [n, classes] and class numbers [n]; leave the test data out where the model is no classifier"
        )
    return classes


def _predict(model: nn.Module, x: Any, compute: ComputeSettings, *, exact: bool) -> Any:
    """The model on one test batch."""
    try:
        if exact:
            return forward(model, x)
        with compute.autocast():
            return forward(model, x)
    except RuntimeError as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CompileError(f"the model does not run on the test data: {first}") from error


def pairs(batches: Iterable[Any]) -> Iterator[Batch]:
    """(inputs, targets) of batches that are given as such.

    Raises:
        CompileError: a batch that is no pair, or without tensors.
    """
    for batch in batches:
        yield _split(batch)
