"""Running statistics of batch normalisations, estimated anew for changed weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mcompiler.admm.inputs import run_model
from mcompiler.admm.loop import Batch, ComputeSettings, count_samples, iterate_pairs


@torch.no_grad()
def estimate_statistics(model: nn.Module, batches: Iterable[Batch], count: int, compute: ComputeSettings) -> None:
    """Replace the running mean and variance of every batch normalisation by their means over batches.

    All else is in inference mode, so that dropout does not enter the statistics. The model keeps its modes.

    Args:
        model: changed; nothing happens where it has no running statistics.
        batches: inputs and targets.
        count: batches that are used; 0 leaves the statistics as they are.
        compute: device and precision.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms or not count:
        return
    modes = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    model.eval()
    for norm in norms:
        norm.momentum = None  # the mean over all batches
        norm.train()
    used = False
    for x, _ in iterate_pairs(itertools.islice(batches, count)):
        if count_samples(x) < 2:
            continue  # the variance of one sample is none
        for norm in norms if not used else ():
            norm.reset_running_stats()
        used = True
        with compute.autocast():
            run_model(model, compute.move_batch(x))
    for module, training in modes.items():
        module.training = training
    for norm, momentum in momenta.items():
        norm.momentum = momentum
