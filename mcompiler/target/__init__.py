"""Target descriptions: what a crossbar chip is made of. One TOML file, SI units, every number with its source.

The models are the schema (``sections``, ``schema``), ``rules`` what sections must agree on. ``locate`` and ``layers``
find files and put them together, ``load`` reports what is wrong, ``publish`` what others want to know. pydantic is used
nowhere else.
"""

from mcompiler.target.base import Section
from mcompiler.target.imperfections import (
    Correlation,
    Curve,
    Drift,
    Faults,
    Noise,
    OneOverF,
    ProgrammingError,
    Relaxation,
    Telegraph,
    Temperature,
    Write,
)
from mcompiler.target.load import check_target, list_targets, load_target
from mcompiler.target.publish import assumptions, resolved_toml, source_of
from mcompiler.target.schema import Target, json_schema
from mcompiler.target.sections import (
    MEAN_STEPS,
    Adc,
    AdcRange,
    Array,
    Calibration,
    Component,
    Converters,
    Dac,
    Device,
    Digital,
    Encoding,
    Event,
    Hierarchy,
    LayerPrecision,
    Layout,
    Network,
    Partner,
    Pedestal,
    Place,
    Precision,
    Rounding,
    WeightEncoding,
)

__all__ = [
    "MEAN_STEPS",
    "Adc",
    "AdcRange",
    "Array",
    "Calibration",
    "Component",
    "Converters",
    "Correlation",
    "Curve",
    "Dac",
    "Device",
    "Digital",
    "Drift",
    "Encoding",
    "Event",
    "Faults",
    "Hierarchy",
    "LayerPrecision",
    "Layout",
    "Network",
    "Noise",
    "OneOverF",
    "Partner",
    "Pedestal",
    "Place",
    "Precision",
    "ProgrammingError",
    "Relaxation",
    "Rounding",
    "Section",
    "Target",
    "Telegraph",
    "Temperature",
    "WeightEncoding",
    "Write",
    "assumptions",
    "check_target",
    "json_schema",
    "list_targets",
    "load_target",
    "resolved_toml",
    "source_of",
]
