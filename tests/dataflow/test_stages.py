"""The stages of a network: ids and kinds, the tensors between them, where sums are formed, and all of it pickled."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import mcompiler
from mcompiler.dataflow import OUTPUT, Relation, StageGraph, StageKind, program_stages
from mcompiler.dataflow.grids import everything, same_place
from mcompiler.driver import Build
from mcompiler.ir import ANALOG_DOMAIN, AnalogProgram
from mcompiler.network import located, program_flows
from mcompiler.passes.place import Place
from mcompiler.passes.schedule import Schedule
from tests.support.builds import model
from tests.support.builds import node as onnx_node
from tests.support.programs import analog, matrix_op, matrix_program, node, placeholder, skeleton, target

KEYS = ("array.rows=4", "array.rows_active=4", "array.columns=16")
CHIP = target(*KEYS, "hierarchy.arrays_per_core=1", "hierarchy.cores_per_tile=1", "hierarchy.tiles_per_chip=64")
"""One array of 4 x 2 weights in a tile."""


def residual_chain(length: int, tokens: int = 3) -> AnalogProgram:
    """x = x + W x, again and again, on vectors of 2: every sum reads the one before it first."""
    shape = ir.Shape(["N", tokens, 2])
    x = ir.Value(name="x", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    nodes: list[ir.Node] = []
    ops = []
    value = x
    for index in range(length):
        nodes.append(placeholder(f"p{index}", value, index))
        nodes.append(node("Add", [value, nodes[-1].outputs[0]], f"add{index}"))
        for each in nodes[-2:]:
            each.outputs[0].shape, each.outputs[0].type = shape, x.type
        value = nodes[-1].outputs[0]
        ops.append(matrix_op(np.ones((2, 2), int), name=f"p{index}", vectors=tokens))
    graph = ir.Graph([x], [value], nodes=nodes, opset_imports={"": 20, ANALOG_DOMAIN: 1})
    work = {f"add{index}": 2 * tokens for index in range(length)}
    return analog(matrix_program(ops, model=ir.Model(graph, ir_version=10), digital=work), CHIP)


def graph_of(build: list[ir.Node], x: ir.Value, *ops: str) -> StageGraph:
    layers = [matrix_op(np.ones((4, 2), int), name=name, vectors=3) for name in ops]
    graph = ir.Graph([x], [build[-1].outputs[0]], nodes=build, opset_imports={"": 20, ANALOG_DOMAIN: 1})
    program = analog(matrix_program(layers, model=ir.Model(graph, ir_version=10)), CHIP)
    return program_stages(program.tiled, CHIP)


def test_stages_are_told_apart_by_id_and_kind_not_by_name() -> None:
    """A digital node that is called like the unit behind a layer, and two that have one name."""

    def build(source: ir.Value) -> list[ir.Node]:
        layer = placeholder("fc", source)
        one = node("Relu", [layer.outputs[0]], "fc/requantise")
        other = node("Exp", [one.outputs[0]], "fc/requantise")
        other.outputs[0].name = "another"
        return [layer, one, other]

    program = matrix_program([matrix_op(np.ones((4, 2), int), name="fc")], model=skeleton(build))
    program = replace(program, digital_ops={0: 0, 1: 2_000, 2: 3_000})
    found = Schedule().run(Place().run(analog(program, CHIP), CHIP), CHIP)
    assert [stage.id for stage in found.stages] == [0, 1, 2, 3, 4]
    assert [stage.kind for stage in found.stages] == ["input", "analog", "requantise", "digital", "digital"]
    assert [stage.name for stage in found.stages[2:]] == ["fc/requantise"] * 3
    assert [stage.operations for stage in found.stages] == [0, 0, 2, 2_000, 3_000]
    ends = [stage.end_s for stage in found.stages[1:]]
    assert ends == sorted(set(ends)), "each has its own times"
    assert found.layers[0].end_s == found.stages[1].end_s
    assert [(stream.producer, stream.consumer) for stream in found.streams] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_relations_are_equal_by_value() -> None:
    for needs in (same_place(5), everything(5, 3), everything(1, 1)):
        again = pickle.loads(pickle.dumps(needs))
        assert again == needs
        assert hash(again) == hash(needs)
    assert same_place(1) != everything(1, 1)
    assert same_place(4) != same_place(5)
    assert same_place(3).relation is Relation.SAME_PLACE


def test_a_program_means_the_same_after_pickling() -> None:
    program = residual_chain(20)
    graph = program_stages(program.tiled, CHIP)
    again = pickle.loads(pickle.dumps(graph))
    assert again == graph
    nodes = [np.array([index], dtype=np.int64) for index in range(20)]
    for other in (again, program_stages(pickle.loads(pickle.dumps(program)).tiled, CHIP)):
        flows, same = (program_flows(program, nodes, CHIP, each) for each in (graph, other))
        for name in ("source", "sink", "bytes", "layer", "sums"):
            np.testing.assert_array_equal(getattr(flows, name), getattr(same, name))
    placed = Place(effort=0).run(program, CHIP)
    found, travelled = (Schedule().run(each, CHIP) for each in (placed, pickle.loads(pickle.dumps(placed))))
    assert found.stages == travelled.stages
    assert found.streams == travelled.streams
    assert pickle.loads(pickle.dumps(found)).stages == found.stages
    assert located(pickle.loads(pickle.dumps(placed)), CHIP).traffic() == located(placed, CHIP).traffic()


@pytest.mark.parametrize("length", [4, 8, 16])
def test_a_running_sum_crosses_each_tile_border_once(length: int) -> None:
    """One array a tile, in a row of the mesh: 3 vectors of 2 bytes over every border, however long the chain is."""
    program = residual_chain(length)
    nodes = [np.array([index], dtype=np.int64) for index in range(length)]
    flows = program_flows(program, nodes, CHIP)
    between: dict[tuple[int, int], float] = {}
    for source, sink, size in zip(flows.source.tolist(), flows.sink.tolist(), flows.bytes.tolist(), strict=True):
        if size:
            between[source, sink] = between.get((source, sink), 0.0) + size
    assert between == {(index - 1, index): 6.0 for index in range(length)} | {(length - 1, -1): 6.0}


def test_a_sum_is_formed_where_its_last_input_is() -> None:
    """Whatever the order of its inputs; nodes that no layer feeds are at the first layer."""
    for turned in (False, True):
        x = ir.Value(name="x", shape=ir.Shape(["N", 3, 4]), type=ir.TensorType(ir.DataType.FLOAT))
        early = node("Exp", [x], "early")
        one, other = placeholder("one", early.outputs[0], 0), placeholder("other", early.outputs[0], 1)
        inputs = [one.outputs[0], other.outputs[0]]
        add = node("Add", inputs[::-1] if turned else inputs, "add")
        graph = graph_of([early, one, other, add], x, "one", "other")
        assert [(stage.name, stage.layer) for stage in graph.stages if stage.kind is StageKind.DIGITAL] == [
            ("early", 0),
            ("add", 1),
        ]


def test_every_tensor_has_the_bits_of_its_reader() -> None:
    """Inputs of a layer have its own bits, sums those of accumulators, all others those of the target."""

    def build(source: ir.Value) -> list[ir.Node]:
        layer = placeholder("a", source)
        return [layer, node("Mul", [layer.outputs[0], layer.outputs[0]], "square")]

    program = analog(
        matrix_program([matrix_op(np.ones((4, 2), int), name="a", input_bits=3)], model=skeleton(build)), CHIP
    )
    graph = program_stages(program.tiled, CHIP)
    found = [(reader, transfer.producer, transfer.bits) for reader, transfer in graph.transfers]
    assert found == [(1, 0, 3), (2, 1, CHIP.digital.accumulator_bits), (3, 2, 8), (OUTPUT, 3, 8)]


def test_outputs_of_a_node_have_their_own_sizes() -> None:
    """A Split into 3 and 1 elements, each read by a product: two tensors of one stage, each carried."""
    x = ir.Value(name="x", shape=ir.Shape(["N", 3, 4]), type=ir.TensorType(ir.DataType.FLOAT))
    split = ir.Node("", "Split", [x], [ir.AttrInt64("axis", -1)], name="split", num_outputs=2)
    for value, size in zip(split.outputs, (3, 1), strict=True):
        value.name, value.shape = f"part{size}", ir.Shape(["N", 3, size])
    one, other = placeholder("one", split.outputs[0], 0), placeholder("other", split.outputs[1], 1)
    add = node("Add", [one.outputs[0], other.outputs[0]], "add")
    graph = graph_of([split, one, other, add], x, "one", "other")
    sizes = {transfer.tensor: transfer.bytes for _, transfer in graph.transfers if transfer.producer == 1}
    assert sizes == {(1, 0): 3 * 3, (1, 1): 3 * 1}


# --- the same on compiled models -------------------------------------------------------------------------------------


def link_bytes(build: Build) -> float:
    return sum(count for _, event, count in build.cost.events if event == "link_byte")


def convolutions(count: int, length: int) -> ir.Model:
    """Conv (3 wide, 4 channels) and Relu again and again: every tensor is two shorter than the one before."""
    rng = np.random.default_rng(0)
    nodes, constants = [], {}
    for index in range(count):
        constants[f"w{index}"] = rng.standard_normal((4, 4, 3)).astype(np.float32)
        source = f"r{index - 1}" if index else "x"
        nodes.append(onnx_node("Conv", f"{source} w{index}", f"c{index}", f"conv{index}"))
        nodes.append(onnx_node("Relu", f"c{index}", f"r{index}", f"relu{index}"))
    x = np.zeros((1, 4, length), np.float32)
    return model(nodes, {"x": x}, constants, outputs=(f"r{count - 1}",), batch=None)


def test_no_cache_decides_what_flows() -> None:
    """Case chain70: identity of cached objects. Relations came from a cache of 64 entries, and ``is`` compared them:
    with more of them, two equal ones were taken for different ones, 4,011.52 bytes times links.
    """
    build = mcompiler.compile(
        convolutions(70, 200), "generic_128", calibration="random", replicate="throughput", arrays=280, effort=0
    )
    assert build.cost.crossbars == 280
    assert link_bytes(build) == pytest.approx(3481.6)


def test_a_shortcut_is_carried_once() -> None:
    """Case make_skip_chain: a shortcut carried many times. Tiles got the inputs of all sums before them, so that bytes
    times links grew faster than the length. Eight layers are in a tile; each border costs as much as without additions.
    """
    found = []
    for count in (16, 32):
        rng = np.random.default_rng(0)
        nodes, constants = [], {}
        for index in range(count):
            source = f"r{index - 1}" if index else "x"
            constants[f"w{index}"] = (rng.standard_normal((128, 128)) / 16).astype(np.float32)
            nodes.append(onnx_node("MatMul", f"{source} w{index}", f"m{index}", f"mm{index}"))
            nodes.append(onnx_node("Add", f"{source} m{index}", f"a{index}", f"add{index}"))
            nodes.append(onnx_node("Relu", f"a{index}", f"r{index}", f"relu{index}"))
        x = np.zeros((1, 128), np.float32)
        chain = model(nodes, {"x": x}, constants, outputs=(f"r{count - 1}",))
        build = mcompiler.compile(chain, "generic_128", calibration="random", effort=0)
        found.append(link_bytes(build))
    assert found == [256.0, 3 * 256.0]


@pytest.mark.parametrize("name", ["between", "fc/requantise", "fc/codes", "fc/accumulator", "fc2/codes", "input"])
def test_no_name_of_a_node_is_taken_for_a_stage(name: str, tmp_path: Path) -> None:
    """Case fc_requantise_x: state in names. A digital node that is called like a part of a layer was one with it."""
    x = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    constants = {"w": np.eye(16, 8, dtype=np.float32), "v": np.eye(8, dtype=np.float32)}
    nodes = [
        onnx_node("MatMul", "x w", "a", "fc"),
        onnx_node("Softmax", "a", "s", name, axis=-1),
        onnx_node("MatMul", "s v", "y", "fc2"),
    ]
    build = mcompiler.compile(model(nodes, {"x": x}, constants), "generic_128", calibration={"x": x})
    assert [(fate.name, fate.fate.value) for fate in build.fates] == [
        ("fc", "analog"),
        (name, "digital"),
        ("fc2", "analog"),
    ]
    stages = [(str(stage.kind), stage.name) for stage in build.schedule.stages]
    assert [kind for kind, _ in stages] == ["input", "analog", "requantise", "digital", "analog", "requantise"]
    assert [stage for stage in stages if stage[0] == "digital"] == [("digital", name)]
    loaded = mcompiler.load(build.save(tmp_path / "b"))
    assert loaded.verify(limit=4).exact
    assert loaded.schedule == build.schedule
    assert sorted(build.placement) == sorted(loaded.placement)
