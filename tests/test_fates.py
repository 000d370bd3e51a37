"""Texts of reasons, and fates that come back from JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mcompiler.fates import fate_record, reason_text, restored_fate, stored_fate
from mcompiler.ir import BodyStep, Fate, ModelNode, NodeFate, NodeRef, Origin, Reason, ReasonKind
from mcompiler.passes.lower import operator_fates

NESTED = Origin((BodyStep(4, "local::block"), BodyStep(1, "then_branch")), 2)
NODE = ModelNode(NESTED, "call/conv", "Conv", "net.conv")


def full(kind: ReasonKind) -> Reason:
    """A reason with every fact there is."""
    into = NodeRef(Origin((), 3), "conv")
    return Reason(kind, into, (2, 3, 4), operator="Dropout", element="INT32", number=7, note="as stated")


@pytest.mark.parametrize("kind", list(ReasonKind))
def test_every_kind_of_reason_has_a_text(kind: ReasonKind) -> None:
    text = reason_text(full(kind))
    assert text
    assert not {"{", "}"} & set(text)
    assert "None" not in text


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (Reason(ReasonKind.CONVOLUTION, shape=(1, 12, 2)), "convolution with constant weights, 12 x 2"),
        (Reason(ReasonKind.MATRIX_PRODUCT, shape=(3, 4, 5)), "matrix product with constant weights, 3 groups of 4 x 5"),
        (Reason(ReasonKind.FOLDED, into=NodeRef(Origin((), 0), "conv")), "folded into conv"),
        (Reason(ReasonKind.INLINED_BRANCH), "inlined: its condition is constant"),
        (Reason(ReasonKind.INLINED_BRANCH, number=2), "inlined: its condition is constant; 2 of its nodes are analog"),
        (Reason(ReasonKind.NO_EFFECT, operator="Dropout"), "removed: Dropout changes nothing in inference"),
        (Reason(ReasonKind.CONVOLUTION_DIMENSIONS, number=4), "convolution in 4 dimensions, 1 to 3 are mapped"),
    ],
)
def test_texts_name_the_facts(reason: Reason, text: str) -> None:
    assert reason_text(reason) == text


@pytest.mark.parametrize("kind", list(ReasonKind))
def test_fates_come_back_from_json_without_their_text(kind: ReasonKind) -> None:
    for reason in (full(kind), Reason(kind)):
        fate = NodeFate(NODE, Fate.DIGITAL, reason)
        record = json.loads(json.dumps(stored_fate(fate)))
        assert restored_fate({**record, "reason": "a text that nobody reads"}) == fate


def test_records_have_the_keys_of_the_contract() -> None:
    fate = NodeFate(NODE, Fate.DIGITAL, Reason(ReasonKind.UNUSED))
    assert fate_record(fate) == {
        "name": "call/conv",
        "op": "Conv",
        "fate": "digital",
        "reason": "removed: unused",
        "label": "net.conv",
        "reason_kind": "unused",
    }


@pytest.mark.parametrize("origin", [[1, "a"], ["a"], [1, 2], []])
def test_a_damaged_origin_is_noticed(origin: list[int | str]) -> None:
    record = {**stored_fate(NodeFate(NODE, Fate.DIGITAL, Reason(ReasonKind.UNUSED))), "origin": origin}
    with pytest.raises((ValueError, TypeError)):
        restored_fate(record)


def test_origins_survive_json() -> None:
    for origin in (NESTED, Origin((), 0), replace(NESTED, path=NESTED.path[:1])):
        assert Origin.from_json(json.loads(json.dumps(origin.as_json()))) == origin


def test_operators_have_the_texts_of_the_same_renderer() -> None:
    texts = {op: (fate, reason_text(reason)) for op, fate, reason in operator_fates()}
    assert texts["Conv"] == (
        Fate.ANALOG,
        "where its weights are constant; else digital: product of two activations",
    )
    assert texts["LSTM"] == (Fate.DIGITAL, "recurrent operator, stays digital for now")
    assert texts["QuantizeLinear"] == (Fate.DIGITAL, "quantisation, no matrix product")
    assert texts["If"][0] is Fate.DIGITAL
    assert texts["RandomNormal"] == (
        Fate.REFUSED,
        "random generator, its output is not a function of the input",
    )
