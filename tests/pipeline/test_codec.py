"""Programs as JSON and arrays: read back equal at every level, written the same way for equal values."""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from mcompiler.data import InputSpec
from mcompiler.ir import Fate, Quantiser
from mcompiler.ir.packing import LARGE_CONSTANT, pack_model, unpack_model
from mcompiler.pipeline import default
from mcompiler.pipeline.codec import DecodeError, Decoder, Encoder, blob_name, digest_of
from mcompiler.target import list_targets
from tests.support.builds import conv_case, target
from tests.support.digits import DEMO
from tests.support.same import assert_same


class Blobs(dict[str, bytes]):
    """Blobs in memory."""

    def put(self, data: bytes) -> str:
        self[blob_name(data)] = data
        return blob_name(data)


def read_back(value: Any) -> Any:
    """Through JSON text and blobs, by an encoder and a decoder that know nothing of each other."""
    blobs = Blobs()
    text = json.dumps(Encoder(blobs.put).encode(value))
    return Decoder(blobs.__getitem__).decode(json.loads(text))


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, -0.0, 1e-310, float("inf"), "text", b"\x00\xff", (1, (2.5, "a")), [1, [2]], {"a": {"b": 1}},
        {1: "int", (2, 3): "tuple", Fate.ANALOG: "enum"}, frozenset(["a"]), Fate.DIGITAL, ir.DataType.FLOAT16,
        Quantiser("x", 0.1, 3, 8), np.float64(0.1), np.int16(-3), np.zeros((0, 4)), np.array(2.5),
        np.arange(6, dtype=np.int16).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1), np.array([(1, 2)], dtype=[("a", np.int8), ("b", np.int32)]),
        np.arange(20)[::3], np.dtype(np.float32),
    ],
    ids=repr,
)  # fmt: skip
def test_values_are_read_back_equal(value: Any) -> None:
    again = read_back(value)
    assert_same(value, again)
    assert digest_of(again) == digest_of(value)


def test_a_repeated_element_is_stored_once() -> None:
    blobs = Blobs()
    value = np.broadcast_to(np.float32(2), (1000, 1000))
    data = Encoder(blobs.put).encode(value)
    assert sum(map(len, blobs.values())) < 1000
    np.testing.assert_array_equal(Decoder(blobs.__getitem__).decode(data), value)


def test_arrays_are_read_only_and_stored_once() -> None:
    blobs, array = Blobs(), np.arange(5)
    encoder = Encoder(blobs.put)
    assert encoder.encode((array, array)) == encoder.encode((array, array))
    assert len(blobs) == 1
    with pytest.raises(ValueError, match="read-only"):
        read_back(array)[0] = 1


def test_keys_leave_out_what_takes_no_part_in_comparisons() -> None:
    @dataclasses.dataclass(frozen=True)
    class Local:
        counted: int
        origin: str = dataclasses.field(default="", compare=False)

    assert digest_of(Local(1, "a")) == digest_of(Local(1, "b")) != digest_of(Local(2, "a"))


def test_different_values_have_different_digests() -> None:
    values: list[Any] = [1, 1.0, True, "1", (1,), [1], np.int64(1), np.array(1), np.array([1]), {"1": 1}, {1: 1}]
    assert len({digest_of(value) for value in values}) == len(values)
    spec = InputSpec("x", np.dtype(np.float32), (1, "N"))
    assert digest_of(spec) != digest_of(dataclasses.replace(spec, dtype=np.dtype(np.float64)))


@pytest.mark.parametrize(
    "data",
    [
        {"a": 1, "b": 2},
        {"$what": 1},
        {"$enum": ["mcompiler.nowhere:Fate", "ANALOG"]},
        {"$data": ["pathlib:Path", {}]},
        {"$data": ["subprocess:Popen", {"args": "true"}]},
        {"$model": 3},
    ],
)
def test_json_of_another_kind_is_refused(data: Any) -> None:
    with pytest.raises(DecodeError):
        Decoder(dict[str, bytes]().__getitem__).decode(data)


def test_values_that_programs_do_not_hold_are_refused() -> None:
    with pytest.raises(TypeError, match="type object, which the cache cannot keep"):
        Encoder(blob_name).encode(object())


@pytest.mark.parametrize("base", [name for name, _ in list_targets()])
def test_programs_of_every_level_are_read_back_equal(base: str) -> None:
    case = conv_case([3, 3], signed=False)
    made = case.model.clone()
    weights = made.graph.initializers["w"]
    assert weights.const_value is not None
    weights.const_value = ir.tensor(np.abs(weights.const_value.numpy()), name="w")  # one sign fits every encoding
    options = {"reorder": True, "replicate": "throughput"}
    pipeline = default(made, target(base=base), calibration=case.feeds, options=options)
    program, levels = pipeline.source.program, set()
    for step in pipeline.passes:
        program = pipeline._runner()(step, program)
        if type(program) not in levels or step.name in ("quantise", "replicate"):
            assert_same(program, read_back(program), step.name)
        levels.add(type(program))
    assert len(levels) == 7


@pytest.mark.parametrize("name", ["digits.onnx", "digits_compressed.onnx"])
def test_models_are_packed_without_loss(name: str) -> None:
    model = default(DEMO / name, "generic_128", calibration="random").source.program.model
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    packed = pack_model(model)
    assert packed.tensors
    assert all(array.nbytes >= LARGE_CONSTANT for *_, array in packed.tensors)
    assert_same(model, unpack_model(packed))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before, "packing leaves the model as it was"


def test_half_precision_and_narrow_constants_are_kept() -> None:
    tensors = [
        ir.tensor(np.arange(4096, dtype=np.float32), dtype=ir.DataType.FLOAT, name="f"),
        ir.Tensor(np.arange(4096).astype(ir.DataType.BFLOAT16.numpy()), dtype=ir.DataType.BFLOAT16, name="b"),
        ir.Tensor(np.arange(9000).astype(ir.DataType.INT4.numpy()), dtype=ir.DataType.INT4, name="i"),
    ]
    values = [
        ir.Value(name=t.name, const_value=t, type=ir.TensorType(t.dtype), shape=ir.Shape(t.shape.numpy()))
        for t in tensors
    ]
    graph = ir.Graph([], values, nodes=[], initializers=values, opset_imports={"": 21})
    model = ir.Model(graph, ir_version=10)
    again = read_back(model)
    for tensor in tensors:
        found = again.graph.initializers[tensor.name].const_value
        assert found.dtype == tensor.dtype
        assert found.tobytes() == tensor.tobytes()


def test_enumerations_are_told_from_their_values() -> None:
    class Kind(Enum):
        ONE = "one"

    assert digest_of(Kind.ONE) != digest_of("one")
    assert isinstance(read_back(Fate.ANALOG), Fate)
