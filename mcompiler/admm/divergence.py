"""What to tell a user whose loss or penalty is not finite: the layer at fault, and what to change."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mcompiler.errors import CompileError

REMEDY = "lower the learning rate, or set clip in the stage's optimiser"


def check_weights(model: nn.Module) -> None:
    """Raise CompileError where a model has weights that are not finite before the training."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and not torch.isfinite(weight).all():
            raise CompileError(f"the weights of layer '{name}' are not finite; give a model whose training converged")


def check_penalty(penalty: float, model: nn.Module, label: str) -> None:
    """Raise CompileError where the penalty of a step is not finite.

    Args:
        penalty: the value.
        model: the model whose weights it is computed from.
        label: stage, epoch and step, for the message.
    """
    if not math.isfinite(penalty):
        raise CompileError(
            f"the penalty is {penalty} in {label}{_describe_weights(model)}; {REMEDY}, or lower admm.rho"
        )


def check_loss(loss: float, model: nn.Module, batch: tuple[Any, Any], run: Callable[[], Any], label: str) -> None:
    """Raise CompileError where the loss of a step is not finite.

    Args:
        loss: the value.
        model: the model.
        batch: inputs and targets.
        run: runs the model on the inputs once more.
        label: stage, epoch and step, for the message.
    """
    if not math.isfinite(loss):
        if any(map(_has_nonfinite, batch)):
            cause = ": the batch itself holds values that are not finite; check the data"
        else:
            found = _find_nonfinite_layer(model, run)
            cause = f"{found and f': {found}'}; {REMEDY}"
        raise CompileError(f"the loss is {loss} in {label}{cause}")


def _has_nonfinite(value: Any) -> bool:
    """Whether a batch's inputs or targets hold a NaN or an infinity."""
    if isinstance(value, tuple | list):
        return any(map(_has_nonfinite, value))
    return isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all())


def _describe_weights(model: nn.Module) -> str:
    """The layer whose weights are not finite, or else the layer with the largest weight."""
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


def _find_nonfinite_layer(model: nn.Module, run: Callable[[], Any]) -> str:
    """The first layer whose weights or output are not finite, as a clause; empty where there is none."""
    found: list[str] = []
    hooks = []
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and not torch.isfinite(weight).all():
            found.append(f"the weights of layer '{name}' are not finite")
        if not list(module.children()):

            def check_output(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                if isinstance(output, torch.Tensor) and not torch.isfinite(output).all():
                    found.append(f"layer '{name}' is the first whose output is not finite")

            hooks.append(module.register_forward_hook(check_output))
    try:
        with torch.no_grad():
            run()
    except RuntimeError:  # the message is about the loss; an error of this second run would only hide it
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""
