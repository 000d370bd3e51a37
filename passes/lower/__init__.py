"""From the graph to matrices: every product with constant weights becomes a weight-stationary operation.

A lowering rule (``LoweringRule``) says which nodes do, and how: ours are in ``rules``, one file each; other packages
register theirs in the group of entry points ``mcompiler.lowerings``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from mcompiler.bodies import nodes_with_branches
from mcompiler.data import InputSpec, Samples
from mcompiler.ir import Fate, GraphProgram, LoweredProgram, NodeFate, Reason, ReasonKind
from mcompiler.onnx_import import operators
from mcompiler.passes.lower.bias import absorb_bias
from mcompiler.passes.lower.digital import digital_reason
from mcompiler.passes.lower.fates import decide_fates
from mcompiler.passes.lower.match import LayoutStep, Match
from mcompiler.passes.lower.matrices import float_matrices
from mcompiler.passes.lower.names import make_room, name_layers
from mcompiler.passes.lower.reached import nodes_reached, reached_branches
from mcompiler.passes.lower.registry import LoweringRule, OperatorId, RegisteredRule, find_rules, operator_id
from mcompiler.passes.lower.skeleton import build_skeleton
from mcompiler.passes.lower.weights import Constant, trace
from mcompiler.target import Target

__all__ = [
    "Constant",
    "LayoutStep",
    "Lower",
    "LoweringRule",
    "Match",
    "digital_reason",
    "final_fates",
    "operator_fates",
    "trace",
]

_ELEMENTS = frozenset([ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16])


@dataclass(frozen=True)
class Lower:
    """Take every node that a lowering rule matches (Conv, Gemm, MatMul with constant weights) out as a matrix.

    The skeleton has a placeholder in its place; nodes that bring its input and output into canonical layout are called
    ``<layer>/...``. The fates say which nodes stay digital, and why. Products in a branch of an If become layers where
    calibration data take that branch: no input range is known of one that is never taken.

    Attributes:
        samples: calibration data; None: no branch is known to be taken.
        specs: inputs of the model.
    """

    name: ClassVar[str] = "lower"
    reads: ClassVar[tuple[str, ...]] = ()
    samples: Samples | None = None
    specs: tuple[InputSpec, ...] = ()

    def run(self, program: GraphProgram, target: Target) -> LoweredProgram:
        """Return matrices and skeleton; the graph is the given one, its fates complete and our names free.

        Raises:
            CompileError: weights or a bias that are NaN or infinite; a rule of another package that fails.
            UserError: a rule of another package that cannot be used.
        """
        rules = find_rules()
        candidates = [node for node in nodes_with_branches(program.model.graph) if operator_id(node) in rules]
        program = replace(program, model=make_room(program.model, {node.name or "" for node in candidates}))
        reached: frozenset[ir.Graph] = frozenset()
        if self.samples is not None and any(node.graph is not program.model.graph for node in candidates):
            reached = reached_branches(program.model, self.samples, self.specs)
        matched: dict[ir.Node, Match] = {}
        reasons: dict[ir.Node, Reason] = {}
        for node in nodes_reached(program.model.graph, reached):
            found = match_node(node, rules)
            if isinstance(found, Match):
                matched[node] = found
            else:
                reasons[node] = found
        layers = name_layers(program, list(matched))
        # Artefacts are keyed by layer names.
        matches = {layer.name: match for layer, match in zip(layers, matched.values(), strict=True)}
        skeleton, dropped = build_skeleton(program.model, matches)
        fates = decide_fates(program, matches, reasons, dropped)
        matrices = float_matrices(matches, {layer.name: layer.label for layer in layers})
        return LoweredProgram(graph=replace(program, fates=fates), skeleton=skeleton, matrices=matrices)


def final_fates(program: LoweredProgram) -> tuple[NodeFate, ...]:
    """The fate of every node of the input model, in its order."""
    return tuple(program.graph.fates[node.origin] for node in program.graph.nodes)


def operator_fates() -> tuple[tuple[str, Fate, Reason], ...]:
    """The fate of every ONNX operator, by the rules of this pass and of the import, in alphabetical order.

    Operators of other domains are listed after those where a package registers a rule for them.
    """
    rules = find_rules()
    rows = []
    for op, random in operators().items():
        if random:
            rows.append((op, Fate.REFUSED, Reason(ReasonKind.RANDOM_GENERATOR)))
        elif ("", op) in rules:
            rows.append((op, Fate.ANALOG, rules["", op].rule.general))
        elif op == "BatchNormalization":
            rows.append((op, Fate.ANALOG, Reason(ReasonKind.WHERE_FOLDED)))
        else:
            rows.append((op, Fate.DIGITAL, digital_reason(ir.node(op, []))))
    foreign = sorted(operator for operator in rules if operator[0])
    rows += [(f"{domain}.{op}", Fate.ANALOG, rules[domain, op].rule.general) for domain, op in foreign]
    return tuple(rows)


def match_node(node: ir.Node, rules: Mapping[OperatorId, RegisteredRule]) -> Match | Reason:
    """A node as matrix, or the reason why it stays digital."""
    rule = rules.get(operator_id(node))
    if rule is None:
        return digital_reason(node)
    if node.outputs[0].dtype is not None and node.outputs[0].dtype not in _ELEMENTS:
        return Reason(ReasonKind.ELEMENT_TYPE, element=node.outputs[0].dtype.name)
    found = rule.match(node)
    return absorb_bias(found) if isinstance(found, Match) else found
