"""Encodings on their own: cells of every code decode to it, extremes hold, names are found, values survive pickling."""

from __future__ import annotations

import pickle
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.encodings import (
    CodeRange,
    CodesDoNotFitError,
    Decoding,
    Differential,
    Offset,
    Pedestal,
    Polarised,
    WeightEncoding,
    encoding_names,
    find_encoding,
)
from mcompiler.geometry import array_shape
from mcompiler.target import Target
from tests.support.programs import overrides, target

PROPERTY = settings(max_examples=60, deadline=None)


@settings(max_examples=25, deadline=None)
@given(overrides(), st.integers(0, 40))
def test_cells_of_every_code_decode_to_it(keys: tuple[str, ...], shift: int) -> None:
    """Sum over cells of sign x 2^(bits x slice) x level, minus the shift; a fragment has the sign of the code."""
    chip = target(*keys)
    shape, encoding = array_shape(chip), chip.weight_encoding
    table, span = encoding.level_table(shape, shift), encoding.code_range(shape, shift)
    assert table.shape == (span.largest - span.smallest + 2, encoding.polarities, shape.slices)
    assert not table[-1].any()
    for index, code in enumerate(range(span.smallest, span.largest + 1)):
        total = 0
        for polarity, place in product(range(encoding.polarities), range(shape.slices)):
            step = chip.cell_steps[int(table[index, polarity, place])]
            total += encoding.polarity_signs[polarity] * step * 2 ** (shape.cell_bits * place)
        if chip.encoding.weights == "offset":
            total -= shift
        elif chip.encoding.weights == "polarised":
            total *= 1 if code > 0 else -1
        in_table = not chip.has_level_table or abs(code) in chip.cell_steps
        assert total == (code if in_table else 0)


@settings(max_examples=25, deadline=None)
@given(overrides(), st.integers(-3, 0), st.integers(0, 3))
def test_a_table_of_some_codes_is_a_part_of_the_whole(keys: tuple[str, ...], low: int, high: int) -> None:
    chip = target(*keys)
    shape, encoding = array_shape(chip), chip.weight_encoding
    span = encoding.code_range(shape, shift := encoding.nominal_shift(shape))
    codes = CodeRange(max(low, span.smallest), min(high, span.largest))
    whole = encoding.level_table(shape, shift)
    first = codes.smallest - span.smallest
    wanted = [*whole[first : first + codes.largest - codes.smallest + 1], whole[-1]]
    np.testing.assert_array_equal(encoding.level_table(shape, shift, codes), wanted)


@pytest.mark.parametrize("weights", ["differential", "offset", "polarised"])
@pytest.mark.parametrize(("slices", "levels"), [(16, 4), (31, 4), (7, 256)])
def test_a_table_has_the_codes_of_16_bits_at_most(weights: str, slices: int, levels: int) -> None:
    pedestal = "pair" if weights == "differential" else "digital_count"
    chip = target(
        f"encoding.weights={weights}",
        f"encoding.pedestal={pedestal}",
        f"encoding.slices={slices}",
        f"device.levels={levels}",
        "encoding.slices_in=separate",
    )
    shape, encoding = array_shape(chip), chip.weight_encoding
    shift = encoding.nominal_shift(shape)
    table, span = encoding.level_table(shape, shift), encoding.table_range(shape, shift)
    assert (span.smallest, span.largest) == (-(1 << 15), (1 << 15) - 1)
    assert len(table) == (1 << 16) + 1
    bits = int(np.log2(levels))
    for code in (-(1 << 15), -1, 0, 1, 12345, (1 << 15) - 1):
        cells = table[code - span.smallest]
        places = [1 << (bits * place) for place in range(slices)]
        total = sum(
            sign * sum(int(level) * place for level, place in zip(line, places, strict=True))
            for sign, line in zip(encoding.polarity_signs, cells, strict=True)
        )
        wanted = {"differential": code, "offset": code + shift, "polarised": abs(code)}[weights]
        assert total == wanted


@PROPERTY
@given(st.integers(0, 2**32 - 1), st.sampled_from([True, False]))
def test_extremes_of_pairs_by_trying_all_inputs(seed: int, analog: bool) -> None:
    """Columns of one pair and one slice, 4 rows of one-bit inputs: all 16 inputs by brute force."""
    encoding = Differential(pedestal=Pedestal.REFERENCE_COLUMN, analog=analog)
    levels = np.random.default_rng(seed).integers(0, 4, (2, 4))  # [polarity, row]
    levels[1] = np.where(levels[0] > 0, 0, levels[1])  # one cell of a pair is at its lowest level
    low, high = encoding.extremes(levels.sum(axis=1).reshape(2, 1), slice(0, 2))
    sums = np.array(list(product((0, 1), repeat=4))) @ levels.T  # [inputs, polarity]
    seen = sums[:, :1] - sums[:, 1:] if analog else sums
    assert (low, high) == (min(0, seen.min()), seen.max())


@pytest.mark.parametrize(
    ("encoding", "signed", "conversions", "decoding"),
    [
        (Differential(pedestal=Pedestal.PAIR), True, 1, Decoding.CLEAN),
        (Differential(pedestal=Pedestal.DIGITAL_COUNT, analog=False), False, 2, Decoding.TWO),
        (Differential(pedestal=Pedestal.REFERENCE_COLUMN, analog=False), False, 2, Decoding.CLEAN),
        (Offset(pedestal=Pedestal.DIGITAL_COUNT), False, 1, Decoding.COUNT),
        (Offset(pedestal=Pedestal.DIGITISED_REFERENCE), False, 1, Decoding.TWO),
        (Polarised(pedestal=Pedestal.REFERENCE_COLUMN), False, 1, Decoding.CLEAN),
    ],
)
def test_conversions(encoding: WeightEncoding, signed: bool, conversions: int, decoding: Decoding) -> None:
    assert (encoding.signed, encoding.conversions, encoding.decoding) == (signed, conversions, decoding)
    lines = np.arange(12).reshape(encoding.polarities, -1)
    seen = encoding.seen(lines, 0)
    assert np.array_equal(seen, lines[:1] - lines[1:] if signed else lines)
    assert np.array_equal(encoding.seen_variance(lines, 0), lines[:1] + lines[1:] if signed else lines)
    assert np.array_equal(encoding.at_converters(lines, 0), lines[:1] if signed else lines)


def test_arrays_of_pairs_that_have_converters() -> None:
    polarity = np.array([1, -1, 0], dtype=np.int8)
    assert Differential(pedestal=Pedestal.PAIR).converts(polarity).tolist() == [True, False, True]
    assert Differential(pedestal=Pedestal.DIGITAL_COUNT, analog=False).converts(polarity).all()
    assert Polarised(pedestal=Pedestal.DIGITAL_COUNT).converts(polarity[2:]).all()


@pytest.mark.parametrize(("low", "high", "shift"), [(-8, 7, 8), (-1, 14, 1), (0, 15, 0), (-3, 3, 8)])
def test_shift_of_offset(low: int, high: int, shift: int) -> None:
    chip = target(
        "encoding.weights=offset", "encoding.pedestal=digital_count", "encoding.slices=2", "precision.weights=4"
    )
    assert chip.weight_encoding.fit_codes(low, high, array_shape(chip)) == shift


def test_codes_that_do_not_fit() -> None:
    chip = target("encoding.slices=1", "precision.weights=3")
    with pytest.raises(
        CodesDoNotFitError, match=r"^weight codes from -4 to 2 do not fit into -3\.\.3, which is what a pair"
    ):
        chip.weight_encoding.fit_codes(-4, 2, array_shape(chip))


def test_names() -> None:
    assert encoding_names()[:3] == ("differential", "offset", "polarised")
    assert [find_encoding(name) for name in encoding_names()[:3]] == [Differential, Offset, Polarised]


@PROPERTY
@given(overrides())
def test_values_survive_pickling(keys: tuple[str, ...]) -> None:
    chip = target(*keys)
    again: Target = pickle.loads(pickle.dumps(chip))
    assert again == chip
    assert again.weight_encoding == chip.weight_encoding
    assert pickle.loads(pickle.dumps(array_shape(chip))) == array_shape(again)
