"""Model-local functions become part of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import onnx_ir.passes.common as common

from mcompiler.graph import decided
from mcompiler.ir import Fate, GraphProgram
from mcompiler.target import Target


@dataclass(frozen=True)
class Inline:
    """Inline model-local functions; the nodes of a body are named ``<call>/<node>``.

    The fate of a call follows from its body: analog if a node of the body becomes analog, else digital.
    """

    name: ClassVar[str] = "inline"

    def run(self, program: GraphProgram, target: Target) -> GraphProgram:
        """Return the program without functions.

        Functions that cannot be inlined (other operator sets than the model's, control-flow bodies as arguments) leave
        the model as it is; their calls then stay digital.
        """
        if not program.model.functions:
            return program
        model = program.model.clone()
        calls = [node for node in model.graph if node.op_identifier() in model.functions]
        fates = [
            (call.name or "", Fate.DIGITAL, f"inlined: the nodes of function {call.op_type} take its place")
            for call in calls
        ]
        _private_bodies(model, calls)
        try:
            common.InlinePass()(model)
        except (ValueError, ir.passes.PassError):
            return program
        model.functions.clear()
        return decided(program, model, fates)


def _private_bodies(model: ir.Model, calls: list[ir.Node]) -> None:
    """Give each call, nested ones too, a copy of its function whose names start with the call's, in place.

    onnx_ir's inliner keeps names that are unique; so the names say which call a node comes from.
    """
    originals = dict(model.functions)
    pending = [(call, call.name or call.op_type) for call in calls]
    while pending:
        call, prefix = pending.pop()
        body = originals[(call.domain, call.op_type, call.overload)].clone()
        # Serialized nowhere: the copy lives until the inliner has run.
        body.overload = call.overload = f"{call.overload}#{len(model.functions)}"
        seen: set[str] = set()
        for index, node in enumerate(body):
            name = node.name or f"{node.op_type}_{index}"
            while name in seen:
                name += "_"
            seen.add(name)
            node.name = f"{prefix}/{name}"
            for output in node.outputs:
                if output.name:
                    output.name = f"{prefix}/{output.name}"
            if node.op_identifier() in originals:
                pending.append((node, node.name))
        model.functions[body.identifier()] = body
