"""Whether a module computes what its class in torch.nn computes, so that its parameters describe it completely."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

_TORCH_MODULES = "torch.nn.modules."
"""Package of the classes whose arithmetic is known. (torch.ao has subclasses of them that quantise their weights.)"""

_METHODS = ("forward", "_conv_forward", "__call__")
"""Methods that decide what a module computes."""


def describe_own_arithmetic(module: nn.Module) -> str | None:
    """Why a module may compute something else than its class in torch.nn, with the remedy; None where it does not."""
    for hooks, kind in ((module._forward_pre_hooks, "forward pre-hook"), (module._forward_hooks, "forward hook")):
        for hook in hooks.values():
            name = getattr(hook, "__name__", type(hook).__name__)
            return (
                f"has a {kind} ({name}), and what it computes would not be in the exported file; remove the hook, or "
                "compute the same in a module before or after the layer"
            )
    for method in _METHODS:
        function = getattr(type(module), method, None)
        own = function is not None and not str(getattr(function, "__module__", "")).startswith(_TORCH_MODULES)
        if own or method in vars(module):
            kind = next(base.__name__ for base in type(module).__mro__ if base.__module__.startswith(_TORCH_MODULES))
            return (
                f"is a {type(module).__name__} with a {method} of its own, which would not be in the exported file; "
                f"use a plain nn.{kind}, and modules before or after it for the rest (nn.ZeroPad2d for padding)"
            )
    return None


def find_computed_parameter(module: nn.Module) -> str | None:
    """``weight`` or ``bias``, where it is not a parameter but computed from others; None where both are parameters.

    Parametrisations of the weight are not included.
    """
    for name in ("weight", "bias"):
        parametrised = parametrize.is_parametrized(module, name)
        if name not in module._parameters and not (parametrised and name == "weight"):
            return name
    return None


def is_torch_arithmetic(module: nn.Module) -> bool:
    """Whether the module computes what its class in torch.nn computes."""
    return describe_own_arithmetic(module) is None
