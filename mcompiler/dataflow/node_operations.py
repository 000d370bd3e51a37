"""Digital operations of a node, by operator: the one table from which energy, time and the placement graph count.

An operation is what a lane of a digital unit does in one pass: an addition, a comparison, a multiplication, a
multiplication with its addition, or one function (exponential, root, quantisation) of one element. Biases of products
are the value that a sum starts with. Combining n elements takes n - 1 operations, and a mean one more for its scale:
a maximum over a window of 25 is 24 comparisons, an average over 256 elements 255 additions and a multiplication.

An operator without a rule counts one operation for each element that it makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from mcompiler.bodies import branches, holds_layers, scheduled_nodes
from mcompiler.dataflow.operators import ELEMENTWISE
from mcompiler.graph import input_at, int_attr, ints_attr, scalar, string_attr
from mcompiler.ir import ANALOG_OP

Shape = tuple[int, ...]

RENAMING = frozenset(
    {
        "Cast",
        "CastLike",
        "Constant",
        "Dropout",
        "Flatten",
        "Identity",
        "Reshape",
        "Shape",
        "Size",
        "Squeeze",
        "Unsqueeze",
        ANALOG_OP,
    }
)
"""Operators that give the elements of a tensor another shape or name, or read its shape only: they move nothing."""

MOVING = frozenset(
    {
        "Compress",
        "Concat",
        "ConstantOfShape",
        "Crop",
        "DepthToSpace",
        "Expand",
        "EyeLike",
        "Gather",
        "GatherElements",
        "GatherND",
        "MaxUnpool",
        "OneHot",
        "Pad",
        "QLinearConcat",
        "Range",
        "ReverseSequence",
        "ScatterElements",
        "ScatterND",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Tile",
        "Transpose",
        "Trilu",
    }
)
"""Operators that put elements elsewhere: they cost buffer traffic, and no operations."""


@dataclass(frozen=True)
class SizedNode:
    """A node with the shapes of its values.

    Attributes:
        node: of the graph.
        shapes: of values, by name. Others have the shape that the graph states, where an unknown size counts 1.
    """

    node: ir.Node
    shapes: Mapping[str, Shape]

    def shape(self, value: ir.Value | None) -> Shape:
        """Shape of a value; of one that is left out, or of which nothing is known, that of no elements."""
        if value is None:
            return (0,)
        known = self.shapes.get(value.name or "")
        if known is not None:
            return known
        return (0,) if value.shape is None else tuple(size if isinstance(size, int) else 1 for size in value.shape)

    def taken(self, index: int = 0) -> Shape:
        """Shape of an input."""
        return self.shape(input_at(self.node, index))

    def read(self, index: int = 0) -> int:
        """Elements of an input."""
        return math.prod(self.taken(index))

    @property
    def made(self) -> int:
        """Elements of the first output."""
        return math.prod(self.shape(self.node.outputs[0])) if self.node.outputs else 0

    @property
    def made_in_all(self) -> int:
        """Elements of all outputs."""
        return sum(math.prod(self.shape(value)) for value in self.node.outputs)


def node_operations(node: ir.Node, shapes: Mapping[str, Shape]) -> int:
    """Operations of one node; of one whose branches hold layers none, as their nodes count.

    Args:
        node: of the graph.
        shapes: of values, by name.
    """
    if holds_layers(node):
        return 0
    sized = SizedNode(node, shapes)
    rule = _RULES.get(node.op_type)
    return max(0, sized.made_in_all if rule is None else rule(sized))


def renames(node: ir.Node) -> bool:
    """Whether a node moves no elements."""
    return node.op_type in RENAMING


Rule = Callable[[SizedNode], int]


def _each(passes: int) -> Rule:
    """A number of operations for each element that is made."""
    return lambda sized: passes * sized.made


def _reduce(passes: int, each: int) -> Rule:
    """Operations for each element that is read, and for each that is made."""
    return lambda sized: passes * sized.read() + each * sized.made


def _window(each: int) -> Rule:
    """As many operations as a window has positions, and ``each`` more, for each element that is made."""
    return lambda sized: (math.prod(ints_attr(sized.node, "kernel_shape") or (1,)) + each) * sized.made


def _combined(each: int) -> Rule:
    """Operands are combined element by element, with ``each`` operations more than there are operands."""
    return lambda sized: (sum(value is not None for value in sized.node.inputs) + each) * sized.made


def _product(after: int = 0) -> Rule:
    """Matrix product: the contraction length, and ``after`` more, for each result."""

    def rule(sized: SizedNode) -> int:
        shape = sized.taken() or (1,)
        turned = int_attr(sized.node, "transA", 0) and len(shape) > 1
        return (shape[-2 if turned else -1] + after) * sized.made

    return rule


def _convolution(weights: int = 1, after: int = 0) -> Rule:
    """Convolution: the elements of a kernel, which is input number ``weights``, and ``after`` more for each result."""
    return lambda sized: (math.prod(sized.taken(weights)[1:]) + after) * sized.made


def _transposed_convolution(sized: SizedNode) -> int:
    """Every input is multiplied by every weight that its channel has."""
    return sized.read() * math.prod(sized.taken(1)[1:])


def _quantised(inputs: Iterable[int]) -> Rule:
    """An elementwise operation on codes: every operand is scaled, then the operation, then quantisation."""
    given = tuple(inputs)
    return lambda sized: sum(sized.read(index) for index in given) + 2 * sized.made


def _recurrent(gates: int, pointwise: int) -> Rule:
    """The products of all gates with input and state, and the functions and products of the new state.

    Final states are results of the last step, not further steps. The number of steps is that of the input X
    [steps, B, inputs] (or [B, steps, inputs]) in every direction.

    Args:
        gates: of the cell.
        pointwise: operations on each element of the state, in a step.
    """

    def rule(sized: SizedNode) -> int:
        given = sized.taken()
        inputs, hidden = (given or (1,))[-1], int_attr(sized.node, "hidden_size", sized.taken(2)[-1])
        directions = 2 if string_attr(sized.node, "direction", "forward") == "bidirectional" else 1
        return math.prod(given[:-1]) * directions * hidden * (gates * (inputs + hidden) + pointwise)

    return rule


def _attention(sized: SizedNode) -> int:
    """Scores, their scale, mask and softmax, and the weighted sum of the values.

    Queries are [B, heads, S, d] or [B, S, heads x d], keys likewise; past keys and values come before those given.
    """
    queries, keys, node = sized.taken(), sized.taken(1), sized.node
    if node.domain == "com.microsoft" and node.op_type == "Attention":
        return _packed_attention(sized)
    heads = int_attr(node, "q_num_heads", int_attr(node, "num_heads", 1))
    depth = queries[-1] if len(queries) == 4 else max(1, queries[-1] // heads)
    masked = math.prod(sized.taken(3)) > 0
    past = sized.taken(4)
    positions = (keys[-2] if len(keys) > 2 else 0) + (past[-2] if len(past) == 4 else 0)
    scores = sized.read() // max(1, depth) * positions
    return positions * (sized.read() + sized.made) + (1 + _SOFTMAX + masked) * scores


def _packed_attention(sized: SizedNode) -> int:
    """Onnxruntime's attention, [B, S, inputs], with the weights of queries, keys and values in one matrix."""
    rows, inputs = sized.taken()[:-1], (sized.taken() or (1,))[-1]
    projected = math.prod(rows) * inputs * sized.taken(1)[-1]
    scores = math.prod(rows) * rows[-1] * int_attr(sized.node, "num_heads", 1)
    return projected + 2 * rows[-1] * sized.made + (1 + _SOFTMAX) * scores


def _einsum(sized: SizedNode) -> int:
    """Products over all indices, with one multiplication less than there are operands; of one operand its sums."""
    terms = string_attr(sized.node, "equation", "").replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for index, term in enumerate(terms):
        shape = sized.taken(index)
        front, _, back = term.partition("...")
        for label, size in [*zip(front, shape, strict=False), *zip(back[::-1], shape[::-1], strict=False)]:
            sizes[label] = max(size, sizes.get(label, 1))
        if "..." in term:
            rest = math.prod(shape[len(front) : len(shape) - len(back)])
            sizes["..."] = max(rest, sizes.get("...", 1))
    if len(terms) == 1:
        return sized.read() - sized.made
    return math.prod(sizes.values()) * (len(terms) - 1)


def _resize(sized: SizedNode) -> int:
    """The taps of the interpolation along every axis that changes; the nearest element is only moved."""
    taps = {"linear": 2, "bilinear": 2, "cubic": 4}.get(string_attr(sized.node, "mode", "nearest"), 0)
    if not taps:
        return 0
    changed = sum(a != b for a, b in zip(sized.taken(), sized.shape(sized.node.outputs[0]), strict=False))
    return int(taps**changed) * sized.made


def _response(sized: SizedNode) -> int:
    """Squares over a window of channels, and scale, power and division for each element."""
    return (int_attr(sized.node, "size", 1) + 3) * sized.made


def _branch(sized: SizedNode) -> int:
    """The branch with more operations: one of them runs."""
    return max((_body(branch, sized.shapes) for branch in branches(sized.node)), default=0)


def _loop(sized: SizedNode) -> int:
    """The body, as often as its scanned outputs or a constant say; once where neither does."""
    body = sized.node.attributes["body"].as_graph()
    scanned = sized.node.outputs[len(body.inputs) - 2 :]
    trips = [sized.shape(value)[0] for value in scanned if sized.shape(value)]
    return int(max(trips) if trips else scalar(input_at(sized.node, 0)) or 1) * _body(body, sized.shapes)


def _scan(sized: SizedNode) -> int:
    """The body, once for each element along the axis of the scanned inputs."""
    count = int_attr(sized.node, "num_scan_inputs", 1)
    axis = (ints_attr(sized.node, "scan_input_axes") or (0,) * count)[0]
    scanned = sized.taken(len(sized.node.inputs) - count)
    return scanned[axis] * _body(sized.node.attributes["body"].as_graph(), sized.shapes)


def _body(graph: ir.Graph, shapes: Mapping[str, Shape]) -> int:
    return sum(node_operations(node, shapes) for node in graph)


_SOFTMAX = 5
"""Passes over the elements: maximum, difference, exponential, sum, division."""

_NORMALISATION = 5
"""Passes over the elements: mean, difference, sum of squares, division by the deviation, scale and shift."""

_RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _each(1)),
    **dict.fromkeys(("Max", "Min", "Sum"), _combined(-1)),
    "Mean": _combined(0),
    **dict.fromkeys(RENAMING | MOVING, _each(0)),
    # Windows and reductions.
    "MaxPool": _window(-1),
    "AveragePool": _window(0),
    "LpPool": _window(1),
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean", "ReduceLogSum"), _reduce(1, 0)),
    **dict.fromkeys(("GlobalMaxPool", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd"), _reduce(1, -1)),
    **dict.fromkeys(("ArgMax", "ArgMin"), _reduce(1, -1)),
    **dict.fromkeys(("ReduceSumSquare", "ReduceL1", "TopK", "NonZero", "Unique"), _reduce(1, 0)),
    **dict.fromkeys(("ReduceL2", "GlobalLpPool"), _reduce(1, 1)),
    "ReduceLogSumExp": _reduce(4, 1),
    # Normalisations and other passes over all elements.
    **dict.fromkeys(("Softmax", "LogSoftmax"), _each(_SOFTMAX)),
    "Hardmax": _each(2),
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization"), _each(_NORMALISATION)),
    "SkipLayerNormalization": _each(1 + _NORMALISATION),
    "MeanVarianceNormalization": _each(_NORMALISATION - 1),
    **dict.fromkeys(("RMSNormalization", "SimplifiedLayerNormalization"), _each(3)),
    "LpNormalization": _each(2),
    "RotaryEmbedding": _each(2),
    "DynamicQuantizeLinear": _each(3),
    "LRN": _response,
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    # Products.
    **dict.fromkeys(("MatMul", "MatMulInteger", "Gemm", "FusedMatMul", "MatMulNBits"), _product()),
    **dict.fromkeys(("QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "FusedGemm"), _product(1)),
    "DynamicQuantizeMatMul": _product(1),
    **dict.fromkeys(("Conv", "ConvInteger", "DeformConv"), _convolution()),
    "FusedConv": _convolution(after=1),
    "QLinearConv": _convolution(weights=3, after=1),
    "ConvTranspose": _transposed_convolution,
    "Einsum": _einsum,
    **dict.fromkeys(("Attention", "MultiHeadAttention"), _attention),
    # Codes.
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), _quantised((0, 3))),
    **dict.fromkeys(("QLinearLeakyRelu", "QLinearSigmoid"), _quantised((0,))),
    "QLinearSoftmax": _each(2 + _SOFTMAX),
    "QLinearAveragePool": _window(1),
    "QLinearGlobalAveragePool": _reduce(1, 1),
    # Recurrent cells. LSTM: 4 gate functions, 2 products into the state, its tanh, 1 product; GRU: 3 functions, the
    # reset, 2 to mix; RNN: its function.
    **dict.fromkeys(("LSTM", "DynamicQuantizeLSTM"), _recurrent(gates=4, pointwise=8)),
    "GRU": _recurrent(gates=3, pointwise=6),
    "RNN": _recurrent(gates=1, pointwise=1),
    # Control flow.
    "If": _branch,
    "Loop": _loop,
    "Scan": _scan,
}


_PRODUCTS = frozenset(
    {"MatMul", "MatMulInteger", "Gemm", "FusedMatMul", "FusedGemm", "MatMulNBits", "QLinearMatMul", "QGemm", "Einsum"}
    | {"MatMulIntegerToFloat", "DynamicQuantizeMatMul", "Conv", "ConvInteger", "DeformConv", "FusedConv", "QLinearConv"}
    | {"ConvTranspose", "LSTM", "GRU", "RNN", "Attention", "MultiHeadAttention", "QAttention"}
)
"""Operators whose operations are multiply-accumulates, but for a few."""


def digital_products(model: ir.Model, operations: Mapping[int, int]) -> dict[str, int]:
    """Multiply-accumulates per inference of the products that stay digital, by name of the node.

    Args:
        model: the skeleton.
        operations: digital operations of its nodes, by position among the nodes that are scheduled.
    """
    found: dict[str, int] = {}
    for position, node in enumerate(scheduled_nodes(model.graph)):
        if node.op_type in _PRODUCTS and operations.get(position):
            name = node.name or node.op_type
            found[name] = found.get(name, 0) + operations[position]
    return found
