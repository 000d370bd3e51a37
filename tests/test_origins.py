"""Origins and labels: every node is identified by its place, whatever it is called."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from mcompiler.ir import BodyStep, Fate, GraphProgram, Origin, ReasonKind
from mcompiler.onnx_import import convert_opset
from mcompiler.passes.clean import Clean
from mcompiler.passes.fold_batchnorm import FoldBatchNorm
from mcompiler.passes.fold_constants import FoldConstants
from mcompiler.passes.inline import Inline
from mcompiler.passes.lower import final_fates
from mcompiler.passes.lower.names import name_layers
from mcompiler.provenance import origin, provenance
from tests.support.models import GENERIC, fate_of, imported, lowered, normalised, parsed, run

HEAD = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>'

CALLS = parsed(
    f"{HEAD} g (float[2, 4] x) => (float[2, 4] y) {{ [a] h = local.outer(x) \n [a] y = local.outer(h) }}"
    '<domain: "local", opset_import: ["" : 17, "local" : 1]> outer (x) => (y)'
    " { h = local.inner(x) \n [same] i = Relu(h) \n [same] y = Neg(i) }"
    '<domain: "local", opset_import: ["" : 17]> inner (x) => (y) { [same] y = Abs(x) }'
)
"""Two calls of one name, of a function that calls another; three nodes of one name."""


def origins(program: GraphProgram) -> list[str]:
    return [str(origin(node)) for node in program.model.graph]


def constant_if(nodes: Sequence[onnx.NodeProto], constants: dict[str, np.ndarray], beside: str) -> onnx.ModelProto:
    """If(true) with ``nodes`` in its branch (h -> b), then a product called ``beside`` with constant weights."""
    value = helper.make_tensor_value_info
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["c"])], "else", [], [value("c", TensorProto.FLOAT, None)]
    )
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    branch = helper.make_graph(list(nodes), "then", [], [value("b", TensorProto.FLOAT, None)], tensors)
    body = [
        helper.make_node("If", ["c"], ["h"], name="block", then_branch=branch, else_branch=other),
        helper.make_node("MatMul", ["h", "w"], ["y"], name=beside),
    ]
    weights = [
        numpy_helper.from_array(np.ones((4, 3), np.float32), "w"),
        numpy_helper.from_array(np.array(True), "c"),
    ]
    graph = helper.make_graph(
        body, "g", [value("x", TensorProto.FLOAT, [2, 4])], [value("y", TensorProto.FLOAT, [2, 3])], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# --- origins ---------------------------------------------------------------------------------------------------------


def test_origins_at_import_are_positions() -> None:
    program = imported(CALLS)
    assert [str(node.origin) for node in program.nodes] == ["0", "1"]
    assert origins(program) == ["0", "1"]


def test_nodes_of_inlined_functions_have_the_path_of_calls() -> None:
    program = Inline().run(imported(CALLS), GENERIC)
    assert origins(program) == [
        f"{call}/local::outer/{place}" for call in (0, 1) for place in ("0/local::inner/0", "1", "2")
    ]
    names = [node.name for node in program.model.graph]
    assert len(set(names)) == len(names)
    assert {str(place): fate.reason.kind for place, fate in program.fates.items()} == {
        "0": ReasonKind.INLINED_CALL,
        "1": ReasonKind.INLINED_CALL,
        "0/local::outer/0": ReasonKind.INLINED_CALL,
        "1/local::outer/0": ReasonKind.INLINED_CALL,
    }


def test_a_call_in_a_branch_is_inlined_in_its_place() -> None:
    model = constant_if([helper.make_node("outer", ["x"], ["b"], domain="local")], {}, "last")
    model.functions.extend(CALLS.functions)
    model.opset_import.append(helper.make_opsetid("local", 1))
    program = normalised(imported(model))
    assert origins(program)[0] == "0/then_branch/0/local::outer/0/local::inner/0"
    fate = {str(place): fate.reason.kind for place, fate in program.fates.items()}
    assert fate["0"] is ReasonKind.INLINED_BRANCH
    assert fate["0/then_branch/0"] is ReasonKind.INLINED_CALL


def test_below_is_a_matter_of_paths() -> None:
    call = Origin((), 1)
    inner = Origin((BodyStep(1, "f"),), 0)
    deep = Origin((BodyStep(1, "f"), BodyStep(0, "then_branch")), 3)
    assert inner.is_below(call)
    assert deep.is_below(call)
    assert deep.is_below(inner)
    assert not deep.is_below(Origin((BodyStep(1, "f"),), 1))
    assert not call.is_below(call)
    assert not Origin((BodyStep(10, "f"),), 0).is_below(call)


def test_origins_are_values() -> None:
    place = Origin((BodyStep(1, "f"),), 2)
    assert pickle.loads(pickle.dumps(place)) == place
    assert len({place, Origin((BodyStep(1, "f"),), 2)}) == 1


def test_every_node_that_a_pass_makes_says_what_it_was_made_from() -> None:
    fused = parsed(
        '<ir_version: 8, opset_import: ["" : 11, "com.microsoft" : 1]>'
        " g (float[1, 2, 5, 5] x, float[1, 3, 3, 3] z) => (float[1, 3, 3, 3] y)"
        " <float[3, 2, 3, 3] w = {" + ", ".join(["0.5"] * 54) + "}>"
        '{ [f] h = com.microsoft.FusedConv <activation = "LeakyRelu", kernel_shape = [3, 3]> (x, w, , z)'
        " \n [s] y = Softmax <axis = 1> (h) }"
    )
    for model in (CALLS, fused):
        program = lowered(model)
        for graph in (program.graph.model.graph, program.skeleton.graph):
            assert all(provenance(node).origins for node in graph), [node.name for node in graph]


def test_a_folded_normalisation_leaves_its_origin_on_the_product() -> None:
    model = parsed(
        f"{HEAD} g (float[2, 2] x) => (float[2, 2] y)"
        " <float[2, 2] w = {1, 2, 3, 4}, float[2] s = {1, 2}, float[2] b = {0, 0}, float[2] v = {1, 1}>"
        "{ [n] h = MatMul(x, w) \n [n] y = BatchNormalization(h, s, b, b, v) }"
    )
    program = FoldBatchNorm().run(imported(model), GENERIC)
    product = program.model.graph[0]
    assert provenance(product).origins == (Origin((), 0), Origin((), 1))
    (fate,) = program.fates.values()
    assert fate.reason.into is not None
    assert (fate.node.origin, fate.reason.into.origin) == (Origin((), 1), Origin((), 0))


def test_the_version_converter_keeps_origins() -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 9]> g (float[2, 3, 4, 4] x) => (float[2, 3, 8, 8] y)'
        " <float[4] s = {1, 1, 2, 2}>"
        "{ [n] h = Softmax(x) \n [n] i = Relu(h) \n y = Upsample(i, s) }"
    )
    program = imported(model)
    converted = convert_opset(program.model, 13)
    assert converted is not None
    main = {str(origin(node)): node.op_type for node in converted.graph if origin(node) is not None}
    assert main == {"0": "Softmax", "1": "Relu", "2": "Resize"}
    assert all(provenance(node).origins for node in converted.graph)


# --- fates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", ["block/fc", "block", "block/", "other"])
def test_a_branch_is_as_analog_as_its_own_nodes(beside: str) -> None:
    relu = helper.make_node("Relu", ["x"], ["b"], name="fc")
    program = lowered(constant_if([relu], {}, beside))
    fate = final_fates(program)[0]
    assert (fate.fate, fate.reason.kind, fate.reason.number) == (Fate.DIGITAL, ReasonKind.INLINED_BRANCH, None)
    product = helper.make_node("MatMul", ["x", "u"], ["b"], name="fc")
    program = lowered(constant_if([product], {"u": np.eye(4, dtype=np.float32)}, beside))
    fate = final_fates(program)[0]
    assert (fate.fate, fate.reason.kind, fate.reason.number) == (Fate.ANALOG, ReasonKind.INLINED_BRANCH, 1)
    assert len(program.matrices) == 2


def test_a_normalisation_folded_into_a_digital_node_is_digital() -> None:
    weights = ", ".join(["1"] * 18)
    model = parsed(
        f"{HEAD} g (float[1, 1, H, W] x) => (float[1, 2, I, J] y)"
        f" <float[2, 1, 3, 3] w = {{{weights}}}, float[2] s = {{1, 2}}, float[2] v = {{1, 1}}>"
        '{ [c] h = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)'
        " \n [n] y = BatchNormalization(h, s, s, s, v) }"
    )
    program = lowered(model)
    assert fate_of(program, "c")[0] == "digital"
    assert fate_of(program, "n") == ("digital", "folded into c")


def test_nodes_without_names_have_fates_of_their_own() -> None:
    model = parsed(
        f"{HEAD} g (float[2, 2] x) => (float[2, 2] y) <float[2, 2] w = {{1, 2, 3, 4}}>"
        "{ h = MatMul(x, w) \n i = Relu(h) \n j = Identity(i) \n k = MatMul(j, w) \n y = Relu(k) }"
    )
    program = lowered(model)
    assert [(fate.name, str(fate.fate)) for fate in final_fates(program)] == [
        ("MatMul_0", "analog"),
        ("Relu_1", "digital"),
        ("Identity_2", "digital"),
        ("MatMul_3", "analog"),
        ("Relu_4", "digital"),
    ]


def test_a_node_of_the_main_graph_keeps_its_name_as_layer() -> None:
    """Case of names: a branch once took the name "out" from the main graph, whose layer was then called "out_3"."""
    one, other = (
        helper.make_graph([helper.make_node("MatMul", ["x", "w"], [f"b{index}"], name="out")], "branch", [], [value])
        for index, value in enumerate(helper.make_tensor_value_info(f"b{i}", TensorProto.FLOAT, [2, 2]) for i in (0, 1))
    )
    nodes = [
        helper.make_node("If", ["c"], ["h"], name="choice", then_branch=one, else_branch=other),
        helper.make_node("MatMul", ["h", "w"], ["y"], name="out"),
    ]
    inputs = [
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2]),
    ]
    weights = numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2])], [weights]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    program = imported(model)
    found = name_layers(program, [node for node in program.model.graph.all_nodes() if node.op_type == "MatMul"])
    names = {layer.name: layer.label for layer in found}
    assert names.pop("out") == "out"
    assert len(names) == 2
    assert len(set(names.values()) | {"out", "choice"}) == 4


def test_a_call_and_a_node_that_is_named_like_a_node_of_it() -> None:
    """Case of names: "c/mm" is a node of the main graph, and what the product in call "c" is called once inlined."""
    model = parsed(
        f"{HEAD} g (float[2, 2] x) => (float[2, 2] y) <float[2, 2] u = {{1, 2, 3, 4}}>"
        " { [c] h = local.layer(x) \n [d] y = MatMul(h, u) }"
        '<domain: "local", opset_import: ["" : 17]> layer (x) => (y)'
        " { w = Constant <value = float[2, 2] {1, 2, 3, 4}> () \n [mm] y = MatMul(x, w) }"
    )
    model.graph.node[1].name = "c/mm"  # a slash, which the parser does not read
    program = lowered(model)
    assert [fate.name for fate in final_fates(program)] == ["c", "c/mm"]
    own = [matrix for matrix in program.matrices if matrix.origin == Origin((), 1)]
    assert [(matrix.name, matrix.label) for matrix in own] == [("c/mm", "c/mm")]
    assert len({matrix.name for matrix in program.matrices}) == len({matrix.label for matrix in program.matrices}) == 2


def test_helpers_decide_no_fate() -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 9]> g (float[2, 3, 4, 4] x) => (float[2, 3, 8, 8] y)'
        " <float[4] s = {1, 1, 2, 2}> { [up] y = Upsample(x, s) }"
    )
    program = imported(model)
    converted = convert_opset(program.model, 13)
    assert converted is not None
    program = GraphProgram(converted, program.nodes)
    program = Clean().run(FoldConstants().run(program, GENERIC), GENERIC)
    assert not program.fates


# --- labels ----------------------------------------------------------------------------------------------------------


def scoped(scopes: Sequence[str | None], key: str = "pkg.torch.onnx.name_scopes") -> onnx.ModelProto:
    """A chain of Relu nodes with this text as metadata."""
    nodes = []
    for index, text in enumerate(scopes):
        output = "y" if index == len(scopes) - 1 else f"v{index + 1}"
        node = helper.make_node("Relu", [f"v{index}" if index else "x"], [output], name=f"node_relu_{index}")
        if text is not None:
            entry = node.metadata_props.add()
            entry.key, entry.value = key, text
        nodes.append(node)
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def test_labels_are_module_paths_where_the_file_has_them() -> None:
    model = scoped(["['', 'layer1', 'layer1.0', 'layer1.0.act', 'relu_3']", "['', 'relu']", None, "not a list"])
    model.graph.node[3].metadata_props[0].value = "['', '_empty_nn_module_stack_from_metadata_hook', 'sym_size']"
    assert imported(model).nodes[3].label == "node_relu_3"
    assert [node.label for node in imported(model).nodes] == [
        "layer1.0.act",
        "node_relu_1",  # in forward of the model itself
        "node_relu_2",
        "node_relu_3",
    ]


def test_labels_from_the_namespace() -> None:
    model = scoped([": rn.RN/layer1: torch.nn.Sequential/layer1.0: rn.Blk/relu: aten.relu.default"], "namespace")
    assert imported(model).nodes[0].label == "layer1.0"


def test_labels_are_unique() -> None:
    model = scoped(["['', 'act', 'relu']", "['', 'act', 'relu_1']", "['', 'node_relu_3', 'relu_2']", None])
    assert [node.label for node in imported(model).nodes] == [
        "act/Relu",
        "act/Relu_2",
        "node_relu_3/Relu",
        "node_relu_3/Relu_2",
    ]


def test_the_node_with_the_weights_has_the_path_of_its_module() -> None:
    graph = (
        "g (float[2, 2] x) => (float[2, 2] y) <float[2, 2] w = {1, 2, 3, 4}, float[2] b = {1, 2}>"
        " { [m] h = MatMul(x, w) \n [a] y = Add(h, b) }"
    )
    model = parsed(f"{HEAD} {graph}")
    for node in model.graph.node:
        entry = node.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.name_scopes", "['', 'net.0', 'linear']"
    assert [node.label for node in imported(model).nodes] == ["net.0", "net.0/Add"]


def test_labels_of_inlined_nodes_start_with_the_label_of_the_call() -> None:
    program = Inline().run(imported(CALLS), GENERIC)
    labels = [provenance(node).label for node in program.model.graph]
    assert labels[:3] == ["a/inner_0/same", "a/same", "a/Neg_2"]
    assert len(set(labels)) == len(labels)


def test_layers_carry_label_and_origin() -> None:
    model = parsed(
        f"{HEAD} g (float[2, 2] x) => (float[2, 2] y) <float[2, 2] w = {{1, 2, 3, 4}}> {{ [n] y = MatMul(x, w) }}"
    )
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", "['', 'head', 'linear']"
    (matrix,) = lowered(model).matrices
    assert (matrix.name, matrix.label, matrix.origin) == ("n", "head", Origin((), 0))


# --- shared weights --------------------------------------------------------------------------------------------------


TIED = (
    "g (float[2, 3] x) => (float[2, 3] y) <float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9},"
    " float[3, 3] v = {1, 2, 3, 4, 5, 6, 7, 8, 9}> "
)


@pytest.mark.parametrize(
    ("body", "shared"),
    [
        ("{ h = MatMul(x, w) \n y = MatMul(h, w) }", True),
        ("{ h = MatMul(x, w) \n y = MatMul(h, v) }", False),  # equal numbers are not the same constant
        ("{ h = MatMul(x, w) \n t = Transpose(w) \n y = MatMul(h, t) }", False),  # used in another way
        ("{ s = Transpose(w) \n h = MatMul(x, s) \n t = Transpose(w) \n y = MatMul(h, t) }", True),
        ("{ s = Transpose(w) \n h = MatMul(x, s) \n y = Gemm <transB = 1> (h, w) }", True),
        ("{ h = MatMul(x, w) \n y = Gemm <alpha = 2.0> (h, w) }", False),
    ],
)
def test_layers_share_a_source_where_they_use_one_constant_alike(body: str, shared: bool) -> None:
    first, second = lowered(parsed(f"{HEAD} {TIED}{body}")).matrices
    assert (first.source == second.source) == shared
    assert len({first.source, second.source}) == (1 if shared else 2)


def test_a_constant_of_a_function_is_one_however_often_it_is_called() -> None:
    model = parsed(
        f"{HEAD} g (float[2, 2] x) => (float[2, 2] y) {{ h = local.layer(x) \n y = local.layer(h) }}"
        '<domain: "local", opset_import: ["" : 17]> layer (x) => (y)'
        " { w = Constant <value = float[2, 2] {1, 2, 3, 4}> () \n y = MatMul(x, w) }"
    )
    first, second = lowered(model).matrices
    assert first.source == second.source
    assert first.origin != second.origin


def test_quantised_weights_share_a_source_only_with_the_same_scale() -> None:
    body = "{{ u = DequantizeLinear(c, s) \n h = MatMul(x, u) \n t = DequantizeLinear(c, {}) \n y = MatMul(h, t) }}"
    head = "g (float[2, 2] x) => (float[2, 2] y) <int8[2, 2] c = {1, 2, 3, 4}, float s = {0.5}, float r = {0.25}> "
    for scale, shared in (("s", True), ("r", False)):
        first, second = lowered(parsed(f"{HEAD} {head}{body.format(scale)}")).matrices
        assert (first.source == second.source) == shared


def test_results_stay_where_names_repeat() -> None:
    x = {"x": np.array([[1, -2, 3, -4], [0, 1, -1, 2]], np.float32)}
    program = normalised(imported(CALLS))
    (found,) = run(ir.to_proto(program.model), x)
    np.testing.assert_array_equal(found, -np.abs(x["x"]))


def test_the_version_converter_keeps_roots_and_outputs_that_are_left_out() -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 11]> g (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y)'
        " <float[1, 1, 1, 1] w = {2}>"
        "{ [p] a, i = MaxPool <kernel_shape = [1, 1]> (x) \n [d] b, m = Dropout(a) \n [c] y = Conv(b, w) }"
    )
    model.graph.node[0].output[1] = model.graph.node[1].output[1] = ""
    program = imported(model)
    wanted = program.model.graph.initializers["w"].meta
    converted = convert_opset(program.model, 13)
    assert converted is not None
    assert [str(origin(node)) for node in converted.graph if origin(node) is not None] == ["0", "1", "2"]
    assert dict(converted.graph.initializers["w"].meta) == dict(wanted) != {}
