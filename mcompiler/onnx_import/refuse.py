"""Nodes that are refused at import: foreign operators, training mode, random generators."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from mcompiler.errors import ModelError
from mcompiler.fates import reason_text
from mcompiler.graph import constant, input_at, int_attr, standard
from mcompiler.ir import Reason, ReasonKind

_RUNTIME_DOMAINS = frozenset(["", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.experimental"])
_BLOCKED_DOMAINS = frozenset(["com.microsoft.nchwc"])
_TRAINING_DOMAINS = frozenset(["ai.onnx.training", "ai.onnx.preview.training"])
_RANDOM = frozenset(
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"]
)
_LEGACY = frozenset(
    [
        "ATen",
        "Affine",
        "Crop",
        "DynamicSlice",
        "GRUUnit",
        "GivenTensorFill",
        "ImageScaler",
        "MeanVarianceNormalization",
        "ParametricSoftplus",
        "Scale",
        "ScaledTanh",
        "SimplifiedLayerNormalization",
        "ThresholdedRelu",
    ]
)
"""Operators that left ONNX, or never entered it, and that onnxruntime may run in its domain."""

_LISTED = 20


def check(model: ir.Model, label: str) -> None:
    """Raise ModelError for nodes that onnxruntime cannot run, or that are no inference; all of them are listed.

    Whether onnxruntime accepts the model is only known once a session has been opened; this check needs none.
    """
    if not model.opset_imports:
        raise ModelError(
            f"{label} imports no operator set (opset_import is empty), so its operators have no defined meaning; "
            "export it again with a current exporter"
        )
    found = []
    for index, (node, opsets) in enumerate(_all_nodes(model)):
        reason = refusal(node, opsets, model)
        if reason is not None:
            found.append(f"{node.name or f'{node.op_type}_{index}'} ({node.op_type}): {reason_text(reason)}")
    if found:
        more = f"; and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise ModelError(
            f"{label} cannot be compiled, {len(found)} of its nodes are refused: {'; '.join(found[:_LISTED])}{more}. "
            "Export the model for inference with operators that onnxruntime runs"
        )


def _all_nodes(model: ir.Model) -> Iterator[tuple[ir.Node, dict[str, int]]]:
    """Every node, those of control-flow bodies and functions included, with the operator sets it is read in."""
    for node in model.graph.all_nodes():
        yield node, model.opset_imports
    for function in model.functions.values():
        for node in function.all_nodes():
            yield node, {**model.opset_imports, **function.opset_imports}


def refusal(node: ir.Node, opsets: dict[str, int], model: ir.Model) -> Reason | None:
    """Why a node is refused, or None."""
    if node.op_identifier() in model.functions:
        return None
    if node.domain in _TRAINING_DOMAINS:
        return Reason(ReasonKind.TRAINING_OPERATOR)
    if node.domain in _BLOCKED_DOMAINS:
        return Reason(ReasonKind.PROCESSOR_LAYOUT)
    if node.domain not in _RUNTIME_DOMAINS:
        return Reason(ReasonKind.FOREIGN_DOMAIN, operator=node.domain)
    if node.op_type in _RANDOM:
        return Reason(ReasonKind.RANDOM_GENERATOR)
    opset = opsets.get("", opsets.get("ai.onnx", 1))
    if _trains(node, opset):
        return Reason(ReasonKind.TRAINING_MODE)
    if node.domain in ("", "ai.onnx") and node.op_type not in _LEGACY and not _known(node.op_type):
        return Reason(ReasonKind.UNKNOWN_OPERATOR)
    return None


def operators() -> dict[str, bool]:
    """Every operator of the ONNX domain that is not deprecated, by name; True for random generators."""
    schemas = onnx.defs.get_all_schemas()
    return {
        s.name: s.name in _RANDOM for s in sorted(schemas, key=lambda s: s.name) if not s.domain and not s.deprecated
    }


def _known(op: str) -> bool:
    return bool(onnx.defs.has(op, ""))


def _trains(node: ir.Node, opset: int) -> bool:
    if standard(node, "BatchNormalization"):
        if opset >= 14:
            return int_attr(node, "training_mode", 0) != 0
        if opset >= 7:
            # Before opset 14 the number of outputs selects the training form.
            return sum(bool(output.name) for output in node.outputs) > 1
        return int_attr(node, "is_test", 0) == 0
    if standard(node, "Dropout"):
        if opset < 7:
            return int_attr(node, "is_test", 0) == 0
        if opset >= 12 and input_at(node, 2) is not None:
            mode = constant(input_at(node, 2))
            return mode is None or bool(mode.any())
    return False
