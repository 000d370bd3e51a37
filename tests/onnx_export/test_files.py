"""Models to files and back, and when two of them are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mcompiler.onnx_export import files, load_model_file, same_models, save_model
from tests.support.builds import conv_case, matmul_case, proto_of, run_plain, target

CASE = matmul_case([3, 40], [40, 30])
MAPPED = CASE.compile(target()).mapped


def changed(edit: Callable[[onnx.ModelProto], None]) -> ir.Model:
    proto = proto_of(MAPPED)
    before = proto.SerializeToString(deterministic=True)
    edit(proto)
    assert proto.SerializeToString(deterministic=True) != before
    return ir.from_proto(proto)


def large(proto: onnx.ModelProto) -> onnx.TensorProto:
    found: onnx.TensorProto = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    return found


def a_byte_of_a_weight(proto: onnx.ModelProto) -> None:
    tensor = large(proto)
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]


def the_shape_of_a_weight(proto: onnx.ModelProto) -> None:
    tensor = large(proto)
    tensor.dims[:] = [tensor.dims[1], tensor.dims[0]]


def the_type_of_a_weight(proto: onnx.ModelProto) -> None:
    large(proto).data_type = onnx.TensorProto.UINT8


def an_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].op_type = "Neg"


def a_constant_in_a_function(proto: onnx.ModelProto) -> None:
    constant = next(n for f in proto.functions for n in f.node if n.op_type == "Constant")
    tensor = constant.attribute[0].t
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]


def an_edge_in_a_function(proto: onnx.ModelProto) -> None:
    node = next(n for n in proto.functions[0].node if n.op_type == "Sub")
    node.input[0], node.input[1] = node.input[1], node.input[0]


def the_type_of_an_output(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def one_weight_more(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.float32), "more"))


EDITS = [
    a_byte_of_a_weight, the_shape_of_a_weight, the_type_of_a_weight, an_operator, a_constant_in_a_function,
    an_edge_in_a_function, the_type_of_an_output, one_weight_more,
]  # fmt: skip


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_any_change_makes_another_model(edit: Callable[[onnx.ModelProto], None]) -> None:
    other = changed(edit)
    assert not same_models(MAPPED, other)
    assert not same_models(other, MAPPED)


def test_a_model_is_itself() -> None:
    assert same_models(MAPPED, ir.from_proto(proto_of(MAPPED)))
    assert same_models(MAPPED, CASE.compile(target()).mapped)
    assert not same_models(MAPPED, CASE.compile(target("converters.adc.bits=4")).mapped)
    assert not same_models(MAPPED, conv_case([3]).compile(target()).mapped)


@pytest.mark.parametrize("limit", [1 << 30, 100])
def test_files_give_the_model_back(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "EXTERNAL_FROM", limit)
    names = save_model(MAPPED, tmp_path, "m.onnx")
    assert names == (["m.onnx"] if limit > 100 else ["m.onnx", "m.onnx.data"])
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    back = load_model_file(tmp_path / "m.onnx")
    assert same_models(MAPPED, back)
    wanted = run_plain(MAPPED, CASE.feeds)["y"]
    session = ort.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, CASE.feeds)[0], wanted)
    assert same_models(MAPPED, ir.from_proto(proto_of(MAPPED))), "saving leaves the model as it was"


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        save_model(MAPPED, tmp_path, name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_strings_are_compared_too() -> None:
    def with_strings(word: bytes) -> ir.Model:
        return changed(
            lambda proto: proto.graph.initializer.append(
                onnx.helper.make_tensor("words", onnx.TensorProto.STRING, [2], [b"one", word])  # type: ignore[list-item]
            )
        )

    assert same_models(with_strings(b"two"), with_strings(b"two"))
    assert not same_models(with_strings(b"two"), with_strings(b"three"))
