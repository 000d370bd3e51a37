"""Random telegraph noise: some cells change between two states, the lower of which conducts less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from mcompiler.effects.base import ArrayOnChip, CellMask, Correlation, Effect, Siemens, TwoStates
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
        device = array.target.device
        cells = telegraph_cells(G.shape, device, array.rng(self))
        return telegraph(G, device, array.rng_at_time(self, 1), cells)

    def two_states(self, G: Siemens, array: ArrayOnChip) -> TwoStates | None:
        """The lower states; which cells have them is drawn once per chip."""
        device = array.target.device
        states = device.telegraph
        if states is None or states.correlation is Correlation.STATIC_AT_T:
            return None
        cells = telegraph_cells(G.shape, device, array.rng(self))
        return TwoStates(G * states.amplitude * cells, states.low, states.correlation)


TELEGRAPH = TelegraphEffect()
