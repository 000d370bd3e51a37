"""The draws of every effect, alone and together, are those written down in tests/golden/effects.json.

A chip is a seed: results that were published with one must come out again. Hashed are the arrays of the digits network
(two layers, two arrays each) to six significant digits, so that last bits of other processors and libraries do not
count. After a change that is meant to change draws: `REFRESH_GOLDEN=1 pytest tests/effects/test_golden.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mcompiler.conductance import unpack_levels
from mcompiler.driver import Build, compile
from mcompiler.effects import SHIPPED, chosen, described, in_order, start_s
from mcompiler.geometry import array_shape
from mcompiler.physics.chip import Chip, LayerKey
from mcompiler.target import list_targets, load_target
from tests.support.digits import DEMO

GOLDEN = Path(__file__).parents[1] / "golden" / "effects.json"

SOURCE = "assumption: test"
EVERY = (
    "device.telegraph.correlation=per_inference",
    "device.telegraph.share=0.3",
    "device.telegraph.amplitude=0.2",
    "device.telegraph.low=0.4",
    f"device.telegraph.source={SOURCE}",
    "device.noise.correlation=per_read",
    "device.noise.proportional=0.02",
    "device.noise.absolute_siemens=1e-7",
    f"device.noise.source={SOURCE}",
    "device.temperature.kelvin=330.0",
    "device.temperature.reference_kelvin=300.0",
    "device.temperature.per_kelvin=0.001",
    f"device.temperature.source={SOURCE}",
    "device.drift.t0_s=20.0",
    "device.drift.nu=0.03",
    "device.drift.spread=0.01",
    f"device.drift.source={SOURCE}",
    "device.faults.stuck_on=0.003",
    "device.faults.stuck_off=0.004",
    "device.faults.open_word_lines=0.01",
    "device.faults.open_bit_lines=0.01",
    f"device.faults.source={SOURCE}",
    "device.access_resistance_ohm=1500.0",
    "array.wire_resistance_ohm=1.0",
    "array.driver_resistance_ohm=60.0",
    "converters.adc.offset_codes=0.4",
    "converters.adc.gain_error=0.01",
    "converters.adc.nonlinearity_codes=0.3",
    "converters.adc.noise_codes=0.2",
    "converters.dac.gain_error=0.01",
    "calibration.drift_interval_s=100.0",
    f"calibration.source={SOURCE}",
)
SMALL = ("array.rows=16", "array.columns=32", "array.rows_active=16")
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "generic_128": ("generic_128", ()),
    "neurosim_22nm": ("neurosim_22nm", ()),
    "neurram": ("neurram", ()),
    "pcm_hermes": ("pcm_hermes", ()),
    "pcm_joshi": ("pcm_joshi", ()),
    "every": ("generic_128", EVERY),
    "curved": ("generic_128", (*EVERY[:-2], *SMALL, "device.curve.sinh_v=0.4", f"device.curve.source={SOURCE}")),
    "reads": (
        "generic_128",
        (
            *EVERY,
            *SMALL,
            "device.noise.correlation=per_inference",
            "device.telegraph.correlation=per_read",
            "encoding.weights=offset",
            "encoding.slices=4",
            "encoding.pedestal=digitised_reference",
            "encoding.input_sum=unit_column",
        ),
    ),
}

ONLY = {"curved": ("curve", "all")}  # the other effects are those of "every", and linearisations take long


def numbers(build: Build, chip: Chip) -> Iterator[object]:
    """Every array that describes the first arrays of the first layers."""
    shape = array_shape(build.target)
    for index, layer in enumerate(build.layer_data[:2]):
        levels = unpack_levels(next(layer.cells()), shape.storage_bits, layer.lines(shape)[1])[:2]
        state = chip.realise(LayerKey(index, layer.op.site.name), 0, levels)
        variance = state.fluctuations.variance
        yield from (state.currents, variance.per_read, variance.per_inference)
        yield from (each.loss for each in state.fluctuations.states)
        yield from (state.offset, state.gain, state.trim, state.bow, state.scale)


def digest(arrays: Iterator[object]) -> str:
    """Hash of arrays to six significant digits; one without numbers other than 0 is like none."""
    found = hashlib.sha256()
    for array in arrays:
        if array is None or not np.any(np.asarray(array)):
            found.update(b"none")
            continue
        values = np.asarray(array, dtype=np.float64) + 0.0  # no negative zeros
        places = 5 - np.floor(np.log10(np.where(values == 0, 1, np.abs(values))))
        found.update(np.round(values * 10.0**places).astype(np.int64).tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("case", CASES)
def test_draws_are_as_written_down(case: str) -> None:
    name, overrides = CASES[case]
    calibration = Path(DEMO / "digits_calibration.npz")
    build = compile(DEMO / "digits.onnx", name, calibration=calibration, overrides=overrides)
    effects = chosen(["all"], build.target)
    time_s = 50 * start_s(build.target, effects)
    subsets = {effect.name: frozenset({effect}) for effect in in_order(effects)} | {"all": effects}
    chips = {label: Chip(build.target, 3, subsets[label], time_s) for label in ONLY.get(case, tuple(subsets))}
    found = {label: digest(numbers(build, chip)) for label, chip in chips.items()}
    golden = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    if os.environ.get("REFRESH_GOLDEN"):
        GOLDEN.write_text(json.dumps({**golden, case: found}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return
    assert found == golden[case]


def test_every_shipped_target_with_effects_and_every_effect_is_written_down() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    shipped = [name for name, _ in list_targets()]
    assert {name for name in shipped if described(load_target(name))} <= set(golden)
    assert {effect.name for effect in SHIPPED} <= {name for effects in golden.values() for name in effects}
