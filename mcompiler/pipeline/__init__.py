"""The compiler as a value: passes in their order, with their options, for a model and a target.

``mcompiler.compile`` is ``default(model, target, ...)`` run to its end. A pipeline can also be run in part, its program
looked at or changed, and resumed; passes can be replaced, inserted and removed:

    >>> import dataclasses, mcompiler
    >>> pipeline = mcompiler.pipeline.default(model, "generic_128", calibration=calibration)
    >>> tiled = pipeline.run(until="tile")
    >>> [len(table) for table in tiled.tables]
    [1, 4, 12, 2]
    >>> placed = pipeline.resume(tiled, after="tile", until="place")
    >>> quick = pipeline.replace("place", dataclasses.replace(pipeline["place"], effort=0))
    >>> scheduled = quick.resume(placed.analog, after="assign")
    >>> scheduled.interval_s > 0
    True

What a pass declares is in ``mcompiler.declarations``.
"""

from mcompiler.declarations import Option, Pass, Record
from mcompiler.pipeline.cache import Cache
from mcompiler.pipeline.normalise import GRAPH_PASSES
from mcompiler.pipeline.options import option_table
from mcompiler.pipeline.runner import Observer, Outcome, Runner
from mcompiler.pipeline.standard import PASSES, default
from mcompiler.pipeline.value import Pipeline, Source
from mcompiler.target.view import KeysWhere

__all__ = [
    "GRAPH_PASSES",
    "PASSES",
    "Cache",
    "KeysWhere",
    "Observer",
    "Option",
    "Outcome",
    "Pass",
    "Pipeline",
    "Record",
    "Runner",
    "Source",
    "default",
    "option_table",
]
