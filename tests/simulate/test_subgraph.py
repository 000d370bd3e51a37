"""A layer cut out of a graph computes what the layer computes, and the graph stays as it was."""

from __future__ import annotations

import numpy as np

from mcompiler.simulate import extract
from tests.support import crossbar
from tests.support.builds import conv_case, run_plain, target


def test_extract_cuts_a_layer_out() -> None:
    case = conv_case([3, 3], channels=4, outputs=6, pads=[1, 1, 1, 1])
    build = case.compile(target())
    part = extract(build.reference, "conv/codes", "conv/accumulator")
    assert [n.op_type for n in part.graph] == ["ConvInteger"]
    codes = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 6)).astype(np.uint8)
    got = run_plain(part, {"conv/codes": codes})["conv/accumulator"]
    np.testing.assert_array_equal(got, crossbar.exact(codes, case.codes, build.layer_data[0]))
    assert [n.op_type for n in build.reference.graph][:2] == ["QuantizeLinear", "ConvInteger"], "the model is as it was"
