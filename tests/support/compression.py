"""A small network with structures, for tests of the compressor."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mcompiler.admm.spec import Structure
from mcompiler.target import load_target

SMALL = ("array.rows=8", "array.columns=16", "array.rows_active=8")
TARGET = load_target("generic_128", [*SMALL, "precision.weights=4"])


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, groups=2, bias=False),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


LAYERS = {"0": Structure(filters=4, shapes=9), "2": Structure(column_nonzeros=3), "4": Structure(blocks=2)}


def data(seed: int = 0) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 2, 4, 4, generator=generator), torch.randint(0, 5, (16,), generator=generator)
