"""The passes that bring a graph into normal form, and the normalised graph of a model."""

from __future__ import annotations

from mcompiler.ir import GraphProgram
from mcompiler.passes.clean import Clean
from mcompiler.passes.convert import Convert
from mcompiler.passes.decompose import Decompose
from mcompiler.passes.explicit_pads import ExplicitPads
from mcompiler.passes.fold_batchnorm import FoldBatchNorm
from mcompiler.passes.fold_constants import FoldConstants
from mcompiler.passes.infer_shapes import InferShapes
from mcompiler.passes.inline import Inline
from mcompiler.passes.widen import Widen
from mcompiler.pipeline.options import PassClass
from mcompiler.pipeline.runner import Runner
from mcompiler.target import Target

GRAPH_PASSES: tuple[PassClass, ...] = (
    Inline,  # functions and bodies that always run become nodes of the graph
    Decompose,  # fused operators become standard ones
    Convert,  # one operator set from here on
    InferShapes,
    FoldConstants,  # shapes make shape arithmetic constant
    InferShapes,  # and constants make shapes
    FoldConstants,
    Clean,  # before folding: a Dropout between Conv and BatchNormalization would prevent it
    FoldBatchNorm,
    InferShapes,
    ExplicitPads,  # it reads the sizes of activations
    Widen,  # last: it reads the types of activations
)
"""Passes that leave a graph which runs in onnxruntime and computes what the model computes."""


def normalised(program: GraphProgram, target: Target) -> GraphProgram:
    """The program after the passes that normalise its graph.

    Raises:
        UserError: as the passes raise it.
    """
    run = Runner(target)
    for step in GRAPH_PASSES:
        program = run(step(), program)
    return program
