"""How others share a budget of arrays out among the layers of a network."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def puma_like(vectors: Sequence[int], arrays: Sequence[int], budget: int) -> list[int]:
    """Copies of each layer that balance a pipeline in which every copy works on its share of the vectors.

    The layer that takes longest gets a copy more, again and again, until its next copy no longer fits. So do the
    PUMA-like baseline of PIMCOMP's first paper (Sun et al., DAC 2023, section V: copies balance the pipeline, as in
    PUMA, ASPLOS 2019) and PIMCOMP's own program, where this rule is called `balance`. The program stops when half of
    the arrays are used; this uses all of them, so it is the stronger baseline. (In PIMCOMP's paper of 2024, TCAD,
    section VIII, the PUMA baseline has no copies at all.)

    Time is counted in vectors: ceil(vectors / copies), a read of every array taking equally long. No layer gets more
    copies than it has vectors, so a dense layer gets one. Of layers that take equally long the first comes first.

    Args:
        vectors: products per inference of each layer, at least 1.
        arrays: arrays of one copy of each layer, at least 1.
        budget: arrays that there are.

    Raises:
        ValueError: one copy of each does not fit.
    """
    left = budget - sum(arrays)
    if left < 0:
        raise ValueError(f"one copy of each layer takes {sum(arrays)} arrays, and there are {budget}")
    copies = [1] * len(vectors)
    slowest = [(-count, index) for index, count in enumerate(vectors)]
    heapq.heapify(slowest)
    while slowest:
        time, index = slowest[0]
        if time == -1 or arrays[index] > left:
            break
        copies[index] += 1
        left -= arrays[index]
        heapq.heapreplace(slowest, (-vectors[index] // copies[index], index))  # floor of -x is -ceil of x
    return copies
