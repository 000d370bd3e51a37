"""Compare an exported file with the model that it was exported from, whatever the cause of a difference may be."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import nn

from mcompiler.admm.export import name_file_inputs, to_onnx
from mcompiler.admm.input_quantiser import InputFakeQuantiser
from mcompiler.admm.inputs import Inputs, list_tensors, move_inputs, run_model
from mcompiler.admm.lowering import CompressibleLayer
from mcompiler.errors import CompileError
from mcompiler.runtime import RunError, Session, open_model

TOLERANCE = 1e-3
"""Difference that rounding in another order may make, relative to the largest output."""

Outputs = Sequence[npt.NDArray[Any]]


def check_exported(
    model: nn.Module,
    layers: Mapping[str, CompressibleLayer],
    pairs: Sequence[tuple[str, str]],
    example: Inputs,
    when: str,
) -> ir.Model:
    """Export the model, run the file on the example and compare its outputs with those of the model.

    Args:
        model: the model; it is not changed.
        layers: its compressible layers.
        pairs: (layer, normalisation that follows it) by name.
        example: inputs.
        when: stage of the compression, for the message.

    Returns:
        The file's model.

    Raises:
        CompileError: outputs that differ by more than rounding explains.
        ModelError: a model that torch.onnx cannot export or onnxruntime does not run.
    """
    tested, inputs = copy.deepcopy(model).cpu().eval(), move_inputs(example, "cpu")
    quantisers = [part for part in tested.modules() if isinstance(part, InputFakeQuantiser) and part.frozen]
    real = run_in_evaluation(tested, inputs)
    # Rounding that differs in the last place can move a value to the next input code, so with quantised inputs two
    # correct computations differ by up to what this quantisation changes. They are compared without it first, where
    # they must agree closely.
    for quantiser in quantisers:
        quantiser.frozen = False
    plain = run_in_evaluation(tested, inputs) if quantisers else real
    exported = to_onnx(tested, layers, pairs, inputs)
    _compare(plain, _run_file(exported, tested, inputs), when)
    if quantisers:
        for quantiser in quantisers:
            quantiser.frozen = True
        exported = to_onnx(tested, layers, pairs, inputs)
        _compare(real, _run_file(exported, tested, inputs), when, plain)
    return exported


def check_same_outputs(before: nn.Module, after: nn.Module, example: Inputs) -> None:
    """Compare a model before and after the removal of unused paths.

    Raises:
        CompileError: outputs that differ by more than rounding explains.
    """
    inputs = move_inputs(example, "cpu")
    one, other = (run_in_evaluation(copy.deepcopy(model).cpu(), inputs) for model in (before, after))
    difference = _measure_difference(one, other, one)
    if difference is not None:
        raise CompileError(
            f"removing unused paths changes the outputs of the model by {difference}; a module computes something that "
            "its trace does not show: set `remove_paths = false`"
        )


@torch.no_grad()
def run_in_evaluation(model: nn.Module, inputs: Inputs) -> Outputs:
    """The outputs of the model in inference mode, as arrays; the model is in that mode afterwards."""
    return [value.detach().numpy() for value in list_tensors(run_model(model.eval(), inputs))]


def _run_file(exported: ir.Model, model: nn.Module, inputs: Inputs) -> Outputs:
    """The outputs of the exported model on all samples; one by one where it does not take several at once."""
    session = open_model(exported, optimise=False, origin="the exported model")
    feeds = {name: value.numpy() for name, value in name_file_inputs(model, inputs).items()}
    try:
        together = _run_session(session, feeds)
    except RunError as error:
        together, cause = None, error
    samples = len(next(iter(feeds.values())))
    if together is not None and all(len(value) == samples for value in together if value.ndim):
        return together
    try:
        parts = [
            _run_session(session, {name: value[place : place + 1] for name, value in feeds.items()})
            for place in range(samples)
        ]
    except RunError:
        if together is not None:
            return together
        raise CompileError(f"the exported model does not run on the example: {cause}") from None
    return [np.concatenate(values) if values[0].ndim else values[0] for values in zip(*parts, strict=True)]


def _run_session(session: Session, feeds: Mapping[str, npt.NDArray[Any]]) -> Outputs:
    return list(session.run({spec.name: feeds[spec.name] for spec in session.inputs}).values())


def _compare(real: Outputs, found: Outputs, when: str, without_codes: Outputs | None = None) -> None:
    difference = _measure_difference(real, found, real if without_codes is None else without_codes)
    if difference is not None:
        raise CompileError(
            f"{when}: the exported file does not compute what the model in PyTorch computes; on the example their "
            f"outputs differ by {difference}. The export records one run of forward: use modules in place of control "
            "flow that depends on data, and no hooks, random numbers or state that changes from call to call"
        )


def _measure_difference(real: Outputs, found: Outputs, rough: Outputs) -> str | None:
    """The difference of outputs in words, where it is larger than rounding and the difference of a rougher result.

    Args:
        real, found: the outputs to compare.
        rough: outputs that may differ from ``real`` as much as ``found`` may.
    """
    if len(real) != len(found):
        return f"their number, {len(real)} and {len(found)}"
    for one, other, third in zip(real, found, rough, strict=True):
        if one.shape != other.shape:
            return f"their shapes, {list(one.shape)} and {list(other.shape)}"
        if not one.size:
            continue
        exact, given, allowed = (np.asarray(value, dtype=np.float64) for value in (one, other, third))
        finite = np.isfinite(exact)
        if not np.array_equal(exact[~finite], given[~finite], equal_nan=True):
            return "values that are not finite in one only"
        largest = np.abs(exact[finite]).max(initial=0.0)
        limit = TOLERANCE * largest + np.abs(exact - allowed)[finite].max(initial=0.0) + 1e-9
        difference = np.abs(exact - given)[finite].max(initial=0.0)
        if not difference <= limit:
            return f"{difference / largest if largest else difference:.2%} of the largest"
    return None
