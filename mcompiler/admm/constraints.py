"""What one layer may keep: a structure, whether a target can hold it, and the projection of a weight matrix onto it."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcompiler.admm import projections
from mcompiler.errors import CompileError
from mcompiler.geometry import ArrayShape, fragments, kept_of, tile_positions
from mcompiler.ir import Kept
from mcompiler.target import Target, WeightEncoding


@dataclass(frozen=True)
class Structure:
    """What one layer may keep. None: as much as there is; a count above what there is constrains nothing.

    Attributes:
        filters: columns of the matrix (output channels) that may be non-zero, over all groups.
        channels: input channels that may be non-zero, over all groups.
        shapes: rows of the matrix (input and kernel position) that may be non-zero, over all groups.
        blocks: array positions (tiles of the target) that may be non-zero, once empty rows and columns are gone.
        column_nonzeros: weights that may be non-zero in each column of each array (TinyADC).
        one_sign: one sign in each fragment of a column (FORMS): the rows of an array that are read at once.

    Raises:
        CompileError: a count that is no whole number above zero.
    """

    filters: int | None = None
    channels: int | None = None
    shapes: int | None = None
    blocks: int | None = None
    column_nonzeros: int | None = None
    one_sign: bool = False

    def __post_init__(self) -> None:
        for key in _COUNTS:
            value = getattr(self, key)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise CompileError(f"{key} = {value!r} is no count; give a whole number of at least 1")
            if value < 1:
                raise CompileError(f"{key} = {value} would leave an empty layer; give at least 1, or leave the key out")
        if not isinstance(self.one_sign, bool):
            raise CompileError(f"one_sign = {self.one_sign!r} is neither true nor false; give one of them")

    @staticmethod
    def from_table(name: str, table: Mapping[str, Any]) -> Structure:
        """The structure of layer ``name`` from a table, as a specification file has it.

        Raises:
            CompileError: not a table, an unknown key, or a value that is no structure's; names the layer.
        """
        if not isinstance(table, Mapping):
            raise CompileError(f"its structure is no table; give keys such as filters = 64, not {table!r}", name)
        known = [field.name for field in dataclasses.fields(Structure)]
        for key in table:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, 1)
                hint = f"did you mean '{close[0]}'?" if close else f"a structure has {', '.join(known)}"
                raise CompileError(f"unknown key '{key}' in its structure; {hint}", name)
        try:
            return Structure(**table)
        except CompileError as error:
            raise CompileError(str(error), name) from None

    @property
    def is_free(self) -> bool:
        """Whether it constrains nothing."""
        return self == Structure()


_COUNTS = ("filters", "channels", "shapes", "blocks", "column_nonzeros")


def check_structure(
    layer: str, structure: Structure, groups: int, rows: int, columns: int, positions: int, target: Target
) -> None:
    """Check that a target can hold what a structure asks for.

    Args:
        layer: its name, for messages.
        structure: of the layer.
        groups, rows, columns: G, K, N of its matrix.
        positions: rows of the matrix that one input channel takes.
        target: where it will be mapped.

    Raises:
        CompileError: the layer has no weights; the target's encoding or array does not allow the constraint.
    """
    if not groups * rows * columns:
        raise CompileError(f"its matrix of {groups} x {rows} x {columns} has no weights; put it into `skip`", layer)
    if rows % positions:
        raise CompileError(
            f"its {rows} rows are no whole number of channels of {positions} kernel positions; put it into `skip`",
            layer,
        )
    encoding = target.encoding.weights
    if structure.column_nonzeros is not None:
        if encoding is WeightEncoding.OFFSET:
            raise CompileError(
                f"column_nonzeros needs the encoding 'differential' or 'polarised', and target '{target.name}' has "
                f"'{encoding}': an offset zero is not a zero cell; remove column_nonzeros or change encoding.weights",
                layer,
            )
        if structure.column_nonzeros > target.array.rows:
            raise CompileError(
                f"column_nonzeros = {structure.column_nonzeros}, but a column of target '{target.name}' has "
                f"{target.array.rows} cells; give at most {target.array.rows}, or leave the key out",
                layer,
            )
    if structure.one_sign and encoding is not WeightEncoding.POLARISED:
        raise CompileError(
            f"one_sign needs the encoding 'polarised', and target '{target.name}' has '{encoding}', which holds both "
            "signs and saves nothing by it; remove one_sign or change encoding.weights",
            layer,
        )


def support(w: Tensor) -> Tensor:
    """Which weights are not zero, bool, of the same shape: the mask of masked retraining."""
    return w != 0


def project_structure(w: Tensor, structure: Structure, shape: ArrayShape, positions: int) -> Tensor:
    """Project a matrix onto one set after the other, so that the result lies in all of them.

    The order is filters, channels, shapes; then, on the matrix without its empty rows and columns, cut into tiles and
    fragments as the compiler does: blocks (small groups that share an array are one block), one sign and column
    non-zeros. Each step is a Euclidean projection, the last two together are the projection onto their intersection;
    the whole is a feasible point near ``w``, not always the nearest (choosing rows and columns together is NP-hard).

    Where the last steps empty a row or a column, the compiler's cut moves. They are then repeated on the new cut, until
    it stays; every round only zeros weights. So the result is feasible for the cut that the compiler will make, and
    projecting it again changes nothing. That matters for narrow layers: where a row has few weights, few non-zeros per
    column empty whole rows, and what is left closes up into fewer arrays.

    Levels that include zero may empty rows as well: project once more after rounding to levels. It only zeros weights,
    so that what is left is still on the levels.

    Args:
        w: [G, K, N].
        structure: what may be kept.
        shape: array geometry of the target.
        positions: rows that one input channel takes.

    Raises:
        CompileError: ``w`` holds a NaN or an infinity.
    """
    if structure.filters is not None:
        w = projections.keep_filters(w, structure.filters)
    if structure.channels is not None:
        w = projections.keep_channels(w, structure.channels, positions)
    if structure.shapes is not None:
        w = projections.keep_shapes(w, structure.shapes)
    if structure.blocks is None and structure.column_nonzeros is None and not structure.one_sign:
        return w.clone() if structure.is_free else w
    cut = _cut(w, shape)
    while True:
        w = cut.expand(_inside_arrays(cut.compact(w), structure, shape, cut), w.shape)
        after = _cut(w, shape)
        if cut.same(after):
            return w
        cut = after


@dataclass(frozen=True)
class _Cut:
    """How the compiler compacts and cuts a matrix.

    The compacted matrix of a group stands where it stands in its array: of small groups that share an array each begins
    where the one before ends. Places of the compacted matrix that are empty point behind the last row or column.

    Attributes:
        row_of, col_of: row and column of the matrix at each compacted one, [G, P] and [G, Q].
        tile_of: tile of each block of ``shape.rows`` x ``shape.tile_columns`` of the compacted matrix, -1: none,
            [G, row blocks, column blocks].
        tiles: how many there are.
    """

    row_of: npt.NDArray[np.int64]
    col_of: npt.NDArray[np.int64]
    tile_of: npt.NDArray[np.int64]
    tiles: int

    def same(self, other: _Cut) -> bool:
        """Whether two cuts are one."""
        return np.array_equal(self.row_of, other.row_of) and np.array_equal(self.col_of, other.col_of)

    def _places(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        groups = torch.arange(len(self.row_of), device=device)[:, None, None]
        rows, cols = torch.as_tensor(self.row_of, device=device), torch.as_tensor(self.col_of, device=device)
        return groups, rows[:, :, None], cols[:, None, :]

    def compact(self, w: Tensor) -> Tensor:
        """[G, K, N] to [G, P, Q]."""
        return torch.nn.functional.pad(w, (0, 1, 0, 1))[self._places(w.device)]

    def expand(self, compacted: Tensor, shape: torch.Size) -> Tensor:
        """[G, P, Q] to [G, K, N], zero where nothing was kept."""
        full = compacted.new_zeros(shape[0], shape[1] + 1, shape[2] + 1)
        full[self._places(compacted.device)] = compacted  # what stands at an empty place is zero
        return full[:, :-1, :-1].contiguous()


def _cut(w: Tensor, shape: ArrayShape) -> _Cut:
    used = support(w)
    rows, cols = (kept_of(used.any(dim=dim).cpu().numpy()) for dim in (2, 1))
    heights, widths = rows.counts(), cols.counts()
    positions = tile_positions(heights, widths, shape)
    first_row = np.zeros(len(w), dtype=np.int64)
    for group, groups, *_ in positions:
        members = slice(group, group + groups)
        first_row[members] = np.cumsum(heights[members]) - heights[members] if groups > 1 else 0
    row_of = _places(rows, first_row, w.shape[1])
    col_of = _places(cols, np.zeros_like(first_row), w.shape[2])
    blocks = -(-row_of.shape[1] // shape.rows), -(-col_of.shape[1] // shape.tile_columns)
    tile_of = np.full((len(w), *blocks), -1, dtype=np.int64)
    for tile, (group, groups, row, _, col, _) in enumerate(positions):
        tile_of[group : group + groups, row // shape.rows, col // shape.tile_columns] = tile
    return _Cut(row_of, col_of, tile_of, len(positions))


def _places(kept: Kept, first: npt.NDArray[np.int64], nowhere: int) -> npt.NDArray[np.int64]:
    """Kept indices of each group from its first place on, ``nowhere`` at the other places: [G, places]."""
    counts = kept.counts()
    places = np.full((len(counts), int((first + counts).max(initial=0))), nowhere, dtype=np.int64)
    groups = np.repeat(np.arange(len(counts)), counts)
    places[groups, first[groups] + np.arange(len(groups)) - kept.offsets[groups]] = kept.indices
    return places


def _inside_arrays(w: Tensor, structure: Structure, shape: ArrayShape, cut: _Cut) -> Tensor:
    """Blocks, one sign and column non-zeros of a compacted matrix [G, P, Q]."""
    if not w.numel():
        return w  # all weights are zero
    if structure.blocks is not None and structure.blocks < cut.tiles:
        energy = projections.block_energy(w, shape.rows, shape.tile_columns).double().cpu().numpy()
        found = cut.tile_of >= 0
        energies = np.bincount(cut.tile_of[found], energy[found], cut.tiles)
        kept = np.zeros(cut.tiles + 1, dtype=bool)  # the last one answers for "no tile"
        kept[np.argsort(-energies, kind="stable")[: structure.blocks]] = True
        chosen = torch.as_tensor(kept[cut.tile_of], device=w.device)
        w = projections.keep_chosen_blocks(w, chosen, shape.rows, shape.tile_columns)
    if structure.one_sign and structure.column_nonzeros is not None:
        return projections.one_sign_nonzeros(w, structure.column_nonzeros, shape.rows, shape.rows_active)
    if structure.one_sign:
        return projections.one_sign(w, fragments(w.shape[1], shape))
    if structure.column_nonzeros is not None:
        return projections.column_nonzeros(w, structure.column_nonzeros, shape.rows)
    return w
