"""Types and shapes of all values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from mcompiler.ir import GraphProgram
from mcompiler.onnx_import import infer_shapes
from mcompiler.target import Target


@dataclass(frozen=True)
class InferShapes:
    """Infer types and shapes, symbolic sizes included; values that cannot be inferred keep those of the model."""

    name: ClassVar[str] = "infer_shapes"
    reads: ClassVar[tuple[str, ...]] = ()

    def run(self, program: GraphProgram, target: Target) -> GraphProgram:
        """Return the program with shapes; interface and nodes are unchanged."""
        model = program.model.clone()
        infer_shapes(model)
        return replace(program, model=model)
