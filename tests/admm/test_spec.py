"""The specification: TOML to dataclasses and back, and what each wrong line is told."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.errors import CompileError

torch = pytest.importorskip("torch")

from mcompiler.admm.constraints import Structure  # noqa: E402
from mcompiler.admm.quantise import LevelSet  # noqa: E402
from mcompiler.admm.spec import (  # noqa: E402
    Admm,
    Budget,
    Optimiser,
    Purify,
    Quantisation,
    Retrain,
    Schedule,
    Spec,
)

FULL = """
seed = 3
skip = ["head"]
remove_paths = false
precision = "bfloat16"
channels_last = true

[layers.conv1]
filters = 8
shapes = 27

[layers."features.3"]
column_nonzeros = 4

[budget]
crossbars = 40
layers = "all"

[admm]
rho = [1, 0.5]
epochs = 3
updates_per_epoch = 2
levels = false

[admm.optimiser]
name = "adamw"
learning_rate = 1
schedule = "linear"

[retrain]
epochs = 5
float_epochs = 2

[quantisation]
levels = "measured"
inputs = false
input_range = "minmax"
batches = 4

[purify]
columns = 1
energy = 0.25
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "compress.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_section_of_a_file(tmp_path: Path) -> None:
    assert Spec.load(write(tmp_path, FULL)) == Spec(
        seed=3,
        layers={"conv1": Structure(filters=8, shapes=27), "features.3": Structure(column_nonzeros=4)},
        skip=("head",),
        budget=Budget(crossbars=40, layers="all"),
        admm=Admm(
            rho=(1.0, 0.5),
            epochs=3,
            updates_per_epoch=2,
            levels=False,
            optimiser=Optimiser(name="adamw", learning_rate=1.0, schedule=Schedule.LINEAR),
        ),
        retrain=Retrain(epochs=5, float_epochs=2),
        quantisation=Quantisation(levels=LevelSet.MEASURED, inputs=False, input_range="minmax", batches=4),
        purify=Purify(columns=1, energy=0.25),
        remove_paths=False,
        precision="bfloat16",
        channels_last=True,
    )


def test_numbers_become_floats_where_floats_are_meant(tmp_path: Path) -> None:
    spec = Spec.load(write(tmp_path, FULL))
    assert [type(rho) for rho in spec.admm.rho] == [float, float]
    assert type(spec.admm.optimiser.learning_rate) is float


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    assert Spec.load(str(write(tmp_path, ""))) == Spec()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed = 1", "sed: unknown key; did you mean 'seed'?"),
        ("[admm.optimizer]\nname = 'sgd'", "admm.optimizer: unknown key; did you mean 'admm.optimiser'?"),
        ("[retrain]\nxyz = 1", "retrain.xyz: unknown key; there are epochs, float_epochs, optimiser"),
        ("seed = 1.5", "seed: 1.5 is no whole number"),
        ("seed = true", "seed: True is no whole number"),
        ("channels_last = 1", "channels_last: 1 is no true or false"),
        ("[admm]\nrho = [0.1, 'x']", "admm.rho: 'x' is no number"),
        ("[admm]\nrho = 0.1", "admm.rho: 0.1 is no list"),
        ("skip = 'conv1'", "skip: 'conv1' is no list"),
        ("skip = [1]", "skip: 1 is no string"),
        ("admm = 3", "admm: 3 is no table; write [admm]"),
        ("[[retrain]]\nepochs = 1", "retrain: [{'epochs': 1}] is no table; write [retrain]"),
        ("layers = 3", 'layers: give one table per layer, [layers."name"]'),
        ("precision = 'float16'", "precision: 'float16' is none of 'float32', 'bfloat16'"),
        (
            "[quantisation]\nlevels = 'gird'",
            "quantisation.levels: 'gird' is none of 'grid', 'measured', 'without_zero', ",
        ),
        ("[admm.optimiser]\nschedule = 3", "admm.optimiser.schedule: 3 is none of 'constant', 'cosine', 'linear'"),
        ("seed = -1", "seed: -1 is out of range; give 0 or more"),
        ("[admm]\nrho = []", "admm.rho: () is out of range; give positive numbers"),
        ("[admm]\nrho = [0.1, 0]", "admm.rho: (0.1, 0.0) is out of range; give positive numbers"),
        ("[admm]\nrho = [inf]", "admm.rho: (inf,) is out of range"),
        ("[admm]\nepochs = -1", "admm.epochs: -1 is out of range; give 0 or more"),
        ("[admm]\nupdates_per_epoch = 0", "admm.updates_per_epoch: 0 is out of range; give at least 1"),
        ("[retrain]\nepochs = -2", "retrain.epochs: -2 is out of range"),
        (
            "[retrain]\nepochs = 1\nfloat_epochs = 2",
            "retrain.float_epochs: 2 is out of range; give at most retrain.epochs",
        ),
        ("[quantisation]\nbatches = 0", "quantisation.batches: 0 is out of range; give at least 1"),
        ("[budget]\ncrossbars = 4\nbatches = 0", "budget.batches: 0 is out of range; give at least 1"),
        ("[purify]\ncolumns = -1", "purify.columns: -1 is out of range"),
        ("[purify]\nenergy = nan", "purify.energy: nan is out of range"),
        ("[admm.optimiser]\nlearning_rate = 0", "admm.optimiser.learning_rate: 0.0 is out of range; give a positive"),
        ("[retrain.optimiser]\nlearning_rate = nan", "retrain.optimiser.learning_rate: nan is out of range"),
        (f"[retrain.optimiser]\nlearning_rate = 1{'0' * 400}", "retrain.optimiser.learning_rate: inf is out of range"),
        (
            "[admm.optimiser]\nmomentum = 1",
            "admm.optimiser.momentum: 1.0 is out of range; give 0 up to, not including, 1",
        ),
        ("[admm.optimiser]\nweight_decay = inf", "admm.optimiser.weight_decay: inf is out of range"),
        (
            "[retrain.optimiser]\nwarmup = 1.1",
            "retrain.optimiser.warmup: 1.1 is out of range; give a share from 0 to 1",
        ),
        ("[retrain.optimiser]\nclip = -1", "retrain.optimiser.clip: -1.0 is out of range; give 0 (off) or more"),
        ("[budget]\nlayers = 'all'", "[budget] gives no limit; give one of crossbars, energy_j, area_m2"),
        ("[budget]\ncrossbars = 1\nenergy_j = 1", "[budget] gives crossbars and energy_j; give one of"),
        ("[budget]\nenergy_j = 0", "[budget] energy_j = 0 buys nothing; give more than zero"),
        ("skip = ['a']\n[layers.a]\nfilters = 1", "layer 'a' is in both `layers` and `skip`; take it out of one"),
        ("[layers.a]\nfilter = 1", "node 'a': unknown key 'filter' in its structure; did you mean 'filters'?"),
        ("[layers.a]\nfilters = 0", "node 'a': filters = 0 would leave an empty layer"),
        ("[layers]\na = 3", "node 'a': its structure is no table"),
        ("seed = ", "cannot be read as TOML"),
    ],
)
def test_a_wrong_line_is_named_with_file_place_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(CompileError) as caught:
        Spec.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"none\.toml: no such specification file"):
        Spec.load(tmp_path / "none.toml")
    with pytest.raises(CompileError, match="cannot be read as TOML"):
        Spec.load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xff")
    with pytest.raises(CompileError, match=r"latin\.toml: cannot be read as TOML"):
        Spec.load(tmp_path / "latin.toml")


COUNTS = st.none() | st.integers(1, 99)
POSITIVE = st.floats(1e-9, 1e3)
OPTIMISERS = st.builds(
    Optimiser,
    name=st.sampled_from(["sgd", "adam", "adamw"]),
    learning_rate=POSITIVE,
    momentum=st.floats(0, 0.99),
    weight_decay=st.floats(0, 1),
    schedule=st.sampled_from(Schedule),
    warmup=st.floats(0, 1),
    clip=st.floats(0, 10),
)
STRUCTURES = st.builds(
    Structure,
    filters=COUNTS,
    channels=COUNTS,
    shapes=COUNTS,
    blocks=COUNTS,
    column_nonzeros=COUNTS,
    one_sign=st.booleans(),
)
BUDGETS = st.one_of(
    st.builds(Budget, crossbars=st.integers(1, 99), layers=st.sampled_from(["conv", "all"])),
    st.builds(Budget, energy_j=POSITIVE, batches=st.integers(1, 9)),
    st.builds(Budget, area_m2=POSITIVE),
)
SPECS = st.builds(
    Spec,
    seed=st.integers(0, 1 << 40),
    layers=st.dictionaries(st.text("abc.0", min_size=1, max_size=4), STRUCTURES, max_size=3),
    skip=st.lists(st.text("xyz", min_size=1, max_size=3), max_size=2, unique=True).map(tuple),
    budget=st.none() | BUDGETS,
    admm=st.builds(
        Admm,
        rho=st.lists(POSITIVE, min_size=1, max_size=3).map(tuple),
        epochs=st.integers(0, 9),
        updates_per_epoch=st.integers(1, 9),
        levels=st.booleans(),
        optimiser=OPTIMISERS,
    ),
    retrain=st.builds(Retrain, epochs=st.integers(5, 9), float_epochs=st.integers(0, 5), optimiser=OPTIMISERS),
    quantisation=st.builds(
        Quantisation,
        levels=st.sampled_from(LevelSet),
        inputs=st.booleans(),
        input_range=st.sampled_from(["mse", "minmax"]),
        batches=st.integers(1, 9),
    ),
    purify=st.builds(Purify, columns=st.integers(0, 9), energy=st.floats(0, 9)),
    remove_paths=st.booleans(),
    precision=st.sampled_from(["float32", "bfloat16"]),
    channels_last=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(SPECS)
def test_tables_and_toml_bring_every_specification_back(spec: Spec) -> None:
    table = spec.as_table()
    assert Spec.from_table(table) == spec
    again = Spec.from_table(tomllib.loads(tomli_w.dumps(table)))
    assert again == spec
    assert again.fingerprint() == spec.fingerprint()


def changed(value: Any) -> Any:
    """Another value of the same kind, in range for every field of a specification."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, LevelSet | Schedule):
        return next(entry for entry in type(value) if entry is not value)
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 + 1e-3
    return {
        "sgd": "adam",
        "mse": "minmax",
        "float32": "bfloat16",
        "conv": "all",
    }.get(value) if isinstance(value, str) else (*value, *(value or ("other",)))  # fmt: skip


def variants(value: Any) -> list[Any]:
    """The same dataclass with one field changed at a time, however deep; plain values changed."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return [changed(value)]
    found = []
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if inner is None or isinstance(inner, dict):
            continue
        found += [dataclasses.replace(value, **{field.name: other}) for other in variants(inner)]
    return found


def test_the_fingerprint_tells_any_change() -> None:
    base = Spec(layers={"a": Structure(filters=2)}, budget=Budget(crossbars=4), retrain=Retrain(epochs=10))
    others = [
        *variants(base),
        dataclasses.replace(base, budget=None),
        dataclasses.replace(base, budget=Budget(energy_j=4.0)),
        dataclasses.replace(base, layers={}),
        dataclasses.replace(base, layers={"b": Structure(filters=2)}),
        *(dataclasses.replace(base, layers={"a": entry}) for entry in variants(Structure(2, 2, 2, 2, 2, True))),
    ]
    assert len(others) > 35
    prints = [spec.fingerprint() for spec in (base, *others)]
    assert len(set(prints)) == len(prints)
    assert all("\n" not in line for line in prints)


def test_the_currency_of_a_budget() -> None:
    assert (Budget(crossbars=4).currency, Budget(crossbars=4).limit) == ("crossbars", 4.0)
    assert (Budget(area_m2=1e-6).currency, Budget(area_m2=1e-6).limit) == ("area_m2", 1e-6)
