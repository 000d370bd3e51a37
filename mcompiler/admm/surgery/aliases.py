"""Tensors that share memory in a trace: an operation in place changes all of them."""

from __future__ import annotations

from torch import fx, nn

from mcompiler.admm.surgery.operators import VIEW_MODULES, VIEWS, in_place, operation
from mcompiler.admm.surgery.tracing import get_attribute


def _is_view(node: fx.Node, model: nn.Module) -> bool:
    """Whether the node's tensor may share the memory of its first input."""
    if node.op == "call_module":
        module = get_attribute(model, str(node.target))
        return isinstance(module, VIEW_MODULES) or in_place(node, module)
    return node.op in ("call_function", "call_method") and (operation(node) in VIEWS or in_place(node, None))


def _find_aliases(node: fx.Node, model: nn.Module) -> set[fx.Node]:
    """Nodes whose tensors may share memory with the first input of ``node``, without views of ``node`` itself."""
    # First back to the tensor that owns the memory, then forwards through all views of it.
    root = node.all_input_nodes[0]
    while _is_view(root, model) and root.all_input_nodes:
        root = root.all_input_nodes[0]
    found, pending = {root}, [root]
    while pending:
        for user in pending.pop().users:
            if user is not node and user not in found and _is_view(user, model):
                found.add(user)
                pending.append(user)
    return found


def is_read_after_overwrite(node: fx.Node, model: nn.Module) -> bool:
    """Whether a later node reads, through another tensor, memory that ``node`` overwrites in place."""
    if not node.all_input_nodes:
        return False
    order = {other: place for place, other in enumerate(node.graph.nodes)}
    users = {user for alias in _find_aliases(node, model) for user in alias.users} - {node}
    return any(order[user] > order[node] for user in users)


def find_overwritten(graph: fx.Graph, model: nn.Module) -> set[fx.Node]:
    """Nodes whose tensors are overwritten in place and read afterwards."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        module = get_attribute(model, str(node.target)) if node.op == "call_module" else None
        if node.op in ("call_module", "call_function", "call_method") and in_place(node, module):
            found |= _find_aliases(node, model) | {node} if is_read_after_overwrite(node, model) else set()
    return found
