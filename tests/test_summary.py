"""What the terminal says: it fits a screen, holds the numbers, and its verdict is true."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mcompiler.artefacts import LayerData
from mcompiler.cost import Cost, LayerCounts, Price, PricedQuantities
from mcompiler.ir import BitRange, Fate, NodeFate, Reason, ReasonKind
from mcompiler.pricing import Quantity
from mcompiler.simulate import LayerResult, Verification
from mcompiler.summary import compile_summary, cost_summary, verify_summary
from mcompiler.target import Event, HierarchyUnit, Stale
from tests.support.digits import digits_build
from tests.support.models import model_node
from tests.support.programs import with_site

COST = Cost(
    latency_s=2e-6,
    throughput_per_s=1e6,
    rate_per_s=1e6,
    energy_active_j=3.5e-6,
    energy_standby_used_j=5e-7,
    energy_standby_chip_j=8e-6,
    peak_power_w=5.0,
    area_m2=3e-6,
    crossbars=6,
    crossbars_dense=8,
    utilisation=0.25,
    layers={
        "a": Price(2.5e-6, 5e-7, 6e-6, 2e-6, 0.0, 6, 8, 0.25, 1e-6, adc_bits=BitRange(4, 9)),
        "(digital)": Price(1e-6, 0.0, 0.0, 1e-6),
        "(idle)": Price(energy_standby_chip_j=2e-6),
    },
    components={
        "cell": Price(1e-6, 0.0, 0.0, 1e-6),
        "adc": Price(2.5e-6, 5e-7, 8e-6, 2e-6, static_power_w=0.5),
    },
    counts=PricedQuantities(
        {
            "a": LayerCounts({Event.ADC_CONVERSION: 4096.0}, dict.fromkeys(HierarchyUnit, 1.0)),
            "(digital)": LayerCounts({Event.DIGITAL_OP: 12.0}, dict.fromkeys(HierarchyUnit, 0.0)),
        },
        1.0,
        1e-6,
        2e-6,
    ),
)

COMPILED = """\
digits.onnx on generic_128
round numbers: 128x128 arrays, 2-bit cells in differential pairs, lossless 10-bit ADCs

nodes        13: 7 analog, 6 digital
"""


def compiled(layers: tuple[LayerData, ...] | None = None, fates: tuple[NodeFate, ...] | None = None) -> str:
    build = digits_build()
    layers = build.layer_data if layers is None else layers
    fates = build.fates if fates is None else fates
    return compile_summary("digits.onnx", build.target, fates=fates, layers=layers, cost=build.cost, chips=1)


def test_compile_summary_of_digits() -> None:
    text, cost = compiled(), digits_build().cost
    assert text.startswith(COMPILED)
    assert f"crossbars    {cost.crossbars} on 1 chip; the dense mapping takes {cost.crossbars_dense}" in text
    assert "converters   lossless in 4 of 4 layers" in text
    assert "operations   601,600 multiply-accumulates in crossbars" in text
    for name in digits_build().layers:
        assert f"\n{name} " in text


def test_compile_summary_fits_a_screen_however_large_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    build = digits_build()
    long = "/encoder" * 20
    layers = tuple(
        replace(layer, op=with_site(layer.op, name=f"{long}/{index}", label=f"{long}/{index}"))
        for index, layer in enumerate(build.layer_data * 50)
    )
    fates = tuple(
        NodeFate(
            model_node(i, f"{long}{i}", "Op"), Fate.DIGITAL, Reason(ReasonKind.STATED_BY_RULE, note=f"{long} {i % 40}")
        )
        for i in range(5000)
    )
    assert f"{long}/" in compiled(layers, fates), "names are whole where there is no terminal"
    monkeypatch.setattr("mcompiler.text.screen_width", lambda: 100)
    lines = compiled(layers, fates).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert "... 192 more; these are the largest" in lines
    assert any(line.endswith("4,625 x 37 other reasons") for line in lines)


def test_compile_summary_without_layers() -> None:
    text = compiled(layers=())
    assert "lossless in 0 of 0 layers" in text
    assert "vectors" not in text


def test_compile_summary_says_what_was_saved() -> None:
    build = digits_build()
    text = compile_summary("m", build.target, fates=build.fates, layers=(), cost=COST, chips=2)
    assert "6 on 2 chips; the dense mapping takes 8, 25.0% saved" in text


def test_cost_summary() -> None:
    assert (
        cost_summary(COST, 1)
        == """\
latency      2.00 us per inference
throughput   1.00 M/s, one inference after the other in a pipeline
energy       4.00 uJ per inference, parts in use: 3.50 uJ active, 500 nJ standby
whole chip   8.00 uJ standby per inference, unused parts included
power        4.00 W at that throughput, 5.00 W peak
area         3.00 mm2
crossbars    6 (8 in the dense mapping)
utilisation  25.0%

layer      crossbars  dense   used  latency   energy  share  chip standby      area  ADC bits
a                  6      8  25.0%  1.00 us  3.00 uJ  75.0%       6.00 uJ  2.00 mm2    4 to 9
(digital)          0      0     0%      0 s  1.00 uJ  25.0%           0 J  1.00 mm2         -
(idle)             0      0     0%      0 s      0 J     0%       2.00 uJ     0 mm2         -

component   energy  share   active  standby  chip standby  static power      area  share
adc        3.00 uJ  75.0%  2.50 uJ   500 nJ       8.00 uJ        500 mW  2.00 mm2  66.7%
cell       1.00 uJ  25.0%  1.00 uJ      0 J           0 J           0 W  1.00 mm2  33.3%

Layers and components each add up to the totals. Energy is of the parts in use: what events burn
(active), and static power over the time of one inference at this rate (standby); of ports, links
and buffers it is the share of their capacity that is used. Chip standby is that of whole chips.
1 value of the target is an assumption; the report lists them with their sources."""
    )


def test_cost_summary_names_a_rate_below_the_highest() -> None:
    text = cost_summary(replace(COST, rate_per_s=1e3), 0)
    assert "power        4.00 mW at 1.00 k/s, 5.00 W peak" in text
    assert "throughput   1.00 M/s" in text


def test_summaries_name_prices_that_no_rule_covers() -> None:
    old = Stale("adc", Quantity.ADC_BITS, "energy_j holds at adc_bits = 8, and rule 'fixed' does not follow it to 6")
    line = "stale        adc (adc_bits): no rule covers the change, so rank nothing by these totals"
    assert line in cost_summary(replace(COST, stale=(old,)), assumed=0)
    assert "stale" not in cost_summary(COST, assumed=0)


def test_cost_summary_of_nothing() -> None:
    empty = replace(COST, energy_active_j=0.0, energy_standby_used_j=0.0, area_m2=0.0, layers={}, components={})
    assert "assumption" not in cost_summary(empty, 0)


def result(*layers: LayerResult, promised: frozenset[str] | None = None, same: bool = True) -> Verification:
    """A verification of which every layer is promised, unless told otherwise."""
    exact = all(layer.exact for layer in layers)
    names = frozenset(layer.name for layer in layers)
    return Verification(
        samples=16,
        exact=exact,
        max_code_error=max((layer.max_code_error for layer in layers), default=0.0),
        sqnr_db=None,
        agreement_mapped_quantised=None,
        agreement_quantised_float=None,
        top1_float=None,
        top1_quantised=None,
        top1_mapped=None,
        layers=layers,
        same_as_shipped=same,
        outputs_equal=exact,
        promised=names if promised is None else promised,
    )


GOOD = LayerResult("good", True, 0.0, None, 0.0)
LOSSY = LayerResult("lossy", False, 5730.05, 20.6, 0.001)


def test_verdict_exact() -> None:
    assert verify_summary(result(GOOD, replace(GOOD, name="b")), {}) == (
        "EXACT on 16 samples: what the cells compute equals the quantised reference to the last integer in all 2 "
        "layers, and all outputs to the last bit."
    )
    assert "in the one layer, and" in verify_summary(replace(result(GOOD), samples=1), {})
    assert verify_summary(result(), {}).startswith("EXACT on 16 samples: no layer is mapped to crossbars")


def test_verdict_of_converters_that_lose() -> None:
    assert verify_summary(result(GOOD, LOSSY, promised=frozenset(["good"])), {}) == (
        "NOT EXACT, as expected, on 16 samples: the converters lose in 1 of 2 layers, by up to 5,730.05 units of the"
        " accumulator; the 1 layer with lossless converters is exact.\n"
        "\n"
        "worst layers  promised  largest error  signal to error  clipped\n"
        "lossy         -              5,730.05          20.6 dB     0.1%"
    )


def test_verdict_of_a_broken_promise() -> None:
    text = verify_summary(result(GOOD, replace(LOSSY, name="bad\x1b")), {})
    assert text.startswith(
        "FAILED on 16 samples: 1 promise of the build does not hold.\n\n- layer 'bad\\x1b' is promised"
    )
    assert "\x1b" not in text
    both = verify_summary(result(LOSSY, same=False), {})
    assert "2 promises of the build do not hold" in both
    assert "- the shipped mapped.onnx is not the model" in both


def test_accuracies_where_known() -> None:
    known = replace(
        result(GOOD),
        top1_float=0.98,
        top1_quantised=0.97,
        top1_mapped=0.97,
        agreement_mapped_quantised=1.0,
        agreement_quantised_float=0.99996,
        sqnr_db=31.25,
    )
    assert verify_summary(known, {}).endswith(
        "top-1 accuracy        98.0% float, 97.0% quantised, 97.0% mapped\n"
        "same answer           >99.99% quantised = float, 100% mapped = quantised\n"
        "mapped against float  31.2 dB signal to error"
    )


def test_worst_layers_broken_promises_first() -> None:
    layers = [replace(LOSSY, name=f"l{index:02}", sqnr_db=60.0 - index) for index in range(20)]
    text = verify_summary(result(*layers, promised=frozenset(["l00"])), {})
    rows = text.split("clipped\n")[1].splitlines()
    assert [row.split()[0] for row in rows[:3]] == ["l00", "l19", "l18"]
    assert rows[-1] == "... 12 more that are not exact"


def test_poor_answers_come_before_exactness() -> None:
    poor = replace(result(LayerResult("a", True, 0.0, None, 0.0)), sqnr_db=6.3, agreement_quantised_float=0.5)
    first, second = verify_summary(poor, {}).split("\n\n")[:2]
    assert first.startswith("ANSWERS DIFFER from the float model: 6.3 dB signal to error, the same answer on 50.0% of")
    assert second.startswith("EXACT")
    assert verify_summary(poor, {}, drawn=True).startswith("EXACT")
    good = replace(poor, sqnr_db=35.0, agreement_quantised_float=0.99, top1_float=0.9, top1_mapped=0.9)
    assert verify_summary(good, {}).startswith("EXACT")
    assert verify_summary(replace(good, top1_mapped=0.8), {}).startswith("ANSWERS DIFFER")
