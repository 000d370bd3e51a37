"""Cells that no code needs cost no memory: compile and prove in a process whose memory is limited."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx_ir as ir
import pytest

from tests.support.builds import gemm_case

LIMIT_BYTES = 512 << 20
"""Resident memory of the process; libraries and these models take less than half of it."""

SCRIPT = """
import json, pathlib, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))  # gigabytes fail at once
import mcompiler
build = mcompiler.compile(sys.argv[1], "{base}", calibration="random", overrides={overrides})
verified = build.verify(limit=2)
# Not ru_maxrss, which begins with the size of the process that started this one.
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
peak = int(status["VmHWM"].split()[0]) << 10
print(json.dumps([list(verified.failures), peak, build.cost.crossbars]))
"""


@pytest.mark.parametrize(
    ("base", "overrides"),
    [
        ("generic_128", ["encoding.slices=7", "device.levels=256", "converters.adc.bits=6"]),
        ("isaac", ["encoding.slices=31", "converters.adc.bits=6"]),
        pytest.param("generic_128", ["device.levels=256"], marks=pytest.mark.slow),
        pytest.param("generic_128", ["encoding.slices=16"], marks=pytest.mark.slow),
        pytest.param("generic_128", ["encoding.slices=16", "converters.adc.bits=4"], marks=pytest.mark.slow),
        pytest.param("isaac", ["encoding.slices=16"], marks=pytest.mark.slow),
    ],
)
def test_tables_of_codes_grow_with_the_codes_in_use(base: str, overrides: list[str], tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    ir.save(gemm_case(transposed=True, rows=128, cols=128).model, model)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(base=base, overrides=overrides), str(model)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    failures, peak, crossbars = json.loads(done.stdout)
    assert failures == []
    assert crossbars > 0
    assert peak < LIMIT_BYTES
