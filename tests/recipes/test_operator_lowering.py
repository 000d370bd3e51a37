"""The recipe "lower an operator": one new file, in a package of its own.

The file turns FusedMatMul of onnxruntime, which mcompiler keeps digital, into a crossbar.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import mcompiler
from mcompiler.driver import Build
from mcompiler.errors import CompileError, UserError
from mcompiler.fates import reason_text
from mcompiler.passes.lower import operator_fates

RULE = '''
"""FusedMatMul: alpha * x @ W, or alpha * x @ W^T."""

from mcompiler.graph import float_attr, int_attr
from mcompiler.ir import MatMulShape, Reason, ReasonKind
from mcompiler.passes.lower import LoweringRule, Match, trace


def match_fused(node):
    weights = trace(node.inputs[1])
    if weights is None or len(weights.shape) != 2 or int_attr(node, "transA", 0):
        return Reason(ReasonKind.STATED_BY_RULE, note="fused product without a constant matrix on the right")
    if int_attr(node, "transB", 0):
        weights = weights.moved(lambda array: array.T)
    weights = weights.moved(lambda array: array[None])  # [G, K, N]
    return Match(node, MatMulShape(), weights, node.inputs[0], factor=float_attr(node, "alpha", 1.0))


RULE = LoweringRule((("com.microsoft", "FusedMatMul"),), match_fused)
'''


def install(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch, value: str = "fused_lowering:RULE") -> None:
    """A package with one module and one entry point, as pip would put it there."""
    (folder / "fused_lowering.py").write_text(source)
    info = folder / "fused_lowering-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fused-lowering\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mcompiler.lowerings]\nfused = {value}\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "fused_lowering", raising=False)


def model() -> ir.Model:
    """Relu(alpha * x @ W^T) with x [n, 20] and 7 outputs."""
    weights = np.random.default_rng(3).standard_normal((7, 20)).astype(np.float32)
    nodes = [
        helper.make_node("FusedMatMul", ["x", "w"], ["h"], name="fused", domain="com.microsoft", transB=1, alpha=-0.5),
        helper.make_node("Relu", ["h"], ["y"], name="relu"),
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", n]) for name, n in (("x", 20), ("y", 7))]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], [numpy_helper.from_array(weights, "w")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))


X = np.random.default_rng(4).standard_normal((32, 20)).astype(np.float32)


def compiled() -> Build:
    return mcompiler.compile(model(), "generic_128", calibration={"x": X})


def test_the_operator_is_digital_without_the_package() -> None:
    build = compiled()
    assert build.layers == ()
    assert reason_text(build.fates[0].reason).startswith("fused operator of onnxruntime")


def test_a_file_in_another_package_lowers_an_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, RULE, monkeypatch)
    build = compiled()
    assert build.layers == ("fused",)
    assert [str(fate.fate) for fate in build.fates] == ["analog", "digital"]
    assert reason_text(build.fates[0].reason) == "matrix product with constant weights, 20 x 7"
    found = build.verify({"x": X})
    assert found.exact
    assert found.sqnr_db is not None
    assert found.sqnr_db > 30  # against FusedMatMul as onnxruntime computes it
    assert ("com.microsoft.FusedMatMul", "analog") in {(op, str(fate)) for op, fate, _ in operator_fates()}


def test_a_rule_says_why_a_node_stays_digital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, RULE.replace("is None or", "is not None or"), monkeypatch)
    assert reason_text(compiled().fates[0].reason) == "fused product without a constant matrix on the right"


@pytest.mark.parametrize(
    ("source", "value", "message"),
    [
        ("raise OSError('no such library')", "fused_lowering:RULE", r"'fused-lowering' cannot be loaded \(OSError: no"),
        ("", "fused_lowering:RULE", r"'fused-lowering' cannot be loaded \(AttributeError"),
        ("", "missing_module:RULE", r"'fused-lowering' cannot be loaded \(ModuleNotFoundError"),
        ("RULE = 3", "fused_lowering:RULE", r"'fused-lowering' registers no LoweringRule .* but int"),
        (
            RULE.replace('("com.microsoft", "FusedMatMul")', '("", "Conv")'),
            "fused_lowering:RULE",
            r"'fused-lowering' registers a lowering rule for Conv, for which mcompiler has one",
        ),
    ],
)
def test_a_package_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, value: str, message: str
) -> None:
    install(tmp_path, source, monkeypatch, value)
    with pytest.raises(UserError, match=message):
        compiled()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    return 1 / 0", r"node 'fused': the lowering rule of package 'fused-lowering' failed \(ZeroDivisionError"),
        ("    return None", r"node 'fused': the lowering rule of package 'fused-lowering' returned neither"),
        (
            "    return Match(node, MatMulShape(), trace(node.inputs[1]), node.inputs[0])",
            r"returned neither a Match with weights \[G, K, N\]",
        ),
    ],
)
def test_a_rule_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str) -> None:
    head, rest = RULE.split("    weights = trace", 1)
    install(tmp_path, f"{head}{body}\n    weights = trace{rest}", monkeypatch)
    with pytest.raises(CompileError, match=message):
        compiled()
