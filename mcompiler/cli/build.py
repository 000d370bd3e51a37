"""compile, verify and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcompiler.cli.chip import effect_names
from mcompiler.cli.common import json_option, passes_progress, print_json, progress, say
from mcompiler.cli.options import pass_options, refuse_unused
from mcompiler.cli.streams import echo

if TYPE_CHECKING:
    from mcompiler.data import Samples
    from mcompiler.driver import Build
    from mcompiler.driver.trials import TrialOptions
    from mcompiler.simulate import Verification

EXIT_NOT_VERIFIED = 3

DIRECTORY = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))


def _dims(given: Sequence[str]) -> dict[str, int]:
    """Sizes by name, from NAME=N pairs."""
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
@click.option(
    "--set", "overrides", multiple=True, metavar="section.key=VALUE", help="Override a key of the target; repeatable."
)
@click.option(
    "--calibration",
    metavar="DATA.npz|random",
    help="Samples from which input ranges are taken; 'random' is enough for costs.",
)
@click.option("--dim", "dims", multiple=True, metavar="NAME=N", help="Size of a symbolic dimension; repeatable.")
@pass_options
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Build directory  [default: MODEL.build]")
@click.option("--force", is_flag=True, help="Replace an existing build.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder that keeps results of passes for later compilations; results that are there are used.",
)
@click.option(
    "--cache-size",
    type=click.FloatRange(min=0, min_open=True),
    default=10,
    show_default=True,
    metavar="GIB",
    help="Largest size of that folder; results that were used least recently are removed.",
)
@json_option
def compile_command(
    model: Path,
    target: str,
    overrides: tuple[str, ...],
    calibration: str | None,
    dims: tuple[str, ...],
    out: Path | None,
    force: bool,
    cache: Path | None,
    cache_size: float,
    as_json: bool,
    **options: Any,  # those of the passes, whose names click knows
) -> None:
    """Compile a trained model for a target chip and write the build directory."""
    from mcompiler.artefacts import check_place, clean_leftovers
    from mcompiler.driver import execute
    from mcompiler.pipeline import Cache, default

    refuse_unused(options)
    sizes = _dims(dims)
    place = Path(f"{model.stem}.build") if out is None else out
    clean_leftovers(place, say)
    check_place(place, force)
    with passes_progress(f"compiling {model.name}") as observer:
        pipeline = default(
            model,
            target,
            calibration=calibration,
            dims=sizes,
            overrides=overrides,
            options=options,
            observers=(observer,),
            cache=None if cache is None else Cache(cache, round(cache_size * 2**30)),
            say=say,
        )
        build = execute(pipeline, options.get("faults"), say)
        build.save(place, force=force, say=say)
    if as_json:
        print_json(_compiled_json(build, place, sizes))
    else:
        _print_compiled(build, model.name, place)


def _compiled_json(build: Build, place: Path, given: Mapping[str, int]) -> dict[str, Any]:
    from mcompiler.fates import fate_record

    return {
        "out": str(place),
        "crossbars": build.cost.crossbars,
        "crossbars_dense": build.cost.crossbars_dense,
        "nodes": [fate_record(fate) for fate in build.fates],
        "seconds": dict(build.seconds),
        "layers": [
            {"name": layer.op.site.name, "label": layer.op.site.label, "adc_bits": layer.analog.adc_range.as_json()}
            for layer in build.layer_data
        ],
        "cached": list(build.cached),
        "guesses": {name: size for name, size in build.options.dims.items() if name not in given},
        **{key: record.as_json() for key, record in build.records.items()},
    }


def _print_compiled(build: Build, model: str, place: Path) -> None:
    from mcompiler.cli.layout import turn_lines
    from mcompiler.summary import compile_summary

    echo(
        compile_summary(
            model,
            build.target,
            fates=build.fates,
            layers=build.layer_data,
            cost=build.cost,
            chips=build.chips,
        )
    )
    for record in build.records.values():
        echo(f"\n{record.text()}")
    if build.schedule.turns:
        echo(f"\n{turn_lines(build.schedule, build.target)}")
    echo(f"\nwritten to {place}; prove it with: mcompiler verify {place}")


@click.command()
@DIRECTORY
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="DATA.npz", help="Samples, and labels y to compute accuracies."
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use the first N samples; without --data draw N  [default: 16]",
)
@click.option(
    "--ideal", is_flag=True, help="Replace the converters by lossless ones, which proves the mapping on any target."
)
@click.option(
    "--effects",
    metavar="all|NAME,...",
    help="Simulate these errors of devices, wires and converters, as the target describes them.",
)
@click.option(
    "--trials", type=click.IntRange(min=1), metavar="T", help="Number of simulated chips with errors  [default: 1]"
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of random samples and, with --effects, of the first chip.",
)
@click.option(
    "--time",
    "time_s",
    type=float,
    metavar="SECONDS",
    help="Time since programming, for drift, relaxation and 1/f noise.",
)
@click.option(
    "--loss",
    type=float,
    metavar="SHARE",
    help="Largest loss of accuracy of a chip that counts for the yield  [default: 0.01]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of chips simulated in parallel; results do not depend on it.",
)
@click.option("--uncalibrated", is_flag=True, help="Leave out the corrections of the target's section [calibration].")
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
    loss: float | None,
    workers: int | None,
    uncalibrated: bool,
    as_json: bool,
) -> int:
    """Compare float, quantised and mapped model on the same samples, layer by layer.

    The hash of every file of the build is checked first. The mapped model is rebuilt from cells, placement and layers.
    Exit code 3 when a layer that is promised lossless is not exact, an output differs though all layers are exact, the
    shipped mapped.onnx is another model, or the placement is not that of the layers.

    With --effects or --trials the devices, wires and converters have the errors that the target describes; every seed
    is one chip.
    """
    from mcompiler.driver import load

    build = load(directory)
    options = _trial_options(
        effects=effects,
        trials=trials,
        seed=seed,
        time_s=time_s,
        loss=loss,
        workers=workers,
        calibrated=not uncalibrated,
    )
    if options is not None and ideal:
        raise click.UsageError("--ideal and --effects exclude each other: an ideal chip has no errors")
    samples = build.samples(data, limit=limit, seed=seed)
    if options is not None:
        return _verify_chips(build, samples, options, as_json)
    from mcompiler.summary import verify_summary

    with progress("verifying", samples.count) as advance:
        result = build.verify(samples, ideal=ideal, progress=advance)
    if as_json:
        print_json(result.as_json())
    else:
        echo(verify_summary(result, build.labels, drawn=data is None))
    return _verdict(result)


def _trial_options(
    *,
    effects: str | None,
    trials: int | None,
    seed: int,
    time_s: float | None,
    loss: float | None,
    workers: int | None,
    calibrated: bool,
) -> TrialOptions | None:
    """Options of the simulated chips; None where none are asked for."""
    if effects is None and trials is None:
        if time_s is not None or loss is not None or workers is not None or not calibrated:
            raise click.UsageError(
                "--time, --loss, --workers and --uncalibrated need chips with errors: give --effects too"
            )
        return None
    from mcompiler.driver.trials import TrialOptions

    names = effect_names("all" if effects is None else effects)
    options = TrialOptions(names, trials or 1, seed, time_s, workers=workers, calibrated=calibrated)
    return options if loss is None else replace(options, loss=loss)


def _verify_chips(build: Build, samples: Samples, options: TrialOptions, as_json: bool) -> int:
    from mcompiler.summary import trials_summary

    with progress("chips", options.trials) as advance:
        found = build.trials(samples, options=options, progress=advance)
    if as_json:
        print_json(found.as_json())
    else:
        echo(trials_summary(found, build.labels))
    return _verdict(found.plain)


def _verdict(result: Verification) -> int:
    """Print the first failure to stderr, and return the exit code."""
    if not result.failures:
        return 0
    more = f" (and {len(result.failures) - 1} more)" if len(result.failures) > 1 else ""
    echo(f"mcompiler: verification failed: {result.failures[0]}{more}", err=True)
    return EXIT_NOT_VERIFIED


@click.command()
@DIRECTORY
@json_option
def report(directory: Path, as_json: bool) -> None:
    """Print a summary of the build and the path of its report.html."""
    from mcompiler.driver import load
    from mcompiler.summary import compile_summary

    build = load(directory)
    build.check_files("report.html")
    page = directory / "report.html"
    if as_json:
        print_json({"report": str(page), "target": build.target.name, **build.cost.as_json()})
    else:
        echo(
            compile_summary(
                "model.onnx",
                build.target,
                fates=build.fates,
                layers=build.layer_data,
                cost=build.cost,
                chips=build.chips,
            )
        )
        echo(f"\nfull report: {page}")
