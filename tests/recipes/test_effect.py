"""The recipe "add an effect": one file in another package, and a target that describes it.

The package registers the effect by an entry point, as an installed one does. No file of the compiler changes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

ROOT = Path(__file__).resolve().parents[2]

EFFECT = '''
"""Ageing: cells lose a share of their conductance, each its own."""

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from mcompiler.effects import ArrayOnChip, Effect
from mcompiler.target.base import NonNegativeFloat, Section, Share


class Ageing(Section):
    """Conductances after years of use: g x (1 - loss), with a spread."""

    loss: Share = Field(description="mean share of the conductance that is lost")
    spread: NonNegativeFloat = Field(default=0.0, description="deviation of that share over cells")


def _leaves_current(ageing):
    if ageing.loss + ageing.spread > 1:
        yield "effects.ageing.spread", f"{ageing.spread:g} more than all of the conductance; give less"


@dataclass(frozen=True)
class AgeingEffect(Effect):
    name = "ageing"
    order = 25  # after drift, before noise
    section = Ageing
    rules = (_leaves_current,)

    def change_cells(self, G, array: ArrayOnChip):
        ageing = array.target.effect_section(Ageing)
        loss = ageing.loss + ageing.spread * array.rng(self).standard_normal(G.shape)
        return G * np.clip(1 - loss, 0, None)
'''

TARGET = """
extends = "generic_128"

[array]
rows = 16
rows_active = 16
columns = 16
source = "assumption: small arrays"

[effects.ageing]
loss = 0.1
spread = 0.05
source = "assumption: test"
"""


def register(folder: Path, *, code: str = EFFECT, target: str = "ageing_package:AgeingEffect") -> Path:
    """A package with one module, as pip would leave it in a folder of sys.path."""
    package = folder / "site"
    info = package / "ageing_package-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ageing-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mcompiler.effects]\nageing = {target}\n")
    (package / "ageing_package.py").write_text(code)
    return package


def product(path: Path) -> None:
    """A model with one product, 12 -> 5."""
    matrix = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "matrix"], ["y"], name="product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


class Shell:
    """The command line with the package on its path."""

    def __init__(self, folder: Path, package: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(package)])}

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "mcompiler", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    folder = tmp_path_factory.mktemp("recipe")
    product(folder / "model.onnx")
    (folder / "aged.toml").write_text(TARGET)
    return Shell(folder, register(folder))


def verified(shell: Shell, *arguments: str) -> Any:
    return json.loads(shell("verify", "model.build", "--limit", "8", "--json", *arguments))


def test_an_effect_of_another_package_moves_the_figures(shell: Shell) -> None:
    shell("compile", "model.onnx", "--target", "aged.toml", "--calibration", "random")
    aged = verified(shell, "--effects", "ageing")
    assert aged["effects"] == ["ageing"]
    assert aged["sqnr_db"] is not None
    assert aged["layers"][0]["causes_sqnr_db"]["ageing"] < 30
    both = verified(shell, "--effects", "ageing,programming")
    assert both["effects"] == ["programming", "ageing"], "in the order of a cell's life"
    assert verified(shell, "--effects", "all")["effects"] == ["programming", "ageing", "faults"]
    assert "[effects.ageing]" in (shell.folder / "model.build" / "target.toml").read_text()


def test_switched_off_it_changes_nothing(shell: Shell) -> None:
    assert verified(shell)["exact"] is True


def test_a_target_describes_it_as_it_describes_others(shell: Shell) -> None:
    assert "loss = 0.1" in shell("targets", "show", "aged.toml")
    schema = json.loads(shell("targets", "schema"))
    published = schema["$defs"]["Target"]["properties"]["effects"]
    text = json.dumps(schema)
    assert "mean share of the conductance that is lost" in text
    assert published != {"additionalProperties": False, "type": "object"}
    wrong = shell.folder / "wrong.toml"
    wrong.write_text(
        'extends = "generic_128"\n[effects.ageing]\nlos = 0.1\nspread = "much"\n[effects.agein]\nloss = 1\n'
    )
    said = shell("targets", "check", "wrong.toml", code=1)
    assert "effects.ageing.los: unknown key; did you mean 'loss'?" in said
    assert "effects.ageing.loss: missing" in said
    assert "effects.ageing.spread: must be a number, not 'much'" in said
    assert "effects.agein: no installed package adds an effect of this name to targets; did you mean 'ageing'?" in said
    assert "no source for los" not in said
    wrong.write_text('extends = "aged.toml"\n[effects.ageing]\nspread = 0.95\nsource = "assumption: test"\n')
    assert "effects.ageing.spread: 0.95 more than all" in shell("targets", "check", "wrong.toml", code=1)


@pytest.mark.parametrize(
    ("code", "target", "fault"),
    [
        (
            "import no_such_module",
            "ageing_package:AgeingEffect",
            "cannot be imported: No module named 'no_such_module'",
        ),
        ("AgeingEffect = 3", "ageing_package:AgeingEffect", "is not that effect"),
        (EFFECT.replace("order = 25", ""), "ageing_package:AgeingEffect", "has no order"),
    ],
)
def test_a_broken_package_is_named(tmp_path: Path, code: str, target: str, fault: str) -> None:
    (tmp_path / "aged.toml").write_text(TARGET)
    shell = Shell(tmp_path, register(tmp_path, code=code, target=target))
    said = shell("targets", "check", "aged.toml", code=1)
    assert "effect 'ageing': " in said
    assert target in said
    assert fault in said
    shell("targets", "check", "generic_128")
    shell("--help")


def test_it_survives_pickling(shell: Shell) -> None:
    code = (
        "import pickle\n"
        "from mcompiler.effects import named\n"
        "from mcompiler.physics.chip import Chip\n"
        "from mcompiler.target import load_target\n"
        "chip = Chip(load_target('aged.toml'), 0, named('ageing'), 1.0)\n"
        "assert pickle.loads(pickle.dumps(chip)) == chip\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=shell.folder, env=shell.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
