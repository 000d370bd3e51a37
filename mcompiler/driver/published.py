"""Compile the product that a paper quotes, price it as any network, and compare it with the paper's figures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.cost.published import Comparison, ProductCost, compare
from mcompiler.driver.flow import compile
from mcompiler.geometry import array_shape
from mcompiler.target import Target

SEED = 0
"""Seed of the weights."""

_OPSET = 17


def check_published(target: Target) -> list[Comparison]:
    """Compare what a target's source publishes with the compiled product; empty for a target without [published].

    Raises:
        UserError: the product does not compile for the target.
    """
    return [] if target.published is None else compare(product_cost(target))


def product_cost(target: Target) -> ProductCost:
    """The cost of one product of a vector with a matrix of as many rows and columns as an array.

    Raises:
        UserError: the product does not compile for the target.
    """
    weights = product_weights(target)
    build = compile(product_model(weights), target, calibration="random", seed=SEED)
    rows, columns = weights.shape
    bits = target.precision
    network = (
        f"MatMul {rows}x{columns}, weights of {bits.weights} bits, inputs of {bits.inputs} bits, levels equally likely"
    )
    return ProductCost(target, build.cost, build.schedule.bounds_s, weights.size, network)


def product_model(weights: npt.NDArray[np.float32]) -> ir.Model:
    """A model of one product: vector [1, K] times matrix [K, N]."""
    rows, columns = weights.shape
    number = ir.TensorType(ir.DataType.FLOAT)
    vector = ir.Value(name="x", type=number, shape=ir.Shape([1, rows]))
    matrix = ir.Value(
        name="weights", type=number, shape=ir.Shape([rows, columns]), const_value=ir.tensor(weights, name="weights")
    )
    node = ir.node("MatMul", [vector, matrix], name="product")
    result = node.outputs[0]
    result.name, result.type, result.shape = "y", number, ir.Shape([1, columns])
    graph = ir.Graph(
        [vector], [result], nodes=[node], initializers=[matrix], opset_imports={"": _OPSET}, name="product"
    )
    return ir.Model(graph, ir_version=8)


def product_weights(target: Target) -> npt.NDArray[np.float32]:
    """Weights [rows, columns of whole array positions] whose cells are at each level equally often.

    In every column each slice has every level in the same number of rows, in a random order. So the cells have the mean
    conductance for which sources state a power, and no column is stored complemented, as it is where its levels sum to
    more than half (``encoding.flip``); with independent weights, complements lower the mean level by a twentieth. Where
    cells hold magnitudes, the bit of the sign is missing in the highest slice, and rows that are read together have one
    sign. The first row has the largest code, so that codes are the weights themselves.
    """
    shape, bits = array_shape(target), target.precision.weights
    rows, columns = shape.rows, shape.columns - shape.columns % shape.tile_columns
    random, levels = np.random.default_rng(SEED), 1 << shape.cell_bits
    codes = np.zeros((rows, columns), np.int64)
    for place in range(0, bits, shape.cell_bits):
        order = np.resize(np.arange(levels)[::-1], rows)
        digits = np.repeat(order[:, None], columns, axis=1)
        digits[1:] = random.permuted(digits[1:], axis=0)
        codes += digits << place
    largest = (1 << (bits - 1)) - 1
    if shape.encoding.zero_is_empty:
        together = shape.encoding.rows_together(shape) if shape.encoding.signed_fragments else 1
        signs = random.choice([-1, 1], (-(-rows // together), columns)).repeat(together, axis=0)[:rows]
        return np.asarray((codes & largest) * signs, np.float32)
    return np.asarray(np.maximum((codes & (2 * largest + 1)) - largest - 1, -largest), np.float32)
