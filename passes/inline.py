"""Model-local functions become part of the graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir
import onnx_ir.passes.common as common

from mcompiler.ir import Fate, GraphProgram, Reason, ReasonKind
from mcompiler.provenance import provenance, set_provenance, with_fates
from mcompiler.target import Target


@dataclass(frozen=True)
class Inline:
    """Inline model-local functions; the nodes of a body are named ``<call>/<node>``, for people.

    The fate of a call follows from its body: analog if a node of the body becomes analog, else digital.
    """

    name: ClassVar[str] = "inline"
    reads: ClassVar[tuple[str, ...]] = ()

    def run(self, program: GraphProgram, target: Target) -> GraphProgram:
        """Return the program without functions.

        Functions that cannot be inlined (other operator sets than the model's, control-flow bodies as arguments) leave
        the model as it is; their calls then stay digital.
        """
        if not program.model.functions:
            return program
        model = program.model.clone()
        calls = _copy_functions(model)
        try:
            common.InlinePass()(model)
        except (ValueError, ir.passes.PassError):
            return program
        model.functions.clear()
        kind = ReasonKind.INLINED_CALL
        return with_fates(program, model, [(call, Fate.DIGITAL, Reason(kind, operator=call.op_type)) for call in calls])


def _copy_functions(model: ir.Model) -> list[ir.Node]:
    """Give each call, nested ones too, a copy of its function, in place; returns the calls.

    The inliner of onnx_ir clones bodies and does not say which call a node comes from. In a copy made for one call,
    each node can carry that: its origin, its label, and a name that starts with the call's (unique names are kept).
    """
    originals = dict(model.functions)
    calls: list[ir.Node] = []
    pending = [
        (node, node.name or node.op_type) for node in model.graph.all_nodes() if node.op_identifier() in originals
    ]
    while pending:
        call, name = pending.pop()
        calls.append(call)
        body = originals[call.op_identifier()].clone()
        # Serialized nowhere: the copy lives until the inliner has run.
        body.overload = call.overload = f"{call.overload}#{len(model.functions)}"
        _name_body(body, name)
        for node in body.all_nodes():
            _place_in_call(node, call)
            if node.op_identifier() in originals:
                pending.append((node, node.name or node.op_type))
        model.functions[body.identifier()] = body
    return calls


def _name_body(body: ir.Function, call: str) -> None:
    """Names of a body that say which call it belongs to, in place."""
    seen: set[str] = set()
    for index, node in enumerate(body):
        name = node.name or f"{node.op_type}_{index}"
        while name in seen:
            name += "_"
        seen.add(name)
        node.name = f"{call}/{name}"
        for output in node.outputs:
            if output.name:
                output.name = f"{call}/{output.name}"


def _place_in_call(node: ir.Node, call: ir.Node) -> None:
    """Origin and label of a node of a function in one call of that function."""
    own, outer = provenance(node), provenance(call)
    if own.origins and outer.origins:
        origins = tuple(place.in_call(outer.origins[0]) for place in own.origins)
        set_provenance(node, replace(own, origins=origins, label=f"{outer.label}/{own.label}"))
