"""mcompiler compiles trained ONNX models for memristor crossbars and verifies the mapping.

    import mcompiler

    build = mcompiler.compile("model.onnx", "generic_128", calibration="calibration.npz")
    build.verify(x, y)
    build.save("model.build")

docs/python.md describes every public name. A name is imported when it is first used: ``import mcompiler`` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcompiler import pipeline
    from mcompiler.artefacts.programming import Programming
    from mcompiler.artefacts.timeline import BusyInterval, LayerTransfers, ScheduleRecord, StageActivity, Timeline
    from mcompiler.conductance import FaultMap
    from mcompiler.cost import Cost, DataEnergy, LayerCounts, Price, PricedQuantities
    from mcompiler.data import Samples
    from mcompiler.driver import Build, Calibration, compile, load
    from mcompiler.driver.trials import TrialOptions
    from mcompiler.errors import BuildError, CompileError, DataError, ModelError, PassError, TargetError, UserError
    from mcompiler.fates import reason_text
    from mcompiler.ir import (
        BitRange,
        BodyStep,
        Fate,
        ModelNode,
        NodeFate,
        NodeRef,
        Origin,
        Reason,
        ReasonKind,
        Replication,
        StageSchedule,
        Stream,
        Turn,
    )
    from mcompiler.netlist import run_deck
    from mcompiler.pipeline import Observer
    from mcompiler.pricing import Quantity
    from mcompiler.records import (
        BuildOptions,
        LayerRemap,
        LayerReorder,
        PlacementRecord,
        RemapRecord,
        ReorderRecord,
        ReplicationRecord,
    )
    from mcompiler.simulate import Accuracy, ChipResult, LayerCauses, LayerResult, Trials, Verification
    from mcompiler.target import Event, HierarchyUnit, Stale, Target, assumptions, list_targets, load_target


__version__ = "0.1.0"

__all__ = [
    "Accuracy",
    "BitRange",
    "BodyStep",
    "Build",
    "BuildError",
    "BuildOptions",
    "BusyInterval",
    "Calibration",
    "ChipResult",
    "CompileError",
    "Cost",
    "DataEnergy",
    "DataError",
    "Event",
    "Fate",
    "FaultMap",
    "HierarchyUnit",
    "LayerCauses",
    "LayerCounts",
    "LayerRemap",
    "LayerReorder",
    "LayerResult",
    "LayerTransfers",
    "ModelError",
    "ModelNode",
    "NodeFate",
    "NodeRef",
    "Observer",
    "Origin",
    "PassError",
    "PlacementRecord",
    "Price",
    "PricedQuantities",
    "Programming",
    "Quantity",
    "Reason",
    "ReasonKind",
    "RemapRecord",
    "ReorderRecord",
    "Replication",
    "ReplicationRecord",
    "Samples",
    "ScheduleRecord",
    "StageActivity",
    "StageSchedule",
    "Stale",
    "Stream",
    "Target",
    "TargetError",
    "Timeline",
    "TrialOptions",
    "Trials",
    "Turn",
    "UserError",
    "Verification",
    "__version__",
    "assumptions",
    "compile",
    "list_targets",
    "load",
    "load_target",
    "pipeline",
    "reason_text",
    "run_deck",
]

_HOME = {
    "BuildOptions": "mcompiler.records",
    "Timeline": "mcompiler.artefacts.timeline",
    "StageActivity": "mcompiler.artefacts.timeline",
    "BusyInterval": "mcompiler.artefacts.timeline",
    "Replication": "mcompiler.ir",
    "Turn": "mcompiler.ir",
    "Stream": "mcompiler.ir",
    "StageSchedule": "mcompiler.ir",
    "ReplicationRecord": "mcompiler.records",
    "ReorderRecord": "mcompiler.records",
    "RemapRecord": "mcompiler.records",
    "PlacementRecord": "mcompiler.records",
    "LayerReorder": "mcompiler.records",
    "LayerRemap": "mcompiler.records",
    "ScheduleRecord": "mcompiler.artefacts.timeline",
    "LayerTransfers": "mcompiler.artefacts.timeline",
    "Programming": "mcompiler.artefacts.programming",
    "FaultMap": "mcompiler.conductance",
    "Cost": "mcompiler.cost",
    "PricedQuantities": "mcompiler.cost",
    "DataEnergy": "mcompiler.cost",
    "LayerCounts": "mcompiler.cost",
    "Price": "mcompiler.cost",
    "Stale": "mcompiler.target",
    "Quantity": "mcompiler.pricing",
    "Samples": "mcompiler.data",
    "Build": "mcompiler.driver",
    "Calibration": "mcompiler.driver",
    "compile": "mcompiler.driver",
    "load": "mcompiler.driver",
    "TrialOptions": "mcompiler.driver.trials",
    "pipeline": "mcompiler",
    "BuildError": "mcompiler.errors",
    "CompileError": "mcompiler.errors",
    "DataError": "mcompiler.errors",
    "ModelError": "mcompiler.errors",
    "PassError": "mcompiler.errors",
    "TargetError": "mcompiler.errors",
    "UserError": "mcompiler.errors",
    "BitRange": "mcompiler.ir",
    "BodyStep": "mcompiler.ir",
    "Fate": "mcompiler.ir",
    "ModelNode": "mcompiler.ir",
    "NodeFate": "mcompiler.ir",
    "NodeRef": "mcompiler.ir",
    "Origin": "mcompiler.ir",
    "Reason": "mcompiler.ir",
    "ReasonKind": "mcompiler.ir",
    "reason_text": "mcompiler.fates",
    "run_deck": "mcompiler.netlist",
    "Observer": "mcompiler.pipeline",
    "Accuracy": "mcompiler.simulate",
    "ChipResult": "mcompiler.simulate",
    "LayerCauses": "mcompiler.simulate",
    "LayerResult": "mcompiler.simulate",
    "Trials": "mcompiler.simulate",
    "Verification": "mcompiler.simulate",
    "Event": "mcompiler.target",
    "HierarchyUnit": "mcompiler.target",
    "Target": "mcompiler.target",
    "assumptions": "mcompiler.target",
    "list_targets": "mcompiler.target",
    "load_target": "mcompiler.target",
}
"""The module that each public name comes from (PEP 562); a test compares the two lists."""


def __getattr__(name: str) -> Any:
    if name in ("admm", "pipeline"):  # packages; admm is not in __all__: it needs PyTorch
        return importlib.import_module(f"mcompiler.{name}")
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value  # later accesses do not call this function
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | _HOME.keys())
