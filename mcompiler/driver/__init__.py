"""The compiler from end to end: the list of passes, ``compile``, ``load`` and ``Build``."""

from mcompiler.driver.build import Build, load
from mcompiler.driver.flow import compile, normalise
from mcompiler.driver.inputs import Calibration

__all__ = ["Build", "Calibration", "compile", "load", "normalise"]
