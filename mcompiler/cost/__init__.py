"""Cost of a scheduled program: energy, time and area."""

from mcompiler.cost.calibration import ChipCalibrationCost, chip_calibration_cost
from mcompiler.cost.data import DataEnergy, ExactInputs, data_energy, mean_field
from mcompiler.cost.tables import DIGITAL, Cost, LayerCounts, Price, PricedQuantities, count, estimate, price

__all__ = [
    "DIGITAL",
    "ChipCalibrationCost",
    "Cost",
    "DataEnergy",
    "ExactInputs",
    "LayerCounts",
    "Price",
    "PricedQuantities",
    "chip_calibration_cost",
    "count",
    "data_energy",
    "estimate",
    "mean_field",
    "price",
]
