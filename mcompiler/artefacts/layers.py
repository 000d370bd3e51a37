"""layers.json, layers/ and cells/: everything about the layers that the mapped model is rebuilt from."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.artefacts.directory import Writer
from mcompiler.conductance import (
    Cells,
    ReadBlock,
    Realise,
    arranged_cells,
    encode_cells,
    read_blocks,
    restored_cells,
    spare_places,
)
from mcompiler.errors import BuildError
from mcompiler.geometry import ArrayShape, TileTable, array_shape
from mcompiler.ir import (
    AnalogOp,
    ConvShape,
    InputStatistics,
    Kept,
    LayerSchedule,
    MatMulShape,
    MatrixOp,
    Quantiser,
    Remapping,
    Reordering,
    ScheduledProgram,
)
from mcompiler.target import Target

_STATISTICS = ("mean", "square", "nonzero", "idle")


@dataclass(frozen=True)
class LayerData:
    """A layer with its cells, from a program in memory or from a build directory.

    Attributes:
        op, table, analog, addresses: as in the program; of a stored layer ``op.codes`` has the shape only (no memory).
            Addresses are those of all copies of the arrays: array a of copy r is row r * len(table) + a.
        start: first cycle of each array of each copy.
        dense: arrays of the dense mapping.
        cells: yields the level codes in table order, whole tiles a step: uint8 [n, rows, row_bytes]; of a chip with
            known stuck cells as they stand on it, spare lines included.
        remap: where the lines stand on that chip; None: as the mapping numbers them.
        statistics: of its inputs; None where no calibration data were given.
        turn: in which its arrays are on the chips, where layers take turns.
    """

    op: MatrixOp
    table: TileTable
    analog: AnalogOp
    addresses: npt.NDArray[np.int32]
    start: npt.NDArray[np.int64]
    dense: int
    cells: Callable[[], Iterator[Cells]]
    remap: Remapping | None = None
    statistics: InputStatistics | None = None
    turn: int = 0

    @property
    def copies(self) -> int:
        """Copies of its arrays, at least 1."""
        return max(1, len(self.addresses) // max(1, len(self.table)))

    def lines(self, shape: ArrayShape) -> tuple[int, int]:
        """Word lines and bit lines of an array as its cells are stored."""
        return (shape.rows, shape.columns + shape.extra) if self.remap is None else self.remap.lines

    def mapped_cells(self, shape: ArrayShape) -> Iterator[Cells]:
        """The level codes in the order of the mapping, wherever the lines stand."""
        return self.cells() if self.remap is None else restored_cells(self.cells(), self.remap, shape)

    def reads(self, target: Target, shape: ArrayShape, realise: Realise | None = None) -> list[ReadBlock]:
        """What the converters see, read by read; ``realise``: as one chip has it."""
        analog = self.analog
        return read_blocks(
            self.cells(), self.op, self.table, target, shape, analog.shift, analog.flips, analog.signs, realise,
            analog.gain, self.remap, analog.zoom,
        )  # fmt: skip


def program_layers(program: ScheduledProgram, target: Target) -> tuple[LayerData, ...]:
    """The layers of a program; their cells are encoded when asked for."""
    shape = array_shape(target)
    tiled = program.placed.analog.tiled
    parts = zip(
        tiled.matrix.ops,
        tiled.tables,
        program.placed.analog.analog,
        program.placed.addresses,
        program.layers,
        tiled.dense,
        program.placed.remaps or [None] * len(tiled.dense),
        strict=True,
    )
    layers: list[LayerData] = []
    for op, table, analog, addresses, schedule, dense, remap in parts:
        encode = partial(encode_cells, op, table, shape, target.encoding.weights, analog.shift, analog.flips)
        cells = encode if remap is None else partial(_arranged, encode, remap, shape)
        seen = tiled.matrix.statistics.get(op.name)
        turn = program.placed.analog.turns[len(layers)] if program.placed.analog.turns else 0
        layers.append(LayerData(op, table, analog, addresses, schedule.start, dense, cells, remap, seen, turn))
    return tuple(layers)


def _arranged(cells: Callable[[], Iterator[Cells]], remap: Remapping, shape: ArrayShape) -> Iterator[Cells]:
    return arranged_cells(cells(), remap, shape)


def plain_name(name: str) -> str:
    """What of a layer's name is plain ASCII and may stand in the name of a file."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name).strip("._")
    return plain[:60] or "layer"


def file_stem(index: int, name: str) -> str:
    """File name of a layer: its index and its plain name."""
    return f"{index:04d}_{plain_name(name)}"


def write_layers(writer: Writer, program: ScheduledProgram, target: Target) -> None:
    """Write layers.json, layers/*.npz and cells/*.npy."""
    shape = array_shape(target)
    records = []
    for index, (layer, schedule) in enumerate(zip(program_layers(program, target), program.layers, strict=True)):
        stem = file_stem(index, layer.op.name)
        records.append(_record(layer, schedule, stem))
        writer.stream(f"layers/{stem}.npz", [_npz(_arrays(layer))])
        writer.array(f"cells/{stem}.npy", _cells_shape(layer.remap, len(layer.table), shape), layer.cells())
    writer.json("layers.json", {"layers": records})


def _cells_shape(remap: Remapping | None, arrays: int, shape: ArrayShape) -> tuple[int, int, int]:
    """Of the stored cells of a layer."""
    if remap is None:
        return arrays, shape.rows, shape.row_bytes
    return arrays, remap.lines[0], -(-remap.lines[1] * shape.storage_bits // 8)


def _record(layer: LayerData, schedule: LayerSchedule, stem: str) -> dict[str, Any]:
    op, analog = layer.op, layer.analog
    if isinstance(op.shape, ConvShape):
        conv = op.shape
        shape: dict[str, Any] = {
            "kind": "conv",
            "kernel": conv.kernel,
            "strides": conv.strides,
            "dilations": conv.dilations,
            "pads": conv.pads,
            "groups": conv.groups,
        }
    else:
        shape = {"kind": "matmul", "batch": op.shape.batch}
    quantiser, remap = op.input, layer.remap
    moved: dict[str, Any] = {}
    if remap is not None:
        moved["remap"] = {
            "lines": remap.lines, "stuck": len(remap.faults), "harm_before": remap.harm_before,
            "harm_after": remap.harm_after,
        }  # fmt: skip
    if op.reorder is not None:
        moved["reorder"] = asdict(op.reorder)
    return {
        "name": op.name,
        "files": stem,
        "matrix": list(op.codes.shape),
        "shape": shape,
        "input": {
            "tensor": quantiser.tensor,
            "scale": quantiser.scale,
            "zero_point": quantiser.zero_point,
            "bits": quantiser.bits,
        },
        "weight_bits": op.weight_bits,
        "vectors": op.vectors,
        "element": op.element.name,
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
    }


def _arrays(layer: LayerData) -> dict[str, npt.NDArray[Any]]:
    op, analog = layer.op, layer.analog
    arrays: dict[str, npt.NDArray[Any]] = {
        "row_indices": op.rows.indices,
        "row_offsets": op.rows.offsets,
        "col_indices": op.cols.indices,
        "col_offsets": op.cols.offsets,
        "scale": op.scale,
        "table": layer.table,
        "addresses": layer.addresses,
        "start": layer.start,
        "flips": np.packbits(analog.flips, axis=1),
        "live": analog.live,
        "adc_bits": analog.adc_bits.astype(np.uint8),
    }
    if layer.statistics is not None:
        seen = layer.statistics
        arrays |= {f"input_{name}": getattr(seen, name) for name in _STATISTICS}
    if analog.zoom is not None:
        arrays["adc_zoom"] = analog.zoom
    if analog.signs is not None:
        arrays["signs"] = np.packbits(analog.signs, axis=-1)
    if op.bias is not None:
        arrays["bias"] = op.bias
    if layer.remap is not None:
        arrays |= {"word_lines": layer.remap.word_lines, "places": layer.remap.places, "faults": layer.remap.faults}
        arrays["swapped"] = np.packbits(layer.remap.swapped, axis=1)
    return arrays


def _npz(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """An .npz without times, so that equal content is equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, part.getvalue())
    return buffer.getvalue()


def read_layers(root: Path, shape: ArrayShape) -> tuple[LayerData, ...]:
    """Read the layers of a build.

    Raises:
        BuildError: names the file that does not hold what it should.
    """
    path = root / "layers.json"
    try:
        records = json.loads(path.read_text(encoding="utf-8"))["layers"]
    except (OSError, ValueError, KeyError) as error:
        raise BuildError(f"{path}: cannot be read ({error}); compile the model again") from error
    layers = []
    for record in records:
        try:
            layers.append(_stored(root, record, shape))
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise BuildError(
                f"{root}: layer '{record.get('name')}' cannot be read ({error}); compile the model again"
            ) from error
    return tuple(layers)


def _stored(root: Path, record: Mapping[str, Any], shape: ArrayShape) -> LayerData:
    with np.load(root / "layers" / f"{record['files']}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    dims = tuple(record["matrix"])
    op = MatrixOp(
        name=record["name"],
        shape=_shape(record["shape"]),
        codes=np.broadcast_to(np.zeros((), np.int16), dims),
        scale=arrays["scale"],
        bias=arrays.get("bias"),
        input=Quantiser(**record["input"]),
        vectors=record["vectors"],
        rows=Kept(arrays["row_indices"], arrays["row_offsets"]),
        cols=Kept(arrays["col_indices"], arrays["col_offsets"]),
        element=ir.DataType[record["element"]],
        weight_bits=record["weight_bits"],
        reorder=Reordering(**record["reorder"]) if "reorder" in record else None,
    )
    flips = np.unpackbits(arrays["flips"], axis=1, count=shape.columns).astype(bool)
    signs = np.unpackbits(arrays["signs"], axis=-1, count=shape.tile_columns).astype(bool) if shape.signs else None
    analog = AnalogOp(
        record["shift"], flips, record["adc_gain"], record["lossless"], arrays["live"], record["adc_clipped"],
        arrays["adc_bits"].astype(np.int64), signs, arrays.get("adc_zoom"),
    )  # fmt: skip
    zoomed = ["adc_zoom"] if "adc_zoom" in arrays else []
    own = ("table", "flips", "live", "adc_bits", *(["signs"] if shape.signs else []), *zoomed)
    counts = {name: len(arrays[name]) for name in (*own, "addresses", "start")}
    whole_copies = (
        counts["addresses"] == counts["start"] == counts["table"] * (counts["start"] // max(1, counts["table"]))
    )
    if len({counts[name] for name in own}) > 1 or not whole_copies or counts["start"] < counts["table"]:
        raise ValueError(f"{record['files']}.npz holds different numbers of arrays: {counts}")
    if signs is not None and signs.shape[1:] != (shape.reads, shape.tile_columns):
        raise ValueError(f"{record['files']}.npz has signs of {signs.shape[1]} reads, not {shape.reads}")
    if not _inside(op, arrays["table"], shape):
        raise ValueError(f"{record['files']}.npz has arrays that hold what the matrix lacks")
    remap = _stored_remap(record, arrays, shape) if "remap" in record else None
    path = root / "cells" / f"{record['files']}.npy"
    expected = _cells_shape(remap, len(arrays["table"]), shape)
    if expected[0]:
        cells = np.load(path, mmap_mode="r")
        if cells.shape != expected or cells.dtype != np.uint8:
            raise ValueError(f"{path.name} holds {cells.dtype} {cells.shape}, not uint8 {expected}")
    chunks = partial(_chunks, path if expected[0] else None, shape.arrays_per_tile)
    seen = None
    if "input_square" in arrays:
        seen = InputStatistics(*(arrays[f"input_{name}"] for name in _STATISTICS))
        phases = seen.square.shape
        if phases[1:] != dims[:2] or seen.nonzero.shape != phases or seen.mean.shape != phases:
            raise ValueError(f"{record['files']}.npz has statistics of other inputs")
    return LayerData(
        op,
        arrays["table"],
        analog,
        arrays["addresses"],
        arrays["start"],
        record["crossbars_dense"],
        chunks,
        remap,
        seen,
        record.get("turn", 0),
    )


def _stored_remap(record: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], shape: ArrayShape) -> Remapping:
    """Where the lines stand, checked: a line that two rows share or that the arrays lack would be read as another."""
    stored = record["remap"]
    swapped = np.unpackbits(arrays["swapped"], axis=1, count=shape.tile_columns).astype(bool)
    rows, bits = stored["lines"]
    remap = Remapping(
        arrays["word_lines"], arrays["places"], swapped, arrays["faults"], (rows, bits), stored["harm_before"],
        stored["harm_after"],
    )  # fmt: skip
    tiles, found = len(arrays["table"]) // shape.arrays_per_tile, remap.faults
    places = shape.tile_columns + spare_places(remap.lines, shape)
    for order, count, room in ((remap.word_lines, shape.rows, rows), (remap.places, shape.tile_columns, places)):
        ordered = np.sort(order, axis=1)
        if order.shape != (tiles, count) or (order < 0).any() or (order >= room).any():
            raise ValueError(f"{record['files']}.npz has lines that the arrays lack")
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise ValueError(f"{record['files']}.npz has two lines in one place")
    limits = (len(arrays["table"]), rows, bits, 2)
    if found.shape[1:] != (4,) or (found < 0).any() or (found >= limits).any() or len(swapped) != tiles:
        raise ValueError(f"{record['files']}.npz has stuck cells outside of its arrays")
    return remap


def _inside(op: MatrixOp, table: TileTable, shape: ArrayShape) -> bool:
    """Whether every array of a table holds rows and columns that the compacted matrix has, and has room for them."""
    if len(table) % shape.arrays_per_tile or (table["group"] < 0).any() or (table["groups"] < 1).any():
        return False
    if (table["group"] + table["groups"] > op.codes.shape[0]).any():
        return False
    for offsets, first, count, room in (
        (op.rows.offsets, table["row"], table["rows"], shape.rows),
        (op.cols.offsets, table["col"], table["cols"], shape.tile_columns),
    ):
        held = offsets[table["group"] + table["groups"]] - offsets[table["group"]]
        if (first < 0).any() or (count < 1).any() or (first + count > held).any() or (count > room).any():
            return False
    return True


def _shape(record: Mapping[str, Any]) -> ConvShape | MatMulShape:
    if record["kind"] == "matmul":
        return MatMulShape(tuple(record["batch"]))
    kernel, strides, dilations, pads = (tuple(record[key]) for key in ("kernel", "strides", "dilations", "pads"))
    return ConvShape(kernel, strides, dilations, pads, record["groups"])


def _chunks(path: Path | None, copies: int) -> Iterator[Cells]:
    """Stored cells in pieces of whole tiles; none where a layer has no arrays."""
    if path is None:
        return
    cells = np.load(path, mmap_mode="r")
    step = max(1, 256 // copies) * copies
    for first in range(0, len(cells), step):
        yield np.asarray(cells[first : first + step])
