"""Target descriptions: what is refused and in which words, what comes back, and that published totals add up."""

import importlib.metadata
import re
import tomllib
from decimal import Decimal
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcompiler.errors import TargetError
from mcompiler.target import (
    ComponentPrice,
    Event,
    HierarchyUnit,
    Target,
    assumptions,
    check_target,
    json_schema,
    list_targets,
    load_target,
    prices,
    resolved_toml,
    source_of,
)

ROOT = Path(__file__).parent.parent
SHIPPED = (
    "forms", "generic_128", "isaac", "isaac_16bit", "neurosim_22nm", "neurram", "pcm_hermes", "pcm_joshi", "puma",
    "yuan2019", "yuan2019_32x32",
)  # fmt: skip


def write(folder: Path, text: str, name: str = "my.toml") -> str:
    """A file that extends generic_128, unless it says otherwise; returns its path."""
    path = folder / name
    path.write_text(text if "extends" in text else f'extends = "generic_128"\n{text}', encoding="utf-8")
    return str(path)


def faults(folder: Path, text: str, *overrides: str) -> list[str]:
    """The faults of such a file, with the folder cut off."""
    return [fault.replace(f"{folder}/", "") for fault in check_target(write(folder, text), overrides)]


# --- shipped targets ------------------------------------------------------------------------------------------------


def test_list() -> None:
    listed = dict(list_targets())
    assert tuple(listed) == SHIPPED
    assert listed["yuan2019_32x32"] == "the origin paper's device in 32x32 arrays"
    assert {path.stem for path in (ROOT / "targets").glob("*.toml")} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_targets_load_and_come_back(name: str, tmp_path: Path) -> None:
    assert check_target(name) == ()
    target = load_target(name)
    text = resolved_toml(target)
    assert load_target(write(tmp_path, f"# extends nothing\n{text}")) == target
    assert text == resolved_toml(load_target(name))
    assert "extends" not in tomllib.loads(text)
    assert target.name == name
    assert all(value.startswith("assumption") for _, _, value in assumptions(target))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_targets_price_every_event(name: str) -> None:
    priced = {component.event for component in load_target(name).components.values()}
    array = {Event.ARRAY_READ, Event.CELL_READ}
    assert priced - {None} | array == set(Event)
    assert priced & array == {Event.CELL_READ}, "arrays are priced by their cells"


def test_isaac_adds_up_to_its_published_totals() -> None:
    """ISAAC, ISCA 2016, Table I, with all that works with every read at full activity, and the rest as static power."""
    target = load_target("isaac")
    cores, tiles = target.hierarchy.cores_per_tile, target.hierarchy.tiles_per_chip
    arrays, adc = target.hierarchy.arrays_per_core, target.converters.adc
    reads = arrays / target.device.read_pulse_s
    rates = {  # events per second at full activity: of a core, of a tile for digital_op
        Event.CELL_READ: reads * target.array.rows * target.array.columns,
        Event.DAC_DRIVE: reads * target.array.rows,
        Event.SAMPLE_HOLD: reads * target.array.columns,
        Event.ADC_CONVERSION: arrays * adc.rate_hz,
        Event.SHIFT_ADD: arrays * adc.rate_hz,
        Event.DIGITAL_OP: target.digital.clock_hz * target.digital.operations_per_cycle,
    }

    def power(component: ComponentPrice, instances: float) -> float:
        dynamic = rates.get(component.event, 0.0) * component.energy_j if component.event is not None else 0.0
        return dynamic + instances * component.static_power_w

    watts = dict.fromkeys(HierarchyUnit, 0.0)
    square_metres = dict.fromkeys(HierarchyUnit, 0.0)
    for component in prices(target).values():
        instances = component.count * (arrays if component.per is HierarchyUnit.ARRAY else 1)
        place = HierarchyUnit.CORE if component.per is HierarchyUnit.ARRAY else component.per
        watts[place] += power(component, instances)
        square_metres[place] += instances * component.area_m2

    tile_w = watts[HierarchyUnit.CORE] * cores + watts[HierarchyUnit.TILE]
    tile_m2 = square_metres[HierarchyUnit.CORE] * cores + square_metres[HierarchyUnit.TILE]
    assert watts[HierarchyUnit.CORE] == pytest.approx(24.08e-3, rel=1e-3)
    assert square_metres[HierarchyUnit.CORE] == pytest.approx(0.01312e-6, rel=1e-3)
    assert watts[HierarchyUnit.TILE] == pytest.approx(40.9e-3, rel=0.002)
    assert square_metres[HierarchyUnit.TILE] == pytest.approx(0.215e-6, rel=0.002)
    assert tile_w == pytest.approx(330e-3, rel=0.02)
    assert tile_m2 == pytest.approx(0.372e-6, rel=0.02)
    assert tile_w * tiles == pytest.approx(55.4, rel=0.02)
    assert tile_m2 * tiles == pytest.approx(62.5e-6, rel=0.02)
    assert tile_w * tiles + watts[HierarchyUnit.CHIP] == pytest.approx(65.8, rel=0.02)
    assert tile_m2 * tiles + square_metres[HierarchyUnit.CHIP] == pytest.approx(85.4e-6, rel=0.02)


def test_isaac_device_burns_what_the_paper_says_and_its_adc_is_lossless() -> None:
    target = load_target("isaac")
    device, array = target.device, target.array
    cells = array.rows * array.columns / 2  # half the input bits are 1
    watts = device.read_voltage_v**2 * (device.g_min_siemens + device.g_max_siemens) / 2 * cells
    assert watts == pytest.approx(0.3e-3, rel=0.01)
    assert (device.on_off, device.pedestal) == (15.0, 3 / 14)
    flipped = array.rows * (device.levels - 1) / 2
    assert flipped + array.rows * device.pedestal == pytest.approx(219.43, abs=0.01)
    assert flipped + array.rows * device.pedestal <= 2**target.converters.adc.bits - 1


@pytest.mark.parametrize(("on_off", "levels", "pedestal"), [(7, 4, 0.5), (31, 16, 0.5), (15, 8, 0.5), (10, 16, 5 / 3)])
@pytest.mark.parametrize("g_min", ["1e-6", "5e-6", "1.7e-7", "3.3e-5"])
def test_pedestal_is_exact(on_off: int, levels: int, pedestal: float, g_min: str) -> None:
    """Ties of a converter hang on a pedestal of exactly a half."""
    g_max = str(Decimal(g_min) * on_off)
    device = load_target(
        "generic_128", [f"device.g_min_siemens={g_min}", f"device.g_max_siemens={g_max}", f"device.levels={levels}"]
    ).device
    assert (device.on_off, device.pedestal) == (on_off, pedestal)


def test_generic_128_adc_holds_every_difference() -> None:
    target = load_target("generic_128")
    assert target.array.rows_active * (target.device.levels - 1) <= 2 ** (target.converters.adc.bits - 1) - 1


def test_yuan2019_takes_nine_bits_in_two_slices() -> None:
    target = load_target("yuan2019", ["encoding.slices=2", "precision.weights=9"])
    assert (target.array.rows, target.array.columns, target.encoding.slices) == (128, 64, 2)
    assert check_target("yuan2019", ["precision.weights=9"]) == (
        "--set precision.weights=9: precision.weights: 9 bits, but 1 x 4 bits of a cell (device.levels = 16) hold 5 "
        "bits, the sign in the pair; set encoding.slices = 2, or precision.weights = 5",
    )
    small = load_target("yuan2019_32x32")
    assert (small.array.rows, small.array.columns, small.device) == (32, 32, target.device)


def test_assumptions_of_isaac() -> None:
    named = {key: value for key, value, _ in assumptions(load_target("isaac"))}
    assert named == {
        "device.g_min_siemens": 1.144e-7,
        "device.g_max_siemens": 1.716e-6,
        "array.wire_resistance_ohm": 0.0,
        "encoding.pedestal": "digital_count",
        "encoding.flip": True,
        "precision.weights": 8,
        "precision.inputs": 8,
        "digital.accumulator_bits": 32,
        "digital.buffer_bytes_per_s": 76.8e9,
        "network.clock_hz": 1.2e9,
    }


# --- faults ---------------------------------------------------------------------------------------------------------


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    text = """
colour = "red"
[device]
g_mni_siemens = 1e-6
g_max_siemens = 1e-7
levels = 1
source = "measured"
[array]
rows = 64
[encoding]
weights = "offest"
[hierarchy]
chips = "some"
[network]
clock_hz = "1e9"
source = "measured"
sources.clokc_hz = "measured"
"""
    assert faults(tmp_path, text) == [
        "my.toml: device.levels: must be at least 2, not 1",
        "my.toml: device.g_mni_siemens: unknown key; did you mean 'g_min_siemens'?",
        "my.toml: encoding.weights: must be 'differential', 'offset' or 'polarised', not 'offest'; "
        "did you mean 'offset'?",
        "my.toml: hierarchy.chips: must be a whole number or 'as needed', not 'some'",
        "my.toml: network.clock_hz: must be a number, not '1e9'",
        "my.toml: colour: unknown key; known here: source, sources, name, description, device, array, encoding, "
        "precision, converters, digital, hierarchy, network, calibration, effects, components, published",
        "generic_128.toml: array.rows_active: 128 word lines at once, but array.rows is 64; give at most 64",
        'my.toml: array: no source for rows; write source = "..." in the section, or sources.rows = "..." '
        '("assumption: ..." is legal)',
        "my.toml: network.sources.clokc_hz: names no key of the section; did you mean 'clock_hz'?",
    ]
    with pytest.raises(TargetError) as caught:
        load_target(str(tmp_path / "my.toml"))
    assert len(str(caught.value).splitlines()) == 9


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            '[device]\ng_max_siemens = 1e-7\nsource = "x"',
            "device.g_max_siemens: 1e-07 S is not above g_min_siemens = 1e-06 S; levels run from g_min to g_max "
            "(g = 1 / R: the low resistance is g_max)",
        ),
        (
            '[converters]\nsource = "x"\ndac.bits = 6\n[precision]\ninputs = 4\nsource = "x"',
            "converters.dac.bits: 6 bits at once, but precision.inputs is 4; give at most 4",
        ),
        (
            '[converters.dac]\nsource = "x"\nbits = 3\n[precision.layers.conv1]\ninputs = 2\nsource = "x"',
            "precision.layers.conv1.inputs: 2 bits, but converters.dac.bits applies 3 at once; give at least 3",
        ),
        (
            '[encoding]\nweights = "polarised"',
            "generic_128.toml: encoding.pedestal: 'pair' needs weights = 'differential'; with 'polarised' use one of "
            "'reference_column', 'digitised_reference', 'digital_count'",
        ),
        (
            '[encoding]\nweights = "polarised"\npedestal = "digital_count"\nflip = true',
            "encoding.flip: columns are flipped only where weights = 'offset', not 'polarised'; set flip = false",
        ),
        (
            '[encoding]\nweights = "polarised"\npedestal = "digital_count"\n[precision]\nweights = 10\nsource = "x"',
            "precision.weights: 10 bits, but 4 x 2 bits of a cell (device.levels = 4) hold 9 bits, the sign in the "
            "fragment; set encoding.slices = 5, or precision.weights = 9",
        ),
        (
            '[device]\nlevel_means = [0, 1400, 2700, 4096]\nsource = "x"',
            "device.level_means: weight codes are conductances of one cell, but encoding.slices is 4; give 1",
        ),
        (
            '[device]\nlevel_means = [0, 1400, 1400, 4096]\nsource = "x"',
            "device.level_means: not in ascending order; give the lowest level first, no two of them equal",
        ),
        (
            '[device]\nlevel_means = [0, 1400]\nsource = "x"',
            "device.level_means: 2 levels, but device.levels is 4; give one for each",
        ),
        (
            '[device]\nlevel_means = [-4000, 0, 2700, 4096]\nsource = "x"',
            "device.level_means: -4000 is -4000 x (g_max - g_min) / 4096 above g_min, which is no conductance; check "
            "the unit",
        ),
        ("[device]\nlevel_means = 3\nsource = 'x'", "device.level_means: must be a list, not 3"),
        ("[device]\nlevel_means = [0, 1.5]\nsource = 'x'", "device.level_means: must be a whole number, not 1.5"),
        (
            "[device]\nlevel_means = [0, 1400, 2700, 4096]",
            'device: no source for level_means; write source = "..." in the section, or sources.level_means = "..." '
            '("assumption: ..." is legal)',
        ),
        (
            '[encoding]\nweights = "offset"\npedestal = "digital_count"\n'
            '[device]\nlevel_means = [0, 1, 2, 3]\nsource = "x"',
            "device.level_means: measured levels need weights = 'differential' or 'polarised', not 'offset': sums of "
            "shifted codes are no levels",
        ),
        (
            '[encoding]\npartner = "unformed"\nsubtract = "after_adc"\npedestal = "digital_count"',
            "encoding.partner: unformed partners need weights = 'differential', subtract = 'before_adc' and pedestal = "
            "'pair'; there is no pedestal to take off otherwise",
        ),
        (
            '[encoding]\npartner = "unformed"\nslices = 1\nsource = "x"\n[converters.dac]\nbits = 8\nsource = "x"',
            "generic_128.toml: array.rows_active: a read of 128 rows sums to 135031680 units of a measured level, and "
            "below 2^24 sums are exact in float32; lower array.rows_active or converters.dac.bits",
        ),
        (
            "[encoding]\nflip = true",
            "encoding.flip: columns are flipped only where weights = 'offset', not 'differential'; set flip = false",
        ),
        (
            '[encoding]\ninput_sum = "unit_column"',
            "encoding.input_sum: a unit column undoes the shift of weights = 'offset'; "
            "weights = 'differential' need none: remove the key",
        ),
        (
            '[encoding]\nsubtract = "after_adc"',
            "generic_128.toml: encoding.pedestal: 'pair' is the analog difference and needs subtract = 'before_adc'; "
            "with 'after_adc' use one of 'reference_column', 'digitised_reference', 'digital_count'",
        ),
        (
            '[encoding]\nweights = "offset"',
            "generic_128.toml: encoding.pedestal: 'pair' needs weights = 'differential'; with 'offset' use one of "
            "'reference_column', 'digitised_reference', 'digital_count'",
        ),
        (
            '[encoding]\nweights = "offset"\npedestal = "digital_count"\nslices = 3\nsource = "x"',
            "generic_128.toml: precision.weights: 8 bits, but 3 x 2 bits of a cell (device.levels = 4) hold 6 bits; "
            "set encoding.slices = 4, or precision.weights = 6",
        ),
        (
            '[precision.layers.fc]\nweights = 16\nsource = "x"',
            "precision.layers.fc.weights: 16 bits, but 4 x 2 bits of a cell (device.levels = 4) hold 9 bits, the sign "
            "in the pair; set encoding.slices = 8, or precision.layers.fc.weights = 9",
        ),
        (
            '[array]\ncolumns = 4\nsource = "x"',
            "array.columns: 4 columns, but one weight takes 8 adjacent ones; put slices or pairs in separate arrays "
            "(encoding.slices_in, encoding.pairs_in = 'separate')",
        ),
        (
            '[components.adc]\nevent = "adc_conversoin"',
            "components.adc.event: must be 'array_read', 'cell_read', 'dac_drive', 'adc_conversion', 'sample_hold', "
            "'shift_add', 'buffer_read_byte', 'buffer_write_byte', 'link_byte', 'chip_link_byte' or 'digital_op', "
            "not 'adc_conversoin'; did you mean 'adc_conversion'?",
        ),
        (
            '[components.fan]\nper = "chip"\nenergy_j = 1.0\nsource = "x"',
            "components.fan: energy_j is the energy of an event, and no event is named; give event",
        ),
        ("[array]\nrows = 128.0\nsource = 'x'", "array.rows: must be a whole number, not 128.0"),
        ("[array]\nrows = true", "array.rows: must be a whole number, not true"),
        ("[device]\nread_pulse_s = inf\nsource = 'x'", "device.read_pulse_s: must be finite, not inf"),
        ("[device]\nread_pulse_s = 0\nsource = 'x'", "device.read_pulse_s: must be above 0, not 0"),
        ("name = 3", "name: must be text in quotes, not 3"),
        ("encoding = 3", "encoding: must be a table, not 3"),
        ("[encoding]\nflip = 1\nsource = 'x'", "encoding.flip: must be true or false, not 1"),
    ],
)
def test_fault(text: str, fault: str, tmp_path: Path) -> None:
    assert (fault if ".toml: " in fault else f"my.toml: {fault}") in faults(tmp_path, text)


def test_missing_keys(tmp_path: Path) -> None:
    found = faults(tmp_path, '# extends nothing\ndescription = "a start"\n[device]\nlevels = 4\nsource = "x"')
    assert found[0] == "my.toml: device.g_min_siemens: missing"
    assert "my.toml: array: missing" in found
    assert not any("name" in fault for fault in found), "the file's stem is its name"


def test_pedestal_beside_a_pair_is_allowed(tmp_path: Path) -> None:
    assert faults(tmp_path, '[encoding]\npedestal = "digital_count"\nsubtract = "after_adc"') == []


def test_unknown_name() -> None:
    with pytest.raises(TargetError) as caught:
        load_target("isac")
    assert str(caught.value) == (
        "unknown target 'isac'; did you mean 'isaac'? Known targets: forms, generic_128, isaac, isaac_16bit, "
        "neurosim_22nm, neurram, pcm_hermes, pcm_joshi, puma, yuan2019, yuan2019_32x32. "
        "A file of your own is given by its path, which ends in .toml."
    )
    with pytest.raises(TargetError, match=r"^unknown target 'xyz'\. Known targets: forms"):
        load_target("xyz")


def test_missing_and_broken_files(tmp_path: Path) -> None:
    path = write(tmp_path, "[device]\nlevels = = 4")
    with pytest.raises(TargetError, match=r"my\.toml: not valid TOML: Invalid value \(at line 3, column 10\)"):
        load_target(path)
    with pytest.raises(TargetError, match=r"mine\.toml: no such file; did you mean 'my\.toml'\?"):
        load_target(tmp_path / "mine.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(TargetError, match=r"latin\.toml: not UTF-8 text"):
        load_target(tmp_path / "latin.toml")


def test_file_of_any_name_and_with_a_byte_order_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chip").write_bytes(b'\xef\xbb\xbfextends = "isaac"')
    monkeypatch.chdir(tmp_path)
    assert load_target("chip").name == "chip"


# --- extends --------------------------------------------------------------------------------------------------------


def test_extends_merges_deeply(tmp_path: Path) -> None:
    write(tmp_path, '[device]\nlevels = 8\nsource = "wafer 7"', "base.toml")
    folder = tmp_path / "variants"
    folder.mkdir()
    child = write(folder, 'extends = "../base.toml"\n[components.adc]\nenergy_j = 1e-12\nsource = "x"')
    target, generic = load_target(child), load_target("generic_128")
    assert (target.name, target.device.levels, target.device.g_min_siemens) == ("my", 8, generic.device.g_min_siemens)
    assert target.components["adc"].energy_j == 1e-12
    assert target.components["adc"].area_m2 == generic.components["adc"].area_m2
    assert target.array == generic.array


def test_numbers_keep_the_source_they_were_given_with(tmp_path: Path) -> None:
    target = load_target(write(tmp_path, '[device]\nlevels = 8\nsource = "wafer 7"'))
    generic = load_target("generic_128")
    assert source_of(target.device, "levels") == "wafer 7"
    assert source_of(target.device, "g_min_siemens") == generic.device.source
    # a source of one key in the parent gives way to the child's section
    text = '[array]\nwire_resistance_ohm = 2.5\nsource = "four-point measurement"'
    array = load_target(write(tmp_path, text)).array
    assert source_of(array, "wire_resistance_ohm") == "four-point measurement"
    assert source_of(array, "rows") == generic.array.source


def test_source_of_converters_covers_both(tmp_path: Path) -> None:
    target = load_target(write(tmp_path, '[converters]\nsource = "data sheet"\nadc.bits = 11\ndac.bits = 2'))
    assert source_of(target.converters.adc, "bits") == source_of(target.converters.dac, "bits") == "data sheet"
    assert source_of(target.converters.adc, "rate_hz").startswith("assumption: ")


def test_root_source_covers_no_number(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, 'source = "my thesis"\n[device]\nlevels = 8')
    assert fault.startswith("my.toml: device: no source for levels; ")


def test_number_equal_to_the_default_needs_no_source(tmp_path: Path) -> None:
    assert faults(tmp_path, "[array]\nwire_resistance_ohm = 0.0") == []
    (fault,) = faults(tmp_path, "[array]\nwire_resistance_ohm = 1.0")
    assert fault.startswith("my.toml: array: no source for wire_resistance_ohm; ")


def test_cycle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, parent in (("a", "b"), ("b", "c"), ("c", "a")):
        write(tmp_path, f'extends = "{parent}.toml"', f"{name}.toml")
    monkeypatch.chdir(tmp_path)
    assert check_target("a.toml") == (
        "c.toml: extends: a cycle: a.toml -> b.toml -> c.toml -> a.toml; one of them must extend nothing",
    )


def test_extends_something_wrong(tmp_path: Path) -> None:
    assert faults(tmp_path, 'extends = "isac"')[0].startswith("my.toml: extends: unknown target 'isac'; did you mean")
    assert faults(tmp_path, 'extends = "no.toml"') == [
        "my.toml: extends: no.toml: no such file in the folder of the file that extends it"
    ]
    assert faults(tmp_path, "extends = 3") == [
        "my.toml: extends: must be the name of a target or the path of a file, in quotes"
    ]


# --- overrides ------------------------------------------------------------------------------------------------------


def test_overrides() -> None:
    target = load_target(
        "isaac",
        [
            "converters.adc.bits=6",
            "hierarchy.chips = 4",
            "encoding.pedestal=reference_column",
            'precision.layers."/conv.1/Conv".weights=4',
            "components.adc.energy_j=1e-12",
            "converters.adc.bits=7",
            "description=a=b",
        ],
    )
    assert target.converters.adc.bits == 7, "the later one wins"
    assert source_of(target.converters.adc, "bits") == "given on the command line"
    assert source_of(target.converters.adc, "rate_hz") == load_target("isaac").converters.adc.source
    assert target.hierarchy.chips == 4
    assert target.encoding.pedestal == "reference_column"
    assert target.precision.layers["/conv.1/Conv"].weights == 4
    assert target.components["adc"].energy_j == 1e-12
    assert target.description == "a=b"


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("adc.bits=6", "adc: unknown key; did you mean 'converters.adc'?"),
        ("bits=6", "bits: unknown key; did you mean 'converters.dac.bits' or 'converters.adc.bits'?"),
        ("convertors.adc.bits=6", "convertors: unknown key; did you mean 'converters'?"),
        ("converters.adc.bit=6", "converters.adc.bit: unknown key; did you mean 'bits'?"),
        ("converters.adc.bits=six", "converters.adc.bits: must be a whole number, not 'six'"),
        ("converters.adc.bits=99", "converters.adc.bits: must be at most 24, not 99"),
        ("components.adcs.energy_j=1", "components.adcs.per: missing; did you mean the component 'adc'?"),
        ("device=3", "device: must be a table, not 3"),
        ("converters.adc", "write section.key=VALUE, for example converters.adc.bits=6"),
        ("converters.adc.bits=", "write section.key=VALUE, for example converters.adc.bits=6"),
        ("two words=6", "write section.key=VALUE, for example converters.adc.bits=6"),
    ],
)
def test_override_faults(override: str, fault: str) -> None:
    assert check_target("isaac", [override]) == (f"--set {override}: {fault}",)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    name=st.sampled_from(SHIPPED),
    numbers=st.fixed_dictionaries(
        {},
        optional={
            "converters.adc.bits": st.integers(2, 24),
            "converters.adc.rate_hz": st.floats(1, 1e12),
            "device.read_pulse_s": st.floats(1e-15, 1.0),
            "array.wire_resistance_ohm": st.just(0.0) | st.floats(1e-6, 1e6),
            "hierarchy.chips": st.integers(1, 10**12) | st.just("as needed"),
            "components.adc.energy_j": st.just(0.0) | st.floats(1e-24, 1),
            "hierarchy.core_name": st.text(st.characters(blacklist_categories=["Cs"]), min_size=1),
            "encoding.slices_in": st.sampled_from(["adjacent", "separate"]),
        },
    ),
)
def test_any_overridden_target_comes_back(name: str, numbers: dict[str, Any], tmp_path: Path) -> None:
    overrides = [
        f"{key}={toml_text(value) if isinstance(value, str) else repr(value)}" for key, value in numbers.items()
    ]
    target = load_target(name, overrides)
    text = resolved_toml(target)
    path = tmp_path / "resolved.toml"
    path.write_text(text, encoding="utf-8", newline="")
    again = load_target(path)
    assert again == target
    assert resolved_toml(again) == text
    assert assumptions(again) == assumptions(target)
    for key, value in numbers.items():
        section: Any = target
        *path_to, last = key.split(".")
        for part in path_to:
            section = section[part] if isinstance(section, dict) else getattr(section, part)
        assert getattr(section, last) == value


def toml_text(text: str) -> str:
    return '"' + "".join(f"\\U{ord(character):08x}" for character in text) + '"'


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text("ab", max_size=2),
    lambda inside: (
        st.lists(inside, max_size=2)
        | st.dictionaries(st.sampled_from(["source", "sources", "bits", "adc", "layers", "x"]), inside, max_size=3)
    ),
    max_leaves=5,
)


def toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if value is None:
        return "1979-05-27"
    return (
        str(value).lower() if isinstance(value, bool) else toml_text(value) if isinstance(value, str) else repr(value)
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    key=st.sampled_from(
        ["device", "device.levels", "device.sources", "array.source", "sources", "source", "converters",
         "converters.adc", "precision.layers", "precision.layers.x", "components", "components.adc",
         "components.sources", "components.source", "name", "sources.x", "description"]
    ),
    value=JUNK,
)  # fmt: skip
def test_no_junk_gets_past_the_checks(key: str, value: Any, tmp_path: Path) -> None:
    """Whatever stands in a file, the answer is a target that comes back or faults, never another exception."""
    path = write(tmp_path, f"{key} = {toml_value(value)}")
    check_target("isaac", [f"{key}={toml_value(value)}"])
    if check_target(path) == ():
        target = load_target(path)
        assert load_target(write(tmp_path, "# extends nothing\n" + resolved_toml(target), "again.toml")) == target


# --- packages -------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package ``our_targets`` with the target ``our_chip``, as if installed with its entry points."""
    folder = tmp_path / "our_targets"
    folder.mkdir()
    (folder / "__init__.py").touch()
    write(folder, 'description = "ours"\n[device]\nlevels = 8\nsource = "wafer 7"', "our_chip.toml")
    monkeypatch.syspath_prepend(tmp_path)
    names = {"our_chip": "our_targets", "lost": "our_targets", "broken": "no_such_package"}
    points = [EntryPoint(name, value, "mcompiler.targets") for name, value in names.items()]

    def entry_points(*, group: str) -> list[EntryPoint]:
        return points if group == "mcompiler.targets" else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    return folder


def test_package_ships_targets(package: Path, tmp_path: Path) -> None:
    target = load_target("our_chip")
    assert (target.name, target.device.levels) == ("our_chip", 8)
    assert load_target(write(tmp_path, 'extends = "our_chip"')).device == target.device
    listed = dict(list_targets())
    assert listed["our_chip"] == "ours"
    assert listed["broken"].startswith("cannot be read: target 'broken': its package 'no_such_package' cannot be")
    with pytest.raises(TargetError, match=r"the package 'our_targets', which has no lost\.toml"):
        load_target("lost")
    with pytest.raises(TargetError, match="did you mean 'our_chip'"):
        load_target("ourchip")


def test_two_packages_with_one_name(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("isaac", "our_targets", "mcompiler.targets")]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: points)
    with pytest.raises(TargetError, match="'isaac' is shipped by more than one package: mcompiler, our_targets"):
        load_target("isaac")


# --- schema and documentation ---------------------------------------------------------------------------------------


def test_json_schema_takes_the_shipped_files_and_refuses_mistakes() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for name in SHIPPED:
        validator.validate(tomllib.loads((ROOT / "targets" / f"{name}.toml").read_text(encoding="utf-8")))
        validator.validate(tomllib.loads(resolved_toml(load_target(name))))
    child = {"extends": "isaac", "converters": {"adc": {"bits": 6}}}
    assert validator.is_valid(child)
    assert not validator.is_valid({"converters": {"adc": {"bits": 6}}}), "nothing extended, much missing"
    assert not validator.is_valid({"extends": "isaac", "converters": {"adc": {"bit": 6}}})
    assert not validator.is_valid({"extends": "isaac", "converters": {"adc": {"bits": 6.5}}})
    assert not validator.is_valid({"extends": 3})


def test_target_made_in_python_is_checked_too() -> None:
    target = load_target("isaac")
    data = target.model_dump()
    data["encoding"]["weights"] = "differential"
    with pytest.raises(ValueError, match=r"encoding\.flip: columns are flipped only where"):
        Target.model_validate(data)


def test_documented_example_works(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    files = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", page, re.DOTALL)
    assert [name for name, _ in files] == ["my_device.toml", "signs.toml", "wafer7.csv", "measured.toml"]
    for name, text in files:
        (tmp_path / name).write_text(text, encoding="utf-8")
    (script,) = (text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "my_device.toml" in text)
    (tmp_path / "use.py").write_text(script, encoding="utf-8")
    for name in ("my_device.toml", "signs.toml", "measured.toml"):
        assert check_target(tmp_path / name) == ()
    device = load_target(tmp_path / "measured.toml").device
    assert device.level_means is not None
    assert device.programming is not None
    assert device.g_min_siemens + device.level_means[2] * device.mean_siemens == pytest.approx(25.2e-6, abs=1e-8)
    assert device.programming.level_siemens == (4e-7, 7e-7, 9e-7, 1e-6, 1.1e-6, 1.1e-6, 1e-6, 8e-7)


def test_documentation_names_every_key() -> None:
    page = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    for model in json_schema()["$defs"].values():
        words = [*model.get("properties", {}), *model.get("enum", [])]
        missing = [word for word in words if not re.search(rf"\b{re.escape(word)}\b", page)]
        assert not missing, missing
