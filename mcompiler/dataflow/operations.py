"""Digital operations of one inference: the one count that energy, time and the placement graph use.

Operations of a node: ``node_operations``, by rules in their own module. After the arrays of a layer:
``layer_operations``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.bodies import scheduled_nodes
from mcompiler.dataflow.node_operations import Shape, node_operations
from mcompiler.geometry import ArrayShape, TileTable
from mcompiler.ir import AnalogLayer
from mcompiler.target import Pedestal, Target


def digital_operations(skeleton: ir.Model, shapes: Mapping[str, Shape], samples: int = 1) -> dict[int, int]:
    """Operations per inference of every node of the skeleton, by its position in ``scheduled_nodes``.

    Placeholders have none.

    Args:
        skeleton: the graph with placeholders.
        shapes: of values of the float graph in one run, by name (names of values are unique).
        samples: inferences that one run makes.
    """
    nodes = enumerate(scheduled_nodes(skeleton.graph))
    return {position: -(-node_operations(node, shapes) // samples) for position, node in nodes}


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
