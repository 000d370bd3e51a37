"""Results of many chips of one description: accuracy with its spread and interval, yield, and errors by cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mcompiler.simulate.compare import Verification

CONFIDENCE = 0.95
"""Confidence of the intervals."""

PERCENTILE_CHIPS = 20
"""Chips of which a 5th percentile can be told: with fewer, none is expected below it."""


@dataclass(frozen=True)
class ChipResult:
    """One chip.

    Attributes:
        seed: of the chip.
        top1: share of samples with the right label; None without labels.
        agreement: share of samples with the class of the quantised model; None where no output has classes.
        sqnr_db: mapped against float, first float output.
    """

    seed: int
    top1: float | None
    agreement: float | None
    sqnr_db: float | None


@dataclass(frozen=True)
class Accuracy:
    """A share over chips.

    Attributes:
        metric: ``top1``, or ``agreement`` with the quantised model where there are no labels.
        baseline: the same of the mapping with ideal devices, converters of the target.
        mean, deviation: over the chips; the deviation of one chip is None.
        percentile5: 5th percentile (linear between chips); None of fewer than ``PERCENTILE_CHIPS``.
        interval: confidence interval of the mean (Student's t over chips), None for one chip.
        loss: loss that a good chip has at most.
        chip_yield: share of chips that lose no more.
        yield_interval: confidence interval of that share (Wilson).
    """

    metric: str
    baseline: float
    mean: float
    deviation: float | None
    percentile5: float | None
    interval: tuple[float, float] | None
    loss: float
    chip_yield: float
    yield_interval: tuple[float, float]

    def as_json(self) -> dict[str, Any]:
        """The object that JSON outputs hold."""
        return {
            "metric": self.metric,
            "baseline": self.baseline,
            "mean": self.mean,
            "deviation": self.deviation,
            "percentile5": self.percentile5,
            "interval": None if self.interval is None else list(self.interval),
            "confidence": CONFIDENCE,
            "loss": self.loss,
            "yield": self.chip_yield,
            "yield_interval": list(self.yield_interval),
        }


@dataclass(frozen=True)
class LayerCauses:
    """Errors of a layer's results by cause, in decibels of signal over error; None where there is no error.

    Attributes:
        name: layer.
        causes: ``quantisation``: the layer's output in the quantised against the float model, errors of the layers
            before it included (None also where the float model has no such value). ``adc``: rounding and clipping by
            the converters, on the chip with all effects: against the same chip with converters that lose nothing, what
            changes between reads at its mean. Each effect: that effect alone, with converters that lose nothing.
            ``all``: everything.
        linearisation: root mean square error of the linearised circuit of the layer's first array as a share of the
            deviation of its currents; None where circuits are linear.
    """

    name: str
    causes: Mapping[str, float | None]
    linearisation: float | None = None


@dataclass(frozen=True)
class Trials:
    """The result of ``verify --trials``.

    Attributes:
        samples: that every chip ran.
        plain: the first chip compared layer by layer, on ``cause_samples`` of them.
        effects: names of the simulated effects, in their order.
        time_s: since programming.
        calibrated: whether the chips calibrated their converters as the target says.
        chips: one result a seed.
        accuracy: over the chips; None where no output has classes.
        layers: errors by cause, on the first chip.
        cause_samples: samples that those were measured on.
        top1_float, top1_quantised, top1_ideal: of the models without errors, with labels.
    """

    samples: int
    plain: Verification
    effects: tuple[str, ...]
    time_s: float
    calibrated: bool
    chips: tuple[ChipResult, ...]
    accuracy: Accuracy | None
    layers: tuple[LayerCauses, ...]
    cause_samples: int
    top1_float: float | None
    top1_quantised: float | None
    top1_ideal: float | None

    def as_json(self) -> dict[str, Any]:
        """The object that ``verify --json`` prints: the keys of a plain verification, and those of the chips."""
        plain = self.plain.as_json()
        causes = {layer.name: layer for layer in self.layers}
        tops = [chip.top1 for chip in self.chips if chip.top1 is not None]
        agreements = [chip.agreement for chip in self.chips if chip.agreement is not None]
        layers = [
            {
                **layer,
                "exact": None,
                "causes_sqnr_db": dict(causes[layer["name"]].causes),
                "linearisation_error": causes[layer["name"]].linearisation,
            }
            for layer in plain["layers"]
        ]
        return {
            **plain,
            "samples": self.samples,
            "exact": None,
            "agreement": {
                **plain["agreement"],
                "mapped_quantised": float(np.mean(agreements)) if agreements else None,
            },
            "top1_float": self.top1_float,
            "top1_quantised": self.top1_quantised,
            "top1_mapped": float(np.mean(tops)) if tops else None,
            "top1_ideal": self.top1_ideal,
            "layers": layers,
            "effects": list(self.effects),
            "time_s": self.time_s,
            "calibrated": self.calibrated,
            "trials": len(self.chips),
            "cause_samples": self.cause_samples,
            "accuracy": None if self.accuracy is None else self.accuracy.as_json(),
            "chips": [
                {"seed": chip.seed, "top1": chip.top1, "agreement": chip.agreement, "sqnr_db": chip.sqnr_db}
                for chip in self.chips
            ],
        }


def accuracy_of(metric: str, shares: Sequence[float], baseline: float, loss: float) -> Accuracy:
    """Statistics of a share over chips.

    Args:
        metric: its name.
        shares: one a chip, at least one.
        baseline: without device errors.
        loss: largest loss of a good chip against that.
    """
    from scipy import stats  # half a second, and needed here only

    values, count = np.asarray(shares, dtype=np.float64), len(shares)
    deviation = float(values.std(ddof=1)) if count > 1 else None
    interval = None
    if deviation is not None:
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * deviation / np.sqrt(count)
        interval = (max(0.0, float(values.mean() - half)), min(1.0, float(values.mean() + half)))
    good = int((values >= baseline - loss - 1e-12).sum())
    low, high = stats.binomtest(good, count).proportion_ci(CONFIDENCE, method="wilson")
    return Accuracy(
        metric=metric,
        baseline=baseline,
        mean=float(values.mean()),
        deviation=deviation,
        percentile5=float(np.percentile(values, 5)) if count >= PERCENTILE_CHIPS else None,
        interval=interval,
        loss=loss,
        chip_yield=good / count,
        yield_interval=(float(low), float(high)),
    )
