"""Reading layers.json, layers/ and cells/ back: every file is checked before anything is rebuilt from it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.artefacts.layers import STATISTICS, LayerData, cells_shape, of_site
from mcompiler.conductance import Cells, spare_places
from mcompiler.errors import BuildError
from mcompiler.geometry import ArrayShape, TileTable
from mcompiler.ir import (
    AnalogLayer,
    ConvShape,
    EncodedMatrix,
    InputStatistics,
    Kept,
    MatMulShape,
    Origin,
    Quantiser,
    Remapping,
    Reordering,
    Site,
    WeightMatrix,
)


def read_layers(root: Path, shape: ArrayShape) -> tuple[LayerData, ...]:
    """Read the layers of a build.

    Raises:
        BuildError: names the file whose content does not fit the build.
    """
    path = root / "layers.json"
    try:
        records = json.loads(path.read_text(encoding="utf-8"))["layers"]
    except (OSError, ValueError, KeyError) as error:
        raise BuildError(f"{path}: cannot be read ({error}); compile the model again") from error
    layers: list[LayerData] = []
    matrices = 0
    for number, record in enumerate(records):
        try:
            owner = record.get("shares")
            if owner is not None and not 0 <= owner < number:
                raise ValueError(f"shares the arrays of layer {owner}, which does not come before it")
            layers.append(_stored(root, record, records[number if owner is None else owner], shape))
            which = matrices if owner is None else layers[owner].op.site.matrix
            matrices += owner is None
            layers[-1] = replace(layers[-1], op=replace(layers[-1].op, site=replace(layers[-1].op.site, matrix=which)))
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise BuildError(
                f"{root}: layer '{record.get('name')}' cannot be read ({error}); compile the model again"
            ) from error
    return tuple(layers)


def _arrays(root: Path, stem: str) -> dict[str, npt.NDArray[Any]]:
    with np.load(root / "layers" / f"{stem}.npz", allow_pickle=False) as file:
        return dict(file)


def _stored(root: Path, record: Mapping[str, Any], owner: Mapping[str, Any], shape: ArrayShape) -> LayerData:
    """One layer; ``owner`` is the record of the layer whose arrays it uses, mostly its own."""
    arrays = _arrays(root, record["files"])
    if owner["files"] != record["files"]:
        shared = {name: array for name, array in _arrays(root, owner["files"]).items() if not of_site(name)}
        arrays = shared | {name: array for name, array in arrays.items() if of_site(name)}
    dims = tuple(record["matrix"])
    matrix = WeightMatrix(
        label=owner["name"],
        codes=np.broadcast_to(np.zeros((), np.int16), dims),
        scale=arrays["scale"],
        weight_bits=record["weight_bits"],
        rows=Kept(arrays["row_indices"], arrays["row_offsets"]),
        cols=Kept(arrays["col_indices"], arrays["col_offsets"]),
        reorder=Reordering(**record["reorder"]) if "reorder" in record else None,
    )
    site = Site(
        matrix=0,
        name=record["name"],
        label=record.get("label", record["name"]),
        origin=None if "origin" not in record else Origin.from_json(record["origin"]),
        shape=_shape(record["shape"]),
        input=Quantiser(**record["input"]),
        bias=arrays.get("bias"),
        vectors=record["vectors"],
        element=ir.DataType[record["element"]],
        steps=record.get("steps", 1),
    )
    layer = AnalogLayer(site, matrix)
    flips = np.unpackbits(arrays["flips"], axis=1, count=shape.columns).astype(bool)
    signed = shape.encoding.signed_fragments
    signs = np.unpackbits(arrays["signs"], axis=-1, count=shape.tile_columns).astype(bool) if signed else None
    analog = EncodedMatrix(
        shift=record["shift"],
        flips=flips,
        gain=record["adc_gain"],
        lossless=record["lossless"],
        live=arrays["live"],
        clipped=record["adc_clipped"],
        adc_bits=arrays["adc_bits"].astype(np.int64),
        steps=arrays["steps"],
        signs=signs,
        zoom=arrays.get("adc_zoom"),
    )
    zoomed = ["adc_zoom"] if "adc_zoom" in arrays else []
    own = ("table", "flips", "live", "adc_bits", "steps", *(["signs"] if signed else []), *zoomed)
    counts = {name: len(arrays[name]) for name in (*own, "addresses", "start")}
    whole_copies = (
        counts["addresses"] == counts["start"] == counts["table"] * (counts["start"] // max(1, counts["table"]))
    )
    if len({counts[name] for name in own}) > 1 or not whole_copies or counts["start"] < counts["table"]:
        raise ValueError(f"{record['files']}.npz holds different numbers of arrays: {counts}")
    if signs is not None and signs.shape[1:] != (shape.reads, shape.tile_columns):
        raise ValueError(f"{record['files']}.npz has signs of {signs.shape[1]} reads, not {shape.reads}")
    if not _inside(layer, arrays["table"], shape):
        raise ValueError(f"{record['files']}.npz has arrays with rows or columns that the matrix lacks")
    remap = _stored_remap(record, arrays, shape) if "remap" in record else None
    path = root / "cells" / f"{owner['files']}.npy"
    expected = cells_shape(remap, len(arrays["table"]), shape)
    if expected[0]:
        cells = np.load(path, mmap_mode="r")
        if cells.shape != expected or cells.dtype != np.uint8:
            raise ValueError(f"{path.name} holds {cells.dtype} {cells.shape}, not uint8 {expected}")
    chunks = partial(_chunks, path if expected[0] else None, shape.arrays_per_tile)
    seen = None
    if "input_square" in arrays:
        seen = InputStatistics(*(arrays[f"input_{name}"] for name in STATISTICS))
        phases = seen.square.shape
        if phases[1:] != dims[:2] or seen.nonzero.shape != phases or seen.mean.shape != phases:
            raise ValueError(f"{record['files']}.npz has statistics of other inputs")
    return LayerData(
        op=layer,
        table=arrays["table"],
        analog=analog,
        addresses=arrays["addresses"],
        start=arrays["start"],
        dense=record["crossbars_dense"],
        cells=chunks,
        remap=remap,
        statistics=seen,
        turn=record.get("turn", 0),
        shares=record.get("shares"),
    )


def _stored_remap(record: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], shape: ArrayShape) -> Remapping:
    """Physical lines, checked: a line that two rows share, or that the arrays lack, would be read as another one."""
    stored = record["remap"]
    swapped = np.unpackbits(arrays["swapped"], axis=1, count=shape.tile_columns).astype(bool)
    rows, bits = stored["lines"]
    remap = Remapping(
        word_lines=arrays["word_lines"],
        places=arrays["places"],
        swapped=swapped,
        faults=arrays["faults"],
        lines=(rows, bits),
        weighted_error_before=stored["harm_before"],
        weighted_error_after=stored["harm_after"],
    )
    tiles, faults = len(arrays["table"]) // shape.arrays_per_tile, remap.faults
    places = shape.tile_columns + spare_places(remap.lines, shape)
    for order, count, room in ((remap.word_lines, shape.rows, rows), (remap.places, shape.tile_columns, places)):
        ordered = np.sort(order, axis=1)
        if order.shape != (tiles, count) or (order < 0).any() or (order >= room).any():
            raise ValueError(f"{record['files']}.npz has lines that the arrays lack")
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise ValueError(f"{record['files']}.npz has two lines in one place")
    limits = (len(arrays["table"]), rows, bits, 2)
    if faults.shape[1:] != (4,) or (faults < 0).any() or (faults >= limits).any() or len(swapped) != tiles:
        raise ValueError(f"{record['files']}.npz has stuck cells outside of its arrays")
    return remap


def _inside(layer: AnalogLayer, table: TileTable, shape: ArrayShape) -> bool:
    """Whether every array of a table holds rows and columns that the compacted matrix has, and has room for them."""
    if len(table) % shape.arrays_per_tile or (table["group"] < 0).any() or (table["groups"] < 1).any():
        return False
    if (table["group"] + table["groups"] > layer.matrix.codes.shape[0]).any():
        return False
    for offsets, first, count, room in (
        (layer.matrix.rows.offsets, table["row"], table["rows"], shape.rows),
        (layer.matrix.cols.offsets, table["col"], table["cols"], shape.tile_columns),
    ):
        held = offsets[table["group"] + table["groups"]] - offsets[table["group"]]
        if (first < 0).any() or (count < 1).any() or (first + count > held).any() or (count > room).any():
            return False
    return True


def _shape(record: Mapping[str, Any]) -> ConvShape | MatMulShape:
    if record["kind"] == "matmul":
        return MatMulShape(tuple(record["batch"]))
    kernel, strides, dilations, pads = (tuple(record[key]) for key in ("kernel", "strides", "dilations", "pads"))
    if not len(kernel) == len(strides) == len(dilations) == len(pads) / 2:
        raise ValueError("a convolution whose dimensions differ in number")
    return ConvShape(kernel, strides, dilations, pads, record["groups"])


def _chunks(path: Path | None, copies: int) -> Iterator[Cells]:
    """Stored cells in pieces of whole tiles; none where a layer has no arrays."""
    if path is None:
        return
    cells = np.load(path, mmap_mode="r")
    step = max(1, 256 // copies) * copies
    for first in range(0, len(cells), step):
        yield np.asarray(cells[first : first + step])
