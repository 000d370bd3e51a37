"""Models as they come from exporters and zoos, through the command line; where a collection is beside the checkout."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import onnx
import pytest

from mcompiler.cli.main import run
from tests.support.models import SHARED_MODELS

ROWS = SHARED_MODELS / "MODELS.tsv"


def listed() -> list[tuple[str, bool]]:
    """(file, whether onnxruntime runs it); empty where there is no collection."""
    if not ROWS.is_file():
        return []
    with ROWS.open(encoding="utf-8") as file:
        header, *rows = csv.reader(file, delimiter="\t")
    return [(row[0], row[header.index("onnxruntime")] == "runs") for row in rows]


@pytest.mark.slow
@pytest.mark.skipif(not ROWS.is_file(), reason="no collection of models beside this checkout")
@pytest.mark.parametrize(("name", "runs"), listed())
def test_exact_or_refused_with_a_reason(
    name: str, runs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = SHARED_MODELS / name
    if not path.is_file():
        pytest.skip(f"{name} is not in the collection")
    monkeypatch.chdir(tmp_path)
    code = run(["compile", str(path), "--calibration", "random", "--out", "b", "--json"])
    said = capsys.readouterr()
    if code == 1:
        message = json.loads(said.out)["error"]
        assert said.err.rstrip().endswith(message)
        assert 20 < len(message) < 2000
        assert not (tmp_path / "b").exists()
        if runs and not name.startswith("qonnx") and ".qop." not in name:
            pytest.xfail(f"refused: {message}")
        return
    assert code == 0, said.err
    assert runs, "what onnxruntime does not run is refused"
    nodes = json.loads(said.out)["nodes"]
    assert run(["verify", "b", "--limit", "4", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["exact"] is True
    assert len(result["layers"]) <= sum(node["fate"] == "analog" for node in nodes)
    sources = [
        [v.name for v in onnx.load(p, load_external_data=False).graph.output]
        for p in (path, tmp_path / "b" / "mapped.onnx")
    ]
    assert sources[0] == sources[1]


@pytest.mark.slow
@pytest.mark.skipif(not ROWS.is_file(), reason="no collection of models beside this checkout")
@pytest.mark.parametrize("chip", ["generic_128", "isaac", "yuan2019"])
def test_a_trained_network_keeps_its_answers(chip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """LeNet-5 on random images: lossless targets are exact, and the 5-bit one agrees with its own reference."""
    path = SHARED_MODELS / "mnist_lenet5.torch-ts.op13.onnx"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in the collection")
    out = tmp_path / "b"
    assert run(["compile", str(path), "--target", chip, "--calibration", "random", "--out", str(out), "--json"]) == 0
    capsys.readouterr()
    assert run(["verify", str(out), "--limit", "8", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["exact"] is (chip != "yuan2019")
    assert run(["verify", str(out), "--limit", "8", "--ideal", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exact"] is True
