"""An addition after a product as the product's bias."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mcompiler.graph import only_consumer, rank, standard
from mcompiler.ir import ConvShape
from mcompiler.passes.lower.match import Match
from mcompiler.passes.lower.weights import trace


def absorb_bias(match: Match) -> Match:
    """Take a constant added to a product without bias as its bias, where it differs by output channel only."""
    output = match.node.outputs[0]
    add = only_consumer(output)
    dims = rank(output)
    if match.bias is not None or match.after or add is None or not standard(add, "Add") or dims is None:
        return match
    if add.graph is not match.node.graph:
        return match
    other = add.inputs[1] if add.inputs[0] is output else add.inputs[0]
    found = trace(other) if other is not output else None
    if found is None or len(found.shape) > dims:
        return match
    values = found.real("float64")
    axis = 1 if isinstance(match.shape, ConvShape) else dims - 1
    shape = (1,) * (dims - values.ndim) + values.shape
    groups, _, columns = match.weights.shape
    count = groups * columns if isinstance(match.shape, ConvShape) else columns
    if shape[axis] not in (1, count) or any(size != 1 for i, size in enumerate(shape) if i != axis):
        return match
    row = np.broadcast_to(values.reshape(-1), (count,))
    bias = row.reshape(groups, columns) if count == groups * columns else np.broadcast_to(row, (groups, columns))
    return replace(match, bias=bias, bias_nodes=found.nodes, absorbed=add)
