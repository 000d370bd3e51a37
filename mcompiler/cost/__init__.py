"""Cost of a scheduled program: energy, time and area."""

from mcompiler.cost.calibration import ChipCalibrationCost, chip_calibration_cost
from mcompiler.cost.data import DataEnergy, ExactInputs, data_energy, mean_field
from mcompiler.cost.energies import estimate, price
from mcompiler.cost.tables import DIGITAL, IDLE, Cost, LayerCounts, Price, PricedQuantities, count

__all__ = [
    "DIGITAL",
    "IDLE",
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
