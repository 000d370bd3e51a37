"""The points at which the figures of a target's components hold.

A file that gives a figure may name the point (``reference``, ``references``). Where it names none, the figure holds
for the chip as that file describes it: a file that extends another and changes the bits of a converter together with
its energy means the energy at these bits, and ``--set converters.adc.bits=...`` scales it from there. A figure that is
given on the command line holds at the target with all overrides.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from mcompiler.errors import TargetError
from mcompiler.pricing import Figure, Quantity
from mcompiler.target.components import Component
from mcompiler.target.layers import TargetLayer, has_key, merged
from mcompiler.target.prices import price_quantities
from mcompiler.target.quantities import quantities
from mcompiler.target.schema import Target

Points = list[dict[Quantity, float]]


def with_references(target: Target, layers: Sequence[TargetLayer]) -> Target:
    """The target with the points of all figures, so that they survive being written and read.

    Args:
        target: of all layers.
        layers: files from the root of the ``extends`` chain on, then overrides.
    """
    files = [layer for layer in layers if not layer.is_override]
    points: Points = []
    for count in range(1, len(files) + 1):
        points.append(_point(files[:count], points))
    complete = _complete(target, layers, points)
    overrides = layers[len(files) :]
    if not any(has_key(layer.data, ("components",)) for layer in overrides):
        return complete  # they give no figures
    points.extend([_quantities(complete)] * len(overrides))
    return _complete(target, layers, points)


def _point(files: Sequence[TargetLayer], before: Points) -> dict[Quantity, float]:
    """Quantities of the chip that a file describes; those of the whole target for a file that is only a part of one."""
    try:
        target = Target.model_validate(merged(files))
    except (ValidationError, TargetError):
        return {}
    here = quantities(target)
    if not _has_links(target):
        return here
    # Of the figures that this file gives no rule scales any, so that the areas that decide a link's length are known.
    side = _quantities(_complete(target, files, [*before, _quantities(target)]))
    return _quantities(_complete(target, files, [*before, side]))


def _has_links(target: Target) -> bool:
    """Whether the price of a component follows the length of a link, which follows from all areas."""
    return any(Quantity.LINK_M in component.price_rule.quantities() for component in target.components.values())


def _quantities(target: Target) -> dict[Quantity, float]:
    return price_quantities(target) if _has_links(target) else quantities(target)


def _complete(target: Target, layers: Sequence[TargetLayer], points: Points) -> Target:
    """The target with the points of all figures of the layers whose points are known."""
    components = {name: _component(name, component, layers, points) for name, component in target.components.items()}
    return target.model_copy(update={"components": components})


def _component(name: str, component: Component, layers: Sequence[TargetLayer], points: Points) -> Component:
    wanted = component.depends_on
    found: dict[Figure, dict[Quantity, float]] = {}
    for figure in Figure:
        if not getattr(component, figure.value):
            continue
        given = _last(layers, ("components", name, figure.value))
        stated = max(
            _last(layers, ("components", name, "reference")),
            _last(layers, ("components", name, "references", figure.value)),
        )
        point = points[given] if 0 <= given < len(points) else {}
        named = component.reference_of(figure) if stated >= given else {}
        found[figure] = {each: {**point, **named}[each] for each in wanted if each in point or each in named}
    shared = {
        quantity: value
        for point in found.values()
        for quantity, value in point.items()
        if all(other.get(quantity) == value for other in found.values())
    }
    single = {
        figure: {quantity: value for quantity, value in point.items() if quantity not in shared}
        for figure, point in found.items()
    }
    return component.model_copy(
        update={
            "reference": {quantity: shared[quantity] for quantity in wanted if quantity in shared},
            "references": {figure: point for figure, point in single.items() if point},
        }
    )


def _last(layers: Sequence[TargetLayer], path: tuple[str, ...]) -> int:
    """Number of the last layer that gives a key; -1 where none does."""
    return max((index for index, layer in enumerate(layers) if has_key(layer.data, path)), default=-1)
