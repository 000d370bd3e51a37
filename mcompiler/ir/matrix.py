"""MATRIX: weight-stationary operations as float matrices (``lower``) and as integer ones (``quantise``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.ir.graph import ConstantKey, GraphProgram, Origin
from mcompiler.ir.packing import PacksModels

IntArray = npt.NDArray[np.int64]
CodeArray = npt.NDArray[np.int16]
FloatArray = npt.NDArray[np.float32]


ANALOG_DOMAIN = "mcompiler"
"""Domain of the placeholder nodes that ``lower`` puts in the place of analog operations."""


ANALOG_OP = "Analog"
"""Operator of those placeholders: one input [B, C, *spatial] or [..., K], one output, attribute ``site`` (a number)."""


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
        order: axes of that tensor in the order in which the product reads them, matrix rows last (x @ A^T transposes
            the tensor of A @ x); empty where the order is that of the tensor.
        label: for people: the PyTorch module path of the node where the file states one, else the layer name; unique.
        origin: the node of the user's model; None where the node was made from none.
        source: identity of the weights: layers with equal keys hold the same matrix.
        input_scale, input_zero_point, input_bits: the model's own input quantiser (unsigned codes), or None.
        input_stated: the model has these codes (QDQ); else it has floats of which its operators prove that the
            quantiser holds them.
        element: ONNX element type of input and output (FLOAT, FLOAT16, DOUBLE).
    """

    name: str
    shape: ConvShape | MatMulShape
    weights: npt.NDArray[np.floating]
    bias: FloatArray | None
    tensor: str
    element: ir.DataType
    label: str
    origin: Origin | None
    source: ConstantKey
    weight_codes: CodeArray | None = None
    weight_scale: FloatArray | None = None
    input_scale: float | None = None
    input_zero_point: int | None = None
    input_bits: int | None = None
    input_stated: bool = True
    order: tuple[int, ...] = ()

    def fixed_axes(self, rank: int) -> frozenset[int]:
        """Axes of the input tensor, of this rank, whose entries differ in what they are: rows, channels, groups.

        The other axes have one sample, or one vector, after the other.
        """
        order = self.order or tuple(range(rank))
        if isinstance(self.shape, ConvShape):
            return frozenset(range(1, rank))
        batch = self.shape.batch
        groups = {-3 - place for place, size in enumerate(reversed(batch)) if size > 1 and place + 3 <= rank}
        return frozenset(order[axis] for axis in (groups | {-1} if rank else ()))


@dataclass(frozen=True)
class LoweredProgram(PacksModels):
    """GRAPH with its analog nodes taken out: the result of ``lower``.

    Attributes:
        graph: the normalised float graph, with the original Conv, Gemm, MatMul nodes (calibration runs it).
        skeleton: the same graph with a placeholder node (ANALOG_DOMAIN, ANALOG_OP) for each analog operation.
        matrices: one per placeholder; the placeholder of the first has ``site`` 0.
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

    @classmethod
    def of_grid(cls, tensor: str, scale: float, smallest: int, largest: int, bits: int) -> Quantiser:
        """Quantiser of integer multiples of a scale, from ``smallest`` to ``largest`` of it.

        The code of zero is 0 without negative values, and in the middle where the codes have room on either side.
        """
        middle = 1 << (bits - 1)
        if smallest >= 0:
            return cls(tensor, scale, 0, bits)
        return cls(tensor, scale, middle if -smallest <= middle and largest < middle else -smallest, bits)

    @property
    def largest(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest value that a code stands for."""
        return -self.zero_point * self.scale, (self.largest - self.zero_point) * self.scale


@dataclass(frozen=True)
class Kept:
    """Indices that survive compaction, per group: group g keeps ``indices[offsets[g]:offsets[g + 1]]``.

    Their order is that of the lines of the arrays: ascending, unless ``reorder`` gave them another order. No index
    occurs twice in a group.
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
    """Result of reordering an operation's rows and columns.

    Attributes:
        tiles_before, tiles_after: array positions that hold a weight, in ascending order and in the order chosen.
        bound: array positions that no order of the lines could do without.
        row_bits, col_bits: bits of an entry of the table that says which input a word line reads, and to which output
            channel a bit line belongs; 0 where the order is still ascending.
        routing_bytes: memory of those two tables.
    """

    tiles_before: int
    tiles_after: int
    bound: int
    row_bits: int
    col_bits: int
    routing_bytes: int


@dataclass(frozen=True)
class WeightMatrix:
    """A constant of the model as integer weights: held once, however many sites use it.

    Attributes:
        label: for messages: the name of the first site that uses it.
        codes: int16 [G, K, N], uncompacted; weight zero points subtracted.
        scale: float32 [G, N], weight scale of each output channel.
        weight_bits: bits of the codes, sign included.
        rows, cols: indices of K and N that compaction keeps (all of them, before it ran).
        reorder: gain of ``reorder``, which may be none; None where it did not run.
    """

    label: str
    codes: CodeArray
    scale: FloatArray
    weight_bits: int
    rows: Kept
    cols: Kept
    reorder: Reordering | None = None


@dataclass(frozen=True)
class Site:
    """One use of a matrix: a layer of the network.

    Attributes:
        matrix: index of the matrix in its program.
        name: layer name of the JSON outputs: name of the ONNX node.
        label: for people; unique in a program.
        origin: the node of the user's model; None where no node of it is this layer. Its path leads through the bodies
            in which the site lies.
        shape: how its vectors are formed.
        input: quantiser of the input tensor.
        bias: float32 [G, N] or None.
        vectors: matrix-vector products per inference and group, all steps together.
        element: ONNX element type of input and output.
        steps: parts of the vectors that depend on one another (time steps of a recurrence, iterations of a loop); a
            step begins when the one before has its result. 1: all vectors may follow at once.
    """

    matrix: int
    name: str
    label: str
    origin: Origin | None
    shape: ConvShape | MatMulShape
    input: Quantiser
    bias: FloatArray | None
    vectors: int
    element: ir.DataType
    steps: int = 1


@dataclass(frozen=True)
class AnalogLayer:
    """A site together with the matrix that it uses."""

    site: Site
    matrix: WeightMatrix

    @property
    def results(self) -> int:
        """Elements of its output per inference."""
        groups, _, columns = self.matrix.codes.shape
        return int(self.site.vectors * groups * columns)


@dataclass(frozen=True)
class CodeSample:
    """Input codes of one layer in calibration, as vectors: for converter ranges.

    Attributes:
        vectors: uint16 [V, G, K] input codes of a few hundred vectors drawn from the calibration data.
        bits: of an input code.
    """

    vectors: npt.NDArray[np.uint16]
    bits: int


@dataclass(frozen=True)
class InputStatistics:
    """Statistics of a layer's inputs in calibration, phase by phase, lowest bits first.

    Attributes:
        mean: float32 [phases, G, K], mean of digit / largest digit, to which the sums are proportional.
        square: float32 [phases, G, K], mean of (digit / largest digit)^2: power of a row as a share of that at full
            drive.
        nonzero: float32 [phases, G, K], share of vectors in which the row is driven at all.
        idle: float32 [phases, G], share of vectors in which no row of the group is driven.
    """

    mean: FloatArray
    square: FloatArray
    nonzero: FloatArray
    idle: FloatArray


@dataclass(frozen=True)
class MatrixProgram:
    """MATRIX: integer matrices, and the sites that use them.

    Attributes:
        lowered: the program from which they were made.
        matrices: each used by one site at least.
        sites: one per placeholder, in graph order; placeholder and site have the same number.
        digital_ops: element operations per inference of each node of the skeleton, by its position there.
        samples: input codes in calibration, by site; None where converter ranges are not calibrated.
        statistics: of the inputs, by site; None where no data were given.
        sqnr_db: signal to error of each site alone on calibration data, by site; None where it is exact or not known.
    """

    lowered: LoweredProgram
    matrices: tuple[WeightMatrix, ...]
    sites: tuple[Site, ...]
    digital_ops: Mapping[int, int]
    samples: tuple[CodeSample | None, ...] = ()
    statistics: tuple[InputStatistics | None, ...] = ()
    sqnr_db: tuple[float | None, ...] = ()

    @property
    def layers(self) -> tuple[AnalogLayer, ...]:
        """The sites, each with its matrix."""
        return tuple(AnalogLayer(site, self.matrices[site.matrix]) for site in self.sites)

    def sample(self, site: int) -> CodeSample | None:
        """Input codes of one site in calibration."""
        return self.samples[site] if self.samples else None

    def first_site(self, matrix: int) -> Site:
        """The first site that uses a matrix: where results of a matrix are shown."""
        return self.sites[self.sites_of(matrix)[0]]

    def sites_of(self, matrix: int) -> tuple[int, ...]:
        """Numbers of the sites that use a matrix."""
        return tuple(number for number, site in enumerate(self.sites) if site.matrix == matrix)
