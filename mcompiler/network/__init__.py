"""What flows between the tiles of a chip and between chips, over which links."""

from mcompiler.network.flows import OUTSIDE, Flows, layer_flows, layer_holders
from mcompiler.network.placing import (
    best_placement,
    in_order,
    likely_interval,
    placed_interval,
    placed_latency,
    standing,
)
from mcompiler.network.topology import PORT, Topology, topology_of
from mcompiler.network.traffic import LayerTraffic, Traffic, lower_bound, measured, nodes_of, program_flows, traffic
from mcompiler.network.work import array_counts

__all__ = [
    "OUTSIDE",
    "PORT",
    "Flows",
    "LayerTraffic",
    "Topology",
    "Traffic",
    "array_counts",
    "best_placement",
    "in_order",
    "layer_flows",
    "layer_holders",
    "likely_interval",
    "lower_bound",
    "measured",
    "nodes_of",
    "placed_interval",
    "placed_latency",
    "program_flows",
    "standing",
    "topology_of",
    "traffic",
]
