"""Numbers and tables as text."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcompiler.text import area, clean, count, display_width, facts, percent, plural, quantity, shorten, table

PREFIXES = {"a": -18, "f": -15, "p": -12, "n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12}


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "s", "0 s"),
        (-0.0, "J", "0 J"),
        (1.0, "s", "1.00 s"),
        (1.4918e-4, "s", "149 us"),
        (7.815831e-6, "J", "7.82 uJ"),
        (15258.789, "/s", "15.3 k/s"),
        (999.4, "W", "999 W"),
        (999.6, "W", "1.00 kW"),
        (9.996e-7, "W", "1.00 uW"),
        (-2e-9, "s", "-2.00 ns"),
        (1e-30, "s", "1.00e-30 s"),
        (1e22, "s", "1.00e+22 s"),
        (math.inf, "s", "inf s"),
        (-math.inf, "s", "-inf s"),
        (math.nan, "s", "nan s"),
        (4.09e9, "", "4.09 G"),
        (12.0, "", "12.0"),
    ],
)
def test_quantity(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


@pytest.mark.parametrize(("value", "text"), [(1e-8, "10 ns"), (0.2, "200 ms"), (2.5e-9, "2.5 ns"), (1e9, "1 Gs")])
def test_quantity_trimmed(value: float, text: str) -> None:
    assert quantity(value, "s", trim=True) == text


@given(st.floats(1e-17, 1e14))
def test_quantity_says_the_value_to_three_digits(value: float) -> None:
    number, unit = quantity(value, "s").split(" ")
    assert 1 <= float(number) < 1000
    said = float(number) * 10.0 ** PREFIXES[unit.removesuffix("s")]
    assert said == pytest.approx(value, rel=5.01e-3)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 mm2"),
        (5.196e-6, "5.20 mm2"),
        (1.234e-2, "12,300 mm2"),
        (1e-8, "0.0100 mm2"),
        (9.99e-9, "9,990 um2"),
        (1.66e-13, "0.166 um2"),
        (math.inf, "inf mm2"),
    ],
)
def test_area(value: float, text: str) -> None:
    assert area(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "-"),
        (0.0, "0%"),
        (1.0, "100%"),
        (0.6616, "66.2%"),
        (0.9996, "99.96%"),
        (0.99999, ">99.99%"),
        (0.0003, "0.03%"),
        (1e-6, "<0.01%"),
        (1.5, "150%"),
        (1 + 1e-12, "100%"),
    ],
)
def test_percent(share: float | None, text: str) -> None:
    assert percent(share) == text


@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_percent_never_rounds_to_all_or_nothing(share: float) -> None:
    assert percent(share) not in ("0%", "100%", "0.0%", "100.0%", "0.00%", "100.00%")


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (18874368.0, "18,874,368"), (1.5, "1.50"), (123456.7, "123,457"), (math.inf, "inf")]
)
def test_count(value: float, text: str) -> None:
    assert count(value) == text


def test_plural() -> None:
    assert [plural(0, "chip"), plural(1, "chip"), plural(2000, "chip")] == ["0 chips", "1 chip", "2,000 chips"]
    assert plural(2, "process", "processes") == "2 processes"


def test_clean_escapes_what_moves_a_cursor() -> None:
    assert clean("a\x1b[2J\n\t\u202e\ud800") == r"a\x1b[2J\n\t\u202e\ud800"
    assert clean("/ünï 日本") == "/ünï 日本"


def test_shorten_cuts_in_the_middle() -> None:
    name = "/model/encoder/layers.0/self_attn/q_proj/MatMul"
    assert shorten(name, 24) == "/model/enc...proj/MatMul"
    assert shorten(name, len(name)) == name
    assert shorten("日本語日本語日本語", 9) == "日本...語"
    assert shorten(name, 2) == ".."


@given(st.text(max_size=60), st.integers(0, 40))
def test_shorten_fits(text: str, width: int) -> None:
    assert display_width(shorten(text, width)) <= width


def test_table() -> None:
    assert table(["layer", "n"], [["日本", "1"], ["a\nb", "1,234"]], "lr") == (
        "layer      n\n"
        "日本       1\n"
        "a\\nb   1,234"
    )  # fmt: skip


def test_table_without_rows_is_its_header() -> None:
    assert table(["a", "b"], [], "lr") == "a  b"


def test_table_refuses_ragged_rows() -> None:
    with pytest.raises(ValueError, match=r"2 headers, align 'lr' and rows of \[1, 2\] cells"):
        table(["a", "b"], [["1"], ["1", "2"]], "lr")


def test_facts_align_their_values() -> None:
    assert facts([("area", "1 mm2"), ("", "more"), ("latency", "2 s")]) == "area     1 mm2\n         more\nlatency  2 s"
    assert facts([]) == ""


def test_shorten_takes_a_name_of_any_length() -> None:
    begun = time.perf_counter()
    assert display_width(shorten("e\u0301" * 500_000, 20)) == 20
    assert time.perf_counter() - begun < 5


def test_names_with_wide_joined_and_marked_characters_stay_aligned() -> None:
    names = ["日本語", "e\u0301tat", "\u263a\ufe0f", "plain"]
    lines = table(["name", "n"], [[name, "1"] for name in names], "lr").splitlines()
    assert len({display_width(line) for line in lines}) == 1


def test_rich_is_imported_only_where_widths_are_needed() -> None:
    code = "import sys, mcompiler.text; assert not [m for m in sys.modules if m.split('.')[0] == 'rich']"
    subprocess.run([sys.executable, "-c", code], check=True)
