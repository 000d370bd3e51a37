"""Remove nodes that change nothing, and nodes that no output depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from mcompiler.graph import remove_unused_initializers, remove_unused_nodes, standard
from mcompiler.ir import Fate, GraphProgram, Reason, ReasonKind
from mcompiler.provenance import Decision, with_fates
from mcompiler.target import Target


@dataclass(frozen=True)
class Clean:
    """Remove Identity and inference-time Dropout, then every node and constant that no output depends on."""

    name: ClassVar[str] = "clean"
    reads: ClassVar[tuple[str, ...]] = ()

    def run(self, program: GraphProgram, target: Target) -> GraphProgram:
        """Return the program with the same inputs and outputs; an unused input stays an input."""
        model = program.model.clone()
        graph = model.graph
        unused = Reason(ReasonKind.UNUSED)
        fates: list[Decision] = [(node, Fate.DIGITAL, unused) for node in remove_unused_nodes(graph)]
        for node in list(graph):
            if _passes_through(node) and _bypass(graph, node):
                fates.append((node, Fate.DIGITAL, Reason(ReasonKind.NO_EFFECT, operator=node.op_type)))
        remove_unused_initializers(graph)
        return with_fates(program, model, fates)


def _passes_through(node: ir.Node) -> bool:
    """Identity; Dropout whose mask nobody reads (training mode is refused at import)."""
    if standard(node, "Identity"):
        return True
    return standard(node, "Dropout") and not any(
        output.uses() or output.is_graph_output() for output in node.outputs[1:]
    )


def _bypass(graph: ir.Graph, node: ir.Node) -> bool:
    """Let the readers of a node's output read its input; False where the interface needs the node."""
    source, output = node.inputs[0], node.outputs[0]
    if source is None:
        return False
    if output.is_graph_output():
        producer = source.producer()
        if producer is None or producer.graph is not graph or source.is_graph_output():
            return False  # an output that is an input, a constant, or another output needs a node
        name = output.name
        source.type, source.shape = output.type or source.type, output.shape or source.shape
        for key, item in output.meta.items():
            source.meta[key] = item
        output.replace_all_uses_with(source, replace_graph_outputs=True)
        output.name = f"{name}/replaced"
        source.name = name
    else:
        output.replace_all_uses_with(source)
    graph.remove(node, safe=True)
    return True
