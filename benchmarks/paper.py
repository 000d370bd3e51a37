"""The networks of Yuan et al. (ISLPED 2019): trained, compressed, exported, compiled for `yuan2019` and verified.

    python benchmarks/paper.py lenet5 --seeds 0 1 2
    python benchmarks/paper.py vgg16

trains the dense network and compresses it (checkpoints in --work; a run that is stopped goes on where it was), compiles
the result at 5 bit and verifies it on the whole test set. Writes benchmarks/models/<network>_<dataset>_5bit.onnx and
benchmarks/results/<network>_<dataset>_5bit.json. Recipes are in benchmarks/specs. Needs ../shared and Pillow.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import statistics
import tomllib
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
from mcompiler.admm.spec import LearningRateSchedule, Optimiser, Spec

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
    network, dataset = args.network, DATASETS[args.network]
    name = args.name or f"{network}_{dataset}_5bit"
    recipe = tomllib.loads(args.spec.read_text()) if args.spec else recipe_of(network)
    images = load_images(dataset, SHARED / "data")
    runs = []
    for seed in args.seeds:
        folder = args.work / name / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        if "start" in recipe:
            start, facts = started(network, images, recipe["start"])
        else:
            dense, start = train_dense(network, images, recipe, seed, args.work)
            facts = dense_facts(dense, images, recipe)
        if args.stop_after == "dense":
            continue
        if "slim" in recipe:
            slimmed(start, **recipe["slim"])
        spec = Spec.from_table({"seed": seed, **recipe["compress"]})
        batches = training_batches(network, images, recipe, seed, "compress", args.work)
        result = admm.compress(
            start, batches, TARGETS[network], spec, test=images.test_batches(), loss=loss_of(recipe, "compress"),
            out=folder, say=say,
        )  # fmt: skip
        if args.stop_after == "compress":
            continue
        model = folder / "model.onnx"
        mapped = mapped_figures(model, TARGETS[network], images, recipe.get("verify", {}).get("probed"))
        counted = compressed_facts(result, spec, facts, folder)
        whole = facts.pop("layers_dense", {})
        for layer in counted["layers"]:
            layer.update(whole.get(layer["name"], {}))
        runs.append({"seed": seed, **facts, **mapped, **counted})
        say(json.dumps({key: runs[-1][key] for key in ("top1_dense", "top1_quantised", "top1_mapped", "tiles_conv")}))
        if len(runs) == 1:
            sizes = dense_figures(network, TARGETS[network])
            (HERE / "models").mkdir(exist_ok=True)
            shutil.copyfile(model, HERE / "models" / f"{name}.onnx")
            power = power_and_area(model, network, TARGETS[network])
            shutil.copyfile(folder / "log.jsonl", RESULTS / f"{name}.log.jsonl")
    if runs:
        write(name, summary(network, dataset, recipe, runs, sizes, power))


def recipe_of(network: str) -> dict[str, Any]:
    """The recipe that comes with this script."""
    return tomllib.loads((HERE / "specs" / f"{network}.toml").read_text())


def say(message: str) -> None:
    print(message, flush=True)


def summary(
    network: str, dataset: str, recipe: dict[str, Any], runs: list[dict[str, Any]], sizes: dict[str, Any], power: Any
) -> dict[str, Any]:
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
        "network": network, "dataset": dataset, "target": TARGETS[network], "bits": 5, **tops, "spread": spread,
        "seeds": [run["seed"] for run in runs], **counted, "power_and_area": power, "recipe": recipe, "runs": runs,
    }  # fmt: skip


def loss_of(recipe: dict[str, Any], stage: str) -> Distilled:
    options = recipe[f"{stage}_data"]
    return Distilled(options.get("teacher_share", 0.0), options.get("temperature", 3.0), options.get("smoothing", 0.0))


def training_batches(
    network: str, images: Images, recipe: dict[str, Any], seed: int, stage: str, work: Path
) -> Batches:
    """The batches of a stage, as its recipe says, with the mean of the teachers that it names."""
    options = recipe[f"{stage}_data"]
    ours = (images.mean, images.deviation)
    theirs = {"resnet56": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
    if options.get("teacher_share") and not options.get("teachers"):
        raise SystemExit(f"{stage}_data: teacher_share without teachers; name some, or leave the share out")
    teachers = [
        Teacher(taught(name, network, images, recipe, work), ours, theirs.get(name, ours))
        for name in (part.format(seed=seed) for part in options.get("teachers", ()))
    ]
    return Batches(
        images, options["batch"], options.get("shift", 0), flip=options.get("flip", False), views=options["views"],
        seed=seed, teachers=teachers, sides=options.get("sides", ()),
    )  # fmt: skip


def taught(name: str, network: str, images: Images, recipe: dict[str, Any], work: Path) -> nn.Module:
    """A teacher: ``resnet56`` of the shared weights, or NETWORK/SEED, a dense network that is trained here."""
    if name == "resnet56":
        return trained_resnet(SHARED / "weights" / "resnet56-4bfd9763.th", 9)
    other, _, seed = name.partition("/")
    if other not in NETWORKS or not seed.isdigit():
        raise SystemExit(f"teachers: {name!r} is neither resnet56 nor NETWORK/SEED with one of {', '.join(NETWORKS)}")
    recipe = recipe if other == network else recipe_of(other)
    return train_dense(other, images, recipe, int(seed), work)[0]


def started(network: str, images: Images, name: str) -> tuple[nn.Module, dict[str, Any]]:
    """Where a compression goes on from the compressed model of another row.

    Returns:
        That model's network; what that row says of its dense network, and the epochs that lie behind.
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


def train_dense(
    network: str, images: Images, recipe: dict[str, Any], seed: int, work: Path
) -> tuple[nn.Module, nn.Module]:
    """The dense network, from scratch or from the weights that the recipe names; checkpoint after every epoch.

    Returns:
        The trained network; where the compression starts (the same, or as it was after ``branch`` epochs, so that both
        get equally many epochs in all).
    """
    options, folder = recipe["dense"], work / f"{network}_dense" / f"seed{seed}"
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
    bfloat16 = recipe["compress"].get("precision") == "bfloat16"
    compute = _setting(bfloat16=bfloat16)
    if compute.emulates_bfloat16:
        say(SLOW_BFLOAT16)
    model = compute.move_model(model)
    steps = Optimiser(**{**options["optimiser"], "schedule": LearningRateSchedule(options["optimiser"]["schedule"])})
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
        batches = training_batches(network, images, recipe, seed, "dense", work)
        trained = torch.compile(model, dynamic=False) if options.get("compile") else model
        for epoch in range(first, options["epochs"]):
            seed_epoch(seed, 9, epoch)
            done = train_epoch(
                TrainingStage(trained, loss_of(recipe, "dense"), optimiser, steps, compute),
                batches(epoch),
                lambda share, epoch=epoch: (epoch + share) / options["epochs"],
                label=f"dense epoch {epoch}",
            )
            say(f"dense {epoch}: loss {done.loss:.4f}, {done.seconds:.0f} s")
            state = {"fingerprint": fingerprint, "model": model.state_dict(), "epoch": epoch + 1}
            save_checkpoint(file, {**state, "optimiser": optimiser.state_dict()})
            if epoch + 1 == branch:
                save_checkpoint(folder / "branch.pt", state)
    if branch:
        start.load_state_dict(load_checkpoint(folder / "branch.pt")["model"])
    return model.cpu().eval(), start.eval()


def dense_facts(dense: nn.Module, images: Images, recipe: dict[str, Any]) -> dict[str, Any]:
    """Accuracy of the dense network in float32, epochs."""
    options = recipe["dense"]
    before, epochs = options.get("start_epochs", 0), options["epochs"]
    compute = _setting(bfloat16=False)
    top1 = measure_accuracy(compute.move_model(dense), images.test_batches(), compute, exact=True)
    dense.cpu()
    say(f"dense: {100 * top1:.2f}%")
    return {
        "top1_dense": top1,
        "epochs_dense": before + epochs,
        "epochs_before_compression": before + options.get("branch", epochs),
    }


def _setting(*, bfloat16: bool) -> ComputeSettings:
    """On a GPU where there is one."""
    return ComputeSettings(pick_device(None), bfloat16, bfloat16, ProcessRank())


def compressed_facts(result: admm.Compressed, spec: Spec, dense: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Accuracies on the way, epochs, and what is left of each layer."""
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
