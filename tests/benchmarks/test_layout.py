"""PIMCOMP's mappings stand where it puts them, however they are evaluated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcompiler.geometry import array_shape
from tests.support.benchmarks import benchmark
from tests.support.programs import analog, matrix_op, matrix_program, target

layout = benchmark("layout")
KEYS = ("array.rows=4", "array.rows_active=4", "array.columns=16", "hierarchy.cores_per_tile=1",
        "hierarchy.tiles_per_chip=9")  # fmt: skip
PER_BLOCK = 3 * array_shape(target(*KEYS)).arrays_per_tile
CHIP = target(*KEYS, f"hierarchy.arrays_per_core={2 * PER_BLOCK}")


def test_arrays_of_a_row_block_stand_in_its_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two row blocks of three arrays (of two weights), two copies; cores of two row blocks."""
    program = analog(matrix_program([matrix_op(np.ones((8, 6), int), vectors=2)]), CHIP)
    table = program.tiled.tables[0]
    assert len(table) == 2 * PER_BLOCK
    cores = np.array([5, 0, 5, 7])  # copy 0: blocks 0 and 1; copy 1
    monkeypatch.setattr(layout, "cores_of", lambda run: cores)
    run: dict[str, Any] = {"replicas": [2], "arrays_per_core": 2 * PER_BLOCK, "cores": 9, "chips": 1}
    found = dict(layout.as_mapped(program, run, CHIP))
    assert set(found) == {"cores", "mapped"}
    expected = np.concatenate([np.where(table["row"] == 0, first, second) for first, second in ((5, 0), (5, 7))])
    mapped = found["mapped"].addresses[0]
    assert mapped[:, 1].tolist() == expected.tolist()
    assert len(np.unique(mapped, axis=0)) == len(mapped)  # no two in one place
    # Its cores may stand elsewhere; what is together stays together.
    moved = found["cores"].addresses[0][:, 1]
    assert len(set(zip(expected.tolist(), moved.tolist(), strict=True))) == len(set(expected.tolist())) == 3


def test_a_run_without_cores_is_not_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "cores_of", lambda run: None)
    program = analog(matrix_program([matrix_op(np.ones((8, 6), int), vectors=2)]), CHIP)
    assert not list(layout.as_mapped(program, {"replicas": [1]}, CHIP))


def test_peers_are_compared_by_kind() -> None:
    """Geometric means and the least of the best of each kind, over the rows that have it."""

    def seconds(value: float) -> dict[str, Any]:
        return {"interval_s": value, "latency_s": 1.0, "of_bound": 1.0}

    row: dict[str, Any] = {name: seconds(1.0) for name in ("layer_by_layer", "pipelined", "replicated", "placed")}
    row |= {"latency": seconds(1.0), "latency_bound_s": 1.0, "array_bound_s": 1.0, "puma_like": seconds(1.0),
            "total_seconds": 1.0, "byte_hops": {"snake": 0, "one_copy_snake": 0}}  # fmt: skip
    rows = [
        row | {"pimcomp_a": seconds(2.0), "pimcomp_b": seconds(1.5), "pimcomp_a_mapped": seconds(4.0)},
        row | {"pimcomp_a": seconds(0.5), "pimcomp_b": seconds(6.0), "pimcomp_a_mapped": seconds(9.0)},
        row,
    ]
    found = layout.summary(rows)
    assert found["over_best_of_pimcomp"] == pytest.approx((1.5 * 0.5) ** 0.5, abs=1e-3)
    assert found["least_over_best_of_pimcomp"] == 0.5
    assert found["over_best_of_pimcomp_mapped"] == pytest.approx(6.0)
    assert found["least_over_best_of_pimcomp_mapped"] == 4.0
    assert "over_best_of_pimcomp_cores" not in found
