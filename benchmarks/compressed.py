"""A compressed model as a PyTorch network again, to continue from: `paper.py` uses it where a recipe has a `start`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from mcompiler.admm.surgery.channels import find_batchnorm_pairs, trace


@torch.no_grad()
def reopened(model: nn.Module, path: Path, x: torch.Tensor) -> nn.Module:
    """The float network of an exported model, at its reduced widths.

    Its convolutions and products have the values of the levels, its normalisations the biases; the normalisations
    measure their statistics on a batch, so that inference is that of the exported model without input quantisers.

    Args:
        model: the dense network that was compressed; its layers are replaced by narrower ones.
        path: exported by ``admm.compress``: one Conv or Gemm for each layer, of its name.
        x: normalised training images.

    Raises:
        SystemExit: a layer that the network has not, or weights that are neither constants nor levels of a grid.
    """
    values = _layers(path)
    pairs = dict(find_batchnorm_pairs(trace(model.eval(), x[:2])))
    seen: dict[str, torch.Tensor] = {}
    held = dict(model.named_modules())
    for name, (weight, bias) in values.items():
        if name not in held:
            raise SystemExit(f"{path}: layer '{name}' is not one of the network; start from a model of that network")
        old = held[name]
        layer: nn.Module
        if isinstance(old, nn.Conv2d):
            layer = nn.Conv2d(
                weight.shape[1],
                weight.shape[0],
                old.kernel_size,
                old.stride,
                old.padding,
                bias=name not in pairs,  # type: ignore[arg-type]
            )
        else:
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=name not in pairs)
        layer.weight.copy_(weight)  # type: ignore[operator]
        model.set_submodule(name, layer)
        if name not in pairs:
            layer.bias.copy_(bias)  # type: ignore[operator]
            continue
        norm = nn.BatchNorm2d(len(bias))
        norm.weight.fill_((1 + norm.eps) ** 0.5)  # until its statistics are known it adds the bias, no more
        norm.bias.copy_(bias)
        model.set_submodule(pairs[name], norm)
        layer.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    model.eval()(x)
    for name, output in seen.items():
        model.get_submodule(name)._forward_hooks.clear()
        norm = model.get_submodule(pairs[name])  # type: ignore[assignment]
        norm.running_mean.copy_(output.mean((0, 2, 3)))  # type: ignore[union-attr]
        norm.running_var.copy_(output.var((0, 2, 3)))  # type: ignore[union-attr]
        norm.weight.copy_((norm.running_var + norm.eps).sqrt())  # type: ignore[operator]
        norm.bias.add_(norm.running_mean)  # type: ignore[arg-type]
    return model


def _layers(path: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Weights in PyTorch's layout and biases, by layer."""
    graph = onnx.load(path).graph
    held: dict[str, Any] = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in held:
            codes, scale = held[node.input[0]], held[node.input[1]]
            axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
            shape = [-1 if place == axis else 1 for place in range(codes.ndim)]
            held[node.output[0]] = codes.astype(np.float32) * (scale.reshape(shape) if scale.ndim else scale)
    found = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            across = any(entry.name == "transB" and entry.i for entry in node.attribute)
            weight = held.get(node.input[1])
            if weight is None:
                raise SystemExit(
                    f"{path}: the weights of '{node.name}' are neither constants nor behind a DequantizeLinear; "
                    "start from a model whose levels are a grid"
                )
            weight = weight if node.op_type == "Conv" or across else weight.T
            bias = held[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
            found[node.name] = (torch.from_numpy(np.array(weight)), torch.from_numpy(np.array(bias)))
    return found
