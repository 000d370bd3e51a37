"""netlist: arrays of a build as SPICE."""

from __future__ import annotations

from pathlib import Path

import click

from mcompiler.cli.build import DIRECTORY
from mcompiler.cli.common import json_option, print_json
from mcompiler.errors import DataError


@click.command()
@DIRECTORY
@click.option("--layer", required=True, metavar="L", help="Layer name.")
@click.option("--tile", type=click.IntRange(min=0), metavar="I", help="One physical array of the layer; default: all.")
@click.option(
    "--input",
    "bits",
    metavar="BITS",
    help="0 or 1 for each word line, as 0110...; lines that are not given are idle  [default: all 1]",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="F.sp", help="File  [default: LAYER.sp]")
@json_option
def netlist(directory: Path, layer: str, tile: int | None, bits: str | None, out: Path | None, as_json: bool) -> None:
    """Write a SPICE deck that ngspice runs as it is: every cell and wire of a layer's arrays, sources, currents."""
    from mcompiler.driver import load

    build = load(directory)
    rows = build.target.array.rows
    x = None
    if bits is not None:
        if not bits or set(bits) - {"0", "1"} or len(bits) > rows:
            raise DataError(f"--input {bits}: give at most {rows} digits 0 or 1, one a word line")
        x = [int(bit) for bit in bits.ljust(rows, "0")]
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in layer).strip("._") or "layer"
    place = Path(f"{stem}.sp") if out is None else out
    beside = place.with_name(f".{place.name}.part")
    try:
        with beside.open("w", encoding="utf-8") as file:
            build.write_netlist(file.write, layer, tile, inputs=x)
        beside.replace(place)
    except OSError as error:
        raise DataError(f"{place}: cannot be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
    arrays = build.arrays(layer) if tile is None else 1
    if as_json:
        print_json({"layer": layer, "arrays": arrays, "out": str(place), "bytes": place.stat().st_size})
    else:
        click.echo(f"{place}: {arrays} arrays of layer '{layer}'; run it with: ngspice -b {place}")
