"""Placement: every array its own address on the hierarchy, or an error that says what is missing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.errors import CompileError
from mcompiler.ir import AnalogProgram, MatrixProgram
from mcompiler.passes.place import Place
from mcompiler.target import Target
from tests.support.programs import analog, matrix_op, matrix_program, placed, target

ARRAYS = ("array.rows=2", "array.rows_active=2", "array.columns=8")  # 2 weights an array


def network(*arrays: int) -> MatrixProgram:
    """Layers that take so many arrays each."""
    return matrix_program([matrix_op(np.ones((2, count)), name=f"layer{i}") for i, count in enumerate(arrays)])


def chip(arrays: int, cores: int, tiles: int, chips: int | str = "as needed") -> Target:
    """A target with so many arrays in a core, cores in a tile, tiles on a chip."""
    hierarchy = (
        f"hierarchy.arrays_per_core={arrays}",
        f"hierarchy.cores_per_tile={cores}",
        f"hierarchy.tiles_per_chip={tiles}",
        f"hierarchy.chips={chips}",
    )
    return target(*ARRAYS, *hierarchy)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_addresses_are_different_and_on_the_hierarchy(layers: list[int], arrays: int, cores: int, tiles: int) -> None:
    where = chip(arrays, cores, tiles)
    program = placed(network(*layers), where)
    assert [len(addresses) for addresses in program.addresses] == layers
    assert all(addresses.dtype == np.int32 for addresses in program.addresses)
    flat = [tuple(row) for addresses in program.addresses for row in addresses.tolist()]
    assert len(set(flat)) == len(flat) == sum(layers)
    for address in flat:
        for value, size in zip(address, (program.chips, tiles, cores, arrays), strict=True):
            assert 0 <= value < size
    assert {address[0] for address in flat} == set(range(program.chips)), "a chip without arrays"
    assert program.chips == -(-sum(layers) // (arrays * cores * tiles))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_placement_is_deterministic(layers: list[int]) -> None:
    where = chip(2, 3, 4)
    first, second = placed(network(*layers), where), placed(network(*layers), where)
    for one, other in zip(first.addresses, second.addresses, strict=True):
        assert np.array_equal(one, other)


def test_by_hand() -> None:
    where = chip(2, 2, 2)  # 8 arrays a chip
    program = Place(effort=0).run(analog(network(3, 2, 4), where), where)
    assert [addresses.tolist() for addresses in program.addresses] == [
        [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]],
        [[0, 0, 1, 1], [0, 1, 0, 0]],
        [[0, 1, 0, 1], [0, 1, 1, 0], [0, 1, 1, 1], [1, 0, 0, 0]],
    ]
    assert program.chips == 2


def test_nothing_to_place_takes_one_chip() -> None:
    program = placed(matrix_program([matrix_op(np.zeros((3, 3)))]), chip(2, 2, 2))
    assert program.addresses[0].shape == (0, 4)
    assert program.chips == 1
    assert placed(matrix_program([]), chip(2, 2, 2)).addresses == ()


def settled(*layers: int) -> AnalogProgram:
    """Layers before placement."""
    return analog(network(*layers), target(*ARRAYS))


def test_a_model_that_does_not_fit() -> None:
    with pytest.raises(CompileError) as caught:
        Place().run(settled(5, 4, 3, 9), chip(2, 2, 2, 1))
    assert str(caught.value) == (
        "the model needs 21 arrays and 1 chip(s) of 8 hold 8: 13 too many; no room for 'layer1', 'layer2', 'layer3'; "
        "it would take 3 chips (--chips 3)"
    )


def test_many_layers_without_room_are_counted() -> None:
    with pytest.raises(CompileError, match=r"no room for 'layer1', .*'layer5' and 2 more; it would take 8 chips"):
        Place().run(settled(*[1] * 8), chip(1, 1, 1, 1))


def test_the_number_of_chips_can_be_given() -> None:
    program = settled(5, 4)
    assert Place(2).run(program, chip(2, 2, 2, 1)).chips == 2, "--chips has the last word"
    assert Place(5).run(program, chip(2, 2, 2)).chips == 2, "no more than are needed"
    with pytest.raises(CompileError, match=r"needs 9 arrays and 1 chip\(s\) of 8 hold 8: 1 too many.*--chips 2"):
        Place(1).run(program, chip(2, 2, 2))
    assert Place().run(program, chip(2, 2, 2, 2)).chips == 2
    exactly = settled(5, 3)
    assert Place(1).run(exactly, chip(2, 2, 2)).chips == 1
