"""GRAPH: a model as an ONNX graph, and the fate of every node of the input model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import onnx_ir as ir


class Fate(StrEnum):
    """What becomes of a node of the input model."""

    ANALOG = "analog"
    DIGITAL = "digital"
    REFUSED = "refused"


@dataclass(frozen=True)
class NodeFate:
    """One row of the table that ``compile --json`` prints as ``nodes``."""

    name: str
    op: str
    fate: Fate
    reason: str


@dataclass(frozen=True)
class GraphProgram:
    """A model as ONNX graph.

    Attributes:
        model: the graph; never edited in place (a pass works on ``model.clone()``). Every node of the input model that
            is still there carries its name; nodes that a pass adds have names derived from the node they serve.
        nodes: (name, op) of every node of the input model, in its order.
        fates: fates decided so far, by node name: folded, evaluated, removed, inlined, refused.
        dims: sizes taken for symbolic dimensions other than the sample axis, by name.
    """

    model: ir.Model
    nodes: tuple[tuple[str, str], ...]
    fates: Mapping[str, NodeFate] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
