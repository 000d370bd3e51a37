"""One seed is one chip: its arrays, from the level codes that a mapping asks for.

An array goes through the stages that ``mcompiler.effects.base`` lists, in each through the effects that are on, in
their order. Every effect of every array has its own random generator, so that effects can be switched one by one on the
same chip, and the numbers depend on neither the order of work nor the number of workers.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from mcompiler.conductance.cells import conductances
from mcompiler.conductance.states import STEADY, ArrayState, Fluctuations, LineStates, Variances
from mcompiler.effects import ArrayOnChip, Circuit, Correlation, Effect, TwoStates, circuit_of, in_order
from mcompiler.encodings import Levels, Partner
from mcompiler.errors import TargetError
from mcompiler.physics.compensate import predistort
from mcompiler.physics.nodal import linearise
from mcompiler.physics.wires import TransferCache
from mcompiler.target import Target

Siemens = npt.NDArray[np.float64]
Arrays = tuple[ArrayOnChip, ...]

CACHE_BYTES = 256 << 20
"""Transfer matrices that are kept: those of one chip are asked for again when effects are switched."""

ACTIVITY = 0.5
"""Share of active word lines at which a circuit is linearised where none has been measured."""

_RUNNING = 1 << 31  # in place of the number of an array: the stream of what is drawn while the chip runs


def seed_number(seed_key: str) -> int:
    """A text as a number that seeds generators."""
    return zlib.crc32(seed_key.encode())


@dataclass(frozen=True)
class LayerKey:
    """Which layer arrays belong to.

    Attributes:
        index: number of the layer, which ``Chip.activity`` and ``Chip.stuck`` are keyed by.
        seed_key: text from which the draws of its arrays are seeded: one text, one set of draws. Layers that share
            arrays give the same text.
    """

    index: int
    seed_key: str


@dataclass(frozen=True)
class Chip:
    """A chip at one time, with some of its effects switched on.

    Attributes:
        target: its description.
        seed: which of the many chips that the description allows.
        effects: those that are on.
        time_s: seconds since programming.
        averaged: whether all that changes between reads and inferences is at its mean.
        calibrated: whether drift and wires are compensated as ``[calibration]`` of the target says.
        activity: mean share of active word lines by layer, at which circuits that are not linear are linearised.
        cache: of transfer matrices; chips that are derived from one another share it.
        written: predistorted conductances and their scale by layer and first array; shared likewise.
        stuck: int32 [stuck, 4] by layer: array, word line, bit line, 1 on or 0 off, where the stuck cells of the chip
            are known; they are drawn for layers that are missing here.
    """

    target: Target
    seed: int
    effects: frozenset[Effect]
    time_s: float
    calibrated: bool = True
    averaged: bool = False
    activity: Mapping[int, float] = field(default_factory=dict)
    cache: TransferCache = field(default_factory=partial(TransferCache, CACHE_BYTES), repr=False, compare=False)
    written: dict[tuple[int, int], tuple[Siemens, float]] = field(default_factory=dict, repr=False, compare=False)
    stuck: Mapping[int, npt.NDArray[np.int32]] = field(default_factory=dict)

    @property
    def fluctuates(self) -> bool:
        """Whether conversions of one cell and input differ from read to read."""
        return self._has(Correlation.PER_READ) or self.converter_noise > 0

    @property
    def converter_noise(self) -> float:
        """Standard deviation of every conversion, in codes."""
        if self.averaged:
            return 0.0
        # Independent normals add in variance; hypot of one number is that number, to the bit.
        return float(np.hypot.reduce([effect.conversion_noise_codes(self.target) for effect in self._ordered] or [0.0]))

    @property
    def draws_states_per_read(self) -> bool:
        """Whether cells have two states that every read draws anew."""
        target, arrays = self.target, np.zeros((1, 1, 1), np.uint8)
        (array,) = self._arrays(LayerKey(0, ""), 0, arrays, conductances(arrays, target))
        states = (effect.two_states(array.written, array) for effect in self.effects)
        return any(each is not None and each.correlation is Correlation.PER_READ for each in states)

    @property
    def needs_single_sample_batches(self) -> bool:
        """Whether cells fluctuate between inferences: all samples of a batch would see one draw."""
        return self._has(Correlation.PER_INFERENCE)

    def realise(self, layer: LayerKey, first: int, levels: Levels) -> ArrayState:
        """Arrays of a layer as this chip has them.

        Args:
            layer: of the arrays.
            first: number of the first array within the layer.
            levels: uint8 [arrays, rows, columns + extra], level codes.
        """
        unit = self.target.unit_siemens
        wanted, share = self._predistorted(layer, first, conductances(levels, self.target))
        arrays = self._arrays(layer, first, levels, wanted)
        G = self._changed(arrays)
        scale = self._compensation(arrays, G) / share
        mean, moving = self._fluctuating(arrays, G)
        if self.averaged:
            mean, moving = mean - sum(each.low * each.loss for each in moving.states), STEADY
        cells = self._faulty(arrays, mean)
        # A cell that a fault changes does not fluctuate.
        moving = moving.scaled(cells == mean)
        currents, offset, moving = self._moving_currents(layer, cells, moving)
        state = ArrayState.with_nominal_converters(currents / unit, moving.scaled(1 / unit), offset / unit, scale)
        return self._converted(arrays, state)

    def cells(self, layer: LayerKey, first: int, levels: Levels) -> Siemens:
        """Conductances of the cells of arrays on this chip, siemens [arrays, rows, columns + extra].

        Cells that fluctuate have their mean; arguments as for ``realise``, which adds the circuit and the converters.
        """
        wanted, _ = self._predistorted(layer, first, conductances(levels, self.target))
        arrays = self._arrays(layer, first, levels, wanted)
        mean, moving = self._fluctuating(arrays, self._changed(arrays))
        return self._faulty(arrays, mean - sum(each.low * each.loss for each in moving.states))

    def inputs(self) -> npt.NDArray[np.float64] | None:
        """Share of an input code that its word line applies, by code; None where it is all of it.

        It follows the current-voltage curve of a cell, where no resistance is in series (else the linearisation
        includes it).
        """
        bits, curve = self.target.converters.dac.bits, self.circuit.curve
        if curve is None or bits == 1 or self.linearised:
            return None
        voltage = self.target.device.read_voltage_v
        shares = np.arange(1, 1 << bits) / ((1 << bits) - 1)
        return np.concatenate([[1.0], curve.current(shares * voltage) / (shares * voltage)])

    def seeds(self, seed_key: str) -> Iterator[int]:
        """Seeds of the draws while a layer runs; each below 2^24, so that float32 holds it.

        Layers that share arrays run at different times: each gives a separate text.
        """
        rng = np.random.default_rng([self.seed, seed_number(seed_key), _RUNNING])
        while True:
            yield int(rng.integers(1 << 24))

    # --- cells -------------------------------------------------------------------------------------------------------

    @property
    def _ordered(self) -> tuple[Effect, ...]:
        return in_order(self.effects)

    def _has(self, correlation: Correlation) -> bool:
        return not self.averaged and any(effect.correlation(self.target) is correlation for effect in self.effects)

    def _arrays(self, layer: LayerKey, first: int, levels: Levels, wanted: Siemens) -> Arrays:
        """The arrays as effects see them, after programming."""
        # With an unformed partner code 0 is a cell that was never formed, and level l of the device is code l + 1.
        unformed = int(self.target.encoding.partner is Partner.UNFORMED)
        ages = any(effect.ages_cells for effect in self.effects)
        known = self.stuck.get(layer.index)
        arrays = tuple(
            ArrayOnChip(
                self.target,
                np.maximum(codes.astype(np.int64) - unformed, 0),
                wanted=cells,
                written=cells,
                time_s=self.time_s,
                age_s=self.time_s if ages else None,
                seed=(self.seed, seed_number(layer.seed_key), number),
                stuck=None if known is None else known[known[:, 0] == number, 1:],
            )
            for number, (codes, cells) in enumerate(zip(levels, wanted, strict=True), first)
        )
        return self._written(arrays)

    def _written(self, arrays: Arrays) -> Arrays:
        """The arrays with their cells as they are right after programming."""
        found = []
        for array in arrays:
            G = array.wanted
            for effect in self._ordered:
                G = effect.write_cells(G, array)
            found.append(replace(array, written=G))
        return tuple(found)

    def _changed(self, arrays: Arrays) -> Siemens:
        """Cells with the errors that last: drawn once per chip, or once per chip and time."""
        found = []
        for array in arrays:
            G = array.written
            for effect in self._ordered:
                G = effect.change_cells(G, array)
            found.append(G)
        return np.stack(found)

    def _predistorted(self, layer: LayerKey, first: int, wanted: Siemens) -> tuple[Siemens, float]:
        """Conductances to write, and the share of the conductance above the pedestal that arrays with wires then hold.

        They are the same for all chips of a target, and are computed once.
        """
        calibration, device, lines = self.target.calibration, self.target.device, self.circuit.lines
        formed = wanted[wanted > 0]
        if not self.calibrated or calibration is None or not calibration.predistort or lines.perfect or not formed.size:
            return wanted, 1.0
        key = (layer.index, first)
        if key not in self.written:
            low, high = min(device.g_min_siemens, formed.min()), max(device.g_max_siemens, formed.max())
            pedestal = self.target.pedestal * self.target.unit_siemens
            found = predistort(wanted, lines, low, high, pedestal=pedestal)
            self.written[key] = found.conductances, found.scale
        return self.written[key]

    def _faulty(self, arrays: Arrays, G: Siemens) -> Siemens:
        """Cells with those that are stuck, and lines that are open."""
        found = np.empty_like(G)
        for place, (array, cells) in enumerate(zip(arrays, G, strict=True)):
            for effect in self._ordered:
                cells = effect.apply_faults(cells, array)
            found[place] = cells
        return found

    def _fluctuating(self, arrays: Arrays, G: Siemens) -> tuple[Siemens, Fluctuations]:
        """Means of cells (in the higher state of those that have two), and what changes, siemens.

        Independent normal fluctuations add in variance.
        """
        means = G.copy()
        sums: dict[Correlation, Siemens] = {}
        states: dict[Effect, list[TwoStates]] = {}
        for place, array in enumerate(arrays):
            for effect in self._ordered:
                found = effect.fluctuation(means[place], array)
                if found is not None:
                    means[place] = found.mean
                    sums.setdefault(found.correlation, np.zeros_like(G))[place] += found.variance
                two = effect.two_states(means[place], array)
                if two is not None:
                    states.setdefault(effect, []).append(two)
        normal = {kind: values for kind, values in sums.items() if values.any()}
        variance = Variances(normal.get(Correlation.PER_READ), normal.get(Correlation.PER_INFERENCE))
        lines = (
            LineStates(np.stack([each.loss for each in of_arrays]), of_arrays[0].low, of_arrays[0].correlation)
            for of_arrays in states.values()
        )
        return means, Fluctuations(variance, tuple(lines))

    def _compensation(self, arrays: Arrays, G: Siemens) -> npt.NDArray[np.float64]:
        """Digital factor on the codes of each array [arrays]: its current when first measured over that at the last."""
        factors = np.ones(len(arrays))
        for effect in self._ordered:
            times = effect.measurement_times(self.target, self.time_s)
            if self.calibrated and times is not None:
                then, now = (self._total(arrays, G, time_s) for time_s in times)
                factors *= np.divide(then, now, out=np.ones(len(arrays)), where=now > 0)
        return factors

    def _total(self, arrays: Arrays, G: Siemens, time_s: float) -> npt.NDArray[np.float64]:
        """Sum of all conductances of each array [arrays] at a time; G are those at the time of evaluation."""
        if time_s != self.time_s:
            # The same chip at another time: generators depend on the array and the effect, those of noise on the time.
            arrays = tuple(
                replace(array, time_s=time_s, age_s=None if array.age_s is None else time_s) for array in arrays
            )
            G = self._changed(self._written(arrays))
        return np.asarray(self._faulty(arrays, G).sum(axis=(1, 2)))

    # --- lines -------------------------------------------------------------------------------------------------------

    def _wired(self, layer: LayerKey, G: Siemens) -> tuple[Siemens, Siemens]:
        """Transfer conductances, siemens [arrays, rows, columns], and constant currents over voltage [arrays, columns].

        Raises:
            TargetError: a circuit that is not linear, in an array that is read in parts.
        """
        circuit = self.circuit
        if not self.linearised:
            through = G / (1 + G * circuit.access_ohm)
            lines = circuit.lines
            return through if lines.perfect else self.cache.transfer(through, lines), np.zeros((len(G), G.shape[2]))
        array = self.target.array
        if array.rows_active < array.rows:
            # Each part of a read would need a separate linearisation: the rows of the other parts are idle meanwhile.
            raise TargetError(
                f"target '{self.target.name}': wires or access resistances of arrays with drive = '{array.drive}', "
                f"idle_rows = '{array.idle_rows}' or curved cells are simulated for full reads only: set "
                f"array.rows_active = {array.rows}, or leave the effects wires and access out"
            )
        activity = np.full(G.shape[1], self.activity.get(layer.index, ACTIVITY))
        codes = (1 << self.target.converters.dac.bits) - 1  # the inputs of a linearisation are shares of the largest
        maps = [linearise(cells, activity, circuit, codes + 1) for cells in G]
        return np.stack([each.matrix for each in maps]), codes * np.stack([each.offset for each in maps])

    def _moving_currents(
        self, layer: LayerKey, cells: Siemens, moving: Fluctuations
    ) -> tuple[Siemens, Siemens, Fluctuations]:
        """As ``_wired``, and what changes in these currents, from what changes in the conductances, siemens."""
        circuit = self.circuit
        if circuit.lines.perfect and not self.linearised:
            # Each cell is in series with its own resistance only: both states are exact.
            series = circuit.access_ohm
            states = (
                replace(
                    each, loss=cells / (1 + cells * series) - (cells - each.loss) / (1 + (cells - each.loss) * series)
                )
                for each in moving.states
            )
            variance = moving.scaled(1 / (1 + cells * series) ** 2).variance
            return *self._wired(layer, cells), Fluctuations(variance, tuple(states))
        # The map is that of the mean conductances, around which the current is linear in the changes of the cells.
        means = cells - sum(each.low * each.loss for each in moving.states)
        currents, offset = self._wired(layer, means)
        if moving.steady:
            return currents, offset, moving
        # A small change of G changes the current by its derivative. Wires divide it as they divide the current itself,
        # by currents / cells. The derivative of G / (1 + G R) has the factor 1 / (1 + G R) of the current twice.
        reach = np.divide(currents, means, out=np.zeros_like(means), where=means > 0)
        moving = moving.scaled(reach / (1 + means * circuit.access_ohm))
        return currents + sum(each.low * each.loss for each in moving.states), offset, moving

    @property
    def circuit(self) -> Circuit:
        """The circuit of an array with the effects that are on."""
        return circuit_of(self.target, self.effects)

    @property
    def linearised(self) -> bool:
        """Whether a circuit is not linear and its resistances matter: a map at the mean activity replaces it."""
        circuit = self.circuit
        # A curved cell between perfect lines, nothing in series, sees its input voltage: ``inputs`` has the curve.
        ohmic = circuit.curve is None or not circuit.access_ohm
        return not circuit.linear and not (circuit.lines.perfect and ohmic)

    # --- converters --------------------------------------------------------------------------------------------------

    def _converted(self, arrays: Arrays, state: ArrayState) -> ArrayState:
        """With the errors of input and output converters."""
        for effect in self._ordered:
            errors = [found for found in map(effect.converter_errors, arrays) if found is not None]
            if not errors:
                continue
            driven = np.stack([each.input_gain for each in errors])[:, :, None]
            gain = np.stack([each.gain for each in errors])
            state = replace(
                state,
                currents=state.currents * driven,
                fluctuations=state.fluctuations.scaled(driven),
                gain=state.gain * gain,
                offset=state.offset * gain,
                trim=state.trim + np.stack([each.offset_codes for each in errors]),
                bow=state.bow + np.stack([each.bow_codes for each in errors]),
            )
        return state
