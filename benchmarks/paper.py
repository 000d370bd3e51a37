"""The networks of Yuan et al. (ISLPED 2019): trained, compressed, exported, compiled for `yuan2019` and verified.

    python benchmarks/paper.py lenet5 --seeds 0 1 2
    python benchmarks/paper.py vgg16

trains the dense network and compresses it (checkpoints in --work; a run that is stopped resumes), compiles the result
at 5 bit and verifies it on the whole test set. Writes benchmarks/models/<network>_<dataset>_5bit.onnx and
benchmarks/results/<network>_<dataset>_5bit.json. Recipes are in benchmarks/specs. Needs ../shared and Pillow.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import statistics
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, SHARED, write
from compressed import reopened
from images import Batches, Distilled, Images, load_images
from mapping import dense_figures, mapped_figures, power_and_area
from networks import NETWORKS, Teacher, slimmed, trained_resnet
from torch import nn

from mcompiler import admm
from mcompiler.admm.checkpoint import load_checkpoint, save_checkpoint, seed_epoch
from mcompiler.admm.distributed import ProcessRank, pick_device
from mcompiler.admm.loop import (
    SLOW_BFLOAT16,
    ComputeSettings,
    TrainingStage,
    make_optimiser,
    measure_accuracy,
    train_epoch,
)
from mcompiler.admm.spec import Optimiser, Spec

HERE = Path(__file__).resolve().parent
DATASETS = {"lenet5": "mnist", "convnet": "cifar10", "vgg16": "cifar10", "resnet18": "cifar10"}
TARGETS = {"lenet5": "yuan2019_32x32", "convnet": "yuan2019_32x32", "vgg16": "yuan2019", "resnet18": "yuan2019"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("network", choices=list(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--spec", type=Path, help="recipe  [default: benchmarks/specs/NETWORK.toml]")
    parser.add_argument("--name", help="of the files that are written  [default: NETWORK_DATASET_5bit]")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="checkpoints  [default: benchmarks/work]")
    parser.add_argument("--stop-after", choices=["dense", "compress"], help="leave the rest for another run")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    if args.spec is not None and not args.spec.is_file():
        parser.error(f"{args.spec}: no such file; recipes are in {HERE / 'specs'}")
    torch.set_num_threads(args.threads)
    name = args.name or f"{args.network}_{DATASETS[args.network]}_5bit"
    recipe = tomllib.loads(args.spec.read_text()) if args.spec else recipe_of(args.network)
    experiment = Experiment(args.network, load_images(DATASETS[args.network], SHARED / "data"), recipe, args.work)
    runs, kept = [], {}
    for seed in args.seeds:
        folder = args.work / name / f"seed{seed}"
        run = run_seed(experiment, seed, folder, stop_after=args.stop_after)
        if run is None:
            continue
        runs.append(run)
        say(json.dumps({key: run[key] for key in ("top1_dense", "top1_quantised", "top1_mapped", "tiles_conv")}))
        if not kept:
            kept = keep_first(experiment, name, folder)
    if runs:
        write(name, summary(experiment, runs, **kept))


@dataclass(frozen=True)
class Experiment:
    """A network with its data and recipe, and the folder of its checkpoints."""

    network: str
    images: Images
    recipe: dict[str, Any]
    work: Path

    @property
    def target(self) -> str:
        return TARGETS[self.network]


def run_seed(experiment: Experiment, seed: int, folder: Path, *, stop_after: str | None) -> dict[str, Any] | None:
    """Train, compress, map and verify once; None where it stops before that."""
    network, recipe, images = experiment.network, experiment.recipe, experiment.images
    folder.mkdir(parents=True, exist_ok=True)
    if "start" in recipe:
        start, facts = started(network, images, recipe["start"])
    else:
        dense, start = train_dense(experiment, seed)
        facts = dense_facts(dense, images, recipe)
    if stop_after == "dense":
        return None
    if "slim" in recipe:
        slimmed(start, **recipe["slim"])
    spec = Spec.from_table({"seed": seed, **recipe["compress"]})
    result = admm.compress(
        start,
        training_batches(experiment, seed, "compress"),
        experiment.target,
        spec,
        test=images.test_batches(),
        loss=loss_of(recipe, "compress"),
        out=folder,
        say=say,
    )
    if stop_after == "compress":
        return None
    mapped = mapped_figures(folder / "model.onnx", experiment.target, images, recipe.get("verify", {}).get("probed"))
    counted = compressed_facts(result, spec, facts, folder)
    whole = facts.pop("layers_dense", {})
    for layer in counted["layers"]:
        layer.update(whole.get(layer["name"], {}))
    return {"seed": seed, **facts, **mapped, **counted}


def keep_first(experiment: Experiment, name: str, folder: Path) -> dict[str, Any]:
    """Keep the model and the log of the first run; sizes of the dense network, power and area of the model."""
    model = folder / "model.onnx"
    (HERE / "models").mkdir(exist_ok=True)
    shutil.copyfile(model, HERE / "models" / f"{name}.onnx")
    shutil.copyfile(folder / "log.jsonl", RESULTS / f"{name}.log.jsonl")
    return {
        "sizes": dense_figures(experiment.network, experiment.target),
        "power": power_and_area(model, experiment.network, experiment.target),
    }


def recipe_of(network: str) -> dict[str, Any]:
    """The recipe that comes with this script."""
    return tomllib.loads((HERE / "specs" / f"{network}.toml").read_text())


def say(message: str) -> None:
    print(message, flush=True)


def summary(experiment: Experiment, runs: list[dict[str, Any]], *, sizes: dict[str, Any], power: Any) -> dict[str, Any]:
    """Means over the seeds on top, every run below; counts are of the first run, whose model is kept."""
    first = runs[0]
    tops = {key: statistics.fmean(run[key] for run in runs) for key in first if key.startswith("top1_")}
    spread = {
        key: statistics.stdev(run[key] for run in runs) if len(runs) > 1 else None
        for key in ("top1_dense", "top1_quantised", "top1_mapped")
    }
    arrays = first["arrays"]
    counted = {
        "ratio_weights": sizes["weights_conv_dense"] / first["weights_conv"],
        "ratio_tiles": sizes["tiles_conv_dense"] / first["tiles_conv"],
        "ratio_arrays": sizes["arrays_conv_dense_9bit"] / first["arrays_conv"],
        "ratio_arrays_all": sizes["arrays_dense_9bit"] / arrays,
        "ratio_tiles_all": sizes["tiles_dense"] / first["tiles"],
        **{key: first[key] for key in ("tiles_conv", "tiles", "arrays", "arrays_conv", "weights_conv", "weights")},
        **sizes,
    }
    return {
        "network": experiment.network,
        "dataset": DATASETS[experiment.network],
        "target": experiment.target,
        "bits": 5,
        **tops,
        "spread": spread,
        "seeds": [run["seed"] for run in runs],
        **counted,
        "power_and_area": power,
        "recipe": experiment.recipe,
        "runs": runs,
    }


def loss_of(recipe: dict[str, Any], stage: str) -> Distilled:
    options = recipe[f"{stage}_data"]
    return Distilled(options.get("teacher_share", 0.0), options.get("temperature", 3.0), options.get("smoothing", 0.0))


def training_batches(experiment: Experiment, seed: int, stage: str) -> Batches:
    """The batches of a stage, as its recipe says, with the mean of the teachers that it names."""
    images, options = experiment.images, experiment.recipe[f"{stage}_data"]
    ours = (images.mean, images.deviation)
    theirs = {"resnet56": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
    if options.get("teacher_share") and not options.get("teachers"):
        raise SystemExit(f"{stage}_data: teacher_share without teachers; name some, or leave the share out")
    teachers = [
        Teacher(teacher_of(name, experiment), ours, theirs.get(name, ours))
        for name in (part.format(seed=seed) for part in options.get("teachers", ()))
    ]
    return Batches(
        images,
        options["batch"],
        options.get("shift", 0),
        flip=options.get("flip", False),
        views=options["views"],
        seed=seed,
        teachers=teachers,
        sides=options.get("sides", ()),
    )


def teacher_of(name: str, experiment: Experiment) -> nn.Module:
    """A teacher: ``resnet56`` of the shared weights, or NETWORK/SEED, a dense network that is trained here."""
    if name == "resnet56":
        return trained_resnet(SHARED / "weights" / "resnet56-4bfd9763.th", 9)
    other, _, seed = name.partition("/")
    if other not in NETWORKS or not seed.isdigit():
        raise SystemExit(f"teachers: {name!r} is neither resnet56 nor NETWORK/SEED with one of {', '.join(NETWORKS)}")
    if other != experiment.network:
        experiment = replace(experiment, network=other, recipe=recipe_of(other))
    return train_dense(experiment, int(seed))[0]


def started(network: str, images: Images, name: str) -> tuple[nn.Module, dict[str, Any]]:
    """The compressed model of another row, from which a compression starts.

    Returns:
        The model's network; that row's figures of its dense network, and the epochs that it was trained for.
    """
    file, result = HERE / "models" / f"{name}.onnx", RESULTS / f"{name}.json"
    for needed in (file, result):
        if not needed.exists():
            raise SystemExit(f"{needed}: not there; the recipe starts from it, so run the one that makes it first")
    known = json.loads(result.read_text())
    if known["network"] != network:
        raise SystemExit(f"start: {name!r} is a model of {known['network']}, not of {network}; name one of {network}")
    run = known["runs"][0]
    facts = {key: run[key] for key in ("top1_dense", "epochs_dense")}
    facts |= {"epochs_before_compression": run["epochs_compressed_in_all"], "started_from": name}
    facts["layers_dense"] = {
        layer["name"]: {key: layer[key] for key in ("weights_dense", "tiles_dense")} for layer in run["layers"]
    }
    model = reopened(NETWORKS[network](), file, images.normalised(images.train[:512]))
    return model, facts


def train_dense(experiment: Experiment, seed: int) -> tuple[nn.Module, nn.Module]:
    """The dense network, from scratch or from the weights that the recipe names; checkpoint after every epoch.

    Returns:
        The trained network; the network from which compression starts (the same, or as it was after ``branch`` epochs,
        so that both get equally many epochs in all).
    """
    network, recipe = experiment.network, experiment.recipe
    options, folder = recipe["dense"], experiment.work / f"{network}_dense" / f"seed{seed}"
    torch.manual_seed(seed)
    model = NETWORKS[network]()
    branch = options.get("branch", options["epochs"])
    start = copy.deepcopy(model)
    if options.get("start") == "shared":
        import sys

        sys.path.insert(0, str(SHARED / "weights"))
        import load_vgg16  # type: ignore[import-not-found]

        model.load_state_dict(load_vgg16.state_dict())
        start.load_state_dict(model.state_dict())
    compute = compute_settings(bfloat16=recipe["compress"].get("precision") == "bfloat16")
    if compute.emulates_bfloat16:
        say(SLOW_BFLOAT16)
    model = compute.move_model(model)
    steps = Optimiser(**options["optimiser"])
    optimiser = make_optimiser(model, steps)
    file, first = folder / "dense.pt", 0
    fingerprint = json.dumps([network, options, recipe["dense_data"]], sort_keys=True)
    if file.exists():
        state = load_checkpoint(file)
        if state["fingerprint"] != fingerprint:
            raise SystemExit(f"{file}: of another recipe; give another --work, or remove it")
        model.load_state_dict(state["model"])
        first = state["epoch"]
        if first < options["epochs"]:
            optimiser.load_state_dict(state["optimiser"])
    if first < options["epochs"]:
        folder.mkdir(parents=True, exist_ok=True)
        trained = torch.compile(model, dynamic=False) if options.get("compile") else model
        stage = TrainingStage(trained, loss_of(recipe, "dense"), optimiser, steps, compute)
        batches = training_batches(experiment, seed, "dense")
        for epoch in range(first, options["epochs"]):
            state = {"fingerprint": fingerprint, "epoch": epoch + 1}
            state |= train_dense_epoch(stage, model, batches, seed, epoch, epochs=options["epochs"])
            save_checkpoint(file, {**state, "optimiser": optimiser.state_dict()})
            if epoch + 1 == branch:
                save_checkpoint(folder / "branch.pt", state)
    if branch:
        start.load_state_dict(load_checkpoint(folder / "branch.pt")["model"])
    return model.cpu().eval(), start.eval()


def train_dense_epoch(
    stage: TrainingStage, model: nn.Module, batches: Batches, seed: int, epoch: int, *, epochs: int
) -> dict[str, Any]:
    """One epoch of the dense network; its state for the checkpoint."""
    seed_epoch(seed, 9, epoch)
    done = train_epoch(stage, batches(epoch), lambda share: (epoch + share) / epochs, label=f"dense epoch {epoch}")
    say(f"dense {epoch}: loss {done.loss:.4f}, {done.seconds:.0f} s")
    return {"model": model.state_dict()}


def dense_facts(dense: nn.Module, images: Images, recipe: dict[str, Any]) -> dict[str, Any]:
    """Accuracy of the dense network in float32, epochs."""
    options = recipe["dense"]
    before, epochs = options.get("start_epochs", 0), options["epochs"]
    compute = compute_settings(bfloat16=False)
    top1 = measure_accuracy(compute.move_model(dense), images.test_batches(), compute, exact=True)
    dense.cpu()
    say(f"dense: {100 * top1:.2f}%")
    return {
        "top1_dense": top1,
        "epochs_dense": before + epochs,
        "epochs_before_compression": before + options.get("branch", epochs),
    }


def compute_settings(*, bfloat16: bool) -> ComputeSettings:
    """Of one process, on a GPU where there is one."""
    return ComputeSettings(pick_device(None), bfloat16, bfloat16, ProcessRank())


def compressed_facts(result: admm.Compressed, spec: Spec, dense: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Accuracies after each stage, epochs, and the remaining weights and tiles of each layer."""
    report = result.report()
    conv = [layer for layer in report["layers"] if layer["name"] in result.layers and "Conv" in _kind(result, layer)]
    admm_epochs = len(spec.admm.rho) * spec.admm.epochs
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        "top1_projected": report["top1"]["projected"],
        "top1_pytorch": report["top1"]["quantised"],
        "epochs_admm": admm_epochs,
        "epochs_retrain": spec.retrain.epochs,
        "epochs_compressed_in_all": dense["epochs_before_compression"]
        + len(spec.admm.rho) * spec.admm.epochs
        + spec.retrain.epochs,
        "seconds_compress": sum(line.get("seconds", 0.0) for line in lines),
        "weights": report["weights"],
        "weights_conv": sum(layer["weights"] for layer in conv),
        "tiles": report["tiles"],
        "tiles_conv": sum(layer["tiles"] for layer in conv),
        "layers": report["layers"],
    }


def _kind(result: admm.Compressed, layer: dict[str, Any]) -> str:
    module = result.layers[layer["name"]].module
    return "Linear" if isinstance(module, nn.Linear) else "Conv"


if __name__ == "__main__":
    main()
