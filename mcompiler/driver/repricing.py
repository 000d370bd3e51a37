"""What another target changes of a build: prices only, or results of a stage of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping

from mcompiler.cost.tables import COUNT_KEYS
from mcompiler.errors import BuildError
from mcompiler.pipeline import Pipeline
from mcompiler.target import Target
from mcompiler.target.messages import show_value
from mcompiler.target.view import KeyPath, changed_keys, covers, declared_keys

StageReads = Mapping[str, tuple[str, ...]]
"""Keys of the target that each stage of a compilation reads, by name of the stage, first stage first."""

COUNT = "count"
"""The stage after the last pass: counting what has a price."""


def stage_reads(pipeline: Pipeline) -> StageReads:
    """The keys that the passes of a pipeline and the counting of events read of its target."""
    reads: dict[str, tuple[str, ...]] = {}
    for step in pipeline.passes:
        keys = declared_keys(pipeline.target, step.reads)
        reads[step.name] = (*reads.get(step.name, ()), *keys)
    return {**reads, COUNT: declared_keys(pipeline.target, COUNT_KEYS)}


def first_reader(reads: StageReads, path: KeyPath) -> str | None:
    """The first stage that reads a key; None: the key changes prices at most."""
    return next((name for name, keys in reads.items() if any(covers(key, path) for key in keys)), None)


def check_prices_only(reads: StageReads, before: Target, after: Target) -> None:
    """Check that two targets differ only in keys that no stage reads.

    Raises:
        BuildError: names every other key that differs, the first stage that reads it, and the remedy.
    """
    faults = []
    for path, value in changed_keys(before, after).items():
        stage = first_reader(reads, path)
        if stage is not None:
            key = ".".join(path)
            given = "" if value is None else f" {key}={show_value(value)}"
            faults.append(
                f"{key} changes more than prices: compile again with --set{given} (first stage that reads it: {stage})"
            )
    if faults:
        raise BuildError("\n".join(faults))
