"""What the mapped path knows of one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance import ReadBlock
from mcompiler.geometry import TileTable
from mcompiler.ir import AnalogLayer, EncodedMatrix
from mcompiler.onnx_export.converter import Physics


@dataclass(frozen=True)
class MappedLayer:
    """All that the mapped path knows of one operation: what its cells hold, and how they are read.

    Attributes:
        op: shapes, scales, kept indices; its ``codes`` are not read.
        table: tile table.
        analog: encoding and converter setting.
        weights: decoded from the cells, integers [G, K, N].
        blocks: what the converters see, for operations that are not lossless; empty otherwise.
        physics: what the chip does between reads; None for the mapping itself.
    """

    op: AnalogLayer
    table: TileTable
    analog: EncodedMatrix
    weights: npt.NDArray[np.signedinteger[Any]]
    blocks: tuple[ReadBlock, ...] = ()
    physics: Physics | None = None
