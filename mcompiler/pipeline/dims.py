"""Sizes of the dimensions that a model leaves open: given, required by its constants, or guessed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from mcompiler.data import InputSpec, batch_size, batches, random_samples, sample_shape
from mcompiler.errors import CompileError, ModelError
from mcompiler.graph import constant, int_attr, ints_attr, standard
from mcompiler.ir import GraphProgram
from mcompiler.pipeline.inputs import Say
from mcompiler.runtime import RunError, Session, input_specs

GUESSES = (1, 16, 32, 64, 128, 224, 256, 512, 1024, *range(2, 16), 20, 24, 28, 48, 50, 96, 100, 192, 299, 384, 416, 640)
"""Sizes tried, in this order, for a dimension that the model leaves open and ``--dim`` does not give."""

IMAGE_RANK = 4
"""Dimensions from which an input is an image."""

TRIAL_ELEMENTS = 1 << 24
"""Inputs larger than this are not tried."""


def open_dims(program: GraphProgram, session: Session, dims: Mapping[str, int], say: Say) -> dict[str, int]:
    """Sizes of the symbolic dimensions: given ones, and a printed guess for the others.

    Args:
        program: the model.
        session: the model in onnxruntime, which says whether a guess is accepted.
        dims: sizes given.
        say: receives notes about guesses.

    Raises:
        CompileError: a dimension that the model does not have, or none of the guesses runs.
        ModelError: an input without any shape, which nothing can be drawn for.
    """
    specs = input_specs(session, program.model)
    free = _free_dims(specs)
    unknown = sorted(
        set(dims) - free - {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], str)}
    )
    if unknown:
        raise CompileError(
            f"--dim {unknown[0]}: the model has no such dimension; it has "
            f"{', '.join(sorted(free)) or 'none that is open'}"
        )
    missing = sorted(free - set(dims))
    if not missing:
        _refuse_shapeless(program.model, session, specs, dims)
        return dict(dims)
    failure = "its inputs are too large"
    for guess in _guesses(missing, dims, _sizes_from_constants(program.model, specs)):
        trial = {**dims, **guess}
        if _elements(specs, trial) > TRIAL_ELEMENTS:
            continue
        failure = _failure(session, specs, trial)
        if not failure:
            guessed = ", ".join(f"{name}={trial[name]}" for name in missing)
            say(f"guessed {guessed}; give --dim {missing[-1]}=N for another size")
            for note in _image_notes(specs, {name: trial[name] for name in missing}):
                say(note)
            return trial
    _refuse_shapeless(program.model, session, specs, dims)
    raise CompileError(
        f"no size is known for dimension(s) {', '.join(missing)}, and onnxruntime runs with none of "
        f"{len(GUESSES)} sizes from 1 to 1024; give --dim {missing[0]}=N (the last trial: {failure})"
    )


def _image_notes(specs: tuple[InputSpec, ...], guessed: Mapping[str, int]) -> Iterator[str]:
    """Warnings about images for which sizes of 1 were guessed."""
    for spec in specs:
        names = [size for size in spec.shape[1:] if isinstance(size, str) and guessed.get(size) == 1]
        if len(spec.shape) >= IMAGE_RANK and names:
            shown = " x ".join(
                str(guessed.get(size, size) if isinstance(size, str) else size) for size in spec.shape[1:]
            )
            yield (
                f"warning: the image '{spec.name}' is taken as {shown}, because a size of 1 runs; costs and ranges are "
                f"those of such an image; give {' '.join(f'--dim {name}=N' for name in names)}"
            )


def _free_dims(specs: tuple[InputSpec, ...]) -> set[str]:
    """Names of open dimensions other than the sample axis."""
    skip = 0 if batch_size(specs) is None else 1
    heads = {spec.shape[0] for spec in specs if spec.shape} if skip else set()
    return {size for spec in specs for size in spec.shape[skip:] if isinstance(size, str)} - heads


def _elements(specs: tuple[InputSpec, ...], dims: Mapping[str, int]) -> int:
    batched = batch_size(specs) is not None
    return sum(math.prod(sample_shape(spec, batched, dims)) for spec in specs)


def _failure(session: Session, specs: tuple[InputSpec, ...], dims: Mapping[str, int]) -> str:
    """The error of onnxruntime for these sizes; empty where it runs."""
    sample = random_samples(specs, 1, np.random.default_rng(0), dims)
    feeds, _ = next(batches(specs, sample))
    try:
        session.run(feeds)
    except RunError as error:
        return str(error)
    return ""


def _refuse_shapeless(model: ir.Model, session: Session, specs: tuple[InputSpec, ...], dims: Mapping[str, int]) -> None:
    """An input whose shape the model does not state is taken for a scalar; where that does not run, say so."""
    bare = [value.name for value in model.graph.inputs if value.shape is None]
    if bare and _failure(session, specs, dims):
        raise ModelError(
            f"input '{bare[0]}' states no shape, not even a number of dimensions; write it into the model (export it "
            "again with example inputs, or set it with onnx.tools.update_model_dims)"
        )


def _guesses(
    missing: Sequence[str], dims: Mapping[str, int], fixed_sizes: Mapping[str, int]
) -> Iterator[dict[str, int]]:
    """Sizes to try for the missing dimensions: the same for all but those that a name or a constant says more about."""
    batches = {name: 1 for name in missing if name.lower().startswith("batch") or name in {"N", "B"}}
    known = {name: size for name, size in fixed_sizes.items() if name in missing}
    others = [name for name in missing if name not in batches]
    totals = {name for name in others if name.lower().startswith("total")}  # a sum: past and present of a decoder
    for guess, fixed in itertools.product(GUESSES, ({**batches, **known}, known, {})):
        trial = {**dict.fromkeys(missing, guess), **fixed}
        yield _derived(trial, dims)
        if totals and totals != set(others):
            yield {**trial, **dict.fromkeys(totals, guess * (len(others) - len(totals)))}


def _derived(trial: dict[str, int], dims: Mapping[str, int]) -> dict[str, int]:
    """The trial where a dimension named as an expression ("past_length + 1") follows from the dimensions in it."""
    sizes = {**dims, **trial}
    result = dict(trial)
    for name in trial:
        try:
            size = ir.SymbolicDim(name).evaluate({key: value for key, value in sizes.items() if key != name})
        except ValueError:  # a name that is no expression
            continue
        if isinstance(size, int) and size > 0:
            result[name] = size
    return result


# --- sizes from constants --------------------------------------------------------------------------------------------


def _sizes_from_constants(model: ir.Model, specs: tuple[InputSpec, ...]) -> dict[str, int]:
    """Sizes of dimensions that the constants of the first operators fix: channels, features."""
    shapes = {spec.name: spec.shape for spec in specs}
    found: dict[str, int] = {}
    for value in model.graph.inputs:
        shape = shapes.get(value.name or "", ())
        for axis, size in _fixed_axes(value, len(shape), set()):
            name = shape[axis]
            if isinstance(name, str):
                found.setdefault(name, size)
    return found


def _fixed_axes(value: ir.Value, dims: int, seen: set[ir.Value]) -> Iterator[tuple[int, int]]:
    """(axis, size) of a value of ``dims`` dimensions, from its readers, through operators that keep the shape."""
    if value in seen:
        return
    seen.add(value)
    for node, position in value.uses():
        for axis, size in _sizes_required_by(node, position, dims):
            if -dims <= axis < dims:
                yield axis % dims, size
        if standard(node, *_SAME_SHAPE):
            yield from _fixed_axes(node.outputs[0], dims, seen)
        elif standard(node, "Transpose"):
            perm = ints_attr(node, "perm") or tuple(reversed(range(dims)))
            if len(perm) == dims:
                yield from ((perm[axis], size) for axis, size in _fixed_axes(node.outputs[0], dims, seen))


def _sizes_required_by(node: ir.Node, position: int, dims: int) -> Iterator[tuple[int, int]]:
    """(axis, size) that a node with constants requires of its input number ``position``."""
    other = node.inputs[1 - position] if len(node.inputs) > 1 and position < 2 else None
    array = constant(other)
    if array is None:
        return
    shape = array.shape
    if position == 0 and standard(node, "Conv") and len(shape) > 1:
        yield 1, shape[1] * int_attr(node, "group", 1)
    elif position == 0 and standard(node, "LSTM", "GRU", "RNN") and len(shape) == 3:
        yield 2, shape[2]
    elif position == 0 and standard(node, "BatchNormalization", "InstanceNormalization", "ConvTranspose") and shape:
        yield 1, shape[0]
    elif standard(node, "MatMul") and shape:
        yield (-1, shape[-2] if len(shape) > 1 else shape[0]) if position == 0 else (-2 if dims > 1 else -1, shape[-1])
    elif position == 0 and standard(node, "Gemm") and len(shape) == 2:
        yield 0 if int_attr(node, "transA", 0) else 1, shape[1] if int_attr(node, "transB", 0) else shape[0]
    elif standard(node, "Add", "Sub", "Mul", "Div") and len(shape) <= dims:
        yield from ((axis - len(shape), size) for axis, size in enumerate(shape) if size != 1)


_SAME_SHAPE = ("Add", "Sub", "Mul", "Div", "Cast", "Identity", "Relu", "Clip", "Sigmoid", "Tanh")
