"""What a scheduled program costs."""

from mcompiler.cost.tables import DIGITAL, Cost, Counts, LayerCounts, Price, count, estimate, price

__all__ = ["DIGITAL", "Cost", "Counts", "LayerCounts", "Price", "count", "estimate", "price"]
