"""One layer as the export of the mapped model reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance import ReadBlock
from mcompiler.geometry import TileTable
from mcompiler.ir import AnalogLayer, EncodedMatrix
from mcompiler.onnx_export.fluctuations import Physics


@dataclass(frozen=True)
class MappedLayer:
    """One layer for the export: the weights in its cells, and the reads of these cells.

    Attributes:
        op: shapes, scales, kept indices; its ``codes`` are not read.
        table: tile table.
        analog: encoding and converter setting.
        weights: decoded from the cells, integers [G, K, N].
        blocks: reads, where conversions are not lossless; empty otherwise.
        physics: errors of a chip between reads; None for the mapping itself.
    """

    op: AnalogLayer
    table: TileTable
    analog: EncodedMatrix
    weights: npt.NDArray[np.signedinteger[Any]]
    blocks: tuple[ReadBlock, ...] = ()
    physics: Physics | None = None
