"""The result of ``verify`` without device errors as text: verdict, accuracies, worst layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mcompiler.naming import shown_name
from mcompiler.simulate import LayerResult, Verification
from mcompiler.summary.screen import LARGEST
from mcompiler.text import clean, facts, percent, plural, table


def verify_summary(result: Verification, labels: Mapping[str, str], *, drawn: bool = False) -> str:
    """The verdict in one sentence, accuracies and agreement where they are known, the worst layers.

    Args:
        result: of ``verify``.
        labels: of layers, by name.
        drawn: the samples are random, which says nothing about answers.
    """
    parts = [*([] if drawn else _answer(result)), _verdict(result)]
    if result.failures:
        parts.append("\n".join(f"- {clean(failure)}" for failure in result.failures))
    known = [(name, value) for name, value in _comparisons(result) if value is not None]
    if known:
        parts.append(facts(known))
    inexact = [layer for layer in result.layers if not layer.exact]
    if inexact:
        parts.append(_worst(inexact, result.promised, labels))
    return "\n\n".join(parts)


GOOD_DB = 20.0
"""Signal to error, mapped against float, below which the answers are named first."""

GOOD_AGREEMENT = 0.95
"""Share of samples with the same class below which they are too."""


def _answer(result: Verification) -> list[str]:
    """One sentence where mapped and float model disagree, which an exact mapping does not prevent; else nothing."""
    quality = []
    if result.sqnr_db is not None and result.sqnr_db < GOOD_DB:
        quality.append(f"{result.sqnr_db:.1f} dB signal to error")
    agreement = result.agreement_quantised_float
    if agreement is not None and agreement < GOOD_AGREEMENT:
        quality.append(f"the same answer on {percent(agreement)} of the samples")
    if result.top1_float is not None and result.top1_mapped is not None:
        lost = result.top1_float - result.top1_mapped
        if lost > 1 - GOOD_AGREEMENT:
            quality.append(f"{percent(lost)} less top-1 accuracy")
    if not quality:
        return []
    return [
        f"ANSWERS DIFFER from the float model: {', '.join(quality)}. Compile with real calibration data, "
        "--equalise on, --range mse, or more bits."
    ]


def _verdict(result: Verification) -> str:
    """One sentence: what the samples showed about exactness."""
    on = f"on {plural(result.samples, 'sample')}"
    layers = plural(len(result.layers), "layer")
    if result.failures:
        return f"FAILED {on}: {plural(len(result.failures), 'promise')} of the build {_does(result.failures)} not hold."
    if result.exact and result.layers:
        return (
            f"EXACT {on}: what the cells compute equals the quantised reference to the last integer in "
            f"{'the one layer' if len(result.layers) == 1 else f'all {layers}'}, and all outputs to the last bit."
        )
    if result.exact:
        return f"EXACT {on}: no layer is mapped to crossbars, and all outputs equal the reference to the last bit."
    inexact = sum(not layer.exact for layer in result.layers)
    kept = len(result.promised)
    held = (
        f"; the {plural(kept, 'layer')} with lossless converters {'is' if kept == 1 else 'are'} exact" if kept else ""
    )
    return (
        f"NOT EXACT, as expected, {on}: the converters lose in {inexact:,} of {layers}, by up to "
        f"{result.max_code_error:,.6g} units of the accumulator{held}."
    )


def _does(items: Sequence[object]) -> str:
    return "does" if len(items) == 1 else "do"


def _comparisons(result: Verification) -> list[tuple[str, str | None]]:
    accuracies = [
        f"{percent(value)} {name}"
        for name, value in (
            ("float", result.top1_float),
            ("quantised", result.top1_quantised),
            ("mapped", result.top1_mapped),
        )
        if value is not None
    ]
    agreements = [
        f"{percent(value)} {name}"
        for name, value in (
            ("quantised = float", result.agreement_quantised_float),
            ("mapped = quantised", result.agreement_mapped_quantised),
        )
        if value is not None
    ]
    sqnr = result.sqnr_db
    return [
        ("top-1 accuracy", ", ".join(accuracies) or None),
        ("same answer", ", ".join(agreements) or None),
        ("mapped against float", f"{sqnr:.1f} dB signal to error" if sqnr is not None else None),
    ]


def _worst(layers: Sequence[LayerResult], promised: frozenset[str], labels: Mapping[str, str]) -> str:
    """Layers that are not exact: those promised lossless first, then in order of signal to error."""

    def rank(layer: LayerResult) -> tuple[bool, float, float]:
        sqnr = float("inf") if layer.sqnr_db is None else layer.sqnr_db
        return layer.name not in promised, sqnr, -layer.max_code_error

    shown = sorted(layers, key=rank)[:LARGEST]
    rows = [
        [
            shown_name(layer.name, labels),
            "lossless" if layer.name in promised else "-",
            f"{layer.max_code_error:,.6g}",
            "-" if layer.sqnr_db is None else f"{layer.sqnr_db:.1f} dB",
            percent(layer.adc_clipped),
        ]
        for layer in shown
    ]
    text = table(["worst layers", "promised", "largest error", "signal to error", "clipped"], rows, "llrrr")
    more = len(layers) - len(shown)
    return text + (f"\n... {more:,} more that are not exact" if more else "")
