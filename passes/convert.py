"""Bring old models to operator set 13."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from mcompiler.ir import GraphProgram
from mcompiler.onnx_import import convert_opset
from mcompiler.target import Target

OPSET = 13
"""Since opset 13 QuantizeLinear is per axis, and shapes and axes are inputs everywhere."""


@dataclass(frozen=True)
class Convert:
    """Convert models below operator set 13 to 13; newer ones, and old ones that resist, stay as they are."""

    name: ClassVar[str] = "convert"
    reads: ClassVar[tuple[str, ...]] = ()

    def run(self, program: GraphProgram, target: Target) -> GraphProgram:
        """Return the program in operator set 13 or newer where the ONNX version converter manages it."""
        version = program.model.opset_imports.get("")
        if version is None or version >= OPSET:
            return program
        converted = convert_opset(program.model, OPSET)
        return program if converted is None else replace(program, model=converted)
