"""compile, and what is asked of a build: verify, cost, report, cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from mcompiler.cli.common import json_option, passes_progress, print_json, progress, say
from mcompiler.errors import BuildError, UserError

if TYPE_CHECKING:
    from mcompiler.data import Samples
    from mcompiler.driver import Build
    from mcompiler.simulate import Verification

EXIT_NOT_VERIFIED = 3

DIRECTORY = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))


def _dims(given: Sequence[str]) -> dict[str, int]:
    """NAME=N pairs."""
    dims = {}
    for text in given:
        name, equals, size = text.rpartition("=")
        if not equals or not name or not size.isdigit() or int(size) == 0:
            raise click.UsageError(f"--dim {text}: give NAME=N with N of at least 1")
        dims[name] = int(size)
    return dims


@click.command("compile")
@click.argument("model", metavar="MODEL.onnx", type=click.Path(path_type=Path))
@click.option("--target", default="generic_128", show_default=True, metavar="NAME|FILE.toml", help="Target chip.")
@click.option("--set", "overrides", multiple=True, metavar="section.key=VALUE", help="Change the target; repeatable.")
@click.option(
    "--calibration",
    metavar="DATA.npz|random",
    help="Samples that input ranges are taken from; 'random' for costs only.",
)
@click.option(
    "--range", "method", type=click.Choice(["minmax", "percentile", "mse"]), default="minmax", show_default=True,
    help="How input ranges are read off the calibration data.",
)  # fmt: skip
@click.option("--dim", "dims", multiple=True, metavar="NAME=N", help="Size of a symbolic dimension; repeatable.")
@click.option("--chips", type=click.IntRange(min=1), help="Chips to use at most.")
@click.option(
    "--faults",
    type=click.Path(path_type=Path),
    metavar="MAP.csv",
    help="Stuck cells of the real chip (chip,tile,core,position,row,column,stuck): arrays and lines move around them.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything that is drawn.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Build directory  [default: MODEL.build]")
@click.option("--force", is_flag=True, help="Replace a build that is there.")
@json_option
def compile_command(
    model: Path,
    target: str,
    overrides: tuple[str, ...],
    calibration: str | None,
    method: str,
    dims: tuple[str, ...],
    chips: int | None,
    faults: Path | None,
    seed: int,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Compile a trained model for a target chip and write the build directory."""
    from mcompiler.artefacts import check_place, clean_leftovers
    from mcompiler.driver import compile
    from mcompiler.summary import compile_summary, remap_line

    sizes = _dims(dims)
    place = Path(f"{model.stem}.build") if out is None else out
    clean_leftovers(place, say)
    check_place(place, force)
    with passes_progress(f"compiling {model.name}") as observer:
        build = compile(
            model,
            target,
            calibration=calibration,
            range=method,
            dims=sizes,
            chips=chips,
            seed=seed,
            overrides=overrides,
            faults=faults,
            observers=(observer,),
            say=say,
        )
        build.save(place, force=force, say=say)
    moved = build.remap
    if as_json:
        print_json({
            "out": str(place),
            "crossbars": build.cost.crossbars,
            "crossbars_dense": build.cost.crossbars_dense,
            "nodes": [{"name": f.name, "op": f.op, "fate": str(f.fate), "reason": f.reason} for f in build.fates],
            "seconds": dict(build.seconds),
            "layers": [
                {"name": layer.op.name, "adc_bits": layer.analog.adc_range.as_json()} for layer in build.layer_data
            ],
            **({} if moved is None else {"remap": moved}),
        })  # fmt: skip
    else:
        click.echo(compile_summary(model.name, build.target, build.fates, build.layer_data, build.cost, build.chips))
        if moved is not None:
            click.echo(f"\n{remap_line(moved)}")
        click.echo(f"\nwritten to {place}; prove it with: mcompiler verify {place}")


@click.command()
@DIRECTORY
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="DATA.npz", help="Samples, and labels y for accuracies."
)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="First N samples; without --data: draw N  [default: 16]"
)
@click.option("--ideal", is_flag=True, help="Lossless converters: proves the mapping on any target.")
@click.option(
    "--effects",
    metavar="all|NAME,...",
    help="Errors of devices, wires and converters to switch on, of those that the target describes.",
)
@click.option("--trials", type=click.IntRange(min=1), metavar="T", help="Chips with those errors  [default: 1]")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of random samples; with --effects, of the first chip too."
)
@click.option(
    "--time", "time_s", type=float, metavar="SECONDS", help="Since programming: drift, relaxation, 1/f noise."
)
@click.option(
    "--loss",
    type=float,
    default=0.01,
    show_default=True,
    metavar="SHARE",
    help="What a chip may lose and still count for the yield.",
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Chips at once; changes no number.")
@click.option("--uncalibrated", is_flag=True, help="Without the corrections of the target's [calibration].")
@json_option
def verify(
    directory: Path,
    data: Path | None,
    limit: int | None,
    ideal: bool,
    effects: str | None,
    trials: int | None,
    seed: int,
    time_s: float | None,
    loss: float,
    workers: int | None,
    uncalibrated: bool,
    as_json: bool,
) -> int:
    """Run float, quantised and mapped model side by side and compare them, layer by layer.

    The mapped model is rebuilt from cells, placement and layers. Exit code 3 when a layer that is promised lossless is
    not exact, an output differs though all layers are exact, the shipped mapped.onnx is another model, or the placement
    is not that of the layers.

    With --effects or --trials the devices, wires and converters have the errors that the target describes; every seed
    is one chip.
    """
    from mcompiler.driver import load

    build = load(directory)
    chips = effects is not None or trials is not None
    if chips and ideal:
        raise click.UsageError("--ideal and --effects exclude each other: an ideal chip has no errors")
    if not chips and (time_s is not None or workers is not None or uncalibrated):
        raise click.UsageError("--time, --workers and --uncalibrated are of chips with errors: give --effects too")
    samples = build.samples(data, limit=limit, seed=seed)
    if chips:
        names = tuple(name.strip() for name in (effects or "all").split(",") if name.strip())
        return _verify_chips(build, samples, names, trials or 1, seed, time_s, loss, workers, not uncalibrated, as_json)
    from mcompiler.summary import verify_summary

    with progress("verifying", samples.count) as advance:
        result = build.verify(samples, ideal=ideal, progress=advance)
    if as_json:
        print_json(result.as_json())
    else:
        click.echo(verify_summary(result))
    return _verdict(result)


def _verify_chips(
    build: Build,
    samples: Samples,
    names: tuple[str, ...],
    trials: int,
    seed: int,
    time_s: float | None,
    loss: float,
    workers: int | None,
    calibrated: bool,
    as_json: bool,
) -> int:
    from mcompiler.driver.trials import TrialOptions
    from mcompiler.summary import trials_summary

    options = TrialOptions(names, trials, seed, time_s, loss, workers, calibrated)
    with progress("chips", trials) as advance:
        found = build.trials(samples, options=options, progress=advance)
    if as_json:
        print_json(found.as_json())
    else:
        click.echo(trials_summary(found))
    return _verdict(found.plain)


def _verdict(result: Verification) -> int:
    """Exit code; the first failure goes to stderr."""
    if not result.failures:
        return 0
    more = f" (and {len(result.failures) - 1} more)" if len(result.failures) > 1 else ""
    click.echo(f"mcompiler: verification failed: {result.failures[0]}{more}", err=True)
    return EXIT_NOT_VERIFIED


@click.command()
@DIRECTORY
@json_option
def cost(directory: Path, as_json: bool) -> None:
    """What one inference costs: latency, energy, area, per layer and component."""
    from mcompiler.driver import load
    from mcompiler.summary import cost_summary
    from mcompiler.target import assumptions

    build = load(directory)
    if as_json:
        print_json(build.cost.as_json())
    else:
        click.echo(cost_summary(build.cost, len(assumptions(build.target))))


@click.command()
@DIRECTORY
@json_option
def report(directory: Path, as_json: bool) -> None:
    """The build on one screen, and where its report.html is."""
    from mcompiler.driver import load
    from mcompiler.summary import compile_summary

    build = load(directory)
    page = directory / "report.html"
    if not page.is_file():
        raise BuildError(f"{page}: missing from the build; compile the model again")
    if as_json:
        print_json({"report": str(page), "target": build.target.name, **build.cost.as_json()})
    else:
        click.echo(compile_summary("model.onnx", build.target, build.fates, build.layer_data, build.cost, build.chips))
        click.echo(f"\nall of it: {page}")


@click.command()
@DIRECTORY
@click.option("--layer", metavar="L", help="Layer name; needed unless --summary is given.")
@click.option("--tile", type=click.IntRange(min=0), metavar="I", help="One physical array of the layer; default: all.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="F.npy", help="Write the layer's cells there, as binary columns."
)
@click.option("--summary", is_flag=True, help="What writing and verifying all cells takes.")
@json_option
def cells(directory: Path, layer: str | None, tile: int | None, out: Path | None, summary: bool, as_json: bool) -> None:
    """The level and conductance of every cell of a layer, as CSV (or JSON); or what programming them takes."""
    from mcompiler.conductance import conductances
    from mcompiler.driver import load

    build = load(directory)
    if summary:
        _programming(build, as_json)
        return
    if layer is None:
        raise click.UsageError("give --layer, or --summary")
    count = build.arrays(layer)
    if tile is not None and tile >= count:
        raise UserError(f"layer '{layer}' has {count} arrays; there is no number {tile}")
    if out is not None:
        if tile is not None or out.suffix != ".npy":
            raise click.UsageError("--out writes all arrays of a layer to a .npy file: leave out --tile, name it F.npy")
        written = build.write_cells(out, layer)
        print_json({"layer": layer, "out": str(out), "cells": written}) if as_json else click.echo(
            f"{out}: {written:,} cells of layer '{layer}'; read it with numpy.load, mmap_mode='r' for large ones"
        )
        return
    chosen = enumerate(build.all_cells(layer)) if tile is None else [(tile, build.cells(layer, tile))]
    if as_json:
        arrays = [
            {"tile": index, "address": build.address(layer, index), "levels": levels.tolist()}
            for index, levels in chosen
        ]
        print_json({"layer": layer, "arrays": arrays})
        return
    click.echo("array,chip,tile,core,position,row,column,level,conductance_s")
    for index, levels in chosen:
        address = ",".join(map(str, build.address(layer, index)))
        siemens = conductances(levels, build.target)
        lines = [
            f"{index},{address},{row},{column},{levels[row, column]},{siemens[row, column]:.6g}"
            for row, column in np.ndindex(levels.shape)
        ]
        click.echo("\n".join(lines))


def _programming(build: Build, as_json: bool) -> None:
    """Write-verify, layer by layer."""
    from mcompiler.text import count, quantity, table

    found = build.programming()
    write = build.target.device.write
    if as_json:
        rows = None if found is None else [each.as_json() for each in found]
        print_json({"programming": rows, "tolerance_s": None if write is None else write.tolerance_siemens})
        return
    if found is None or write is None:
        click.echo(f"target '{build.target.name}' has no [device.write]: what programming takes is not known")
        return
    lines = [
        [each.name, count(each.cells), count(round(each.pulses)), quantity(each.seconds, "s"),
         quantity(each.energy_j, "J"), "-" if each.endurance_share is None else f"{each.endurance_share:.2g}"]
        for each in found
    ]  # fmt: skip
    click.echo(table(["layer", "cells", "pulses", "time", "energy", "endurance spent"], lines, "lrrrrr"))
    within = "" if write.tolerance_siemens is None else f" to within {quantity(write.tolerance_siemens, 'S')}"
    click.echo(f"\nwritten and verified{within}; cores side by side, arrays of a core one after the other")
