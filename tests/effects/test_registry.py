"""Which effects there are: names, order, random streams, and what registering one may not do."""

from __future__ import annotations

import importlib.metadata
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mcompiler.effects import NOISE, SHIPPED, Effect, chosen, described, in_order, named
from mcompiler.effects.registry import ENTRY_POINT_GROUP, find, names, registered
from mcompiler.errors import TargetError, UserError
from tests.support.programs import target

ROOT = Path(__file__).resolve().parents[2]


class Rain(Effect):
    """An effect of another package; described by every target."""

    name = "rain"
    order = 5

    def is_described(self, target: object) -> bool:
        return True


def install(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    found = [importlib.metadata.EntryPoint(name, value, ENTRY_POINT_GROUP) for name, value in points]

    def entry_points(*, group: str) -> Sequence[importlib.metadata.EntryPoint]:
        return found if group == ENTRY_POINT_GROUP else ()

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def test_shipped_effects_are_in_the_order_of_a_cells_life() -> None:
    assert [effect.name for effect in in_order(set(SHIPPED))] == [
        "programming",
        "drift",
        "noise",
        "telegraph",
        "temperature",
        "faults",
        "access",
        "wires",
        "curve",
        "converters",
    ]
    assert in_order(set(SHIPPED)) == SHIPPED
    assert [effect.stream_number for effect in SHIPPED] == list(range(10)), "draws of published seeds hang on these"


@pytest.mark.parametrize("effect", SHIPPED, ids=lambda effect: effect.name)
def test_effects_survive_pickling_and_are_equal_by_kind(effect: Effect) -> None:
    assert pickle.loads(pickle.dumps(effect)) == effect
    assert {pickle.loads(pickle.dumps(effect)), effect} == {effect}


def test_registered_effects_have_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("rain", f"{__name__}:Rain"))
    assert names()[-1] == "rain"
    assert registered()[0].name == "rain"
    assert {effect.name for effect in described(target())} == {"rain", "programming", "faults"}
    (rain,) = named("rain")
    assert rain.stream_number > 1 << 32
    with pytest.raises(UserError, match=r"choose from programming, .*, converters, rain, or all"):
        chosen(["snow"], target())


def test_packages_are_imported_when_their_effect_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("rain", "no_such_module:Rain"))
    assert chosen(["programming"], target())
    assert names()[-1] == "rain"
    for used in ("rain", "all"):
        with pytest.raises(TargetError, match="effect 'rain': its package 'no_such_module:Rain' cannot be imported"):
            chosen([used], target())


@pytest.mark.parametrize(
    ("points", "fault"),
    [
        ([("rain", "a:Rain"), ("rain", "b:Rain")], "more than one package: a:Rain, b:Rain; uninstall one of them"),
        ([("all", f"{__name__}:Rain")], "effect 'all' .* this name is taken"),
        ([("adc", f"{__name__}:Rain")], "effect 'adc' .* this name is taken"),
        ([("snow", f"{__name__}:Rain")], "is not that effect; the entry point must name a subclass"),
        ([("snow", "pathlib:Path")], "is not that effect"),
    ],
)
def test_what_cannot_be_registered(points: list[tuple[str, str]], fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, *points)
    with pytest.raises(TargetError, match=fault):
        registered()


def test_shipped_effects_cannot_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("noise", f"{__name__}:Rain"))
    assert find("noise") == NOISE
    with pytest.raises(TargetError, match=r"effect 'noise' .* this name is taken"):
        registered()


@pytest.mark.parametrize("module", ["effects", "effects.noise", "effects.base", "target", "target.sections"])
def test_either_package_may_be_imported_first_and_is_cheap(module: str) -> None:
    code = f"import sys, mcompiler.{module}; print({{'scipy', 'onnx', 'torch'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "set()\n", done.stderr
