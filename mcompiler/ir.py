"""The program at each level of the compiler: one frozen dataclass per level, each holding the one below.

GRAPH (an ONNX model) -> MATRIX (integer weight matrices) -> TILED (which part of which matrix on which array position)
-> ANALOG (encoding, flips, converter settings) -> PLACED (addresses) -> SCHEDULED (start cycles, events).

Arrays held here are read-only numpy arrays; nothing here is one Python object per tile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.target import Event

IntArray = npt.NDArray[np.int64]
CodeArray = npt.NDArray[np.int16]
FloatArray = npt.NDArray[np.float32]

ANALOG_DOMAIN = "mcompiler"
"""Domain of the placeholder nodes that ``lower`` puts where an analog operation stands."""

ANALOG_OP = "Analog"
"""Operator of those placeholders: one input [B, C, *spatial] or [..., K], one output, name = layer name."""


class Fate(StrEnum):
    """What becomes of a node of the input model."""

    ANALOG = "analog"
    DIGITAL = "digital"
    REFUSED = "refused"


@dataclass(frozen=True)
class NodeFate:
    """One row of the table that ``compile --json`` prints as ``nodes``."""

    name: str
    op: str
    fate: Fate
    reason: str


# --- GRAPH -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GraphProgram:
    """A model as ONNX graph.

    Attributes:
        model: the graph; never edited in place (a pass works on ``model.clone()``). Every node of the input model that
            is still there carries its name; nodes that a pass adds have names derived from the node they serve.
        nodes: (name, op) of every node of the input model, in its order.
        fates: fates decided so far, by node name: folded, evaluated, removed, inlined, refused.
        dims: sizes taken for symbolic dimensions other than the sample axis, by name.
    """

    model: ir.Model
    nodes: tuple[tuple[str, str], ...]
    fates: Mapping[str, NodeFate] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)


# --- MATRIX ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConvShape:
    """A convolution: how input windows become vectors. Row k of the matrix is (channel, *kernel position), C order.

    Attributes:
        kernel, strides, dilations: one entry per spatial dimension (1 to 3).
        pads: begin of each spatial dimension, then end of each (ONNX order); explicit, no auto_pad.
        groups: G. Input channels are G * K / prod(kernel).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int


@dataclass(frozen=True)
class MatMulShape:
    """x [..., K] @ W [K, N]; with ``batch`` the constant is W [*batch, K, N] and G = prod(batch) groups.

    With a batch, x is [..., M, K] and numpy broadcasting joins its leading dimensions with ``batch``.
    """

    batch: tuple[int, ...] = ()


@dataclass(frozen=True)
class FloatMatrix:
    """A weight-stationary operation before quantisation.

    Attributes:
        name: layer name = name of the ONNX node it came from.
        shape: how its vectors are formed.
        weights: float64 or float32 [G, K, N] (or, with ``weight_codes``, their exact real values).
        weight_codes: int [G, K, N] with zero point subtracted and ``weight_scale`` [G, N], where the model brings them.
        bias: float32 [G, N] added after scaling, or None.
        tensor: name of the activation tensor in the normalised graph that is this operation's input.
        input_scale, input_zero_point, input_bits: the model's own input quantiser (unsigned codes), or None.
        element: ONNX element type of input and output (FLOAT, FLOAT16, DOUBLE).
    """

    name: str
    shape: ConvShape | MatMulShape
    weights: npt.NDArray[np.floating]
    bias: FloatArray | None
    tensor: str
    element: ir.DataType
    weight_codes: CodeArray | None = None
    weight_scale: FloatArray | None = None
    input_scale: float | None = None
    input_zero_point: int | None = None
    input_bits: int | None = None


@dataclass(frozen=True)
class LoweredProgram:
    """GRAPH with its analog nodes taken out: what ``lower`` returns.

    Attributes:
        graph: the normalised float graph, with the original Conv, Gemm, MatMul nodes (calibration runs it).
        skeleton: the same graph with a placeholder node (ANALOG_DOMAIN, ANALOG_OP) for each analog operation.
        matrices: one per placeholder, in graph order.
    """

    graph: GraphProgram
    skeleton: ir.Model
    matrices: tuple[FloatMatrix, ...]


@dataclass(frozen=True)
class Quantiser:
    """x ~ scale * (q - zero_point), q unsigned of ``bits`` bits. Belongs to a tensor: its consumers share the codes."""

    tensor: str
    scale: float
    zero_point: int
    bits: int

    @property
    def largest(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1


@dataclass(frozen=True)
class Kept:
    """Indices that survive compaction, per group: group g keeps ``indices[offsets[g]:offsets[g + 1]]``.

    They stand in the order of the lines of the arrays: ascending, unless ``reorder`` gave them another order. No index
    stands twice in a group.
    """

    indices: IntArray
    offsets: IntArray

    def of(self, group: int) -> IntArray:
        """Kept indices of one group."""
        return self.indices[self.offsets[group] : self.offsets[group + 1]]

    def counts(self) -> IntArray:
        """How many each group keeps, [G]."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Reordering:
    """What another order of the lines of one operation came to.

    Attributes:
        tiles_before, tiles_after: array positions that hold a weight, in ascending order and in the order chosen.
        bound: array positions that no order of the lines could do without.
        row_bits, col_bits: bits of an entry of the table that says which input a word line reads, and to which output
            channel a bit line belongs; 0 where the order is ascending still.
        routing_bytes: memory of those two tables.
    """

    tiles_before: int
    tiles_after: int
    bound: int
    row_bits: int
    col_bits: int
    routing_bytes: int


@dataclass(frozen=True)
class MatrixOp:
    """One weight-stationary operation as integers.

    Attributes:
        name: layer name.
        shape: how its vectors are formed.
        codes: int16 [G, K, N], uncompacted; weight zero points subtracted.
        scale: float32 [G, N], weight scale of each output channel.
        bias: float32 [G, N] or None.
        input: quantiser of the input tensor.
        vectors: matrix-vector products per inference and group.
        rows, cols: what compaction keeps of K and N (everything, before it ran).
        element: ONNX element type of input and output.
        weight_bits: bits of the codes, sign included.
        reorder: what ``reorder`` gained, or found that there is none to gain; None where it did not run.
    """

    name: str
    shape: ConvShape | MatMulShape
    codes: CodeArray
    scale: FloatArray
    bias: FloatArray | None
    input: Quantiser
    vectors: int
    rows: Kept
    cols: Kept
    element: ir.DataType
    weight_bits: int
    reorder: Reordering | None = None


@dataclass(frozen=True)
class CodeSample:
    """What calibration saw of one layer: input codes as vectors, for converter ranges.

    Attributes:
        vectors: uint16 [V, G, K] input codes of a few hundred vectors drawn from the calibration data.
    """

    vectors: npt.NDArray[np.uint16]


@dataclass(frozen=True)
class InputStatistics:
    """What calibration saw of a layer's inputs, phase by phase, lowest bits first.

    Attributes:
        mean: float32 [phases, G, K], mean of digit / largest digit: what a row adds to the sums.
        square: float32 [phases, G, K], mean of (digit / largest digit)^2: what a row burns, in units of full drive.
        nonzero: float32 [phases, G, K], share of vectors in which the row is driven at all.
        idle: float32 [phases, G], share of vectors in which no row of the group is driven.
    """

    mean: FloatArray
    square: FloatArray
    nonzero: FloatArray
    idle: FloatArray


@dataclass(frozen=True)
class MatrixProgram:
    """MATRIX: integer matrices.

    Attributes:
        lowered: where they came from.
        ops: one per placeholder, in graph order.
        digital_ops: element operations per inference of each node of the skeleton that stays digital, by node name.
        samples: input codes that calibration saw, by layer, where the target's converter ranges are calibrated.
        statistics: of the inputs, by layer; none where no data were given.
    """

    lowered: LoweredProgram
    ops: tuple[MatrixOp, ...]
    digital_ops: Mapping[str, int]
    samples: Mapping[str, CodeSample] = field(default_factory=dict)
    statistics: Mapping[str, InputStatistics] = field(default_factory=dict)


# --- TILED -----------------------------------------------------------------------------------------------------------

TILE = np.dtype(
    [
        ("tile", np.int32),  # index of the array position within the layer; its arrays are consecutive
        ("group", np.int32),  # first group
        ("groups", np.int32),  # groups packed on the diagonal
        ("row", np.int32),  # first row, an index into the kept rows of the group
        ("rows", np.int32),  # word lines that hold weights: kept rows, those of packed groups together
        ("col", np.int32),  # first column, an index into the kept columns
        ("cols", np.int32),
        ("slice", np.int8),  # slice held, or -1: all, in adjacent columns
        ("polarity", np.int8),  # +1, -1, or 0: both in adjacent columns (or an encoding without pairs)
    ]
)
"""One row per physical array."""


@dataclass(frozen=True)
class TiledProgram:
    """TILED: the tile table of each operation, and what the dense mapping would have taken.

    Attributes:
        tables: one structured array (dtype TILE) per operation.
        dense: arrays of the dense mapping of each operation (no compaction, no pruning, no replicas).
    """

    matrix: MatrixProgram
    tables: tuple[npt.NDArray[np.void], ...]
    dense: tuple[int, ...]


# --- ANALOG ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnalogOp:
    """Encoding and converter settings of one operation.

    Attributes:
        shift: offset encoding: what was added to every code before slicing; 0 otherwise.
        flips: bool [arrays, columns]: physical columns that are stored complemented.
        signs: polarised encoding: bool [arrays, reads, tile_columns]: columns of weights whose codes count negative in
            that read; None otherwise.
        gain: ADC codes per unit of level times input code; at most 8 significant bits, so that products are exact.
        zoom: int8 [arrays, columns]: binary steps by which the range of a bit line's conversion is finer than the
            layer's, its gain being ``gain * 2**zoom``; one conversion of a pair has the same on both lines. None: 0.
        lossless: every column of every array converts without loss.
        live: int64 [arrays], cells that hold part of a weight: kept rows times kept columns of their own group.
        clipped: share of conversions that clip on the calibration vectors; None without calibration.
        adc_bits: int64 [arrays]: fewest bits of a converter of this target's kind, one code per unit, with which every
            conversion of the array is lossless given its own cells; 0 where no number of bits suffices.
    """

    shift: int
    flips: npt.NDArray[np.bool_]
    gain: float
    lossless: bool
    live: IntArray
    clipped: float | None
    adc_bits: IntArray
    signs: npt.NDArray[np.bool_] | None = None
    zoom: npt.NDArray[np.int8] | None = None

    @property
    def adc_range(self) -> BitRange:
        """Fewest bits over all arrays of the layer."""
        if not len(self.adc_bits):
            return NO_BITS
        found = self.adc_bits[self.adc_bits > 0].tolist()
        return BitRange(min(found, default=None), max(found) if len(found) == len(self.adc_bits) else None)


@dataclass(frozen=True)
class BitRange:
    """Bits that the arrays of a layer need, from the one with fewest to the one with most.

    Attributes:
        min, max: None where there are no arrays, or none (min) or not all of them (max) have such a number.
    """

    min: int | None
    max: int | None

    def __str__(self) -> str:
        if self.min is None:
            return "-"
        return str(self.min) if self.min == self.max else f"{self.min} to {self.max or 'any'}"

    def as_json(self) -> dict[str, int | None]:
        """The object that JSON outputs hold."""
        return {"min": self.min, "max": self.max}


NO_BITS = BitRange(None, None)
"""Of what has no arrays."""


@dataclass(frozen=True)
class Replication:
    """What copies of arrays gain, estimated before they are placed: transfers between tiles are not in it.

    Attributes:
        budget, arrays: that there are, and that are used.
        interval_before_s, interval_s, interval_bound_s: between two inferences with one copy of each layer, as it is,
            and the shortest that any copies within the budget allow.
        latency_before_s, latency_s, latency_bound_s: of one inference alone; no copies within the budget go below.
    """

    budget: int
    arrays: int
    interval_before_s: float
    interval_s: float
    interval_bound_s: float
    latency_before_s: float
    latency_s: float
    latency_bound_s: float


@dataclass(frozen=True)
class AnalogProgram:
    """ANALOG: one AnalogOp per operation.

    Attributes:
        replicas: copies of the arrays of each operation; empty: one of each. Copies are equal, cell by cell, and serve
            its vectors in turn.
        replication: what they gain; None where none were asked for.
        turns: of each operation, where layers take turns on the same arrays, written anew each time; empty: all of them
            are there at once.
        batch: inferences that go through one turn before the next.
    """

    tiled: TiledProgram
    analog: tuple[AnalogOp, ...]
    replicas: tuple[int, ...] = ()
    replication: Replication | None = None
    turns: tuple[int, ...] = ()
    batch: int = 1

    @property
    def copies(self) -> tuple[int, ...]:
        """Copies of the arrays of each operation."""
        return self.replicas or (1,) * len(self.analog)

    def turn(self, number: int) -> AnalogProgram:
        """The same with the arrays of one turn only: layers of others have none."""
        tables = tuple(
            table if own == number else table[:0] for table, own in zip(self.tiled.tables, self.turns, strict=True)
        )
        return replace(self, tiled=replace(self.tiled, tables=tables), turns=())


# --- PLACED ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Remapping:
    """Where the lines of an operation's arrays stand on a chip whose stuck cells are known.

    The arrays of one array position share the order of their lines. Lines are counted with spares: word lines after
    ``rows``, bit lines after the unit and reference columns.

    Attributes:
        word_lines: int16 [tiles, rows], word line of each row; no two the same.
        places: int16 [tiles, tile_columns], place of each column of weights: the bit lines p * columns_per_weight and
            following, or for p >= tile_columns spare ones; no two the same.
        swapped: bool [tiles, tile_columns], columns whose + and - cells have changed places (their sign is undone
            digitally).
        faults: int32 [stuck, 4], stuck cells of the arrays: array, word line, bit line, 1 on or 0 off.
        lines: word lines and bit lines of an array, spares included.
        harm_before, harm_after: sum over stuck cells of (deviation in level steps x worth of a step)^2.
    """

    word_lines: CodeArray
    places: CodeArray
    swapped: npt.NDArray[np.bool_]
    faults: npt.NDArray[np.int32]
    lines: tuple[int, int]
    harm_before: float
    harm_after: float


@dataclass(frozen=True)
class PlacedProgram:
    """PLACED: int32 [replicas * arrays, 4] per operation: chip, tile, core, array position within the core.

    Array a of replica r is row r * arrays + a.

    With ``remaps`` (one per operation, or none at all) the arrays of a chip with known stuck cells.
    """

    analog: AnalogProgram
    addresses: tuple[npt.NDArray[np.int32], ...]
    chips: int
    remaps: tuple[Remapping, ...] = ()


# --- SCHEDULED -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerSchedule:
    """When one operation works, in seconds from the start of an inference.

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
    """When one stage of the dataflow works: an analog layer's arrays, the digital unit behind them, a digital node.

    Attributes:
        name: of the node; of the unit behind a layer's arrays ``<layer>/requantise``.
        kind: input, analog, requantise or digital.
        tokens: positions that it works on per inference, one after the other.
        copies: that share them out.
        service_s: time for which a copy is busy with one.
        latency_s: from the start of a token to its result.
        start_s, end_s: of the first token, and end of the last result.
        busy_s: per inference, of the copy with most tokens.
    """

    name: str
    kind: str
    tokens: int
    copies: int
    service_s: float
    latency_s: float
    start_s: float
    end_s: float
    busy_s: float


@dataclass(frozen=True)
class Stream:
    """What waits between two stages: rows of a feature map for a window, a shortcut for the branch beside it.

    Attributes:
        producer, consumer: names of the stages.
        layer: index of the analog layer whose tiles hold it, -1 for none.
        tokens: most that wait at once, inferences following each other.
        bytes: of those.
        least_tokens: fewest with which the network comes to an end at all.
        window_bytes: (kernel rows - 1) x width + kernel columns tokens (the row buffer of ISAAC, section V); 0 where
            nothing slides.
    """

    producer: str
    consumer: str
    layer: int
    tokens: int
    bytes: float
    least_tokens: int
    window_bytes: float


@dataclass(frozen=True)
class Turn:
    """One turn of layers on the chips.

    Attributes:
        write_s, write_j: writing its arrays, cores side by side.
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
    """SCHEDULED: one LayerSchedule per operation, and the digital operations that stay in the graph.

    Attributes:
        layers: in the order of the operations.
        digital_s: start and end of each digital node of the skeleton, by node name.
        cycle_s: one read of an array, conversions included.
        latency_s: one inference from input to output.
        interval_s: time between two inferences in steady state.
        stages: of the dataflow, in topological order.
        streams: what waits between them.
        bounds_s: shortest interval that each resource allows: array, converter, digital, buffer, link, chip_link.
        spilled_bytes: of activations that do not fit the tiles of their layer, by layer.
        placement: bytes times links as placed (byte_hops), with arrays in the order of the layers (byte_hops_in_order),
            and the bound (byte_hops_bound); chip_bytes in and out of chips.
        turns: of layers on the same arrays, one after the other; empty: all layers are there at once. With turns
            ``latency_s`` is that of a whole batch, and ``interval_s`` its share of one inference.
    """

    placed: PlacedProgram
    layers: tuple[LayerSchedule, ...]
    digital_s: Mapping[str, tuple[float, float]]
    cycle_s: float
    latency_s: float
    interval_s: float
    stages: tuple[StageSchedule, ...] = ()
    streams: tuple[Stream, ...] = ()
    bounds_s: Mapping[str, float] = field(default_factory=dict)
    spilled_bytes: Mapping[str, float] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()
    placement: Mapping[str, float] = field(default_factory=dict)
