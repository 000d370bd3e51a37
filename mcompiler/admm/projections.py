"""Euclidean projections of a weight matrix [G, K, N] (groups, rows = inputs, columns = output channels), one set each.

Each function returns the point of its set that is nearest to ``w``, as a new tensor of the same dtype on the same
device. All but ``nearest_level`` keep some weights and zero the rest; the squared distance is then the energy (sum of
squares) of what is zeroed, so that the nearest point is the one that keeps the most energy. Ties go to the lower index,
so that a result does not depend on the machine. Energies are those of ``w`` divided by its largest magnitude, and the
energy of a weight that is not zero is never rounded to zero: what lies in the set already stays as it is.

All of them raise CompileError where ``w`` holds a NaN or an infinity.

Sources: filters, channels, shapes and levels are the sets P and Q of Yuan et al., ISLPED 2019 (arXiv 1908.11691);
column non-zeros are TinyADC's (Yuan et al., DATE 2021); one sign per fragment is the polarisation of FORMS (Yuan et
al., ISCA 2021, arXiv 2106.09144).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from mcompiler.errors import CompileError

# --- whole structures ------------------------------------------------------------------------------------------------


def keep_filters(w: Tensor, count: int) -> Tensor:
    """Project onto {at most ``count`` of the G x N columns are not zero}: keep the columns of largest energy.

    Args:
        w: [G, K, N].
        count: at least 1; columns are counted over all groups.

    Raises:
        CompileError: ``w`` is not finite or ``count`` is below 1.
    """
    kept = _largest(_energy(w).sum(dim=1), _at_least_one(count, "filters"))  # [G, N]
    return _where(kept[:, None, :], w)


def keep_shapes(w: Tensor, count: int) -> Tensor:
    """Project onto {at most ``count`` of the G x K rows are not zero}: keep the rows of largest energy.

    "Shape" is the papers' word for a column of *their* matrix, whose rows are filters: an input at a kernel position.

    Args:
        w: [G, K, N].
        count: at least 1; rows are counted over all groups.

    Raises:
        CompileError: ``w`` is not finite or ``count`` is below 1.
    """
    kept = _largest(_energy(w).sum(dim=2), _at_least_one(count, "shapes"))  # [G, K]
    return _where(kept[:, :, None], w)


def keep_channels(w: Tensor, count: int, positions: int) -> Tensor:
    """Project onto {at most ``count`` input channels are not zero}: keep the channels of largest energy.

    Args:
        w: [G, K, N]; a channel is ``positions`` successive rows.
        count: at least 1; channels are counted over all groups.
        positions: kernel positions, a divisor of K.

    Raises:
        CompileError: ``w`` is not finite or ``count`` is below 1.
    """
    groups, rows, _ = w.shape
    if positions < 1 or rows % positions:
        raise ValueError(f"{rows} rows are no whole number of channels of {positions} rows")
    energy = _energy(w).sum(dim=2).reshape(groups, rows // positions, positions).sum(dim=2)
    kept = _largest(energy, _at_least_one(count, "channels"))  # [G, K / positions]
    return _where(kept.repeat_interleave(positions, dim=1)[:, :, None], w)


def keep_blocks(w: Tensor, count: int, rows: int, columns: int) -> Tensor:
    """Project onto {at most ``count`` blocks are not zero}: keep the blocks of largest energy.

    Args:
        w: [G, K, N], each group cut on its own into blocks of ``rows`` x ``columns``, smaller ones at its edges.
        count: at least 1; blocks are counted over all groups, row by row.
        rows, columns: size of a block; a crossbar's.

    Raises:
        CompileError: ``w`` is not finite or ``count`` is below 1.
    """
    kept = _largest(block_energy(w, rows, columns), _at_least_one(count, "blocks"))  # [G, row blocks, column blocks]
    return keep_chosen_blocks(w, kept, rows, columns)


def block_energy(w: Tensor, rows: int, columns: int) -> Tensor:
    """Energy of each block, relative to the square of the largest weight: [G, ceil(K / rows), ceil(N / columns)]."""
    tall = _pad(_energy(w), 1, rows)
    strips = _pad(tall.reshape(len(w), -1, rows, w.shape[2]).sum(dim=2), 2, columns)  # [G, row blocks, N]
    blocks: Tensor = strips.reshape(*strips.shape[:2], -1, columns).sum(dim=3)
    return blocks


def keep_chosen_blocks(w: Tensor, kept: Tensor, rows: int, columns: int) -> Tensor:
    """Zero the blocks that a bool mask [G, ceil(K / rows), ceil(N / columns)] does not keep."""
    tall = kept.repeat_interleave(rows, dim=1)[:, : w.shape[1]]
    return _where(tall.repeat_interleave(columns, dim=2)[:, :, : w.shape[2]], w)


# --- inside a column -------------------------------------------------------------------------------------------------


def column_nonzeros(w: Tensor, count: int, rows: int) -> Tensor:
    """Project onto {at most ``count`` non-zeros in each column of each row block}: keep the largest magnitudes.

    With few non-zeros in a column its sum is small and a smaller ADC converts it without error (TinyADC).

    Args:
        w: [G, K, N].
        count: at least 1.
        rows: rows of a block (a crossbar); the last one may be shorter.

    Raises:
        CompileError: ``w`` is not finite or ``count`` is below 1.
    """
    _check_finite(w)
    count = _at_least_one(count, "column_nonzeros")
    height = w.shape[1]
    if count >= min(rows, height):
        return w.clone()
    magnitude = _pad(w.abs(), 1, rows)  # padding is zero and stands last: it never displaces a weight
    groups, padded, width = magnitude.shape
    parts = magnitude.reshape(groups, padded // rows, rows, width).transpose(2, 3).contiguous()
    kept = _top(parts, count).transpose(2, 3).reshape(groups, padded, width)
    return _where(kept[:, :height], w)


def one_sign(w: Tensor, fragments: Sequence[tuple[int, int]]) -> Tensor:
    """Project onto {no fragment of a column holds both signs}: zero the sign that has less energy.

    Args:
        w: [G, K, N].
        fragments: (start, length) of rows, disjoint; rows in none of them stay as they are. A tie keeps the positive.

    Raises:
        CompileError: ``w`` is not finite.
    """
    energy = _energy(w)
    kept = torch.ones_like(w, dtype=torch.bool)
    for length, group in groupby(sorted(fragments, key=lambda part: part[1]), key=lambda part: part[1]):
        starts = torch.tensor([start for start, _ in group], device=w.device)
        rows = (starts[:, None] + torch.arange(length, device=w.device)).flatten()  # [F * L]
        part = w.index_select(1, rows).reshape(len(w), -1, length, w.shape[2])  # [G, F, L, N]
        strength = energy.index_select(1, rows).reshape(part.shape)
        plus = torch.where(part > 0, strength, 0).sum(dim=2, keepdim=True)
        minus = torch.where(part < 0, strength, 0).sum(dim=2, keepdim=True)
        kept.index_copy_(1, rows, torch.where(plus >= minus, part >= 0, part <= 0).flatten(1, 2))
    return _where(kept, w)


def one_sign_nonzeros(w: Tensor, count: int, rows: int, fragment: int) -> Tensor:
    """Project onto the intersection of ``one_sign`` and ``column_nonzeros``, exactly.

    One after the other is not the nearest point: which sign is best depends on how many weights the fragment may keep.
    The best split of ``count`` over the fragments of a column is found by dynamic programming over the fragments.
    Columns that lie in the set already are left alone.

    Args:
        w: [G, K, N].
        count: non-zeros that a column may hold in each block of ``rows`` rows; at least 1.
        rows: rows of a block (a crossbar).
        fragment: rows of a fragment; blocks are cut every ``fragment`` rows, the last one may be shorter.

    Raises:
        CompileError: ``w`` is not finite or ``count`` is below 1.
    """
    _check_finite(w)
    count = min(_at_least_one(count, "column_nonzeros"), rows)
    height, width = w.shape[1:]
    fragment = min(fragment, rows)
    blocks = _pad(w, 1, rows).reshape(-1, rows, width)  # [G * B, R, N]
    parts = _pad(blocks, 1, fragment).reshape(len(blocks), -1, fragment, width)  # [G * B, F, L, N]
    parts = parts.permute(1, 0, 3, 2).reshape(parts.shape[1], -1, fragment)  # [F, C, L], C the columns of all blocks
    energy = _energy(parts)
    signed = torch.stack([torch.where(parts > 0, energy, 0), torch.where(parts < 0, energy, 0)])  # [2, F, C, L]
    ordered, order = signed.sort(dim=-1, descending=True, stable=True)
    worth = ordered[..., : min(fragment, count)].cumsum(dim=-1)
    best, sign = worth.max(dim=0)  # of the j + 1 best weights of a fragment, [F, C, J]; a tie keeps the positive
    share = _split(best, count)[..., None]  # [F, C, 1]
    plus = sign.gather(2, (share - 1).clamp_min(0)) == 0
    first = torch.arange(fragment, device=w.device) < share
    kept = torch.zeros_like(parts, dtype=torch.bool).scatter_(2, torch.where(plus, order[0], order[1]), first)
    kept &= torch.where(plus, parts > 0, parts < 0)
    mixed = (parts > 0).any(dim=-1) & (parts < 0).any(dim=-1)  # [F, C]
    inside = ~mixed.any(dim=0) & ((parts != 0).sum(dim=(0, 2)) <= count)  # [C]
    kept = (kept | inside[:, None]).reshape(len(parts), len(blocks), width, fragment)
    kept = kept.permute(1, 0, 3, 2).reshape(len(blocks), -1, width)[:, :rows]  # [G * B, R, N]
    return _where(kept.reshape(len(w), -1, width)[:, :height], w)


def _split(worth: Tensor, count: int) -> Tensor:
    """Share ``count`` among fragments for the largest total worth.

    Args:
        worth: of the best j + 1 weights of a fragment, [F, C, J].
        count: weights that all fragments of a column may keep together.

    Returns:
        Weights that each fragment keeps, int64 [F, C]; the fewest, the later fragment first, where totals tie.
    """
    fragments, columns, most = worth.shape
    if fragments == 1:
        return torch.full((1, columns), most, device=worth.device)
    total = worth.new_zeros(count + 1, columns)  # best of the fragments so far with at most t weights
    picks = torch.zeros(fragments, count + 1, columns, dtype=torch.int16, device=worth.device)
    for index in range(fragments):
        better = total.clone()
        for taken in range(1, most + 1):
            candidate = total[: count + 1 - taken] + worth[index, :, taken - 1]
            wins = candidate > better[taken:]
            better[taken:] = torch.where(wins, candidate, better[taken:])
            picks[index, taken:].masked_fill_(wins, taken)
        total = better
    left = torch.full((1, columns), count, device=worth.device)
    share = torch.zeros(fragments, columns, dtype=torch.int64, device=worth.device)
    for index in reversed(range(fragments)):
        share[index] = picks[index].gather(0, left)[0].long()
        left = left - share[index]
    return share


# --- values ----------------------------------------------------------------------------------------------------------


def nearest_level(w: Tensor, levels: Tensor, scale: Tensor) -> Tensor:
    """Project onto {each weight is its bit line's scale times one of ``levels``}: take the nearest.

    Args:
        w: [G, K, N].
        levels: the values that a weight may have in units of the scale, strictly increasing, [L]; with or without zero.
        scale: of each bit line, not negative, [G, N]; a bit line of scale 0 becomes 0.

    Raises:
        CompileError: ``w`` or ``scale`` is not finite, a scale is negative, ``levels`` are not increasing.
    """
    unit = scale.to(w.dtype)[:, None, :]
    result: Tensor = levels.to(w)[level_index(w, levels, scale)] * unit
    return result


def level_index(w: Tensor, levels: Tensor, scale: Tensor) -> Tensor:
    """Index of the nearest level of each weight, int64 [G, K, N]; arguments and errors as ``nearest_level``.

    Half way between two levels the one nearer to zero is taken, and the negative one of a pair: so a weight and its
    negative get levels that are each other's negative, unless zero itself is half way.
    """
    _check_finite(w)
    if not bool(torch.isfinite(scale).all() & (scale >= 0).all()):
        raise CompileError("the scale of a bit line is negative or not finite; fit it to finite weights")
    values = levels.to(w)
    if values.ndim != 1 or not len(values) or not bool((values[1:] > values[:-1]).all()):
        raise CompileError("levels must be a list of strictly increasing numbers; sort them and drop what is double")
    unit = scale.to(w.dtype)[:, None, :]
    middle = values[:-1] + (values[1:] - values[:-1]) / 2
    edges = torch.where(middle < 0, torch.nextafter(middle, middle.new_tensor(-torch.inf)), middle)
    relative = torch.where(unit > 0, w / torch.where(unit > 0, unit, 1), 0)
    return torch.bucketize(relative.contiguous(), edges)


# --- what they share -------------------------------------------------------------------------------------------------


def _where(kept: Tensor, w: Tensor) -> Tensor:
    """``w`` where it is kept, +0 elsewhere."""
    return torch.where(kept, w, torch.zeros((), dtype=w.dtype, device=w.device))


def _at_least_one(count: int, what: str) -> int:
    if count < 1:
        raise CompileError(f"{what} = {count} would leave an empty layer; give at least 1")
    return count


def _check_finite(w: Tensor) -> Tensor:
    """The largest magnitude, a scalar; raises CompileError where a weight is not finite."""
    peak = w.abs().amax() if w.numel() else w.new_zeros(())
    if not bool(torch.isfinite(peak)):
        raise CompileError(
            "weights hold NaN or infinite values, and nothing is nearest to these: training diverged; lower the "
            "learning rate or rho, or go back to a checkpoint"
        )
    return peak


def _energy(w: Tensor) -> Tensor:
    """Squares of w / max |w|, at least float32; never 0 where w is not 0."""
    peak = _check_finite(w)
    wide = w if w.dtype == torch.float64 else w.float()
    relative = wide / torch.where(peak > 0, peak, 1).to(wide.dtype)
    return relative.square_().clamp_min_(torch.finfo(wide.dtype).tiny).mul_(w != 0)


def _largest(values: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` largest values over all dimensions; of equal ones those of lower index."""
    order = values.flatten().argsort(descending=True, stable=True)
    kept = torch.zeros_like(order, dtype=torch.bool)
    kept[order[:count]] = True
    return kept.reshape(values.shape)


def _top(values: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` largest values along the last dimension; of equal ones those of lower index.

    The threshold comes from ``topk``, which is several times faster than a stable sort but breaks ties as it likes.
    """
    least = values.topk(count, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
    above = values > least
    equal = values == least
    room = count - above.sum(dim=-1, keepdim=True)
    kept: Tensor = above | (equal & (equal.cumsum(dim=-1) <= room))
    return kept


def _pad(values: Tensor, dim: int, multiple: int) -> Tensor:
    """Zeros at the end of a dimension, up to a whole multiple."""
    missing = -values.shape[dim] % multiple
    if not missing:
        return values
    shape = list(values.shape)
    shape[dim] = missing
    return torch.cat([values, values.new_zeros(shape)], dim=dim)
