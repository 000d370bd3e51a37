"""The cells of one simulated chip: those with which trials of the same options compute."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from mcompiler.artefacts.programming import DrawnCells
from mcompiler.driver.content import Compiled, Stored, layer_key
from mcompiler.effects import Circuit, chosen, start_s
from mcompiler.target import Target

if TYPE_CHECKING:
    from mcompiler.driver.trials import TrialOptions
    from mcompiler.physics.chip import Chip


@dataclass(frozen=True)
class DrawnChip:
    """The chip of ``options.seed``, as trials draw it.

    Attributes:
        content: of the build.
        target: its chip.
        options: effects, seed, time and calibration; the others are not read.
    """

    content: Compiled | Stored
    target: Target
    options: TrialOptions

    @cached_property
    def _chip(self) -> Chip:
        from mcompiler.driver.trials import check_options  # scipy, needed for chips only
        from mcompiler.physics.chip import Chip

        check_options(self.options)
        layers = self.content.layers
        known = {index: layer.remap.faults for index, layer in enumerate(layers) if layer.remap is not None}
        effects = chosen(self.options.effects, self.target, bool(known))
        time_s = start_s(self.target, effects) if self.options.time_s is None else self.options.time_s
        chip = Chip(self.target, self.options.seed, effects, time_s, self.options.calibrated)
        return replace(chip, stuck=known)

    @property
    def circuit(self) -> Circuit:
        """The circuit of its arrays, with those of the effects that change it."""
        return self._chip.circuit

    def cells(self, name: str) -> DrawnCells:
        """Conductances of the arrays of the layer of a name."""
        layers = self.content.layers
        (index,) = (number for number, layer in enumerate(layers) if layer.op.site.name == name)
        return partial(self._chip.cells, layer_key(layers, index))
