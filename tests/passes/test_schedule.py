"""Schedule: stages of a network by hand, durations of reads, and events that a hand counts."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.cost import estimate
from mcompiler.dataflow import read_time
from mcompiler.geometry import array_shape
from mcompiler.ir import ANALOG_DOMAIN, AnalogLayer, ConvShape
from mcompiler.passes.place import Place
from mcompiler.passes.replicate import Goal, Replicate
from mcompiler.passes.schedule import Schedule
from mcompiler.target import Event
from tests.support.programs import (
    OFFSET,
    Case,
    analog,
    cases,
    matrix_op,
    matrix_program,
    node,
    placeholder,
    scheduled,
    skeleton,
    target,
    with_matrix,
    with_site,
)

ONES = [[1, 1, 1]] * 6

# Arrays of 4 rows and 2 weights (4 slices x a pair), 2 rows at once: 6 x 3 weights are cut into tiles of
# 4 x 2, 4 x 1, 2 x 2 and 2 x 1. A vector of 4-bit inputs takes 4 phases x 2 reads in the first two, 4 in the others.
KEYS = ("array.rows=4", "array.rows_active=2", "array.columns=16")

LINKS = (Event.LINK_BYTE, Event.CHIP_LINK_BYTE)

IN = 101e-9
"""Until the first input is there: 100 ns of generic_128's chip link, and a clock for its byte."""

# --- times -----------------------------------------------------------------------------------------------------------
# How tokens flow is tested in tests/dataflow; here: that the pass asks for the right network.


def test_times_by_hand() -> None:
    """Shapes are not known here, so a layer waits for all of the one before; a result takes a clock of 1 ns."""
    ops = [matrix_op(ONES, name="a", vectors=5, input_bits=4), matrix_op([[1]] * 3, name="b", input_bits=8)]
    program = scheduled(matrix_program(ops), target(*KEYS))
    assert program.cycle_s == 10e-9  # the pulse; 8 conversions take 8 ns
    first, second = program.layers
    assert first.busy_s == pytest.approx(5 * 8 * 10e-9)
    assert first.start_s == pytest.approx(IN)
    assert first.end_s == pytest.approx(IN + 400e-9)
    assert first.start.tolist() == [10, 10, 10, 10]
    assert second.start_s == pytest.approx(IN + 401e-9)
    assert second.start.tolist() == [50]
    assert second.busy_s == pytest.approx(1 * 8 * 2 * 10e-9)
    assert program.latency_s == pytest.approx(IN + 401e-9 + 161e-9)
    assert program.interval_s == pytest.approx(400e-9)
    assert program.bounds_s["array"] == pytest.approx(400e-9)
    assert program.bounds_s["converter"] == pytest.approx(320e-9)


def test_copies_halve_the_interval() -> None:
    op = matrix_op(ONES, name="a", vectors=5, input_bits=4)
    chip = target(*KEYS)
    one = analog(matrix_program([op]), chip)
    program = Schedule().run(Place().run(replace(one, replicas=(2,)), chip), chip)
    (layer,) = program.layers
    assert layer.busy_s == program.interval_s
    assert layer.busy_s == pytest.approx(3 * 8 * 10e-9)
    assert layer.start.tolist() == [10] * 8, "both copies begin at once"
    single = scheduled(matrix_program([op]), chip).layers[0].events
    assert all(layer.events[event] == count for event, count in single.items() if event not in LINKS)


def test_a_fill_comes_before_the_result_not_between_results() -> None:
    op = matrix_op(ONES, name="a", vectors=5, input_bits=4)
    program = scheduled(matrix_program([op]), target(*KEYS, "digital.fill_reads=6"))
    (layer,) = program.layers
    assert layer.end_s == pytest.approx(IN + (5 * 8 + 6) * 10e-9)
    assert program.interval_s == layer.busy_s == pytest.approx(5 * 8 * 10e-9)


def image(op: str, size: int, channels: int) -> ir.Value:
    value = ir.Value(name=op)
    value.shape, value.type = ir.Shape(["N", channels, size, size]), ir.TensorType(ir.DataType.FLOAT)
    return value


def test_a_convolution_starts_when_its_first_window_is_there() -> None:
    """Two 3x3 convolutions without padding, of 6x6: the second needs two rows of four and three places more."""
    x = image("x", 6, 2)
    nodes: list[ir.Node] = []
    for index, size in enumerate((4, 2)):
        nodes.append(placeholder(f"c{index}", nodes[-1].outputs[0] if nodes else x, index))
        nodes[-1].outputs[0].shape = ir.Shape(["N", 2, size, size])
    graph = ir.Graph([x], [nodes[-1].outputs[0]], nodes=nodes, opset_imports={"": 20, ANALOG_DOMAIN: 1})
    conv = ConvShape((3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 1)
    ops = [
        matrix_op([[1, 1]] * 18, name=f"c{index}", vectors=size * size, input_bits=4, shape=conv)
        for index, size in enumerate((4, 2))
    ]
    program = scheduled(matrix_program(ops, model=ir.Model(graph, ir_version=10)), target(*KEYS))
    first, second = program.layers
    each = 8 * 10e-9
    assert first.busy_s == pytest.approx(16 * each)
    assert second.start_s == pytest.approx(IN + 11 * each + 1e-9)
    assert program.latency_s == pytest.approx(IN + 16 * each + 1e-9 + each + 1e-9)
    kinds = {stage.id: (stage.kind, stage.layer) for stage in program.stages}
    between = next(
        s for s in program.streams if (kinds[s.producer], kinds[s.consumer]) == (("requantise", 0), ("analog", 1))
    )
    assert between.tokens == between.least_tokens == 2 * 4 + 3
    assert between.window_bytes == 11 * 2 / 2, "two channels of 4 bits"


def test_the_digital_units_of_all_tiles_share_the_work() -> None:
    # 8 arrays a tile. Arrays that wait for digital units lie in as many tiles as there are, up to one array in each.
    for count, chip_tiles, tiles in ((1, 1, 1), (4, 2, 2), (1, 16, 4)):
        keys = (
            "hierarchy.arrays_per_core=2", "hierarchy.cores_per_tile=4", f"hierarchy.tiles_per_chip={chip_tiles}"
        )  # fmt: skip

        def build(source: ir.Value) -> list[ir.Node]:
            layer = placeholder("layer", source)
            return [layer, node("Relu", [layer.outputs[0]], "relu")]

        wide = matrix_op([[1] * (4 * count)] * 8, name="layer")
        made = matrix_program([wide], model=skeleton(build), digital={"relu": 16_000_000})
        program = scheduled(made, target(*KEYS, *keys))
        assert len(program.placed.analog.tiled.tables[0]) == 4 * count
        (relu,) = (stage for stage in program.stages if stage.kind == "digital")
        assert relu.end_s - relu.start_s == pytest.approx(1e-3 / tiles)
        assert program.interval_s == pytest.approx(1e-3 / tiles, rel=1e-4)


def test_a_stage_of_one_token_has_the_units_of_all_copies() -> None:
    """A node without a rule works on everything at once: the copies of its layer do not leave its units idle."""

    def build(source: ir.Value) -> list[ir.Node]:
        layer = placeholder("layer", source)
        layer.outputs[0].shape = ir.Shape(["N", 8, 4])
        return [layer, node("Unheard", [layer.outputs[0]], "all")]

    keys = ("hierarchy.arrays_per_core=1", "hierarchy.cores_per_tile=1", "hierarchy.tiles_per_chip=16")
    chip = target(*KEYS, *keys)
    made = matrix_program([matrix_op([[1] * 4] * 4, name="layer", vectors=8)], model=skeleton(build),
                          digital={"all": 16_000_000})  # fmt: skip
    found = replace(analog(made, chip), replicas=(8,))
    program = Schedule().run(Place().run(found, chip), chip)
    arrays = 8 * len(program.placed.analog.tiled.tables[0])
    (stage,) = (stage for stage in program.stages if stage.kind == "digital")
    assert stage.tokens == stage.copies == 1
    assert stage.service_s == pytest.approx(1e-3 / arrays)


def test_a_subgraph_waits_for_what_it_captures() -> None:
    def build(source: ir.Value) -> list[ir.Node]:
        layer = placeholder("layer", source)
        relu = node("Relu", [layer.outputs[0]], "inside")
        then = ir.Graph([], [relu.outputs[0]], nodes=[relu], name="then")
        passed = ir.Graph([], [layer.outputs[0]], nodes=[], name="else")
        branches = [ir.AttrGraph("then_branch", then), ir.AttrGraph("else_branch", passed)]
        return [layer, node("If", [source], "choice", attributes=branches)]

    program = scheduled(matrix_program([matrix_op(ONES, name="layer")], model=skeleton(build)), target(*KEYS))
    (choice,) = (stage for stage in program.stages if stage.kind == "digital")
    assert choice.start_s >= program.layers[0].end_s > 0


def test_layers_without_arrays_take_no_time() -> None:
    program = scheduled(matrix_program([matrix_op([[0]], vectors=7)]), target(*KEYS))
    (layer,) = program.layers
    assert layer.busy_s == 0.0
    assert len(layer.start) == 0
    counts = {event: count for event, count in layer.events.items() if count}
    assert counts == {Event.BUFFER_WRITE_BYTE: 7.0, Event.DIGITAL_OP: 7.0}, "its bias is still written"
    assert program.interval_s == program.cycle_s
    nothing = scheduled(matrix_program([]), target(*KEYS))
    assert (nothing.layers, nothing.latency_s) == ((), 0.0)


@pytest.mark.parametrize(
    ("name", "keys", "seconds"),
    [
        ("generic_128", (), 64e-9),  # 64 differences
        ("generic_128", ("encoding.subtract=after_adc", "encoding.pedestal=digital_count"), 128e-9),
        ("generic_128", ("converters.adc.columns=16",), 10e-9),  # 8 differences each, and the pulse takes longer
        ("generic_128", ("converters.adc.columns=16", "device.read_pulse_s=1e-9"), 8e-9),
        ("generic_128", ("converters.adc.columns=100", "device.read_pulse_s=1e-9"), 32e-9),  # 2 ADCs
        ("isaac", (), 129 / 1.28e9),  # the unit column is the 129th
        ("isaac", ("converters.adc.columns=64", "device.read_pulse_s=1e-9"), 65 / 1.28e9),
        ("yuan2019", ("device.read_pulse_s=1e-9",), 64 / 1.28e9),  # both arrays of a pair, subtracted first
        ("yuan2019", ("device.read_pulse_s=1e-9", "converters.adc.columns=64"), 32 / 1.28e9),
        ("yuan2019", (), 100e-9),
    ],
)
def test_time_of_a_read(name: str, keys: tuple[str, ...], seconds: float) -> None:
    chip = target(*keys, name=name)
    assert read_time(array_shape(chip), chip) == pytest.approx(seconds)


# --- events ----------------------------------------------------------------------------------------------------------


def test_events_by_hand() -> None:
    program = scheduled(matrix_program([matrix_op(ONES, vectors=5, input_bits=4)]), target(*KEYS))
    assert {event: count for event, count in program.layers[0].events.items() if event not in LINKS} == {
        Event.ARRAY_READ: 5 * (8 + 8 + 4 + 4),
        Event.CELL_READ: 5 * 4 * (4 * 16 + 4 * 8 + 2 * 16 + 2 * 8),  # 16 bit lines of 2 weights, 8 of one
        Event.DAC_DRIVE: 5 * 4 * (4 + 4 + 2 + 2),
        Event.ADC_CONVERSION: 5 * (8 * 8 + 8 * 4 + 4 * 8 + 4 * 4),  # a difference for each slice
        Event.SAMPLE_HOLD: 5 * (8 * 16 + 8 * 8 + 4 * 16 + 4 * 8),
        Event.SHIFT_ADD: 5 * (144 + 6),  # every code, and the partial sums of 2 + 1 + 2 + 1 columns
        Event.BUFFER_READ_BYTE: 5 * 12 / 2,  # 4 bits for each of 4 + 4 + 2 + 2 word lines
        Event.BUFFER_WRITE_BYTE: 5 * 3,
        Event.DIGITAL_OP: 5 * 3,  # a pass of a lane for each result
    }


def test_events_of_separate_slices_with_unit_and_reference_column() -> None:
    # 4 arrays of 4 x 3 weights, and 4 of 2 x 3; each has 3 + 2 bit lines and converts them all
    extra = ("encoding.input_sum=unit_column", "encoding.pedestal=digitised_reference", "encoding.slices_in=separate")
    chip = target(*OFFSET, *extra, "array.rows=4", "array.rows_active=4", "array.columns=3")
    program = scheduled(matrix_program([matrix_op(ONES, vectors=2, input_bits=8)]), chip)
    events = program.layers[0].events
    assert events[Event.ARRAY_READ] == 2 * 8 * 8
    assert events[Event.CELL_READ] == 2 * 8 * 4 * (4 + 2) * 5
    assert events[Event.DAC_DRIVE] == 2 * 8 * 4 * (4 + 2)
    assert events[Event.ADC_CONVERSION] == events[Event.SAMPLE_HOLD] == 2 * 8 * 8 * 5
    assert events[Event.SHIFT_ADD] == 2 * (8 * 8 * 5 + 2 * 3)
    assert events[Event.BUFFER_READ_BYTE] == 2 * 6, "the arrays of a tile share its inputs"


@pytest.mark.parametrize(("subtract", "conversions"), [("before_adc", 16), ("after_adc", 32)])
def test_conversions_of_separate_pairs(subtract: str, conversions: int) -> None:
    keys = ("encoding.pairs_in=separate", f"encoding.subtract={subtract}", "encoding.pedestal=digital_count")
    program = scheduled(matrix_program([matrix_op([[1, 1]], input_bits=2)]), target(*keys))
    assert program.layers[0].events[Event.ADC_CONVERSION] == conversions  # 2 phases x 4 slices x 2 weights
    assert program.layers[0].events[Event.SAMPLE_HOLD] == 32
    assert program.layers[0].events[Event.ARRAY_READ] == 4


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 5))
def test_events_are_proportional_to_vectors(case: Case, vectors: int) -> None:
    op = with_matrix(case.op, codes=abs(case.op.matrix.codes))  # events know no signs, and compaction moves fragments
    one = scheduled(matrix_program([op]), case.chip).layers[0]
    many = scheduled(matrix_program([with_site(op, vectors=vectors)]), case.chip).layers[0]
    assert set(one.events) == set(Event)
    for event, count in one.events.items():
        if event not in LINKS:  # the input is what it is; tests/network counts bytes
            assert many.events[event] == pytest.approx(vectors * count)
    assert many.busy_s == pytest.approx(vectors * one.busy_s)


def test_what_is_spilled_travels_there_and_back() -> None:
    """Inputs of 3 bytes (6 codes of 4 bits) wait for a layer whose tile holds 2."""
    keys = ("hierarchy.arrays_per_core=1", "hierarchy.cores_per_tile=4", "hierarchy.tiles_per_chip=9")
    x = ir.Value(name="x", shape=ir.Shape(["N", 5, 6]), type=ir.TensorType(ir.DataType.FLOAT))
    layer = placeholder("layer", x)
    layer.outputs[0].shape = ir.Shape(["N", 5, 3])
    graph = ir.Graph([x], layer.outputs, nodes=[layer], opset_imports={"": 20, ANALOG_DOMAIN: 1})
    op = matrix_op(ONES, vectors=5, input_bits=4)
    roomy, tight = (
        scheduled(matrix_program([op], model=ir.Model(graph, ir_version=10)), target(*KEYS, *keys, *more))
        for more in ((), ("digital.buffer_bytes=2",))
    )
    assert not roomy.spilled_bytes
    assert tight.spilled_bytes[0] > 0
    before, after = (program.layers[0].events[Event.LINK_BYTE] for program in (roomy, tight))
    assert after > before


# --- several sites of a matrix, and steps ----------------------------------------------------------------------------


def test_sites_of_one_matrix_take_turns_on_its_arrays() -> None:
    """5 and 3 vectors of 80 ns in the same array: it is busy 640 ns an inference; each site has its own events."""
    one = matrix_op(ONES, name="one", vectors=5, input_bits=4)
    other = AnalogLayer(replace(one.site, name="other", label="other", vectors=3), one.matrix)
    program = scheduled(matrix_program([one, other]), target(*KEYS))
    assert len(program.placed.analog.tiled.tables) == 1
    first, second = program.layers
    assert [first.busy_s, second.busy_s] == pytest.approx([400e-9, 240e-9])
    assert program.interval_s == program.bounds_s["array"] == pytest.approx(640e-9)
    assert second.start_s >= first.start_s + first.busy_s
    assert first.events[Event.ARRAY_READ] * 3 == second.events[Event.ARRAY_READ] * 5
    apart = AnalogLayer(other.site, replace(one.matrix, label="another"))
    twice = scheduled(matrix_program([one, apart]), target(*KEYS))
    assert twice.interval_s == pytest.approx(400e-9)
    assert [estimate(each, target(*KEYS)).crossbars for each in (program, twice)] == [4, 8]


def test_copies_serve_all_sites_of_their_matrix() -> None:
    one = matrix_op(ONES, name="one", vectors=5, input_bits=4)
    other = AnalogLayer(replace(one.site, name="other", label="other", vectors=3), one.matrix)
    chip = target(*KEYS)
    found = Replicate(Goal.THROUGHPUT, arrays=8).run(analog(matrix_program([one, other]), chip), chip)
    assert found.copies == (2,)
    assert found.replication is not None
    assert found.replication.interval_s == pytest.approx((3 + 2) * 80e-9)
    program = Schedule().run(Place().run(found, chip), chip)
    assert program.interval_s == pytest.approx((3 + 2) * 80e-9)


def test_steps_wait_for_one_another() -> None:
    """8 vectors in 4 steps: 2 reads of 80 ns, then a clock of the digital unit, and only then the next step."""
    layer = matrix_op(ONES, name="a", vectors=8, input_bits=4)
    steps = AnalogLayer(replace(layer.site, steps=4), layer.matrix)
    program, plain = (scheduled(matrix_program([each]), target(*KEYS)) for each in (steps, layer))
    step = 2 * 80e-9 + 1e-9
    assert program.latency_s == pytest.approx(IN + 4 * step)
    assert program.interval_s == pytest.approx(4 * step)
    assert program.layers[0].busy_s == plain.layers[0].busy_s == pytest.approx(8 * 80e-9)
    assert plain.latency_s == pytest.approx(IN + 8 * 80e-9 + 1e-9)
    assert plain.interval_s == pytest.approx(8 * 80e-9)


def test_energy_and_time_count_the_same_digital_work() -> None:
    """A layer and a node at one slow unit: operations of events, of stages and of the interval are one number."""

    def build(source: ir.Value) -> list[ir.Node]:
        layer = placeholder("layer", source)
        return [layer, node("Relu", [layer.outputs[0]], "relu")]

    chip = target(*KEYS, "hierarchy.tiles_per_chip=1", "digital.operations_per_cycle=1", "digital.clock_hz=1e6")
    op = matrix_op(ONES, name="layer", vectors=5)
    program = scheduled(matrix_program([op], model=skeleton(build), digital={"relu": 15}), chip)
    cost = estimate(program, chip)
    counted = sum(count for _, event, count in cost.events if event == "digital_op")
    assert counted == sum(stage.operations for stage in program.stages) == 15 + 15
    assert program.bounds_s["digital"] == pytest.approx(counted * 1e-6)
