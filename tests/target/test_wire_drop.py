"""Current that wires cost: the closed form against the solved ladder, and the warning."""

from __future__ import annotations

import numpy as np
import pytest

import mcompiler
from mcompiler.target import list_targets, load_target
from mcompiler.target.wire_drop import LARGEST_LOSS, TYPICAL_SEGMENT_OHM, wire_loss, wire_note
from tests.support.builds import gemm_case

LARGE = ("array.rows=100000", "array.rows_active=100000")


def ladder(cells: int, ohm: float, siemens: float) -> float:
    """Current of a line of cells at 1 V into virtual ground at one end, over that without resistance."""
    matrix = np.zeros((cells, cells))
    for node in range(cells):  # sum of the currents into each node of the line
        matrix[node, node] += siemens + 1 / ohm  # its cell, and the segment towards the end
        if node:
            matrix[node, node - 1] -= 1 / ohm
            matrix[node - 1, node - 1] += 1 / ohm
            matrix[node - 1, node] -= 1 / ohm
    voltages = np.linalg.solve(matrix, np.full(cells, siemens))
    return float(siemens * (1 - voltages).sum() / (siemens * cells))


@pytest.mark.parametrize(("size", "ohm", "siemens"), [(128, 2.82, 5e-5), (256, 1.0, 1e-5), (512, 5.0, 1e-6)])
def test_a_bit_line_is_a_ladder(size: int, ohm: float, siemens: float) -> None:
    chip = load_target(
        "generic_128",
        [
            *(f"array.{key}={size}" for key in ("rows", "rows_active", "columns")),
            f"array.wire_resistance_ohm={ohm}",
            "array.drive=gate",  # no current on the word lines
        ],
    )
    assert 1 - wire_loss(chip, siemens) == pytest.approx(ladder(size, ohm, siemens), rel=0.01)


def test_word_lines_come_on_top() -> None:
    keys = ["array.wire_resistance_ohm=1.0"]
    line = load_target("generic_128", [*keys, "array.drive=gate"])
    both = load_target("generic_128", keys)
    assert 1 - wire_loss(both, 1e-5) == pytest.approx((1 - wire_loss(line, 1e-5)) ** 2)


def test_fragments_far_from_the_end_lose_in_the_segments_between() -> None:
    """Averaged over the fragments: each sees the segments between it and the end."""
    rows, active, ohm, siemens = 256, 16, 5.0, 1e-5
    chip = load_target(
        "generic_128",
        [f"array.rows={rows}", f"array.rows_active={active}", f"array.wire_resistance_ohm={ohm}", "array.drive=gate"],
    )
    own = ladder(active, ohm, siemens) * active * siemens
    kept = [own / (1 + own * ohm * first) for first in range(0, rows, active)]
    wanted = float(np.mean(kept)) / (active * siemens)
    assert 1 - wire_loss(chip, siemens) == pytest.approx(wanted, rel=0.01)


def test_the_transistor_of_a_cell_limits_its_current() -> None:
    plain = load_target("generic_128")
    limited = load_target("generic_128", ["device.access_resistance_ohm=1e5"])
    assert wire_loss(limited, 1e-5) == pytest.approx(wire_loss(plain, 1e-5 / 2))


@pytest.mark.parametrize("name", [name for name, _ in list_targets()])
def test_shipped_targets_have_no_note(name: str) -> None:
    assert wire_note(load_target(name)) is None


def test_the_note_has_its_figures_and_a_size_without_one() -> None:
    chip = load_target("generic_128", LARGE)
    note = wire_note(chip)
    assert note is not None
    least, mean = wire_loss(chip, 1e-6), wire_loss(chip, (1e-6 + 1e-4) / 2)
    assert LARGEST_LOSS < least < mean
    assert f"segments of {TYPICAL_SEGMENT_OHM} ohm" in note
    assert f"at least {least:.0%} of the current" in note
    assert f"{mean:.0%} with cells at the mean conductance" in note
    assert note.endswith("arrays of at most 256 x 256")
    sizes = [[f"array.{key}={size}" for key in ("rows", "columns", "rows_active")] for size in (256, 512)]
    assert wire_note(load_target("generic_128", sizes[0])) is None
    assert wire_note(load_target("generic_128", sizes[1])) is not None


def test_a_compilation_says_it_once() -> None:
    case, said = gemm_case(transposed=True), list[str]()
    large = load_target("generic_128", LARGE)
    mcompiler.compile(case.model, large, calibration=case.feeds, say=said.append)
    assert [text for text in said if "wires" in text] == [wire_note(large)]
    said.clear()
    mcompiler.compile(case.model, load_target("generic_128"), calibration=case.feeds, say=said.append)
    assert not [text for text in said if "wires" in text]


def test_the_resistance_of_the_target_counts() -> None:
    note = wire_note(load_target("generic_128", [*LARGE, "array.wire_resistance_ohm=5.0"]))
    assert note is not None
    assert "array.wire_resistance_ohm = 5)" in note
    assert "state array.wire_resistance_ohm" not in note
    assert wire_note(load_target("generic_128", ["array.wire_resistance_ohm=100.0"])) is not None
    small = ["array.rows=512", "array.columns=512", "array.rows_active=512", "array.wire_resistance_ohm=0.1"]
    assert wire_note(load_target("generic_128", small)) is None
