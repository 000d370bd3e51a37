"""Wording of pydantic's errors in terms of TOML: of targets, and of the other files that pydantic checks."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import ErrorDetails

from mcompiler.target.locate import did_you_mean

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "finite",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "dataclass_type": "a table",
    "dict_type": "a table",
    "mapping_type": "a table",
    "tuple_type": "a list",
}
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def show_value(value: object) -> str:
    """A TOML value in a message; tables and lists are named only."""
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def _expected(error: ErrorDetails) -> str:
    kind = error["type"]
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"{words} {error['ctx'][bound]:g}"
    if kind in ("enum", "literal_error"):
        return str(error["ctx"]["expected"])
    return error["msg"]


def describe_value_errors(errors: Sequence[ErrorDetails], choices: Sequence[str] = ()) -> str:
    """The message for the value of one key, from all errors that pydantic reports for it.

    Args:
        errors: of one key; unknown and missing keys have messages of their own.
        choices: the words that the schema allows there, for "did you mean".
    """
    # A list of which an entry is wrong is too short as well for pydantic, which counts the valid entries.
    errors = [error for error in errors if error["type"] != "too_short"] or errors
    first = errors[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if first["type"] == "too_short":
        return f"holds {first['ctx']['actual_length']} values; give at least {first['ctx']['min_length']}"
    wanted = list(dict.fromkeys(_expected(error) for error in errors))
    given = first["input"]
    close = did_you_mean(given, list(choices)) if isinstance(given, str) else ""
    return f"must be {' or '.join(wanted)}, not {show_value(given)}{close}"
