"""Models as users wrap them, and their inputs: one tensor, several, or a dict of keyword arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mcompiler.admm.distributed import map_nested
from mcompiler.errors import CompileError

TARGETS = "labels"
"""Entry of a dict batch that holds the targets; all other entries are inputs."""

Inputs = tuple[Any, ...] | dict[str, Any]
"""Arguments of a model: positional, or by the names of its forward."""


def unwrap_model(model: nn.Module) -> nn.Module:
    """The user's module inside DistributedDataParallel, DataParallel and torch.compile; it shares their parameters."""
    while True:
        inner = model._modules.get("_orig_mod")  # of torch.compile, whose class lies in a module that is slow to import
        if isinstance(model, DataParallel | DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def as_inputs(example: Any) -> Inputs:
    """An input, several, or a dict of them, as arguments of a model."""
    if isinstance(example, dict):
        return {str(key): value for key, value in example.items()}
    return tuple(example) if isinstance(example, tuple | list) else (example,)


def run_model(model: nn.Module, x: Any) -> Any:
    """The model on one batch: several inputs come as a tuple or list, keyword arguments as a dict."""
    if isinstance(x, dict):
        return model(**x)
    return model(*x) if isinstance(x, tuple | list) else model(x)


def take_samples(inputs: Any, count: int) -> Any:
    """The first samples of every tensor."""
    return inputs[:count] if isinstance(inputs, torch.Tensor) else map_nested(inputs, lambda v: take_samples(v, count))


def list_tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of a nested tuple, list or dict, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | tuple | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from list_tensors(entry)


def find_given_parameters(model: nn.Module, example: Inputs) -> list[str] | None:
    """The parameters of the model's forward that an example gives; None where it gives all, or forward takes ``*args``.

    Raises:
        CompileError: forward does not take these arguments.
    """
    parameters = inspect.signature(model.forward).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    if isinstance(example, dict):
        given = [name for name in parameters if name in example]
        given += [name for name in example if name not in parameters and inspect.Parameter.VAR_KEYWORD in kinds]
        unknown = [name for name in example if name not in given]
        if unknown:
            raise CompileError(
                f"the model's forward has no parameter '{unknown[0]}'; its parameters are {', '.join(parameters)}"
            )
    else:
        given = list(parameters)[: len(example)]
    return None if given == list(parameters) else given


def order_inputs(model: nn.Module, example: Inputs) -> tuple[Any, ...]:
    """The inputs in the order of the parameters of the model's forward."""
    if not isinstance(example, dict):
        return example
    given = find_given_parameters(model, example)
    return tuple(example[name] for name in (inspect.signature(model.forward).parameters if given is None else given))


def move_inputs(inputs: Any, device: torch.device | str) -> Any:
    """The tensors of the inputs on a device."""
    if isinstance(inputs, torch.Tensor):
        return inputs.to(device)
    return map_nested(inputs, lambda entry: move_inputs(entry, device))
