"""The result of ``verify`` with device errors as text: accuracy over chips, layers with the largest error."""

from __future__ import annotations

from collections.abc import Mapping

from mcompiler.naming import shown_name
from mcompiler.simulate import PERCENTILE_CHIPS, Trials
from mcompiler.summary.screen import LARGEST
from mcompiler.text import clean, facts, percent, plural, table


def trials_summary(result: Trials, labels: Mapping[str, str]) -> str:
    """Accuracy over the chips, then the layers with the largest error, by cause.

    Args:
        result: of ``verify`` with effects.
        labels: of layers, by name.
    """
    plain, accuracy = result.plain, result.accuracy
    on = f"{plural(len(result.chips), 'chip')} on {plural(result.samples, 'sample')}"
    if accuracy is None:
        head = f"{on}: no output has classes."
    else:
        name = "top-1 accuracy" if accuracy.metric == "top1" else "agreement with the quantised model"
        spread = "" if accuracy.deviation is None else f" +- {percent(accuracy.deviation)}"
        head = f"{on}: {name} {percent(accuracy.mean)}{spread}; ideal devices {percent(accuracy.baseline)}."
    lines = [
        ("effects", ", ".join(result.effects) or "none"),
        ("time", f"{result.time_s:,.6g} s since programming" + ("" if result.calibrated else ", uncalibrated")),
    ]
    if accuracy is not None and accuracy.interval is not None:
        low, high = accuracy.interval
        lines.append(("mean", f"{percent(low)} to {percent(high)} (95% confidence)"))
    if accuracy is not None:
        low, high = accuracy.yield_interval
        lines += [
            ("5th percentile", _percentile(accuracy.percentile5)),
            (
                "yield",
                f"{percent(accuracy.chip_yield)} of chips lose at most {percent(accuracy.loss)} "
                f"({percent(low)} to {percent(high)})",
            ),
        ]
    parts = [head, facts(lines)]
    if plain.failures:
        parts.append("\n".join(f"- {clean(failure)}" for failure in plain.failures))
    if result.layers:
        parts.append(_causes(result, labels))
    return "\n\n".join(parts)


def _percentile(share: float | None) -> str:
    """A 5th percentile, or why there is none."""
    return f"needs {PERCENTILE_CHIPS} chips (--trials {PERCENTILE_CHIPS})" if share is None else percent(share)


def _causes(result: Trials, labels: Mapping[str, str]) -> str:
    """The layers with the largest error on the first chip: signal over error in decibels, by cause."""
    worst = sorted(result.layers, key=lambda layer: _decibels(layer.causes["all"]))[:LARGEST]
    names = list(dict.fromkeys(name for layer in result.layers for name in layer.causes))

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    rows = [
        [shown_name(layer.name, labels), *(cell(layer.causes.get(name)) for name in names)]
        for layer in result.layers
        if layer in worst
    ]
    headers = ["signal over error, dB", *names]
    body = table(headers, rows, "l" + "r" * len(names))
    more = len(result.layers) - len(rows)
    tail = f"\n... {more:,} more; these have the largest error" if more else ""
    errors = [layer.linearisation for layer in result.layers if layer.linearisation is not None]
    if errors:
        tail += f"\nlinearised circuits: error of up to {percent(max(errors))} of the deviation of a current"
    head = f"first chip, {plural(result.cause_samples, 'sample')}, each effect alone, without converters"
    return f"{head}:\n\n{body}{tail}"


def _decibels(value: float | None) -> float:
    return float("inf") if value is None else value
