"""Comments of an array's subcircuit: its address, and the meaning of its word lines and bit lines."""

from __future__ import annotations

from mcompiler.artefacts import LayerData
from mcompiler.conductance import bit_lines
from mcompiler.geometry import ArrayShape, tile_blocks


def notes_of(layer: LayerData, index: int, shape: ArrayShape) -> tuple[str, ...]:
    """Address of an array, and the input or output channel of each word line and bit line.

    Args:
        layer: the layer.
        index: number of the array within it.
        shape: array geometry.
    """
    array = layer.table[index]
    encoding = shape.encoding
    marks = [encoding.polarity_marks[each] for each in encoding.polarities_of(int(array["polarity"]))]
    chip, tile, core, position = layer.addresses[index].tolist()
    notes = [
        f"array {index} of layer '{layer.op.site.name}': chip {chip}, tile {tile}, core {core}, position {position}",
        f"slice {_or_all(int(array['slice']))}, polarity {_sign(marks)}",
    ]
    words, bits = _lines(layer, index, shape)
    for block in tile_blocks(array, layer.op.matrix.rows, layer.op.matrix.cols):
        for line, row in enumerate(block.rows.tolist()):
            notes.append(f"word line {words[block.row + line]}: input {row} of group {block.group}")
    slices = range(shape.adjacent_slices) if int(array["slice"]) < 0 else (int(array["slice"]),)
    for block in tile_blocks(array, layer.op.matrix.rows, layer.op.matrix.cols):
        for place, channel in enumerate(block.cols.tolist()):
            first = (block.col + place) * shape.columns_per_weight
            held = [(mark, which) for mark in marks for which in slices]
            for offset, (mark, which) in enumerate(held):
                polarity = f", polarity {mark}" if mark else ""
                what = f"output channel {channel} of group {block.group}, slice {which}{polarity}"
                notes.append(f"bit line {bits[first + offset]}: {what}")
    if shape.unit:
        notes.append(f"bit line {shape.columns}: unit column")
    if shape.reference:
        notes.append(f"bit line {shape.columns + shape.unit}: reference column")
    return tuple(" ".join(note.split()) for note in notes)


def _lines(layer: LayerData, index: int, shape: ArrayShape) -> tuple[list[int], list[int]]:
    """Word line of each row and bit line of each column of the mapping."""
    if layer.remap is None:
        return list(range(shape.rows)), list(range(shape.columns + shape.extra))
    tile = index // shape.arrays_per_tile
    bits: list[int] = bit_lines(layer.remap, slice(tile, tile + 1), shape)[0].tolist()
    words: list[int] = layer.remap.word_lines[tile].tolist()
    return words, bits


def _or_all(which: int) -> str:
    return "all, in adjacent bit lines" if which < 0 else str(which)


def _sign(marks: list[str]) -> str:
    return "both, in adjacent bit lines" if len(marks) > 1 else marks[0] or "none"
