"""Device errors inside training: every training step sees the weights that another chip would hold.

What a cell conducts is drawn as ``mcompiler.physics`` draws it (a test compares their statistics), here in torch, in
units of a level step, for the cells of all weights of a layer at once. Gradients pass straight through. Training with
the errors of the device makes a network tolerate them: Joshi et al., Nature Communications 11, 2473 (2020).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mcompiler.admm.lowering import as_matrix, as_weight
from mcompiler.admm.spec import DeviceNoise
from mcompiler.conductance import code_range, conductances, level_table
from mcompiler.errors import CompileError
from mcompiler.geometry import array_shape, kept_of, tile_blocks, tile_positions, tile_table, used_tiles
from mcompiler.physics.devices import first_look_s, measured_s, noise_deviation, start_s, written_deviation
from mcompiler.physics.effects import EVERY, Effect, chosen
from mcompiler.target import Partner, Target, WeightEncoding

CELLWISE = frozenset(
    {
        Effect.PROGRAMMING, Effect.DRIFT, Effect.NOISE, Effect.TELEGRAPH, Effect.TEMPERATURE, Effect.FAULTS,
        Effect.ACCESS,
    }
)  # fmt: skip
"""What happens to each cell for itself; lines and converters are no matter of a weight."""

NOISE_POINTS = 1024
"""Points between which the deviation of read noise is linear in the conductance."""

NOISE_REACH = 2.0
"""Up to this multiple of g_max; held beyond."""

NORMAL_SIGMAS = 5.0
"""A level so many deviations above 0 is never cut there: the errors of a weight's cells add up to one normal."""

Siemens = npt.NDArray[np.float64]


def injected(options: DeviceNoise, target: Target) -> frozenset[Effect]:
    """The effects that training draws on a target.

    Raises:
        UserError: an effect that the target does not describe, or that is none of single cells.
    """
    found = chosen(options.effects, target)
    lines = [name for name in options.effects if name != EVERY and Effect(name) not in CELLWISE]
    if lines:
        raise CompileError(
            f"retrain.noise.effects: '{lines[0]}' is no error of single cells, which is what training draws; choose "
            f"from {', '.join(effect for effect in Effect if effect in CELLWISE)}, or all"
        )
    if not found & CELLWISE:
        raise CompileError(
            f"retrain.noise: target '{target.name}' describes no error of single cells; describe one "
            "(docs/targets.md), or leave [retrain.noise] out"
        )
    return found & CELLWISE


def placed_weights(mask: npt.NDArray[np.bool_], target: Target) -> npt.NDArray[np.bool_]:
    """Which entries of a matrix stand in cells once empty rows, columns and array positions are gone.

    A pruned weight in a kept row and column has cells too, at their lowest level, and they err like all others.

    Args:
        mask: which weights may be other than zero, [G, K, N].
        target: the chip.

    Returns:
        bool [G, K, N].
    """
    shape = array_shape(target)
    rows, cols = (kept_of(np.asarray(mask.any(axis=axis))) for axis in (2, 1))
    heads = tile_table(tile_positions(rows.counts(), cols.counts(), shape), shape)[:: shape.arrays_per_tile]
    placed = np.zeros_like(mask)
    for head, live in zip(heads, used_tiles(mask, heads, rows, cols), strict=True):
        for block in tile_blocks(head, rows, cols):
            placed[block.group][np.ix_(block.rows, block.cols)] = live
    return placed


class CellErrors(nn.Module):
    """Draws what the cells of a layer's weights really hold, in units of a weight code.

    Offset encoding takes columns that are stored flipped as if they were not; open lines are left out.

    Args:
        options: effects, time and size.
        target: the chip.
        mask: bool, shape of the weight; what may be other than zero.
        groups: of the layer.
        sign: -1 and 1 in the weight's shape: the sign of each weight's fragment (polarised weights).

    Raises:
        UserError: effects that cannot be drawn here.
    """

    placed: torch.Tensor
    levels: torch.Tensor
    wanted: torch.Tensor
    deviation: torch.Tensor
    worth: torch.Tensor
    noise: torch.Tensor
    together: torch.Tensor | None
    sign: torch.Tensor | None

    def __init__(
        self, options: DeviceNoise, target: Target, mask: torch.Tensor, groups: int, sign: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.effects = injected(options, target)
        self.target, self.scale = target, options.scale
        device = target.device
        self.time_s = start_s(device) if options.time_s is None else options.time_s
        shape, encoding = array_shape(target), target.encoding.weights
        bits = shape.cell_bits * shape.slices
        shift = 1 << (bits - 1) if encoding is WeightEncoding.OFFSET else 0
        table = level_table(shape, encoding, shift)[:-1]  # [codes, polarities, slices]
        self.smallest = code_range(shape, encoding, shift).smallest
        slices = 2.0 ** (shape.cell_bits * np.arange(shape.slices))
        worth = np.array([1.0, -1.0])[: table.shape[1], None] * slices
        known = np.arange(int(table.max()) + 1, dtype=np.uint8)
        wanted = conductances(known, target)  # [levels]
        written = self.time_s if Effect.DRIFT in self.effects else first_look_s(device)
        places = np.maximum(known.astype(np.int64) - int(target.encoding.partner is Partner.UNFORMED), 0)
        deviation = 0 * wanted
        if Effect.PROGRAMMING in self.effects:
            deviation = written_deviation(wanted, places, device, written)
        grid = np.linspace(0, NOISE_REACH * device.g_max_siemens, NOISE_POINTS + 1)
        grid[0] = grid[1] * 1e-6  # a cell that conducts nothing has no noise, one that conducts little has
        noise = noise_deviation(grid, device, self.time_s)
        unit = target.unit_siemens
        placed = as_weight(torch.from_numpy(placed_weights(as_matrix(mask, groups).cpu().numpy(), target)), mask.shape)
        self._keep("placed", placed.contiguous())
        self._keep("levels", torch.from_numpy(table.reshape(len(table), -1).astype(np.int64)))
        for name, values in (("wanted", wanted / unit), ("deviation", deviation / unit), ("noise", noise / unit)):
            self._keep(name, torch.from_numpy(values).float())
        self._keep("worth", torch.from_numpy(worth.reshape(-1)).float())
        self._keep("sign", sign)
        together = np.sqrt(((worth * (deviation * (wanted > 0))[table] / unit) ** 2).sum(axis=(1, 2)))  # [codes]
        self._keep("together", torch.from_numpy(together).float() if self._adds_up(wanted, deviation) else None)
        self.polarised = encoding is WeightEncoding.POLARISED
        self.to(mask.device)

    def _adds_up(self, wanted: Siemens, deviation: Siemens) -> bool:
        """Whether the cells of a weight err by normals only, so that one draw a weight does for all of them."""
        faults, programming = self.target.device.faults, self.target.device.programming
        idle = {Effect.FAULTS} if faults is not None and not faults.stuck_on and not faults.stuck_off else set()
        if self.effects - idle != {Effect.PROGRAMMING} or (programming is not None and programming.log_normal):
            return False
        return bool((deviation * (NORMAL_SIGMAS * self.scale) <= wanted)[wanted > 0].all())

    def _keep(self, name: str, tensor: torch.Tensor | None) -> None:
        """Moves with the model, and stands in no checkpoint: it follows from target and mask."""
        self.register_buffer(name, tensor, persistent=False)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes as one more chip holds them, shape of the weight; draws from torch's global generator."""
        found = codes.clone()
        held = codes[self.placed]  # [n]
        errors = self._errors(held)
        if self.polarised:
            sign = torch.where(held < 0, -1.0, 1.0) if self.sign is None else self.sign[self.placed]
            errors = errors * sign
        found[self.placed] = held + errors.to(held.dtype)
        return found

    def _errors(self, codes: torch.Tensor) -> torch.Tensor:
        """Worth of all that the cells of each weight [n] conduct too much."""
        if self.together is not None:
            return self.scale * self.together[codes.long() - self.smallest] * torch.randn_like(codes)
        levels = self.levels[codes.long() - self.smallest]  # [n, polarities * slices]
        wanted = self.wanted[levels]
        formed = wanted > 0
        cells, factor = self._aged(self._programmed(wanted, levels), formed)
        cells = self._noisy(cells)
        device, unit = self.target.device, self.target.unit_siemens
        heat = device.temperature
        if heat is not None and Effect.TEMPERATURE in self.effects:
            cells = cells * (1 + heat.per_kelvin * (heat.kelvin - heat.reference_kelvin))
        cells = self._stuck(cells)
        if Effect.ACCESS in self.effects:
            cells = cells / (1 + cells * (unit * device.access_resistance_ohm))
        return (cells * factor - wanted) @ self.worth

    def _programmed(self, wanted: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        if Effect.PROGRAMMING not in self.effects:
            return wanted
        programming = self.target.device.programming
        cells = wanted
        if programming is not None and programming.log_normal:
            cells = cells * torch.exp(programming.log_normal * self.scale * torch.randn_like(cells))
        if self.deviation.any():
            cells = torch.addcmul(cells, self.deviation[levels], torch.randn_like(cells), value=self.scale)
        return torch.where(wanted > 0, cells.clamp_min(0), torch.zeros_like(cells))

    def _aged(self, cells: torch.Tensor, formed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Cells after drift, and the factor of the codes where the target compensates it (here: one of the layer)."""
        drift, device = self.target.device.drift, self.target.device
        if drift is None or Effect.DRIFT not in self.effects or self.time_s <= drift.t0_s:
            return cells, 1.0
        largest = device.g_max_siemens / self.target.unit_siemens
        logarithm = torch.log(torch.where(cells > 0, cells, torch.full_like(cells, largest)) / largest)
        mean = (drift.nu + drift.nu_per_log * logarithm).clamp(drift.nu_min, drift.nu_max)
        spread = (drift.spread + drift.spread_per_log * logarithm).clamp(drift.spread_min, drift.spread_max)
        exponent = torch.addcmul(mean, spread, torch.randn_like(cells), value=self.scale)
        aged = cells * torch.exp(-np.log(self.time_s / drift.t0_s) * exponent)
        measured = measured_s(device, self.target.calibration, self.time_s)
        if measured is None:
            return aged, 1.0
        then = cells * torch.exp(-np.log(measured / drift.t0_s) * exponent)
        return aged, cells.sum() / then.sum().clamp_min(1e-30)

    def _noisy(self, cells: torch.Tensor) -> torch.Tensor:
        """One draw of read and telegraph noise, whatever their correlation: a step is one read of a batch."""
        device = self.target.device
        if device.noise is not None and Effect.NOISE in self.effects:
            largest = NOISE_REACH * device.g_max_siemens / self.target.unit_siemens
            place = (cells * (NOISE_POINTS / largest)).clamp_max(NOISE_POINTS - 1e-3)
            below = place.long()
            deviation = torch.lerp(self.noise[below], self.noise[below + 1], place - below)
            moved = torch.addcmul(cells, deviation, torch.randn_like(cells), value=self.scale).clamp_min(0)
            cells = torch.where(cells > 0, moved, cells)
        states = device.telegraph
        if states is not None and Effect.TELEGRAPH in self.effects:
            low = torch.rand_like(cells) < states.share * states.low
            cells = torch.where(low, cells * (1 - states.amplitude * self.scale), cells)
        return cells

    def _stuck(self, cells: torch.Tensor) -> torch.Tensor:
        faults, device = self.target.device.faults, self.target.device
        if faults is None or Effect.FAULTS not in self.effects:
            return cells
        on = device.g_max_siemens if faults.stuck_on_siemens is None else faults.stuck_on_siemens
        off = device.g_min_siemens if faults.stuck_off_siemens is None else faults.stuck_off_siemens
        chance, unit = torch.rand_like(cells), self.target.unit_siemens
        held = (chance >= 1 - faults.stuck_off * self.scale) & (cells > 0)
        cells = torch.where(held, torch.full_like(cells, off / unit), cells)
        return torch.where(chance < faults.stuck_on * self.scale, torch.full_like(cells, on / unit), cells)


def cell_errors(options: DeviceNoise | None, target: Target, weight: Any, mapped: bool) -> CellErrors | None:
    """What a ``MappedWeight`` draws in training; None where nothing is asked or weights stay float."""
    if options is None or not mapped:
        return None
    return CellErrors(options, target, weight.mask, weight.groups, weight.sign)
