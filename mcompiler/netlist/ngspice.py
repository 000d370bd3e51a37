"""Find ngspice, run a deck with it, and read the currents that it prints."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mcompiler.errors import UserError

_TABLE = re.compile(r"^Index\s+i\(vs_(\w+?)_(\d+)\)\s*\n-+\n((?:\d+\t\S+\s*\n)+)", re.MULTILINE)
_PRINTED = re.compile(r"^i\(vs_(\w+?)_(\d+)\) = (\S+)$", re.MULTILINE)


def find_ngspice() -> str | None:
    """Path of ngspice, None where it is not installed."""
    return shutil.which("ngspice")


def run_deck(deck: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Run a deck of ``write_deck``.

    Returns:
        The currents of the bit lines by array name, [C] in ampere, into the virtual ground; [V, C] of V vectors.

    Raises:
        UserError: ngspice is not installed, or finds no operating point; its last lines are in the message.
    """
    program = find_ngspice()
    if program is None:
        raise UserError("ngspice is not installed; on Debian: apt-get install ngspice")
    done = subprocess.run([program, "-b", str(deck)], check=False, capture_output=True, text=True)
    found: dict[str, dict[int, npt.NDArray[np.float64]]] = {}
    for name, column, value in _PRINTED.findall(done.stdout):
        found.setdefault(name, {})[int(column)] = np.array(float(value))
    for name, column, table in _TABLE.findall(done.stdout):
        found.setdefault(name, {})[int(column)] = np.array(table.split()[1::2], dtype=np.float64)
    shapes = {current.shape for columns in found.values() for current in columns.values()}
    if len(shapes) != 1:
        tail = " / ".join((done.stdout + done.stderr).strip().splitlines()[-3:])
        raise UserError(f"{deck}: ngspice gives no currents: {tail}")
    return {name: np.stack([values[column] for column in sorted(values)], axis=-1) for name, values in found.items()}
