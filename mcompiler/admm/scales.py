"""Scales of the bit lines: the least squared error of rounding to codes, exactly.

For codes c the best scale is s = <c, w> / <c, c>, and the error |w|^2 - <c, w>^2 / <c, c>. The nearest codes of a scale
change only where a weight is half way between two levels, at |w_i| / s = m_j. Between two such points the codes are the
same, so the optimum over all scales is the largest <c, w>^2 / <c, c> over the codes of the intervals. They are visited
in order of 1 / s, and both sums change by one term at each point.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

CHUNK = 1 << 22
"""Changes of codes that are held in memory at once."""

SMALLEST_SCALE = 1e-30

_TIE = 1e-12
"""Relative difference of errors that counts as none; of equal scales the smallest is chosen."""

_FRACTIONS = 40
"""Number of scales that are tried for a bound of the error."""


def find_best_scales(matrix: torch.Tensor, levels: tuple[int, ...]) -> torch.Tensor:
    """The scale of each bit line with the least squared error of its nearest codes.

    Args:
        matrix: weights, [G, K, N]; a weight of 0 has code 0 even where the levels have no zero.
        levels: the codes that a weight may take, symmetric about zero.

    Returns:
        [G, N], at least SMALLEST_SCALE; 1 for a bit line of zeros.
    """
    groups, rows, columns = matrix.shape
    lines = matrix.detach().abs().transpose(1, 2).reshape(groups * columns, rows).double().contiguous()
    largest = lines.amax(dim=1) if rows else lines.new_zeros(len(lines))
    lines = lines / torch.where(largest > 0, largest, torch.ones_like(largest))[:, None]
    steps = torch.tensor(sorted({abs(level) for level in levels}), dtype=torch.float64, device=matrix.device)
    best = torch.ones_like(largest)
    low, high = _bound_inverse_scales(lines, steps)
    middles = (steps[1:] + steps[:-1]) / 2
    first = torch.searchsorted(middles, lines * low[:, None], right=True)
    last = torch.searchsorted(middles, lines * high[:, None], right=True)
    for part in _split_lines((last - first).sum(dim=1)):
        best[part] = _search(lines[part], steps, first[part], last[part])
    scale = torch.where(largest > 0, (best * largest).clamp_min(SMALLEST_SCALE), torch.ones_like(largest))
    return scale.reshape(groups, columns).to(matrix.dtype)


def _bound_inverse_scales(lines: torch.Tensor, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds of 1 / s between which the best scale of each line lies; the largest weight of each line is 1."""
    # Upper bound: weights above the largest level's value are clipped to it, and the error of clipping alone grows as
    # the scale falls. Where it exceeds the error of some other scale, no smaller scale is better.
    top = float(steps[-1])
    fractions = torch.logspace(0, -1.3, _FRACTIONS, dtype=torch.float64, device=lines.device).tolist()
    error = lines.square().sum(dim=1)
    for fraction in fractions:
        scale = fraction / top
        codes = _round_to_steps(lines, steps, scale)
        error = torch.minimum(error, (codes * scale - lines).square().sum(dim=1))
    high = torch.full_like(error, torch.inf)
    for fraction in reversed(fractions):
        clipped = (lines - fraction).clamp_min(0).square().sum(dim=1) > error * (1 + 1e-9) + 1e-18
        high = torch.where(clipped, top / fraction, high)
    # Lower bound, for equidistant levels with zero: where all codes are at most half of the largest, half the scale has
    # the same values and more. So the largest weight, 1, has a code above that.
    low = torch.full_like(error, top // 2 + 0.5 if _is_equidistant(steps) else 0.0)
    return low * (1 - 1e-9), high


def _round_to_steps(lines: torch.Tensor, steps: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """The nearest level of each weight; 0 for a weight of 0."""
    if _is_equidistant(steps):
        return (lines / scale).round_().clamp_(max=float(steps[-1]))
    places = torch.searchsorted((steps[1:] + steps[:-1]) / 2, (lines / scale).contiguous())
    return torch.where(lines > 0, steps[places], 0.0)


def _is_equidistant(steps: torch.Tensor) -> bool:
    """Whether the magnitudes of the levels are 0, 1, 2 and so on."""
    return bool((steps == torch.arange(len(steps), device=steps.device)).all())


def _split_lines(counts: torch.Tensor) -> Iterator[slice]:
    """Runs of lines that have at most CHUNK changes together, at least one line each."""
    start, total = 0, 0
    for place, count in enumerate(counts.tolist()):
        if total + count > CHUNK and place > start:
            yield slice(start, place)
            start, total = place, 0
        total += count
    yield slice(start, len(counts))


def _search(lines: torch.Tensor, steps: torch.Tensor, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """The best scale of each line [L, K], whose codes rise from steps[first] to steps[last]."""
    count = len(lines)
    start = torch.where(lines > 0, steps[first], 0.0)
    products, squares = (start * lines).sum(dim=1), start.square().sum(dim=1)
    changes = (last - first).reshape(-1)
    weight = torch.repeat_interleave(changes)  # [E] the weight that each change belongs to
    ends = changes.cumsum(dim=0)
    step = torch.arange(len(weight), device=lines.device) - (ends - changes)[weight] + first.reshape(-1)[weight]
    line, value = weight // max(1, lines.shape[1]), lines.reshape(-1)[weight]
    where = (steps[step] + steps[step + 1]) / 2 / value
    # One sort by line and, within it, by 1 / s. Points that rounding exchanges lie so close together that the codes
    # between them are not needed: they give an error that some scale has, or a larger one.
    order = (line + where / where.amax(dim=0, keepdim=True).mul(1 + 1e-9) if len(where) else where).argsort()
    line, value, step = line[order], value[order], step[order]
    gained = torch.stack([(steps[step + 1] - steps[step]) * value, steps[step + 1].square() - steps[step].square()])
    sums = gained.cumsum(dim=1)
    sizes = torch.bincount(line, minlength=count)
    before = torch.nn.functional.pad(sums, (1, 0))[:, (sizes.cumsum(dim=0) - sizes)]
    a, b = sums[0] - before[0][line] + products[line], sums[1] - before[1][line] + squares[line]
    # The codes at the lower bound are a candidate too.
    line = torch.cat([torch.arange(count, device=line.device), line])
    a, b = torch.cat([products, a]), torch.cat([squares, b])
    gain = torch.where(b > 0, a.square() / b.clamp_min(SMALLEST_SCALE), 0.0)
    most = torch.zeros_like(products).scatter_reduce(0, line, gain, "amax")
    energy = lines.square().sum(dim=1)
    places = torch.where(gain >= (most - _TIE * energy)[line], torch.arange(len(line), device=line.device), 0)
    chosen = torch.zeros(count, dtype=places.dtype, device=line.device).scatter_reduce(0, line, places, "amax")
    scale = torch.where(b[chosen] > 0, a[chosen] / b[chosen].clamp_min(SMALLEST_SCALE), torch.ones_like(most))
    # Once more from its codes: running sums over all lines have rounding errors that depend on the other lines.
    codes = _round_to_steps(lines, steps, scale[:, None])
    squares = codes.square().sum(dim=1)
    return torch.where(squares > 0, (codes * lines).sum(dim=1) / squares.clamp_min(SMALLEST_SCALE), scale)
