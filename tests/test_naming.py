"""Layers as users name them."""

from __future__ import annotations

import pytest

from mcompiler.errors import CompileError, UserError
from mcompiler.naming import LayerName, find_layer, with_node_names
from mcompiler.target import load_target

LAYERS = (
    LayerName("node_Conv_374", "bn1"),
    LayerName("node_Conv_376", "layer1.0.conv1"),
    LayerName("node_Conv_377", "layer10.0.conv1"),
    LayerName("node_Conv_378", "layer1.0.downsample"),
    LayerName("bn1", "head"),
)


@pytest.mark.parametrize(
    ("given", "index"),
    [
        ("node_Conv_376", 1),  # the node's name
        ("layer1.0.conv1", 1),  # the label, though it is no part of layer10.0.conv1
        ("bn1", 4),  # a name wins over a label
        ("downsample", 3),  # a part of a label
        ("378", 3),  # a part of a name
        ("layer10", 2),
        ("0.conv1", None),  # a part of two labels
        ("layer1", None),
        ("node_Conv", None),
    ],
)
def test_names_labels_and_unique_parts(given: str, index: int | None) -> None:
    if index is not None:
        assert find_layer(given, LAYERS) == index
        return
    with pytest.raises(UserError, match="is part of"):
        find_layer(given, LAYERS)


def test_a_part_bounded_by_separators_in_one_layer_names_that_layer() -> None:
    assert find_layer("layer1", [LayerName("a", "layer1.conv"), LayerName("b", "layer10.conv")]) == 0


def test_an_ambiguous_part_lists_the_candidates() -> None:
    with pytest.raises(UserError) as error:
        find_layer("0.conv1", LAYERS)
    assert str(error.value) == (
        "'0.conv1' is part of 2 layers: 'node_Conv_376' (layer1.0.conv1), 'node_Conv_377' (layer10.0.conv1)"
    )


@pytest.mark.parametrize(
    ("given", "layers", "message"),
    [
        ("layer1.0.downsampel", LAYERS, "no layer 'layer1.0.downsampel'; did you mean 'layer1.0.downsample'?"),
        ("xyz", LAYERS[:1], "no layer 'xyz'; the layers are 'node_Conv_374' (bn1)"),
        ("xyz", (), "no layer 'xyz'; the model has no analog layers"),
        ("", LAYERS[:1], "no layer ''; the layers are 'node_Conv_374' (bn1)"),
    ],
)
def test_unknown_names(given: str, layers: tuple[LayerName, ...], message: str) -> None:
    with pytest.raises(UserError) as error:
        find_layer(given, layers)
    assert str(error.value) == message


def test_target_keys_become_node_names() -> None:
    target = load_target("generic_128", ["precision.layers.downsample.weights=4"])
    assert target.layer_bits("node_Conv_378")[0] == 8
    assert with_node_names(target, LAYERS).layer_bits("node_Conv_378")[0] == 4


def test_two_target_keys_for_one_layer_are_refused() -> None:
    settings = ["precision.layers.downsample.weights=4", "precision.layers.node_Conv_378.inputs=4"]
    with pytest.raises(CompileError, match=r"both mean layer 'node_Conv_378'; keep one of them"):
        with_node_names(load_target("generic_128", settings), LAYERS)
