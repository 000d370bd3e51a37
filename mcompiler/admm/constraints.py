"""The structure of one layer: whether a target can hold it, and the projection of a weight matrix onto it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcompiler.admm import projections
from mcompiler.admm.lowering import CompressibleLayer
from mcompiler.admm.spec import Structure
from mcompiler.errors import CompileError
from mcompiler.geometry import ArrayShape, fragments, kept_of, tile_positions
from mcompiler.ir import Kept
from mcompiler.target import Target


def check_structure(layer: CompressibleLayer, structure: Structure, target: Target) -> None:
    """Check that a target supports the constraints of a structure.

    Args:
        layer: the layer.
        structure: of the layer.
        target: where the layer will be mapped.

    Raises:
        CompileError: the target's encoding or array does not allow the constraint.
    """
    encoding, name = target.weight_encoding, target.encoding.weights
    if structure.column_nonzeros is not None:
        if not encoding.zero_is_empty:
            raise CompileError(
                f"column_nonzeros needs the encoding 'differential' or 'polarised', and target '{target.name}' has "
                f"'{name}': an offset zero is not a zero cell; remove column_nonzeros or change encoding.weights",
                layer.name,
            )
        if structure.column_nonzeros > target.array.rows:
            raise CompileError(
                f"column_nonzeros = {structure.column_nonzeros}, but a column of target '{target.name}' has "
                f"{target.array.rows} cells; give at most {target.array.rows}, or leave the key out",
                layer.name,
            )
    if structure.one_sign and not encoding.signed_fragments:
        raise CompileError(
            f"one_sign needs the encoding 'polarised', and target '{target.name}' has '{name}', which holds both "
            "signs and saves nothing by it; remove one_sign or change encoding.weights",
            layer.name,
        )


def project_structure(w: Tensor, structure: Structure, shape: ArrayShape, positions: int) -> Tensor:
    """Project a matrix onto one constraint set after the other, so that the result lies in all of them.

    The order is filters, channels, shapes; then, on the matrix without its empty rows and columns, cut into tiles and
    fragments as the compiler does: blocks (small groups that share an array are one block), one sign and column
    non-zeros. Each step is a Euclidean projection, the last two together are the projection onto their intersection;
    the result is a feasible point near ``w``, not always the nearest (choosing rows and columns together is NP-hard).

    Projecting the result again changes nothing. Levels that include zero may empty further rows: project once more
    after rounding to levels. That only sets weights to zero, so the remaining weights are still on the levels.

    Args:
        w: [G, K, N].
        structure: the constraints.
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
        return w.clone() if structure.is_unconstrained else w
    # The constraints below refer to tiles, and the compiler cuts tiles after it has removed empty rows and columns. A
    # projection that empties a row therefore moves all later rows to other tiles (in narrow layers few non-zeros per
    # column empty whole rows), and the constraints must hold for the new tiles. The loop ends: every round only sets
    # weights to zero, and it goes on only while the rows and columns with weights change.
    tiling = _cut_into_tiles(w, shape)
    while True:
        w = tiling.expand(_project_tiles(tiling.compact(w), structure, shape, tiling), w.shape)
        after = _cut_into_tiles(w, shape)
        if tiling.equals(after):
            return w
        tiling = after


@dataclass(frozen=True)
class _Tiling:
    """How the compiler compacts a matrix and cuts it into tiles.

    In the compacted matrix a group's rows have the position that they have in their array: where several small groups
    share an array, each group begins at the row where the previous one ends. Positions without a row or column of the
    matrix have the index after the last one.

    Attributes:
        row_of, col_of: row and column of the matrix at each position of the compacted one, [G, P] and [G, Q].
        tile_of: tile of each block of ``shape.rows`` x ``shape.tile_columns`` of the compacted matrix, -1: none,
            [G, row blocks, column blocks].
        tiles: number of tiles.
    """

    row_of: npt.NDArray[np.int64]
    col_of: npt.NDArray[np.int64]
    tile_of: npt.NDArray[np.int64]
    tiles: int

    def equals(self, other: _Tiling) -> bool:
        """Whether both tilings put the same rows and columns at the same positions."""
        return np.array_equal(self.row_of, other.row_of) and np.array_equal(self.col_of, other.col_of)

    def _index(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        groups = torch.arange(len(self.row_of), device=device)[:, None, None]
        rows, cols = torch.as_tensor(self.row_of, device=device), torch.as_tensor(self.col_of, device=device)
        return groups, rows[:, :, None], cols[:, None, :]

    def compact(self, w: Tensor) -> Tensor:
        """[G, K, N] to [G, P, Q]."""
        # The row and column of zeros that are appended are what positions without a row or column read.
        return torch.nn.functional.pad(w, (0, 1, 0, 1))[self._index(w.device)]

    def expand(self, compacted: Tensor, shape: torch.Size) -> Tensor:
        """[G, P, Q] to [G, K, N], zero at rows and columns that were removed."""
        full = compacted.new_zeros(shape[0], shape[1] + 1, shape[2] + 1)
        full[self._index(compacted.device)] = compacted  # positions without a row or column write to the appended ones
        return full[:, :-1, :-1].contiguous()


def _cut_into_tiles(w: Tensor, shape: ArrayShape) -> _Tiling:
    used = w != 0
    rows, cols = (kept_of(used.any(dim=dim).cpu().numpy()) for dim in (2, 1))
    heights, widths = rows.counts(), cols.counts()
    positions = tile_positions(heights, widths, shape)
    first_row = np.zeros(len(w), dtype=np.int64)
    for group, groups, *_ in positions:
        members = slice(group, group + groups)
        first_row[members] = np.cumsum(heights[members]) - heights[members] if groups > 1 else 0
    row_of = _make_index_table(rows, first_row, w.shape[1])
    col_of = _make_index_table(cols, np.zeros_like(first_row), w.shape[2])
    blocks = -(-row_of.shape[1] // shape.rows), -(-col_of.shape[1] // shape.tile_columns)
    tile_of = np.full((len(w), *blocks), -1, dtype=np.int64)
    for tile, (group, groups, row, _, col, _) in enumerate(positions):
        tile_of[group : group + groups, row // shape.rows, col // shape.tile_columns] = tile
    return _Tiling(row_of, col_of, tile_of, len(positions))


def _make_index_table(kept: Kept, first: npt.NDArray[np.int64], missing: int) -> npt.NDArray[np.int64]:
    """Kept indices of each group, from position ``first`` of the group on, ``missing`` elsewhere: [G, positions]."""
    counts = kept.counts()
    table = np.full((len(counts), int((first + counts).max(initial=0))), missing, dtype=np.int64)
    groups = np.repeat(np.arange(len(counts)), counts)
    table[groups, first[groups] + np.arange(len(groups)) - kept.offsets[groups]] = kept.indices
    return table


def _project_tiles(w: Tensor, structure: Structure, shape: ArrayShape, tiling: _Tiling) -> Tensor:
    """Project a compacted matrix [G, P, Q] onto blocks, one sign and column non-zeros."""
    if not w.numel():
        return w  # all weights are zero
    if structure.blocks is not None and structure.blocks < tiling.tiles:
        energy = projections.compute_block_energy(w, shape.rows, shape.tile_columns).double().cpu().numpy()
        found = tiling.tile_of >= 0
        energies = np.bincount(tiling.tile_of[found], energy[found], tiling.tiles)
        kept = np.zeros(tiling.tiles + 1, dtype=bool)  # the last entry is the one that tile -1 reads
        kept[np.argsort(-energies, kind="stable")[: structure.blocks]] = True
        chosen = torch.as_tensor(kept[tiling.tile_of], device=w.device)
        w = projections.keep_chosen_blocks(w, chosen, shape.rows, shape.tile_columns)
    if structure.one_sign and structure.column_nonzeros is not None:
        return projections.keep_one_sign_nonzeros(w, structure.column_nonzeros, shape.rows, shape.rows_active)
    if structure.one_sign:
        return projections.keep_one_sign(w, fragments(w.shape[1], shape))
    if structure.column_nonzeros is not None:
        return projections.keep_column_nonzeros(w, structure.column_nonzeros, shape.rows)
    return w
