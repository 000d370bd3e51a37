"""Random telegraph noise: some cells change between two states, the lower of which conducts less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from mcompiler.effects.base import ArrayOnChip, CellMask, Correlation, Effect, Fluctuation, Siemens
from mcompiler.effects.lazy_numpy import np
from mcompiler.target.base import Section, Share

if TYPE_CHECKING:
    from mcompiler.target.schema import Target
    from mcompiler.target.sections import Device


class Telegraph(Section):
    """Random telegraph noise: some cells sit in one of two states, the lower of which conducts less."""

    correlation: Correlation = Field(description="for how long one draw of the states lasts")
    share: Share = Field(description="share of the cells that have the two states")
    amplitude: Share = Field(description="share of the conductance that the lower state loses")
    low: Share = Field(default=0.5, description="probability of the lower state")


def telegraph_cells(shape: tuple[int, ...], device: Device, rng: np.random.Generator) -> CellMask:
    """Which cells of a chip have two states: bool of that shape, the same for all draws of their states."""
    if device.telegraph is None:
        return np.zeros(shape, dtype=np.bool_)
    return rng.random(shape) < device.telegraph.share


def telegraph(G: Siemens, device: Device, rng: np.random.Generator, cells: CellMask | None = None) -> Siemens:
    """Conductances [...], siemens, with one draw of the states of random telegraph noise.

    Args:
        G: float64 [...], siemens, in the higher state.
        device: the device.
        rng: of this draw.
        cells: bool [...], which cells have two states (``telegraph_cells``); None: drawn here too.
    """
    states = device.telegraph
    if states is None:
        return G
    having = telegraph_cells(G.shape, device, rng) if cells is None else cells
    low = having & (rng.random(G.shape) < states.low)
    return np.where(low, G * (1 - states.amplitude), G)


def telegraph_moments(G: Siemens, device: Device, cells: CellMask) -> tuple[Siemens, Siemens]:
    """Mean and standard deviation [...] over draws of ``telegraph``, siemens, for those cells: a normal in its place.

    mean = G (1 - amplitude low), deviation = G amplitude sqrt(low (1 - low)) where a cell has two states.
    """
    states = device.telegraph
    if states is None:
        return G, np.zeros_like(G)
    spread = states.amplitude * np.sqrt(states.low * (1 - states.low))
    return G * (1 - states.amplitude * states.low * cells), G * spread * cells


@dataclass(frozen=True)
class TelegraphEffect(Effect):
    """Some cells change between two conductances; the target says for how long a state lasts."""

    name = "telegraph"
    order = 40
    stream = 3
    described_elsewhere = "[device.telegraph]"

    def is_described(self, target: Target) -> bool:
        """Whether cells have two states."""
        return target.device.telegraph is not None

    def correlation(self, target: Target) -> Correlation | None:
        """As [device.telegraph] says."""
        return None if target.device.telegraph is None else target.device.telegraph.correlation

    def change_cells(self, G: Siemens, array: ArrayOnChip) -> Siemens:
        """With one draw of the states, where that lasts until the chip is evaluated at another time."""
        if self.correlation(array.target) is not Correlation.STATIC_AT_T:
            return G
        return telegraph(G, array.target.device, array.rng(self))

    def fluctuation(self, G: Siemens, array: ArrayOnChip) -> Fluctuation | None:
        """Mean and variance of the two states; which cells have them is drawn once per chip."""
        correlation = self.correlation(array.target)
        if correlation is None or correlation is Correlation.STATIC_AT_T:
            return None
        device = array.target.device
        mean, deviation = telegraph_moments(G, device, telegraph_cells(G.shape, device, array.rng(self)))
        return Fluctuation(mean, deviation**2, correlation)


TELEGRAPH = TelegraphEffect()
