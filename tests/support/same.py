"""Whether two values are the same, looked at field by field."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir


def assert_same(one: Any, other: Any, where: str = "value", *, layout: bool = True) -> None:
    """Equal in type and content, and arrays in their order in memory where ``layout`` says so."""
    assert type(one) is type(other), where
    if isinstance(one, ir.Model):
        texts = [ir.to_proto(each).SerializeToString(deterministic=True) for each in (one, other)]
        assert texts[0] == texts[1], where
        assert dict(one.meta) == dict(other.meta), where
        for ours, theirs in zip(one.graph.all_nodes(), other.graph.all_nodes(), strict=True):
            assert dict(ours.meta) == dict(theirs.meta), f"{where}: node {ours.name}"
            for pair in zip(ours.outputs, theirs.outputs, strict=True):
                assert dict(pair[0].meta) == dict(pair[1].meta), f"{where}: value {pair[0].name}"
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype, where
        assert one.shape == other.shape, where
        assert one.tobytes() == other.tobytes(), where
        if layout and one.size and (one.flags.c_contiguous or one.flags.f_contiguous):
            assert one.strides == other.strides, where
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name), f"{where}.{field.name}", layout=layout)
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}[{key!r}]", layout=layout)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{index}]", layout=layout)
    else:
        assert one == other, where
