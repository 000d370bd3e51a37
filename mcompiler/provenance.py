"""Origins of nodes and roots of constants, kept in the ``meta`` of ``onnx_ir`` objects, which its clones copy.

Names of nodes decide nothing: they may repeat, be missing, or be made up by a pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import onnx_ir as ir

from mcompiler.ir import ConstantRoot, Fate, GraphProgram, ModelNode, NodeFate, NodeRef, Origin, Provenance, Reason

_PROVENANCE = "mcompiler.provenance"
_ROOTS = "mcompiler.roots"

Decision = tuple[ir.Node, Fate, Reason]
"""A node, and the fate and reason that a pass decided for it."""


def provenance(node: ir.Node) -> Provenance:
    """The provenance of a node; without origins where none was set."""
    found = node.meta.get(_PROVENANCE)
    return found if isinstance(found, Provenance) else Provenance(())


def set_provenance(node: ir.Node, found: Provenance) -> None:
    """Set the provenance of a node."""
    node.meta[_PROVENANCE] = found


def origin(node: ir.Node) -> Origin | None:
    """The node of the user's model that this node computes; None for helpers and for nodes made from none."""
    found = provenance(node)
    return found.origins[0] if found.origins and not found.helper else None


def mark_replacement(new: ir.Node, old: ir.Node) -> None:
    """``new`` replaces ``old``: its fate is that of the node that ``old`` came from."""
    set_provenance(new, provenance(old))


def mark_helper(new: ir.Node, old: ir.Node) -> None:
    """``new`` prepares inputs or outputs of ``old``, or of its replacement; it decides no fate."""
    set_provenance(new, replace(provenance(old), label="", helper=True))


def merge_origins(node: ir.Node, taken_up: ir.Node) -> None:
    """``node`` replaces ``taken_up`` too: it carries the origins of both."""
    set_provenance(node, provenance(node).with_origins(provenance(taken_up).origins))


def reference(node: ir.Node) -> NodeRef | None:
    """A reference to a node, for the reason of another; None for a node made from none."""
    found = provenance(node)
    return NodeRef(found.origins[0], node.name or found.label) if found.origins else None


def roots(*values: ir.Value | None) -> tuple[ConstantRoot, ...]:
    """The constants of the model that constant values were computed from, in ascending order."""
    found: set[ConstantRoot] = set()
    for value in values:
        if value is not None:
            found.update(value.meta.get(_ROOTS) or (ConstantRoot((), value.name or ""),))
    return tuple(sorted(found))


def set_roots(value: ir.Value, found: Iterable[ConstantRoot]) -> None:
    """Set the constants of the model that a constant was computed from."""
    value.meta[_ROOTS] = tuple(found)


def with_fates(program: GraphProgram, model: ir.Model, decisions: Iterable[Decision]) -> GraphProgram:
    """The program with another model and the fates that a pass decided; helpers have none."""
    table = dict(program.fates)
    for node, fate, reason in decisions:
        place = origin(node)
        if place is not None:
            described = ModelNode(place, node.name or "", node.op_type, provenance(node).label)
            table[place] = NodeFate(described, fate, reason)
    return replace(program, model=model, fates=table)
