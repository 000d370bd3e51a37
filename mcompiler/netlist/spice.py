"""SPICE decks: one subcircuit per array, written line by line, so that memory does not grow with the array.

Element names give the place: ``rc12_7`` is the cell on word line 12 and bit line 7, ``rw12_7`` and ``rb12_7`` the
segments of its lines before that crossing (word line) and after it (bit line), ``ra12_7`` its access resistance,
``r12`` and ``c7`` the ends of the lines. Drivers and sense resistances are in the first and last segments; the sources
and the virtual grounds, which measure the currents, are in the deck. A resistance of 0 is left out: its two nodes are
one.

Several vectors are one DC sweep over their number, the voltage of node ``vector``: ngspice orders the equations once
and solves them for every vector. Sources that change are tables of that number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcompiler.effects import CellCurve, Circuit

Floats = npt.NDArray[np.float64]
Write = Callable[[str], object]

BEYOND = 10.0
"""Voltage up to which the table of a curve is extended, in multiples of its last point."""


@dataclass(frozen=True)
class DeckArray:
    """One array of a deck.

    Attributes:
        name: of its instance and subcircuit, lower-case letters and digits, as SPICE ignores case.
        conductances: float64 [R, C] of the cells alone, siemens.
        notes: comments before the subcircuit.
    """

    name: str
    conductances: Floats
    notes: tuple[str, ...] = ()


def sources_only(circuit: Circuit) -> bool:
    """Whether inputs change only the sources, so that one deck can apply many vectors."""
    return circuit.drive == "row_voltage" and circuit.idle_rows == "grounded"


def write_deck(
    write: Write, title: str, arrays: Iterable[DeckArray], inputs: Iterable[Floats], circuit: Circuit
) -> None:
    """Write a deck that finds the operating point and prints the current of every bit line.

    Arrays are read and written one after the other.

    Args:
        write: takes text.
        title: first line.
        arrays: each with its own sources.
        inputs: per array [R], shares of the read voltage on its word lines, or [V, R] for V vectors.
        circuit: lines, drive, curve and access resistance.

    Raises:
        ValueError: several vectors for a circuit that changes with them, or different numbers of vectors.
    """
    write(f"* {title}\n")
    written = []
    counts = set()
    for tile, x in zip(arrays, inputs, strict=True):
        counts.add(len(x) if x.ndim == 2 else None)
        if len(counts) > 1 or (x.ndim == 2 and not sources_only(circuit)):
            raise ValueError(
                "give the same number of vectors for every array; one where gates are driven or rows float"
            )
        conducts = x > 0 if circuit.drive == "gate" else np.ones(x.shape[-1], bool)
        _subcircuit(write, tile, circuit, conducts)
        _instance(write, tile, x, circuit)
        written.append((tile.name, tile.conductances.shape[1]))
    _control(write, written, counts.pop() if counts else None)


def _control(write: Write, written: Sequence[tuple[str, int]], vectors: int | None) -> None:
    """Operating point or sweep, and its currents."""
    if vectors is not None:
        write("vvector vector 0 dc 0\n")
    write(".options reltol=1e-9 abstol=1e-18 vntol=1e-12 itl1=500 itl2=500\n.control\nset numdgt=15\n")
    if vectors is not None:  # no paging of the output, and node voltages of the vectors are not kept in memory
        write("set nobreak\nset noprintscale\n")
        for name, columns in written:
            write(f"save {' '.join(f'i(vs_{name}_{column})' for column in range(columns))}\n")
    write("op\n" if vectors is None else f"dc vvector 0 {vectors - 1} 1\n")
    for name, columns in written:
        for column in range(columns):
            write(f"print {'' if vectors is None else 'col '}i(vs_{name}_{column})\n")
    write("quit\n.endc\n.end\n")


def _instance(write: Write, tile: DeckArray, x: Floats, circuit: Circuit) -> None:
    """Sources, virtual grounds, and the instance of the array between them."""
    rows, columns = tile.conductances.shape
    name = tile.name
    for row in range(rows):
        level = 1.0 if circuit.drive == "gate" else float(x[..., row].max())
        if x.ndim == 2 and (x[:, row] != level).any():
            write(_wrapped(f"br_{name}_{row} {name}_r{row} 0", _table(x[:, row] * circuit.read_voltage_v)))
        elif level > 0 or circuit.idle_rows == "grounded" or circuit.drive == "gate":
            write(f"vr_{name}_{row} {name}_r{row} 0 dc {_number(level * circuit.read_voltage_v)}\n")
        else:  # a floating line: its node needs a DC path, 12 decades above the resistance of any cell
            write(f"rf_{name}_{row} {name}_r{row} 0 1e18\n")
    for column in range(columns):
        write(f"vs_{name}_{column} {name}_c{column} 0 dc 0\n")
    ports = [f"{name}_r{row}" for row in range(rows)] + [f"{name}_c{column}" for column in range(columns)]
    write(_wrapped(f"x_{name}", [*ports, f"array_{name}"]))


def _table(volts: Floats) -> list[str]:
    """A source with these voltages by number of the vector; points between equal neighbours are left out."""
    points = [
        f",{number},{_number(volt)}"
        for number, volt in enumerate(volts)
        if number in (0, len(volts) - 1) or not volts[number - 1] == volt == volts[number + 1]
    ]
    return ["v=pwl(v(vector)", *points, ")"]


def _subcircuit(write: Write, tile: DeckArray, circuit: Circuit, conducts: npt.NDArray[np.bool_]) -> None:
    """One array; rows whose gates are off have no cells."""
    rows, columns = tile.conductances.shape
    lines = circuit.lines
    for note in tile.notes:
        write(f"* {note}\n")
    write(_wrapped(f".subckt array_{tile.name}", [*(f"r{i}" for i in range(rows)), *(f"c{j}" for j in range(columns))]))
    first, last = lines.driver_ohm + lines.word_ohm, lines.bit_ohm + lines.sense_ohm

    def word(row: int, column: int) -> str:
        if not first and (not column or not lines.word_ohm):
            return f"r{row}"
        return f"w{row}_{column if lines.word_ohm else 0}"

    def bit(row: int, column: int) -> str:
        if not last and (row == rows - 1 or not lines.bit_ohm):
            return f"c{column}"
        return f"b{row if lines.bit_ohm else rows - 1}_{column}"

    for row in range(rows):
        if first:
            write(f"rw{row}_0 r{row} {word(row, 0)} {_number(first)}\n")
        for column in range(columns):
            if column and lines.word_ohm:
                write(f"rw{row}_{column} {word(row, column - 1)} {word(row, column)} {_number(lines.word_ohm)}\n")
            below = f"c{column}" if row == rows - 1 else bit(row + 1, column)
            segment = last if row == rows - 1 else lines.bit_ohm
            if segment:
                write(f"rb{row}_{column} {bit(row, column)} {below} {_number(segment)}\n")
            g = float(tile.conductances[row, column])
            if g > 0 and conducts[row]:
                write("".join(_cell(f"{row}_{column}", (word(row, column), bit(row, column)), g, circuit)))
    write(f".ends array_{tile.name}\n")


def _cell(place: str, nodes: tuple[str, str], g: float, circuit: Circuit) -> Iterator[str]:
    """A cell, in series with its access resistance where there is one."""
    start, bit = nodes
    if circuit.access_ohm:
        start = f"m{place}"
        yield f"ra{place} {nodes[0]} {start} {_number(circuit.access_ohm)}\n"
    if circuit.curve is None:
        yield f"rc{place} {start} {bit} {_number(1 / g)}\n"
    else:
        yield f"bc{place} {start} {bit} i={_current(circuit.curve, g, f'v({start},{bit})')}\n"


def _current(curve: CellCurve, g: float, volts: str) -> str:
    """The current of a curved cell as an expression of the voltage over it."""
    if curve.sinh_v is not None:
        size = g * curve.read_v / np.sinh(curve.read_v / curve.sinh_v)
        return f"{_number(size)}*sinh({volts}/{_number(curve.sinh_v)})"
    far = BEYOND * curve.voltages_v[-1]
    points = np.array([*curve.voltages_v, far])
    values = g * curve.current(points)
    pairs = [(-v, -i) for v, i in zip(points[::-1], values[::-1], strict=True)]
    pairs += [(0.0, 0.0), *zip(points, values, strict=True)]
    return f"pwl({volts},{','.join(f'{_number(v)},{_number(i)}' for v, i in pairs)})"


def _number(value: float) -> str:
    """A number that reads back as the same float."""
    return repr(float(value))


def _wrapped(head: str, words: Sequence[str]) -> str:
    """A long line in continuations of 20 words."""
    parts = [" ".join(words[start : start + 20]) for start in range(0, len(words), 20)]
    return head + " " + "\n+ ".join(parts) + "\n"
