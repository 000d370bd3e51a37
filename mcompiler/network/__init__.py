"""What flows between the tiles of a chip and between chips, over which links."""

from mcompiler.network.flows import OUTSIDE, Flows, network_flows
from mcompiler.network.locations import LayerLocation, layer_locations
from mcompiler.network.placing import (
    best_placement,
    in_order,
    likely_interval,
    place_filled,
    placed_interval,
    placed_latency,
)
from mcompiler.network.spills import Spills, spills
from mcompiler.network.topology import PORT, Topology, topology_of
from mcompiler.network.traffic import LayerTraffic, Traffic, lower_bound, measured, nodes_of, program_flows, traffic
from mcompiler.network.utilisation import Unit, Utilisation, utilisations
from mcompiler.network.work import Aim, array_counts

__all__ = [
    "OUTSIDE",
    "PORT",
    "Aim",
    "Flows",
    "LayerLocation",
    "LayerTraffic",
    "Spills",
    "Topology",
    "Traffic",
    "Unit",
    "Utilisation",
    "array_counts",
    "best_placement",
    "in_order",
    "layer_locations",
    "likely_interval",
    "lower_bound",
    "measured",
    "network_flows",
    "nodes_of",
    "place_filled",
    "placed_interval",
    "placed_latency",
    "program_flows",
    "spills",
    "topology_of",
    "traffic",
    "utilisations",
]
