"""The program at each level of the compiler: one frozen dataclass per level, each holding the one below.

GRAPH (an ONNX model) -> MATRIX (integer weight matrices) -> TILED (which part of which matrix on which array position)
-> ANALOG (encoding, flips, converter settings) -> PLACED (addresses) -> SCHEDULED (start cycles, events).

Arrays held here are read-only numpy arrays; nothing here is one Python object per tile.
"""

from mcompiler.ir.graph import (
    Fate,
    GraphProgram,
    NodeFate,
)
from mcompiler.ir.mapping import (
    NO_BITS,
    TILE,
    AnalogProgram,
    BitRange,
    EncodedMatrix,
    PlacedProgram,
    Remapping,
    Replication,
    TiledProgram,
)
from mcompiler.ir.matrix import (
    ANALOG_DOMAIN,
    ANALOG_OP,
    AnalogLayer,
    CodeArray,
    CodeSample,
    ConvShape,
    FloatArray,
    FloatMatrix,
    InputStatistics,
    IntArray,
    Kept,
    LoweredProgram,
    MatMulShape,
    MatrixProgram,
    Quantiser,
    Reordering,
    Site,
    WeightMatrix,
)
from mcompiler.ir.schedule import (
    LayerSchedule,
    ScheduledProgram,
    StageSchedule,
    Stream,
    Turn,
)

__all__ = [
    "ANALOG_DOMAIN",
    "ANALOG_OP",
    "NO_BITS",
    "TILE",
    "AnalogLayer",
    "AnalogProgram",
    "BitRange",
    "CodeArray",
    "CodeSample",
    "ConvShape",
    "EncodedMatrix",
    "Fate",
    "FloatArray",
    "FloatMatrix",
    "GraphProgram",
    "InputStatistics",
    "IntArray",
    "Kept",
    "LayerSchedule",
    "LoweredProgram",
    "MatMulShape",
    "MatrixProgram",
    "NodeFate",
    "PlacedProgram",
    "Quantiser",
    "Remapping",
    "Reordering",
    "Replication",
    "ScheduledProgram",
    "Site",
    "StageSchedule",
    "Stream",
    "TiledProgram",
    "Turn",
    "WeightMatrix",
]
