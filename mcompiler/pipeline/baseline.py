"""The float model that builds are compared with: the source in onnxruntime, or its normalised graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import onnx_ir as ir

from mcompiler.data import Tensor
from mcompiler.errors import PassError, UserError
from mcompiler.pipeline.inputs import imported
from mcompiler.pipeline.normalise import normalised
from mcompiler.runtime import RunError, Session, open_file, open_model
from mcompiler.target import Target

LARGE_FILE = 64 << 20
"""Bytes from which the tensors of a file are passed as they are memory-mapped, so that the file is not read again."""


class BaselineKind(StrEnum):
    """How the float model runs."""

    SOURCE = "source"
    SOURCE_OPTIMISED = "source_optimised"
    NORMALISED = "normalised"


@dataclass(frozen=True)
class Baseline:
    """The float model, open in onnxruntime.

    Attributes:
        kind: the source without or with the optimisations of onnxruntime, or the normalised graph.
        session: the model.
    """

    kind: BaselineKind
    session: Session


def baselines(
    source: Path | ir.Model, target: Target, dims: Mapping[str, int], *, loaded: ir.Model | None = None
) -> Iterator[Baseline]:
    """The forms of the float model that onnxruntime opens, the best first; each is opened when it is asked for.

    The optimisations of onnxruntime change what some models compute (they drop the scale of a bias), and refuse others;
    some operators run with them only.

    Args:
        source: the model as the user gave it.
        target: passes that normalise the graph may read it.
        dims: sizes of symbolic dimensions.
        loaded: the model of a file, where it is in memory.

    Raises:
        UserError: onnxruntime opens none of them; the error of the first.
    """
    first: UserError | None = None
    opened = False
    for kind in BaselineKind:
        try:
            session = _open(kind, source, target, dims, loaded)
        except UserError as error:
            first = first or error
            continue
        except PassError:
            if first is None:
                raise
            continue  # onnxruntime has refused the model, and its message says more than that of a pass
        opened = True
        yield Baseline(kind, session)
    if first is not None and not opened:
        raise first


def _open(
    kind: BaselineKind, source: Path | ir.Model, target: Target, dims: Mapping[str, int], loaded: ir.Model | None
) -> Session:
    if kind is BaselineKind.NORMALISED:
        program, _ = imported(source)
        graph = normalised(replace(program, dims=dict(dims)), target).model
        return open_model(graph, optimise=False, prepack=False, origin="normalised graph")
    optimise = kind is BaselineKind.SOURCE_OPTIMISED
    if isinstance(source, ir.Model):
        return open_model(source, optimise=optimise, prepack=optimise)
    if loaded is not None and source.stat().st_size >= LARGE_FILE:
        return open_model(loaded, optimise=optimise, prepack=optimise, origin=str(source))
    return open_file(source, optimise=optimise, prepack=optimise)


def first_that_runs(candidates: Iterable[Baseline], feeds: Mapping[str, Tensor]) -> Baseline:
    """The first form of the float model that runs on these inputs; where none does, the first.

    A model that onnxruntime opens may fail when it runs (a convolution with dilations and automatic padding).
    """
    first: Baseline | None = None
    for baseline in candidates:
        first = first or baseline
        try:
            baseline.session.run(feeds)
        except RunError:
            continue
        return baseline
    assert first is not None
    return first
