"""Cost: counts times prices plus static power times time; both tables add up to the totals."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.cost import DIGITAL, IDLE, Cost, Price, estimate
from mcompiler.ir import MatrixProgram
from mcompiler.target import Component, Each, Event, HierarchyUnit, Target, prices
from tests.support.programs import (
    OFFSET,
    Case,
    cases,
    chain,
    matrix_op,
    matrix_program,
    node,
    placeholder,
    scheduled,
    skeleton,
    spots,
    target,
)

KEYS = ("array.rows=4", "array.rows_active=4", "array.columns=16")  # 4 rows x 2 weights
TIGHT = ("hierarchy.arrays_per_core=2", "hierarchy.cores_per_tile=2", "hierarchy.tiles_per_chip=2")


def priced(components: dict[str, Component], *keys: str) -> Target:
    """A target with other components."""
    chip: Target = target(*KEYS, *keys).model_copy(update={"components": components})
    return chip


def network(*codes: object, digital: int = 0, vectors: int = 3) -> MatrixProgram:
    """Layers one after the other, a digital operation at the end."""
    ops = [matrix_op(each, name=f"layer{i}", vectors=vectors) for i, each in enumerate(codes)]

    def build(source: ir.Value) -> list[ir.Node]:
        nodes: list[ir.Node] = []
        for op in ops:
            nodes.append(placeholder(op.site.name, nodes[-1].outputs[0] if nodes else source, len(nodes)))
        return [*nodes, node("Relu", [nodes[-1].outputs[0]], "relu")]

    return matrix_program(ops, model=skeleton(build), digital={"relu": digital})


def total(prices: dict[str, Price], key: str) -> float:
    """A column of a table, summed without loss."""
    return math.fsum(getattr(price, key) for price in prices.values())


def check_sums(cost: Cost) -> None:
    """The laws that every cost obeys."""
    energies = ("energy_active_j", "energy_standby_used_j", "energy_standby_chip_j")
    for key in ("energy_j", *energies, "dynamic_j", "static_j", "area_m2"):
        assert total(cost.layers, key) == pytest.approx(getattr(cost, key), rel=1e-9)
        assert total(cost.components, key) == pytest.approx(getattr(cost, key), rel=1e-9)
    for count in ("crossbars", "crossbars_dense"):
        assert sum(getattr(price, count) for price in cost.layers.values()) == getattr(cost, count)
    assert cost.energy_j == cost.energy_active_j + cost.energy_standby_used_j
    assert cost.energy_standby_used_j <= cost.energy_standby_chip_j * (1 + 1e-9)
    assert cost.power_w == cost.energy_j * cost.rate_per_s
    assert cost.peak_power_w >= cost.power_w
    assert 0 <= cost.utilisation <= 1


def row(price: Price) -> tuple[float, float, float]:
    """Energy, area and static power of a component."""
    return price.energy_j, price.area_m2, price.static_power_w


COMPONENTS = {
    "cell": Component(
        per=HierarchyUnit.ARRAY, count=64, event=Event.CELL_READ, energy_j=2e-15, area_m2=1e-15, rule="constant"
    ),
    "adc": Component(per=HierarchyUnit.CORE, count=2, event=Event.ADC_CONVERSION, energy_j=1e-12, static_power_w=1e-3),
    "unit": Component(per=HierarchyUnit.TILE, each=Each.UNIT, event=Event.DIGITAL_OP, energy_j=1e-13, area_m2=5e-9),
    "clock": Component(per=HierarchyUnit.CHIP, count=0.5, static_power_w=0.2, area_m2=1e-6),
}


def test_by_hand() -> None:
    """Three layers on arrays of 4 x 2 weights: 1, 2 and 1 arrays, in two cores of 2, one tile, one chip.

    6 vectors of 8 one-bit phases each; a cycle is 10 ns (8 conversions of 1 ns are shorter), so each layer is busy for
    480 ns, which is the interval.
    """
    chip = priced(COMPONENTS, *TIGHT)
    program = scheduled(network(np.ones((4, 2)), np.ones((4, 3)), np.ones((2, 2)), digital=50, vectors=6), chip)
    cost = estimate(program, chip)
    assert cost.throughput_per_s == pytest.approx(1 / 480e-9)
    # a clock for the byte that comes in, for every layer's last result, and four for 50 operations
    assert cost.latency_s == pytest.approx(1e-9 + 3 * 481e-9 + 4e-9)
    reads = 6 * 8
    # cells: rows x bit lines; a weight takes 8
    cells = {"layer0": reads * 4 * 16, "layer1": reads * 4 * 24, "layer2": reads * 2 * 16}
    conversions = {"layer0": reads * 8, "layer1": reads * 12, "layer2": reads * 8}
    operations = {"layer0": 6 * 2, "layer1": 6 * 3, "layer2": 6 * 2, DIGITAL: 50}
    # core 0: layer0 and half of layer1, core 1: the other half and layer2; so cores are split 1/2, 1/2+1/2, 1/2
    cores = {"layer0": 0.5, "layer1": 1.0, "layer2": 0.5}
    quarters = {"layer0": 0.25, "layer1": 0.5, "layer2": 0.25}
    for name in ("layer0", "layer1", "layer2", DIGITAL):
        static = cores.get(name, 0) * 2 * 1e-3 + quarters.get(name, 0) * 0.5 * 0.2
        energy = cells.get(name, 0) * 2e-15 + conversions.get(name, 0) * 1e-12 + operations[name] * 1e-13
        assert cost.layers[name].energy_j == pytest.approx(energy + static * 480e-9)
    arrays = {"layer0": 1, "layer1": 2, "layer2": 1}
    for name, count in arrays.items():
        area = count * 64 * 1e-15 + quarters[name] * (5e-9 + 0.5e-6)
        assert cost.layers[name].area_m2 == pytest.approx(area)
        assert cost.layers[name].crossbars == cost.layers[name].crossbars_dense == count
        assert cost.layers[name].latency_s == pytest.approx(480e-9)
    assert cost.layers[DIGITAL].latency_s == pytest.approx(4e-9)
    assert row(cost.components["cell"]) == pytest.approx((reads * 192 * 2e-15, 256e-15, 0))
    assert row(cost.components["adc"]) == pytest.approx((reads * 28 * 1e-12 + 4e-3 * 480e-9, 0, 4e-3))
    assert row(cost.components["unit"]) == pytest.approx(((12 + 18 + 12 + 50) * 1e-13, 5e-9, 0))
    assert row(cost.components["clock"]) == pytest.approx((0.1 * 480e-9, 0.5e-6, 0.1))
    # everything at once: each layer spends its energy within 480 ns, the digital unit 16 operations a nanosecond
    dynamic = reads * 192 * 2e-15 + reads * 28 * 1e-12 + (12 + 18 + 12) * 1e-13
    assert cost.peak_power_w == pytest.approx(dynamic / 480e-9 + 16e9 * 1e-13 + 0.104)
    # 8 + 12 + 4 weights of 8 cells, of 4 arrays x 64
    assert cost.utilisation == pytest.approx((8 + 12 + 4) * 8 / 256)
    assert cost.layers["layer2"].utilisation == pytest.approx(0.5)
    check_sums(cost)


@pytest.mark.parametrize("name", ["generic_128", "isaac", "yuan2019", "yuan2019_32x32"])
def test_tables_of_the_shipped_targets_add_up(name: str) -> None:
    chip = target("converters.adc.range=full", name=name)
    rng = np.random.default_rng(3)
    program = network(rng.integers(-15, 16, (300, 70)), np.eye(40), rng.integers(-3, 4, (9, 5)), digital=1000)
    cost = estimate(scheduled(program, chip), chip)
    check_sums(cost)
    assert cost.energy_j > 0
    assert cost.area_m2 > 0
    assert set(cost.layers) == {"layer0", "layer1", "layer2", DIGITAL, IDLE}
    assert set(cost.components) == set(chip.components)


@settings(max_examples=60, deadline=None)
@given(st.lists(cases(), min_size=1, max_size=3))
def test_tables_add_up(drawn: list[Case]) -> None:
    chip = target(*drawn[0].overrides, *TIGHT)
    step = chip.cell_steps[1]
    ops = [matrix_op(case.op.matrix.codes % 2 * step, name=f"l{i}", vectors=i + 1) for i, case in enumerate(drawn)]
    program = scheduled(matrix_program(ops, digital={"relu": 7}), chip)
    cost = estimate(program, chip)
    check_sums(cost)
    # events and prices give the dynamic energy of every component
    for key, part in prices(chip).items():
        row = cost.components[key]
        assert row.energy_standby_used_j <= row.static_power_w / cost.rate_per_s * (1 + 1e-9)
        if part.event is Event.CELL_READ:  # test_cells.py adds up cell by cell
            continue
        count = sum(number for _, event, number in cost.events if event == part.event)
        assert row.energy_active_j == pytest.approx(count * part.energy_j, rel=1e-9)
    # utilisation: cells that hold weights, counted one by one
    tiled = program.placed.analog.tiled
    shape = drawn[0].shape
    held = [sum(1 for _ in spots(op, table)) for op, table in zip(tiled.matrix.layers, tiled.tables, strict=True)]
    for op, table, weights in zip(tiled.matrix.layers, tiled.tables, held, strict=True):
        price = cost.layers[op.site.name]
        assert price.crossbars == len(table)
        cells = len(table) * shape.rows * shape.columns
        assert price.utilisation == pytest.approx(weights * shape.columns_per_weight / cells if cells else 0.0)
    cells = cost.crossbars * shape.rows * shape.columns
    assert cost.utilisation == pytest.approx(sum(held) * shape.columns_per_weight / cells if cells else 0.0)


def test_dense_crossbars_are_those_before_compaction_and_pruning() -> None:
    # 8 x 4 weights take 2 x 2 arrays; with all but one row and column empty, one array is left
    codes = np.zeros((8, 4))
    codes[5, 2] = 3
    cost = estimate(scheduled(network(codes), target(*KEYS)), target(*KEYS))
    assert (cost.crossbars, cost.crossbars_dense) == (1, 4)
    assert cost.utilisation == pytest.approx(8 / 64)


def test_a_shared_tile_is_split_by_arrays() -> None:
    chip = priced({"buffer": Component(per=HierarchyUnit.TILE, area_m2=1.0)}, *TIGHT)  # 4 arrays a tile
    cost = estimate(scheduled(network(np.ones((4, 6)), np.ones((4, 4))), chip), chip)  # 3 and 2 arrays
    assert cost.layers["layer0"].area_m2 == pytest.approx(3 / 4)
    assert cost.layers["layer1"].area_m2 == pytest.approx(1 / 4 + 1)
    assert cost.area_m2 == pytest.approx(2.0)


def test_a_model_without_arrays_still_has_a_chip() -> None:
    chip = priced(COMPONENTS)
    program = matrix_program([], model=skeleton(lambda x: [node("Relu", [x], "relu")]), digital={"relu": 160})
    cost = estimate(scheduled(program, chip), chip)
    assert cost.crossbars == cost.crossbars_dense == 0
    assert cost.utilisation == 0.0
    assert cost.latency_s == pytest.approx(10e-9)
    assert cost.layers[DIGITAL].area_m2 == pytest.approx(5e-9 + 0.5e-6)
    check_sums(cost)


def test_events() -> None:
    program = scheduled(network(np.ones((4, 2)), digital=50), target(*KEYS))
    cost = estimate(program, target(*KEYS))
    assert (DIGITAL, "digital_op", 50.0) in cost.events
    assert ("layer0", "adc_conversion", 3 * 8 * 8) in cost.events
    assert {event for layer, event, _ in cost.events if layer == "layer0"} == {event.value for event in Event}


KEYS_OF_COST = {
    "latency_s", "throughput_per_s", "energy_j", "power_w", "peak_power_w", "area_m2", "crossbars", "crossbars_dense",
    "utilisation", "layers", "components", "events", "units", "rate_per_s", "energy_active_j", "energy_standby_used_j",
    "energy_standby_chip_j", "stale",
}  # fmt: skip


def test_json_there_and_back() -> None:
    chip = target(*KEYS, *OFFSET)
    cost = estimate(scheduled(network(np.ones((9, 4)), np.zeros((2, 2)), digital=5), chip), chip)
    text = json.dumps(cost.as_json(), allow_nan=False)
    data = json.loads(text)
    assert set(data) == KEYS_OF_COST
    assert set(data["layers"]["layer0"]) == {
        "latency_s", "energy_j", "dynamic_j", "static_j", "area_m2", "crossbars", "crossbars_dense", "utilisation",
        "adc_bits", "label", "energy_active_j", "energy_standby_used_j", "energy_standby_chip_j",
    }  # fmt: skip
    assert data["events"][0].keys() == {"layer", "event", "count"}
    assert Cost.from_json(data) == cost
    assert json.dumps(Cost.from_json(data).as_json()) == text


def test_cost_of_a_chain_reads_the_slowest_layer() -> None:
    ops = [matrix_op(np.ones((4, 2)), name="a", vectors=2), matrix_op(np.ones((4, 2)), name="b", vectors=20)]
    chip = target(*KEYS)
    cost = estimate(scheduled(matrix_program(ops, model=chain(["a", "b"])), chip), chip)
    assert cost.throughput_per_s == pytest.approx(1 / (20 * 8 * 10e-9))
