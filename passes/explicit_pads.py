"""Convolutions with dilations and automatic padding get explicit padding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from mcompiler.bodies import nodes_with_branches
from mcompiler.geometry import same_padding
from mcompiler.graph import ints_attr, standard, string_attr
from mcompiler.ir import GraphProgram
from mcompiler.target import Target


@dataclass(frozen=True)
class ExplicitPads:
    """Write the padding of a Conv with dilations and ``auto_pad = SAME_UPPER`` or ``SAME_LOWER`` into the node.

    ONNX defines this padding, and onnxruntime refuses to run it.
    """

    name: ClassVar[str] = "explicit_pads"
    reads: ClassVar[tuple[str, ...]] = ()

    def run(self, program: GraphProgram, target: Target) -> GraphProgram:
        """Return the program with explicit padding, where sizes that matter are known."""
        if not any(_dilated(node) for node in nodes_with_branches(program.model.graph)):
            return program
        model = program.model.clone()
        for node in nodes_with_branches(model.graph):
            pads = _pads(node) if _dilated(node) else None
            if pads is not None:
                del node.attributes["auto_pad"]
                node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        return replace(program, model=model)


def _dilated(node: ir.Node) -> bool:
    """Whether a node is a convolution with dilations and automatic padding."""
    return (
        standard(node, "Conv")
        and string_attr(node, "auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
        and any(step != 1 for step in ints_attr(node, "dilations") or ())
    )


def _pads(node: ir.Node) -> tuple[int, ...] | None:
    """Padding at the beginning of each dimension, then at the end of each; None where a size is not known."""
    x, weights = node.inputs[0], node.inputs[1]
    kernel = ints_attr(node, "kernel_shape")
    if kernel is None and weights is not None and weights.shape is not None:
        kernel = tuple(size for size in list(weights.shape)[2:] if isinstance(size, int))
    dilations = ints_attr(node, "dilations") or ()
    spatial = len(dilations)
    strides = ints_attr(node, "strides") or (1,) * spatial
    sizes = list(x.shape)[2:] if x is not None and x.shape is not None else [None] * spatial
    if kernel is None or not len(kernel) == len(strides) == len(sizes) == spatial:
        return None
    upper = string_attr(node, "auto_pad", "NOTSET") == "SAME_UPPER"
    pads: list[tuple[int, int]] = []
    for size, *window in zip(sizes, kernel, strides, dilations, strict=True):
        found = same_padding(size if isinstance(size, int) else None, *window, upper=upper)
        if found is None:
            return None
        pads.append(found)
    return (*(begin for begin, _ in pads), *(end for _, end in pads))
