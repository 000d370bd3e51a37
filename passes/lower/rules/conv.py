"""Conv in one, two and three dimensions."""

from __future__ import annotations

import onnx_ir as ir

from mcompiler.geometry import conv_matrix, same_padding
from mcompiler.graph import input_at, int_attr, ints_attr, string_attr
from mcompiler.ir import ConvShape, Reason, ReasonKind
from mcompiler.passes.lower.match import Match
from mcompiler.passes.lower.registry import LoweringRule
from mcompiler.passes.lower.weights import trace


def match_conv(node: ir.Node) -> Match | Reason:
    """A Conv with constant weights as matrix, or the reason why it stays digital."""
    x, weights = node.inputs[0], trace(input_at(node, 1))
    if x is None or weights is None:
        return Reason(ReasonKind.CONVOLUTION_VARIABLE_WEIGHTS)
    spatial = len(weights.shape) - 2
    if not 1 <= spatial <= 3:
        return Reason(ReasonKind.CONVOLUTION_DIMENSIONS, number=spatial)
    groups = int_attr(node, "group", 1)
    channels, kernel = weights.shape[0], weights.shape[2:]
    if 0 in weights.shape or groups < 1 or channels % groups:
        return Reason(ReasonKind.CONVOLUTION_EMPTY)
    strides = ints_attr(node, "strides") or (1,) * spatial
    dilations = ints_attr(node, "dilations") or (1,) * spatial
    pads = explicit_pads(node, kernel, strides, dilations)
    if isinstance(pads, Reason):
        return pads
    bias = trace(input_at(node, 2))
    if bias is None and input_at(node, 2) is not None:
        return Reason(ReasonKind.CONVOLUTION_VARIABLE_BIAS)
    matrix = weights.moved(lambda array: conv_matrix(array, groups))
    return Match(
        node=node,
        shape=ConvShape(kernel=kernel, strides=strides, dilations=dilations, pads=pads, groups=groups),
        weights=matrix,
        tensor=x,
        bias=None if bias is None else bias.real("float64").reshape(groups, -1),
        bias_nodes=() if bias is None else bias.nodes,
    )


def explicit_pads(
    node: ir.Node, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[int, ...] | Reason:
    """Padding at the beginning of each dimension, then at the end of each; or the reason why it is not known."""
    spatial = len(kernel)
    mode = string_attr(node, "auto_pad", "NOTSET")
    if mode == "VALID":
        return (0,) * (2 * spatial)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        given = ints_attr(node, "pads") or (0,) * (2 * spatial)
        return given if min(given) >= 0 else Reason(ReasonKind.CONVOLUTION_NEGATIVE_PADDING)
    x = node.inputs[0]
    sizes = list(x.shape)[2:] if x is not None and x.shape is not None else [None] * spatial
    found = [
        same_padding(size if isinstance(size, int) else None, *window, upper=mode == "SAME_UPPER")
        for size, *window in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    pads = [each for each in found if each is not None]
    if len(pads) < spatial:
        return Reason(ReasonKind.CONVOLUTION_UNKNOWN_PADDING, operator=mode)
    return (*(begin for begin, _ in pads), *(end for _, end in pads))


RULE = LoweringRule((("", "Conv"),), match_conv)
