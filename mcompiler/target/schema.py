"""A complete target, and the JSON Schema of target files for editors."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import Field, create_model, model_validator

from mcompiler.encodings import Partner, WeightEncoding, encoding_names, encoding_of
from mcompiler.pricing import rule_names
from mcompiler.target.base import Section
from mcompiler.target.chip import Digital, Hierarchy, NetworkSection
from mcompiler.target.components import Component
from mcompiler.target.converters import ChipCalibration, Converters
from mcompiler.target.effect_tables import EffectSections, known_tables, tables_model
from mcompiler.target.figures import Published
from mcompiler.target.rules import violations
from mcompiler.target.sections import Array, Device, Encoding, Precision

SectionKind = TypeVar("SectionKind", bound=Section)


class Target(Section):
    """A chip for which models are compiled. Its ``source`` names the publication and covers no number."""

    name: str
    description: str
    device: Device
    array: Array
    encoding: Encoding
    precision: Precision
    converters: Converters
    digital: Digital
    hierarchy: Hierarchy
    network: NetworkSection
    calibration: ChipCalibration | None = None
    effects: EffectSections = Field(
        default_factory=dict, description="effects that installed packages add, by name; docs/devices.md says how"
    )
    components: dict[str, Component] = Field(default_factory=dict)
    published: Published | None = None

    def effect_section(self, kind: type[SectionKind]) -> SectionKind | None:
        """The table ``[effects.NAME]`` of this model; None where the target has none."""
        return next((section for section in self.effects.values() if isinstance(section, kind)), None)

    def layer_bits(self, layer: str) -> tuple[int, int]:
        """Bits of weights (sign included) and inputs of a layer: from [precision.layers], else from [precision]."""
        own = self.precision.layers.get(layer)
        weights = own.weights if own is not None and own.weights is not None else self.precision.weights
        inputs = own.inputs if own is not None and own.inputs is not None else self.precision.inputs
        return weights, inputs

    @property
    def weight_encoding(self) -> WeightEncoding:
        """The encoding that ``encoding.weights`` names, with its settings."""
        return encoding_of(self.encoding)

    @property
    def cell_steps(self) -> tuple[int, ...]:
        """Integer value of a cell at each level code that it stores, 0 at code 0.

        The unit is a step of the equidistant grid, or where levels are measured or partners unformed (g_max - g_min) /
        4096. With unformed partners code 0 is a cell that does not conduct, and level l is code l + 1.
        """
        device = self.device
        if self.encoding.partner is Partner.UNFORMED:
            return (0, *device.formed_steps)
        if device.level_means is not None:
            return tuple(mean - device.level_means[0] for mean in device.level_means)
        return tuple(range(1 << device.bits))

    @property
    def unit_siemens(self) -> float:
        """Conductance of one unit of ``cell_steps``."""
        return self.device.mean_siemens if self.has_level_table else self.device.step_siemens

    @property
    def pedestal(self) -> float:
        """Conductance of a cell at level code 0, in the unit of ``cell_steps``."""
        if self.encoding.partner is Partner.UNFORMED:
            return 0.0
        if self.device.level_means is not None:
            return float(self.device.mean_pedestal + self.device.level_means[0])
        return self.device.pedestal

    @property
    def has_level_table(self) -> bool:
        """Whether the levels are read from a table, and weight codes are in its units."""
        return self.device.level_means is not None or self.encoding.partner is Partner.UNFORMED

    @model_validator(mode="after")
    def _sections_agree(self) -> Target:
        sections = {key: getattr(self, key) for key in type(self).model_fields}
        own = {key: value for key, value in sections.items() if isinstance(value, Section) or key == "components"}
        faults = violations(own, self.effects)
        if faults:
            raise ValueError("\n".join(f"{key}: {message}" for key, message in faults))
        return self


def _partial(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema without required keys, its references replaced by those to ``Partial...``."""

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

    It has keys, types and ranges; rules between sections and sources of numbers are checked by loading only.
    """
    tables, model = known_tables(), Target
    if tables:  # pydantic names definitions of several packages apart
        model = create_model("Target", __base__=Target, effects=(tables_model(tables), Field(default=None)))
    whole = model.model_json_schema()
    definitions: dict[str, Any] = whole.pop("$defs")
    whole["required"].remove("name")  # the default is the stem of the file name
    definitions["Device"]["properties"]["levels_csv"] = {  # replaced while loading
        "type": "string",
        "description": "CSV file with mean_siemens and deviation_siemens of each level, lowest first",
    }
    definitions["Device"]["properties"]["measured_deviations"] = {  # applied while loading
        "enum": ["alone", "added"],
        "description": "whether measured deviations of levels replace inherited descriptions or add to them",
    }
    for section in ("Drift", "Noise", "OneOverF"):
        definitions[section]["properties"]["table_csv"] = {  # replaced while loading
            "type": "string",
            "description": "CSV file with the table",
        }
    definitions["Encoding"]["properties"]["weights"]["enum"] = list(encoding_names())
    definitions["Component"]["properties"]["rule"]["anyOf"][0]["enum"] = list(rule_names())
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
