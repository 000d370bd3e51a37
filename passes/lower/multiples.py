"""Tensors of which the graph proves that they hold integer multiples of a scale, within bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mcompiler.graph import input_at, scalar, standard
from mcompiler.ir import Quantiser

LARGEST_BITS = 16
"""Bits of the largest input codes."""

DEPTH = 64
"""Operators that are followed back at most."""

NEAR = 2.0**-20
"""Deviation from a multiple, as a share of it, that roundings to float32 leave."""


@dataclass(frozen=True)
class Multiples:
    """What is known of the values of a tensor.

    Attributes:
        scale: they are integer multiples of it; None: they may be any.
        low, high: bounds, infinite where none is known.
    """

    scale: float | None = None
    low: float = -math.inf
    high: float = math.inf

    def quantiser(self, tensor: str) -> Quantiser | None:
        """A quantiser whose codes hold all of the values; None where the values or their bounds are not known."""
        if self.scale is None or not (math.isfinite(self.low) and math.isfinite(self.high)):
            return None
        smallest, largest = round(min(self.low, 0.0) / self.scale), round(max(self.high, 0.0) / self.scale)
        bits = max(2, (largest - smallest).bit_length())
        scale = float(np.float32(self.scale))
        if bits > LARGEST_BITS or not 0 < scale < math.inf:
            return None
        return Quantiser.of_grid(tensor, scale, smallest, largest, bits)


ANY = Multiples()


def multiples(value: ir.Value | None) -> Multiples:
    """What the operators that produce a value say of it."""
    return _found(value, DEPTH, {})


_Known = dict[ir.Value, Multiples]


def _found(value: ir.Value | None, depth: int, known: _Known) -> Multiples:
    """Each value is looked at once, however many ways lead to it: a sum of a value with itself has two."""
    node = None if value is None else value.producer()
    if value is None or node is None or value is not node.outputs[0] or not depth:
        return ANY
    if value not in known:
        known[value] = _of_node(node, depth, known)
    return known[value]


def _of_node(node: ir.Node, depth: int, known: _Known) -> Multiples:
    if node.op_type == "Cast" and standard(node, "Cast"):
        return _cast(node, depth, known)
    rule = _RULES.get(node.op_type) if standard(node, node.op_type) else None
    return ANY if rule is None else rule(node, lambda index: _found(input_at(node, index), depth - 1, known))


_Inputs = Callable[[int], Multiples]
_Rule = Callable[[ir.Node, _Inputs], Multiples]

_INTEGERS = {
    ir.DataType.BOOL: (0.0, 1.0),
    ir.DataType.UINT2: (0.0, 3.0),
    ir.DataType.UINT4: (0.0, 15.0),
    ir.DataType.UINT8: (0.0, 255.0),
    ir.DataType.UINT16: (0.0, 65535.0),
    ir.DataType.INT2: (-2.0, 1.0),
    ir.DataType.INT4: (-8.0, 7.0),
    ir.DataType.INT8: (-128.0, 127.0),
    ir.DataType.INT16: (-32768.0, 32767.0),
    ir.DataType.INT32: (-math.inf, math.inf),
    ir.DataType.INT64: (-math.inf, math.inf),
}


def _cast(node: ir.Node, depth: int, known: _Known) -> Multiples:
    """From integers to floats: integers; between floats: unknown, because values are rounded."""
    source = node.inputs[0]
    if source is None or source.dtype not in _INTEGERS:
        return ANY
    low, high = _INTEGERS[source.dtype]
    before = _found(source, depth - 1, known)
    return Multiples(1.0, max(low, before.low), min(high, before.high))


def _whole(node: ir.Node, given: _Inputs) -> Multiples:
    known = given(0)
    function = {"Round": lambda x: float(np.rint(x)), "Floor": math.floor, "Ceil": math.ceil}[node.op_type]
    low, high = (float(function(x)) if math.isfinite(x) else x for x in (known.low, known.high))
    return Multiples(1.0, low, high)


def _sign(node: ir.Node, given: _Inputs) -> Multiples:
    return Multiples(1.0, -1.0, 1.0)


def _share(node: ir.Node, given: _Inputs) -> Multiples:
    return Multiples(None, 0.0, 1.0)


def _relu(node: ir.Node, given: _Inputs) -> Multiples:
    return _bounded(given(0), 0.0, None)


def _clip(node: ir.Node, given: _Inputs) -> Multiples:
    known = given(0)
    bounds = [input_at(node, index) for index in (1, 2)]
    limits = [scalar(bound) for bound in bounds]
    if any(bound is not None and limit is None for bound, limit in zip(bounds, limits, strict=True)):
        return ANY
    return _bounded(known, *limits)


def _bounded(known: Multiples, low: float | None, high: float | None) -> Multiples:
    """After a clip, which puts its bounds in the place of values."""
    for limit in (low, high):
        if limit is not None and not _is_multiple(limit, known.scale):
            known = replace(known, scale=None)
    least, most = -math.inf if low is None else low, math.inf if high is None else high
    return replace(known, low=min(max(known.low, least), most), high=max(min(known.high, most), least))


def _is_multiple(number: float, scale: float | None) -> bool:
    if scale is None or not math.isfinite(number):
        return True
    ratio = number / scale
    return abs(ratio - round(ratio)) <= NEAR * max(1.0, abs(ratio))


def _scaled(node: ir.Node, given: _Inputs) -> Multiples:
    """A product with a constant, or a quotient by one."""
    factor, known = scalar(input_at(node, 1)), given(0)
    if factor is None and node.op_type == "Mul":
        factor, known = scalar(input_at(node, 0)), given(1)
    if factor is None or not factor or not math.isfinite(factor):
        return ANY
    factor = 1 / factor if node.op_type == "Div" else factor
    low, high = sorted((known.low * factor, known.high * factor))
    return Multiples(None if known.scale is None else known.scale * abs(factor), low, high)


def _shifted(node: ir.Node, given: _Inputs) -> Multiples:
    """A sum with a constant, a difference from one, or a sum of tensors on the same grid."""
    sign = -1.0 if node.op_type == "Sub" else 1.0
    first, second = scalar(input_at(node, 0)), scalar(input_at(node, 1))
    one = given(0) if first is None else Multiples(None, first, first)
    two = given(1) if second is None else Multiples(None, second, second)
    low, high = sorted((two.low * sign, two.high * sign))
    scales = {each.scale for each in (one, two)} - {None}
    scale = scales.pop() if len(scales) == 1 else None
    for known, number in ((one, first), (two, second)):
        if (known.scale is None) if number is None else not _is_multiple(number, scale):
            scale = None
    return Multiples(scale, one.low + low, one.high + high)


def _joined(node: ir.Node, given: _Inputs) -> Multiples:
    parts = [given(index) for index in range(len(node.inputs))]
    scale = parts[0].scale if len({part.scale for part in parts}) == 1 else None
    return Multiples(scale, min(part.low for part in parts), max(part.high for part in parts))


def _moved(node: ir.Node, given: _Inputs) -> Multiples:
    return given(0)


_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(("Round", "Floor", "Ceil"), _whole),
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "Softmax"), _share),
    **dict.fromkeys(("Mul", "Div"), _scaled),
    **dict.fromkeys(("Add", "Sub"), _shifted),
    **dict.fromkeys(("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Gather"), _moved),
    **dict.fromkeys(("Expand", "Tile", "DepthToSpace", "SpaceToDepth", "GlobalMaxPool", "MaxPool"), _moved),
    "Sign": _sign,
    "Relu": _relu,
    "Clip": _clip,
    "Concat": _joined,
}
"""What operators do with the knowledge of their inputs; of others nothing is known."""
