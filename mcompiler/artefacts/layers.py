"""layers.json, layers/ and cells/: the data of the layers from which the mapped model is rebuilt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.artefacts.directory import Writer
from mcompiler.conductance import (
    Cells,
    MappedMatrix,
    ReadBlock,
    Realise,
    arranged_cells,
    encode_cells,
    read_blocks,
    restored_cells,
)
from mcompiler.data import npz_bytes
from mcompiler.geometry import ArrayShape, TileTable, array_shape
from mcompiler.ir import (
    AnalogLayer,
    ConvShape,
    EncodedMatrix,
    InputStatistics,
    LayerSchedule,
    Remapping,
    ScheduledProgram,
)
from mcompiler.target import Target

STATISTICS = ("mean", "square", "nonzero", "idle")
"""Fields of ``InputStatistics``, in their order."""


def of_site(name: str) -> bool:
    """Whether an array of a layer's .npz belongs to the site, not to its matrix (which several layers may share)."""
    return name in {"start", "bias"} or name in {f"input_{field}" for field in STATISTICS}


@dataclass(frozen=True)
class LayerData:
    """A layer with its cells, from a program in memory or from a build directory.

    Attributes:
        op, table, analog, addresses: as in the program; of a stored layer ``op.matrix.codes`` has the shape only, no
            memory. Addresses are those of all copies of the arrays: array a of copy r is row r * len(table) + a.
        start: first cycle of each array of each copy.
        dense: arrays of the dense mapping.
        cells: yields the level codes in table order, whole tiles a step: uint8 [n, rows, row_bytes]; of a chip with
            known stuck cells in the order of its lines, spare lines included.
        remap: physical lines on that chip; None: in the order of the mapping.
        statistics: of its inputs; None where no calibration data were given.
        turn: in which its arrays are on the chips, where layers take turns.
        shares: number of the earlier layer whose arrays it uses; None: no earlier layer uses its arrays.
    """

    op: AnalogLayer
    table: TileTable
    analog: EncodedMatrix
    addresses: npt.NDArray[np.int32]
    start: npt.NDArray[np.int64]
    dense: int
    cells: Callable[[], Iterator[Cells]]
    remap: Remapping | None = None
    statistics: InputStatistics | None = None
    turn: int = 0
    shares: int | None = None

    @property
    def copies(self) -> int:
        """Copies of its arrays, at least 1."""
        return max(1, len(self.addresses) // max(1, len(self.table)))

    def lines(self, shape: ArrayShape) -> tuple[int, int]:
        """Word lines and bit lines of an array as its cells are stored."""
        return (shape.rows, shape.columns + shape.extra) if self.remap is None else self.remap.lines

    def mapped_cells(self, shape: ArrayShape) -> Iterator[Cells]:
        """The level codes in the order of the mapping, whatever the physical order of the lines."""
        return self.cells() if self.remap is None else restored_cells(self.cells(), self.remap, shape)

    def reads(self, target: Target, shape: ArrayShape, realise: Realise | None = None) -> list[ReadBlock]:
        """The reads of its matrix; ``realise``: with the errors of one chip."""
        return read_blocks(self.cells(), self.mapped(target, shape), realise, self.remap)

    def mapped(self, target: Target, shape: ArrayShape) -> MappedMatrix:
        """Its matrix on the arrays of the target."""
        return MappedMatrix(self.op.matrix, self.table, self.analog, shape, target)


def program_layers(program: ScheduledProgram, target: Target) -> tuple[LayerData, ...]:
    """The layers of a program; their cells are encoded when asked for."""
    shape = array_shape(target)
    tiled = program.placed.analog.tiled
    placed, layers, owners = program.placed, [], dict[int, int]()
    for number, (layer, schedule) in enumerate(zip(tiled.matrix.layers, program.layers, strict=True)):
        which = layer.site.matrix
        table, analog = tiled.tables[which], placed.analog.analog[which]
        remap = placed.remaps[which] if placed.remaps else None
        encode = partial(encode_cells, MappedMatrix(layer.matrix, table, analog, shape, target))
        owner = owners.setdefault(which, number)
        layers.append(
            LayerData(
                op=layer,
                table=table,
                analog=analog,
                addresses=placed.addresses[which],
                start=schedule.start,
                dense=tiled.dense[which],
                cells=encode if remap is None else partial(_arranged, encode, remap, shape),
                remap=remap,
                statistics=tiled.matrix.statistics[number] if tiled.matrix.statistics else None,
                turn=placed.analog.turns[which] if placed.analog.turns else 0,
                shares=owner if owner != number else None,
            )
        )
    return tuple(layers)


def _arranged(cells: Callable[[], Iterator[Cells]], remap: Remapping, shape: ArrayShape) -> Iterator[Cells]:
    return arranged_cells(cells(), remap, shape)


def plain_name(name: str) -> str:
    """A layer's name with the characters that every file system takes; others become underscores."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name).strip("._")
    return plain[:60] or "layer"


def file_stem(index: int, name: str) -> str:
    """File name of a layer: its index and its plain name."""
    return f"{index:04d}_{plain_name(name)}"


def layer_files(stem: str) -> tuple[str, str]:
    """The two files of a layer: its arrays, its cells."""
    return f"layers/{stem}.npz", f"cells/{stem}.npy"


def write_layers(writer: Writer, program: ScheduledProgram, target: Target) -> None:
    """Write layers.json, layers/*.npz and cells/*.npy."""
    shape = array_shape(target)
    records, parts = [], ["layers.json"]
    for index, (layer, schedule) in enumerate(zip(program_layers(program, target), program.layers, strict=True)):
        stem = file_stem(index, layer.op.site.name)
        records.append(_record(layer, schedule, stem))
        arrays, cells = layer_files(stem)
        writer.stream(arrays, [npz_bytes(_arrays(layer))])
        parts.append(arrays)
        if layer.shares is not None:
            continue
        writer.array(cells, cells_shape(layer.remap, len(layer.table), shape), layer.cells())
        parts.append(cells)
    writer.json("layers.json", {"layers": records})
    writer.parts["layers.json"] = parts


def cells_shape(remap: Remapping | None, arrays: int, shape: ArrayShape) -> tuple[int, int, int]:
    """Of the stored cells of a layer."""
    if remap is None:
        return arrays, shape.rows, shape.row_bytes
    return arrays, remap.lines[0], -(-remap.lines[1] * shape.storage_bits // 8)


def _record(layer: LayerData, schedule: LayerSchedule, stem: str) -> dict[str, Any]:
    site, matrix, analog = layer.op.site, layer.op.matrix, layer.analog
    if isinstance(site.shape, ConvShape):
        conv = site.shape
        shape: dict[str, Any] = {
            "kind": "conv",
            "kernel": conv.kernel,
            "strides": conv.strides,
            "dilations": conv.dilations,
            "pads": conv.pads,
            "groups": conv.groups,
        }
    else:
        shape = {"kind": "matmul", "batch": site.shape.batch}
    quantiser, remap = site.input, layer.remap
    moved: dict[str, Any] = {}
    if remap is not None:
        moved["remap"] = {
            "lines": remap.lines, "stuck": len(remap.faults), "harm_before": remap.weighted_error_before,
            "harm_after": remap.weighted_error_after,
        }  # fmt: skip
    if matrix.reorder is not None:
        moved["reorder"] = asdict(matrix.reorder)
    return {
        "name": site.name,
        "label": site.label,
        **({} if site.origin is None else {"origin": site.origin.as_json()}),
        "files": stem,
        "matrix": list(matrix.codes.shape),
        "shape": shape,
        "input": {
            "tensor": quantiser.tensor,
            "scale": quantiser.scale,
            "zero_point": quantiser.zero_point,
            "bits": quantiser.bits,
        },
        "weight_bits": matrix.weight_bits,
        "vectors": site.vectors,
        "element": site.element.name,
        "crossbars": len(layer.table),
        "crossbars_dense": layer.dense,
        "shift": analog.shift,
        "adc_gain": analog.gain,
        "lossless": analog.lossless,
        "adc_clipped": analog.clipped,
        "start_s": schedule.start_s,
        "end_s": schedule.end_s,
        **moved,
        **({"turn": layer.turn} if layer.turn else {}),
        **({"shares": layer.shares} if layer.shares is not None else {}),
        **({"steps": site.steps} if site.steps > 1 else {}),
    }


def _arrays(layer: LayerData) -> dict[str, npt.NDArray[Any]]:
    """Arrays of the site and, where it does not share them, of its matrix."""
    arrays: dict[str, npt.NDArray[Any]] = {} if layer.shares is not None else _matrix_arrays(layer)
    arrays["start"] = layer.start
    if layer.statistics is not None:
        seen = layer.statistics
        arrays |= {f"input_{name}": getattr(seen, name) for name in STATISTICS}
    if layer.op.site.bias is not None:
        arrays["bias"] = layer.op.site.bias
    return arrays


def _matrix_arrays(layer: LayerData) -> dict[str, npt.NDArray[Any]]:
    matrix, analog = layer.op.matrix, layer.analog
    arrays: dict[str, npt.NDArray[Any]] = {
        "row_indices": matrix.rows.indices,
        "row_offsets": matrix.rows.offsets,
        "col_indices": matrix.cols.indices,
        "col_offsets": matrix.cols.offsets,
        "scale": matrix.scale,
        "table": layer.table,
        "addresses": layer.addresses,
        "flips": np.packbits(analog.flips, axis=1),
        "live": analog.live,
        "adc_bits": analog.adc_bits.astype(np.uint8),
        "steps": analog.steps,
    }
    if analog.zoom is not None:
        arrays["adc_zoom"] = analog.zoom
    if analog.signs is not None:
        arrays["signs"] = np.packbits(analog.signs, axis=-1)
    if layer.remap is not None:
        arrays |= {"word_lines": layer.remap.word_lines, "places": layer.remap.places, "faults": layer.remap.faults}
        arrays["swapped"] = np.packbits(layer.remap.swapped, axis=1)
    return arrays
