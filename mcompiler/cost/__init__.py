"""What a scheduled program costs."""

from mcompiler.cost.calibration import CalibrationCost, calibration_cost
from mcompiler.cost.data import DataEnergy, ExactInputs, data_energy, mean_field
from mcompiler.cost.tables import DIGITAL, Cost, Counts, LayerCounts, Price, count, estimate, price

__all__ = [
    "DIGITAL",
    "CalibrationCost",
    "Cost",
    "Counts",
    "DataEnergy",
    "ExactInputs",
    "LayerCounts",
    "Price",
    "calibration_cost",
    "count",
    "data_energy",
    "estimate",
    "mean_field",
    "price",
]
