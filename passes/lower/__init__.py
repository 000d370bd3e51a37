"""From the graph to matrices: every product with constant weights becomes a weight-stationary operation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.errors import CompileError
from mcompiler.graph import standard
from mcompiler.ir import Fate, FloatMatrix, GraphProgram, LoweredProgram, NodeFate
from mcompiler.onnx_import import operators
from mcompiler.passes.lower.convolution import match_conv
from mcompiler.passes.lower.fates import decide_fates
from mcompiler.passes.lower.inputs import input_quantiser
from mcompiler.passes.lower.match import Match, digital_reason
from mcompiler.passes.lower.names import make_room
from mcompiler.passes.lower.product import absorb_bias, match_gemm, match_matmul
from mcompiler.passes.lower.skeleton import build_skeleton
from mcompiler.passes.lower.weights import codes_of
from mcompiler.target import Target

__all__ = ["Lower", "digital_reason", "final_fates", "operator_fates"]

_ELEMENTS = frozenset([ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16])
_RULES = {"Conv": match_conv, "Gemm": match_gemm, "MatMul": match_matmul}


@dataclass(frozen=True)
class Lower:
    """Take every Conv, Gemm and MatMul with constant weights out of the graph as a matrix.

    A placeholder stands in the skeleton where it was; nodes that bring its input and output into canonical layout are
    called ``<layer>/...``. What stays digital, and why, is in the fates.
    """

    name: ClassVar[str] = "lower"

    def run(self, program: GraphProgram, target: Target) -> LoweredProgram:
        """Return matrices and skeleton; the graph is the given one, its fates complete and our names free.

        Raises:
            CompileError: weights or a bias that are NaN or infinite.
        """
        layers = {node.name or "" for node in program.model.graph if standard(node, *_RULES)}
        program = replace(program, model=make_room(program.model, layers))
        matches: list[Match] = []
        reasons: dict[str, str] = {}
        for node in program.model.graph:
            found = match_node(node)
            if isinstance(found, Match):
                matches.append(found)
            else:
                reasons[node.name or ""] = found
        matrices = tuple(_float_matrix(match) for match in matches)
        skeleton, dropped = build_skeleton(program.model, matches)
        fates = decide_fates(program, matches, reasons, dropped)
        return LoweredProgram(graph=replace(program, fates=fates), skeleton=skeleton, matrices=matrices)


def final_fates(program: LoweredProgram) -> tuple[NodeFate, ...]:
    """The fate of every node of the input model, in its order."""
    return tuple(program.graph.fates[name] for name, _ in program.graph.nodes)


def operator_fates() -> tuple[NodeFate, ...]:
    """What becomes of every ONNX operator, by the rules of this pass and of the import."""
    fates = []
    for op, random in operators().items():
        if random:
            fates.append(NodeFate(op, op, Fate.REFUSED, "random generator, its output is not a function of the input"))
        elif op in _RULES:
            fates.append(
                NodeFate(
                    op, op, Fate.ANALOG, "where its weights are constant; else digital: product of two activations"
                )
            )
        elif op == "BatchNormalization":
            fates.append(NodeFate(op, op, Fate.ANALOG, "folded into the layer before it; digital where there is none"))
        else:
            fates.append(NodeFate(op, op, Fate.DIGITAL, digital_reason(ir.node(op, []))))
    return tuple(fates)


def match_node(node: ir.Node) -> Match | str:
    """A node as matrix, or the reason why it stays digital."""
    if not standard(node, *_RULES):
        return digital_reason(node)
    if node.outputs[0].dtype is not None and node.outputs[0].dtype not in _ELEMENTS:
        return f"product of {node.outputs[0].dtype.name} numbers, stays digital"
    found = _RULES[node.op_type](node)
    return absorb_bias(found) if isinstance(found, Match) else found


def _float_matrix(match: Match) -> FloatMatrix:
    """The matrix of a match, with the model's own codes where it brings them."""
    node = match.node
    name = node.name or ""
    element = _element(match)
    dtype = np.float64 if element == ir.DataType.DOUBLE else np.float32
    real = match.weights.real(dtype)
    if match.factor != 1.0:
        real = real * dtype(match.factor)
    weights = _read_only(real)
    _refuse_not_finite(weights, "weights", name)
    bias = None
    if match.bias is not None:
        with np.errstate(over="ignore"):
            bias = np.ascontiguousarray(match.bias, dtype=np.float32)
        _refuse_not_finite(bias, "bias", name)
        bias.flags.writeable = False
    codes = codes_of(match.weights, match.factor)
    quantiser = input_quantiser(match.tensor)
    return FloatMatrix(
        name=name,
        shape=match.shape,
        weights=weights,
        bias=bias,
        tensor=match.tensor.name or "",
        element=element,
        weight_codes=None if codes is None else codes[0],
        weight_scale=None if codes is None else codes[1],
        input_scale=None if quantiser is None else quantiser.scale,
        input_zero_point=None if quantiser is None else quantiser.zero_point,
        input_bits=None if quantiser is None else quantiser.bits,
    )


def _element(match: Match) -> ir.DataType:
    """Element type of input and output."""
    for value in (match.node.outputs[0], match.tensor):
        if value.dtype is not None:
            return value.dtype
    array = match.weights.values if match.weights.values is not None else match.weights.scale
    assert array is not None
    return ir.DataType.from_numpy(array.dtype)


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A read-only view: quantisation reads it in whatever order it lies, so that large weights are not copied."""
    result = array.view()
    result.flags.writeable = False
    return result


def _refuse_not_finite(array: npt.NDArray[Any], what: str, name: str) -> None:
    """NaN and infinity survive minimum and maximum, which need no copy of the array."""
    low, high = array.min(initial=0), array.max(initial=0)
    if max(-low, high) > np.finfo(np.float32).max and np.isfinite(low) and np.isfinite(high):
        raise CompileError(
            f"its {what} reach from {low:g} to {high:g}, beyond the range of float32, in which scales are kept; "
            "scale them down",
            name,
        )
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int(np.count_nonzero(~np.isfinite(array)))
        raise CompileError(
            f"{count} of its {what} are NaN or infinite, which no device can hold; repair or retrain the model", name
        )
