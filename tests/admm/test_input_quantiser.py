"""Codes and ranges of inputs, against numpy and against onnxruntime's QuantizeLinear."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcompiler.errors import CompileError
from tests.support.builds import model, node, run_plain

torch = pytest.importorskip("torch")

from mcompiler.admm.input_quantiser import InputFakeQuantiser  # noqa: E402

PROPERTY = settings(max_examples=60, deadline=None)

VALUES = st.one_of(
    st.floats(-1e4, 1e4, width=32),
    st.sampled_from([0.0, -0.0, 3e38, -3e38, 1e-40, float("inf"), -float("inf")]),
)
SCALES = st.one_of(st.sampled_from([0.5, 0.25, 1.0, 2.0**-7]), st.floats(2.0**-20, 2.0**10, width=32))


def fixed(scale: float, zero_point: int, bits: int = 8) -> InputFakeQuantiser:
    quantiser = InputFakeQuantiser(bits)
    quantiser.scale.fill_(scale)
    quantiser.zero_point.fill_(zero_point)
    quantiser.frozen = True
    return quantiser


def onnx_codes(x: npt.NDArray[np.float32], scale: float, zero_point: int) -> npt.NDArray[np.int64]:
    """Codes of onnxruntime, zero point subtracted."""
    constants: dict[str, Any] = {"s": np.array(scale, np.float32), "z": np.array(zero_point, np.uint8)}
    emitted = model([node("QuantizeLinear", "x s z")], {"x": x}, constants, kinds={"y": 2})
    return run_plain(emitted, {"x": x}, optimise=False)["y"].astype(np.int64) - zero_point  # type: ignore[no-any-return]


@settings(max_examples=80, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=40), SCALES, st.integers(0, 255))
@example([0.5, 1.5, 2.5, -0.5, -1.5, 254.5, 255.5], 1.0, 0)
@example([0.25, 0.75, 1.25, -0.25, -0.75, 100.25], 0.5, 17)
def test_codes_are_those_of_onnxruntime(values: list[float], scale: float, zero_point: int) -> None:
    x = np.array(values, np.float32)
    found = fixed(scale, zero_point).codes(torch.tensor(x))
    np.testing.assert_array_equal(found.numpy().astype(np.int64), onnx_codes(x, scale, zero_point))


def test_halves_on_every_code_round_as_in_onnxruntime() -> None:
    scale = 0.0371
    x = (np.arange(-300, 600, dtype=np.float32) + np.float32(0.5)) * np.float32(scale)
    x = np.concatenate([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf))])
    found = fixed(scale, 100).codes(torch.tensor(x))
    np.testing.assert_array_equal(found.numpy().astype(np.int64), onnx_codes(x, scale, 100))


@PROPERTY
@given(st.integers(0, 1 << 20), SCALES, st.integers(0, 15))
def test_forward_gives_codes_times_scale_but_for_ties(seed: int, scale: float, zero_point: int) -> None:
    quantiser = fixed(scale, zero_point, 4)
    x = torch.randn(50, generator=torch.Generator().manual_seed(seed)) * scale * 20
    x = x[((x / scale).frac().abs() - 0.5).abs() > 1e-3]
    assert torch.allclose(quantiser(x), quantiser.codes(x) * quantiser.scale, rtol=1e-6, atol=0)


def test_gradients_pass_within_the_range_only() -> None:
    x = torch.tensor([-0.6, 0.3, 5.0, 16.0], requires_grad=True)
    fixed(1.0, 0, 4)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 0]


def observed(values: Any, method: str, bits: int = 8) -> InputFakeQuantiser:
    quantiser = InputFakeQuantiser(bits)
    quantiser.observing = True
    for part in values if isinstance(values, list) else [values]:
        assert quantiser(part) is part
    quantiser.freeze("conv1", method)
    return quantiser


def mean_error(quantiser: InputFakeQuantiser, x: Any) -> float:
    return float(((quantiser.codes(x) * quantiser.scale - x).double() ** 2).mean())


@PROPERTY
@given(st.integers(0, 1 << 20), st.sampled_from([2, 4, 8]), st.sampled_from([-3.0, 0.0, 0.7]), st.booleans())
def test_ranges(seed: int, bits: int, shift: float, rectified: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(400, generator=generator) ** 3 + shift
    x = x.relu() if rectified else x
    full, least = observed(x, "minmax", bits), observed(x, "mse", bits)
    for quantiser in (full, least):
        assert 0 <= int(quantiser.zero_point) <= quantiser.largest
        assert float(quantiser(torch.zeros(1))) == 0  # zero has a code
        assert quantiser.frozen
        assert not quantiser.observing
    assert mean_error(least, x) <= mean_error(full, x) * (1 + 1e-6)
    step = float(full.scale)
    assert bool(
        ((full.codes(x) * step - x).abs() <= step * 1.001).all()
    )  # nothing clips but by the zero point's rounding
    if rectified:
        assert int(full.zero_point) == int(least.zero_point) == 0


def test_minmax_takes_in_every_batch_and_zero() -> None:
    quantiser = observed([torch.tensor([1.0, 2.0]), torch.tensor([[3.0], [5.1]]), torch.zeros(0, 3)], "minmax")
    assert float(quantiser.scale) == pytest.approx(5.1 / 255)
    assert int(quantiser.zero_point) == 0
    negative = observed(torch.tensor([-5.1, -2.0]), "minmax")
    assert int(negative.zero_point) == 255


@pytest.mark.parametrize("method", ["mse", "minmax"])
def test_an_input_of_zeros_has_a_range(method: str) -> None:
    quantiser = observed(torch.zeros(5), method)
    assert (float(quantiser.scale), int(quantiser.zero_point)) == (1, 0)
    assert quantiser(torch.tensor([0.0, 1.0])).tolist() == [0, 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_input_that_is_not_finite_is_an_error(value: float) -> None:
    message = (
        "node 'conv1': its input is not finite on the batches for input ranges; check the data and lower the "
        "learning rate"
    )
    with pytest.raises(CompileError) as caught:
        observed([torch.ones(3), torch.tensor([1.0, value]), torch.ones(3)], "mse")
    assert str(caught.value) == message


def test_a_layer_that_sees_nothing_is_an_error() -> None:
    with pytest.raises(
        CompileError, match="node 'conv1': got no input while input ranges were observed; is the layer used"
    ):
        InputFakeQuantiser(8).freeze("conv1")


def test_the_sample_of_a_large_input_sees_all_of_it() -> None:
    """A power of two of channels and pixels: a stride would see one pixel only."""
    x = torch.zeros(8, 64, 32, 32)
    x[:, :, 31, 31] = 1.0
    x[:, 63] = 2.0
    quantiser = InputFakeQuantiser(8)
    quantiser.observing = True
    quantiser(x)
    sample = quantiser.samples[0]
    assert len(sample) == 8192
    assert float((sample == 2).float().mean()) == pytest.approx(1 / 64, rel=0.1)
    assert float((sample == 1).float().mean()) == pytest.approx(1 / 1024, rel=0.5)
