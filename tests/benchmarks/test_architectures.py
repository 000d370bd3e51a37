"""The architectures of PIMCOMP's paper, and the chips that networks take there."""

from __future__ import annotations

import math

import pytest

from mcompiler import target as mt
from tests.support.benchmarks import benchmark

imagenet = benchmark("imagenet")
architectures = benchmark("architectures").architectures()

TABLE = {"arch_a": (1, 168, 96, 128, 128), "arch_b": (1, 138, 128, 128, 128), "arch_c": (16, 4, 8, 512, 1024)}
"""Sun et al., TCAD 2024, Table V: chips, cores, crossbars, rows, columns."""


@pytest.mark.parametrize("name", TABLE)
def test_targets_are_rows_of_the_table(name: str) -> None:
    chips, cores, crossbars, rows, columns = TABLE[name]
    where = architectures[name]
    assert where.arrays_per_chip == chips * cores * crossbars
    assert where.arrays_per_core == crossbars
    assert (where.target.array.rows, where.target.array.columns, where.target.device.bits) == (rows, columns, 2)
    assert (where.target.precision.weights, where.target.precision.inputs) == (8, 8)
    assert where.target.converters.dac.bits == 1
    mebibytes = where.arrays_per_chip * rows * columns * 2 / 8 / 2**20
    assert round(mebibytes) == {"arch_a": 63, "arch_b": 69, "arch_c": 64}[name]


@pytest.mark.parametrize("name", TABLE)
def test_converters_lose_nothing(name: str) -> None:
    """A flipped column sums to half of full scale at most, and every row adds the pedestal of a cell at its lowest."""
    target: mt.Target = architectures[name].target
    largest = target.array.rows_active * (3 / 2 + target.device.pedestal)
    assert math.ceil(largest) < 2**target.converters.adc.bits
    assert largest > 2 ** (target.converters.adc.bits - 1)  # and no bit is wasted


def test_vgg16_takes_three_two_and_three_chips() -> None:
    layers = imagenet.NETWORKS["vgg16"]().layers
    assert [where.chips(layers) for where in architectures.values()] == [3, 2, 3]


@pytest.mark.parametrize("name", imagenet.NETWORKS)
def test_arrays_are_counted_by_hand(name: str) -> None:
    """Rows in blocks of an array; four cells a weight side by side, so a quarter of its columns are outputs."""
    layers = imagenet.NETWORKS[name]().layers
    for where in architectures.values():
        rows, columns = where.target.array.rows, where.target.array.columns // 4
        by_hand = [math.ceil(layer.rows / rows) * math.ceil(layer.columns / columns) for layer in layers]
        assert where.arrays(layers) == by_hand
        assert (
            (where.chips(layers) - 1) * where.arrays_per_chip
            < sum(by_hand)
            <= where.chips(layers) * where.arrays_per_chip
        )
