"""Faults: stuck cells and open lines, drawn once per chip or taken from the fault map of a real one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from mcompiler.effects.base import ArrayOnChip, CellMask, Effect, Siemens
from mcompiler.effects.lazy_numpy import np
from mcompiler.encodings.settings import Violations
from mcompiler.target.base import NonNegativeFloat, Section, Share

if TYPE_CHECKING:
    from mcompiler.target.schema import Target
    from mcompiler.target.sections import Device


class Faults(Section):
    """Cells and lines that do not work."""

    stuck_on: Share = Field(default=0.0, description="share of cells that stay at stuck_on_siemens")
    stuck_off: Share = Field(default=0.0, description="share of cells that stay at stuck_off_siemens")
    stuck_on_siemens: NonNegativeFloat | None = Field(default=None, description="g_max where it is not given")
    stuck_off_siemens: NonNegativeFloat | None = Field(default=None, description="g_min where it is not given")
    open_word_lines: Share = Field(default=0.0, description="share of word lines that drive no cell")
    open_bit_lines: Share = Field(default=0.0, description="share of bit lines that collect no current")


def stuck(G: Siemens, device: Device, rng: np.random.Generator) -> Siemens:
    """Conductances [...], siemens, with stuck cells: a share at stuck_on (g_max), another at stuck_off (g_min).

    A cell that is stuck at some share is so at every greater one. A cell that does not conduct counts as stuck off.
    """
    faults = device.faults
    if faults is None:
        return G
    chance = rng.random(G.shape)
    return held(G, device, chance < faults.stuck_on, chance >= 1 - faults.stuck_off)


def held(G: Siemens, device: Device, on: CellMask, off: CellMask) -> Siemens:
    """Conductances [...], siemens, with the cells [...] that are stuck on and off.

    A cell that does not conduct counts as stuck off.
    """
    at_on, at_off = stuck_siemens(device)
    return np.where(on, at_on, np.where(off & (G > 0), at_off, G))


def stuck_siemens(device: Device) -> tuple[float, float]:
    """Conductance of cells that are stuck on and off, siemens."""
    faults = device.faults
    on = None if faults is None else faults.stuck_on_siemens
    off = None if faults is None else faults.stuck_off_siemens
    return device.g_max_siemens if on is None else on, device.g_min_siemens if off is None else off


def open_lines(G: Siemens, device: Device, rng: np.random.Generator) -> Siemens:
    """Conductances [..., R, C], siemens, with open word lines (R) and bit lines (C): their cells carry no current."""
    faults = device.faults
    if faults is None:
        return G
    words = rng.random(G.shape[:-1]) < faults.open_word_lines  # [..., R]
    bits = rng.random((*G.shape[:-2], G.shape[-1])) < faults.open_bit_lines  # [..., C]
    return np.where(words[..., :, None] | bits[..., None, :], 0.0, G)


def _shares(device: Device) -> Violations:
    faults = device.faults
    if faults is not None and faults.stuck_on + faults.stuck_off > 1:
        yield (
            "device.faults.stuck_on",
            f"{faults.stuck_on:g} of the cells stuck on and {faults.stuck_off:g} stuck off are more than all; both are "
            "shares of 1",
        )


@dataclass(frozen=True)
class FaultsEffect(Effect):
    """Cells that are stuck and lines that are open."""

    name = "faults"
    order = 60
    stream = 5
    described_elsewhere = "[device.faults]"
    rules = (_shares,)
    in_fault_map = True

    def is_described(self, target: Target) -> bool:
        """Whether cells or lines may not work."""
        return target.device.faults is not None

    def apply_faults(self, G: Siemens, array: ArrayOnChip) -> Siemens:
        """Stuck cells of the fault map, or drawn ones where there is none; open lines are always drawn."""
        device = array.target.device
        if array.stuck is None:
            G = stuck(G, device, array.rng(self))
        else:
            state = np.full(G.shape, -1, dtype=np.int8)
            row, column, on = array.stuck.T
            state[row, column] = on
            G = held(G, device, state == 1, state == 0)
        # Lines have a generator of their own: a fault map of the cells leaves them as they are.
        return open_lines(G, device, array.rng(self, 1))


FAULTS = FaultsEffect()
