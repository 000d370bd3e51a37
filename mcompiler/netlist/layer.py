"""The arrays of a layer as one SPICE deck."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcompiler.artefacts import LayerData
from mcompiler.artefacts.programming import DrawnCells, layer_conductances
from mcompiler.effects import Circuit, circuit_of, described
from mcompiler.errors import BuildError, DataError
from mcompiler.geometry import array_shape, tile_blocks
from mcompiler.netlist.names import notes_of
from mcompiler.netlist.spice import DeckArray, Write, sources_only, write_deck
from mcompiler.target import Target

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OnChip:
    """Arrays of a layer on one chip.

    Attributes:
        cells: conductances of its cells.
        circuit: of its arrays.
        title: which chip it is, for the first line of the deck.
    """

    cells: DrawnCells
    circuit: Circuit
    title: str


def write_layer(
    write: Write,
    layer: LayerData,
    target: Target,
    tile: int | None = None,
    *,
    inputs: npt.ArrayLike | None = None,
    vectors: npt.ArrayLike | None = None,
    on_chip: OnChip | None = None,
) -> None:
    """Write a deck of one array of a layer, or of all; one array at a time is in memory.

    Args:
        write: called with pieces of text.
        layer: the layer.
        target: the chip.
        tile: number of the array within the layer; None: all, one after the other.
        inputs: [rows] shares of the read voltage, 0 to 1, on the word lines of every array; None: all 1.
        vectors: [inputs] or [V, inputs] instead: shares for the inputs of the layer in the order groups x K; an
            array gets the inputs of its rows, and 0 on unused word lines.
        on_chip: cells and circuit of one chip; None: the cells that are asked for, in the circuit of the target.

    Raises:
        BuildError: no such array.
        DataError: inputs that do not fit the word lines, the layer or the drive.
    """
    name, count = layer.op.site.name, len(layer.table)
    if tile is not None and not 0 <= tile < count:
        raise BuildError(f"layer '{name}' has {count} arrays; there is no number {tile}")
    circuit = circuit_of(target, described(target)) if on_chip is None else on_chip.circuit
    rows = layer.lines(array_shape(target))[0]
    chosen = range(count) if tile is None else range(tile, tile + 1)
    applied = _applied(layer, chosen, circuit, rows=rows, inputs=inputs, vectors=vectors)
    what = f"array {tile}" if tile is not None else f"{count} arrays"
    title = f"layer '{name}', {what}, target {target.name}"
    if on_chip is not None:
        title += f", {on_chip.title}"
    tiles = _tiles(layer, target, tile, None if on_chip is None else on_chip.cells)
    write_deck(write, " ".join(title.split()), tiles, applied, circuit)


def _tiles(layer: LayerData, target: Target, tile: int | None, drawn: DrawnCells | None) -> Iterator[DeckArray]:
    shape = array_shape(target)
    for index, _, siemens in layer_conductances(layer, target, tile, drawn):
        if index < len(layer.table):  # copies have no deck
            yield DeckArray(f"a{index}", siemens, notes_of(layer, index, shape))


def _applied(
    layer: LayerData,
    chosen: range,
    circuit: Circuit,
    *,
    rows: int,
    inputs: npt.ArrayLike | None,
    vectors: npt.ArrayLike | None,
) -> Iterator[Floats]:
    """Inputs of the word lines of each array: [R] or [V, R]."""
    if vectors is None:
        x = _shares(np.ones(rows) if inputs is None else inputs, rows, "one a word line", (1,), circuit)
        return (x for _ in chosen)
    if inputs is not None:
        raise DataError("both inputs for word lines and vectors for the layer are given; give one of them")
    groups, depth, _ = layer.op.matrix.codes.shape
    whole = _shares(vectors, groups * depth, "one an input of the layer", (1, 2), circuit)
    if whole.ndim == 2 and not sources_only(circuit):
        raise DataError(
            f"{len(whole)} vectors, but driven gates and floating rows change the circuit with each vector; "
            "write one deck per vector"
        )
    by_group = whole.reshape(*whole.shape[:-1], groups, depth)
    return (word_lines(layer, index, rows, by_group) for index in chosen)


def word_lines(layer: LayerData, index: int, rows: int, values: Floats) -> Floats:
    """[..., rows] on the word lines of an array, from [..., G, K] inputs of the layer; 0 on unused lines."""
    lines = np.zeros((*values.shape[:-2], rows))
    where = np.arange(rows)
    if layer.remap is not None:
        copies = len(layer.table) // len(layer.remap.word_lines)
        where = layer.remap.word_lines[index // copies]
    for block in tile_blocks(layer.table[index], layer.op.matrix.rows, layer.op.matrix.cols):
        lines[..., where[block.row : block.row + len(block.rows)]] = values[..., block.group, block.rows]
    return lines


def _shares(given: npt.ArrayLike, size: int, one: str, axes: tuple[int, ...], circuit: Circuit) -> Floats:
    """[size] or, where two axes may be, [V, size]; checked."""
    x = np.asarray(given, dtype=np.float64)
    fits = x.ndim in axes and x.shape[-1] == size and len(x) > 0
    if not fits or not ((x >= 0) & (x <= 1)).all():
        raise DataError(f"inputs of shape {list(x.shape)}: give {size} shares from 0 to 1, {one}")
    if circuit.drive == "gate" and not np.isin(x, (0, 1)).all():
        raise DataError("inputs between 0 and 1: the target drives gates, which are on or off; give 0 or 1")
    return x
