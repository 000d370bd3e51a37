"""Texts and records of fates: the only place where a reason becomes prose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mcompiler.ir import Fate, ModelNode, NodeFate, NodeRef, Origin, Reason, ReasonKind

_LATER = "stays digital for now"
_TEXTS: dict[ReasonKind, str] = {
    ReasonKind.CONVOLUTION: "convolution with constant weights, {size}",
    ReasonKind.MATRIX_PRODUCT: "matrix product with constant weights, {size}",
    ReasonKind.FOLDED: "folded into {into}",
    ReasonKind.ABSORBED_AS_BIAS: "folded into {into} as its bias",
    ReasonKind.WEIGHTS_OF: "weights of {into}",
    ReasonKind.BIAS_OF: "bias of {into}",
    ReasonKind.INLINED_CALL: "inlined: the nodes of function {operator} take its place{inside}",
    ReasonKind.INLINED_BRANCH: "inlined: its condition is constant{inside}",
    ReasonKind.EVALUATED: "evaluated at compile time",
    ReasonKind.UNUSED: "removed: unused",
    ReasonKind.NO_EFFECT: "removed: {operator} changes nothing in inference",
    ReasonKind.REWRITTEN: "rewritten as other operators of the operator set",
    ReasonKind.ELEMENT_TYPE: "product of {element} numbers, stays digital",
    ReasonKind.CONVOLUTION_VARIABLE_WEIGHTS: "convolution whose weights are not constant",
    ReasonKind.CONVOLUTION_VARIABLE_BIAS: "convolution whose bias is not constant",
    ReasonKind.CONVOLUTION_DIMENSIONS: "convolution in {number} dimensions, 1 to 3 are mapped",
    ReasonKind.CONVOLUTION_EMPTY: "convolution without weights",
    ReasonKind.CONVOLUTION_NEGATIVE_PADDING: "convolution with negative padding",
    ReasonKind.CONVOLUTION_UNKNOWN_PADDING: (
        "convolution with auto_pad={operator}, a stride and an input size that is not known; fix the input size"
    ),
    ReasonKind.TWO_ACTIVATIONS: "product of two activations",
    ReasonKind.PRODUCT_EMPTY: "matrix product without rows or columns",
    ReasonKind.PRODUCT_UNKNOWN_RANK: "matrix product whose input has an unknown number of dimensions",
    ReasonKind.PRODUCT_OF_SCALAR: "matrix product of a scalar",
    ReasonKind.RECURRENT: f"recurrent operator, {_LATER}",
    ReasonKind.TRANSPOSED_CONVOLUTION: f"transposed convolution, {_LATER}",
    ReasonKind.DEFORMABLE_CONVOLUTION: "deformable convolution: its windows depend on the data",
    ReasonKind.INTEGER_OPERATOR: f"integer operator (QOp form), {_LATER}; the QDQ form is mapped",
    ReasonKind.ATTENTION: "attention: product of two activations",
    ReasonKind.EINSUM: f"Einsum, {_LATER}",
    ReasonKind.FUSED_OPERATOR: f"fused operator of onnxruntime, {_LATER}; export the model unoptimised",
    ReasonKind.FUSED_ACTIVATION: "fused operator of onnxruntime with an unknown activation, stays digital",
    ReasonKind.FUSED_ATTENTION: f"fused attention of onnxruntime, {_LATER}; export the model unoptimised",
    ReasonKind.BLOCK_QUANTISED: f"block-quantised operator of onnxruntime, {_LATER}",
    ReasonKind.FUNCTION_KEPT: (
        "function that cannot be inlined (it uses other operator sets than the model), stays digital"
    ),
    ReasonKind.ANALOG_BRANCHES: "control flow: analog nodes in its branches: {number}",
    ReasonKind.CONTROL_FLOW: "control flow: its branches stay digital",
    ReasonKind.QUANTISATION: "quantisation, no matrix product",
    ReasonKind.NO_MATRIX_PRODUCT: "no matrix product",
    ReasonKind.STATED_BY_RULE: "{note}",
    ReasonKind.WHERE_CONSTANT: "where its weights are constant; else digital: product of two activations",
    ReasonKind.WHERE_FOLDED: "folded into the layer before it; digital where there is none",
    ReasonKind.TRAINING_OPERATOR: "training operator",
    ReasonKind.TRAINING_MODE: "training mode",
    ReasonKind.RANDOM_GENERATOR: "random generator, its output is not a function of the input",
    ReasonKind.PROCESSOR_LAYOUT: (
        "its weights are laid out for one kind of processor; save the optimised model at level extended or below "
        "(ORT_ENABLE_EXTENDED)"
    ),
    ReasonKind.FOREIGN_DOMAIN: "operator of the foreign domain '{operator}', which onnxruntime does not run",
    ReasonKind.UNKNOWN_OPERATOR: "no operator of ONNX",
}


def reason_text(reason: Reason, labels: Mapping[Origin, str] | None = None) -> str:
    """The sentence that people read.

    Args:
        reason: of a fate.
        labels: of nodes by origin, to name nodes by their labels; None: by their names.
    """
    into = reason.into
    named = "another node" if into is None else (labels or {}).get(into.origin) or into.name
    size = inside = ""
    if reason.shape is not None:
        groups, rows, columns = reason.shape
        size = f"{f'{groups} groups of ' if groups > 1 else ''}{rows} x {columns}"
    if reason.number:
        inside = f"; {reason.number} of its nodes are analog"
    return _TEXTS[reason.kind].format(
        size=size,
        inside=inside,
        into=named,
        operator=reason.operator,
        element=reason.element,
        number=reason.number,
        note=reason.note,
    )


def labels_of(fates: Iterable[NodeFate]) -> dict[Origin, str]:
    """Labels of nodes by origin, for ``reason_text``."""
    return {fate.node.origin: fate.label for fate in fates}


def fate_record(fate: NodeFate) -> dict[str, Any]:
    """A row of ``nodes`` in the JSON of ``compile``: strings only."""
    return {
        "name": fate.name,
        "op": fate.op,
        "fate": fate.fate.value,
        "reason": reason_text(fate.reason),
        "label": fate.label,
        "reason_kind": fate.reason.kind.value,
    }


def stored_fate(fate: NodeFate) -> dict[str, Any]:
    """A row of ``nodes`` in manifest.json: as ``fate_record``, with the origin and the facts that bring it back."""
    reason = fate.reason
    facts: dict[str, Any] = {
        key: getattr(reason, key)
        for key in ("operator", "element", "number", "note")
        if getattr(reason, key) is not None
    }
    if reason.shape is not None:
        facts["shape"] = list(reason.shape)
    if reason.into is not None:
        facts["into"] = {"origin": reason.into.origin.as_json(), "name": reason.into.name}
    return {**fate_record(fate), "origin": fate.node.origin.as_json(), "facts": facts}


def restored_fate(record: dict[str, Any]) -> NodeFate:
    """The fate that ``stored_fate`` wrote; its text is not read.

    Raises:
        KeyError, TypeError, ValueError: another record.
    """
    facts = dict(record["facts"])
    shape, into = facts.pop("shape", None), facts.pop("into", None)
    if shape is not None:
        groups, rows, columns = shape
        facts["shape"] = (groups, rows, columns)
    if into is not None:
        facts["into"] = NodeRef(Origin.from_json(into["origin"]), into["name"])
    node = ModelNode(Origin.from_json(record["origin"]), record["name"], record["op"], record["label"])
    return NodeFate(node, Fate(record["fate"]), Reason(ReasonKind(record["reason_kind"]), **facts))
