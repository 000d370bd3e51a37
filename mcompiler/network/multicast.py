"""Bytes on links where a word that several readers take travels each link once.

The flows of a *group* carry parts of one tensor from one tile. Flows of a group with the same *words* carry the same
part: a link carries it once. Other parts are taken to be different words, up to the whole that the tile sends: readers
of all of it share every link, and readers of parts that overlap partly are counted with a little too much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcompiler.network.locations import Floats, Ints, distinct_rows


@dataclass(frozen=True)
class SharedWords:
    """Which flows carry the same words, [flows].

    Attributes:
        group: number of the tensor and the tile that sends it.
        words: number of the part of it.
        whole: bytes of the tensor that this tile sends in all.
    """

    group: Ints
    words: Ints
    whole: Floats

    def of(self, chosen: Ints | npt.NDArray[np.bool_]) -> SharedWords:
        """Those of some flows."""
        return SharedWords(self.group[chosen], self.words[chosen], self.whole[chosen])

    def carried(self, way: Ints, size: Floats) -> Floats:
        """What each flow adds to its way: flows of a group on one way share what is the same.

        Args:
            way: number of the link, port or chip that each flow passes, [flows].
            size: bytes of each flow, [flows].

        Returns:
            [flows]; the sum over a way is what it carries.
        """
        if not len(way):
            return size
        same = distinct_rows(way, self.group, self.words)
        most, total = np.zeros(len(same.first)), np.bincount(same.which, weights=size)
        np.maximum.at(most, same.which, size)
        together = distinct_rows(*same.columns[:2])
        parts = np.bincount(together.which, weights=most)
        whole = np.zeros(len(together.first))
        np.maximum.at(whole, together.which[same.which], self.whole)
        cut = np.minimum(1.0, np.divide(whole, parts, out=np.ones_like(parts), where=parts > 0))
        each = np.divide(most, total, out=np.zeros_like(most), where=total > 0) * cut[together.which]
        found: Floats = size * each[same.which]
        return found
