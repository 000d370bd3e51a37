"""Quantisers of the layers' inputs, and the input ranges that they observe."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mcompiler.admm.input_quantiser import InputFakeQuantiser
from mcompiler.admm.inputs import run_model
from mcompiler.admm.loop import Batch, ComputeSettings, iterate_pairs
from mcompiler.admm.lowering import CompressibleLayer
from mcompiler.target import Target


def _quantise_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook: quantise the input of the layer."""
    return (module.input_quantiser(args[0]), *args[1:])  # type: ignore[operator]


def attach_quantisers(
    model: nn.Module, layers: Mapping[str, CompressibleLayer], shared: Sequence[Sequence[str]], target: Target
) -> dict[str, InputFakeQuantiser]:
    """Put a quantiser before every layer; layers that read the same tensor share one.

    Args:
        model: the model, with ``layers``.
        layers: its compressible layers.
        shared: groups of layers that read the same tensor.
        target: sets the bits of each layer's input.

    Returns:
        The quantiser of each layer, by name.
    """
    groups = {name: index for index, group in enumerate(shared) for name in group}
    device = next(model.parameters()).device
    known: dict[tuple[Any, int], InputFakeQuantiser] = {}
    found = {}
    for name, layer in layers.items():
        _, bits = target.layer_bits(name)
        key = (groups.get(name, name), bits)
        quantiser = known.setdefault(key, InputFakeQuantiser(bits).to(device))
        layer.module.add_module("input_quantiser", quantiser)
        layer.module.register_forward_pre_hook(_quantise_input)
        found[name] = quantiser
    return found


@torch.no_grad()
def observe_ranges(
    model: nn.Module,
    quantisers: Mapping[str, InputFakeQuantiser],
    batches: Iterable[Batch],
    count: int,
    compute: ComputeSettings,
) -> None:
    """Run ``count`` batches in inference mode while the quantisers observe the values."""
    training = model.training
    model.eval()
    for quantiser in quantisers.values():
        quantiser.observing = True
    for x, _ in iterate_pairs(itertools.islice(batches, count)):
        with compute.autocast():
            run_model(model, compute.move_batch(x))
    model.train(training)


def freeze_ranges(quantisers: Mapping[str, InputFakeQuantiser], method: str) -> None:
    """Fix every input range from the observed values."""
    for name, quantiser in quantisers.items():
        if not quantiser.frozen:  # it is where an earlier layer shares the quantiser
            quantiser.freeze(name, method)
