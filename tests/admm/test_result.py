"""What a compression came to: figures, weights and arrays by layer, and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mcompiler
from mcompiler.errors import CompileError
from mcompiler.target import load_target
from tests.support.builds import run_plain

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mcompiler.admm.compressor import Compressor  # noqa: E402
from mcompiler.admm.distributed import ProcessRank  # noqa: E402
from mcompiler.admm.loop import ComputeSettings  # noqa: E402
from mcompiler.admm.ranges import attach_quantisers, freeze_ranges, observe_ranges  # noqa: E402
from mcompiler.admm.result import Compressed  # noqa: E402
from mcompiler.admm.spec import (  # noqa: E402
    Spec,
    Structure,
)

SMALL = ["array.rows=8", "array.columns=16", "array.rows_active=8"]
FIGURES = {"dense": 0.5, "projected": 0.25, "quantised": None}


def compressed(bits: int = 8) -> Compressed:
    """A projected model; a layer 'gone' was there before."""
    torch.manual_seed(0)
    target = load_target("generic_128", [*SMALL, f"precision.inputs={bits}"])
    model = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5)).eval()
    structures = {"0": Structure(filters=4, shapes=9), "gone": Structure(filters=1)}
    compressor = Compressor(model, target, Spec(layers={"0": structures["0"]}))
    dense = {**compressor.dense_tiles(), "gone": 7}
    weights = {name: layer.weight.numel() for name, layer in compressor.layers.items()} | {"gone": 100}
    compressor.project()
    x = torch.randn(6, 2, 4, 4)
    quantisers = attach_quantisers(model, compressor.layers, (), target)
    observe_ranges(model, quantisers, [(x, None)], 1, ComputeSettings(torch.device("cpu"), False, False, ProcessRank()))
    freeze_ranges(quantisers, "mse")
    return Compressed(
        model=model,
        target=target,
        layers=compressor.layers,
        batchnorm_pairs=(),
        example=(x,),
        structures=structures,
        figures=FIGURES,
        dense_tiles=dense,
        dense_weights=weights,
        tiles=compressor.tiles(),
        pinned_filters={"0": {"it is tied to channels that are in use": 2}},
        uncompressed={"rnn": "LSTM"},
    )


def test_report_counts_what_is_left_and_what_was_there() -> None:
    result = compressed()
    report = result.report()
    first, last, gone = report["layers"]
    assert (first["name"], first["matrix"], first["weights_dense"]) == ("0", [1, 18, 6], 108)
    nonzero = int((result.model[0].weight != 0).sum())  # type: ignore[index]
    assert first["weights"] == result.weights()["0"] == nonzero <= 36
    assert (first["tiles"], first["tiles_dense"]) == (result.tiles["0"], 3 * 3)
    assert first["structure"] == {"filters": 4, "shapes": 9}
    assert (last["name"], last["structure"], last["tiles_dense"]) == ("3", {}, 12 * 3)
    assert gone == {
        "name": "gone",
        "matrix": [0, 0, 0],
        "weights": 0,
        "weights_dense": 100,
        "tiles": 0,
        "tiles_dense": 7,
        "structure": {"filters": 1},
        "filters_that_stay": {},
    }
    assert report["top1"] == {"dense": 0.5, "projected": 0.25}  # what was not measured is left out
    assert report["tiles"] == sum(result.tiles.values())
    assert report["weights"] == sum(result.weights().values())
    assert (report["weights_dense"], report["tiles_dense"]) == (108 + 480 + 100, 9 + 36 + 7)
    assert report["target"] == "generic_128"
    assert first["filters_that_stay"] == {"it is tied to channels that are in use": 2}
    assert report["not_compressed"] == {"rnn": "LSTM"}


def test_files_are_the_model_and_the_report(tmp_path: Path) -> None:
    result = compressed()
    result.write(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.onnx", "report.json"]
    assert json.loads((tmp_path / "report.json").read_text()) == result.report()
    build = mcompiler.compile(tmp_path / "model.onnx", result.target)
    assert {name: build.cost.layers[name].crossbars for name in build.layers} == dict(result.tiles)
    x = torch.randn(7, 2, 4, 4)
    with torch.no_grad():
        twin: Any = result.deployed()(x).numpy()
    np.testing.assert_array_equal(run_plain(build.mapped, {"x": x.numpy()})["y"], twin)


def test_export_says_what_onnx_cannot_carry(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="node '0': inputs of 7 bits cannot be written as QDQ; train with 8"):
        compressed(bits=7).export(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
