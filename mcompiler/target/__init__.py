"""Target descriptions: a crossbar chip as one TOML file in SI units, with a source for every number.

The pydantic models are the schema (``sections``, ``converters``, ``chip``, ``components``, ``writing``, ``figures``,
and ``schema`` for the whole; sections that describe errors of devices belong to their effects, ``mcompiler.effects``);
``rules`` are the conditions between sections. ``locate`` finds files, ``layers`` merges them, ``load`` validates the
result and reports every problem, ``publish`` writes a target and lists its assumptions.
"""

from mcompiler.effects.base import Correlation
from mcompiler.effects.curve import Curve
from mcompiler.effects.drift import Drift, Relaxation
from mcompiler.effects.faults import Faults
from mcompiler.effects.noise import Noise, OneOverF
from mcompiler.effects.programming import ProgrammingVariation
from mcompiler.effects.retention import Retention
from mcompiler.effects.telegraph import Telegraph
from mcompiler.effects.temperature import Temperature
from mcompiler.encodings import Partner, Pedestal
from mcompiler.target.base import Section
from mcompiler.target.chip import Digital, Hierarchy, NetworkSection, Skip
from mcompiler.target.components import Component, Each, Event, HierarchyUnit
from mcompiler.target.converters import (
    AdcRange,
    AdcSection,
    ChipCalibration,
    Converters,
    Dac,
    RangePer,
    Rounding,
)
from mcompiler.target.counts import LEVELS, UnitCounts, adcs_of, unit_counts
from mcompiler.target.load import check_target, list_targets, load_target
from mcompiler.target.prices import ComponentPrice, Stale, prices, stale_prices
from mcompiler.target.publish import assumptions, resolved_toml, source_of
from mcompiler.target.quantities import input_power, level_siemens, quantities, segment_farads
from mcompiler.target.schema import Target, json_schema
from mcompiler.target.sections import (
    MEAN_STEPS,
    Array,
    Device,
    Encoding,
    LayerPrecision,
    Layout,
    Precision,
)
from mcompiler.target.writing import Write

__all__ = [
    "LEVELS",
    "MEAN_STEPS",
    "AdcRange",
    "AdcSection",
    "Array",
    "ChipCalibration",
    "Component",
    "ComponentPrice",
    "Converters",
    "Correlation",
    "Curve",
    "Dac",
    "Device",
    "Digital",
    "Drift",
    "Each",
    "Encoding",
    "Event",
    "Faults",
    "Hierarchy",
    "HierarchyUnit",
    "LayerPrecision",
    "Layout",
    "NetworkSection",
    "Noise",
    "OneOverF",
    "Partner",
    "Pedestal",
    "Precision",
    "ProgrammingVariation",
    "RangePer",
    "Relaxation",
    "Retention",
    "Rounding",
    "Section",
    "Skip",
    "Stale",
    "Target",
    "Telegraph",
    "Temperature",
    "UnitCounts",
    "Write",
    "adcs_of",
    "assumptions",
    "check_target",
    "input_power",
    "json_schema",
    "level_siemens",
    "list_targets",
    "load_target",
    "prices",
    "quantities",
    "resolved_toml",
    "segment_farads",
    "source_of",
    "stale_prices",
    "unit_counts",
]
