"""A whole target: its sections, what they must agree on, and the JSON Schema of its files for editors."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from mcompiler.target.rules import disagreements
from mcompiler.target.sections import (
    Array,
    Component,
    Converters,
    Device,
    Digital,
    Encoding,
    Hierarchy,
    Network,
    Precision,
    Section,
)


class Target(Section):
    """A chip for which models are compiled. Its own ``source`` names the publication; it covers no number."""

    name: str
    description: str
    device: Device
    array: Array
    encoding: Encoding
    precision: Precision
    converters: Converters
    digital: Digital
    hierarchy: Hierarchy
    network: Network
    components: dict[str, Component] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sections_agree(self) -> Target:
        sections = {key: getattr(self, key) for key in type(self).model_fields}
        faults = disagreements({key: value for key, value in sections.items() if isinstance(value, Section)})
        if faults:
            raise ValueError("\n".join(f"{key}: {message}" for key, message in faults))
        return self


def _partial(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema with nothing required, its references pointing at the definitions named ``Partial...``."""

    def strip(node: Any) -> Any:
        if isinstance(node, dict):
            kept = {key: strip(value) for key, value in node.items() if key != "required"}
            if isinstance(kept.get("$ref"), str):
                kept["$ref"] = kept["$ref"].replace("#/$defs/", "#/$defs/Partial")
            return kept
        return [strip(item) for item in node] if isinstance(node, list) else node

    stripped: dict[str, Any] = strip(schema)
    return stripped


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a target *file*: a whole target, or any part of one where ``extends`` names the rest.

    It holds keys, types and ranges; what sections must agree on and that numbers have sources, only loading can tell.
    """
    whole = Target.model_json_schema()
    definitions: dict[str, Any] = whole.pop("$defs")
    whole["required"].remove("name")  # a file that gives none is called by its stem
    extends = {"type": "string", "description": "name of a target, or path of a file relative to this one"}
    part = _partial(whole)
    part["properties"]["extends"] = extends
    named = {f"Partial{name}": _partial(definition) for name, definition in definitions.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mcompiler target",
        "type": "object",
        "if": {"required": ["extends"]},
        "then": {"$ref": "#/$defs/PartialTarget"},
        "else": {"$ref": "#/$defs/Target"},
        "$defs": {**definitions, **named, "Target": whole, "PartialTarget": part},
    }
