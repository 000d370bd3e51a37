"""How a tensor comes into being, position by position, and which positions of one a position of another needs.

A *token* is what an analog layer makes of one vector: all channels of one position. A feature map [B, C, *spatial] is a
raster of tokens in C order of its spatial axes, a sequence [B, *rows, K] one of its rows; a tensor whose operator works
on all of it at once is a single token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class Channels(StrEnum):
    """Which axis of a tensor makes up a token."""

    FIRST = "first"  # [B, C, *spatial]
    LAST = "last"  # [B, *rows, K]
    ALL = "all"  # the whole tensor, or parts of it that can't be told


@dataclass(frozen=True)
class Grid:
    """The tokens of a tensor.

    Attributes:
        sizes: of the raster; () for a single token.
        channels: what a token holds.
        width: elements of a token.
    """

    sizes: tuple[int, ...]
    channels: Channels
    width: int

    @property
    def tokens(self) -> int:
        """How many there are."""
        return math.prod(self.sizes)

    def like(self, other: Grid) -> bool:
        """Whether token j of one stands where token j of the other stands; never so where they can't be told."""
        if not self.sizes:
            return not other.sizes
        return self.sizes == other.sizes and self.channels is other.channels and self.channels is not Channels.ALL


def whole(elements: int) -> Grid:
    """A tensor that is there all at once."""
    return Grid((), Channels.ALL, max(1, elements))


@dataclass(frozen=True)
class Needs:
    """Which tokens of a tensor the tokens of a stage read.

    Attributes:
        last: int64 [tokens of the stage], index of the last token that each of them reads, -1 for none.
        last_use: int64 [tokens of the tensor], the last token of the stage that reads each of them, -1 for none.
        window: tokens of the tensor that must wait for a window to be whole, (kernel rows - 1) x width + kernel
            columns; 0 where nothing slides.
    """

    last: Indices
    last_use: Indices
    window: int = 0


@lru_cache(maxsize=64)
def same_place(tokens: int) -> Needs:
    """Token j reads token j."""
    index = np.arange(tokens, dtype=np.int64)
    return Needs(index, index)


def everything(tensor: int, stage: int) -> Needs:
    """Every token of the stage reads the whole tensor.

    Args:
        tensor, stage: tokens of each.
    """
    return Needs(np.full(stage, tensor - 1, dtype=np.int64), np.full(tensor, stage - 1, dtype=np.int64))


@dataclass(frozen=True)
class Window:
    """One axis of a window that slides: position o reads o * stride - pad + dilation * (0 .. kernel - 1)."""

    kernel: int
    stride: int = 1
    dilation: int = 1
    pad: int = 0

    def last(self, size: int, positions: int) -> Indices:
        """Last index that each position reads, within the axis: int64 [positions]."""
        index = np.arange(positions) * self.stride - self.pad + self.dilation * (self.kernel - 1)
        return np.clip(index, 0, size - 1)

    def last_use(self, size: int, positions: int) -> Indices:
        """Last position whose span holds each index, -1 for none: int64 [size]."""
        index = np.arange(size)
        found = np.minimum((index + self.pad) // self.stride, positions - 1)
        reach = found * self.stride - self.pad + self.dilation * (self.kernel - 1)
        return np.where((found >= 0) & (reach >= index), found, -1)


def windows(tensor: Sequence[int], stage: Sequence[int], axes: Sequence[Window]) -> Needs:
    """What sliding windows read.

    Args:
        tensor, stage: raster of the tensor and of the stage, one size an axis.
        axes: the window along each axis.
    """
    last, use = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    for axis, size, positions in zip(axes, tensor, stage, strict=True):
        last = (last[:, None] * size + axis.last(size, positions)).reshape(-1)
        uses = axis.last_use(size, positions)
        use = np.where((use[:, None] < 0) | (uses < 0), -1, use[:, None] * positions + uses).reshape(-1)
    whole_rows = sum((axis.kernel - 1) * math.prod(tensor[i + 1 :]) for i, axis in enumerate(axes))
    return Needs(last, use, whole_rows + 1)
