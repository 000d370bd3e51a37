"""The networks of ImageNet size that layouts are compared on, as ONNX files with random weights.

    python benchmarks/imagenet.py FOLDER [NAME...]

VGG-16 (Simonyan and Zisserman 2014, configuration D), ResNet-18, 34 and 50 (He et al. 2016; the stride of a bottleneck
in its first convolution, as in the paper), SqueezeNet 1.1 (Iandola et al. 2016) and GoogLeNet (Szegedy et al. 2015: 5x5
convolutions, local response normalisation, no auxiliary classifiers). Input x [1, 3, 224, 224] float32, output logits y
[1, 1000]. Only shapes matter to a layout, so weights are seeded normal numbers of He's deviation; they are made anew in
FOLDER (VGG-16 takes 553 MB), never kept in the repository. Normalisations are separate nodes of the graph.

    imagenet.model("resnet18", Path("scratch"))  # -> Path of the file, written if it is not there
    imagenet.NETWORKS["resnet18"]().layers  # -> what goes to arrays, in order, without drawing a weight
"""

from __future__ import annotations

import argparse
import math
import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SEED = 0
OPSET = 18
SIDE = 224
CLASSES = 1000
FORMAT = 1
"""Part of the file names: raise it when a network changes, so that no older file is taken for it."""

VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")
FIRES = ((16, 64), (16, 64), "M", (32, 128), (32, 128), "M", (48, 192), (48, 192), (64, 256), (64, 256))
INCEPTIONS: tuple[tuple[str, tuple[int, ...]], ...] = (  # 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection
    ("3a", (64, 96, 128, 16, 32, 32)),
    ("3b", (128, 128, 192, 32, 96, 64)),
    ("pool3", ()),
    ("4a", (192, 96, 208, 16, 48, 64)),
    ("4b", (160, 112, 224, 24, 64, 64)),
    ("4c", (128, 128, 256, 24, 64, 64)),
    ("4d", (112, 144, 288, 32, 64, 64)),
    ("4e", (256, 160, 320, 32, 128, 128)),
    ("pool4", ()),
    ("5a", (256, 160, 320, 32, 128, 128)),
    ("5b", (384, 192, 384, 48, 128, 128)),
)


@dataclass(frozen=True)
class Layer:
    """One layer that goes to arrays: name of its node, inputs and outputs of its matrix, products per inference."""

    name: str
    rows: int
    columns: int
    vectors: int


@dataclass(frozen=True)
class Weight:
    """A tensor of normal numbers, drawn when the model is made; ``trained`` unless it is a statistic."""

    name: str
    shape: tuple[int, ...]
    deviation: float
    mean: float = 0.0
    trained: bool = True

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Network:
    """Nodes and weights as they are added. Values are named by the node that makes them; weights are drawn last."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[Weight] = []
        self.layers: list[Layer] = []
        self.shapes: dict[str, tuple[int, ...]] = {"x": (3, SIDE, SIDE)}

    def channels(self, value: str) -> int:
        return self.shapes[value][0]

    def constant(
        self, name: str, shape: tuple[int, ...], deviation: float, mean: float = 0.0, trained: bool = True
    ) -> str:
        self.weights.append(Weight(name, shape, deviation, mean, trained))
        return name

    def node(self, op: str, name: str, *inputs: str, shape: tuple[int, ...] | None = None, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        self.shapes[name] = self.shapes[inputs[0]] if shape is None else shape
        return name

    def conv(self, x: str, name: str, outputs: int, kernel: int, stride: int = 1, pad: int = 0, *, norm: bool) -> str:
        """A convolution with a bias, or with none and a normalisation after it."""
        inputs, height, _ = self.shapes[x]
        rows = inputs * kernel * kernel
        operands = [x, self.constant(f"{name}.weight", (outputs, inputs, kernel, kernel), math.sqrt(2 / rows))]
        if not norm:
            operands.append(self.constant(f"{name}.bias", (outputs,), 0.01))
        where = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        side = (height + 2 * pad - kernel) // stride + 1
        y = self.node("Conv", name, *operands, shape=(outputs, side, side), **where)
        self.layers.append(Layer(name, rows, outputs, side * side))
        return self.normalised(y, f"{name}.norm") if norm else y

    def normalised(self, x: str, name: str) -> str:
        """Scale and shift are trained; mean and variance are statistics, near 0 and 1 as He's weights leave them."""
        count = (self.channels(x),)
        operands = [
            self.constant(f"{name}.scale", count, 0.05, 0.8),
            self.constant(f"{name}.shift", count, 0.01),
            self.constant(f"{name}.mean", count, 0.01, trained=False),
            self.constant(f"{name}.variance", count, 0.01, 1.0, trained=False),
        ]
        return self.node("BatchNormalization", name, x, *operands, epsilon=1e-5)

    def relu(self, x: str) -> str:
        return self.node("Relu", f"{x}.relu", x)

    def pool(self, x: str, name: str, kernel: int, stride: int, pad: int = 0, ceil: bool = False) -> str:
        channels, height, _ = self.shapes[x]
        free = height + 2 * pad - kernel
        side = (-(-free // stride) if ceil else free // stride) + 1
        where = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "ceil_mode": int(ceil)}
        return self.node("MaxPool", name, x, shape=(channels, side, side), **where)

    def flatten(self, x: str) -> str:
        return self.node("Flatten", "flatten", x, shape=(math.prod(self.shapes[x]),))

    def average(self, x: str) -> str:
        """The mean of each channel, flattened."""
        return self.flatten(self.node("GlobalAveragePool", "average", x, shape=(self.channels(x), 1, 1)))

    def dense(self, x: str, name: str, outputs: int) -> str:
        inputs = self.channels(x)
        weight = self.constant(f"{name}.weight", (outputs, inputs), math.sqrt(2 / inputs))
        bias = self.constant(f"{name}.bias", (outputs,), 0.01)
        self.layers.append(Layer(name, inputs, outputs, 1))
        return self.node("Gemm", name, x, weight, bias, shape=(outputs,), transB=1)

    def ends(self, y: str) -> Network:
        """The whole network: its last value is renamed to y."""
        assert self.nodes[-1].name == y
        assert self.shapes[y] == (CLASSES,)
        self.nodes[-1].output[0] = "y"
        return self

    @property
    def parameters(self) -> int:
        """Trained parameters: all weights but the means and variances of normalisations."""
        return sum(weight.size for weight in self.weights if weight.trained)

    def model(self) -> onnx.ModelProto:
        """The ONNX model, its weights drawn."""
        rng = np.random.default_rng((SEED, zlib.crc32(self.name.encode())))
        tensors = []
        for weight in self.weights:
            array = rng.standard_normal(weight.shape, dtype=np.float32)
            array *= np.float32(weight.deviation)
            array += np.float32(weight.mean)
            tensors.append(numpy_helper.from_array(array, weight.name))
        shapes = ((1, 3, SIDE, SIDE), (1, CLASSES))
        values = [helper.make_tensor_value_info(v, TensorProto.FLOAT, s) for v, s in zip("xy", shapes, strict=True)]
        graph = helper.make_graph(self.nodes, self.name, values[:1], values[1:], tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def vgg16() -> Network:
    """13 convolutions and 3 products: 138,357,544 parameters."""
    g, x, index = Network("vgg16"), "x", 0
    for entry in VGG16:
        if isinstance(entry, str):
            x = g.pool(x, f"pool{index}", 2, 2)
            continue
        index += 1
        x = g.relu(g.conv(x, f"conv{index}", entry, 3, 1, 1, norm=False))
    x = g.relu(g.dense(g.flatten(x), "fc1", 4096))
    x = g.relu(g.dense(x, "fc2", 4096))
    return g.ends(g.dense(x, "fc3", CLASSES))


def _basic(g: Network, x: str, name: str, outputs: int, stride: int) -> str:
    """Two 3x3 convolutions; the projection of the shortcut first, where there is one."""
    short = g.conv(x, f"{name}.shortcut", outputs, 1, stride, norm=True) if g.channels(x) != outputs else x
    y = g.relu(g.conv(x, f"{name}.conv1", outputs, 3, stride, 1, norm=True))
    y = g.conv(y, f"{name}.conv2", outputs, 3, 1, 1, norm=True)
    return g.relu(g.node("Add", f"{name}.add", y, short))


def _bottleneck(g: Network, x: str, name: str, outputs: int, stride: int) -> str:
    """1x1, 3x3 and 1x1 convolutions, then the projection of the shortcut, where there is one."""
    width = outputs // 4
    y = g.relu(g.conv(x, f"{name}.conv1", width, 1, stride, norm=True))
    y = g.relu(g.conv(y, f"{name}.conv2", width, 3, 1, 1, norm=True))
    y = g.conv(y, f"{name}.conv3", outputs, 1, norm=True)
    short = g.conv(x, f"{name}.shortcut", outputs, 1, stride, norm=True) if g.channels(x) != outputs else x
    return g.relu(g.node("Add", f"{name}.add", y, short))


def _resnet(
    name: str, blocks: Sequence[int], widths: Sequence[int], block: Callable[[Network, str, str, int, int], str]
) -> Network:
    g = Network(name)
    x = g.relu(g.conv("x", "conv1", 64, 7, 2, 3, norm=True))
    x = g.pool(x, "pool1", 3, 2, 1)
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
        for index in range(count):
            stride = 2 if stage > 1 and index == 0 else 1
            x = block(g, x, f"stage{stage}.{index}", width, stride)
    return g.ends(g.dense(g.average(x), "fc", CLASSES))


def resnet18() -> Network:
    """11,689,512 parameters."""
    return _resnet("resnet18", (2, 2, 2, 2), (64, 128, 256, 512), _basic)


def resnet34() -> Network:
    """21,797,672 parameters."""
    return _resnet("resnet34", (3, 4, 6, 3), (64, 128, 256, 512), _basic)


def resnet50() -> Network:
    """25,557,032 parameters."""
    return _resnet("resnet50", (3, 4, 6, 3), (256, 512, 1024, 2048), _bottleneck)


def squeezenet() -> Network:
    """SqueezeNet 1.1: 1,235,496 parameters; its classifier is a convolution."""
    g = Network("squeezenet")
    x = g.pool(g.relu(g.conv("x", "conv1", 64, 3, 2, norm=False)), "pool1", 3, 2, ceil=True)
    index = 2
    for entry in FIRES:
        if isinstance(entry, str):
            x = g.pool(x, f"pool{index}", 3, 2, ceil=True)
            continue
        narrow, wide = entry
        x = g.relu(g.conv(x, f"fire{index}.squeeze", narrow, 1, norm=False))
        one = g.relu(g.conv(x, f"fire{index}.expand1x1", wide, 1, norm=False))
        three = g.relu(g.conv(x, f"fire{index}.expand3x3", wide, 3, 1, 1, norm=False))
        x = g.node("Concat", f"fire{index}.concat", one, three, shape=(2 * wide, *g.shapes[one][1:]), axis=1)
        index += 1
    return g.ends(g.average(g.relu(g.conv(x, "conv10", CLASSES, 1, norm=False))))


def _inception(g: Network, x: str, name: str, widths: Sequence[int]) -> str:
    def conv(source: str, part: str, outputs: int, kernel: int = 1) -> str:
        return g.relu(g.conv(source, f"{name}.{part}", outputs, kernel, 1, kernel // 2, norm=False))

    one, reduce3, three, reduce5, five, projection = widths
    parts = [conv(x, "1x1", one)]
    parts.append(conv(conv(x, "3x3_reduce", reduce3), "3x3", three, 3))
    parts.append(conv(conv(x, "5x5_reduce", reduce5), "5x5", five, 5))
    parts.append(conv(g.pool(x, f"{name}.pool", 3, 1, 1), "pool_projection", projection))
    shape = (one + three + five + projection, *g.shapes[x][1:])
    return g.node("Concat", f"{name}.concat", *parts, shape=shape, axis=1)


def googlenet() -> Network:
    """6,998,552 parameters: as published. Variants with normalisations and 3x3 in place of 5x5 have 6.6 million."""
    g = Network("googlenet")
    around: dict[str, Any] = {"size": 5, "alpha": 1e-4, "beta": 0.75}
    x = g.pool(g.relu(g.conv("x", "conv1", 64, 7, 2, 3, norm=False)), "pool1", 3, 2, ceil=True)
    x = g.node("LRN", "norm1", x, **around)
    x = g.relu(g.conv(x, "conv2.reduce", 64, 1, norm=False))
    x = g.relu(g.conv(x, "conv2", 192, 3, 1, 1, norm=False))
    x = g.pool(g.node("LRN", "norm2", x, **around), "pool2", 3, 2, ceil=True)
    for name, widths in INCEPTIONS:
        x = _inception(g, x, f"inception{name}", widths) if widths else g.pool(x, name, 3, 2, ceil=True)
    return g.ends(g.dense(g.average(x), "fc", CLASSES))


NETWORKS: dict[str, Callable[[], Network]] = {
    "vgg16": vgg16,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "squeezenet": squeezenet,
    "googlenet": googlenet,
}


def model(name: str, folder: Path) -> Path:
    """Path of a network's ONNX file in ``folder``; written, whole or not at all, where it is not there."""
    if name not in NETWORKS:
        raise KeyError(f"no network is called '{name}': {', '.join(NETWORKS)}")
    path = folder / f"{name}-{FORMAT}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        onnx.save(NETWORKS[name]().model(), beside)
        beside.replace(path)
    return path


def main() -> None:
    """Write the networks that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NETWORKS))
    arguments = parser.parse_args()
    for name in arguments.names or NETWORKS:
        start = time.perf_counter()
        path = model(name, arguments.folder)
        print(f"{path}: {path.stat().st_size / 1e6:.0f} MB, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
