"""Effect of PyTorch's modules, functions and methods on channels, as tables; for others all channels are kept."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

from torch import fx, nn


class OpKind(Enum):
    """Effect of a node on the channels of its inputs."""

    INPUT = auto()
    """An input of the network."""
    CONSTANT = auto()
    """A parameter or buffer [1, C, 1, ...] that is combined with a tensor channel by channel."""
    LAYER = auto()
    """A convolution or product: reads channels, writes new ones."""
    NORM = auto()
    """One scale and shift (or slope) per channel, from vectors of the module."""
    UNARY = auto()
    """Each channel from the same channel of one tensor, all channels alike."""
    FLATTEN = auto()
    """[N, C, ...] to [N, C * ...]: each channel becomes a run of features."""
    BINARY = auto()
    """Channel c from channels c of two tensors."""
    CONCATENATE = auto()
    """Channels of several tensors in sequence."""
    PAD = auto()
    """Constant channels in front or behind."""
    OPAQUE = auto()
    """Any other operation: reads all channels, and all are kept."""
    OUTPUT = auto()
    """The outputs of the network."""


class ConstantRule(Enum):
    """Result for a channel that is one constant at all positions."""

    EVALUATED = auto()
    """The operation applied to the constant."""
    SAME = auto()
    """The constant itself."""
    ZERO = auto()
    """Zero for zero; for any other constant the result is not constant (borders, sums over a window)."""
    UNKNOWN = auto()
    """Unknown."""


POINTWISE_MODULES: tuple[type[nn.Module], ...] = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Sigmoid,
    nn.Tanh,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Softshrink,
    nn.Hardshrink,
    nn.Tanhshrink,
    nn.LogSigmoid,
    nn.Threshold,
)
SAME_MODULES: tuple[type[nn.Module], ...] = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
SPATIAL_MODULES: tuple[type[nn.Module], ...] = (
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.Upsample,
    nn.ReflectionPad1d,
    nn.ReflectionPad2d,
    nn.ReflectionPad3d,
    nn.ReplicationPad1d,
    nn.ReplicationPad2d,
    nn.ReplicationPad3d,
)
AVERAGES: tuple[type[nn.Module], ...] = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
BORDERS: tuple[type[nn.Module], ...] = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)

POINTWISE = frozenset(
    [
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "sigmoid",
        "tanh",
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "softplus",
        "softsign",
        "softshrink",
        "hardshrink",
        "tanhshrink",
        "logsigmoid",
        "log_sigmoid",
        "threshold",
        "_threshold",
        "clamp",
        "clamp_min",
        "clamp_max",
        "clip",
        "abs",
        "neg",
        "exp",
        "square",
        "sqrt",
        "pow",
        "rsqrt",
        "reciprocal",
        "sin",
        "cos",
        "erf",
        "floor",
        "ceil",
        "round",
        "to",
        "float",
        "half",
        "bfloat16",
        "double",
        "type",
    ]
)
SAME = frozenset(
    [
        "contiguous",
        "clone",
        "detach",
        "dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "alpha_dropout",
        "feature_alpha_dropout",
        "identity",
    ]
)
SPATIAL = frozenset(
    [
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "interpolate",
    ]
)
AVERAGE = frozenset(["avg_pool1d", "avg_pool2d", "avg_pool3d"])
REDUCTIONS = {"mean": ConstantRule.SAME, "amax": ConstantRule.SAME, "amin": ConstantRule.SAME, "sum": ConstantRule.ZERO}
ARITHMETIC = frozenset(
    [
        "add",
        "sub",
        "mul",
        "div",
        "truediv",
        "true_divide",
        "subtract",
        "multiply",
        "divide",
        "maximum",
        "minimum",
        "rsub",
    ]
)
PRODUCTS = frozenset(("mul", "multiply"))
SUMS = frozenset(("add",))
DIFFERENCES = frozenset(("sub", "subtract"))
CATENATIONS = frozenset(("cat", "concat", "concatenate"))
RESHAPES = frozenset(("view", "reshape"))
SHAPERS = RESHAPES | {"flatten", "unsqueeze", "squeeze"}
VIEWS = SHAPERS | SAME | {"getitem", "expand_as", "to", "float", "half", "bfloat16", "double", "type"}
VIEW_MODULES = (*SAME_MODULES, nn.Flatten)
HARMLESS = frozenset(("dim", "ndim", "ndimension", "dtype", "device", "is_cuda", "requires_grad", "is_floating_point"))
_MODULES = frozenset(("torch", "torch.nn.functional", "torch._C._nn", "torch._C", "_operator", "builtins", None))
_IN_PLACE_OPERATORS = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "truediv"}


def operation(node: fx.Node) -> str:
    """The common name of a function, method or operator and of its in-place form; "" for functions of other packages.

    ``getattr(x, "shape")`` is named after the attribute.
    """
    if node.op == "call_method":
        return str(node.target).rstrip("_")
    if node.op != "call_function" or getattr(node.target, "__module__", None) not in _MODULES:
        return ""
    name: str = getattr(node.target, "__name__", "")
    if name == "getattr":
        return str(node.args[1])
    name = name if name.startswith("__") else name.rstrip("_")
    return _IN_PLACE_OPERATORS.get(name, name)


def in_place(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the node overwrites its first input."""
    if module is not None:
        return bool(getattr(module, "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name in _IN_PLACE_OPERATORS or (name.endswith("_") and not name.endswith("__")):
        return True
    return node.kwargs.get("inplace") is True or (name in POINTWISE | SAME and any(a is True for a in node.args[1:]))


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument, given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
