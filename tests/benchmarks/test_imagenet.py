"""The networks that layouts are compared on have the sizes that were published, and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import shape_inference

from tests.support.benchmarks import benchmark

imagenet = benchmark("imagenet")

PARAMETERS = {
    "vgg16": 138_357_544,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "squeezenet": 1_235_496,
    "googlenet": 6_998_552,
}
"""As published: torchvision's tables (VGG-16, ResNets, SqueezeNet 1.1) and the Caffe model of GoogLeNet."""

MACS = {
    "vgg16": 15_470e6,
    "resnet18": 1_814e6,
    "resnet34": 3_663e6,
    "resnet50": 3_858e6,
    "squeezenet": 349e6,
    "googlenet": 1_582e6,
}
"""Multiplications of one inference: 15.5, 1.8, 3.6, 3.8, 0.35 and 1.6 billion in the papers and torchvision's table."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_sizes_are_the_published_ones(name: str) -> None:
    network = imagenet.NETWORKS[name]()
    assert network.parameters == PARAMETERS[name]
    macs = sum(layer.rows * layer.columns * layer.vectors for layer in network.layers)
    assert macs == pytest.approx(MACS[name], rel=0.01)


def test_every_network_is_named_once() -> None:
    assert set(PARAMETERS) == set(imagenet.NETWORKS)
    for build in imagenet.NETWORKS.values():
        network = build()
        for names in ([node.name for node in network.nodes], [weight.name for weight in network.weights]):
            assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["squeezenet", "googlenet", "resnet18"])
def test_models_run_and_have_the_layers_that_are_told(name: str, tmp_path: Path) -> None:
    path = imagenet.model(name, tmp_path)
    model = onnx.load(path)
    onnx.checker.check_model(model)
    inferred = shape_inference.infer_shapes(model, strict_mode=True)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info}
    shapes["y"] = [1, 1000]
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            outputs, *inputs = weights[node.input[1]]
            vectors = int(np.prod(shapes[node.output[0]][2:]))
            found.append((node.name, int(np.prod(inputs)), outputs, vectors))
    told = imagenet.NETWORKS[name]().layers
    assert found == [(layer.name, layer.rows, layer.columns, layer.vectors) for layer in told]

    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    (y,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert y.shape == (1, 1000)
    assert 0.1 < y.std() < 100  # neither vanished nor run away: a calibration has ranges to find


def test_a_model_is_written_once_and_the_same_every_time(tmp_path: Path) -> None:
    path = imagenet.model("squeezenet", tmp_path / "a")
    first = path.stat().st_mtime_ns
    assert imagenet.model("squeezenet", tmp_path / "a").stat().st_mtime_ns == first
    assert imagenet.model("squeezenet", tmp_path / "b").read_bytes() == path.read_bytes()
    assert [p.name for p in (tmp_path / "a").iterdir()] == [path.name]


def test_unknown_names_are_told_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="no network is called 'resnet19': vgg16, resnet18"):
        imagenet.model("resnet19", tmp_path)
