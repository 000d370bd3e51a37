"""netlist: arrays of a build as a SPICE deck."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import numpy.typing as npt

from mcompiler.cli.build import DIRECTORY
from mcompiler.cli.chip import chip_options, chosen_chip
from mcompiler.cli.common import json_option, print_json
from mcompiler.cli.streams import echo
from mcompiler.errors import DataError

if TYPE_CHECKING:
    from mcompiler.driver import Build


@click.command()
@DIRECTORY
@click.option("--layer", required=True, metavar="L", help="Layer: name, label, or a part of either.")
@click.option(
    "--tile", type=click.IntRange(min=0), metavar="I", help="Number of one physical array of the layer  [default: all]"
)
@click.option(
    "--input",
    "given",
    metavar="BITS|FILE.npz",
    help="Inputs: 0 or 1 for each word line (0110..., lines that are not given are idle), or a file whose x "
    "[n, inputs] holds n vectors for the layer as shares of the read voltage from 0 to 1  [default: all word lines 1]",
)
@chip_options
@click.option("--out", type=click.Path(path_type=Path), metavar="F.sp", help="File to write  [default: LAYER.sp]")
@json_option
def netlist(
    directory: Path,
    *,
    layer: str,
    tile: int | None,
    given: str | None,
    out: Path | None,
    effects: str | None,
    seed: int | None,
    time_s: float | None,
    uncalibrated: bool,
    as_json: bool,
) -> None:
    """Write a SPICE deck for ngspice: every cell and wire of a layer's arrays, sources, printed currents.

    With --effects the cells are those of a simulated chip, in the circuit of these effects.
    """
    from mcompiler.artefacts import atomic_write, plain_name
    from mcompiler.driver import load
    from mcompiler.text import plural

    chip = chosen_chip(effects, seed, time_s, uncalibrated)
    build = load(directory)
    layer = build.layer_name(layer)
    arrays = build.arrays(layer) if tile is None else 1
    inputs, vectors = _applied(build, layer, given)
    place = Path(f"{plain_name(layer)}.sp") if out is None else out
    with atomic_write(place) as temporary, temporary.open("w", encoding="utf-8") as file:
        build.write_netlist(file.write, layer, tile, inputs=inputs, vectors=vectors, chip=chip)
    if as_json:
        print_json({"layer": layer, "arrays": arrays, "out": str(place), "bytes": place.stat().st_size})
    else:
        echo(f"{place}: {plural(arrays, 'array')} of layer '{layer}'; run it with: ngspice -b {place}")


def _applied(build: Build, layer: str, given: str | None) -> tuple[list[int] | None, npt.NDArray[np.float64] | None]:
    """The value of --input: inputs of the word lines, or vectors of the layer; both None without the option."""
    from mcompiler.data import InputSpec, load_samples
    from mcompiler.geometry import array_shape

    if given is None:
        return None, None
    (data,) = (data for data in build.layer_data if data.op.site.name == layer)
    if given.endswith(".npz"):
        groups, depth, _ = data.op.matrix.codes.shape
        spec = InputSpec("x", np.dtype(np.float64), ("n", groups * depth))
        x = load_samples(Path(given), (spec,)).inputs["x"]
        return None, x[0] if len(x) == 1 else x
    rows = data.lines(array_shape(build.target))[0]
    if not given or set(given) - {"0", "1"} or len(given) > rows:
        raise DataError(
            f"--input {given}: give at most {rows} digits 0 or 1, one a word line, or a file that ends in .npz"
        )
    return [int(bit) for bit in given.ljust(rows, "0")], None
