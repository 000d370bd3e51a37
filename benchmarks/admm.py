"""Overhead of ADMM: an ADMM epoch against a plain epoch of the same network, data and precision.

    python benchmarks/admm.py [--network vgg16] [--batch 128] [--rounds 20]

Steps of both kinds are timed in turn, round by round; the projections of one epoch are timed separately and added once
per epoch. Needs only PyTorch: images are random, which takes the same time as real ones.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from common import ratio, write
from networks import NETWORKS
from torch import nn

from mcompiler import admm
from mcompiler.admm.loop import make_optimiser
from mcompiler.admm.lowering import find_layers
from mcompiler.admm.spec import Optimiser

IMAGES = 50_000
STEPS = 1


def time_rounds(
    step: Callable[[bool], None], update: Callable[[], object], rounds: int
) -> tuple[dict[bool, list[float]], list[float]]:
    """Seconds of a step without and with the penalty, and of an update, in each round; after one of each to warm up."""
    update()
    seconds: dict[bool, list[float]] = {False: [], True: []}
    updates = []
    for with_penalty in seconds:
        step(with_penalty)
    for _ in range(rounds):
        for with_penalty, found in seconds.items():
            started = time.perf_counter()
            for _ in range(STEPS):
                step(with_penalty)
            found.append((time.perf_counter() - started) / STEPS)
        started = time.perf_counter()
        update()
        updates.append(time.perf_counter() - started)
    return seconds, updates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--network", choices=["convnet", "vgg16", "resnet18"], default="vgg16")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = NETWORKS[args.network]().to(memory_format=torch.channels_last)
    layers = find_layers(model)
    structures = {
        name: admm.Structure(filters=max(1, layer.shape[2] // 2), shapes=max(1, layer.shape[1] // 2))
        for name, layer in layers.items()
        if not isinstance(layer.module, nn.Linear)
    }
    compressor = admm.Compressor(model, "yuan2019", admm.Spec(layers=structures))
    optimiser = make_optimiser(model, Optimiser())
    x = torch.randn(args.batch, 3, 32, 32).to(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (args.batch,))

    def step(with_penalty: bool) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.precision == "bfloat16"):
            output = model(x)
        loss = nn.functional.cross_entropy(output.float(), y)
        if with_penalty:
            loss = loss + compressor.penalty()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    seconds, updates = time_rounds(step, compressor.update, args.rounds)
    per_epoch = IMAGES // args.batch
    epochs = {
        "plain": [value * per_epoch for value in seconds[False]],
        "admm": [value * per_epoch + update for value, update in zip(seconds[True], updates, strict=True)],
    }
    result = {
        "network": args.network,
        "batch": args.batch,
        "precision": args.precision,
        "threads": args.threads,
        "rounds": args.rounds,
        "steps_per_round": STEPS,
        "torch": torch.__version__,
        "seed": 0,
        "epoch_s": {name: round(statistics.median(values), 1) for name, values in epochs.items()},
        "update_s": round(statistics.median(updates), 3),
        "admm_over_plain": ratio(epochs["admm"], epochs["plain"]),
    }
    print(result)
    print(write(f"admm_{args.network}", result))


if __name__ == "__main__":
    main()
