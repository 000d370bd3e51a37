"""Small models with known weight codes, and emitted models run in plain onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper, numpy_helper

import mcompiler
from mcompiler.driver import Build
from mcompiler.target import Target, load_target

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

SMALL = ("array.rows=8", "array.columns=16", "array.rows_active=8")
"""Arrays so small that a few weights fill several."""


@cache
def target(*overrides: str, base: str = "generic_128", small: bool = True) -> Target:
    """A shipped target with overrides, on small arrays unless told otherwise."""
    return load_target(base, [*(SMALL if small else ()), *overrides])


def codes_of(shape: Sequence[int], bits: int, seed: int = 0, channel_axis: int = 0) -> npt.NDArray[np.int64]:
    """Random weight codes; every output channel reaches the largest code, so that its scale is known."""
    top = (1 << (bits - 1)) - 1
    codes = np.random.default_rng(seed).integers(-top, top + 1, tuple(shape))
    by_channel = np.moveaxis(codes, channel_axis, 0)
    for channel in by_channel:
        channel[(0,) * channel.ndim] = top
    return codes


def floats(codes: npt.NDArray[np.int64], dtype: npt.DTypeLike = np.float32) -> Array:
    """Weights of which quantisation gives back the codes: a power of two times them."""
    return (codes * 2.0**-6).astype(dtype)


def node(op: str, inputs: str, output: str = "y", name: str | None = None, **attributes: Any) -> onnx.NodeProto:
    """A node; its name is that of the operator in small letters unless given."""
    return helper.make_node(op, inputs.split(), output.split(), name=op.lower() if name is None else name, **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Feeds,
    constants: Feeds | None = None,
    *,
    outputs: Sequence[str] = ("y",),
    kinds: Mapping[str, int] | None = None,
    opset: int = 17,
    batch: str | None = "N",
) -> ir.Model:
    """A model; the first axis of every input is ``batch``."""
    infos = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(x.dtype), [batch or x.shape[0], *x.shape[1:]] if x.ndim else []
        )
        for name, x in inputs.items()
    ]
    first = next(iter(inputs.values())).dtype
    results = [
        helper.make_tensor_value_info(name, (kinds or {}).get(name, helper.np_dtype_to_tensor_dtype(first)), None)
        for name in outputs
    ]
    tensors = [numpy_helper.from_array(x, name) for name, x in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "g", infos, results, tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return ir.from_proto(proto)


def proto_of(emitted: ir.Model) -> onnx.ModelProto:
    """A model as protobuf."""
    return ir.to_proto(emitted)


def run_plain(
    emitted: ir.Model | onnx.ModelProto, feeds: Feeds, probes: Sequence[str] = (), *, optimise: bool = True
) -> dict[str, Any]:
    """Outputs (and probed values) of a model in onnxruntime, with its graph optimisations or without."""
    proto = emitted if isinstance(emitted, onnx.ModelProto) else proto_of(emitted)
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    present = {value.name for value in copy.graph.output}
    for name in dict.fromkeys(probes):
        if name not in present:
            copy.graph.output.append(onnx.ValueInfoProto(name=name))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    session = ort.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


@dataclass(frozen=True)
class Case:
    """A model with one analog layer and its data.

    Attributes:
        model: the model.
        feeds: data, also for calibration.
        codes: weight codes [G, K, N] that quantisation must give.
        label: for test ids.
    """

    model: ir.Model
    feeds: dict[str, Array]
    codes: npt.NDArray[np.int64]
    label: str

    @property
    def name(self) -> str:
        """Name of the layer."""
        return self.label.partition("-")[0]

    def compile(self, chip: Target) -> Build:
        """Compile with the case's own data."""
        return mcompiler.compile(self.model, chip, calibration=self.feeds)


def activations(
    shape: Sequence[int], seed: int = 1, *, signed: bool = True, dtype: npt.DTypeLike = np.float32
) -> Array:
    """Random inputs; unsigned ones have zero point 0."""
    x = np.random.default_rng(seed).standard_normal(tuple(shape))
    return (x if signed else np.abs(x)).astype(dtype)


def conv_case(
    kernel: Sequence[int],
    *,
    channels: int = 3,
    outputs: int = 4,
    sizes: Sequence[int] | None = None,
    bits: int = 8,
    signed: bool = True,
    bias: bool = True,
    samples: int = 2,
    seed: int = 0,
    dtype: npt.DTypeLike = np.float32,
    **attributes: Any,
) -> Case:
    """A convolution."""
    groups = int(attributes.get("group", 1))
    q = codes_of((outputs, channels // groups, *kernel), bits, seed)
    x = activations((samples, channels, *(sizes or [6] * len(kernel))), seed + 1, signed=signed, dtype=dtype)
    constants: dict[str, Array] = {"w": floats(q, dtype)}
    if bias:
        constants["b"] = activations((outputs,), seed + 2, dtype=dtype)
    made = model([node("Conv", "x w b" if bias else "x w", **attributes)], {"x": x}, constants)
    matrix = q.reshape(groups, outputs // groups, -1).transpose(0, 2, 1)
    parts = [f"{len(kernel)}d", *(f"{key}{value}" for key, value in attributes.items())]
    return Case(made, {"x": x}, matrix, "conv-" + "-".join(parts).replace(" ", ""))


def matmul_case(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    *,
    bits: int = 8,
    signed: bool = True,
    seed: int = 0,
    dtype: npt.DTypeLike = np.float32,
) -> Case:
    """A product with a constant on the right, batched where ``w_shape`` has more than two sizes."""
    q = codes_of(w_shape, bits, seed, channel_axis=-1)
    if len(w_shape) > 2:
        q[..., 0, :] = (1 << (bits - 1)) - 1  # each matrix of the batch has scales of its own
    x = activations(x_shape, seed + 1, signed=signed, dtype=dtype)
    made = model([node("MatMul", "x w")], {"x": x}, {"w": floats(q, dtype)})
    return Case(
        made, {"x": x}, q.reshape(-1, *w_shape[-2:]), f"matmul-{list(x_shape)}-{list(w_shape)}".replace(" ", "")
    )


def gemm_case(*, transposed: bool, rows: int = 13, cols: int = 5, bits: int = 8, signed: bool = True) -> Case:
    """A Gemm with a bias."""
    q = codes_of((rows, cols), bits, 3, channel_axis=1)
    x = activations((4, rows), 4, signed=signed)
    constants = {"w": floats(q.T if transposed else q), "b": activations((cols,), 5)}
    made = model([node("Gemm", "x w b", transB=int(transposed))], {"x": x}, constants)
    return Case(made, {"x": x}, q[None], f"gemm-transB{int(transposed)}")
