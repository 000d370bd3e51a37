"""The branches of If nodes that calibration data take: only their products become layers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from mcompiler.bodies import branches, nodes_with_branches
from mcompiler.data import InputSpec, Samples, batches
from mcompiler.errors import CompileError
from mcompiler.graph import constant
from mcompiler.runtime import RunError, open_model


def reached_branches(model: ir.Model, samples: Samples, specs: tuple[InputSpec, ...]) -> frozenset[ir.Graph]:
    """The branches that at least one run of the samples takes.

    Args:
        model: the normalised graph.
        samples: calibration data.
        specs: inputs of the model.

    Raises:
        CompileError: onnxruntime fails while it runs the model on the samples.
    """
    choices = [node for node in nodes_with_branches(model.graph) if branches(node)]
    conditions = [node.inputs[0] for node in choices]
    computed = [
        value.name or ""
        for value in conditions
        if value is not None and constant(value) is None and not value.is_graph_input()
    ]
    session = open_model(model, outputs=computed, optimise=False, prepack=False)
    reached: set[ir.Graph] = set()
    for feeds, _ in batches(specs, samples):
        try:
            values = session.run(feeds, computed)
        except RunError as error:
            raise CompileError(f"onnxruntime fails while running the model on the calibration data: {error}") from error
        for node, condition in zip(choices, conditions, strict=True):
            taken = _condition(condition, {**feeds, **values})
            if taken is not None:
                reached.add(branches(node)[0 if taken else 1])
    return frozenset(reached)


def _condition(value: ir.Value | None, known: Mapping[str, Any]) -> bool | None:
    """A condition in one run; None where the If lies in a branch that the run does not take."""
    if value is None:
        return None
    array = constant(value)
    found = np.asarray(known[value.name or ""] if array is None else array)
    return bool(found.reshape(-1)[0]) if found.size else None


def nodes_reached(graph: ir.Graph, reached: Collection[ir.Graph]) -> Iterator[ir.Node]:
    """The nodes of a graph and, before each If, those of its branches that are reached."""
    for node in graph:
        for branch in branches(node):
            if branch in reached:
                yield from nodes_reached(branch, reached)
        yield node
