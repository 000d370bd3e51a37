"""Labels in the outputs, and layers found by them."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

import mcompiler
from mcompiler.cli.main import cli
from mcompiler.driver import Build, load
from mcompiler.driver.trials import TrialOptions
from mcompiler.errors import BuildError
from mcompiler.summary import compile_summary, cost_summary, trials_summary, verify_summary
from tests.support.models import parsed

X = np.random.default_rng(0).standard_normal((8, 2)).astype(np.float32)
MODULES = ("features.0", "features.1", "head")


def labelled() -> ir.Model:
    """Gemm, Relu, Gemm whose nodes say from which PyTorch module they come."""
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 2] x) => (float[n, 2] y) <float[2, 2] w = {1, 2, 3, 4}>'
        "{ [node_linear] h = Gemm(x, w) \n [node_relu] i = Relu(h) \n [node_linear_1] y = Gemm <transB = 1> (i, w) }"
    )
    for node, module in zip(model.graph.node, MODULES, strict=True):
        entry = node.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.name_scopes", str(["", module, "call"])
    return ir.from_proto(model)


@lru_cache(maxsize=1)
def build() -> Build:
    """Built for generic_128; the second layer, given by its label, has weights of 4 bits."""
    target = mcompiler.load_target("generic_128", ["precision.layers.head.weights=4"])
    return mcompiler.compile(labelled(), target, calibration={"x": X})


def test_names_stay_the_names_of_nodes_and_labels_are_added(tmp_path: Path) -> None:
    assert build().layers == ("node_linear", "node_linear_1")
    saved = build().save(tmp_path / "b")
    layers = json.loads((saved / "layers.json").read_text())["layers"]
    assert [(layer["name"], layer["label"]) for layer in layers] == [
        ("node_linear", "features.0"),
        ("node_linear_1", "head"),
    ]
    cost = json.loads((saved / "cost.json").read_text())["layers"]
    assert {name: row["label"] for name, row in cost.items()} == {
        "node_linear": "features.0",
        "node_linear_1": "head",
        "(digital)": "(digital)",
        "(idle)": "(idle)",
    }
    nodes = json.loads((saved / "manifest.json").read_text())["nodes"]
    assert [(node["name"], node["label"]) for node in nodes] == [
        (fate.name, module) for fate, module in zip(build().fates, MODULES, strict=True)
    ]
    loaded = load(saved)
    assert loaded.fates == build().fates
    assert loaded.cost == build().cost
    assert [layer.op.site.label for layer in loaded.layer_data] == ["features.0", "head"]


def test_precision_of_a_layer_given_by_its_label() -> None:
    assert [layer.op.matrix.weight_bits for layer in build().layer_data] == [8, 4]


@pytest.mark.parametrize("given", ["node_linear_1", "head", "hea"])
def test_a_layer_is_found_by_name_label_or_part(given: str) -> None:
    assert build().layer_name(given) == "node_linear_1"
    np.testing.assert_array_equal(build().cells(given), build().cells("node_linear_1"))
    assert build().netlist(given, 0) == build().netlist("node_linear_1", 0)
    assert build().arrays(given) == build().arrays("node_linear_1")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("e", "'e' is part of 2 layers: 'node_linear' (features.0), 'node_linear_1' (head)"),
        ("haed", "no layer 'haed'; did you mean 'head'?"),
    ],
)
def test_a_layer_that_is_not_found(given: str, message: str) -> None:
    with pytest.raises(BuildError) as error:
        build().cells(given)
    assert str(error.value) == message


def test_tables_for_people_show_labels() -> None:
    made = build()
    for text in (
        compile_summary("m", made.target, fates=made.fates, layers=made.layer_data, cost=made.cost, chips=1),
        cost_summary(made.cost, 0),
    ):
        assert "\nfeatures.0 " in text
        assert "node_linear" not in text
    assert "features.0" in made.report()


def test_verify_report_and_costs_at_inputs_show_labels(tmp_path: Path) -> None:
    """Tables that once showed names where others showed labels."""
    made = mcompiler.compile(labelled(), "neurram", calibration={"x": X})
    found = made.verify(limit=2)
    assert not found.exact
    trials = made.trials(limit=2, options=TrialOptions(("all",), trials=1))
    made.save(tmp_path / "b")
    np.savez(tmp_path / "x.npz", x=X)
    run = CliRunner()
    texts = [verify_summary(found, made.labels), trials_summary(trials, made.labels)]
    for command in (["cost", "--data"], ["cost", "--exact", str(tmp_path / "x.npz")], ["cells", "--summary"]):
        done = run.invoke(cli, [command[0], str(tmp_path / "b"), *command[1:]])
        assert done.exit_code == 0, done.output
        texts.append(done.output)
    for text in texts:
        assert "\nfeatures.0 " in text, text
        assert "node_linear" not in text
    page = made.report()
    rows = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    assert not [cell for cell in rows if "node_linear" in cell]
