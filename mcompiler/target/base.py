"""Base of the sections of a target: strict number types, and the source that every number must have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from mcompiler.errors import UndeclaredKeyError

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Float = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
PositiveInt = Annotated[int, Field(ge=1, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, strict=True)]
Bool = Annotated[bool, Field(strict=True)]

KeyPath = tuple[str, ...]
"""Sections and key, outermost first; names of components and layers may contain dots."""


@dataclass(frozen=True)
class Choices:
    """Metadata of a text field whose values are registered names: messages suggest one of them.

    Attributes:
        names: gives the names that are known now.
    """

    names: Callable[[], tuple[str, ...]]


def registered_name(
    is_known: Callable[[str], bool], names: Callable[[], tuple[str, ...]]
) -> Callable[[object], object]:
    """A validator of a text field whose values are registered names.

    For another value it raises the error of an enumeration, which lists the choices.
    """

    def checked(name: object) -> object:
        if isinstance(name, str) and is_known(name):
            return name
        *others, last = (f"'{known}'" for known in names())
        raise PydanticCustomError("enum", "Input should be {expected}", {"expected": f"{', '.join(others)} or {last}"})

    return checked


class Section(BaseModel):
    """A section of a target. ``source`` covers every number of the section that ``sources`` does not name.

    In a file, the source of [device], [converters] or [precision] also covers inner sections without a source; loading
    copies it to them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(default="", description="source of the section's numbers; 'assumption: ...' is legal")
    sources: dict[str, str] = Field(
        default_factory=dict, description="sources of single keys, where they differ from `source`"
    )

    if not TYPE_CHECKING:  # for a type checker a section has its fields and nothing else

        def __getattr__(self, name: str) -> Any:
            """Refuse keys that a view (``target_view``) leaves out; only these are fields without a value."""
            if name in type(self).__pydantic_fields__:
                raise UndeclaredKeyError(type(self).__name__, name)
            return super().__getattr__(name)
