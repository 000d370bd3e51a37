"""The pipeline as a value: run in part, looked at, changed, resumed; programs survive pickling at every level."""

from __future__ import annotations

import doctest
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import mcompiler
from mcompiler import pipeline as pipeline_module
from mcompiler.driver import Build
from mcompiler.errors import BuildError, CompileError, UserError
from mcompiler.pipeline import Pipeline, default
from mcompiler.pipeline.codec import digest_of
from mcompiler.target import list_targets
from tests.support.builds import Case, conv_case, target
from tests.support.digits import DEMO
from tests.support.same import assert_same


def pipeline_of(case: Case, base: str = "generic_128", **options: Any) -> Pipeline:
    return default(case.model, target(base=base), calibration=case.feeds, options=options)


def positive(case: Case) -> Case:
    """The case with weights of one sign, which every encoding holds."""
    made = case.model.clone()
    value = made.graph.initializers["w"]
    assert value.const_value is not None
    value.const_value = ir.tensor(np.abs(value.const_value.numpy()), name="w")
    return replace(case, model=made)


def test_run_in_parts_gives_what_compile_gives(tmp_path: Path) -> None:
    case = conv_case([3, 3])
    pipeline = pipeline_of(case)
    tiled = pipeline.run(until="tile")
    assert len(tiled.tables) == 1
    placed = pipeline.resume(tiled, after="tile", until="place")
    build = Build.of(pipeline, pipeline.execute(placed, after="place"))
    whole = mcompiler.compile(case.model, target(), calibration=case.feeds)
    assert build.cost == whole.cost
    assert build.options == whole.options
    assert digest_of(build.cost) == digest_of(whole.cost)
    assert build.verify(case.feeds).exact


def test_passes_are_replaced_inserted_and_removed() -> None:
    pipeline = pipeline_of(conv_case([3, 3]))
    assert pipeline.names[-3:] == ("assign", "place", "schedule")
    changed = pipeline.replace("place", replace(pipeline["place"], effort=0))  # type: ignore[type-var]
    assert changed.options["effort"] == 0
    assert "effort" not in pipeline.options, "the pipeline itself is as it was"
    without = pipeline.remove("prune")
    assert "prune" not in without.names
    again = without.insert_after("tile", pipeline["prune"])
    assert again.names == pipeline.names
    assert without.insert_before("assign", pipeline["prune"]).names == pipeline.names
    twice = pipeline.insert_after("infer_shapes", pipeline["clean"])
    assert twice.names[twice.names.index("explicit_pads") - 1] == "clean", "the last of several is meant"


def test_unknown_passes_and_unfinished_programs_get_a_sentence() -> None:
    pipeline = pipeline_of(conv_case([3]))
    with pytest.raises(UserError, match="the pipeline has no pass 'tiles'; it has inline, decompose, "):
        pipeline.run(until="tiles")
    with pytest.raises(BuildError, match="made of a scheduled program, not of a TiledProgram"):
        Build.of(pipeline, pipeline.execute(until="tile"))
    with pytest.raises(CompileError, match="no pass has an option 'efort'; did you mean 'effort'"):
        pipeline_of(conv_case([3]), efort=1)


def test_passes_that_exclude_each_other_are_refused() -> None:
    case = conv_case([3])
    copied = pipeline_of(case, replicate="throughput")
    reloaded = pipeline_of(case, reload=2)
    with pytest.raises(CompileError, match="layers that take turns have neither copies"):
        copied.insert_after("replicate", reloaded["reload"])


@pytest.mark.parametrize("base", [name for name, _ in list_targets()])
def test_every_pass_keeps_to_what_it_declares_on_every_target(base: str) -> None:
    """The runner gives views only, so that a run to the end shows it."""
    case = positive(conv_case([3, 3]))
    for options in ({"reorder": True, "replicate": "throughput"}, {"replicate": "latency"}, {"effort": 0}):
        outcome = pipeline_of(case, base, **options).execute()
        assert outcome.program.interval_s > 0


@pytest.mark.parametrize("base", ["generic_128", "isaac"])
def test_programs_survive_pickling_at_every_level(base: str) -> None:
    """Pickled and continued after each pass: the same program at the end."""
    pipeline = pipeline_of(conv_case([3, 3]), base, reorder=True, replicate="throughput")
    expected = pipeline.run()
    program = pipeline.source.program
    for step in pipeline.passes:
        again = pickle.loads(pickle.dumps(program))
        assert_same(again, program, step.name, layout=False)
        program = pipeline._runner()(step, again)
    assert_same(program, expected, layout=False)


def test_builds_pipelines_and_records_survive_pickling(tmp_path: Path) -> None:
    case = conv_case([3, 3])
    pipeline = pickle.loads(pickle.dumps(pipeline_of(case, reorder=True)))
    build = Build.of(pipeline, pipeline.execute())
    fresh = mcompiler.compile(case.model, target(), calibration=case.feeds, reorder=True)
    copy = pickle.loads(pickle.dumps(build))
    assert copy.records == build.records == fresh.records
    assert copy.cost == fresh.cost
    files = [each.save(tmp_path / name) for each, name in ((copy, "copy"), (fresh, "fresh"))]
    manifests = [(folder / "manifest.json").read_bytes() for folder in files]
    assert manifests[0] == manifests[1], "it holds the hashes of all files"
    loaded = pickle.loads(pickle.dumps(mcompiler.load(files[0])))
    assert loaded.verify(case.feeds).exact
    assert loaded.records["reorder"].as_json() == fresh.records["reorder"].as_json()
    assert loaded.reorder == fresh.reorder


def test_the_example_of_the_docstring() -> None:
    known = {"model": DEMO / "digits.onnx", "calibration": DEMO / "digits_calibration.npz"}
    text = pipeline_module.__doc__ or ""
    example = doctest.DocTestParser().get_doctest(text, known, "mcompiler.pipeline", None, None)
    assert len(example.examples) == 8
    failed, _ = doctest.DocTestRunner().run(example)
    assert not failed, "see the captured output"
