"""SCHEDULED: when every array and every stage works, and how often every event happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mcompiler.ir.mapping import PlacedProgram
from mcompiler.ir.matrix import IntArray
from mcompiler.target import Event


@dataclass(frozen=True)
class LayerSchedule:
    """Times of one site, in seconds from the start of an inference.

    Attributes:
        start: int64 [copies * arrays], first cycle of each array (a cycle is one read).
        start_s, end_s: first read, last result of the arrays.
        busy_s: time that its arrays are busy per inference.
        events: count per inference of each event.
        hops, chip_hops: links that its farthest word crosses.
    """

    start: IntArray
    start_s: float
    end_s: float
    busy_s: float
    events: Mapping[Event, float]
    hops: int = 0
    chip_hops: int = 0


@dataclass(frozen=True)
class StageSchedule:
    """Times of one stage of the dataflow: the arrays of a layer, the digital unit after them, a digital node.

    Attributes:
        id: of the stage; no two stages of a program have the same.
        kind: input, analog, requantise or digital.
        name: of the node, for people; of the unit after a layer's arrays ``<layer>/requantise``. Names may repeat.
        layer: number of the site whose tiles it works at, -1 for none.
        node: position of its node in the skeleton, -1 for an input.
        operations: digital operations per inference.
        read_bytes, written_bytes: of buffers, per inference, for a digital node; layers count theirs as events.
        tokens: positions that it works on per inference, one after the other.
        copies: that share the tokens.
        service_s: time for which a copy is busy with one.
        latency_s: from the start of a token to its result.
        start_s, end_s: of the first token, and end of the last result.
        busy_s: per inference, of the copy with most tokens.
    """

    id: int
    kind: str
    name: str
    layer: int
    node: int
    operations: float
    read_bytes: float
    written_bytes: float
    tokens: int
    copies: int
    service_s: float
    latency_s: float
    start_s: float
    end_s: float
    busy_s: float


@dataclass(frozen=True)
class Stream:
    """Tokens that wait between two stages: rows of a feature map for a window, a shortcut for the parallel branch.

    Attributes:
        producer, consumer: ids of the stages.
        layer: number of the site whose tiles hold it; -1 for none, and for sums, which wait in registers of arrays.
        tokens: most that wait at once, inferences following each other.
        bytes: of those.
        least_tokens: fewest with which the network does not stop for good.
        window_bytes: (kernel rows - 1) x width + kernel columns tokens (the row buffer of ISAAC, section V); 0 without
            a sliding window.
    """

    producer: int
    consumer: int
    layer: int
    tokens: int
    bytes: float
    least_tokens: int
    window_bytes: float


@dataclass(frozen=True)
class Turn:
    """One turn of layers on the chips.

    Attributes:
        write_s, write_j: time and energy of writing its arrays, all cores at once.
        latency_s, interval_s: of its pipeline.
        kept_bytes: activations of one inference that it leaves to later turns.
    """

    write_s: float
    write_j: float
    latency_s: float
    interval_s: float
    kept_bytes: float


@dataclass(frozen=True)
class ScheduledProgram:
    """SCHEDULED: one LayerSchedule per site, and all stages of the dataflow.

    Attributes:
        layers: in the order of the sites.
        cycle_s: one read of an array, conversions included.
        latency_s: one inference from input to output.
        interval_s: time between two inferences in steady state.
        stages: of the dataflow, in topological order, each once.
        streams: tokens that wait between them.
        bounds_s: shortest interval that each resource allows: array, converter, digital, buffer, link, chip_link.
        spilled_bytes: of activations that do not fit the tiles of their layer, by number of site.
        placement: bytes times links as placed (byte_hops), with arrays in the order of the layers (byte_hops_in_order),
            and a lower bound (byte_hops_bound); chip_bytes in and out of chips.
        turns: of layers on the same arrays, one after the other; empty: all layers are on the chips at once. With turns
            ``latency_s`` is that of a whole batch, and ``interval_s`` its share of one inference.
    """

    placed: PlacedProgram
    layers: tuple[LayerSchedule, ...]
    cycle_s: float
    latency_s: float
    interval_s: float
    stages: tuple[StageSchedule, ...] = ()
    streams: tuple[Stream, ...] = ()
    bounds_s: Mapping[str, float] = field(default_factory=dict)
    spilled_bytes: Mapping[int, float] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()
    placement: Mapping[str, float] = field(default_factory=dict)
