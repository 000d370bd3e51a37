"""The digits model that ships with the compiler, compiled once for all tests that only look at the result."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import mcompiler
from mcompiler.driver import Build, compile

DEMO = Path(mcompiler.__file__).parent / "demo"


@cache
def digits_build() -> Build:
    """Compiled for generic_128 with its own calibration data."""
    return compile(DEMO / "digits.onnx", "generic_128", calibration=DEMO / "digits_calibration.npz")
