"""Data-dependent energy: cells, word lines and converters of a mapped network at given inputs.

A fixed energy per event assumes a typical cell at a typical input. Here every cell counts with its conductance, every
row with the mean square of its input, and a conversion with its code, where the converter's energy depends on it. The
inputs are either densities per row and phase from the calibration data (mean field), or single vectors (exact). The
energy of ohmic cells is linear in the squared digit, so that both agree for the same vectors, however rows are
correlated. Codes are not linear in the sums: because of signs, rounding and clipping the mean field is an estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance import conductances, make_adc, round_codes, unpack_levels
from mcompiler.cost.tables import PricedQuantities
from mcompiler.dataflow import conversions_per_read
from mcompiler.effects import CellCurve
from mcompiler.errors import BuildError
from mcompiler.geometry import ArrayShape, array_shape, tile_blocks
from mcompiler.ir import InputStatistics
from mcompiler.pricing import Quantity
from mcompiler.target import Event, Target, prices, segment_farads, unit_counts

if TYPE_CHECKING:
    from mcompiler.artefacts.layers import LayerData

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class DataEnergy:
    """Energies of one layer per inference, in J.

    Attributes:
        name: of the layer.
        cells_fixed: energy by the components that price reads of arrays or cells.
        cells: V I t of every cell of its arrays, t the read pulse; unused columns conduct too.
        lines_fixed, lines: charging the word lines, C V^2 of every segment: at mean inputs, and at these.
        dac_fixed, dac: DAC energy if all rows were driven, and of the rows that are.
        adc_fixed, adc: ADC energy at full scale, and at the actual codes.
    """

    name: str
    cells_fixed: float
    cells: float
    lines_fixed: float
    lines: float
    dac_fixed: float
    dac: float
    adc_fixed: float
    adc: float

    def as_json(self) -> dict[str, Any]:
        """The object that ``cost --data --json`` prints."""
        return {"name": self.name, **{f"{each.name}_j": getattr(self, each.name) for each in fields(self)[1:]}}


@dataclass(frozen=True)
class LayerInputs:
    """Statistics of the inputs of a layer that determine its energy: means over its vectors.

    Attributes:
        power: [G, K], sum over the phases of V I of a row's cells, relative to full drive.
        square: [G, K], sum over the phases of (voltage of the row relative to full drive)^2.
        driven: [G, K], number of phases in which the row is driven.
        codes: sum over all conversions of |code| / full scale, without unit and reference columns.
    """

    power: Floats
    square: Floats
    driven: Floats
    codes: float


def data_energy(
    layers: Iterable[LayerData],
    counts: PricedQuantities,
    target: Target,
    inputs: Sequence[LayerInputs] | None = None,
) -> tuple[DataEnergy, ...]:
    """Energies of every layer, and last of all of them; cells are read one array at a time.

    Args:
        layers: with their cells and the statistics of their inputs.
        counts: of the same build.
        target: the chip.
        inputs: of every layer; None: the mean field of what calibration saw.

    Raises:
        BuildError: no statistics; the build was made without calibration data.
    """
    found = []
    for number, layer in enumerate(layers):
        if inputs is None and layer.statistics is None:
            raise BuildError(
                f"layer '{layer.op.site.name}' has no statistics of its inputs: the build was made without calibration "
                "data; compile with --calibration DATA.npz, or give inputs (--exact DATA.npz)"
            )
        own = mean_field(layer, layer.statistics, target) if inputs is None else inputs[number]
        found.append(_layer(layer, own, counts, target))
    names = [each.name for each in fields(DataEnergy)[1:]]
    return (*found, DataEnergy("total", *(sum(getattr(each, name) for each in found) for name in names)))


def mean_field(layer: LayerData, seen: InputStatistics | None, target: Target) -> LayerInputs:
    """Inputs from their densities: cells are taken as ohmic, codes are those of the mean sums."""
    assert seen is not None  # checked by the caller
    square, nonzero = (part.sum(axis=0, dtype=np.float64) for part in (seen.square, seen.nonzero))
    codes = 0.0
    if code_share(target):
        largest = (1 << target.converters.dac.bits) - 1
        codes = Converted(layer, target).shares([phase[None] * largest for phase in seen.mean], rounded=False)
    return LayerInputs(square, square, nonzero, codes)


class ExactInputs:
    """Accumulates the statistics of a layer's inputs vector by vector.

    Args:
        layer: the layer.
        target: the chip.
    """

    def __init__(self, layer: LayerData, target: Target) -> None:
        bits, shape = target.converters.dac.bits, layer.op.matrix.codes.shape[:2]
        self._bits, self._phases = bits, -(-layer.op.site.input.bits // bits)
        self._converted = Converted(layer, target) if code_share(target) else None
        shares = np.arange(1 << bits) / ((1 << bits) - 1)
        curve, volts = CellCurve.of(target), target.device.read_voltage_v
        self._power = shares * (shares if curve is None else curve.current(shares * volts) / volts)
        self._burnt = np.zeros(shape)
        self._statistics = np.zeros((3, self._phases, *shape))
        self._codes, self._count = 0.0, 0

    def add(self, vectors: Vectors) -> None:
        """Add the input codes of vectors, [V, G, K]."""
        largest = (1 << self._bits) - 1
        digits = [(vectors >> (phase * self._bits)) & largest for phase in range(self._phases)]
        for phase, digit in enumerate(digits):
            share = digit / largest
            self._burnt += self._power[digit].sum(axis=0)
            self._statistics[:, phase] += [share.sum(axis=0), np.square(share).sum(axis=0), (digit != 0).sum(axis=0)]
        if self._converted is not None:
            self._codes += self._converted.shares([digit.astype(np.float32) for digit in digits]) * len(vectors)
        self._count += len(vectors)

    def inputs(self) -> LayerInputs:
        """The exact means."""
        count = max(1, self._count)
        _, square, driven = self._statistics.sum(axis=1) / count
        return LayerInputs(self._burnt / count, square, driven, self._codes / count)

    def statistics(self) -> InputStatistics:
        """The densities of the same vectors; the share of idle phases is not recorded."""
        mean, square, nonzero = (self._statistics / max(1, self._count)).astype(np.float32)
        return InputStatistics(mean, square, nonzero, np.zeros(mean.shape[:2], np.float32))


class Converted:
    """The conversions of a layer with ideal devices.

    Args:
        layer: with its cells.
        target: the chip.
    """

    def __init__(self, layer: LayerData, target: Target) -> None:
        self._adc, self._gain = make_adc(target), layer.analog.gain
        self._blocks = layer.reads(target, array_shape(target))
        self._full = max(self._adc.largest, -self._adc.smallest)

    def shares(self, phases: Iterable[npt.NDArray[np.floating[Any]]], rounded: bool = True) -> float:
        """Sum over conversions of |code| / full scale, mean over vectors.

        Args:
            phases: digits of each phase, [V, G, K].
            rounded: whether to round to whole codes, as converters do; False for mean digits.
        """
        total, count = 0.0, 1
        for digits in phases:
            count = len(digits)
            for block in self._blocks:
                inputs = digits[:, block.group : block.group + block.groups].reshape(count, -1)[:, block.rows]
                present = (block.place_value != 0).reshape(-1)
                levels = block.levels.reshape(len(block.rows), -1)[:, present].astype(np.float32)
                sums = inputs.astype(np.float32) @ levels
                sums += np.float32(self._adc.pedestal) * inputs.sum(axis=1, keepdims=True, dtype=np.float32)
                codes = sums * (self._gain * block.zoomed.reshape(-1)[present]).astype(np.float32)
                if rounded:
                    codes = round_codes(self._adc, codes)
                total += float(np.abs(np.clip(codes, self._adc.smallest, self._adc.largest)).sum())
        return total / self._full / max(1, count)


def code_share(target: Target) -> float:
    """Largest share of an ADC's energy that depends on its code."""
    return max(
        (part.code_share for part in target.components.values() if part.event is Event.ADC_CONVERSION), default=0
    )


def _layer(layer: LayerData, inputs: LayerInputs, counts: PricedQuantities, target: Target) -> DataEnergy:
    events = counts.layers[layer.op.site.name].events
    shape = array_shape(target)
    siemens = square = driven = 0.0
    index = 0
    for chunk in layer.mapped_cells(shape):
        for packed in chunk:
            burnt, charged, active = _rows(layer, index, shape, inputs)
            levels = unpack_levels(packed, shape.storage_bits, shape.columns + shape.extra)
            line = conductances(levels[: len(burnt)], target).sum(axis=1)
            siemens += float(line @ burnt)
            square += float(charged.sum())
            driven += float(active.sum())
            index += 1
    device, array, vectors = target.device, target.array, layer.op.site.vectors
    volts = device.read_voltage_v**2
    segment = segment_farads(array) * unit_counts(target).bit_lines
    rate, wires = _event_prices(counts.cell_siemens(target)[layer.op.site.name], target)
    conversions = events[Event.ADC_CONVERSION]
    return DataEnergy(
        name=layer.op.site.name,
        cells_fixed=sum(rate[event] * events[event] for event in (Event.ARRAY_READ, Event.CELL_READ)),
        cells=vectors * volts * device.read_pulse_s * siemens,
        lines_fixed=wires * events[Event.DAC_DRIVE],
        lines=vectors * volts * segment * square,
        dac_fixed=rate[Event.DAC_DRIVE] * events[Event.DAC_DRIVE],
        dac=rate[Event.DAC_DRIVE] * vectors * driven,
        adc_fixed=rate[Event.ADC_CONVERSION] * conversions,
        adc=_conversions(layer, conversions, vectors * inputs.codes, shape, target),
    )


def _conversions(layer: LayerData, count: float, codes: float, shape: ArrayShape, target: Target) -> float:
    """Energy of conversions whose codes add up to ``codes`` full scales; other columns count at full scale."""
    reads = np.ceil(layer.table["rows"] / shape.rows_active)
    each = conversions_per_read(layer.table, shape, target)
    bare = conversions_per_read(layer.table, shape, target, extra=False)
    every = float((reads * each).sum())
    additional = count * (1 - float((reads * bare).sum()) / every) if every else 0.0
    return sum(
        part.energy_j * ((1 - part.component.code_share) * count + part.component.code_share * (codes + additional))
        for part in prices(target).values()
        if part.event is Event.ADC_CONVERSION
    )


def _event_prices(siemens: float, target: Target) -> tuple[dict[Event, float], float]:
    """Energy of each event in a layer, that of charging word lines apart: by event, and of the wires of one drive."""
    each, wires = dict.fromkeys(Event, 0.0), 0.0
    for part in prices(target).values():
        if part.event is None:
            continue
        if Quantity.WORD_SEGMENT_F in part.component.price_rule.quantities():
            wires += part.energy_j
        else:
            each[part.event] += part.energy_with(siemens)
    return each, wires


def _rows(layer: LayerData, index: int, shape: ArrayShape, inputs: LayerInputs) -> tuple[Floats, Floats, Floats]:
    """Power, square and drives of each word line of an array that holds weights: [rows]."""
    tile = layer.table[index]
    parts = [(block.group, block.rows) for block in tile_blocks(tile, layer.op.matrix.rows, layer.op.matrix.cols)]
    if int(tile["groups"]) > 1:  # an empty group has word lines too where others follow it
        members = range(int(tile["group"]), int(tile["group"]) + int(tile["groups"]))
        parts = [(member, layer.op.matrix.rows.of(member)) for member in members]
    power, square, driven = (
        np.concatenate([found[group, rows] for group, rows in parts])
        for found in (inputs.power, inputs.square, inputs.driven)
    )
    return power, square, driven
