"""Trained models as ONNX: what PyTorch counts, the compiler and onnxruntime count as well, to the last bit."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.errors import CompileError, ModelError
from mcompiler.geometry import array_shape
from mcompiler.onnx_export import load_model_file
from mcompiler.target import Target, load_target
from tests.support.builds import run_plain

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mcompiler.admm.compressor import Compressor  # noqa: E402
from mcompiler.admm.export import (  # noqa: E402
    ExactLayer,
    build_deployed,
    fold_batchnorm,
    get_mapped_weight,
    get_original_weight,
    to_onnx,
    write_onnx,
)
from mcompiler.admm.lowering import as_matrix  # noqa: E402
from mcompiler.admm.quantise import LevelSet  # noqa: E402
from mcompiler.admm.spec import (  # noqa: E402
    Quantisation,
    Spec,
    Structure,
)
from tests.support.trained import NETS, SMALL, TARGET, Trained, draw, plain_net  # noqa: E402


def codes(trained: Trained, name: str) -> Any:
    """Trained codes [G, K, N], a negative normalisation's sign folded in."""
    layer = trained.layers[name]
    follower = dict(trained.pairs).get(name)
    folded = fold_batchnorm(layer.module, trained.model.get_submodule(follower) if follower else None)
    assert folded.codes is not None
    return as_matrix(folded.codes, layer.groups).numpy()


@pytest.fixture(scope="module", params=NETS)
def trained(request: pytest.FixtureRequest) -> Trained:
    torch.manual_seed(0)
    model, x, pairs = NETS[request.param]()
    return Trained(model, x, pairs=pairs)


def test_the_mapped_model_gives_the_twin_s_outputs_to_the_last_bit(trained: Trained) -> None:
    build, x = trained.build(), draw(*[16, *trained.x.shape[1:]], seed=5) * 1.5
    found = build.verify(x.numpy())
    assert found.exact
    with torch.no_grad():
        twin = trained.twin()(x).numpy()
    np.testing.assert_array_equal(run_plain(build.mapped, {"x": x.numpy()})["y"], twin)
    np.testing.assert_array_equal(run_plain(build.reference, {"x": x.numpy()})["y"], twin)


def test_the_exported_model_computes_nearly_the_same_in_float(trained: Trained) -> None:
    x = draw(*[16, *trained.x.shape[1:]], seed=6)
    emitted = trained.onnx()
    with torch.no_grad():
        twin = trained.twin()(x).numpy()
        float_twin = build_deployed(trained.model, trained.layers, trained.pairs, exact=False)(x).numpy()
    found = run_plain(emitted, {"x": x.numpy()}, optimise=False)["y"]
    size = np.abs(twin).max()
    assert np.abs(found - twin).max() < 0.02 * size  # a code may flip where sums are rounded in another order
    assert np.abs(np.median(np.abs(found - twin))) < 1e-5 * size
    assert np.median(np.abs(float_twin - twin)) < 0.02 * size  # without codes of inputs


def test_codes_names_and_arrays_survive_compilation(trained: Trained) -> None:
    build = trained.build()
    assert set(build.layers) == set(trained.layers)
    per_tile = array_shape(trained.target).arrays_per_tile
    for layer in build.layer_data:
        name = layer.op.site.name
        wanted = codes(trained, name)
        np.testing.assert_array_equal(layer.op.matrix.codes, wanted, err_msg=name)
        if not (wanted == 0).all(axis=(0, 1)).any():
            assert build.cost.layers[name].crossbars == trained.compressor.tiles()[name] * per_tile
        folded = fold_batchnorm(
            trained.layers[name].module,
            trained.model.get_submodule(dict(trained.pairs)[name]) if name in dict(trained.pairs) else None,
        )
        np.testing.assert_array_equal(layer.op.matrix.scale.ravel(), folded.scale.numpy())


def test_export_leaves_the_model_as_it_was(trained: Trained) -> None:
    before = {key: value.clone() for key, value in trained.model.state_dict().items()}
    with torch.no_grad():
        y = trained.model(trained.x)
        trained.onnx(), trained.twin()
        assert torch.equal(trained.model(trained.x), y)
    assert all(torch.equal(value, before[key]) for key, value in trained.model.state_dict().items())


# --- targets, level sets, structures ---------------------------------------------------------------------------------

LAYERS = {"0": Structure(filters=4, shapes=10), "4": Structure(shapes=9, blocks=2)}
CHIPS: dict[str, tuple[Target, dict[str, Structure], LevelSet]] = {
    "pair": (TARGET, LAYERS, LevelSet.GRID),
    "columns": (TARGET, {"0": Structure(column_nonzeros=2), "4": Structure(column_nonzeros=3)}, LevelSet.GRID),
    "nine bits": (load_target("generic_128", [*SMALL, "precision.weights=9"]), LAYERS, LevelSet.GRID),
    "four bits": (load_target("generic_128", [*SMALL, "precision.weights=4"]), LAYERS, LevelSet.GRID),
    "two bits": (load_target("generic_128", [*SMALL, "precision.weights=2"]), LAYERS, LevelSet.GRID),
    "offset": (
        load_target("generic_128", [*SMALL, "encoding.weights=offset", "encoding.pedestal=digital_count"]),
        {"0": Structure(filters=4, shapes=10)},
        LevelSet.GRID,
    ),
    "polarised": (
        load_target(
            "generic_128",
            [*SMALL, "array.rows_active=4", "encoding.weights=polarised", "encoding.pedestal=digital_count"],
        ),
        {"0": Structure(one_sign=True, shapes=12), "4": Structure(one_sign=True, column_nonzeros=3)},
        LevelSet.GRID,
    ),
    "measured": (
        load_target("generic_128", [*SMALL, "device.level_means=[0, 1300, 2800, 4096]", "encoding.slices=1"]),
        LAYERS,
        LevelSet.MEASURED,
    ),
    "without zero": (
        load_target("generic_128", [*SMALL, "encoding.partner=unformed", "encoding.slices=1"]),
        LAYERS,
        LevelSet.WITHOUT_ZERO,
    ),
}


def compressed(chip: str) -> Trained:
    torch.manual_seed(0)
    target, layers, levels = CHIPS[chip]
    model, x, _ = plain_net()
    return Trained(model, x, target=target, spec=Spec(layers=layers, quantisation=Quantisation(levels=levels)))


@pytest.mark.parametrize("chip", CHIPS)
def test_structured_layers_take_the_arrays_that_training_counted(chip: str) -> None:
    trained = compressed(chip)
    build, x = trained.build(), draw(16, 2, 4, 4, seed=5)
    assert build.verify(x.numpy(), ideal=True).exact
    per_tile = array_shape(trained.target).arrays_per_tile
    tiles = trained.compressor.tiles()
    assert {name: build.cost.layers[name].crossbars for name in tiles} == {
        name: count * per_tile for name, count in tiles.items()
    }
    assert sum(tiles.values()) < sum(trained.compressor.dense_tiles().values()) or "column" in chip
    for layer in build.layer_data:
        np.testing.assert_array_equal(layer.op.matrix.codes, codes(trained, layer.op.site.name))
    with torch.no_grad():
        twin = trained.twin()(x).numpy()
    np.testing.assert_array_equal(run_plain(build.reference, {"x": x.numpy()})["y"], twin)


def operators(emitted: Any) -> Counter[str]:
    return Counter(node.op_type for node in emitted.graph)


class Shared(nn.Module):
    """Three layers read one tensor; the modules stand in another order than they run."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.third = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 4, 1)
        self.second, self.first = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.first(x))
        return self.last(torch.relu(self.second(x) + self.third(x)))


def test_layers_that_read_one_tensor_share_its_codes() -> None:
    torch.manual_seed(0)
    trained = Trained(Shared(), draw(4, 3, 5, 5), shared=[("third", "second")])
    emitted = trained.onnx()
    assert operators(emitted)["QuantizeLinear"] == 3
    assert trained.model.second.input_quantiser is trained.model.third.input_quantiser
    assert [node.name for node in emitted.graph if node.op_type == "Conv"] == ["first", "second", "third", "last"]
    x = draw(9, 3, 5, 5, seed=2)
    build = trained.build()
    assert build.verify(x.numpy()).exact
    with torch.no_grad():
        np.testing.assert_array_equal(run_plain(build.mapped, {"x": x.numpy()})["y"], trained.twin()(x).numpy())


def test_layers_of_equal_weights_stay_two() -> None:
    model: Any = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False))
    model[2].load_state_dict(model[0].state_dict())
    build = Trained(model, draw(4, 3)).build()
    assert build.layers == ("0", "2")


class Twice(nn.Module):
    """A layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return self.inner(torch.relu(self.inner(x)))


class Idle(Twice):
    """A layer that never runs, beside one that does."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return self.used(x)


def test_a_layer_that_runs_twice_is_refused() -> None:
    with pytest.raises(
        ModelError, match="layer 'inner': its weight is read 2 times in the exported graph; a layer that"
    ):
        Trained(Twice(), draw(4, 4)).onnx()


def test_a_layer_that_never_runs_is_refused() -> None:
    with pytest.raises(CompileError, match="node 'inner': got no input while input ranges were observed"):
        Trained(Idle(), draw(4, 4))
    model = Idle()
    compressor = Compressor(model, TARGET)
    compressor.project()
    with pytest.raises(
        ModelError, match=r"layer 'inner': the exported graph has no initializer 'inner\.weight'; is the"
    ):
        to_onnx(model, compressor.layers, (), (draw(4, 4),))


class Unexportable(nn.Module):
    """What torch.onnx has no operator for."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return torch.special.bessel_j0(self.inner(x))


def test_a_model_that_torch_cannot_export_is_an_error_of_the_model() -> None:
    with pytest.raises(ModelError, match=r"torch\.onnx cannot export the model: .*bessel_j0"):
        Trained(Unexportable(), draw(4, 4)).onnx()


def test_inputs_of_other_than_eight_bits_are_refused() -> None:
    target = load_target("generic_128", [*SMALL, "precision.layers.4.inputs=6"])
    model, x, _ = plain_net()
    with pytest.raises(CompileError, match="node '4': inputs of 6 bits cannot be written as QDQ; train with 8"):
        Trained(model, x, target=target).onnx()


def test_without_quantised_inputs_the_graph_has_weights_only() -> None:
    model, x, _ = plain_net()
    compressor = Compressor(model, TARGET)
    compressor.project()
    emitted = to_onnx(model, compressor.layers, (), (x,))
    assert (operators(emitted)["QuantizeLinear"], operators(emitted)["DequantizeLinear"]) == (0, 2)
    twin = build_deployed(model, compressor.layers, (), exact=True)
    with torch.no_grad():
        found = run_plain(emitted, {"x": x.numpy()})["y"]
        np.testing.assert_allclose(found, twin(x).numpy(), atol=1e-5)
        np.testing.assert_allclose(found, model(x).numpy(), atol=1e-5)


def test_float_weights_with_quantised_inputs() -> None:
    model, x, _ = plain_net()
    trained = Trained(model, x, spec=Spec(quantisation=Quantisation(levels=LevelSet.NONE)))
    emitted = trained.onnx()
    assert (operators(emitted)["QuantizeLinear"], operators(emitted)["DequantizeLinear"]) == (2, 2)
    with torch.no_grad():
        twin = trained.twin()(x).numpy()
        np.testing.assert_allclose(run_plain(emitted, {"x": x.numpy()}, optimise=False)["y"], twin, atol=1e-2)
        assert np.abs(model(x).numpy() - twin).max() < 1e-2


def test_a_skipped_layer_stays_float() -> None:
    model, x, _ = plain_net()
    trained = Trained(model, x, spec=Spec(skip=("4",)))
    assert operators(trained.onnx())["QuantizeLinear"] == 1
    twin = trained.twin()
    assert isinstance(twin.get_submodule("0"), ExactLayer)
    assert isinstance(twin.get_submodule("4"), nn.Linear)


def test_sums_beyond_float32_are_counted_in_float64() -> None:
    """8-bit codes of 300 inputs stay below 2^24, of 3,000 they do not; both are exact."""
    for inputs, kind in ((300, torch.float32), (3000, torch.float64)):
        torch.manual_seed(0)
        model: Any = nn.Sequential(nn.Linear(inputs, 2))
        trained = Trained(model, draw(8, inputs).abs(), target=load_target("generic_128"))
        twin: Any = trained.twin()
        assert twin[0].codes.dtype is kind
        q = trained.model[0].input_quantiser.codes(trained.x).long()
        sums = q @ twin[0].codes.long().T
        step = trained.model[0].input_quantiser.scale * twin[0].scale
        assert torch.equal(twin(trained.x), sums.float() * step + twin[0].bias)


# --- folding ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 20), st.booleans(), st.booleans(), st.booleans())
def test_a_folded_normalisation_computes_the_same(seed: int, bias: bool, affine: bool, levels: bool) -> None:
    torch.manual_seed(seed)
    conv, bn = nn.Conv2d(3, 5, 2, bias=bias), nn.BatchNorm2d(5, affine=affine)
    with torch.no_grad():
        bn.running_mean = torch.randn(5)
        bn.running_var = torch.rand(5) + 0.1
        if affine:
            bn.weight.copy_(torch.randn(5))
            bn.weight[0] = 0
            bn.bias.copy_(torch.randn(5))
    model = nn.Sequential(conv, bn).eval()
    compressor = Compressor(model, TARGET)
    if levels:
        compressor.project()
        before = get_mapped_weight(conv).codes(get_original_weight(conv))  # type: ignore[union-attr]
    x = torch.randn(4, 3, 3, 3)
    with torch.no_grad():
        folded = fold_batchnorm(conv, bn)
        found = nn.functional.conv2d(x, folded.weight, folded.bias)
        assert torch.allclose(found, model(x), atol=1e-5)
    if not levels:
        assert folded.codes is None
        return
    assert folded.codes is not None
    assert bool((folded.scale > 0).all())
    sign = torch.sign(bn.weight.detach()) if affine else torch.ones(5)
    assert torch.equal(folded.codes, before * sign.reshape(-1, 1, 1, 1))


def test_a_normalisation_without_statistics_cannot_be_folded() -> None:
    with pytest.raises(
        CompileError, match=r"without running statistics cannot be folded .* set track_running_stats=True"
    ):
        fold_batchnorm(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))


def test_a_file_is_written_whole_and_read_back(tmp_path: Path) -> None:
    model, x, _ = plain_net()
    emitted = Trained(model, x).onnx()
    path = tmp_path / "model.onnx"
    path.write_bytes(b"older")
    write_onnx(emitted, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    found = run_plain(load_model_file(path), {"x": x.numpy()})["y"]
    np.testing.assert_array_equal(found, run_plain(emitted, {"x": x.numpy()})["y"])
