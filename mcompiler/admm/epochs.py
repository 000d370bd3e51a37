"""The epochs of all stages of a recipe: seeds, training, accuracy, log lines, messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from mcompiler.admm.checkpoint import TrainingLog, seed_epoch
from mcompiler.admm.display import Advance
from mcompiler.admm.loop import (
    Batches,
    ComputeSettings,
    EpochResult,
    TrainingStage,
    count_batches,
    get_batches,
    measure_accuracy,
    train_epoch,
)
from mcompiler.admm.statistics import estimate_statistics

SEED_NUMBERS = {"preparation": 0, "admm": 1, "float": 2, "quantised": 3}
"""The second of the three numbers that an epoch's seed is made of; checkpoints rely on it."""

COUNT_EPOCH, BUDGET_EPOCH, RANGE_EPOCH, STATISTICS_EPOCH = 0, 1, 2, 3
"""The third number for steps between epochs: first batches, budget search, input ranges, batch statistics."""


@dataclass(frozen=True)
class EpochNumber:
    """Which epoch of a run it is.

    Attributes:
        stage: ``admm``, ``float`` or ``quantised``.
        index: within the stage.
        total: epochs over which the learning-rate schedule runs.
        before: epochs of earlier stages in that schedule.
    """

    stage: str
    index: int
    total: int
    before: int = 0

    @property
    def position(self) -> int:
        """Epochs of the schedule that lie before this one."""
        return self.before + self.index


@dataclass
class EpochRunner:
    """Trains, measures and reports single epochs (mutable: it counts the training batches once).

    Attributes:
        train, test: data.
        compute: device and precision.
        seed: of the run.
        log: receives one line per epoch.
        advance: receives progress.
        say: receives messages.
    """

    train: Batches
    test: Batches | None
    compute: ComputeSettings
    seed: int
    log: TrainingLog
    advance: Advance
    say: Callable[[str], None]
    _counted: int | None = None

    def run(
        self, stage: TrainingStage, number: EpochNumber, during: Callable[[float], None] | None = None
    ) -> EpochResult:
        """Train for one epoch.

        Args:
            stage: model, loss, optimiser and settings.
            number: of the epoch.
            during: called after each step with the fraction of the epoch.
        """
        batches = self._seed_and_get_batches(number)
        total = count_batches(batches)
        if total is None:
            # Counting the batches of another epoch draws random numbers, so this epoch's seed is set again.
            total = self._count_batches()
            batches = self._seed_and_get_batches(number)
        label = f"{number.stage} {number.position + 1}/{number.total}"

        def after_step(steps: int, fraction: float | None) -> None:
            self.advance(label, steps, total)
            if during is not None and fraction is not None:
                during(fraction)

        return train_epoch(
            stage,
            batches,
            lambda fraction: (number.position + fraction) / number.total,
            after_step=after_step,
            length=total,
            label=f"stage {number.stage}, epoch {number.index}",
        )

    def report(self, number: EpochNumber, result: EpochResult, model: nn.Module, more: Mapping[str, Any]) -> None:
        """Measure the accuracy after an epoch, and write its line and its message."""
        accuracy = self.measure(model)
        line = {
            "stage": number.stage,
            "epoch": number.index,
            **dataclasses.asdict(result),
            "accuracy": accuracy,
            **more,
        }
        self.log.write(line)
        self.tell(
            f"{number.stage} {number.index}: loss {result.loss:.4f}, {format_percent(accuracy)}, {result.seconds:.0f} s"
        )

    def measure(self, model: nn.Module, *, exact: bool = False) -> float | None:
        """Top-1 accuracy on the test data; None without test data."""
        return (
            None if self.test is None else measure_accuracy(model, get_batches(self.test, 0), self.compute, exact=exact)
        )

    def tell(self, message: str) -> None:
        """Give a message, in one of the processes."""
        if self.compute.ranks.is_first:
            self.say(message)

    def seed_preparation(self, step: int) -> None:
        """Seed a step of the preparation: one of the numbers above."""
        seed_epoch(self.seed, SEED_NUMBERS["preparation"], step)

    def estimate_statistics(self, model: nn.Module, count: int) -> None:
        """Estimate the statistics of batch normalisations anew from training batches; equal in all processes."""
        self.seed_preparation(STATISTICS_EPOCH)
        estimate_statistics(model, get_batches(self.train, 0), count, self.compute)
        self.compute.ranks.broadcast_model(model)

    def _seed_and_get_batches(self, number: EpochNumber) -> Any:
        seed_epoch(self.seed, SEED_NUMBERS[number.stage], number.index)
        return get_batches(self.train, number.position)

    def _count_batches(self) -> int:
        """The number of batches of the first epoch, which are iterated once for that."""
        if self._counted is None:
            self.seed_preparation(COUNT_EPOCH)
            self._counted = sum(1 for _ in get_batches(self.train, 0))
            self.tell(f"the training data do not give their number of batches; counted {self._counted}")
        return self._counted


def format_percent(accuracy: float | None) -> str:
    """An accuracy in a message."""
    return "no test data" if accuracy is None else f"{100 * accuracy:.2f}%"
