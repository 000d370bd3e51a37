"""Dataflow: how a network runs on a chip as a pipeline of stages, token by token.

``stages`` lists stages and the tensors that flow between them, ``operations`` counts digital work, ``durations`` gives
the times on a target, ``capacity`` the work of every tile, ``timing`` the start of every token, ``memory`` what waits
in between, ``replicas`` how many copies of its arrays a matrix is worth.
"""

from mcompiler.dataflow.budgets import Choice, best_within, budget_levels
from mcompiler.dataflow.capacity import TileLoads, TileWork, tile_work
from mcompiler.dataflow.copies import CopySearch
from mcompiler.dataflow.durations import (
    LayerPlan,
    clocks,
    conversion_time,
    phases,
    read_time,
    reads_per_vector,
    tiles_of,
    timed_stages,
)
from mcompiler.dataflow.events import LayerWork, layer_events
from mcompiler.dataflow.grids import Needs, Relation
from mcompiler.dataflow.memory import LayerBuffers, TileMemory, check_depths, input_shares, streams, tile_memory
from mcompiler.dataflow.operations import conversions_per_read, corrections, digital_operations, layer_operations
from mcompiler.dataflow.plan import Dataflow, dataflow, stage_bounds
from mcompiler.dataflow.replicas import (
    Candidate,
    CriticalPath,
    Load,
    Server,
    arrays_for,
    best_interval,
    copies_by_turns,
    copies_for_throughput,
    critical_path,
    latency_bound,
)
from mcompiler.dataflow.skip import Remaining, remaining
from mcompiler.dataflow.stages import (
    OUTPUT,
    DigitalWork,
    NetworkStage,
    StageGraph,
    StageKind,
    Transfer,
    program_stages,
    stage_graph,
)
from mcompiler.dataflow.timing import (
    Edge,
    StageRun,
    TimedStage,
    earliest,
    just_in_time,
    latest,
    least_interval,
    occupancy,
)

__all__ = [
    "OUTPUT",
    "Candidate",
    "Choice",
    "CopySearch",
    "CriticalPath",
    "Dataflow",
    "DigitalWork",
    "Edge",
    "LayerBuffers",
    "LayerPlan",
    "LayerWork",
    "Load",
    "Needs",
    "NetworkStage",
    "Relation",
    "Remaining",
    "Server",
    "StageGraph",
    "StageKind",
    "StageRun",
    "TileLoads",
    "TileMemory",
    "TileWork",
    "TimedStage",
    "Transfer",
    "arrays_for",
    "best_interval",
    "best_within",
    "budget_levels",
    "check_depths",
    "clocks",
    "conversion_time",
    "conversions_per_read",
    "copies_by_turns",
    "copies_for_throughput",
    "corrections",
    "critical_path",
    "dataflow",
    "digital_operations",
    "earliest",
    "input_shares",
    "just_in_time",
    "latency_bound",
    "latest",
    "layer_events",
    "layer_operations",
    "least_interval",
    "occupancy",
    "phases",
    "program_stages",
    "read_time",
    "reads_per_vector",
    "remaining",
    "stage_bounds",
    "stage_graph",
    "streams",
    "tile_memory",
    "tile_work",
    "tiles_of",
    "timed_stages",
]
