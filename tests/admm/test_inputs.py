"""Wrapped models, dict batches, and forward with optional arguments."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("torch", reason="needs the extra 'admm'")
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mcompiler import admm
from mcompiler.admm.inputs import find_given_parameters, unwrap_model
from mcompiler.errors import CompileError

SPEC = admm.Spec(
    layers={"a": admm.Structure(filters=4)}, admm=admm.Admm(rho=(1e-1,), epochs=1), retrain=admm.Retrain(epochs=1)
)


class Optional(nn.Module):
    """A forward as the models of the Transformers library have it: options, and a dict as its result."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(
        self, first: torch.Tensor, labels: torch.Tensor | None = None, *, second: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        logits = self.b(self.a(first if second is None else first + 2 * second).relu())
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def dict_batches(count: int = 3) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "second": torch.randn(8, 6, generator=generator),
            "labels": torch.randint(0, 3, (8,), generator=generator),
            "first": torch.randn(8, 6, generator=generator),
        }
        for _ in range(count)
    ]


def loss(output: dict[str, torch.Tensor], y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(output["logits"], y)


@pytest.mark.parametrize("remove_paths", [True, False])
def test_dict_batches_are_keyword_arguments(remove_paths: bool, tmp_path: Path) -> None:
    spec = admm.Spec(layers=SPEC.layers, admm=SPEC.admm, retrain=SPEC.retrain, remove_paths=remove_paths)
    data = dict_batches()
    result = admm.compress(
        Optional(), data, "generic_128", spec, loss=loss, test=data, device="cpu", progress=False, out=tmp_path
    )
    assert 0 <= result.figures["quantised"] <= 1
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert [entry.name for entry in session.get_inputs()] == ["first", "second"]
    x = {name: value for name, value in data[0].items() if name != "labels"}
    found = session.run(None, {name: value.numpy() for name, value in x.items()})[0]
    with torch.no_grad():
        real = result.model(**x)["logits"].numpy()
    assert np.abs(found - real).max() < 0.02 * np.abs(real).max()


def test_a_dict_without_labels_is_refused() -> None:
    with pytest.raises(CompileError, match="a batch is a dict without 'labels'"):
        admm.compress(Optional(), [{"first": torch.ones(2, 6)}], "generic_128", SPEC, device="cpu", progress=False)


def test_arguments_that_are_not_given_keep_their_defaults() -> None:
    model = Optional()
    assert find_given_parameters(model, (torch.ones(1, 6),)) == ["first"]
    assert find_given_parameters(model, {"second": 1, "first": 1}) == ["first", "second"]
    with pytest.raises(CompileError, match="forward has no parameter 'mask'; its parameters are first, labels, second"):
        find_given_parameters(model, {"mask": 1})
    pairs = [(batch["first"], batch["labels"]) for batch in dict_batches()]
    result = admm.compress(model, pairs, "generic_128", SPEC, loss=loss, device="cpu", progress=False)
    assert tuple(result.layers["a"].weight.shape) == (4, 6)


def run_own_loop(outer: Any, model: Any, compressor: admm.Compressor) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for batch in dict_batches():
        optimiser.zero_grad()
        (outer(**batch)["loss"] + compressor.penalty()).backward()
        optimiser.step()
    compressor.update()


@pytest.mark.parametrize("wrapper", ["data parallel", "compiled", "none"])
def test_a_loop_around_a_wrapped_model(wrapper: str, tmp_path: Path) -> None:
    model = Optional()
    outer: Any = {
        "data parallel": lambda: DataParallel(model),
        "compiled": lambda: torch.compile(model, backend="eager"),  # type: ignore[no-untyped-call]
        "none": lambda: model,
    }[wrapper]()
    assert unwrap_model(outer) is model
    compressor = admm.Compressor(outer, "generic_128", SPEC)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler of PyTorch
        run_own_loop(outer, model, compressor)
        compressor.project()
        run_own_loop(outer, model, compressor)
        outputs = outer(**dict_batches()[0])["logits"]
    assert int((model.a.weight != 0).any(dim=1).sum()) <= 4
    assert torch.equal(outputs, model(**dict_batches()[0])["logits"])
    plain = Optional()
    reference = admm.Compressor(plain, "generic_128", SPEC)
    run_own_loop(plain, plain, reference)
    reference.project()
    run_own_loop(plain, plain, reference)
    assert torch.allclose(model.a.weight, plain.a.weight, atol=1e-6)
    compressor.export(tmp_path / "own.onnx", {"first": torch.ones(2, 6)})


def test_distributed_data_parallel_before_and_after_the_projection(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        model, plain = Optional(), Optional()
        outer = DistributedDataParallel(model)
        compressor, reference = admm.Compressor(outer, "generic_128", SPEC), admm.Compressor(plain, "generic_128", SPEC)
        for around, inside, parts in ((outer, model, compressor), (plain, plain, reference)):
            run_own_loop(around, inside, parts)
            parts.project()
            run_own_loop(around, inside, parts)
        again = DistributedDataParallel(model)
        run_own_loop(again, model, compressor)
    finally:
        dist.destroy_process_group()
    run_own_loop(plain, plain, reference)
    assert torch.equal(model.a.weight, plain.a.weight)


def test_the_whole_recipe_takes_a_wrapped_model() -> None:
    data = dict_batches()
    result = admm.compress(DataParallel(Optional()), data, "generic_128", SPEC, loss=loss, device="cpu", progress=False)
    assert set(result.layers) == {"a", "b"}
