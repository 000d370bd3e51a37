"""The [encoding] section of a target as encodings read it, and conditions on it that several of them share."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Protocol

Violations = Iterator[tuple[str, str]]
"""Key path and message (fact and remedy) of each thing that is wrong."""


class Pedestal(StrEnum):
    """How the current that G_min contributes in every active row (the pedestal) is removed.

    ``pair``: by the second cell of a differential pair, before the ADC. ``reference_column``: by a column of G_min
    cells that is subtracted before the ADC. ``digitised_reference``: that column is converted, then subtracted.
    ``digital_count``: the number of active rows times the pedestal is subtracted after the ADC.
    """

    PAIR = "pair"
    REFERENCE_COLUMN = "reference_column"
    DIGITISED_REFERENCE = "digitised_reference"
    DIGITAL_COUNT = "digital_count"


class Partner(StrEnum):
    """The second cell of a pair: at its lowest level (``minimum``), or never formed, so that it does not conduct."""

    MINIMUM = "minimum"
    UNFORMED = "unformed"


class EncodingSettings(Protocol):
    """Keys of a target's [encoding] section that encodings read (docs/targets.md)."""

    @property
    def weights(self) -> str:
        """Name of the encoding."""

    @property
    def pedestal(self) -> Pedestal:
        """Where the pedestal goes."""

    @property
    def partner(self) -> Partner:
        """The other cell of a pair."""

    @property
    def subtract(self) -> str:
        """``before_adc`` or ``after_adc``."""

    @property
    def pairs_in(self) -> str:
        """``adjacent`` or ``separate``: where the two cells of a pair are."""

    @property
    def flip(self) -> bool:
        """Whether columns past half of full scale are stored complemented."""

    @property
    def input_sum(self) -> str:
        """``unit_column`` or ``digital``."""


def flip_violations(settings: EncodingSettings) -> Violations:
    """Of an encoding that does not flip columns and needs no sum of the inputs."""
    if settings.flip:
        yield (
            "encoding.flip",
            f"columns are flipped only where weights = 'offset', not '{settings.weights}'; set flip = false",
        )
    if settings.input_sum == "unit_column":
        yield (
            "encoding.input_sum",
            "a unit column undoes the shift of weights = 'offset'; "
            f"weights = '{settings.weights}' need none: remove the key",
        )


def pair_violations(settings: EncodingSettings) -> Violations:
    """Of an encoding without pairs of cells."""
    if settings.pedestal is Pedestal.PAIR:
        yield (
            "encoding.pedestal",
            f"'pair' needs weights = 'differential'; with '{settings.weights}' use one of {other_pedestals()}",
        )
    yield from partner_violations(settings, analog_pair=False)


def partner_violations(settings: EncodingSettings, analog_pair: bool) -> Violations:
    """Of a partner that is never formed where no analog difference takes the pedestal off."""
    if settings.partner is Partner.UNFORMED and not analog_pair:
        yield (
            "encoding.partner",
            "unformed partners need weights = 'differential', subtract = 'before_adc' and pedestal = 'pair'; there is "
            "no pedestal to take off otherwise",
        )


def other_pedestals() -> str:
    """Values of ``encoding.pedestal`` that need no pair, for messages."""
    return ", ".join(f"'{pedestal}'" for pedestal in Pedestal if pedestal is not Pedestal.PAIR)
