"""Euclidean projections of a weight matrix [G, K, N] (groups, rows = inputs, columns = output channels), one set each.

Each function returns the point of its set that is nearest to ``w``, as a new tensor of the same dtype on the same
device. Each keeps some weights and sets the others to zero; the squared distance is then the energy (sum of squares) of
the weights that are set to zero, so that the nearest point is the one that keeps the most energy. Of equal candidates
the one of lower index is kept, so that a result does not depend on the machine. Energies are those of ``w`` divided by
its largest magnitude, and the energy of a non-zero weight is never rounded to zero: a point of the set is returned
unchanged.

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
    kept = _mask_largest(_compute_energy(w).sum(dim=1), _check_count(count, "filters"))  # [G, N]
    return _zero_others(kept[:, None, :], w)


def keep_shapes(w: Tensor, count: int) -> Tensor:
    """Project onto {at most ``count`` of the G x K rows are not zero}: keep the rows of largest energy.

    "Shape" is the papers' word for a column of *their* matrix, whose rows are filters: an input at a kernel position.

    Args:
        w: [G, K, N].
        count: at least 1; rows are counted over all groups.

    Raises:
        CompileError: ``w`` is not finite or ``count`` is below 1.
    """
    kept = _mask_largest(_compute_energy(w).sum(dim=2), _check_count(count, "shapes"))  # [G, K]
    return _zero_others(kept[:, :, None], w)


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
    energy = _compute_energy(w).sum(dim=2).reshape(groups, rows // positions, positions).sum(dim=2)
    kept = _mask_largest(energy, _check_count(count, "channels"))  # [G, K / positions]
    return _zero_others(kept.repeat_interleave(positions, dim=1)[:, :, None], w)


def compute_block_energy(w: Tensor, rows: int, columns: int) -> Tensor:
    """Energy of each block of ``rows`` x ``columns``, relative to the square of the largest weight.

    Args:
        w: [G, K, N]; each group is cut separately, with smaller blocks at its end.
        rows, columns: size of a block.

    Returns:
        [G, ceil(K / rows), ceil(N / columns)].
    """
    padded = _pad(_compute_energy(w), 1, rows)
    strips = _pad(padded.reshape(len(w), -1, rows, w.shape[2]).sum(dim=2), 2, columns)  # [G, row blocks, N]
    blocks: Tensor = strips.reshape(*strips.shape[:2], -1, columns).sum(dim=3)
    return blocks


def keep_chosen_blocks(w: Tensor, kept: Tensor, rows: int, columns: int) -> Tensor:
    """Set to zero the blocks that a bool mask [G, ceil(K / rows), ceil(N / columns)] does not keep."""
    by_row = kept.repeat_interleave(rows, dim=1)[:, : w.shape[1]]
    return _zero_others(by_row.repeat_interleave(columns, dim=2)[:, :, : w.shape[2]], w)


# --- inside a column -------------------------------------------------------------------------------------------------


def keep_column_nonzeros(w: Tensor, count: int, rows: int) -> Tensor:
    """Project onto {at most ``count`` non-zeros in each column of each row block}: keep the largest magnitudes.

    With few non-zeros in a column its sum is small and a smaller ADC converts it without error (TinyADC).

    Args:
        w: [G, K, N].
        count: at least 1.
        rows: rows of a block (a crossbar); the last block may have fewer.

    Raises:
        CompileError: ``w`` is not finite or ``count`` is below 1.
    """
    _check_finite(w)
    count = _check_count(count, "column_nonzeros")
    height = w.shape[1]
    if count >= min(rows, height):
        return w.clone()
    # Padding is zero and has the highest indices of its block: it never takes the place of a weight.
    magnitude = _pad(w.abs(), 1, rows)
    groups, padded, width = magnitude.shape
    parts = magnitude.reshape(groups, padded // rows, rows, width).transpose(2, 3).contiguous()
    kept = _mask_largest_in_rows(parts, count).transpose(2, 3).reshape(groups, padded, width)
    return _zero_others(kept[:, :height], w)


def keep_one_sign(w: Tensor, fragments: Sequence[tuple[int, int]]) -> Tensor:
    """Project onto {no fragment of a column holds both signs}: set to zero the sign that has less energy.

    Args:
        w: [G, K, N].
        fragments: (start, length) of rows, disjoint; rows outside of all fragments are unchanged. With equal energies
            the positive sign is kept.

    Raises:
        CompileError: ``w`` is not finite.
    """
    energy = _compute_energy(w)
    kept = torch.ones_like(w, dtype=torch.bool)
    # Fragments of equal length are handled together: there are many fragments, but only a few lengths.
    for length, group in groupby(sorted(fragments, key=lambda part: part[1]), key=lambda part: part[1]):
        starts = torch.tensor([start for start, _ in group], device=w.device)
        rows = (starts[:, None] + torch.arange(length, device=w.device)).flatten()  # [F * L]
        part = w.index_select(1, rows).reshape(len(w), -1, length, w.shape[2])  # [G, F, L, N]
        part_energy = energy.index_select(1, rows).reshape(part.shape)
        plus = torch.where(part > 0, part_energy, 0).sum(dim=2, keepdim=True)
        minus = torch.where(part < 0, part_energy, 0).sum(dim=2, keepdim=True)
        kept.index_copy_(1, rows, torch.where(plus >= minus, part >= 0, part <= 0).flatten(1, 2))
    return _zero_others(kept, w)


def keep_one_sign_nonzeros(w: Tensor, count: int, rows: int, fragment: int) -> Tensor:
    """Project onto the intersection of ``keep_one_sign`` and ``keep_column_nonzeros``, exactly.

    One projection after the other does not give the nearest point: which sign is best depends on how many weights the
    fragment may keep. The best distribution of ``count`` over the fragments of a column is found by dynamic programming
    over the fragments. Columns that lie in the set already are returned unchanged.

    Args:
        w: [G, K, N].
        count: non-zeros that a column may hold in each block of ``rows`` rows; at least 1.
        rows: rows of a block (a crossbar).
        fragment: rows of a fragment; blocks are cut every ``fragment`` rows, the last fragment may have fewer.

    Raises:
        CompileError: ``w`` is not finite or ``count`` is below 1.
    """
    _check_finite(w)
    count = min(_check_count(count, "column_nonzeros"), rows)
    fragment = min(fragment, rows)
    parts = _split_into_fragments(w, rows, fragment)  # [F, C, L]
    energy = _compute_energy(parts)
    signed = torch.stack([torch.where(parts > 0, energy, 0), torch.where(parts < 0, energy, 0)])  # [2, F, C, L]
    ordered, order = signed.sort(dim=-1, descending=True, stable=True)
    # A fragment that may keep j + 1 weights keeps the j + 1 largest of one sign: the energy kept is a running sum over
    # the sorted energies, and for each j the better sign can be chosen independently of all other fragments. So only
    # the numbers of weights per fragment remain to be chosen together.
    gains = ordered[..., : min(fragment, count)].cumsum(dim=-1)
    best, sign = gains.max(dim=0)  # [F, C, J]; with equal sums the positive sign is kept
    share = _distribute_count(best, count)[..., None]  # [F, C, 1]
    plus = sign.gather(2, (share - 1).clamp_min(0)) == 0
    first = torch.arange(fragment, device=w.device) < share
    kept = torch.zeros_like(parts, dtype=torch.bool).scatter_(2, torch.where(plus, order[0], order[1]), first)
    # The sorted list ends with the weights of the other sign (energy 0 in this one); they must not be kept.
    kept &= torch.where(plus, parts > 0, parts < 0)
    # Running sums in floating point lose weights that are tiny compared to others. A column that is feasible already is
    # therefore kept by definition, not by comparing sums: projecting twice must change nothing.
    mixed = (parts > 0).any(dim=-1) & (parts < 0).any(dim=-1)  # [F, C]
    feasible = ~mixed.any(dim=0) & ((parts != 0).sum(dim=(0, 2)) <= count)  # [C]
    kept = kept | feasible[:, None]
    return _zero_others(_merge_fragments(kept, w.shape, rows), w)


def _split_into_fragments(w: Tensor, rows: int, fragment: int) -> Tensor:
    """[G, K, N] to [F, C, L]: fragments of a block, columns of all blocks of all groups, rows of a fragment."""
    blocks = _pad(w, 1, rows).reshape(-1, rows, w.shape[2])  # [G * B, R, N]
    parts = _pad(blocks, 1, fragment).reshape(len(blocks), -1, fragment, w.shape[2])  # [G * B, F, L, N]
    return parts.permute(1, 0, 3, 2).reshape(parts.shape[1], -1, fragment)


def _merge_fragments(parts: Tensor, shape: Sequence[int], rows: int) -> Tensor:
    """Undo ``_split_into_fragments`` for a matrix of a given shape, padding removed."""
    groups, height, width = shape
    whole = parts.reshape(len(parts), -1, width, parts.shape[2]).permute(1, 0, 3, 2)  # [G * B, F, L, N]
    blocks = whole.reshape(len(whole), -1, width)[:, :rows]  # [G * B, R, N]
    return blocks.reshape(groups, -1, width)[:, :height]


def _distribute_count(gains: Tensor, count: int) -> Tensor:
    """Distribute ``count`` kept weights over fragments for the largest total gain.

    Args:
        gains: energy of the best j + 1 weights of a fragment, [F, C, J].
        count: weights that all fragments of a column may keep together.

    Returns:
        Weights that each fragment keeps, int64 [F, C]; of equal totals the one with the fewest weights, in the later
        fragments first.
    """
    fragments, columns, most = gains.shape
    if fragments == 1:
        return torch.full((1, columns), most, device=gains.device)
    # total[t]: largest gain of the fragments handled so far with at most t weights. It starts at 0 for every t, so "at
    # most" needs no special case. picks[f, t]: weights that fragment f takes in that optimum, to walk back afterwards.
    total = gains.new_zeros(count + 1, columns)
    picks = torch.zeros(fragments, count + 1, columns, dtype=torch.int16, device=gains.device)
    for index in range(fragments):
        better = total.clone()
        for taken in range(1, most + 1):
            candidate = total[: count + 1 - taken] + gains[index, :, taken - 1]
            wins = candidate > better[taken:]  # strictly: of equal totals the one with fewer weights stays
            better[taken:] = torch.where(wins, candidate, better[taken:])
            picks[index, taken:].masked_fill_(wins, taken)
        total = better
    # The last fragment's pick is optimal for the whole count; the rest is the count of the fragments before it.
    left = torch.full((1, columns), count, device=gains.device)
    share = torch.zeros(fragments, columns, dtype=torch.int64, device=gains.device)
    for index in reversed(range(fragments)):
        share[index] = picks[index].gather(0, left)[0].long()
        left = left - share[index]
    return share


# --- values ----------------------------------------------------------------------------------------------------------


def find_nearest_levels(w: Tensor, levels: Tensor, scale: Tensor) -> Tensor:
    """Index of the nearest level of each weight, int64 [G, K, N].

    Half way between two levels the one nearer to zero is chosen, and the negative one of a pair: so a weight and its
    negative get levels that are each other's negative, unless zero itself is half way.

    Args:
        w: [G, K, N].
        levels: the values that a weight may have in units of the scale, strictly increasing, [L]; with or without zero.
        scale: of each bit line, not negative, [G, N]; the weights of a bit line of scale 0 count as 0.

    Raises:
        CompileError: ``w`` or ``scale`` is not finite, a scale is negative, ``levels`` are not increasing.
    """
    _check_finite(w)
    if not bool(torch.isfinite(scale).all() & (scale >= 0).all()):
        raise CompileError("the scale of a bit line is negative or not finite; fit it to finite weights")
    values = levels.to(w)
    if values.ndim != 1 or not len(values) or not bool((values[1:] > values[:-1]).all()):
        raise CompileError("levels must be a list of strictly increasing numbers; sort them and remove duplicates")
    unit = scale.to(w.dtype)[:, None, :]
    # bucketize puts a value that equals an edge into the bucket below. Above zero that is the level nearer to zero, as
    # wanted; below zero it would be the farther one, so a negative edge is moved down by one unit in the last place.
    middle = values[:-1] + (values[1:] - values[:-1]) / 2
    edges = torch.where(middle < 0, torch.nextafter(middle, middle.new_tensor(-torch.inf)), middle)
    relative = torch.where(unit > 0, w / torch.where(unit > 0, unit, 1), 0)
    return torch.bucketize(relative.contiguous(), edges)


# --- helpers ---------------------------------------------------------------------------------------------------------


def _zero_others(kept: Tensor, w: Tensor) -> Tensor:
    """``w`` where it is kept, +0 elsewhere (a product with the mask would give -0 for negative weights)."""
    return torch.where(kept, w, torch.zeros((), dtype=w.dtype, device=w.device))


def _check_count(count: int, key: str) -> int:
    if count < 1:
        raise CompileError(f"{key} = {count} would leave an empty layer; give at least 1")
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


def _compute_energy(w: Tensor) -> Tensor:
    """Squares of w / max |w|, at least float32; never 0 where w is not 0."""
    peak = _check_finite(w)
    wide = w if w.dtype == torch.float64 else w.float()
    # Squares of the weights themselves overflow or underflow far earlier than squares of relative weights. The smallest
    # of these still underflow to 0; they are raised to the smallest normal number, to count as more than a zero weight.
    relative = wide / torch.where(peak > 0, peak, 1).to(wide.dtype)
    return relative.square_().clamp_min_(torch.finfo(wide.dtype).tiny).mul_(w != 0)


def _mask_largest(values: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` largest values over all dimensions; of equal values those of lower index."""
    order = values.flatten().argsort(descending=True, stable=True)
    kept = torch.zeros_like(order, dtype=torch.bool)
    kept[order[:count]] = True
    return kept.reshape(values.shape)


def _mask_largest_in_rows(values: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` largest values along the last dimension; of equal values those of lower index."""
    # topk is several times faster than a stable sort, but which of several equal values it returns is not defined. Only
    # its smallest value is used, as a threshold; equal values are then counted from the lowest index on.
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
