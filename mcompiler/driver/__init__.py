"""The compiler from end to end: ``compile``, ``load`` and ``Build``."""

from mcompiler.driver.build import Build
from mcompiler.driver.flow import compile, execute
from mcompiler.driver.loading import load
from mcompiler.pipeline.inputs import Calibration

__all__ = ["Build", "Calibration", "compile", "execute", "load"]
