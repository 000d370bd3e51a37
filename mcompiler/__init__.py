"""mcompiler: compiles trained ONNX models to memristor crossbars, and proves the mapping.

    import mcompiler

    build = mcompiler.compile("model.onnx", "generic_128", calibration="calibration.npz")
    build.verify(x, y)
    build.save("model.build")

The names below are imported when first used, so that ``import mcompiler`` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcompiler.driver import Build, compile, load
    from mcompiler.errors import BuildError, CompileError, DataError, ModelError, PassError, TargetError, UserError
    from mcompiler.target import Target, load_target

__version__ = "0.1.0"

__all__ = [
    "Build",
    "BuildError",
    "CompileError",
    "DataError",
    "ModelError",
    "PassError",
    "Target",
    "TargetError",
    "UserError",
    "__version__",
    "compile",
    "load",
    "load_target",
]

_HOME = {
    "Build": "mcompiler.driver",
    "compile": "mcompiler.driver",
    "load": "mcompiler.driver",
    "Target": "mcompiler.target",
    "load_target": "mcompiler.target",
    "BuildError": "mcompiler.errors",
    "CompileError": "mcompiler.errors",
    "DataError": "mcompiler.errors",
    "ModelError": "mcompiler.errors",
    "PassError": "mcompiler.errors",
    "TargetError": "mcompiler.errors",
    "UserError": "mcompiler.errors",
}
"""Which module each public name comes from (PEP 562); a test holds it against the imports above."""


def __getattr__(name: str) -> Any:
    if name == "admm":  # not in __all__: it needs PyTorch
        return importlib.import_module("mcompiler.admm")
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value  # the next access finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | _HOME.keys())
