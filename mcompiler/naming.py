"""Layers as users name them: by node name, by label, or by a part of either that only one layer has."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mcompiler.errors import CompileError, UserError
from mcompiler.target import LayerPrecision, Target

_LISTED = 8


@dataclass(frozen=True)
class LayerName:
    """The name of a layer's node, and the label of the layer for people."""

    name: str
    label: str

    def __str__(self) -> str:
        return f"'{self.name}'" if self.label in ("", self.name) else f"'{self.name}' ({self.label})"


def shown_name(name: str, labels: Mapping[str, str]) -> str:
    """How tables for people name a layer: by its label, or by its name where it has none (sums, digital work)."""
    return labels.get(name) or name


def find_layer(given: str, layers: Sequence[LayerName]) -> int:
    """Index of the layer that a user names.

    A whole name wins over a whole label, and that over parts. A part that several layers have still names one of them
    where it is bounded by separators there only: ``layer1`` is ``layer1.conv`` and not ``layer10.conv``.

    Raises:
        UserError: no layer, or several; with the candidates, or the closest name.
    """
    for wanted in ([layer.name for layer in layers], [layer.label for layer in layers]):
        exact = [index for index, text in enumerate(wanted) if text == given]
        if len(exact) == 1:
            return exact[0]
    parts = [index for index, layer in enumerate(layers) if given and (given in layer.name or given in layer.label)]
    if len(parts) > 1:
        bounded = re.compile(rf"(?<![^\W_]){re.escape(given)}(?![^\W_])")
        whole = [i for i in parts if bounded.search(layers[i].name) or bounded.search(layers[i].label)]
        parts = whole if len(whole) == 1 else parts
    if len(parts) == 1:
        return parts[0]
    if parts:
        raise UserError(f"'{given}' is part of {len(parts)} layers: {_listed(layers[index] for index in parts)}")
    raise UserError(f"no layer '{given}'; {_closest(given, layers)}")


def _closest(given: str, layers: Sequence[LayerName]) -> str:
    texts = dict.fromkeys(text for layer in layers for text in (layer.name, layer.label))
    close = difflib.get_close_matches(given, texts, 1)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"the layers are {_listed(layers)}" if layers else "the model has no analog layers"


def _listed(layers: Iterable[LayerName]) -> str:
    texts = [str(layer) for layer in layers]
    return ", ".join(texts[:_LISTED]) + (" ..." if len(texts) > _LISTED else "")


def with_node_names(target: Target, layers: Sequence[LayerName]) -> Target:
    """The target with the keys of precision.layers replaced by the names of the nodes that they mean.

    Raises:
        CompileError: a key that means no layer or several, or two that mean the same layer.
    """
    found: dict[str, LayerPrecision] = {}
    keys: dict[str, str] = {}
    for key, precision in target.precision.layers.items():
        place = f"target '{target.name}': precision.layers.{key}"
        try:
            name = layers[find_layer(key, layers)].name
        except UserError as error:
            raise CompileError(f"{place}: {error}") from None
        if name in keys:
            raise CompileError(f"{place} and precision.layers.{keys[name]} both mean layer '{name}'; keep one of them")
        keys[name] = key
        found[name] = precision
    return target.model_copy(update={"precision": target.precision.model_copy(update={"layers": found})})
