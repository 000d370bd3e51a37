"""demo: the complete flow on a network that ships with the package, or that is trained first."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcompiler.cli.common import json_option, needs_torch, passes_progress, print_json, progress, say
from mcompiler.cli.streams import echo

if TYPE_CHECKING:
    from mcompiler.driver import Build
    from mcompiler.simulate import Verification


@dataclass(frozen=True)
class _CompiledNetwork:
    """One network of the demo: compiled and verified."""

    out: Path
    build: Build
    result: Verification

    def as_json(self) -> dict[str, Any]:
        return {"out": str(self.out), "verify": self.result.as_json(), "cost": self.build.cost.as_json()}


@click.command()
@click.option("--target", default="generic_128", show_default=True, metavar="NAME|FILE.toml", help="Target chip.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="digits.build",
    show_default=True,
    metavar="DIR",
    help="Build directory; that of the compressed network is written next to it.",
)
@click.option("--train", is_flag=True, help="Train and compress the network first (needs PyTorch; takes a minute).")
@json_option
def demo(target: str, out: Path, train: bool, as_json: bool) -> int:
    """Compile, prove and cost a small convolutional network on scikit-learn's handwritten digits, dense and compressed.

    An earlier build of the demo in the same place is replaced.
    """
    started = time.perf_counter()
    with _files(train, target) as (folder, steps):
        dense = _compile_and_verify(folder, "digits.onnx", folder / "digits_calibration.npz", target, out)
        small_out = out.with_name(f"{out.name.removesuffix('.build')}_compressed.build")
        small = _compile_and_verify(
            folder, "digits_compressed.onnx", folder / "digits_calibration.npz", target, small_out
        )
    if as_json:
        more = {"training": steps} if train else {}
        print_json({**dense.as_json(), "compressed": small.as_json(), **more})
    else:
        _print(dense, small, time.perf_counter() - started)
    return 3 if dense.result.failures or small.result.failures else 0


@contextmanager
def _files(train: bool, target: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folder of the demo's files, shipped or newly trained, and the report of the training."""
    if not train:
        with resources.as_file(resources.files("mcompiler") / "demo") as folder:
            yield folder, {}
        return
    needs_torch("mcompiler demo --train")
    from mcompiler.admm.digits import write_all

    with tempfile.TemporaryDirectory() as name:
        yield Path(name), write_all(Path(name), target=target, say=say).report()


def _compile_and_verify(folder: Path, name: str, calibration: Path, target: str, out: Path) -> _CompiledNetwork:
    """Compile, save and verify one network."""
    from mcompiler.driver import compile

    with passes_progress(f"compiling {name}") as observer:
        build = compile(folder / name, target, calibration=calibration, observers=(observer,), say=say)
        build.save(out, force=True, say=say)
    samples = build.samples(folder / "digits.npz")
    with progress("verifying", samples.count) as advance:
        return _CompiledNetwork(out, build, build.verify(samples, progress=advance))


def _print(dense: _CompiledNetwork, small: _CompiledNetwork, seconds: float) -> None:
    from mcompiler.summary import compile_summary, demo_comparison, verify_summary

    for shown, name in ((dense, "digits.onnx"), (small, "digits_compressed.onnx")):
        build = shown.build
        echo(
            compile_summary(
                name, build.target, fates=build.fates, layers=build.layer_data, cost=build.cost, chips=build.chips
            )
        )
        echo(f"\n{verify_summary(shown.result, build.labels)}\n")
    rows = [(label, shown.build.cost, shown.result) for label, shown in (("dense", dense), ("compressed", small))]
    echo(demo_comparison(rows))
    echo(f"\n{seconds:.1f} s. The builds are {dense.out} and {small.out}; look at {dense.out}/report.html, or try:")
    echo(f"  mcompiler cost {small.out}\n  mcompiler cells {dense.out} --layer {dense.build.layers[0]} --tile 0")
