"""One node evaluated at compile time, by the reference implementation of the ``onnx`` package."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator


def evaluate(
    node: ir.Node, inputs: Sequence[npt.NDArray[Any] | None], opsets: Mapping[str, int]
) -> list[npt.NDArray[Any]] | None:
    """Outputs of a node for constant inputs.

    Args:
        node: a node without control-flow bodies.
        inputs: one array per input, None where an optional input is left out.
        opsets: operator sets of the model.

    Returns:
        One array per output, or None where the node cannot be evaluated here (it then stays in the graph).
    """
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    proto.input.extend("" if array is None else f"x{index}" for index, array in enumerate(inputs))
    proto.output.extend(f"y{index}" for index in range(len(node.outputs)))
    feeds = {f"x{index}": array for index, array in enumerate(inputs) if array is not None}
    graph = onnx.GraphProto(name="constant", node=[proto])
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in feeds)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in proto.output)
    imports = [onnx.OperatorSetIdProto(domain=domain, version=version) for domain, version in opsets.items()]
    model = onnx.ModelProto(ir_version=10, graph=graph, opset_import=imports)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # the evaluator raises many kinds; the runtime computes nodes that it cannot
        return None
    if any(not isinstance(result, (np.ndarray, np.generic)) for result in results):
        return None
    return [np.asarray(result) for result in results]
