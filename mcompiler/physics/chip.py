"""One seed is one chip: what its arrays make of the level codes that a mapping asks for.

The order is that of a cell's life: written, drifted, with the noise that lasts, warmed, stuck, behind its access
resistance, on a line that may be open, between wires. Every effect of every array has a generator of its own, so that
effects can be switched one by one on the same chip, and no order of work or number of workers changes a number.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance.cells import conductances
from mcompiler.conductance.states import ArrayState
from mcompiler.encodings import Levels
from mcompiler.errors import TargetError
from mcompiler.physics import devices
from mcompiler.physics.compensate import predistort
from mcompiler.physics.effects import Effect
from mcompiler.physics.nodal import Circuit, linearise
from mcompiler.physics.wires import Lines, TransferCache
from mcompiler.target import Correlation, Partner, Target

Siemens = npt.NDArray[np.float64]
Fluctuation = npt.NDArray[np.inexact[Any]]
"""Variances: between reads, and between inferences as an imaginary part."""

CACHE_BYTES = 256 << 20
"""Transfer matrices that are kept: those of one chip are asked for again when effects are switched."""

ACTIVITY = 0.5
"""Share of active word lines that a linearisation takes where nothing has been measured."""

_ORDINAL = {effect: place for place, effect in enumerate(Effect)}


@dataclass(frozen=True)
class Chip:
    """A chip at one time, with some of its effects switched on.

    Attributes:
        target: what describes it.
        seed: which of the many chips that the description allows.
        effects: what is switched on.
        time_s: since programming.
        calibrated: whether drift and wires are compensated as ``[calibration]`` of the target says.
        activity: mean share of active word lines by layer, at which circuits that are not linear are linearised.
        cache: of transfer matrices; chips that come of one another share it.
        written: predistorted conductances and their scale by layer and first array; shared likewise.
        stuck: int32 [stuck, 4] by layer: array, word line, bit line, 1 on or 0 off, where the stuck cells of the chip
            are known; they are drawn for layers that it lacks.
    """

    target: Target
    seed: int
    effects: frozenset[Effect]
    time_s: float
    calibrated: bool = True
    activity: Mapping[str, float] = field(default_factory=dict)
    cache: TransferCache = field(default_factory=partial(TransferCache, CACHE_BYTES), repr=False, compare=False)
    written: dict[tuple[str, int], tuple[Siemens, float]] = field(default_factory=dict, repr=False, compare=False)
    stuck: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)

    @property
    def fluctuates(self) -> bool:
        """Whether conversions of one cell and input differ from read to read."""
        kinds = (self._noise(Effect.NOISE), self._noise(Effect.TELEGRAPH))
        return Correlation.PER_READ in kinds or self.converter_noise > 0

    @property
    def converter_noise(self) -> float:
        """Deviation of every conversion, in codes."""
        return self.target.converters.adc.noise_codes if self._has(Effect.CONVERTERS) else 0.0

    @property
    def frozen(self) -> bool:
        """Whether cells fluctuate between inferences: a batch holds one sample then."""
        return Correlation.PER_INFERENCE in (self._noise(Effect.NOISE), self._noise(Effect.TELEGRAPH))

    def realise(self, layer: str, first: int, levels: Levels) -> ArrayState:
        """Arrays of a layer as this chip has them.

        Args:
            layer: its name.
            first: number of the first array within the layer.
            levels: uint8 [arrays, rows, columns + extra], level codes.
        """
        device, numbers = self.target.device, range(first, first + len(levels))
        wanted, share = self._predistorted(layer, first, conductances(levels, self.target))
        G = self._each(layer, numbers, wanted, levels)
        scale = self._compensation(layer, numbers, wanted, levels, G) / share
        moving = self._variance(layer, numbers, G)
        if self._has(Effect.TELEGRAPH) and self._noise(Effect.TELEGRAPH) is not Correlation.STATIC_AT_T:
            G = devices.telegraph_moments(G, device, self._two_states(layer, numbers, G.shape[1:]))[0]
        cells = self._faulty(layer, numbers, G)
        currents, offset = self._wired(layer, cells)
        variance = None
        if moving is not None:
            reach = np.divide(currents, cells, out=np.zeros_like(cells), where=cells > 0)
            if self._has(Effect.ACCESS):
                reach = reach / (1 + cells * device.access_resistance_ohm)
            works = cells == G  # a cell that is stuck does not fluctuate
            variance = np.where(works, moving * (reach / self.target.unit_siemens) ** 2, 0)
        unit = self.target.unit_siemens
        return self._converted(layer, numbers, ArrayState.plain(currents / unit, variance, offset / unit, scale))

    def inputs(self) -> npt.NDArray[np.float64] | None:
        """Share of an input code that its word line really applies, by code; None where it is all of it.

        The bend of a current-voltage curve, where nothing stands in series (else the linearisation has it).
        """
        bits, curve = self.target.converters.dac.bits, self.circuit.curve
        if curve is None or bits == 1 or self.linearised:
            return None
        voltage = self.target.device.read_voltage_v
        shares = np.arange(1, 1 << bits) / ((1 << bits) - 1)
        return np.concatenate([[1.0], curve.current(shares * voltage) / (shares * voltage)])

    def seeds(self, layer: str) -> Iterator[int]:
        """Seeds for what is drawn anew while the chip runs; each below 2^24, which float32 holds."""
        rng = np.random.default_rng([self.seed, zlib.crc32(layer.encode()), 1 << 31])
        while True:
            yield int(rng.integers(1 << 24))

    # --- cells -------------------------------------------------------------------------------------------------------

    def _each(self, layer: str, numbers: range, wanted: Siemens, levels: Levels) -> Siemens:
        """Cells one array after the other, up to the noise that lasts."""
        device = self.target.device
        found = np.empty_like(wanted)
        unformed = int(self.target.encoding.partner is Partner.UNFORMED)
        for place, number in enumerate(numbers):
            G = wanted[place]
            if self._has(Effect.PROGRAMMING):
                level = np.maximum(levels[place].astype(np.int64) - unformed, 0)
                written = self.time_s if self._has(Effect.DRIFT) else devices.first_look_s(device)
                G = devices.programmed(G, level, device, self._rng(layer, number, Effect.PROGRAMMING), written)
            if self._has(Effect.DRIFT):
                G = devices.drifted(G, device, self._rng(layer, number, Effect.DRIFT), self.time_s)
            if self._noise(Effect.NOISE) is Correlation.STATIC_AT_T:
                G = devices.noisy(G, device, self._rng(layer, number, Effect.NOISE), self.time_s)
            if self._noise(Effect.TELEGRAPH) is Correlation.STATIC_AT_T:
                rng = self._rng(layer, number, Effect.TELEGRAPH)
                G = devices.telegraph(G, device, rng)
            found[place] = devices.warmed(G, device) if self._has(Effect.TEMPERATURE) else G
        return found

    def _predistorted(self, layer: str, first: int, wanted: Siemens) -> tuple[Siemens, float]:
        """Conductances to write, and the share of what is above the pedestal that arrays with their wires then hold.

        They are the same for all chips of a target, and found once.
        """
        calibration, device, lines = self.target.calibration, self.target.device, self.circuit.lines
        formed = wanted[wanted > 0]
        if not self.calibrated or calibration is None or not calibration.predistort or lines.perfect or not formed.size:
            return wanted, 1.0
        key = (layer, first)
        if key not in self.written:
            low, high = min(device.g_min_siemens, formed.min()), max(device.g_max_siemens, formed.max())
            pedestal = self.target.pedestal * self.target.unit_siemens
            found = predistort(wanted, lines, low, high, pedestal=pedestal)
            self.written[key] = found.conductances, found.scale
        return self.written[key]

    def _faulty(self, layer: str, numbers: range, G: Siemens) -> Siemens:
        """With stuck cells and open lines."""
        device = self.target.device
        if not self._has(Effect.FAULTS):
            return G
        if layer in self.stuck:
            G = self._known(self.stuck[layer], numbers, G)
        else:
            rngs = [self._rng(layer, number, Effect.FAULTS) for number in numbers]
            G = np.stack([devices.stuck(cells, device, rng) for cells, rng in zip(G, rngs, strict=True)])
        rngs = [self._rng(layer, number, Effect.FAULTS, 1) for number in numbers]
        return np.stack([devices.open_lines(cells, device, rng) for cells, rng in zip(G, rngs, strict=True)])

    def _known(self, stuck: npt.NDArray[np.int32], numbers: range, G: Siemens) -> Siemens:
        """Cells of these arrays with those of them that are known to be stuck."""
        state = np.full(G.shape, -1, dtype=np.int8)
        array, row, column, on = stuck[(stuck[:, 0] >= numbers.start) & (stuck[:, 0] < numbers.stop)].T
        state[array - numbers.start, row, column] = on
        return devices.held(G, self.target.device, state == 1, state == 0)

    def _variance(self, layer: str, numbers: range, G: Siemens) -> Fluctuation | None:
        """Variance of cells between reads and, imaginary, between inferences, siemens^2; None where nothing moves."""
        device, moving = self.target.device, np.zeros(G.shape, np.complex128)
        for effect in (Effect.NOISE, Effect.TELEGRAPH):
            kind = self._noise(effect)
            if kind in (None, Correlation.STATIC_AT_T):
                continue
            if effect is Effect.NOISE:
                variance = devices.noise_deviation(G, device, self.time_s) ** 2
            else:
                variance = devices.telegraph_moments(G, device, self._two_states(layer, numbers, G.shape[1:]))[1] ** 2
            moving += variance * (1.0 if kind is Correlation.PER_READ else 1j)
        if not moving.any():
            return None
        return moving if moving.imag.any() else moving.real

    def _two_states(self, layer: str, numbers: range, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        rngs = [self._rng(layer, number, Effect.TELEGRAPH) for number in numbers]
        return np.stack([devices.telegraph_cells(shape, self.target.device, rng) for rng in rngs])

    def _compensation(
        self, layer: str, numbers: range, wanted: Siemens, levels: Levels, G: Siemens
    ) -> npt.NDArray[np.float64]:
        """Digital factor on the codes of each array [arrays]: its current at t0 over that when it was last measured."""
        device = self.target.device
        measured = devices.measured_s(device, self.target.calibration, self.time_s)
        if not self.calibrated or not self._has(Effect.DRIFT) or device.drift is None or measured is None:
            return np.ones(len(numbers))

        def total(time_s: float) -> npt.NDArray[np.float64]:
            known = time_s == self.time_s
            cells = G if known else replace(self, time_s=time_s)._each(layer, numbers, wanted, levels)
            return np.asarray(self._faulty(layer, numbers, cells).sum(axis=(1, 2)))

        then, now = total(device.drift.t0_s), total(measured)
        factors: npt.NDArray[np.float64] = np.divide(then, now, out=np.ones(len(numbers)), where=now > 0)
        return factors

    # --- lines -------------------------------------------------------------------------------------------------------

    def _wired(self, layer: str, G: Siemens) -> tuple[Siemens, Siemens]:
        """What word lines add to bit lines, siemens [arrays, rows, columns], and a constant [arrays, columns]."""
        circuit = self.circuit
        if not self.linearised:
            through = G / (1 + G * circuit.access_ohm)
            lines = circuit.lines
            return through if lines.perfect else self.cache.transfer(through, lines), np.zeros((len(G), G.shape[2]))
        array = self.target.array
        if array.rows_active < array.rows:
            raise TargetError(
                f"target '{self.target.name}': wires or access resistances of arrays with drive = '{array.drive}', "
                f"idle_rows = '{array.idle_rows}' or curved cells are simulated for full reads only: set "
                f"array.rows_active = {array.rows}, or leave the effects wires and access out"
            )
        activity = np.full(G.shape[1], self.activity.get(layer, ACTIVITY))
        codes = (1 << self.target.converters.dac.bits) - 1  # the inputs of a linearisation are shares of the largest
        maps = [linearise(cells, activity, circuit, codes + 1) for cells in G]
        return np.stack([each.matrix for each in maps]), codes * np.stack([each.offset for each in maps])

    @property
    def circuit(self) -> Circuit:
        """The circuit of an array with the effects that are on."""
        whole = Circuit.of(self.target)
        return replace(
            whole,
            lines=whole.lines if self._has(Effect.WIRES) else Lines(),
            curve=whole.curve if self._has(Effect.CURVE) else None,
            access_ohm=whole.access_ohm if self._has(Effect.ACCESS) else 0.0,
        )

    @property
    def linearised(self) -> bool:
        """Whether a circuit is not linear and its resistances matter, so that a map at the mean activity stands in."""
        circuit = self.circuit
        ohmic = circuit.curve is None or not circuit.access_ohm
        return not circuit.linear and not (circuit.lines.perfect and ohmic)

    def _converted(self, layer: str, numbers: range, state: ArrayState) -> ArrayState:
        """Errors of input and output converters; bit lines beside the weights have converters of their own."""
        if not self._has(Effect.CONVERTERS):
            return state
        adc, dac = self.target.converters.adc, self.target.converters.dac
        columns = np.arange(state.gain.shape[1])
        weights = self.target.array.columns
        shared = np.where(columns < weights, columns // adc.columns, columns)
        sizes = np.array([adc.gain_error, adc.offset_codes, adc.nonlinearity_codes])
        rngs = [self._rng(layer, number, Effect.CONVERTERS) for number in numbers]
        drawn = np.stack([rng.standard_normal((3, len(columns)))[:, shared] for rng in rngs]) * sizes[:, None]
        rows = np.stack([rng.standard_normal(state.currents.shape[1]) for rng in rngs])[:, :, None]
        driven = 1 + dac.gain_error * rows
        return replace(
            state,
            currents=state.currents * driven,
            variance=None if state.variance is None else state.variance * driven**2,
            gain=state.gain * (1 + drawn[:, 0]),
            offset=state.offset * (1 + drawn[:, 0]),
            trim=drawn[:, 1],
            bow=drawn[:, 2],
        )

    # --- what is on --------------------------------------------------------------------------------------------------

    def _has(self, effect: Effect) -> bool:
        return effect in self.effects

    def _noise(self, effect: Effect) -> Correlation | None:
        """How a noise is correlated; None where it is off or not described."""
        device = self.target.device
        noise = device.noise if effect is Effect.NOISE else device.telegraph
        return noise.correlation if noise is not None and effect in self.effects else None

    def _rng(self, layer: str, number: int, effect: Effect, part: int = 0) -> np.random.Generator:
        key: list[Any] = [self.seed, zlib.crc32(layer.encode()), number, _ORDINAL[effect], part]
        return np.random.Generator(np.random.SFC64(key))
