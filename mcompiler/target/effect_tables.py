"""The tables ``[effects.NAME]`` of a target: effects that installed packages register, each with its own model."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, SerializeAsAny, WithJsonSchema, create_model

from mcompiler.effects import registry
from mcompiler.target.base import Section


def known_tables() -> dict[str, type[Section]]:
    """Model of every table that [effects] may have, by its name; imports the packages.

    Raises:
        TargetError: a package that cannot be imported; names it.
    """
    return {effect.name: effect.section for effect in registry.registered() if effect.section is not None}


def tables_model(models: dict[str, type[Section]]) -> type[Section]:
    """A model of [effects] as a section with these tables."""
    fields: dict[str, Any] = {name: (model, Field(default=None)) for name, model in models.items()}
    return create_model("EffectTables", __config__=ConfigDict(frozen=True, extra="forbid"), **fields)  # type: ignore[no-any-return]


def _validated(value: Any) -> Any:
    """Each table as the section that its effect's package defines.

    A pydantic model made for these names validates them, so that faults carry the path of their key as elsewhere. The
    result is a dictionary of the packages' own sections: a class that is made here could not be pickled.
    """
    if not isinstance(value, dict) or not value:
        return value
    # Only the packages of the tables that are given are imported: a broken one does not keep targets from loading
    # that do not use it.
    found = {name: registry.section_of(name) for name in value if isinstance(name, str)}
    model = tables_model({name: section for name, section in found.items() if section is not None})
    made = model.model_validate(value)
    return {name: getattr(made, name) for name in value}


EffectSections = Annotated[
    dict[str, SerializeAsAny[Section]],
    BeforeValidator(_validated),
    WithJsonSchema({"type": "object", "additionalProperties": False}),
]
