"""Digital operations of one inference: the one count that energy, time and the placement graph use.

Operations of a node: ``node_operations``. Operations after the arrays of a layer: ``layer_operations``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.bodies import holds_layers, scheduled_nodes
from mcompiler.geometry import ArrayShape, TileTable
from mcompiler.graph import int_attr
from mcompiler.ir import ANALOG_OP, AnalogLayer
from mcompiler.target import Pedestal, Target

FREE = frozenset(
    {
        "Constant",
        "Identity",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Shape",
        "Size",
        "Slice",
        "Split",
        "Concat",
        "Gather",
        "Expand",
        "Cast",
        "Dropout",
        ANALOG_OP,
    }
)
"""Operators that move or rename data: they cost buffer traffic, not operations."""


def digital_operations(skeleton: ir.Model, elements: Mapping[str, int]) -> dict[int, int]:
    """Element operations per inference of every node of the skeleton, by its position in ``scheduled_nodes``.

    Placeholders have none.

    Args:
        skeleton: the graph with placeholders.
        elements: elements per inference of every value of the float graph, by name (names of values are unique).
    """
    return {position: node_operations(node, elements) for position, node in enumerate(scheduled_nodes(skeleton.graph))}


def node_operations(node: ir.Node, elements: Mapping[str, int]) -> int:
    """Element operations per inference of one node: multiply-accumulates where it has weights or contracts."""
    if node.op_type in FREE or holds_layers(node):  # the nodes of its branches count
        return 0
    return sum(elements.get(value.name or "", 0) for value in node.outputs) * _per_element(node)


def layer_operations(layer: AnalogLayer, table: TileTable, shape: ArrayShape, target: Target) -> float:
    """Digital operations per inference after the arrays of a layer.

    One for each result: a lane of the digital unit scales a result, adds the bias and quantises it in a single pass, as
    each of the two sigmoid units of an ISAAC tile takes a result a clock (Shafiee et al. 2016, Table I): the targets
    state rate and energy of such a pass. To these come the operations that apply what calibration has measured.
    """
    return float(layer.results) + sum(corrections(layer, table, shape, target).values())


def corrections(layer: AnalogLayer, table: TileTable, shape: ArrayShape, target: Target) -> dict[str, float]:
    """Digital operations of one inference that apply what calibration has measured, by kind.

    A factor and a summand for each code of a ``correction``; a factor for ``drift`` where the correction has no factor
    that could include it. They apply to the sum of a conversion's phases, as they are the same for all phases.
    """
    calibration = target.calibration
    if calibration is None:
        return {}
    groups = np.ceil(table["rows"] / shape.rows_active)
    sums = layer.site.vectors * float((groups * conversions_per_read(table, shape, target)).sum())
    corrected, drifts = calibration.correction != "none", target.device.drift is not None
    return {
        "correction": 2 * sums * corrected,
        "drift": sums * (drifts and not corrected and calibration.drift_interval_s is not None),
    }


def conversions_per_read(
    table: TileTable, shape: ArrayShape, target: Target, extra: bool = True
) -> npt.NDArray[np.float64]:
    """Conversions of one read of each array, [arrays]; ``extra``: with those of unit and reference columns."""
    width = table["cols"].astype(np.float64)
    more = int(shape.unit) + int(target.encoding.pedestal is Pedestal.DIGITISED_REFERENCE) if extra else 0
    each = width * (shape.columns_per_weight // shape.lines_per_conversion) + more
    return np.where(shape.encoding.converts(table["polarity"]), each, 0.0)


def _per_element(node: ir.Node) -> int:
    """Operations for one output element: the contraction length where there is one, else 1."""
    position = 3 if node.op_type.startswith("QLinear") else 1
    weights = node.inputs[position] if len(node.inputs) > position else None
    if weights is None or weights.shape is None:
        return 1
    shape = [size if isinstance(size, int) else 1 for size in weights.shape]
    if node.op_type in {"MatMul", "MatMulInteger", "QLinearMatMul"} and len(shape) >= 2:
        return max(1, shape[-2])
    if node.op_type == "Gemm" and len(shape) == 2:
        return max(1, shape[int_attr(node, "transB", 0)])
    if node.op_type in {"Conv", "ConvInteger", "QLinearConv"}:
        return max(1, int(np.prod(shape[1:], dtype=np.int64)))
    if node.op_type in _GATES and len(shape) == 3:
        # Input weights are [directions, gates * hidden, inputs]; the recurrent ones are as deep as the hidden state.
        gates = _GATES[node.op_type]
        return max(1, gates * (shape[2] + shape[1] // gates))
    return 1


_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
