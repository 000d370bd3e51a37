"""What each digital operator does to tokens: which positions of its inputs a position of its output reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from mcompiler.dataflow.grids import (
    Channels,
    Grid,
    Needs,
    Relation,
    Window,
    everything,
    same_place,
    single_token,
    windows,
)
from mcompiler.graph import constant, int_attr, ints_attr, string_attr

Sizes = tuple[int, ...]

ELEMENTWISE = frozenset(
    {
        "Abs",
        "Acos",
        "Acosh",
        "Add",
        "And",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "BatchNormalization",
        "BitShift",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "Cast",
        "CastLike",
        "Ceil",
        "Celu",
        "Clip",
        "Cos",
        "Cosh",
        "DequantizeLinear",
        "Div",
        "Dropout",
        "Elu",
        "Equal",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "Greater",
        "GreaterOrEqual",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "IsInf",
        "IsNaN",
        "LeakyRelu",
        "Less",
        "LessOrEqual",
        "Log",
        "Max",
        "Mean",
        "Min",
        "Mish",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "PRelu",
        "Pow",
        "QuantizeLinear",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Shrink",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Sub",
        "Sum",
        "Swish",
        "Tan",
        "Tanh",
        "ThresholdedRelu",
        "Where",
        "Xor",
    }
)
"""Operators whose output at a place needs their inputs at that place only."""

ALONG_THE_CHANNELS = frozenset(
    {"Softmax", "LogSoftmax", "Hardmax", "LayerNormalization", "RMSNormalization", "LpNormalization"}
)
"""Operators along an axis; where it is the one that a token holds, tokens do not mix."""

POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})


def sample_shape(value: ir.Value) -> Sizes | None:
    """Sizes of a value per sample: the first axis counts 1; None where one of the others is not known."""
    if value.shape is None:
        return None
    sizes = [1, *list(value.shape)[1:]] if len(value.shape) else []
    return tuple(size for size in sizes if isinstance(size, int)) if all(isinstance(s, int) for s in sizes) else None


def grid_of(shape: Sizes | None, channels: Channels) -> Grid:
    """The tokens of a tensor of that shape; a single one where the shape is not known."""
    if shape is None:
        return single_token(1)
    if len(shape) < 3 or channels is Channels.ALL:
        return single_token(math.prod(shape))
    sizes, width = (shape[2:], shape[1]) if channels is Channels.FIRST else (shape[1:-1], shape[-1])
    return Grid(sizes, channels, width)


def digital_grid(node: ir.Node, inputs: Sequence[tuple[ir.Value, Grid]]) -> tuple[Grid, list[Needs]]:
    """Tokens of the result of a digital operator, and the tokens of each of its inputs that they read.

    Without a rule for the operator, the first token waits for all of every input.

    Args:
        node: of the graph.
        inputs: its inputs that other stages compute (no constants), with their tokens.
    """
    shape = sample_shape(node.outputs[0]) if node.outputs else None
    rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    found = rule(node, shape, inputs) if rule is not None and shape is not None and inputs else None
    if found is not None:
        return found
    grid = single_token(math.prod(shape) if shape is not None else 1)
    return grid, [everything(given.tokens, 1) for _, given in inputs]


Rule = Callable[[ir.Node, Sizes, Sequence[tuple[ir.Value, Grid]]], tuple[Grid, list[Needs]] | None]


def _elementwise(
    node: ir.Node, shape: Sizes, inputs: Sequence[tuple[ir.Value, Grid]]
) -> tuple[Grid, list[Needs]] | None:
    """Inputs of the output's shape are read place by place, the others (broadcast ones) as a whole."""
    grids = [grid for value, grid in inputs if sample_shape(value) == shape and grid.sizes]
    if not grids:
        return None
    grid = grids[0]
    return grid, [_alike(given, grid, sample_shape(value) == shape) for value, given in inputs]


def _alike(given: Grid, grid: Grid, same_shape: bool) -> Needs:
    if same_shape and given.like(grid):
        return same_place(grid.tokens)
    return everything(given.tokens, grid.tokens)


def _along_channels(
    node: ir.Node, shape: Sizes, inputs: Sequence[tuple[ir.Value, Grid]]
) -> tuple[Grid, list[Needs]] | None:
    default = 1 if node.op_type == "LpNormalization" else -1
    axis = int_attr(node, "axis", default) % len(shape)
    grid = inputs[0][1]
    held = {Channels.FIRST: 1, Channels.LAST: len(shape) - 1}.get(grid.channels)
    if held != axis or not grid.sizes:
        return None
    return grid, [_alike(given, grid, given is grid) for _, given in inputs]


def _across_channels(
    node: ir.Node, shape: Sizes, inputs: Sequence[tuple[ir.Value, Grid]]
) -> tuple[Grid, list[Needs]] | None:
    """Local response normalisation mixes channels of one place."""
    return _elementwise(node, shape, inputs) if inputs[0][1].channels is Channels.FIRST else None


def _concat(node: ir.Node, shape: Sizes, inputs: Sequence[tuple[ir.Value, Grid]]) -> tuple[Grid, list[Needs]] | None:
    axis = int_attr(node, "axis", 0) % len(shape)
    channels = inputs[0][1].channels
    held = {Channels.FIRST: 1, Channels.LAST: len(shape) - 1}.get(channels)
    if held != axis:
        return None
    grid = grid_of(shape, channels)
    if not grid.sizes:
        return None
    return grid, [_alike(given, grid, given.like(grid)) for _, given in inputs]


def _split(node: ir.Node, shape: Sizes, inputs: Sequence[tuple[ir.Value, Grid]]) -> tuple[Grid, list[Needs]] | None:
    grid = inputs[0][1]
    made = grid_of(shape, grid.channels)
    return (made, [same_place(grid.tokens)]) if made.like(grid) and grid.sizes and len(inputs) == 1 else None


def _pool(node: ir.Node, shape: Sizes, inputs: Sequence[tuple[ir.Value, Grid]]) -> tuple[Grid, list[Needs]] | None:
    kernel = ints_attr(node, "kernel_shape")
    return _slid(node, shape, inputs, tuple(kernel)) if kernel else None


def _conv(node: ir.Node, shape: Sizes, inputs: Sequence[tuple[ir.Value, Grid]]) -> tuple[Grid, list[Needs]] | None:
    """A convolution that stays digital: its weights, or some of them, come from other nodes."""
    weights = node.inputs[1] if len(node.inputs) > 1 else None
    if weights is None or weights.shape is None:
        return None
    kernel = list(weights.shape)[2:]
    return _slid(node, shape, inputs, tuple(k for k in kernel if isinstance(k, int))) if kernel else None


def _slid(
    node: ir.Node, shape: Sizes, inputs: Sequence[tuple[ir.Value, Grid]], kernel: Sizes
) -> tuple[Grid, list[Needs]] | None:
    grid, rank = inputs[0][1], len(kernel)
    if grid.channels is not Channels.FIRST or len(grid.sizes) != rank or len(shape) != rank + 2:
        return None
    if string_attr(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    strides = ints_attr(node, "strides") or [1] * rank
    dilations = ints_attr(node, "dilations") or [1] * rank
    pads = ints_attr(node, "pads") or [0] * (2 * rank)
    axes = [Window(kernel[i], strides[i], dilations[i], pads[i]) for i in range(rank)]
    made = grid_of(shape, Channels.FIRST)
    rest = [everything(given.tokens, made.tokens) for _, given in inputs[1:]]
    return made, [windows(grid.sizes, made.sizes, axes), *rest]


def _slice(node: ir.Node, shape: Sizes, inputs: Sequence[tuple[ir.Value, Grid]]) -> tuple[Grid, list[Needs]] | None:
    """Forward slices with constant bounds."""
    value, grid = inputs[0]
    before = sample_shape(value)
    constants = [constant(given) for given in node.inputs[1:]]
    if len(inputs) != 1 or before is None or len(constants) < 2 or any(c is None for c in constants) or not grid.sizes:
        return None
    numbers = [[int(n) for n in c.reshape(-1)] for c in constants if c is not None]
    axes = numbers[2] if len(numbers) > 2 else list(range(len(numbers[0])))
    steps = numbers[3] if len(numbers) > 3 else [1] * len(axes)
    slides = [Window(1)] * len(before)
    for start, axis, step in zip(numbers[0], axes, steps, strict=True):
        if step < 1:
            return None
        size = before[axis]
        first = min(max(start + size if start < 0 else start, 0), size)
        slides[axis] = Window(1, step, 1, -first)
    return _moved(grid, shape, slides)


def _pad(node: ir.Node, shape: Sizes, inputs: Sequence[tuple[ir.Value, Grid]]) -> tuple[Grid, list[Needs]] | None:
    """Zeros around a tensor; a zero is taken to read the nearest position, which is a little later than it could be."""
    value, grid = inputs[0]
    before = sample_shape(value)
    pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    plain = string_attr(node, "mode", "constant") == "constant"
    if (
        before is None
        or pads is None
        or len(inputs) != 1
        or len(pads) != 2 * len(before)
        or not grid.sizes
        or not plain
    ):
        return None
    return _moved(grid, shape, [Window(1, 1, 1, int(pad)) for pad in pads.reshape(-1)[: len(before)]])


def _moved(grid: Grid, shape: Sizes, slides: Sequence[Window]) -> tuple[Grid, list[Needs]] | None:
    made = grid_of(shape, grid.channels)
    if len(made.sizes) != len(grid.sizes):
        return None
    if made.like(grid):
        return made, [same_place(grid.tokens)]
    inner = slides[2:] if grid.channels is Channels.FIRST else slides[1:-1]
    needs = windows(grid.sizes, made.sizes, inner)
    return made, [Needs(Relation.WINDOW, needs.last, needs.last_use)]


def _reshape(node: ir.Node, shape: Sizes, inputs: Sequence[tuple[ir.Value, Grid]]) -> tuple[Grid, list[Needs]] | None:
    """Tokens stay what they are where a reshape leaves the axis that they hold alone."""
    grid = inputs[0][1]
    made = grid_of(shape, grid.channels)
    if not grid.sizes or len(inputs) != 1 or made.tokens != grid.tokens or made.width != grid.width:
        return None
    return made, [same_place(grid.tokens)]


def _transpose(node: ir.Node, shape: Sizes, inputs: Sequence[tuple[ir.Value, Grid]]) -> tuple[Grid, list[Needs]] | None:
    """[B, C, ...] to [B, ..., C] and back: the same tokens in the same order."""
    grid, rank = inputs[0][1], len(shape)
    perm = ints_attr(node, "perm") or list(range(rank))[::-1]
    forth, back = [0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]
    for channels, other, order in ((Channels.FIRST, Channels.LAST, forth), (Channels.LAST, Channels.FIRST, back)):
        if grid.sizes and grid.channels is channels and list(perm) == order:
            return grid_of(shape, other), [same_place(grid.tokens)]
    return None


_RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(ALONG_THE_CHANNELS, _along_channels),
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Concat": _concat,
    "LRN": _across_channels,
    "Conv": _conv,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Transpose": _transpose,
}
