"""What a scheduled program costs."""

from mcompiler.cost.data import DataEnergy, data_energy
from mcompiler.cost.tables import DIGITAL, Cost, Counts, LayerCounts, Price, count, estimate, price

__all__ = [
    "DIGITAL",
    "Cost",
    "Counts",
    "DataEnergy",
    "LayerCounts",
    "Price",
    "count",
    "data_energy",
    "estimate",
    "price",
]
