"""Samples: what is wrong with a file is said, every sample is fed exactly once, random ones fit the inputs."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcompiler.data import (
    MAX_BATCH,
    InputSpec,
    Samples,
    batch_size,
    batches,
    from_arrays,
    load_samples,
    npz_bytes,
    random_samples,
    sample_shape,
)
from mcompiler.errors import DataError

Array = npt.NDArray[Any]


def spec(name: str, *shape: int | str | None, dtype: Any = np.float32, bound: int = 2) -> InputSpec:
    """An input of a model."""
    return InputSpec(name, np.dtype(dtype), shape, bound)


IMAGE = spec("image", "N", 1, 2, 2)
MASK = spec("mask", "N", 3, dtype=np.int64)


def ones(*shape: int, dtype: Any = np.float32) -> Array:
    """An array of ones."""
    return np.ones(shape, dtype)


# --- files and what is wrong with them -------------------------------------------------------------------------------


def test_samples_from_a_file(tmp_path: Path) -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 1, 2, 2)
    np.savez(tmp_path / "d.npz", image=image, mask=np.array([[1, 2, 3]] * 3), y=np.array([2, 0, 1], np.uint8))
    samples = load_samples(tmp_path / "d.npz", (IMAGE, MASK))
    assert samples.count == 3
    assert list(samples.inputs) == ["image", "mask"]
    assert np.array_equal(samples.inputs["image"], image)
    assert samples.labels is not None
    assert samples.labels.tolist() == [2, 0, 1]
    assert samples.labels.dtype == np.int64
    first = load_samples(tmp_path / "d.npz", (IMAGE, MASK), limit=2)
    assert first.count == len(first.inputs["image"]) == len(first.inputs["mask"]) == 2
    assert first.labels is not None
    assert first.labels.tolist() == [2, 0]
    assert load_samples(tmp_path / "d.npz", (IMAGE, MASK), limit=99).count == 3


def fault(specs: tuple[InputSpec, ...], given: Mapping[str, Any]) -> str:
    """What is wrong with arrays."""
    with pytest.raises(DataError) as caught:
        from_arrays(given, specs, "d.npz")
    return str(caught.value)


@pytest.mark.parametrize(
    ("specs", "given", "message"),
    [
        (
            (IMAGE, MASK),
            {"image": ones(2, 1, 2, 2), "masks": ones(2, 3)},
            "d.npz: no array for input(s) 'mask'; it holds 'image', 'masks': save one array per model input under its "
            "name",
        ),
        (
            (IMAGE, MASK),
            {},
            "d.npz: no array for input(s) 'image', 'mask'; it holds nothing: save one array per model input under its "
            "name",
        ),
        (
            (IMAGE, MASK),
            {"x": ones(2, 1, 2, 2), "mask": ones(2, 3, dtype=np.int64)},
            "d.npz: no array for input(s) 'image'; it holds 'mask', 'x': save one array per model input under its name",
        ),
        (
            (IMAGE,),
            {"image": ones(2, 1, 2, 2), "label": ones(2), "x": ones(2)},
            "d.npz: 'label', 'x' is no input of the model ('image')",
        ),
        (
            (IMAGE,),
            {"image": ones(2, 1, 2, 3)},
            "d.npz: input 'image' needs shape [n, 1, 2, 2], the file has [2, 1, 2, 3]",
        ),
        ((IMAGE,), {"x": ones(2, 2, 2)}, "d.npz: input 'image' needs shape [n, 1, 2, 2], the file has [2, 2, 2]"),
        ((spec("z"),), {"z": ones(2, 1)}, "d.npz: input 'z' needs shape [n], the file has [2, 1]"),
        (
            (spec("a", "N", "T", 4),),
            {"a": ones(2, 7, 5)},
            "d.npz: input 'a' needs shape [n, T, 4], the file has [2, 7, 5]",
        ),
        (
            (IMAGE,),
            {"image": ones(2, 1, 2, 2, dtype=np.float64)},
            "d.npz: input 'image' is float32, the file has float64, which it cannot hold safely; cast it yourself: "
            "array.astype('float32')",
        ),
        (
            (MASK,),
            {"mask": ones(2, 3)},
            "d.npz: input 'mask' is int64, the file has float32, which it cannot hold safely; cast it yourself: "
            "array.astype('int64')",
        ),
        ((IMAGE,), {"image": ones(0, 1, 2, 2)}, "d.npz: no samples in it"),
        ((), {}, "d.npz: no samples in it"),
        (
            (IMAGE, MASK),
            {"image": ones(2, 1, 2, 2), "mask": ones(3, 3, dtype=np.int64)},
            "d.npz: arrays differ in their number of samples: {'image': 2, 'mask': 3}",
        ),
        (
            (IMAGE,),
            {"x": ones(2, 1, 2, 2), "y": np.array([1])},
            "d.npz: arrays differ in their number of samples: {'image': 2, 'y': 1}",
        ),
        (
            (IMAGE,),
            {"x": ones(2, 1, 2, 2), "y": ones(2)},
            "d.npz: labels must be integers of shape [n], not float32 [2]",
        ),
        (
            (IMAGE,),
            {"x": ones(2, 1, 2, 2), "y": ones(2, 10, dtype=np.int64)},
            "d.npz: labels must be integers of shape [n], not int64 [2, 10]",
        ),
    ],
)
def test_faults(specs: tuple[InputSpec, ...], given: dict[str, Array], message: str) -> None:
    assert fault(specs, given) == message


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_samples(tmp_path / "d.npz", (IMAGE,))
    assert str(caught.value) == f"{tmp_path}/d.npz: no such file"
    with pytest.raises(DataError, match="no such file"):
        load_samples(tmp_path, (IMAGE,))


REMEDY = "save it with numpy.savez(path, x=..., y=...)"


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    good = tmp_path / "good.npz"
    np.savez(good, x=ones(4, 1, 2, 2))
    np.save(tmp_path / "one.npy", ones(2, 1, 2, 2))
    contents = {
        "text": b"x,y\n1,2\n",
        "nothing": b"",
        "a single array": (tmp_path / "one.npy").read_bytes(),
        "half a file": good.read_bytes()[:200],
        "a broken header": good.read_bytes().replace(b"NUMPY", b"NUMPI"),
    }
    for what, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            load_samples(path, (IMAGE,))
        assert str(caught.value).startswith(f"{path}: "), what
        assert str(caught.value).endswith(REMEDY), what
        if what == "a single array":
            assert str(caught.value) == f"{path}: not an .npz archive; {REMEDY}"
    objects: Array = np.array([{"a": 1}], dtype=object)
    np.savez(path, allow_pickle=True, x=objects)
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        load_samples(path, (IMAGE,))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.integers(0, 255))
def test_a_damaged_file_is_an_error_or_harmless(tmp_path: Path, where: int, byte: int) -> None:
    np.savez_compressed(tmp_path / "good.npz", x=numbered(40, 1, 2, 2))
    content = bytearray((tmp_path / "good.npz").read_bytes())
    content[where % len(content)] = byte
    (tmp_path / "d.npz").write_bytes(content)
    try:
        samples = load_samples(tmp_path / "d.npz", (IMAGE,))
    except DataError:
        return
    assert np.array_equal(samples.inputs["image"], numbered(40, 1, 2, 2))


# --- names -----------------------------------------------------------------------------------------------------------


def test_x_stands_for_the_only_input() -> None:
    samples = from_arrays({"x": ones(2, 1, 2, 2)}, (IMAGE,), "d.npz")
    assert list(samples.inputs) == ["image"]
    own = spec("x", "N", 3)
    assert list(from_arrays({"x": ones(2, 3)}, (own,), "d.npz").inputs) == ["x"]
    both = from_arrays({"x": ones(2, 3), "b": ones(2, 3) * 2}, (own, spec("b", "N", 3)), "d.npz")
    assert both.inputs["x"].max() == 1


def test_y_is_an_input_where_the_model_has_one() -> None:
    x, y = spec("x", "N", 3), spec("y", "N", 2)
    given = {"x": ones(4, 3), "y": ones(4, 2)}
    samples = from_arrays(given, (x, y), "d.npz")
    assert samples.inputs["y"].shape == (4, 2)
    assert samples.labels is None
    labelled = from_arrays({**given, "__labels__": np.arange(4)}, (x, y), "d.npz")
    assert labelled.labels is not None
    assert labelled.labels.tolist() == [0, 1, 2, 3]
    only = from_arrays({"y": ones(4, 2)}, (y,), "d.npz")
    assert only.inputs["y"].shape == (4, 2)


def test_safe_casts_are_silent() -> None:
    samples = from_arrays({"x": ones(2, 1, 2, 2, dtype=np.uint8)}, (IMAGE,), "d.npz")
    assert samples.inputs["image"].dtype == np.float32
    words = from_arrays({"x": np.array([["a"], ["bc"]])}, (spec("t", "N", 1, dtype=object),), "d.npz")
    assert words.inputs["t"].dtype == object
    assert words.inputs["t"].tolist() == [["a"], ["bc"]]


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("specs", "batch"),
    [
        ((spec("a", "N", 3), spec("b", "N")), 0),
        ((spec("a", "N", 3), spec("b", None)), 0),
        ((spec("a", 4, 3), spec("b", 4)), 4),
        ((spec("a", 1, 3),), 1),
        ((spec("a", 4, 3), spec("b", 5)), None),
        ((spec("a", "N", 3), spec("b", 5)), None),
        ((spec("a", "N", 3), spec("b")), None),
        ((spec("a", 0, 3),), None),
        ((), None),
    ],
)
def test_batch_size(specs: tuple[InputSpec, ...], batch: int | None) -> None:
    assert batch_size(specs) == batch


def numbered(count: int, *shape: int) -> Array:
    """Samples that hold their own number."""
    return np.broadcast_to(np.arange(count, dtype=np.float32).reshape(-1, *[1] * len(shape)), (count, *shape)).copy()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 150), st.one_of(st.just("N"), st.integers(1, 9)), st.sampled_from([1, 100, 70_000]))
def test_batches_hold_every_sample_once(count: int, head: int | str, size: int) -> None:
    count = min(count, 20) if size > 1000 else count
    specs = (spec("a", head, size), spec("b", head))
    samples = Samples({"a": numbered(count, size), "b": numbered(count)}, None, count)
    seen: list[float] = []
    for feeds, real in batches(specs, samples):
        assert set(feeds) == {"a", "b"}
        assert len(feeds["a"]) == len(feeds["b"])
        if isinstance(head, int):
            assert len(feeds["b"]) == head
            assert np.array_equal(feeds["b"][real:], np.repeat(feeds["b"][real - 1], head - real)), (
                "padded with the last"
            )
        else:
            assert len(feeds["b"]) == real <= MAX_BATCH
            assert real == 1 or real * size <= 1 << 18, "large samples come in small batches"
        assert np.array_equal(feeds["a"][:, 0], feeds["b"])
        seen += feeds["b"][:real].tolist()
    assert seen == list(range(count))


def test_a_fixed_batch_is_padded_and_cut() -> None:
    samples = Samples({"a": numbered(5, 1)}, None, 5)
    found = [(feeds["a"].ravel().tolist(), real) for feeds, real in batches((spec("a", 3, 1),), samples)]
    assert found == [([0, 1, 2], 3), ([3, 4, 4], 2)]


def test_inputs_without_a_shared_batch_come_one_by_one() -> None:
    specs = (spec("image", 1, 3), spec("threshold"), spec("state", 2, 1))
    given = {"image": ones(2, 1, 3), "threshold": np.array([0.5, 0.7], np.float32), "state": ones(2, 2, 1)}
    samples = from_arrays(given, specs, "d.npz")
    found = list(batches(specs, samples))
    assert [count for _, count in found] == [1, 1]
    for index, (feeds, _) in enumerate(found):
        assert [np.shape(feeds[name]) for name in ("image", "threshold", "state")] == [(1, 3), (), (2, 1)]
        assert feeds["threshold"] == given["threshold"][index]


def test_a_model_without_inputs_runs_once_for_each_sample() -> None:
    assert list(batches((), Samples({}, None, 3))) == [({}, 1)] * 3


# --- random samples --------------------------------------------------------------------------------------------------


def test_sample_shapes() -> None:
    assert sample_shape(spec("a", "N", "T", 3, None), True, {"T": 7, "N": 9}) == (7, 3, 1)
    assert sample_shape(spec("a", "T", 3), False, {}) == (1, 3)
    assert sample_shape(spec("a"), False, {}) == ()


def drawn(dtype: Any, bound: int = 2) -> Array:
    """1000 x 30 random values."""
    (array,) = random_samples((spec("a", "N", 30, dtype=dtype, bound=bound),), 1000, rng(), {}).inputs.values()
    assert array.shape == (1000, 30)
    assert array.dtype == np.dtype(dtype)
    return array


def rng(seed: int = 0) -> np.random.Generator:
    """A generator."""
    return np.random.default_rng(seed)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_random_floats_are_standard_normal(dtype: Any) -> None:
    array = drawn(dtype).astype(np.float64)
    assert abs(array.mean()) < 0.03
    assert array.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("dtype", "low", "high"), [(np.int8, -128, 127), (np.uint8, 0, 255)])
def test_random_bytes_have_the_full_range(dtype: Any, low: int, high: int) -> None:
    array = drawn(dtype)
    assert (array.min(), array.max()) == (low, high)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_random_integers_stay_within_what_they_index(dtype: Any) -> None:
    assert set(drawn(dtype, bound=5).ravel().tolist()) == set(range(5))
    assert set(drawn(dtype, bound=0).ravel().tolist()) == {0}, "an index into nothing but its start"


def test_random_bools_are_fair() -> None:
    assert drawn(np.bool_).mean() == pytest.approx(0.5, abs=0.02)


def test_random_strings_are_digits() -> None:
    assert set(drawn(object).ravel().tolist()) == {"0", "1", "2", "3"}


def test_random_samples_follow_the_seed_and_the_dimensions() -> None:
    specs = (spec("a", "N", "T"), spec("b", "N", 2, dtype=np.int8))
    one, same, other = (random_samples(specs, 4, rng(seed), {"T": 3}) for seed in (1, 1, 2))
    assert one.inputs["a"].shape == (4, 3)
    assert one.count == 4
    assert one.labels is None
    for name in ("a", "b"):
        assert np.array_equal(one.inputs[name], same.inputs[name])
        assert not np.array_equal(one.inputs[name], other.inputs[name])
    single = random_samples((spec("a", 2, 3), spec("s")), 5, rng(), {})
    assert [array.shape for array in single.inputs.values()] == [(5, 2, 3), (5,)]


@pytest.mark.parametrize("compression", [None, 1, 9])
def test_equal_arrays_give_equal_npz_files(monkeypatch: pytest.MonkeyPatch, compression: int | None) -> None:
    arrays = {"x": numbered(3, 4), "scalar": np.array(2.5), "turned": numbered(3, 4).T, "empty": np.zeros((0, 2))}
    first = npz_bytes(arrays, compression=compression)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert npz_bytes(arrays, compression=compression) == first, "no modification times"
    with np.load(io.BytesIO(first)) as found:
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array, strict=True)


def test_npz_files_hold_no_objects() -> None:
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        npz_bytes({"x": np.array([{}], dtype=object)})


def test_the_compression_of_an_npz_is_what_was_asked_for() -> None:
    arrays = {"x": np.arange(4000) % 97}
    assert len(npz_bytes(arrays, compression=9)) < len(npz_bytes(arrays, compression=1))
