"""Dataflow: how a network runs on a chip as a pipeline of stages, token by token.

``stages`` says what the nodes of a graph do to tokens, ``durations`` how long that takes on a target, ``timing`` when
each token is worked on, ``memory`` what waits in between, ``replicas`` how many copies of its arrays a layer is worth.
"""

from mcompiler.dataflow.durations import (
    LayerPlan,
    clocks,
    conversion_time,
    digital_bound,
    digital_work,
    phases,
    read_time,
    reads_per_vector,
    tiles_of,
    timed,
)
from mcompiler.dataflow.events import conversions_per_read, corrections, layer_events
from mcompiler.dataflow.memory import Holders, TileMemory, check_depths, input_shares, streams, tile_memory
from mcompiler.dataflow.operations import digital_operations
from mcompiler.dataflow.plan import Dataflow, dataflow, port_time, stage_bounds
from mcompiler.dataflow.replicas import (
    Candidate,
    Path,
    Server,
    arrays_for,
    best_interval,
    copies_by_turns,
    copies_for_throughput,
    critical_path,
    latency_bound,
)
from mcompiler.dataflow.skip import Remaining, remaining
from mcompiler.dataflow.stages import Kind, Step, network_steps
from mcompiler.dataflow.timing import Edge, Stage, earliest, just_in_time, latest, occupancy

__all__ = [
    "Candidate",
    "Dataflow",
    "Edge",
    "Holders",
    "Kind",
    "LayerPlan",
    "Path",
    "Remaining",
    "Server",
    "Stage",
    "Step",
    "TileMemory",
    "arrays_for",
    "best_interval",
    "check_depths",
    "clocks",
    "conversion_time",
    "conversions_per_read",
    "copies_by_turns",
    "copies_for_throughput",
    "corrections",
    "critical_path",
    "dataflow",
    "digital_bound",
    "digital_operations",
    "digital_work",
    "earliest",
    "input_shares",
    "just_in_time",
    "latency_bound",
    "latest",
    "layer_events",
    "network_steps",
    "occupancy",
    "phases",
    "port_time",
    "read_time",
    "reads_per_vector",
    "remaining",
    "stage_bounds",
    "streams",
    "tile_memory",
    "tiles_of",
    "timed",
]
