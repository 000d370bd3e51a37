"""Tokens: the positions of a tensor in the order in which they are computed, and which of them a stage reads.

A *token* is the result of an analog layer for one vector: all channels of one position. A feature map
[B, C, *spatial] is a raster of tokens in C order of its spatial axes, a sequence [B, *rows, K] one of its rows; a
tensor whose operator works on all of it at once is a single token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class Channels(StrEnum):
    """Which axis of a tensor makes up a token."""

    FIRST = "first"  # [B, C, *spatial]
    LAST = "last"  # [B, *rows, K]
    ALL = "all"  # the whole tensor, or parts whose positions are not known


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
        """Number of tokens."""
        return math.prod(self.sizes)

    def like(self, other: Grid) -> bool:
        """Whether token j of both has the same position; False where positions are not known."""
        if not self.sizes:
            return not other.sizes
        return self.sizes == other.sizes and self.channels is other.channels and self.channels is not Channels.ALL


def single_token(elements: int) -> Grid:
    """A tensor that is a single token."""
    return Grid((), Channels.ALL, max(1, elements))


class Relation(StrEnum):
    """How the tokens of a stage depend on those of a tensor that it reads."""

    SAME_PLACE = "same place"  # token j reads token j
    WINDOW = "window"  # a token reads the tokens under a window, or at a shifted place
    EVERYTHING = "everything"  # every token reads the whole tensor


@dataclass(frozen=True, eq=False)
class Needs:
    """Which tokens of a tensor the tokens of a stage read.

    Attributes:
        relation: how they are found; copies of two stages that are related by place talk pair by pair.
        last: int64 [tokens of the stage], index of the last token that each of them reads, -1 for none.
        last_use: int64 [tokens of the tensor], the last token of the stage that reads each of them, -1 for none.
        window: tokens of the tensor that must wait for a window to be complete, (kernel rows - 1) x width + kernel
            columns; 0 without a sliding window.
    """

    relation: Relation
    last: Indices
    last_use: Indices
    window: int = 0

    def __eq__(self, other: object) -> bool:
        """Equal by value, so that a relation means the same in another process."""
        if not isinstance(other, Needs):
            return NotImplemented
        return (
            self.relation is other.relation
            and self.window == other.window
            and np.array_equal(self.last, other.last)
            and np.array_equal(self.last_use, other.last_use)
        )

    def __hash__(self) -> int:
        return hash((self.relation, self.window, len(self.last), len(self.last_use)))


def same_place(tokens: int) -> Needs:
    """Token j reads token j."""
    index = np.arange(tokens, dtype=np.int64)
    return Needs(Relation.SAME_PLACE, index, index)


def everything(tensor: int, stage: int) -> Needs:
    """Every token of the stage reads the whole tensor.

    Args:
        tensor, stage: tokens of each.
    """
    last, last_use = np.full(stage, tensor - 1, dtype=np.int64), np.full(tensor, stage - 1, dtype=np.int64)
    return Needs(Relation.EVERYTHING, last, last_use)


@dataclass(frozen=True)
class Window:
    """One axis of a sliding window: position o reads o * stride - pad + dilation * (0 .. kernel - 1)."""

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
    """Tokens that sliding windows read.

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
    return Needs(Relation.WINDOW, last, use, whole_rows + 1)
