"""Energy that knows the data: what cells and word lines of a mapped network really take, at the inputs that were seen.

A fixed energy per event takes a typical cell at a typical input. Here every cell counts with its conductance, and every
row with the mean square of what is applied to it. What ohmic cells burn is linear in that square, so that the mean over
inputs is exact from these densities alone, however rows are correlated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance import conductances, unpack_levels
from mcompiler.cost.tables import Counts
from mcompiler.errors import BuildError
from mcompiler.geometry import ArrayShape, array_shape, tile_blocks
from mcompiler.target import Event, Target

if TYPE_CHECKING:
    from mcompiler.artefacts.layers import LayerData

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DataEnergy:
    """Energies of one layer per inference, in J.

    Attributes:
        name: of the layer.
        cells_fixed: what the components that price reads of arrays or cells say.
        cells: V^2 G t of every cell of its arrays, t the read pulse; unused columns conduct too.
        lines: charging the word lines, C V^2 of every segment.
        dac_fixed, dac: drives of all rows, and of those that are driven.
    """

    name: str
    cells_fixed: float
    cells: float
    lines: float
    dac_fixed: float
    dac: float

    def as_json(self) -> dict[str, Any]:
        """The object that ``cost --data --json`` prints."""
        return {
            "name": self.name, "cells_fixed_j": self.cells_fixed, "cells_j": self.cells, "lines_j": self.lines,
            "dac_fixed_j": self.dac_fixed, "dac_j": self.dac,
        }  # fmt: skip


def data_energy(layers: Iterable[LayerData], counts: Counts, target: Target) -> tuple[DataEnergy, ...]:
    """Energies of every layer, and of all of them as the last; cells are read an array at a time.

    Args:
        layers: with their cells and the statistics of their inputs.
        counts: of the same build.
        target: the chip.

    Raises:
        BuildError: no statistics; the build was made without calibration data.
    """
    found = [_layer(layer, counts, target) for layer in layers]
    total = DataEnergy(
        "total", *(sum(getattr(each, key) for each in found)
                   for key in ("cells_fixed", "cells", "lines", "dac_fixed", "dac")),
    )  # fmt: skip
    return (*found, total)


def _layer(layer: LayerData, counts: Counts, target: Target) -> DataEnergy:
    if layer.statistics is None:
        raise BuildError(
            f"layer '{layer.op.name}' has no statistics of its inputs: the build was made without calibration data; "
            "compile with --calibration DATA.npz"
        )
    events = counts.layers[layer.op.name].events
    shape = array_shape(target)
    square, nonzero = (
        getattr(layer.statistics, key).sum(axis=0, dtype=np.float64) for key in ("square", "nonzero")
    )  # [G, K], over all phases of a vector
    siemens = volts_squared = driven = 0.0
    index = 0
    for chunk in layer.mapped_cells(shape):
        for packed in chunk:
            rows, active = _rows(layer, index, shape, square, nonzero)
            levels = unpack_levels(packed, shape.storage_bits, shape.columns + shape.extra)
            line = conductances(levels[: len(rows)], target).sum(axis=1)
            siemens += float(line @ rows)
            volts_squared += float(rows.sum())
            driven += float(active.sum())
            index += 1
    device, array, vectors = target.device, target.array, layer.op.vectors
    volts = device.read_voltage_v**2
    segment = array.wire_capacitance_f * (shape.columns + shape.extra)
    rate = {event: _price(event, target) for event in (Event.ARRAY_READ, Event.CELL_READ, Event.DAC_DRIVE)}
    return DataEnergy(
        name=layer.op.name,
        cells_fixed=sum(rate[event] * events[event] for event in (Event.ARRAY_READ, Event.CELL_READ)),
        cells=vectors * volts * device.read_pulse_s * siemens,
        lines=vectors * volts * segment * volts_squared,
        dac_fixed=rate[Event.DAC_DRIVE] * events[Event.DAC_DRIVE],
        dac=rate[Event.DAC_DRIVE] * vectors * driven,
    )


def _price(event: Event, target: Target) -> float:
    return sum(component.energy_j for component in target.components.values() if component.event is event)


def _rows(layer: LayerData, index: int, shape: ArrayShape, square: Floats, nonzero: Floats) -> tuple[Floats, Floats]:
    """What is applied to each word line of an array that holds weights, over the phases of a vector: [rows]."""
    tile = layer.table[index]
    parts = [(block.group, block.rows) for block in tile_blocks(tile, layer.op.rows, layer.op.cols)]
    if int(tile["groups"]) > 1:  # a group that vanished has word lines too where others stand behind it
        members = range(int(tile["group"]), int(tile["group"]) + int(tile["groups"]))
        parts = [(member, layer.op.rows.of(member)) for member in members]
    return (
        np.concatenate([square[group, rows] for group, rows in parts]),
        np.concatenate([nonzero[group, rows] for group, rows in parts]),
    )
