"""cells: the programming table of a build, and time and energy of writing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mcompiler.cli.build import DIRECTORY
from mcompiler.cli.chip import chip_options, chosen_chip
from mcompiler.cli.common import json_option, print_json
from mcompiler.cli.streams import echo
from mcompiler.errors import UserError

if TYPE_CHECKING:
    from mcompiler.driver import Build
    from mcompiler.driver.drawn import DrawnChip

FILES = {".npy", ".csv"}


@click.command()
@DIRECTORY
@click.option(
    "--layer",
    metavar="L",
    help="Layer: name, label, or a part of either; without it --out is a folder with a file for every layer.",
)
@click.option(
    "--tile", type=click.IntRange(min=0), metavar="I", help="Number of one physical array of the layer  [default: all]"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="F.npy|F.csv|FOLDER",
    help="File for the cells (binary for numpy.load, or CSV), or folder for all layers  [default: CSV on stdout]",
)
@click.option("--summary", is_flag=True, help="Print time and energy of writing and verifying all cells.")
@chip_options
@json_option
def cells(
    directory: Path,
    *,
    layer: str | None,
    tile: int | None,
    out: Path | None,
    summary: bool,
    effects: str | None,
    seed: int | None,
    time_s: float | None,
    uncalibrated: bool,
    as_json: bool,
) -> None:
    """Print level and conductance of every cell of a layer as CSV or JSON, or time and energy of programming.

    With --effects the conductances are those of a simulated chip.
    """
    from mcompiler.driver import load
    from mcompiler.driver.arrays import drawn_chip

    _check_usage(layer, tile, out, summary)
    options = chosen_chip(effects, seed, time_s, uncalibrated)
    if summary and options is not None:
        raise click.UsageError("--summary is the cost of programming, for all chips: leave out --effects")
    build = load(directory)
    chip = None if options is None else drawn_chip(build, options)
    if summary:
        _programming(build, as_json)
    elif layer is None:
        assert out is not None  # _check_usage
        _write_all(build, out, chip, as_json)
    else:
        layer = build.layer_name(layer)
        count = build.arrays(layer)
        if tile is not None and tile >= count:
            raise UserError(f"layer '{layer}' has {count} arrays; there is no number {tile}")
        if out is not None:
            written = build.write_cells(out, layer, tile, chip=options)
            _told(layer, out, written, as_json)
        else:
            _show(build, layer, tile, chip, as_json)


def _check_usage(layer: str | None, tile: int | None, out: Path | None, summary: bool) -> None:
    """Refuse options that exclude each other."""
    if summary and (layer is not None or tile is not None or out is not None):
        raise click.UsageError("--summary covers all layers: leave out --layer, --tile and --out")
    if not summary and layer is None:
        if tile is not None:
            raise click.UsageError("--tile is an array of a layer: give --layer too")
        if out is None:
            raise click.UsageError("give --layer, or --out FOLDER for all layers, or --summary")
        if out.suffix in FILES:
            raise click.UsageError(f"--out {out}: a file holds one layer: give --layer, or name a folder")
    if layer is not None and out is not None and out.suffix not in FILES:
        raise click.UsageError(f"--out {out}: cells of a layer go to a file F.npy or F.csv")


def _show(build: Build, layer: str, tile: int | None, chip: DrawnChip | None, as_json: bool) -> None:
    """Print cells, as CSV one array at a time."""
    from mcompiler.artefacts.programming import layer_conductances, layer_levels, programming_csv

    (data,) = (data for data in build.layer_data if data.op.site.name == layer)
    drawn = None if chip is None else chip.cells(layer)
    if not as_json:
        for piece in programming_csv(data, build.target, tile, drawn):
            echo(piece, nl=False)
        return
    if drawn is not None:
        found = layer_conductances(data, build.target, tile, drawn)
        own = [each for each in found if each[0] < len(data.table)]
        print_json(
            {
                "layer": layer,
                "arrays": [
                    {
                        "tile": number,
                        "address": build.address(layer, number),
                        "levels": levels.tolist(),
                        "conductances_s": siemens.tolist(),
                    }
                    for number, levels, siemens in own
                ],
            }
        )
        return
    arrays = [
        {"tile": number, "address": build.address(layer, number), "levels": levels.tolist()}
        for number, levels in layer_levels(data, build.target, tile)
    ]
    print_json({"layer": layer, "arrays": arrays})


def _told(layer: str, out: Path, written: int, as_json: bool) -> None:
    """Say how many cells of a layer were written to a file."""
    if as_json:
        print_json({"layer": layer, "out": str(out), "cells": written})
        return
    how = "; read it with numpy.load, mmap_mode='r' for large ones" if out.suffix == ".npy" else ""
    echo(f"{out}: {written:,} cells of layer '{layer}'{how}")


def _write_all(build: Build, out: Path, chip: DrawnChip | None, as_json: bool) -> None:
    """Write the cells of every layer, one file per layer."""
    from mcompiler.artefacts.programming import write_programming_tables

    drawn = None if chip is None else {name: chip.cells(name) for name in build.layers}
    written = write_programming_tables(out, build.layer_data, build.target, drawn)
    total = sum(cells for _, cells in written.values())
    if as_json:
        rows = [{"layer": layer, "file": file, "cells": cells} for layer, (file, cells) in written.items()]
        print_json({"out": str(out), "cells": total, "layers": rows})
        return
    for layer, (file, cells) in written.items():
        echo(f"{out / file}: {cells:,} cells of layer '{layer}'")
    echo(f"{total:,} cells in all; read them with numpy.load, mmap_mode='r' for large ones")


def _programming(build: Build, as_json: bool) -> None:
    """Print time and energy of write-verify by layer."""
    from mcompiler.naming import shown_name
    from mcompiler.text import count, quantity, table

    found = build.programming()
    write = build.target.device.write
    if as_json:
        rows = None if found is None else [each.as_json() for each in found]
        print_json({"programming": rows, "tolerance_siemens": None if write is None else write.tolerance_siemens})
        return
    if found is None or write is None:
        echo(f"target '{build.target.name}' has no [device.write]: time and energy of programming are not known")
        return
    lines = [
        [
            shown_name(each.name, build.labels),
            count(each.cells),
            count(round(each.pulses)),
            quantity(each.seconds, "s"),
            quantity(each.energy_j, "J"),
            "-" if each.endurance_share is None else f"{each.endurance_share:.2g}",
        ]
        for each in found
    ]
    echo(table(["layer", "cells", "pulses", "time", "energy", "endurance spent"], lines, "lrrrrr"))
    chips = found[-1].chip_seconds
    if len(chips) > 1:
        times = [[str(chip), quantity(seconds, "s")] for chip, seconds in chips]
        echo("\n" + table(["chip", "time"], times, "lr"))
    within = "" if write.tolerance_siemens is None else f" to within {quantity(write.tolerance_siemens, 'S')}"
    at_once = f"{count(write.parallel_cells)} {'cell' if write.parallel_cells == 1 else 'cells'} of an array at once"
    echo(
        f"\nwritten and verified{within}: {at_once}, arrays of a core one after the other, "
        "cores (and chips) in parallel"
    )
