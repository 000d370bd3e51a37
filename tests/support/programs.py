"""Helpers for tests below the graph: small targets, integer matrices, and programs of them at every level."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from hypothesis import strategies as st

from mcompiler.geometry import ArrayShape, TileTable, all_kept, array_shape
from mcompiler.ir import (
    ANALOG_DOMAIN,
    ANALOG_OP,
    AnalogLayer,
    AnalogProgram,
    ConvShape,
    GraphProgram,
    LoweredProgram,
    MatMulShape,
    MatrixProgram,
    PlacedProgram,
    Quantiser,
    ScheduledProgram,
    Site,
    TiledProgram,
    WeightMatrix,
)
from mcompiler.passes.assign import Assign
from mcompiler.passes.compact import Compact
from mcompiler.passes.place import Place
from mcompiler.passes.prune import Prune
from mcompiler.passes.schedule import Schedule
from mcompiler.passes.tile import Tile
from mcompiler.target import Target, load_target

Codes = npt.NDArray[np.signedinteger[Any]]


@lru_cache(maxsize=4096)
def target(*overrides: str, name: str = "generic_128") -> Target:
    """A shipped target with ``section.key=VALUE`` overrides."""
    return load_target(name, overrides)


OFFSET = ("encoding.weights=offset", "encoding.pedestal=digital_count")
"""Overrides that make generic_128 an offset target: codes shifted to be non-negative, pedestal undone by the count."""


def matrix_op(
    codes: Any,
    *,
    name: str = "layer",
    vectors: int = 1,
    input_bits: int = 8,
    zero_point: int = 0,
    weight_bits: int = 8,
    shape: ConvShape | MatMulShape | None = None,
) -> AnalogLayer:
    """An operation with the given codes, [G, K, N] or [K, N]; nothing compacted, scales 1, no bias."""
    array: npt.NDArray[np.int16] = np.asarray(codes, dtype=np.int16)
    array = array[None] if array.ndim == 2 else array
    groups, rows, cols = array.shape
    matrix = WeightMatrix(
        label=name,
        codes=array,
        scale=np.ones((groups, cols), dtype=np.float32),
        weight_bits=weight_bits,
        rows=all_kept(groups, rows),
        cols=all_kept(groups, cols),
    )
    site = Site(
        matrix=0,
        name=name,
        label=name,
        origin=None,
        shape=MatMulShape((groups,) if groups > 1 else ()) if shape is None else shape,
        input=Quantiser(f"{name}.input", 1.0, zero_point, input_bits),
        bias=None,
        vectors=vectors,
        element=ir.DataType.FLOAT,
    )
    return AnalogLayer(site, matrix)


def with_matrix(op: AnalogLayer, **changes: Any) -> AnalogLayer:
    """The operation with other fields of its matrix."""
    return replace(op, matrix=replace(op.matrix, **changes))


def with_site(op: AnalogLayer, **changes: Any) -> AnalogLayer:
    """The operation with other fields of its site."""
    return replace(op, site=replace(op.site, **changes))


def node(
    op: str, inputs: Sequence[ir.Value | None], name: str, domain: str = "", attributes: Sequence[ir.Attr] = ()
) -> ir.Node:
    """A node with one output, ``<name>.out``."""
    made = ir.Node(domain, op, inputs, attributes, name=name, num_outputs=1)
    made.outputs[0].name = f"{name}.out"
    return made


def placeholder(name: str, source: ir.Value, site: int = 0) -> ir.Node:
    """The node that stands for an analog operation."""
    return node(ANALOG_OP, [source], name, ANALOG_DOMAIN, [ir.AttrInt64("site", site)])


def skeleton(build: Callable[[ir.Value], Sequence[ir.Node]]) -> ir.Model:
    """A model with one input ``x``; ``build`` gives its nodes in order; output is that of the last one, or ``x``."""
    x = ir.Value(name="x")
    nodes = list(build(x))
    graph = ir.Graph([x], [nodes[-1].outputs[0] if nodes else x], nodes=nodes, opset_imports={"": 20, ANALOG_DOMAIN: 1})
    return ir.Model(graph, ir_version=10)


def chain(names: Sequence[str], sites: Sequence[int] | None = None) -> ir.Model:
    """Placeholders one after the other, numbered in order or by ``sites``."""

    def build(source: ir.Value) -> list[ir.Node]:
        nodes: list[ir.Node] = []
        for site, name in zip(range(len(names)) if sites is None else sites, names, strict=True):
            nodes.append(placeholder(name, source, site))
            source = nodes[-1].outputs[0]
        return nodes

    return skeleton(build)


def matrix_program(
    ops: Sequence[AnalogLayer], *, model: ir.Model | None = None, digital: Mapping[str, int] | None = None
) -> MatrixProgram:
    """A program of operations, by default one after the other. Its graph is the skeleton: nothing runs it.

    Operations that hold the same matrix object share its arrays. ``digital``: operations of digital nodes, by name.
    """
    shell = chain([op.site.name for op in ops]) if model is None else model
    lowered = LoweredProgram(GraphProgram(shell, ()), shell, ())
    matrices: list[WeightMatrix] = []
    sites = []
    for op in ops:
        known = [number for number, matrix in enumerate(matrices) if matrix is op.matrix]
        if not known:
            matrices.append(op.matrix)
        sites.append(replace(op.site, matrix=known[0] if known else len(matrices) - 1))
    work = {position: (digital or {}).get(each.name or "", 0) for position, each in enumerate(shell.graph)}
    return MatrixProgram(lowered, tuple(matrices), tuple(sites), work)


def tiled(program: MatrixProgram, chip: Target, *, compact: bool = True, prune: bool = True) -> TiledProgram:
    """The program cut into arrays."""
    cut = Tile().run(Compact().run(program, chip) if compact else program, chip)
    return Prune().run(cut, chip) if prune else cut


def analog(program: MatrixProgram, chip: Target, *, compact: bool = True, prune: bool = True) -> AnalogProgram:
    """The program with its encoding and converters."""
    return Assign().run(tiled(program, chip, compact=compact, prune=prune), chip)


def placed(program: MatrixProgram, chip: Target, chips: int | None = None) -> PlacedProgram:
    """The program with addresses."""
    return Place(chips).run(analog(program, chip), chip)


def scheduled(program: MatrixProgram, chip: Target) -> ScheduledProgram:
    """The program with start times and events."""
    return Schedule().run(placed(program, chip), chip)


@dataclass(frozen=True)
class Case:
    """One operation that a target holds, and how far the passes before ``assign`` shrink it."""

    overrides: tuple[str, ...]
    op: AnalogLayer
    compact: bool
    prune: bool

    @property
    def chip(self) -> Target:
        """The target."""
        return target(*self.overrides)

    @property
    def shape(self) -> ArrayShape:
        """Array geometry of the target."""
        return array_shape(self.chip)

    def analog(self) -> AnalogProgram:
        """The operation as a program with its encoding and converters."""
        return analog(matrix_program([self.op]), self.chip, compact=self.compact, prune=self.prune)


def shape_overrides(
    levels: int, slices: int, rows: int, columns: int, rows_active: int, separate_slices: bool, separate_pairs: bool
) -> list[str]:
    """Overrides for small arrays; columns count weights, so that one always fits."""
    return [
        f"device.levels={levels}",
        f"array.rows={rows}",
        f"array.columns={columns}",
        f"array.rows_active={rows_active}",
        f"encoding.slices={slices}",
        f"encoding.slices_in={'separate' if separate_slices else 'adjacent'}",
        f"encoding.pairs_in={'separate' if separate_pairs else 'adjacent'}",
        "precision.weights=2",
        "converters.adc.bits=20",
    ]


@st.composite
def overrides(draw: st.DrawFn) -> tuple[str, ...]:
    """Targets of small arrays of every encoding, layout, pedestal and cell size; converters of 20 bits and more."""
    encoding = draw(st.sampled_from(["differential", "offset", "polarised"]))
    offset = encoding == "offset"
    levels = draw(st.sampled_from([2, 3, 4, 5, 8, 16]))
    bits = levels.bit_length() - 1
    slices = draw(st.integers(2 if offset and bits == 1 else 1, max(2, 8 // bits)))
    separate_slices, separate_pairs = draw(st.booleans()), draw(st.booleans())
    measured = not offset and draw(st.integers(0, 3)) == 0
    slices = 1 if measured else slices
    cells = (1 if separate_slices else slices) * (1 if encoding != "differential" or separate_pairs else 2)
    rows = draw(st.integers(1, 9))
    columns = cells * draw(st.integers(1, 4)) + draw(st.integers(0, cells - 1))
    active = draw(st.integers(1, rows))
    keys = shape_overrides(levels, slices, rows, columns, active, separate_slices, separate_pairs)
    if offset:
        flip = draw(st.booleans())
        pedestal = draw(st.sampled_from(["reference_column", "digitised_reference", "digital_count"]))
        unit = draw(st.sampled_from(["unit_column", "digital"]))
        keys += ["encoding.weights=offset", f"encoding.flip={str(flip).lower()}"]
        keys += [f"encoding.pedestal={pedestal}", f"encoding.input_sum={unit}"]
    elif encoding == "polarised":
        pedestal = draw(st.sampled_from(["reference_column", "digitised_reference", "digital_count"]))
        keys += ["encoding.weights=polarised", f"encoding.pedestal={pedestal}"]
    elif measured and draw(st.booleans()):
        keys += ["encoding.partner=unformed"]
    elif draw(st.booleans()):
        keys += ["encoding.subtract=after_adc", "encoding.pedestal=digital_count"]
    if measured:
        means = draw(st.lists(st.integers(0, 5000), min_size=levels, max_size=levels, unique=True))
        keys += [f"device.level_means={sorted(means)}", "converters.adc.bits=24"]
    keys += [f"converters.dac.bits={draw(st.integers(1, 3))}"]
    return tuple(keys)


def largest_codes(chip: Target) -> tuple[int, int]:
    """Smallest and largest weight code that the cells of a target hold, shift of half the range (offset encoding)."""
    if chip.has_level_table:
        return -chip.cell_steps[-1], chip.cell_steps[-1]
    span = 1 << (chip.device.bits * chip.encoding.slices)
    return (-span // 2, span // 2 - 1) if chip.encoding.weights == "offset" else (1 - span, span - 1)


@st.composite
def operations(draw: st.DrawFn, chip: Target) -> AnalogLayer:
    """Codes that the target holds: dense or sparse, with vanished rows, columns, groups and tiles; or none at all."""
    if draw(st.booleans()):  # small groups, of which several fit one array
        groups, rows, cols = draw(st.integers(2, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 2))
    else:
        groups, rows, cols = draw(st.integers(1, 3)), draw(st.integers(1, 20)), draw(st.integers(1, 10))
    low, high = largest_codes(chip)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    codes = rng.integers(low, high + 1, (groups, rows, cols))
    if chip.has_level_table:
        codes = rng.choice(chip.cell_steps, codes.shape) * rng.choice([-1, 1], codes.shape)
    if draw(st.booleans()):  # extremes: half of all codes at the ends
        ends = rng.choice([low, high], codes.shape)
        codes = np.where(rng.random(codes.shape) < 0.5, ends, codes)
    density = draw(st.sampled_from([0.0, 0.2, 0.6, 1.0]))
    codes = np.where(rng.random(codes.shape) < density, codes, 0)
    for axis in draw(st.sets(st.integers(0, 2))):
        gone = np.flatnonzero(rng.random(codes.shape[axis]) < 0.4)
        np.moveaxis(codes, axis, 0)[gone] = 0
    return matrix_op(codes, input_bits=draw(st.integers(chip.converters.dac.bits, 8)))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """An operation on a target, compacted and pruned or not."""
    keys = draw(overrides())
    chip, compact = target(*keys), draw(st.booleans())
    op = draw(operations(chip))
    if chip.encoding.weights == "polarised":
        op = one_sign(op, chip, compact, draw(st.integers(0, 2**32 - 1)))
    return Case(keys, op, compact, draw(st.booleans()))


def one_sign(op: AnalogLayer, chip: Target, compact: bool = True, seed: int = 0) -> AnalogLayer:
    """The operation with one random sign in every column of every fragment, as polarised weights must have it."""
    program = tiled(matrix_program([op]), chip, compact=compact, prune=False)
    kept, table, shape = program.matrix.layers[0], program.tables[0], array_shape(chip)
    tiles = len(table) // shape.arrays_per_tile
    signs = np.random.default_rng(seed).choice([-1, 1], (tiles, shape.reads, shape.tile_columns))
    codes = np.abs(op.matrix.codes)
    for spot in spots(kept, table):
        sign = signs[spot.array // shape.arrays_per_tile, spot.line // shape.rows_active, spot.column]
        codes[spot.group, spot.row, spot.col] = sign * abs(int(op.matrix.codes[spot.group, spot.row, spot.col]))
    return with_matrix(op, codes=codes)


def kept_of(op: AnalogLayer) -> list[tuple[list[int], list[int]]]:
    """Kept rows and columns of every group, read off ``Kept`` by its definition."""
    found = []
    for group in range(len(op.matrix.codes)):
        rows = [
            int(i)
            for i in op.matrix.rows.indices[int(op.matrix.rows.offsets[group]) : int(op.matrix.rows.offsets[group + 1])]
        ]
        cols = [
            int(i)
            for i in op.matrix.cols.indices[int(op.matrix.cols.offsets[group]) : int(op.matrix.cols.offsets[group + 1])]
        ]
        found.append((rows, cols))
    return found


@dataclass(frozen=True)
class Spot:
    """Where one weight stands: its indices, the row of the tile table, word line and logical column."""

    group: int
    row: int
    col: int
    array: int
    line: int
    column: int


def spots(op: AnalogLayer, table: TileTable) -> Iterator[Spot]:
    """Every weight of every array, read off the tile table by its definition (packed groups on the diagonal)."""
    kept = kept_of(op)
    for index, entry in enumerate(table):
        group, groups = int(entry["group"]), int(entry["groups"])
        if groups == 1:
            rows = kept[group][0][int(entry["row"]) : int(entry["row"]) + int(entry["rows"])]
            cols = kept[group][1][int(entry["col"]) : int(entry["col"]) + int(entry["cols"])]
            assert (len(rows), len(cols)) == (int(entry["rows"]), int(entry["cols"]))
            members = [(group, rows, cols)]
        else:
            assert int(entry["row"]) == int(entry["col"]) == 0
            members = [(member, *kept[member]) for member in range(group, group + groups)]
            assert sum(len(rows) for _, rows, _ in members) == int(entry["rows"])
            assert sum(len(cols) for _, _, cols in members) == int(entry["cols"])
        line = column = 0
        for member, rows, cols in members:
            for i, row in enumerate(rows):
                for j, col in enumerate(cols):
                    yield Spot(member, row, col, index, line + i, column + j)
            line += len(rows)
            column += len(cols)
