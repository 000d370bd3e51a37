"""The arrays of a build: addresses, cells, conductances, netlists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mcompiler.artefacts import LayerData
from mcompiler.artefacts.programming import layer_levels, write_programming_table
from mcompiler.conductance import conductances
from mcompiler.driver.content import Compiled, Stored
from mcompiler.driver.drawn import DrawnChip
from mcompiler.errors import BuildError, UserError
from mcompiler.naming import LayerName, find_layer
from mcompiler.target import Target

if TYPE_CHECKING:
    from mcompiler.driver.trials import TrialOptions


@dataclass(frozen=True)
class BuildArrays:
    """The arrays of a compiled model, by layer and number.

    Attributes:
        target: the chip.
    """

    target: Target
    _content: Compiled | Stored

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the analog layers."""
        return tuple(layer.op.site.name for layer in self._content.layers)

    @property
    def layer_data(self) -> tuple[LayerData, ...]:
        """The layers with tables, addresses and cells."""
        return self._content.layers

    @property
    def chips(self) -> int:
        """Chips in use."""
        used = [layer.addresses[:, 0] for layer in self._content.layers if len(layer.addresses)]
        return len(np.unique(np.concatenate(used))) if used else 0

    def arrays(self, layer: str) -> int:
        """Physical arrays of a layer."""
        return len(self._layer(layer).table)

    def address(self, layer: str, tile: int) -> list[int]:
        """Chip, tile, core and position of one array."""
        address: list[int] = self._layer(layer).addresses[tile].tolist()
        return address

    def layer_name(self, given: str) -> str:
        """Name of the layer that a user names: by its name, its label, or a part of either that no other layer has.

        Raises:
            BuildError: no layer, or several.
        """
        return self._layer(given).op.site.name

    def cells(self, layer: str, tile: int = 0) -> npt.NDArray[np.uint8]:
        """Level codes of one physical array of a layer: uint8 [rows, columns + unit and reference column].

        With a fault map: as they are placed on that chip, spare lines after the others.

        Args:
            layer: layer name, label, or a part of either that no other layer has.
            tile: number of the array within the layer.

        Raises:
            BuildError: no such layer or array.
        """
        count = self.arrays(layer)
        if not 0 <= tile < count:
            raise BuildError(f"layer '{layer}' has {count} arrays; there is no number {tile}")
        return next(levels for _, levels in layer_levels(self._layer(layer), self.target, tile))

    def all_cells(self, layer: str) -> Iterator[npt.NDArray[np.uint8]]:
        """Level codes of every array of a layer, in order, read one at a time; as ``cells`` returns them."""
        return (levels for _, levels in layer_levels(self._layer(layer), self.target))

    def conductances(self, layer: str, tile: int = 0) -> npt.NDArray[np.float64]:
        """Conductance of every cell of one array in siemens, [rows, columns + extra]."""
        return conductances(self.cells(layer, tile), self.target)

    def write_cells(
        self, path: str | Path, layer: str, tile: int | None = None, *, chip: TrialOptions | None = None
    ) -> int:
        """Write the cells of a layer, or of one array, as F.npy (dtype ``artefacts.programming.CELL``) or F.csv.

        Args:
            path, layer, tile: where, and what.
            chip: conductances on this chip, as trials of these options draw it; None: those that are asked for.

        Returns:
            The number of cells.

        Raises:
            BuildError: no such layer or array, another ending, or the file cannot be written.
        """
        if tile is not None and not 0 <= tile < self.arrays(layer):
            raise BuildError(f"layer '{layer}' has {self.arrays(layer)} arrays; there is no number {tile}")
        drawn = None if chip is None else drawn_chip(self, chip).cells(self.layer_name(layer))
        return write_programming_table(Path(path), self._layer(layer), self.target, tile, drawn)

    def netlist(
        self,
        layer: str,
        tile: int | None = None,
        *,
        inputs: npt.ArrayLike | None = None,
        vectors: npt.ArrayLike | None = None,
        chip: TrialOptions | None = None,
    ) -> str:
        """A SPICE deck of one array, or of all arrays of a layer, as ``write_netlist`` writes it."""
        parts: list[str] = []
        self.write_netlist(parts.append, layer, tile, inputs=inputs, vectors=vectors, chip=chip)
        return "".join(parts)

    def write_netlist(
        self,
        write: Callable[[str], object],
        layer: str,
        tile: int | None = None,
        *,
        inputs: npt.ArrayLike | None = None,
        vectors: npt.ArrayLike | None = None,
        chip: TrialOptions | None = None,
    ) -> None:
        """Write a SPICE deck that ngspice runs: every cell and wire, sources, and a print of every bit line's current.

        Args:
            write: called with text, a line at a time.
            layer, tile: which arrays; without ``tile`` all of the layer.
            inputs, vectors: voltages applied, as ``netlist.write_layer`` takes them; None: 1 on all word lines.
            chip: cells and circuit of this chip, as trials of these options draw it; None: cells that are asked for,
                in the circuit that the target describes.

        Raises:
            BuildError: no such layer or array.
            DataError: inputs that do not fit the word lines, the layer or the drive.
        """
        from mcompiler.netlist import OnChip, write_layer  # scipy, needed here only

        on_chip = None
        if chip is not None:
            made = drawn_chip(self, chip)
            title = f"chip {chip.seed} with {', '.join(chip.effects)}"
            on_chip = OnChip(made.cells(self.layer_name(layer)), made.circuit, title)
        write_layer(write, self._layer(layer), self.target, tile, inputs=inputs, vectors=vectors, on_chip=on_chip)

    def _layer(self, given: str) -> LayerData:
        layers = self._content.layers
        try:
            return layers[find_layer(given, [LayerName(layer.op.site.name, layer.op.site.label) for layer in layers])]
        except UserError as error:
            raise BuildError(str(error)) from None


def drawn_chip(build: BuildArrays, options: TrialOptions) -> DrawnChip:
    """The chip of ``options.seed`` with its effects, as trials of these options draw it.

    Raises:
        UserError: effects that the target does not describe.
    """
    return DrawnChip(build._content, build.target, options)
