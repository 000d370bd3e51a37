"""Effects: the differences between a real chip and an ideal one, one file each.

Each file holds everything that its effect decides: the section of the target that describes it, the checks of that
section, its place in the order of a cell's life, its random draws, how they are correlated. ``base`` is the interface,
``registry`` lists the shipped effects and finds those that installed packages register. Nothing else in the compiler
asks which effect it has (``mcompiler.physics.chip`` takes an array through all of them); training
(``mcompiler.admm.noise``) draws some of them in its own way, and names those.
"""

# The sections of effects are part of the target's schema, and are made of its base class. The schema comes first
# whichever of the two packages is imported first, or an effect's module would import itself through it.
import mcompiler.target  # noqa: F401
from mcompiler.effects.access import ACCESS
from mcompiler.effects.base import (
    ArrayOnChip,
    ConverterErrors,
    Correlation,
    Effect,
    Fluctuation,
    Polynomial,
    TwoStates,
    formed,
    polynomial_deviation,
)
from mcompiler.effects.circuit import Circuit, LineResistances
from mcompiler.effects.converters import CONVERTERS
from mcompiler.effects.curve import CURVE, CellCurve
from mcompiler.effects.drift import DRIFT
from mcompiler.effects.faults import FAULTS
from mcompiler.effects.noise import NOISE
from mcompiler.effects.programming import PROGRAMMING
from mcompiler.effects.registry import (
    EVERY,
    SHIPPED,
    chosen,
    circuit_of,
    described,
    in_order,
    named,
    start_s,
)
from mcompiler.effects.telegraph import TELEGRAPH
from mcompiler.effects.temperature import TEMPERATURE
from mcompiler.effects.wires import WIRES
from mcompiler.encodings.settings import Violations

__all__ = [
    "ACCESS",
    "CONVERTERS",
    "CURVE",
    "DRIFT",
    "EVERY",
    "FAULTS",
    "NOISE",
    "PROGRAMMING",
    "SHIPPED",
    "TELEGRAPH",
    "TEMPERATURE",
    "WIRES",
    "ArrayOnChip",
    "CellCurve",
    "Circuit",
    "ConverterErrors",
    "Correlation",
    "Effect",
    "Fluctuation",
    "LineResistances",
    "Polynomial",
    "TwoStates",
    "Violations",
    "chosen",
    "circuit_of",
    "described",
    "formed",
    "in_order",
    "named",
    "polynomial_deviation",
    "start_s",
]
