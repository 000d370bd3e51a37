"""The fate of every node of the input model."""

from __future__ import annotations

from collections.abc import Mapping

from mcompiler.ir import ConvShape, Fate, GraphProgram, NodeFate
from mcompiler.passes.lower.match import Match


def decide_fates(
    program: GraphProgram, matches: list[Match], reasons: Mapping[str, str], dropped: set[str]
) -> dict[str, NodeFate]:
    """Complete the fates of a program that was lowered.

    Args:
        program: with the fates of the passes before.
        matches: what became analog.
        reasons: why the other nodes of the graph stay digital, by name.
        dropped: names of nodes that lowering took out since only weights needed them.
    """
    analog = _analog(matches, dropped)
    here = {node.name for node in program.model.graph}
    table: dict[str, NodeFate] = {}
    for name, op in program.nodes:
        known = program.fates.get(name)
        if known is not None:
            table[name] = _of_inlined(known, analog)
        elif name in analog:
            table[name] = NodeFate(name, op, Fate.ANALOG, analog[name])
        elif name in here:
            table[name] = NodeFate(name, op, Fate.DIGITAL, reasons[name])
        else:
            table[name] = NodeFate(name, op, Fate.DIGITAL, "rewritten as other operators of the operator set")
    return table


def _analog(matches: list[Match], dropped: set[str]) -> dict[str, str]:
    """Reason by name of the nodes that live in crossbars."""
    reasons: dict[str, str] = {}
    for match in matches:
        name = match.node.name or ""
        groups, rows, columns = match.weights.shape
        kind = "convolution" if isinstance(match.shape, ConvShape) else "matrix product"
        count = f"{groups} groups of " if groups > 1 else ""
        reasons[name] = f"{kind} with constant weights, {count}{rows} x {columns}"
        if match.absorbed is not None:
            reasons[match.absorbed.name or ""] = f"folded into {name} as its bias"
        for node in match.weights.nodes:
            if node in dropped:
                reasons.setdefault(node, f"weights of {name}")
        for node in match.bias_nodes:
            if node in dropped:
                reasons.setdefault(node, f"bias of {name}")
    return reasons


def _of_inlined(fate: NodeFate, analog: Mapping[str, str]) -> NodeFate:
    """A call or branch that was inlined is analog where one of its nodes is."""
    if not fate.reason.startswith("inlined"):
        return fate
    inside = [name for name, reason in analog.items() if name.startswith(f"{fate.name}/")]
    if not inside:
        return fate
    return NodeFate(fate.name, fate.op, Fate.ANALOG, f"{fate.reason}; {len(inside)} of its nodes are analog")
