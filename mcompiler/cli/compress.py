"""compress: prune and quantise a PyTorch model for a target."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mcompiler.cli.common import json_option, needs_torch, print_json, say
from mcompiler.cli.streams import echo
from mcompiler.errors import BuildError


@click.command()
@click.argument("entry", metavar="PACKAGE.MODULE:FUNCTION")
@click.option(
    "--spec", type=click.Path(path_type=Path), metavar="FILE.toml", help="Specification  [default: levels only]"
)
@click.option("--target", default="generic_128", show_default=True, metavar="NAME|FILE.toml", help="Target chip.")
@click.option("--set", "overrides", multiple=True, metavar="section.key=VALUE", help="Change the target; repeatable.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Checkpoints, log, model.onnx  [default: FUNCTION.compressed]",
)
@click.option("--restart", is_flag=True, help="Start again, even where there is a checkpoint to resume from.")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1  [default: a GPU where there is one]")
@json_option
def compress(
    entry: str,
    spec: Path | None,
    target: str,
    overrides: tuple[str, ...],
    out: Path | None,
    restart: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Prune and quantise a trained PyTorch model for the crossbars of a target (ADMM).

    The entry is a function without arguments (file.py:function works too) that returns mcompiler.admm.Task: the trained
    model, its training batches and, for accuracies, test batches. A run that was stopped resumes from its last
    checkpoint. Several processes: torchrun --nproc-per-node N -m mcompiler compress ...
    """
    needs_torch("mcompiler compress")
    from mcompiler import admm
    from mcompiler.summary import compress_summary
    from mcompiler.target import AdcRange, load_target

    chip = load_target(target, overrides)
    specification = admm.Spec() if spec is None else admm.Spec.load(spec)
    task = admm.load_task(entry)
    folder = Path(f"{entry.rpartition(':')[2]}.compressed") if out is None else out
    if folder.exists() and not folder.is_dir():
        raise BuildError(f"{folder}: is a file; give another --out")
    result = admm.compress(
        task.model,
        task.train,
        chip,
        specification,
        example=task.example,
        test=task.test,
        loss=task.loss,
        out=folder,
        device=device,
        resume=not restart,
        say=say,
    )
    if os.environ.get("RANK", "0") != "0":  # of several processes under torchrun only the first prints
        return
    report = result.report()
    if as_json:
        print_json({"out": str(folder), "model": str(folder / "model.onnx"), **report})
        return
    echo(compress_summary(report))
    chosen = " ".join([f"--target {target}", *(f"--set {override}" for override in overrides)])
    if specification.skip or not specification.quantisation.inputs or chip.converters.adc.range is AdcRange.CALIBRATED:
        chosen += " --calibration DATA.npz"
    echo(f"\nwritten to {folder}; compile it with: mcompiler compile {folder / 'model.onnx'} {chosen}")
