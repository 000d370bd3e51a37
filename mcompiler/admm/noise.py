"""Device errors inside training: every training step sees the weights that another chip would hold.

The conductance of a cell is drawn as ``mcompiler.effects`` draws it (a test compares their statistics), here in torch,
in units of a level step, for the cells of all weights of a layer at once. Gradients pass straight through. Training
with the errors of the device makes a network tolerate them: Joshi et al., Nature Communications 11, 2473 (2020).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mcompiler.admm.lowering import as_matrix, as_weight
from mcompiler.admm.quantise import MappedWeight
from mcompiler.admm.spec import DeviceNoise
from mcompiler.conductance import conductances
from mcompiler.effects import (
    ACCESS,
    DRIFT,
    EVERY,
    FAULTS,
    NOISE,
    PROGRAMMING,
    TELEGRAPH,
    TEMPERATURE,
    Effect,
    chosen,
    in_order,
)
from mcompiler.effects.drift import exponents, first_look_s, measured_s, start_s
from mcompiler.effects.noise import noise_deviation, slow_share
from mcompiler.effects.programming import written_deviation
from mcompiler.errors import CompileError
from mcompiler.geometry import array_shape, kept_of, tile_blocks, tile_positions, tile_table, used_tiles
from mcompiler.target import Partner, Target

CELL_EFFECTS: frozenset[Effect] = frozenset({PROGRAMMING, DRIFT, NOISE, TELEGRAPH, TEMPERATURE, FAULTS, ACCESS})
"""Effects on each cell separately; effects of wires and converters cannot be expressed as an error of a weight."""

NOISE_POINTS = 1024
"""Intervals of the table of read noise over the conductance, with linear interpolation inside."""

NOISE_RANGE = 2.0
"""Largest conductance of the table of read noise, in multiples of g_max; beyond it the last value is used."""

NORMAL_SIGMAS = 5.0
"""A conductance at least so many standard deviations above 0 is never clipped at 0 in practice."""

Siemens = npt.NDArray[np.float64]


def select_effects(options: DeviceNoise, target: Target) -> frozenset[Effect]:
    """The effects that training draws on a target.

    Raises:
        UserError: an effect that the target does not describe, or that does not act on single cells.
    """
    found = chosen(options.effects, target)
    names = [effect.name for effect in in_order(CELL_EFFECTS)]
    lines = [name for name in options.effects if name != EVERY and name not in names]
    if lines:
        raise CompileError(
            f"retrain.noise.effects: '{lines[0]}' is no error of single cells, which is what training draws; choose "
            f"from {', '.join(names)}, or all"
        )
    if not found & CELL_EFFECTS:
        raise CompileError(
            f"retrain.noise: target '{target.name}' describes no error of single cells; describe one "
            "(docs/targets.md), or leave [retrain.noise] out"
        )
    return found & CELL_EFFECTS


def find_mapped_entries(mask: npt.NDArray[np.bool_], target: Target) -> npt.NDArray[np.bool_]:
    """Which entries of a matrix are mapped to cells, after empty rows, columns and array positions are removed.

    A pruned weight in a kept row and column has cells too, at their lowest level, with errors like all others.

    Args:
        mask: which weights may be non-zero, [G, K, N].
        target: the chip.

    Returns:
        bool [G, K, N].
    """
    shape = array_shape(target)
    rows, cols = (kept_of(np.asarray(mask.any(axis=axis))) for axis in (2, 1))
    heads = tile_table(tile_positions(rows.counts(), cols.counts(), shape), shape)[:: shape.arrays_per_tile]
    mapped = np.zeros_like(mask)
    for head, live in zip(heads, used_tiles(mask, heads, rows, cols), strict=True):
        for block in tile_blocks(head, rows, cols):
            mapped[block.group][np.ix_(block.rows, block.cols)] = live
    return mapped


class CellErrors(nn.Module):
    """Draws the values of a layer's weights with the errors of their cells, in units of a weight code.

    Two simplifications: with offset encoding a column that is stored flipped is drawn as if it were not; open lines are
    not drawn.

    Args:
        options: effects, time and scale.
        target: the chip.
        mask: bool, shape of the weight: which entries may be non-zero.
        groups: of the layer.
        sign: -1 and 1 in the weight's shape: the sign of each weight's fragment (polarised weights).

    Raises:
        UserError: effects that cannot be drawn here.
    """

    mapped: torch.Tensor  # bool, shape of the weight: which entries have cells
    levels: torch.Tensor  # level of each cell of a code, [codes, polarities * slices]
    nominal: torch.Tensor  # conductance of each level, in level steps
    deviation: torch.Tensor  # standard deviation of the programming error of each level, in level steps
    place_value: torch.Tensor  # contribution of a cell to the code, per level step, [polarities * slices]
    exponent: torch.Tensor  # mean and standard deviation of the drift exponent of each level, [2, levels]
    noise: torch.Tensor  # standard deviation of read noise without 1/f noise over the conductance, in level steps
    slow_noise: torch.Tensor  # that of 1/f noise over the conductance as written, before drift, in level steps
    combined: torch.Tensor | None  # standard deviation of the weight's error for each code, where it is normal
    sign: torch.Tensor | None

    def __init__(
        self, options: DeviceNoise, target: Target, mask: torch.Tensor, groups: int, sign: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.effects = select_effects(options, target)
        self.target, self.scale = target, options.scale
        device = target.device
        self.time_s = start_s(device) if options.time_s is None else options.time_s
        shape, encoding = array_shape(target), target.weight_encoding
        self.signed_fragments = encoding.signed_fragments
        shift = encoding.nominal_shift(shape)
        table = encoding.level_table(shape, shift)[:-1]  # [codes, polarities, slices]
        self.smallest = encoding.table_range(shape, shift).smallest
        slices = 2.0 ** (shape.cell_bits * np.arange(shape.slices))
        place_value = np.array(encoding.polarity_signs, dtype=float)[:, None] * slices
        levels = np.arange(int(table.max()) + 1, dtype=np.uint8)
        nominal = conductances(levels, target)  # [levels]
        deviation = self._compute_programming_deviation(levels, nominal)
        noise, slow_noise = self._tabulate_noise()
        unit = target.unit_siemens
        mapped = find_mapped_entries(as_matrix(mask, groups).cpu().numpy(), target)
        self._register("mapped", as_weight(torch.from_numpy(mapped), mask.shape).contiguous())
        self._register("levels", torch.from_numpy(table.reshape(len(table), -1).astype(np.int64)))
        in_siemens = {"nominal": nominal, "deviation": deviation, "noise": noise, "slow_noise": slow_noise}
        for name, values in in_siemens.items():
            self._register(name, torch.from_numpy(values / unit).float())
        self._register("exponent", torch.from_numpy(np.stack(exponents(nominal, device))).float())
        self._register("place_value", torch.from_numpy(place_value.reshape(-1)).float())
        self._register("sign", sign)
        combined = None
        if self._has_normal_error(nominal, deviation):
            # Independent normal errors of the cells add up to one normal error of the weight, whose variance is the sum
            # of theirs, each times its squared place value. One draw per weight then replaces one per cell.
            by_cell = place_value * (deviation * (nominal > 0))[table] / unit
            combined = torch.from_numpy(np.sqrt((by_cell**2).sum(axis=(1, 2)))).float()  # [codes]
        self._register("combined", combined)
        self.to(mask.device)

    def _compute_programming_deviation(self, levels: npt.NDArray[np.uint8], nominal: Siemens) -> Siemens:
        """Standard deviation of the normal part of the programming error of each level."""
        device = self.target.device
        if PROGRAMMING not in self.effects:
            return 0 * nominal
        # Relaxation widens the written distribution with time. That is an effect of time: without the effect `drift`
        # the deviation is that of the first read.
        written = self.time_s if DRIFT in self.effects else first_look_s(device)
        # With an unformed partner level 0 is no written level, so the device's levels are counted from level 1 on.
        places = np.maximum(levels.astype(np.int64) - int(self.target.encoding.partner is Partner.UNFORMED), 0)
        return written_deviation(nominal, places, device, written)

    def _tabulate_noise(self) -> tuple[Siemens, Siemens]:
        """Standard deviations of read noise without 1/f noise, and of 1/f noise, at NOISE_POINTS + 1 conductances."""
        device = self.target.device
        grid = np.linspace(0, NOISE_RANGE * device.g_max_siemens, NOISE_POINTS + 1)
        # At 0 the noise would be exactly 0 (a cell that conducts nothing has none), and interpolation from there would
        # give too little noise to cells that conduct little. So the first point is slightly above 0.
        grid[0] = grid[1] * 1e-6
        # At time 0 no 1/f noise has accumulated.
        return noise_deviation(grid, grid, device, 0.0), grid * slow_share(grid, device, self.time_s)

    def _has_normal_error(self, nominal: Siemens, deviation: Siemens) -> bool:
        """Whether all cells of a weight have normal errors only, never clipped at 0."""
        faults, programming = self.target.device.faults, self.target.device.programming
        idle = {FAULTS} if faults is not None and not faults.stuck_on and not faults.stuck_off else set()
        if self.effects - idle != {PROGRAMMING} or (programming is not None and programming.log_normal):
            return False
        return bool((deviation * (NORMAL_SIGMAS * self.scale) <= nominal)[nominal > 0].all())

    def _register(self, name: str, tensor: torch.Tensor | None) -> None:
        """Keep a tensor that moves with the model and is in no checkpoint: it follows from target and mask."""
        self.register_buffer(name, tensor, persistent=False)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes as a newly drawn chip holds them, shape of the weight; draws from torch's global generator."""
        result = codes.clone()
        selected = codes[self.mapped]  # [n]
        errors = self._draw_errors(selected)
        # A polarised cell holds the magnitude; the sign is the fragment's. The code 0 has no sign, but an error of its
        # cell is read with the sign of its fragment.
        if self.signed_fragments:
            sign = torch.where(selected < 0, -1.0, 1.0) if self.sign is None else self.sign[self.mapped]
            errors = errors * sign
        result[self.mapped] = selected + errors.to(selected.dtype)
        return result

    def _draw_errors(self, codes: torch.Tensor) -> torch.Tensor:
        """Error of each weight [n], in units of a code: that of its cells, weighted by their place values."""
        if self.combined is not None:
            return self.scale * self.combined[codes.long() - self.smallest] * torch.randn_like(codes)
        levels = self.levels[codes.long() - self.smallest]  # [n, polarities * slices]
        nominal = self.nominal[levels]
        # The order is that of mcompiler.effects: written, aged, read with noise, heated; then stuck cells take their
        # stuck values; the access device in series limits all of them.
        written = self._draw_programming(nominal, levels)
        cells, factor = self._draw_drift(written, levels)
        cells = self._draw_noise(cells, written)
        device, unit = self.target.device, self.target.unit_siemens
        heat = device.temperature
        if heat is not None and TEMPERATURE in self.effects:
            cells = cells * (1 + heat.per_kelvin * (heat.kelvin - heat.reference_kelvin))
        cells = self._draw_stuck_cells(cells)
        if ACCESS in self.effects:
            cells = cells / (1 + cells * (unit * device.access_resistance_ohm))
        return (cells * factor - nominal) @ self.place_value

    def _draw_programming(self, nominal: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        if PROGRAMMING not in self.effects:
            return nominal
        programming = self.target.device.programming
        cells = nominal
        if programming is not None and programming.log_normal:
            cells = cells * torch.exp(programming.log_normal * self.scale * torch.randn_like(cells))
        if self.deviation.any():
            cells = torch.addcmul(cells, self.deviation[levels], torch.randn_like(cells), value=self.scale)
        # A cell of nominal conductance 0 was never formed: nothing was written, so nothing errs. All others conduct at
        # least 0.
        return torch.where(nominal > 0, cells.clamp_min(0), torch.zeros_like(cells))

    def _draw_drift(self, cells: torch.Tensor, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Cells after drift, and the factor on the codes where the target compensates drift (here one per layer)."""
        drift, device = self.target.device.drift, self.target.device
        if drift is None or DRIFT not in self.effects or self.time_s <= drift.t0_s:
            return cells, 1.0
        # G(t) = G (t / t0)^-nu, with nu drawn for each cell from a normal distribution whose mean and deviation are
        # those of its level; its absolute value, as in mcompiler.effects.drift.
        mean, spread = self.exponent[0][levels], self.exponent[1][levels]
        drawn = torch.addcmul(mean, spread, torch.randn_like(cells), value=self.scale)
        exponent = torch.where(mean >= 0, drawn.abs(), drawn)
        aged = cells * torch.exp(-np.log(self.time_s / drift.t0_s) * exponent)
        measured = measured_s(device, self.target.calibration, self.time_s)
        if measured is None:
            return aged, 1.0
        # The chip measures its drift from time to time and scales the codes by the loss until then. So the factor is
        # that of the last measurement, with the exponents of the same cells.
        then = cells * torch.exp(-np.log(measured / drift.t0_s) * exponent)
        return aged, cells.sum() / then.sum().clamp_min(1e-30)

    def _draw_noise(self, cells: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
        """Cells with one draw of read noise and of telegraph noise, whatever their correlation.

        ``written``: the same cells right after programming, which 1/f noise depends on.
        """
        # A training step reads its whole batch once, so noise per read, per inference and per chip are alike here.
        device = self.target.device
        if device.noise is not None and NOISE in self.effects:
            deviation = self._interpolated(self.noise, cells)
            if self.slow_noise.any():
                share = self._interpolated(self.slow_noise, written) / written.clamp_min(1e-30)
                deviation = torch.hypot(deviation, share * cells)
            noisy = torch.addcmul(cells, deviation, torch.randn_like(cells), value=self.scale).clamp_min(0)
            cells = torch.where(cells > 0, noisy, cells)
        states = device.telegraph
        if states is not None and TELEGRAPH in self.effects:
            low = torch.rand_like(cells) < states.share * states.low
            cells = torch.where(low, cells * (1 - states.amplitude * self.scale), cells)
        return cells

    def _interpolated(self, table: torch.Tensor, conductances: torch.Tensor) -> torch.Tensor:
        """Values of a table over the conductance, linear between its NOISE_POINTS + 1 points."""
        largest = NOISE_RANGE * self.target.device.g_max_siemens / self.target.unit_siemens
        position = (conductances * (NOISE_POINTS / largest)).clamp_max(NOISE_POINTS - 1e-3)
        below = position.long()
        return torch.lerp(table[below], table[below + 1], position - below)

    def _draw_stuck_cells(self, cells: torch.Tensor) -> torch.Tensor:
        faults, device = self.target.device.faults, self.target.device
        if faults is None or FAULTS not in self.effects:
            return cells
        on = device.g_max_siemens if faults.stuck_on_siemens is None else faults.stuck_on_siemens
        off = device.g_min_siemens if faults.stuck_off_siemens is None else faults.stuck_off_siemens
        # One uniform number decides both faults, from its two ends, so that no cell has both. A cell that was never
        # formed cannot be stuck off.
        chance, unit = torch.rand_like(cells), self.target.unit_siemens
        stuck_off = (chance >= 1 - faults.stuck_off * self.scale) & (cells > 0)
        cells = torch.where(stuck_off, torch.full_like(cells, off / unit), cells)
        return torch.where(chance < faults.stuck_on * self.scale, torch.full_like(cells, on / unit), cells)


def make_cell_errors(options: DeviceNoise | None, target: Target, weight: MappedWeight) -> CellErrors | None:
    """The errors that a parametrised weight draws in training; None without noise, or where weights stay float."""
    if options is None or weight.levels is None:
        return None
    return CellErrors(options, target, weight.mask, weight.groups, weight.sign)
