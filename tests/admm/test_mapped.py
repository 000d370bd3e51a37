"""From training to cells: every kind of constraint, trained, exported, compiled for its own target and proved there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mcompiler.target import Target, load_target

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")
from torch import nn

import mcompiler
from mcompiler import admm
from mcompiler.admm.quantise import LevelSet
from mcompiler.geometry import array_shape

SMALL = ("array.rows=16", "array.columns=16", "array.rows_active=16", "encoding.slices=2", "precision.weights=5")
MEANS = [0, 260, 530, 790, 1100, 1350, 1640, 1900, 2200, 2450, 2730, 3000, 3290, 3560, 3830, 4096]
WIDE = ('device.source="a table"', "converters.adc.range=full", "converters.adc.bits=24")
TABLE = (f"device.level_means={MEANS}", *WIDE)


def target_of(kind: str) -> Target:
    if kind == "polarised":
        more = ("array.rows_active=4", "encoding.weights=polarised", "encoding.pedestal=digital_count")
        return load_target("generic_128", [*SMALL, *more])
    if kind in ("measured", "without_zero"):
        table = TABLE if kind == "measured" else (*WIDE, "encoding.partner=unformed")
        return load_target("yuan2019", ["array.rows=16", "array.columns=16", "array.rows_active=16", *table])
    return load_target("generic_128", SMALL)


STRUCTURES = {
    "polarised": admm.Structure(one_sign=True),
    "polarised and counted": admm.Structure(one_sign=True, column_nonzeros=6),
    "counted": admm.Structure(column_nonzeros=3),
    "polarised, counted, rows moved": admm.Structure(one_sign=True, column_nonzeros=4),
    "counted, rows moved": admm.Structure(column_nonzeros=3),
    "blocks": admm.Structure(blocks=3),
    "blocks, rows moved": admm.Structure(blocks=3),
    "filters and blocks": admm.Structure(filters=10, shapes=40, blocks=5),
    "measured": admm.Structure(shapes=32),
    "without_zero": admm.Structure(shapes=32),
}


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 4, 5),
    )


@pytest.mark.parametrize("kind", list(STRUCTURES))
def test_what_is_trained_is_what_is_mapped(kind: str, tmp_path: Path) -> None:
    target = target_of(kind.replace(",", "").split()[0])
    levels = LevelSet(kind) if kind in ("measured", "without_zero") else LevelSet.GRID
    structure = STRUCTURES[kind]
    layers = {"3": structure}
    if "moved" in kind:  # filters that go take rows of the next layer along
        layers["0"] = admm.Structure(filters=7, one_sign=structure.one_sign)
    spec = admm.Spec(
        layers=layers,
        admm=admm.Admm(rho=(1e-1,), epochs=1),
        retrain=admm.Retrain(epochs=2, float_epochs=1),
        quantisation=admm.Quantisation(levels=levels, batches=2),
    )
    torch.manual_seed(2)
    x = torch.randn(48, 2, 6, 6)
    batches = [(x[i : i + 16], torch.arange(16) % 5) for i in range(0, 48, 16)]
    result = admm.compress(network(), batches, target, spec, device="cpu")
    build = mcompiler.compile(result.export(tmp_path / "model.onnx"), target)
    found = build.verify(x.numpy(), result.deployed()(x).argmax(dim=1).numpy(), ideal=True)
    assert found.exact
    assert found.top1_mapped == 1.0, "the mapped predictions are PyTorch's"
    copies = array_shape(target).arrays_per_tile
    assert {name: cost.crossbars // copies for name, cost in build.cost.layers.items() if name in layers} == {
        name: result.tiles[name] for name in layers
    }
    check(kind, build, result)


def check(kind: str, build: Any, result: admm.Compressed) -> None:
    """The structure, counted on the codes that the compiler has."""
    (layer,) = (layer for layer in build.layer_data if layer.op.site.name == "3")
    codes = layer.op.matrix.codes[0]
    kept = codes[codes.any(axis=1)][:, codes.any(axis=0)]  # [K', N'], as the compiler compacts it
    structure = STRUCTURES[kind]
    if structure.one_sign:
        for tile in range(0, len(kept), 16):
            for start in range(tile, min(tile + 16, len(kept)), 4):
                part = kept[start : min(start + 4, tile + 16)]
                assert not ((part > 0).any(axis=0) & (part < 0).any(axis=0)).any()
    if structure.column_nonzeros:
        counts = [np.count_nonzero(kept[start : start + 16], axis=0).max() for start in range(0, len(kept), 16)]
        assert max(counts) <= structure.column_nonzeros
    if structure.blocks:
        assert result.tiles["3"] <= structure.blocks
    if kind == "measured":
        assert set(np.unique(np.abs(codes))) <= set(MEANS)
    if kind == "without_zero":
        rows, columns = codes.any(axis=1), codes.any(axis=0)
        assert codes[rows][:, columns].all(), "what is mapped has no zero"


def test_fewer_non_zeros_in_a_column_need_fewer_adc_bits(tmp_path: Path) -> None:
    """TinyADC's point: the bits that the compiler reports fall with the count."""
    target = load_target("generic_128", SMALL)
    torch.manual_seed(2)
    x = torch.randn(32, 2, 6, 6)
    bits = {}
    for count in (16, 4, 1):
        spec = admm.Spec(
            layers={"3": admm.Structure(column_nonzeros=count)},
            admm=admm.Admm(rho=(1e-1,), epochs=1),
            retrain=admm.Retrain(epochs=1),
        )
        result = admm.compress(network(), [(x, torch.arange(32) % 5)], target, spec, device="cpu")
        build = mcompiler.compile(result.export(tmp_path / f"{count}.onnx"), target)
        most = next(layer.analog.adc_range.max for layer in build.layer_data if layer.op.site.name == "3")
        assert most is not None
        bits[count] = most
    assert bits[1] < bits[4] < bits[16]
