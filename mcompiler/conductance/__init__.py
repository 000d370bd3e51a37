"""Weight codes to cells and back, and what a converter does to a column's current.

Units: a *level* is a step of the target's equidistant conductance grid; a column's value is the sum over rows of input
code times level (plus the pedestal of G_min), so that a lossless conversion is an integer.
"""

from mcompiler.conductance.cells import (
    Cells,
    conductances,
    decode_cells,
    encode_cells,
    pack_levels,
    unpack_levels,
)
from mcompiler.conductance.codes import (
    TileRun,
    largest_sum,
    run_levels,
    steps_of,
    tile_runs,
)
from mcompiler.conductance.columns import ColumnSums, column_sums
from mcompiler.conductance.converters import (
    CUBIC_INL_SCALE,
    AdcTransfer,
    apply_nonlinearity,
    convert,
    eight_bit_floor,
    exact_pedestal,
    is_lossless,
    make_adc,
    needed_bits,
    round_codes,
    worst_sum,
)
from mcompiler.conductance.correction import corrected
from mcompiler.conductance.faults import FaultMap, parse_faults, physical_lines, read_faults
from mcompiler.conductance.lines import arranged_cells, bit_lines, partners, place_lines, restored_cells, spare_places
from mcompiler.conductance.mapped import MappedMatrix
from mcompiler.conductance.ranges import ConverterRanges, fit_ranges
from mcompiler.conductance.read_block import ReadBlock
from mcompiler.conductance.reads import read_blocks
from mcompiler.conductance.states import (
    STEADY,
    ArrayState,
    ExtraColumns,
    Fluctuations,
    LineStates,
    Realise,
    SharedLines,
    Variances,
)

__all__ = [
    "CUBIC_INL_SCALE",
    "STEADY",
    "AdcTransfer",
    "ArrayState",
    "Cells",
    "ColumnSums",
    "ConverterRanges",
    "ExtraColumns",
    "FaultMap",
    "Fluctuations",
    "LineStates",
    "MappedMatrix",
    "ReadBlock",
    "Realise",
    "SharedLines",
    "TileRun",
    "Variances",
    "apply_nonlinearity",
    "arranged_cells",
    "bit_lines",
    "column_sums",
    "conductances",
    "convert",
    "corrected",
    "decode_cells",
    "eight_bit_floor",
    "encode_cells",
    "exact_pedestal",
    "fit_ranges",
    "is_lossless",
    "largest_sum",
    "make_adc",
    "needed_bits",
    "pack_levels",
    "parse_faults",
    "partners",
    "physical_lines",
    "place_lines",
    "read_blocks",
    "read_faults",
    "restored_cells",
    "round_codes",
    "run_levels",
    "spare_places",
    "steps_of",
    "tile_runs",
    "unpack_levels",
    "worst_sum",
]
