"""A view of a target: the declared keys and no others, equal for targets that agree in them."""

from __future__ import annotations

import pickle

import pytest

from mcompiler.errors import UndeclaredKeyError
from mcompiler.target import list_targets, load_target
from mcompiler.target.view import KeysWhere, changed_keys, covers, declared_keys, target_view, view_content

NAMES = [name for name, _ in list_targets()]


def test_declared_keys_have_their_values_and_others_are_refused() -> None:
    whole = load_target("generic_128")
    view = target_view(whole, ["array", "converters.adc.bits"])
    assert view.name == whole.name
    assert view.array.rows == whole.array.rows
    assert view.converters.adc.bits == whole.converters.adc.bits
    with pytest.raises(UndeclaredKeyError, match="'device' of the target's Target"):
        _ = view.device
    with pytest.raises(UndeclaredKeyError, match="'rate_hz' of the target's Adc"):
        _ = view.converters.adc.rate_hz
    with pytest.raises(UndeclaredKeyError, match="'source' of the target's Array"):
        _ = view.array.source
    assert whole.device.bits, "the target itself is as it was"


def test_properties_read_declared_keys_only() -> None:
    whole = load_target("generic_128")
    keys = ["device.levels", "device.level_means", "encoding.partner"]
    assert target_view(whole, keys).cell_steps == whole.cell_steps
    with pytest.raises(UndeclaredKeyError, match="'level_means'"):
        _ = target_view(whole, ["device.levels", "encoding.partner"]).cell_steps


def test_keys_of_every_entry_of_a_table() -> None:
    view = target_view(load_target("isaac"), ["components.*.latency_s"])
    assert view.components
    for component in view.components.values():
        assert component.latency_s >= 0
        with pytest.raises(UndeclaredKeyError):
            _ = component.energy_j


def test_keys_under_a_condition() -> None:
    reads = ("device.levels", KeysWhere(("device.g_max_siemens",), lambda target: target.device.levels > 4))
    whole = load_target("generic_128")
    assert declared_keys(whole, reads) == ("device.levels",)
    with pytest.raises(UndeclaredKeyError):
        _ = target_view(whole, reads).device.g_max_siemens
    more = load_target("generic_128", ["device.levels=8"])
    assert declared_keys(more, reads) == ("device.levels", "device.g_max_siemens")
    assert target_view(more, reads).device.g_max_siemens == more.device.g_max_siemens


def test_changed_keys_have_their_new_values() -> None:
    overrides = ["array.rows=64", "precision.layers.a.inputs=4", "device.faults.stuck_on=0.1"]
    before = load_target("generic_128", ["array.rows_active=8"])
    after = load_target("generic_128", ["array.rows_active=8", *overrides])
    found = changed_keys(before, after)
    assert found[("array", "rows")] == 64
    assert found[("precision", "layers", "a", "inputs")] == 4
    assert found[("device", "faults", "stuck_on")] == 0.1
    assert ("array", "columns") not in found
    assert "source" not in {path[-1] for path in found}
    assert changed_keys(after, before)[("precision", "layers", "a", "inputs")] is None
    assert changed_keys(after, after) == {}


def test_a_declared_key_covers_what_is_below_and_above() -> None:
    assert covers("array", ("array", "rows"))
    assert covers("device.noise.proportional", ("device", "noise"))
    assert covers("components.*.event", ("components", "my.adc", "event"))
    assert not covers("components.*.event", ("components", "adc", "energy_j"))
    assert not covers("array.rows", ("array", "rows_active"))


def test_a_key_that_no_target_has_is_refused() -> None:
    with pytest.raises(KeyError, match="AdcSection has no key 'volume'"):
        target_view(load_target("generic_128"), ["converters.adc.volume"])


@pytest.mark.parametrize("name", NAMES)
def test_views_survive_pickling_and_compare_by_what_they_hold(name: str) -> None:
    whole = load_target(name)
    keys = ["array", "encoding", "converters.adc.bits", "calibration"]
    view = target_view(whole, keys)
    again = pickle.loads(pickle.dumps(view))
    assert again == view
    assert view_content(again) == view_content(view)
    with pytest.raises(UndeclaredKeyError):
        _ = again.device
    priced = load_target(name, [f"device.read_voltage_v={whole.device.read_voltage_v / 2}"])
    assert target_view(priced, keys) == view
    assert view_content(target_view(priced, ["device"])) != view_content(target_view(whole, ["device"]))


def test_a_longer_path_under_a_declared_section_changes_nothing() -> None:
    whole = load_target("generic_128")
    for keys in (["converters", "converters.adc.bits"], ["converters.adc.bits", "converters"]):
        assert target_view(whole, keys).converters.dac.bits == whole.converters.dac.bits


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(UndeclaredKeyError("Adc", "bits")))
    assert str(error) == "it reads key 'bits' of the target's Adc, which its `reads` does not declare"
