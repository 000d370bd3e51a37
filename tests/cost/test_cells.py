"""Energy of the cells of a network: V^2 G t of every cell, at the conductance that it is written to."""

from __future__ import annotations

import numpy as np
import pytest

from mcompiler.conductance import conductances, unpack_levels
from mcompiler.driver import Build
from mcompiler.geometry import array_shape
from tests.onnx_export.test_converted import ENCODINGS
from tests.support.builds import conv_case, target

CASE = conv_case([3, 3], channels=4, outputs=6, pads=[1, 1, 1, 1])


def joules(build: Build) -> float:
    """Cell by cell: driven rows, columns with weights and extra ones; digits from 0 to 2^d - 1 equally likely."""
    chip, total = build.target, 0.0
    shape, bits = array_shape(chip), chip.converters.dac.bits
    digits = np.arange(1 << bits) / ((1 << bits) - 1)
    mean_square = float(np.mean(digits**2))
    for layer in build.layer_data:
        phases = -(-layer.op.site.input.bits // bits)
        packed = np.concatenate(list(layer.cells()))
        levels = unpack_levels(packed, shape.storage_bits, shape.columns + shape.extra)
        for array, tile in zip(levels, layer.table, strict=True):
            width = int(tile["cols"]) * shape.columns_per_weight
            lines = [*range(width), *range(shape.columns, shape.columns + shape.extra)]
            siemens = conductances(array[: int(tile["rows"])], chip)[:, lines].sum()
            total += float(siemens) * layer.op.site.vectors * phases * mean_square
    return total * chip.device.read_voltage_v**2 * chip.device.read_pulse_s


@pytest.mark.parametrize("more", [(), ("converters.dac.bits=4", "converters.adc.bits=16"), ("device.levels=8",)])
@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
def test_every_cell_is_priced_as_it_is_written(encoding: tuple[str, ...], more: tuple[str, ...]) -> None:
    build = CASE.compile(target(*encoding, *more))
    assert build.cost.components["cell"].dynamic_j == pytest.approx(joules(build), rel=1e-9)


def test_unformed_partners_do_not_conduct() -> None:
    keys = ("encoding.partner=unformed", "encoding.slices=1", "converters.adc.bits=24")
    build = CASE.compile(target(*keys))
    assert build.cost.components["cell"].dynamic_j == pytest.approx(joules(build), rel=1e-9)


@pytest.mark.parametrize(
    ("key", "factor", "expected"),
    [("device.read_voltage_v", 2.0, 4.0), ("device.read_pulse_s", 3.0, 3.0)],
)
def test_heat_follows_voltage_and_pulse(key: str, factor: float, expected: float) -> None:
    """Four times the voltage changed no energy."""
    chip = target()
    section, name = key.split(".")
    value = getattr(getattr(chip, section), name)
    before, after = (CASE.compile(target(f"{key}={value * each}")) for each in (1.0, factor))
    cells = [build.cost.components["cell"].dynamic_j for build in (before, after)]
    assert cells[1] == pytest.approx(expected * cells[0])
