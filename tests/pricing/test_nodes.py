"""Digital logic from node to node: Stillmaker and Baas 2017."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcompiler.pricing.nodes import NODE_AREA, NODE_ENERGY, node_factor


def test_energies_of_nodes_by_the_paper_s_polynomials() -> None:
    """The paper's own example has 0.4571 at 32 nm and 0.9 V."""
    assert NODE_ENERGY[32] == pytest.approx(0.4571, abs=5e-5)
    assert NODE_ENERGY[65] == pytest.approx(3.755 * 1.21 - 4.398 * 1.1 + 1.975)
    for table in (NODE_AREA, NODE_ENERGY):
        values = [table[node] for node in sorted(table)]
        assert values == sorted(values), "a smaller node takes less"


@given(st.floats(7, 180), st.floats(7, 180), st.floats(7, 180))
def test_nodes_scale_there_and_back(one: float, two: float, three: float) -> None:
    for table in (NODE_AREA, NODE_ENERGY):
        there = node_factor(one, two, table) * node_factor(two, three, table)
        assert there == pytest.approx(node_factor(one, three, table))
        if one < two * 0.999999:
            assert node_factor(one, two, table) < 1
