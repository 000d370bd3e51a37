"""demo: the whole flow on a network that ships with the package."""

from __future__ import annotations

import time
from importlib import resources
from pathlib import Path

import click

from mcompiler.cli.common import json_option, passes_progress, print_json, progress, say


@click.command()
@click.option("--target", default="generic_128", show_default=True, metavar="NAME|FILE.toml", help="Target chip.")
@click.option(
    "--out", type=click.Path(path_type=Path), default="digits.build", show_default=True, metavar="DIR",
    help="Build directory.",
)  # fmt: skip
@json_option
def demo(target: str, out: Path, as_json: bool) -> int:
    """Compile, prove and cost a small convolutional network on scikit-learn's handwritten digits.

    An earlier build of the demo in the same place is replaced.
    """
    from mcompiler.driver import compile
    from mcompiler.summary import compile_summary, verify_summary

    started = time.perf_counter()
    with resources.as_file(resources.files("mcompiler") / "demo") as folder:
        with passes_progress("compiling digits.onnx") as observer:
            build = compile(
                folder / "digits.onnx",
                target,
                calibration=folder / "digits_calibration.npz",
                observers=(observer,),
                say=say,
            )
            build.save(out, force=True, say=say)
        samples = build.samples(folder / "digits.npz")
        with progress("verifying", samples.count) as advance:
            result = build.verify(samples, progress=advance)
    if as_json:
        print_json({"out": str(out), "verify": result.as_json(), "cost": build.cost.as_json()})
    else:
        click.echo(compile_summary("digits.onnx", build.target, build.fates, build.layer_data, build.cost, build.chips))
        click.echo("")
        click.echo(verify_summary(result))
        click.echo(
            f"\n{time.perf_counter() - started:.1f} s. The build is in {out}; look at {out}/report.html, or try:"
        )
        click.echo(f"  mcompiler cost {out}\n  mcompiler cells {out} --layer {build.layers[0]} --tile 0")
    return 3 if result.failures else 0
