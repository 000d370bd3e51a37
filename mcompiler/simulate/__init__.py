"""Simulation: the models of a build side by side (``compare``), and chips with their errors (``trials``)."""

from mcompiler.simulate.compare import (
    LayerProbe,
    LayerResult,
    Models,
    Outputs,
    Verification,
    outputs_of,
    sqnr_db,
    verify,
)
from mcompiler.simulate.subgraph import extract
from mcompiler.simulate.trials import PERCENTILE_CHIPS, Accuracy, ChipResult, LayerCauses, Trials, accuracy_of

__all__ = [
    "PERCENTILE_CHIPS",
    "Accuracy",
    "ChipResult",
    "LayerCauses",
    "LayerProbe",
    "LayerResult",
    "Models",
    "Outputs",
    "Trials",
    "Verification",
    "accuracy_of",
    "extract",
    "outputs_of",
    "sqnr_db",
    "verify",
]
