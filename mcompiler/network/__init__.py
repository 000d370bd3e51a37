"""What flows between the tiles of a chip and between chips, over which links."""

from mcompiler.network.flows import OUTSIDE, Flows, network_flows
from mcompiler.network.locations import LayerLocation, layer_locations
from mcompiler.network.placing import (
    ScheduledPlacement,
    in_order,
    likely_time,
    place_filled,
    scheduled_placement,
)
from mcompiler.network.spills import Spills, spills
from mcompiler.network.timing import PlacedTiming, placed_timing
from mcompiler.network.topology import PORT, Topology, topology_of
from mcompiler.network.traffic import (
    LayerTraffic,
    LocatedProgram,
    Traffic,
    located,
    lower_bound,
    measured,
    nodes_of,
    program_flows,
)
from mcompiler.network.utilisation import Unit, Utilisation, utilisations
from mcompiler.network.work import Aim, array_counts

__all__ = [
    "OUTSIDE",
    "PORT",
    "Aim",
    "Flows",
    "LayerLocation",
    "LayerTraffic",
    "LocatedProgram",
    "PlacedTiming",
    "ScheduledPlacement",
    "Spills",
    "Topology",
    "Traffic",
    "Unit",
    "Utilisation",
    "array_counts",
    "in_order",
    "layer_locations",
    "likely_time",
    "located",
    "lower_bound",
    "measured",
    "network_flows",
    "nodes_of",
    "place_filled",
    "placed_timing",
    "program_flows",
    "scheduled_placement",
    "spills",
    "topology_of",
    "utilisations",
]
