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

from mcompiler.admm.quantise import LevelSet  # noqa: E402
from mcompiler.admm.spec import (  # noqa: E402
    Admm,
    Budget,
    LearningRateSchedule,
    Optimiser,
    Purify,
    Quantisation,
    Retrain,
    Spec,
    Structure,
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
            optimiser=Optimiser(name="adamw", learning_rate=1.0, schedule=LearningRateSchedule.LINEAR),
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
        ("[admm.optimizer]\nname = 'sgd'", "admm.optimizer: unknown key; did you mean 'optimiser'?"),
        ("[admm.optimiser]\nnme = 'sgd'", "admm.optimiser.nme: unknown key; did you mean 'name'?"),
        ("[retrain.noise]\ntime = 1", "retrain.noise.time: unknown key; did you mean 'time_s'?"),
        (
            "[retrain]\nxyz = 1",
            "retrain.xyz: unknown key; known here: epochs, float_epochs, statistics, optimiser, noise",
        ),
        ("seed = 1.5", "seed: must be a whole number, not 1.5"),
        ("seed = true", "seed: must be a whole number, not true"),
        ("channels_last = 1", "channels_last: must be true or false, not 1"),
        ("[admm]\nrho = [0.1, 'x']", "admm.rho: must be a number, not 'x'"),
        ("[admm]\nrho = 0.1", "admm.rho: must be a list, not 0.1"),
        ("skip = 'conv1'", "skip: must be a list, not 'conv1'"),
        ("skip = [1]", "skip: must be text in quotes, not 1"),
        ("admm = 3", "admm: must be a table, not 3"),
        ("[[retrain]]\nepochs = 1", "retrain: must be a table, not a list"),
        ("layers = 3", "layers: must be a table, not 3"),
        (
            "precision = 'float16'",
            "precision: must be 'float32' or 'bfloat16', not 'float16'; did you mean 'bfloat16'?",
        ),
        (
            "[quantisation]\nlevels = 'gird'",
            "quantisation.levels: must be 'grid', 'measured', 'without_zero' or 'none', not 'gird'; did you",
        ),
        ("[admm.optimiser]\nschedule = 3", "admm.optimiser.schedule: must be 'constant', 'cosine' or 'linear', not 3"),
        ("seed = -1", "seed: must be at least 0, not -1"),
        ("[admm]\nrho = []", "admm.rho: holds 0 values; give at least 1"),
        ("[admm]\nrho = [0.1, 0]", "admm.rho: must be above 0, not 0"),
        ("[admm]\nrho = [inf]", "admm.rho: must be finite, not inf"),
        ("[admm]\nepochs = -1", "admm.epochs: must be at least 0, not -1"),
        ("[admm]\nupdates_per_epoch = 0", "admm.updates_per_epoch: must be at least 1, not 0"),
        ("[retrain]\nepochs = -2", "retrain.epochs: must be at least 0, not -2"),
        (
            "[retrain]\nepochs = 1\nfloat_epochs = 2",
            "retrain.float_epochs: must be at most the epochs of this section, 1, not 2",
        ),
        ("[retrain]\nfloat_epochs = 2\nepochs = 1", "retrain.float_epochs: must be at most the epochs of this section"),
        ("[quantisation]\nbatches = 0", "quantisation.batches: must be at least 1, not 0"),
        ("[budget]\ncrossbars = 4\nbatches = 0", "budget.batches: must be at least 1, not 0"),
        ("[purify]\ncolumns = -1", "purify.columns: must be at least 0, not -1"),
        ("[purify]\nenergy = nan", "purify.energy: must be finite, not nan"),
        ("[admm.optimiser]\nlearning_rate = 0", "admm.optimiser.learning_rate: must be above 0, not 0"),
        ("[retrain.optimiser]\nlearning_rate = nan", "retrain.optimiser.learning_rate: must be finite, not nan"),
        (f"[retrain.optimiser]\nlearning_rate = 1{'0' * 400}", "retrain.optimiser.learning_rate: must be a number"),
        ("[admm.optimiser]\nmomentum = 1", "admm.optimiser.momentum: must be below 1, not 1"),
        ("[admm.optimiser]\nweight_decay = inf", "admm.optimiser.weight_decay: must be finite, not inf"),
        ("[retrain.optimiser]\nwarmup = 1.1", "retrain.optimiser.warmup: must be at most 1, not 1.1"),
        ("[retrain.optimiser]\nclip = -1", "retrain.optimiser.clip: must be at least 0, not -1"),
        ("[budget]\nlayers = 'all'", "budget: gives no limit; give one of crossbars, energy_j, area_m2"),
        ("[budget]\ncrossbars = 1\nenergy_j = 1", "budget: gives crossbars and energy_j; give one of"),
        ("[budget]\nenergy_j = 0", "budget.energy_j: must be above 0, not 0"),
        ("skip = ['a']\n[layers.a]\nfilters = 1", "layer 'a' is in both `layers` and `skip`; take it out of one"),
        (
            "[quantisation]\nlevels = 'none'\n[retrain.noise]",
            "quantisation.levels: must not be 'none' with [retrain.noise], which needs weights on levels",
        ),
        ("[layers.a]\nfilter = 1", "layers.a.filter: unknown key; did you mean 'filters'?"),
        (
            "[layers.filters]\nzzz = 1",
            "layers.filters.zzz: unknown key; known here: filters, channels, shapes, blocks,",
        ),
        ("[layers.a]\nfilters = 0", "layers.a.filters: must be at least 1, not 0"),
        ("[layers]\na = 3", "layers.a: must be a table, not 3"),
        ("seed = ", "cannot be read as TOML"),
    ],
)
def test_a_wrong_line_is_named_with_file_place_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(CompileError) as caught:
        Spec.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_all_faults_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "sed = 1\n[admm]\nepochs = -1\n[layers.a]\nfilters = 0\n[retrain.optimiser]\nwarmup = 2")
    with pytest.raises(CompileError) as caught:
        Spec.load(path)
    assert sorted(str(caught.value).splitlines()) == [
        f"{path}: admm.epochs: must be at least 0, not -1",
        f"{path}: layers.a.filters: must be at least 1, not 0",
        f"{path}: retrain.optimiser.warmup: must be at most 1, not 2",
        f"{path}: sed: unknown key; did you mean 'seed'?",
    ]


def test_a_wrong_value_in_python_is_a_compile_error_that_names_class_and_field() -> None:
    with pytest.raises(CompileError, match=r"^admm\.Optimiser: momentum: must be below 1, not 1$"):
        Optimiser(momentum=1)
    with pytest.raises(CompileError, match=r"^layers: must be a table, not 3$"):
        Spec(layers=3)  # type: ignore[arg-type]
    with pytest.raises(CompileError, match=r"^seed: must be at least 0, not -1$"):
        dataclasses.replace(Spec(), seed=-1)


@pytest.mark.parametrize("key", ["filters", "channels", "shapes", "blocks", "column_nonzeros"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "must be at least 1, not 0"),
        (-3, "must be at least 1, not -3"),
        (1.5, "must be a whole number, not 1.5"),
        (True, "must be a whole number, not true"),
        ("8", "must be a whole number, not '8'"),
    ],
)
def test_a_limit_of_a_structure_is_a_positive_whole_number(key: str, value: Any, message: str) -> None:
    with pytest.raises(CompileError) as caught:
        Structure(**{key: value})
    assert str(caught.value) == f"admm.Structure: {key}: {message}"


def test_a_structure_without_limits() -> None:
    assert Structure().is_unconstrained
    assert not Structure(one_sign=True).is_unconstrained
    with pytest.raises(CompileError, match=r"^admm\.Structure: one_sign: must be true or false, not 1$"):
        Structure(one_sign=1)  # type: ignore[arg-type]


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
    schedule=st.sampled_from(LearningRateSchedule),
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
    if isinstance(value, LevelSet | LearningRateSchedule):
        return next(entry for entry in type(value) if entry is not value)
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 + 1e-3
    if isinstance(value, str):
        return {"sgd": "adam", "mse": "minmax", "float32": "bfloat16", "conv": "all"}[value]
    return (*value, *(value or ("other",)))


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


FULL_STRUCTURE = Structure(filters=2, channels=2, shapes=2, blocks=2, column_nonzeros=2, one_sign=True)


def test_the_fingerprint_tells_any_change() -> None:
    base = Spec(layers={"a": Structure(filters=2)}, budget=Budget(crossbars=4), retrain=Retrain(epochs=10))
    others = [
        *variants(base),
        dataclasses.replace(base, budget=None),
        dataclasses.replace(base, budget=Budget(energy_j=4.0)),
        dataclasses.replace(base, layers={}),
        dataclasses.replace(base, layers={"b": Structure(filters=2)}),
        *(dataclasses.replace(base, layers={"a": entry}) for entry in variants(FULL_STRUCTURE)),
    ]
    assert len(others) > 35
    prints = [spec.fingerprint() for spec in (base, *others)]
    assert len(set(prints)) == len(prints)
    assert all("\n" not in line for line in prints)


def test_the_currency_of_a_budget() -> None:
    assert (Budget(crossbars=4).currency, Budget(crossbars=4).limit) == ("crossbars", 4.0)
    assert (Budget(area_m2=1e-6).currency, Budget(area_m2=1e-6).limit) == ("area_m2", 1e-6)
