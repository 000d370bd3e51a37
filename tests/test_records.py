"""Records of passes: sums over layers, JSON under the keys of the contract, one line for people, pickling."""

from __future__ import annotations

import json
import pickle

import pytest

from mcompiler.declarations import Record
from mcompiler.ir import Reordering, Replication
from mcompiler.records import (
    BuildOptions,
    PlacementRecord,
    QuantisationRecord,
    ReorderRecord,
    ReplicationRecord,
    StoredRecord,
)

REORDER = ReorderRecord.of(
    [
        ("one", Reordering(10, 8, 7, row_bits=4, col_bits=0, routing_bytes=100)),
        ("two", Reordering(5, 5, 5, row_bits=0, col_bits=0, routing_bytes=0)),
    ]
)
COPIES = Replication(
    budget=20,
    arrays=18,
    interval_before_s=4e-6,
    interval_s=2e-6,
    interval_bound_s=1e-6,
    latency_before_s=8e-6,
    latency_s=8e-6,
    latency_bound_s=4e-6,
)
RECORDS: list[Record] = [
    REORDER,
    ReplicationRecord(COPIES),
    PlacementRecord(byte_hops=50.0, byte_hops_in_order=100.0, byte_hops_bound=25.0, chip_bytes=8.0),
    QuantisationRecord(900, {"scores": 100}, {"a": 31.0, "b": None}),
]


def test_sums_over_layers() -> None:
    assert REORDER.as_json() == {
        "tiles_before": 15,
        "tiles_after": 13,
        "bound": 12,
        "routing_bytes": 100,
        "layers": [
            {"name": "one", "tiles_before": 10, "tiles_after": 8, "bound": 7, "routing_bytes": 100},
            {"name": "two", "tiles_before": 5, "tiles_after": 5, "bound": 5, "routing_bytes": 0},
        ],
    }


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (RECORDS[0], "15 array positions before, 13 after, 13.3% fewer; no order needs fewer than 12"),
        (RECORDS[1], "copies: 18 of 20 arrays, transfers not counted:\n  interval 4.00 us with one copy of each layer"),
        (RECORDS[2], "50.0 B x links per inference, 50.0% less than in the order of the layers"),
    ],
    ids=lambda value: value.key if hasattr(value, "key") else "",
)
def test_text_for_people(record: Record, text: str) -> None:
    assert text in record.text()


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: str(record.key))
def test_records_survive_pickling_and_the_manifest(record: Record) -> None:
    assert pickle.loads(pickle.dumps(record)) == record
    stored = StoredRecord(record.key, json.loads(json.dumps(record.as_json())), record.text())
    assert stored.as_json() == record.as_json()
    assert stored.text() == record.text()


def test_options_are_read_back() -> None:
    options = BuildOptions(
        {"range": "mse", "replicate": {"goal": "latency", "arrays": None}}, {"n": 3}, {"kind": "none"}
    )
    assert BuildOptions.from_json(json.loads(json.dumps(options.as_json()))) == options
    assert options.as_json()["range"] == "mse"


def test_small_shares_and_poor_layers_are_loud() -> None:
    good, poor = RECORDS[-1], QuantisationRecord(100, {"mm": 100, "scores": 800}, {"a": 12.34, "b": 25.0, "c": 3.0})
    assert good.as_json()["crossbar_share"] == 0.9
    assert good.text() == "90.0% of the multiply-accumulates run on crossbars"
    share, layers = poor.text().splitlines()
    assert share.startswith("WARNING: only 10.0% of the multiply-accumulates run on crossbars; ")
    assert "scores, mm" in share
    assert layers.startswith(
        "WARNING: signal to error below 20 dB in 2 layers: c (3.0 dB), a (12.3 dB); try --equalise on"
    )
    assert "WARNING" in QuantisationRecord(0, {}, {}).text()
