"""The three architectures of PIMCOMP's paper, and how many chips of each a network of `imagenet.py` takes.

    python benchmarks/architectures.py

prints the arrays of every network with each weight there once (FC included, 8-bit weights, 2-bit cells), counted by
`mcompiler.geometry`, and the smallest number of chips that holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagenet import NETWORKS, Layer

from mcompiler.geometry import ArrayShape, array_shape, count_dense
from mcompiler.target import Target, load_target

TARGETS = Path(__file__).resolve().parent / "targets"


@dataclass(frozen=True)
class Architecture:
    """A row of Table V of Sun et al., TCAD 2024; ``cores`` are PIMCOMP's, of one chip (of Arch-C: of 16)."""

    name: str
    cores: int
    target: Target

    @property
    def shape(self) -> ArrayShape:
        return array_shape(self.target)

    @property
    def arrays_per_chip(self) -> int:
        return self.target.hierarchy.arrays_per_chip

    @property
    def arrays_per_core(self) -> int:
        """Of one of PIMCOMP's cores: a tile of Arch-A and Arch-B, a core of Arch-C."""
        return self.arrays_per_chip // self.cores

    def arrays(self, layers: Sequence[Layer]) -> list[int]:
        """Arrays of one copy of each layer."""
        return [count_dense(1, layer.rows, layer.columns, self.shape) for layer in layers]

    def chips(self, layers: Sequence[Layer]) -> int:
        """The smallest number of chips that holds every layer once."""
        return -(-sum(self.arrays(layers)) // self.arrays_per_chip)


def architectures() -> dict[str, Architecture]:
    """Arch-A, Arch-B and Arch-C by the names of their targets."""
    cores = {"arch_a": 168, "arch_b": 138, "arch_c": 64}
    return {
        name: Architecture(name, count, load_target(str(TARGETS / f"{name}.toml"))) for name, count in cores.items()
    }


def main() -> None:
    """Print arrays and chips of every network on every architecture."""
    found = architectures().values()
    print("network      weights      " + "  ".join(f"{a.name} ({a.arrays_per_chip} arrays)" for a in found))
    for name, build in NETWORKS.items():
        layers = build().layers
        weights = sum(layer.rows * layer.columns for layer in layers)
        cells = [f"{sum(a.arrays(layers)):6d} = {sum(a.arrays(layers)) / a.arrays_per_chip:5.3f} -> {a.chips(layers)}"
                 for a in found]  # fmt: skip
        print(f"{name:12s} {weights:11d}  " + "  ".join(f"{cell:>21s}" for cell in cells))


if __name__ == "__main__":
    main()
