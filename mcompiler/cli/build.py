"""compile, and what is asked of a build: verify, cost, report, cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from mcompiler.cli.common import json_option, passes_progress, print_json, progress, say
from mcompiler.errors import BuildError, UserError

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
    seed: int,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Compile a trained model for a target chip and write the build directory."""
    from mcompiler.artefacts import check_place, clean_leftovers
    from mcompiler.driver import compile
    from mcompiler.summary import compile_summary

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
            observers=(observer,),
            say=say,
        )
        build.save(place, force=force, say=say)
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
        })  # fmt: skip
    else:
        click.echo(compile_summary(model.name, build.target, build.fates, build.layer_data, build.cost, build.chips))
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
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of random samples.")
@json_option
def verify(directory: Path, data: Path | None, limit: int | None, ideal: bool, seed: int, as_json: bool) -> int:
    """Run float, quantised and mapped model side by side and compare them, layer by layer.

    The mapped model is rebuilt from cells, placement and layers. Exit code 3 when a layer that is promised lossless is
    not exact, an output differs though all layers are exact, the shipped mapped.onnx is another model, or the placement
    is not that of the layers.
    """
    from mcompiler.driver import load
    from mcompiler.summary import verify_summary

    build = load(directory)
    samples = build.samples(data, limit=limit, seed=seed)
    with progress("verifying", samples.count) as advance:
        result = build.verify(samples, ideal=ideal, progress=advance)
    if as_json:
        print_json(result.as_json())
    else:
        click.echo(verify_summary(result))
    if result.failures:
        more = f" (and {len(result.failures) - 1} more)" if len(result.failures) > 1 else ""
        click.echo(f"mcompiler: verification failed: {result.failures[0]}{more}", err=True)
    return EXIT_NOT_VERIFIED if result.failures else 0


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
@click.option("--layer", required=True, metavar="L", help="Layer name.")
@click.option("--tile", type=click.IntRange(min=0), metavar="I", help="One physical array of the layer; default: all.")
@json_option
def cells(directory: Path, layer: str, tile: int | None, as_json: bool) -> None:
    """The level and conductance of every cell of a layer, as CSV (or JSON)."""
    from mcompiler.conductance import conductances
    from mcompiler.driver import load

    build = load(directory)
    count = build.arrays(layer)
    if tile is not None and tile >= count:
        raise UserError(f"layer '{layer}' has {count} arrays; there is no number {tile}")
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
