"""The fate of every node of the input model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from mcompiler.ir import ConvShape, Fate, GraphProgram, ModelNode, NodeFate, NodeRef, Origin, Reason, ReasonKind
from mcompiler.passes.lower.match import Match
from mcompiler.provenance import origin, provenance

_INLINED = (ReasonKind.INLINED_CALL, ReasonKind.INLINED_BRANCH)


def decide_fates(
    program: GraphProgram, matches: Mapping[str, Match], reasons: Mapping[ir.Node, Reason], dropped: set[ir.Node]
) -> dict[Origin, NodeFate]:
    """Complete the fates of a program that was lowered.

    Args:
        program: with the fates of the passes before.
        matches: the analog nodes, by layer name.
        reasons: why the other nodes of the graph stay digital.
        dropped: nodes that lowering took out since only weights needed them.

    Returns:
        The fate of every node of the main graph of the input model, in its order.
    """
    analog = _analog(matches, dropped)
    digital = {place: reason for node, reason in reasons.items() if (place := origin(node)) is not None}
    decided = {place: (fate.fate, fate.reason) for place, fate in program.fates.items()}
    for place, (_, reason) in decided.items():
        if reason.kind is ReasonKind.FOLDED and reason.into is not None:
            # A normalisation shares the fate of the product that holds it, in bodies too.
            decided[place] = (Fate.ANALOG if reason.into.origin in analog else Fate.DIGITAL, reason)
    branches_of = {place for place, reason in digital.items() if reason.kind is ReasonKind.CONTROL_FLOW}
    in_crossbars = set(analog) | {place for place, (fate, _) in decided.items() if fate is Fate.ANALOG}
    for place in branches_of:
        inside = sum(inner.is_below(place) for inner in in_crossbars)
        if inside:
            decided[place] = (Fate.ANALOG, Reason(ReasonKind.ANALOG_BRANCHES, number=inside))
    return {node.origin: NodeFate(node, *_fate(node, decided, analog, digital, in_crossbars)) for node in program.nodes}


def _fate(
    node: ModelNode,
    decided: Mapping[Origin, tuple[Fate, Reason]],
    analog: Mapping[Origin, Reason],
    digital: Mapping[Origin, Reason],
    in_crossbars: set[Origin],
) -> tuple[Fate, Reason]:
    place = node.origin
    if place in decided:
        fate, reason = decided[place]
        return _of_inlined(place, reason, in_crossbars) if reason.kind in _INLINED else (fate, reason)
    if place in analog:
        return Fate.ANALOG, analog[place]
    return Fate.DIGITAL, digital.get(place, Reason(ReasonKind.REWRITTEN))


def _analog(matches: Mapping[str, Match], dropped: set[ir.Node]) -> dict[Origin, Reason]:
    """Reason of the nodes that are computed in crossbars, by origin."""
    reasons: dict[Origin, Reason] = {}
    prepared: dict[Origin, Reason] = {}
    for layer, match in matches.items():
        place = origin(match.node)
        convolution = isinstance(match.shape, ConvShape)
        kind = ReasonKind.CONVOLUTION if convolution else ReasonKind.MATRIX_PRODUCT
        groups, rows, columns = match.weights.shape
        if place is not None:
            reasons[place] = Reason(kind, shape=(groups, rows, columns))
        known = provenance(match.node).origins
        into = NodeRef(known[0], layer) if known else None
        if match.absorbed is not None and (added := origin(match.absorbed)) is not None:
            reasons[added] = Reason(ReasonKind.ABSORBED_AS_BIAS, into=into)
        for nodes, use in ((match.weights.nodes, ReasonKind.WEIGHTS_OF), (match.bias_nodes, ReasonKind.BIAS_OF)):
            for node in nodes:
                if node in dropped and (source := origin(node)) is not None:
                    prepared.setdefault(source, Reason(use, into=into))
    return prepared | reasons


def _of_inlined(place: Origin, reason: Reason, in_crossbars: set[Origin]) -> tuple[Fate, Reason]:
    """A call or branch that was inlined is analog where one of its nodes is."""
    count = sum(inner.is_below(place) for inner in in_crossbars)
    return (Fate.ANALOG if count else Fate.DIGITAL), replace(reason, number=count or None)
