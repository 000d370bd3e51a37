"""Sizes of the values that a model computes: those that no memory holds are refused before anything runs the model."""

from __future__ import annotations

import math
from contextlib import suppress

import onnx_ir as ir
import onnx_ir.passes.common as common

from mcompiler.bodies import nodes_with_branches
from mcompiler.errors import ModelError
from mcompiler.onnx_import.shapes import infer_by_onnx

VALUE_BYTES = 4 << 30
"""Largest size of one value of an inference; dimensions that are not known count 1."""

_GROWING = frozenset(
    [
        *("Range", "ConstantOfShape", "Expand", "Tile", "OneHot", "Pad", "EyeLike", "Resize", "Upsample"),
        *("HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix", "CenterCropPad", "GridSample"),
        *("Conv", "ConvTranspose", "AveragePool", "MaxPool", "LpPool", "DFT", "STFT"),
    ]
)
"""Operators by which a few bytes of a file, a size or a padding, make large values."""

_PADDING = frozenset(["Conv", "AveragePool", "MaxPool", "LpPool"])

_COMMON_PADDING = 1 << 10

_NO_WIDTH = (None, ir.DataType.STRING, ir.DataType.UNDEFINED)


def check_sizes(model: ir.Model, label: str) -> None:
    """Raise ModelError for a node of which an output would take more than ``VALUE_BYTES``.

    Args:
        model: left as it is; its functions are looked into.
        label: name of the model in messages.
    """
    if not any(_grows(node) for graph in model.graphs() for node in graph):
        return
    try:
        _check_values(model.clone(), label)
    except (KeyError, TypeError, ValueError) as error:  # nobody has compared the attributes of nodes with ONNX yet
        raise ModelError(f"{label} is a damaged ONNX model ({error}); export it again") from error


def _check_values(work: ir.Model, label: str) -> None:
    """Check the values of a copy, in place."""
    if work.functions:
        with suppress(ValueError, ir.passes.PassError):  # calls that are not inlined are looked at from outside only
            common.InlinePass()(work)
    for node in nodes_with_branches(work.graph):
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None  # a wrong statement would hide a value of any size
    infer_by_onnx(work)
    for node in nodes_with_branches(work.graph):
        for value in node.outputs:
            if value.shape is None:
                continue
            sizes = [size for size in value.shape if isinstance(size, int) and size > 0]
            width = 64 if value.dtype in _NO_WIDTH else value.dtype.bitwidth
            needed = math.prod(sizes) * width // 8
            if needed > VALUE_BYTES:
                raise ModelError(
                    f"{label}: node '{node.name or node.op_type}' ({node.op_type}) makes a value of shape {sizes}, "
                    f"{needed} bytes, more than the {VALUE_BYTES} that are allowed; check its sizes and export it again"
                )


def _grows(node: ir.Node) -> bool:
    """Whether the outputs of a node may be far larger than its inputs; convolutions and pools: by their padding."""
    if node.op_type not in _GROWING:
        return False
    if node.op_type in _PADDING:
        pads = node.attributes.get("pads")
        if pads is None:
            return False
        known = pads.type == ir.AttributeType.INTS and not pads.is_ref()
        return not known or max(pads.as_ints(), default=0) > _COMMON_PADDING
    return True
