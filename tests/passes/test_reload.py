"""Layers that take turns: as few turns as there can be, cut where little is kept, and what writing takes."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcompiler
from mcompiler.cost import estimate
from mcompiler.errors import CompileError
from mcompiler.passes.place import Place
from mcompiler.passes.reload import Reload, _turns
from mcompiler.passes.schedule import Schedule
from tests.network.test_traffic import sequence
from tests.support.builds import model, node
from tests.support.digits import DEMO
from tests.support.programs import target

# Arrays of 4 x 2 weights, 4 of them on a chip.
KEYS = ("array.rows=4", "array.rows_active=4", "array.columns=16", "hierarchy.arrays_per_core=2",
        "hierarchy.cores_per_tile=2", "hierarchy.tiles_per_chip=1",
        "device.write.pulses=3.0", "device.write.pulse_s=1e-6",
        "device.write.pulse_energy_j=2e-12", "device.write.verify_s=1e-6", "device.write.verify_energy_j=1e-12",
        "device.write.parallel_cells=8", "device.write.source=assumption: test")  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=3, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=1, max_size=6),
    st.integers(6, 10),
)
def test_turns_are_the_best_of_all(arrays: list[int], layers: list[tuple[int, int]], room: int) -> None:
    """Three matrices, used by up to six layers; a turn holds the arrays of a matrix once."""
    weights, kept = [matrix for matrix, _ in layers], [float(k) for _, k in layers]

    def worth(cuts: tuple[bool, ...]) -> tuple[int, float] | None:
        held: list[set[int]] = [set()]
        total = 0.0
        for matrix, keep, cut in zip(weights, kept, cuts, strict=True):
            if cut:
                held.append(set())
                total += keep
            held[-1].add(matrix)
        most = max(sum(arrays[matrix] for matrix in turn) for turn in held)
        return (len(held), total) if most <= room else None

    found = _turns(weights, [arrays[matrix] for matrix in weights], room, [*kept, 0.0])
    cuts = tuple(bool(i and found[i] != found[i - 1]) for i in range(len(weights)))
    every = [worth((False, *rest)) for rest in product((False, True), repeat=len(weights) - 1)]
    assert worth(cuts) == min(each for each in every if each is not None)
    assert found == sorted(found)


def test_turns_by_hand() -> None:
    """Three layers of 2, 2 and 1 arrays on a chip of 4: two turns, 5 inferences each."""
    chip = target(*KEYS)
    program = Reload(5, 1).run(sequence([8, 2, 4, 2], 3), chip)
    assert program.turns in ((0, 0, 1), (0, 1, 1))
    placed = Place(1).run(program, chip)
    assert placed.chips == 1
    places = [tuple(a) for where in placed.addresses for a in where.tolist()]
    assert len(places) == 5
    assert len(set(places)) <= 4, "an array is written anew"
    found = Schedule().run(placed, chip)
    cells = 4 * 16
    writes = []
    for turn in range(2):
        every = np.concatenate([a for a, own in zip(placed.addresses, program.turns, strict=True) if own == turn])
        most = max(np.unique(every[:, 2], return_counts=True)[1])
        writes.append((most * cells / 8 * 3 * 2e-6, len(every) * cells * 3 * 3e-12))
    assert [(turn.write_s, turn.write_j) for turn in found.turns] == [pytest.approx(each) for each in writes]
    total = sum(turn.write_s + turn.latency_s + 4 * turn.interval_s for turn in found.turns)
    assert found.latency_s == pytest.approx(total)
    assert found.interval_s == pytest.approx(total / 5)
    assert found.turns[0].kept_bytes > 0
    assert found.turns[1].kept_bytes == 0
    for layer, own in zip(found.layers, program.turns, strict=True):
        assert layer.start_s >= sum(turn.write_s for turn in found.turns[: own + 1])
    cost = estimate(found, chip)
    assert cost.components["(writing)"].energy_j == pytest.approx(sum(joules for _, joules in writes) / 5)
    assert sum(row.energy_j for row in cost.components.values()) == pytest.approx(cost.energy_j)
    assert sum(row.energy_j for row in cost.layers.values()) == pytest.approx(cost.energy_j)


def test_shared_weights_are_written_in_each_turn_that_uses_them(tmp_path: Path) -> None:
    """x W V W W with two arrays a matrix, on a chip of two: three turns, the last of which serves two layers.

    Once refused with the advice to use more chips: weights that two layers use had to be there at once.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 8)).astype(np.float32)
    names = ["w", "v", "w", "w"]
    nodes = [node("MatMul", f"{'xabc'[i]} {name}", "abcy"[i], f"m{i}") for i, name in enumerate(names)]
    constants = {name: rng.standard_normal((8, 8)).astype(np.float32) for name in "wv"}
    keys = ("array.rows=8", "array.rows_active=8", "array.columns=32", "hierarchy.arrays_per_core=2",
            "hierarchy.cores_per_tile=1", "hierarchy.tiles_per_chip=1", *KEYS[6:])  # fmt: skip
    build = mcompiler.compile(
        model(nodes, {"x": x}, constants), "generic_128", calibration={"x": x}, chips=1, reload=4, overrides=keys
    )
    assert {build.arrays(layer) for layer in build.layers} == {2}
    assert len(build.schedule.turns) == 3
    assert build.chips == 1
    build.save(tmp_path / "turns.build")
    loaded = mcompiler.load(tmp_path / "turns.build")
    assert [layer.shares for layer in loaded.layer_data] == [None, None, None, 2]
    assert loaded.verify(ideal=True, limit=4).exact
    assert loaded.cost == build.cost
    assert loaded.cost.crossbars == 6
    for key in ("energy_j", "area_m2", "crossbars"):
        assert sum(getattr(row, key) for row in build.cost.layers.values()) == pytest.approx(getattr(build.cost, key))


def test_what_fits_takes_no_turns() -> None:
    program = sequence([4, 2], 3)
    assert Reload(5, 1).run(program, target(*KEYS)) is program


def test_mistakes_get_a_sentence() -> None:
    program = sequence([8, 2, 4, 2], 3)
    with pytest.raises(CompileError, match="give --chips N"):
        Reload(5).run(program, target(*KEYS))
    with pytest.raises(CompileError, match=r"'p0'.*takes 6 arrays and 1 chip\(s\) hold 4.*it takes 2 chips"):
        Reload(5, 1).run(sequence([8, 6, 2], 3), target(*KEYS))
    bare = [key for key in KEYS if "write" not in key]
    with pytest.raises(CompileError, match=r"add \[device.write\]"):
        Reload(5, 1).run(program, target(*bare))


def test_a_network_in_turns_is_still_exact(tmp_path: Path) -> None:
    keys = ("hierarchy.tiles_per_chip=1", "hierarchy.cores_per_tile=1", "hierarchy.arrays_per_core=12", *KEYS[6:])
    build = mcompiler.compile(
        DEMO / "digits.onnx", "generic_128", calibration=DEMO / "digits_calibration.npz", chips=1, reload=100,
        overrides=keys,
    )  # fmt: skip
    assert len(build.schedule.turns) == 3
    assert build.chips == 1
    build.save(tmp_path / "turns.build")
    loaded = mcompiler.load(tmp_path / "turns.build")
    assert loaded.verify(limit=4).exact
    assert loaded.cost == build.cost
