"""Projections that the compressor puts together from the parts in mcompiler.admm.projections, for tests."""

from __future__ import annotations

from torch import Tensor

from mcompiler.admm import projections as pr


def keep_blocks(w: Tensor, count: int, rows: int, columns: int) -> Tensor:
    """Keep the ``count`` blocks of ``rows`` x ``columns`` with the largest energy, of all groups."""
    energy = pr.compute_block_energy(w, rows, columns)
    kept = energy.flatten().argsort(descending=True, stable=True).argsort() < count
    return pr.keep_chosen_blocks(w, kept.reshape(energy.shape), rows, columns)


def round_to_levels(w: Tensor, levels: Tensor, scale: Tensor) -> Tensor:
    """Each weight as its bit line's scale times the nearest level."""
    values: Tensor = levels.to(w)[pr.find_nearest_levels(w, levels, scale)] * scale.to(w.dtype)[:, None, :]
    return values
