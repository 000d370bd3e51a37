"""report.html: well-formed, self-contained, the same for the same build, and every name in it is escaped."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from mcompiler.artefacts import LayerData, report_html
from mcompiler.artefacts.floorplan import UNITS_LIMIT, floor_plan
from mcompiler.cost import DIGITAL, IDLE, Cost, PricedQuantities
from mcompiler.driver import load
from mcompiler.fates import reason_text
from mcompiler.ir import Fate, NodeFate, Reason, ReasonKind
from mcompiler.target import Hierarchy, assumptions, load_target
from tests.support.digits import digits_build
from tests.support.models import model_node
from tests.support.programs import with_site

NASTY = "<b>&/ünï"
VOID = {"meta", "path", "br"}


class Page(HTMLParser):
    """Holds that tags are balanced; collects text, tags with attributes, and tables by id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute of <{tag}> twice"
        if tag not in VOID or tag == "path":
            self.open.append(tag)
        if tag == "table":
            self._rows = self.tables.setdefault(dict(attrs).get("id") or "", [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if self.open and ("td" in self.open or "th" in self.open):
            self._rows[-1][-1] += data


def renamed(name: str) -> tuple[tuple[LayerData, ...], Cost, tuple[NodeFate, ...]]:
    """The digits build with its first layer called otherwise."""
    build = digits_build()
    first = build.layers[0]

    def new(old: str) -> str:
        return name if old == first else old

    layers = tuple(
        replace(layer, op=with_site(layer.op, name=new(layer.op.site.name), label=new(layer.op.site.label)))
        for layer in build.layer_data
    )
    cost = replace(
        build.cost,
        layers={new(key): price for key, price in build.cost.layers.items()},
        counts=replace(build.cost.counts, layers={new(key): row for key, row in build.cost.counts.layers.items()}),
    )
    return layers, cost, tuple(replace(fate, node=replace(fate.node, name=new(fate.name))) for fate in build.fates)


def test_tables_are_complete_and_rectangular() -> None:
    page, cost = Page(digits_build().report()), digits_build().cost
    layers = page.tables["layers"]
    assert [row[0] for row in layers[1:]] == [*digits_build().layers, DIGITAL, IDLE, "Sum"]
    assert {row[0] for row in page.tables["components"][1:-1]} == set(cost.components)
    assert len(page.tables["assumptions"]) - 1 == len(assumptions(digits_build().target))
    for table in page.tables.values():
        nodes = {len(row) for row in table}
        assert len(nodes) == 1
    for fate in digits_build().fates:
        assert [fate.name, fate.op, reason_text(fate.reason)] in page.tables[""]


def three(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")


def joules(value: float) -> str:
    return f"{three(value * 1e6)} \u00b5J" if value >= 1e-6 else f"{three(value * 1e9)} nJ"


def test_totals_are_there() -> None:
    text = Page(digits_build().report()).text.replace("\u00a0", " ")
    cost = digits_build().cost
    for name, value in [
        ("Latency", f"{three(cost.latency_s * 1e6)} \u00b5s"),
        ("Throughput", f"{three(cost.throughput_per_s / 1e3)} k/s"),
        ("Energy", joules(cost.energy_j)),
        ("Active", joules(cost.energy_active_j)),
        ("Standby", joules(cost.energy_standby_used_j)),
        ("Chip standby", joules(cost.energy_standby_chip_j)),
        ("Power", f"{three(cost.power_w * 1e3)} mW"),
        ("Peak power", f"{three(cost.peak_power_w * 1e3)} mW"),
        ("Area", f"{three(cost.area_m2 * 1e6)} mm\u00b2"),
        ("Crossbars", f"{cost.crossbars}"),
        ("Utilisation", f"{cost.utilisation * 100:.1f}%"),
    ]:
        assert f"{name}{value}" in text


def test_events_add_up_to_the_component_table() -> None:
    page = Page(digits_build().report())
    header, *_, sums = page.tables["events"]
    total = dict(zip(header[1:], sums[1:], strict=True))
    for row in page.tables["components"][1:-1]:
        if row[1]:
            assert total[row[1]] == row[2]


def test_nothing_comes_from_outside() -> None:
    html = digits_build().report()
    assert not re.search(r"https?:|//[a-z]|url\(|@import", html)
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "a"} & {tag for tag, _ in page.tags}
    assert not [key for _, attributes in page.tags for key in attributes if key in ("src", "href") or key[:2] == "on"]


@pytest.mark.parametrize("name", [NASTY, "'\"><script>alert(1)</script>", "{{ 7 * 7 }}", "a\x00\x1b\n", "\ud800"])
def test_names_are_escaped(name: str) -> None:
    layers, cost, fates = renamed(name)
    html = report_html(digits_build().target, cost, fates, layers, {name: name})
    html.encode("utf-8")
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "b" in {tag for tag, _ in page.tags}  # those of the page itself: as many as with a harmless name
    plain = Page(report_html(digits_build().target, *_harmless(), {"x": "x"}))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    shown = name.replace("\x00", "\\x00").replace("\x1b", "\\x1b").replace("\n", "\\n").replace("\ud800", "\\ud800")
    assert shown in [row[0] for row in page.tables["layers"]]


def _harmless() -> tuple[Cost, tuple[NodeFate, ...], tuple[LayerData, ...]]:
    layers, cost, fates = renamed("x")
    return cost, fates, layers


def test_equal_builds_give_equal_pages(tmp_path_factory: pytest.TempPathFactory) -> None:
    build = digits_build()
    html = build.report()
    records = tuple(build.records.values())
    assert html == report_html(
        build.target, build.cost, build.fates, build.layer_data, build.options.as_json(), records=records
    )
    place = build.save(tmp_path_factory.mktemp("report") / "digits.build")
    assert (place / "report.html").read_text(encoding="utf-8") == html
    assert load(place).report() == html
    assert str(place.parent) not in html


def test_converters_that_lose_say_so() -> None:
    build = digits_build()
    first, *rest = build.layer_data
    lossy = replace(first, analog=replace(first.analog, lossless=False, gain=0.5, clipped=0.0125))
    html = report_html(build.target, build.cost, build.fates, (lossy, *rest), build.options.as_json())
    assert Page(html).tables["layers"][1][-1] == "gain 0.5, 1.2% clipped"
    unknown = replace(lossy, analog=replace(lossy.analog, clipped=None))
    html = report_html(build.target, build.cost, build.fates, (unknown, *rest), build.options.as_json())
    assert Page(html).tables["layers"][1][-1] == "gain 0.5, unknown clipped"


def test_an_empty_build_has_a_page() -> None:
    build = digits_build()
    cost = Cost(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0.0, {}, {}, PricedQuantities({}, 0.0, 1.0, 0.0))
    page = Page(report_html(build.target, cost, (), (), {}))
    assert "No array is used." in page.text
    assert "The model has no nodes." in page.text


def test_long_lists_are_folded() -> None:
    build = digits_build()
    fates = tuple(
        NodeFate(model_node(index, f"n{index}", "Relu"), Fate.DIGITAL, Reason(ReasonKind.NO_MATRIX_PRODUCT))
        for index in range(1234)
    )
    page = Page(report_html(build.target, build.cost, fates, build.layer_data, {}))
    assert "1,234 digital 1,234 Relu" in page.text


# --- where arrays sit ------------------------------------------------------------------------------------------------


def hierarchy(arrays: int, cores: int, tiles: int) -> Hierarchy:
    return Hierarchy(
        arrays_per_core=arrays, cores_per_tile=cores, tiles_per_chip=tiles, chips="as needed", core_name="IMA"
    )


def at(addresses: list[tuple[int, int, int, int]]) -> LayerData:
    """A layer of which only the addresses matter."""
    return replace(digits_build().layer_data[0], addresses=np.array(addresses, np.int32).reshape(-1, 4))


def squares(path: str) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in re.findall(r"M(\d+) (\d+)h7v7h-7z", path)]


def test_every_array_is_one_square() -> None:
    plan = floor_plan([at([(0, 0, 0, 0), (0, 0, 0, 1)]), at([(0, 0, 1, 3), (1, 2, 0, 0)])], hierarchy(4, 3, 5))
    assert plan.unit == "array"
    assert [group.caption for group in plan.groups] == [
        "chip 0: 3 of 60 arrays, in 1 of 5 tiles",
        "chip 1: 1 of 60 arrays, in 1 of 5 tiles",
    ]
    first, second = (group.boxes[0] for group in plan.groups)
    assert [(shape.layer, len(squares(shape.path))) for shape in first.shapes] == [(None, 9), (0, 2), (1, 1)]
    assert [(shape.layer, len(squares(shape.path))) for shape in second.shapes] == [(None, 11), (1, 1)]
    assert (first.title, second.title) == ("tile 0", "tile 2")
    for box in (first, second):
        every = [square for shape in box.shapes for square in squares(shape.path)]
        assert len(set(every)) == 12
        assert all(x + 7 < box.width and y + 7 < box.height for x, y in every)


@pytest.mark.parametrize(
    ("shape", "count", "unit", "boxes"),
    [
        ((8, 8, 1000), 64 * 64, "array", 64),
        ((8, 8, 1000), 64 * 64 + 1, "IMA", 65),
        ((8, 8, 1000), 64 * 513, "tile", 1),
        ((8, 8, 1000), 64 * 4000 + 1, "chip", 1),
        ((1, 1, 1), UNITS_LIMIT + 5, "chip", 1),
    ],
)
def test_large_models_are_drawn_coarser(shape: tuple[int, int, int], count: int, unit: str, boxes: int) -> None:
    index = np.arange(count)
    index, position = np.divmod(index, shape[0])
    index, core = np.divmod(index, shape[1])
    chip, tile = np.divmod(index, shape[2])
    layer = replace(at([]), addresses=np.stack([chip, tile, core, position], axis=1).astype(np.int32))
    plan = floor_plan([layer], hierarchy(*shape))
    assert plan.unit == unit
    assert sum(len(group.boxes) for group in plan.groups) == boxes
    drawn = sum(len(squares(shape.path)) for group in plan.groups for box in group.boxes for shape in box.shapes)
    assert drawn <= UNITS_LIMIT
    assert plan.left_out == max(0, len(set(chip.tolist())) - UNITS_LIMIT)


def test_a_shared_unit_has_the_colour_of_the_larger_part() -> None:
    many = [(0, tile, 0, 0) for tile in range(1500)]
    shared = [(0, 0, 0, position) for position in range(1, 4)]
    plan = floor_plan([at(many), at(shared)], hierarchy(4, 1, 2000))
    assert plan.unit == "IMA"
    box = plan.groups[0].boxes[0]
    assert [shape.layer for shape in box.shapes] == [1]


def test_the_bits_that_arrays_need_have_a_column() -> None:
    build = digits_build()
    page = Page(build.report())
    rows = next(rows for rows in page.tables.values() if "ADC bits" in rows[0])
    column = rows[0].index("ADC bits")
    assert [row[column].strip() for row in rows[1:5]] == [str(layer.analog.adc_range) for layer in build.layer_data]


@pytest.mark.parametrize(
    ("keys", "facts"),
    [
        (
            ("encoding.weights=polarised", "encoding.pedestal=digital_count", "array.rows_active=8"),
            ("polarised, 4 cells per weight", "one sign for 8 rows", "digital count", "4 (2 bits)"),
        ),
        (
            ("device.level_means=[0,1300,2700,4000]", "encoding.slices=1", "encoding.partner=unformed"),
            ("differential, 1 pair per weight", "unformed partners", "4 (measured)"),
        ),
    ],
)
def test_encodings_are_told(keys: tuple[str, ...], facts: tuple[str, ...]) -> None:
    build = digits_build()
    text = Page(report_html(load_target("generic_128", keys), build.cost, build.fates, build.layer_data, {})).text
    for fact in facts:
        assert fact in text
