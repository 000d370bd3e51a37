"""Run the steps that follow training once before it: a model that they cannot handle fails at once, not hours later."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import nn

from mcompiler.admm.agreement import check_exported
from mcompiler.admm.compressor import Compressor
from mcompiler.admm.divergence import check_weights
from mcompiler.admm.export import check_input_bits
from mcompiler.admm.inputs import Inputs, run_model
from mcompiler.admm.lowering import CompressibleLayer, find_layers
from mcompiler.admm.pruned import prune
from mcompiler.admm.ranges import attach_quantisers, freeze_ranges
from mcompiler.admm.spec import Spec
from mcompiler.admm.surgery.channels import find_batchnorm_pairs, trace
from mcompiler.errors import CompileError
from mcompiler.target import Target


def check_before_training(model: nn.Module, example: Inputs, target: Target, spec: Spec) -> None:
    """Run, trace, prune, quantise and export the model once; it is not changed.

    The exported file is compared with the model as it is, and as it is after the steps that follow training.

    Raises:
        CompileError: weights that are not finite; it does not run on the example or cannot be traced; a layer that is
            not called, or whose inputs have a number of bits that the file cannot hold; a file that computes something
            else than the model.
        ModelError: torch.onnx cannot export it, or does not keep a layer.
    """
    # First, as NaN spreads: the steps below would name the layer that it reaches, not the one that it comes from.
    check_weights(model)
    layers = find_layers(model, spec.skip, spec.layers)
    if spec.quantisation.inputs:
        for name in layers:
            check_input_bits(name, target.layer_bits(name)[1])
    graph = trace(model, example) if spec.remove_paths else None
    _check_calls(model, example, layers)
    check_exported(
        model, layers, find_batchnorm_pairs(graph) if graph is not None else (), example, "before the training"
    )
    _rehearse(copy.deepcopy(model), example, target, spec)


def _rehearse(model: nn.Module, example: Inputs, target: Target, spec: Spec) -> None:
    """All steps that follow training, on the untrained weights, and the comparison of the file; changes the model."""
    spec = dataclasses.replace(spec, budget=None)
    pruned = prune(model, Compressor(model, target, spec), example, spec, None)
    pruned.compressor.project(pruned.masks, levels=True)
    if spec.quantisation.inputs:
        quantisers = attach_quantisers(pruned.model, pruned.compressor.layers, pruned.shared_inputs, target)
        for quantiser in quantisers.values():
            quantiser.observing = True
        with torch.no_grad():
            run_model(pruned.model.eval(), example)
        freeze_ranges(quantisers, spec.quantisation.input_range)
    layers, pairs = pruned.compressor.layers, pruned.batchnorm_pairs
    check_exported(pruned.model, layers, pairs, example, "before the training, pruned and quantised")


def _check_calls(model: nn.Module, example: Inputs, layers: dict[str, CompressibleLayer]) -> None:
    """Refuse layers that are not called in a forward pass."""
    called: set[str] = set()
    hooks = [
        layer.module.register_forward_pre_hook(lambda _, __, name=name: called.add(name))
        for name, layer in layers.items()
    ]
    training = model.training
    try:
        with torch.no_grad():
            run_model(model.eval(), example)
    except Exception as error:  # whatever the model raises
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CompileError(f"the model does not run on the example inputs: {first}") from error
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    for name in layers:
        if name not in called:
            raise CompileError(
                "is not called when the model runs: it is not used, or another module reads its weight directly (as "
                "nn.MultiheadAttention reads that of its out_proj); name it in `skip`",
                name,
            )
