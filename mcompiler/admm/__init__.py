"""Pruning and quantising PyTorch models for the crossbars that will hold their weights (needs torch).

Three lines in the user's own training loop:

    compressor = admm.Compressor(model, "yuan2019", spec)
    loss = criterion(model(x), y) + compressor.penalty()  # every batch
    compressor.update()  # every epoch
    compressor.project()  # at the end: from now on the weights obey their constraints

or one call for the whole recipe: ``admm.compress(model, batches, "yuan2019", spec, test=test, out="run")``.
"""

try:
    import torch  # noqa: F401 - to give a message with the remedy where it is missing
except ImportError as error:
    raise ImportError("mcompiler.admm needs PyTorch, which is not installed; pip install 'mcompiler[admm]'") from error

from mcompiler.admm.alternation import Residuals
from mcompiler.admm.compressor import Compressor
from mcompiler.admm.entry import Task, load_task
from mcompiler.admm.recipe import compress
from mcompiler.admm.result import Compressed
from mcompiler.admm.spec import Admm, Budget, DeviceNoise, Optimiser, Purify, Quantisation, Retrain, Spec, Structure
from mcompiler.admm.spec import LearningRateSchedule as Schedule

__all__ = [
    "Admm",
    "Budget",
    "Compressed",
    "Compressor",
    "DeviceNoise",
    "Optimiser",
    "Purify",
    "Quantisation",
    "Residuals",
    "Retrain",
    "Schedule",
    "Spec",
    "Structure",
    "Task",
    "compress",
    "load_task",
]
