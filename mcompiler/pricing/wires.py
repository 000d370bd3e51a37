"""Buses, routers and links, by their widths, lengths and clocks.

A standby power of theirs, where a target gives one, is that of full use, as in the tables of ISAAC and PUMA: it follows
the clock. A byte costs as much on a wide bus as on a narrow one: the same wires toggle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mcompiler.pricing.base import Figure, PriceRule, Quantities, Quantity

_FLIT_BITS = 32.0
_CLOCK_AND_QUEUES, _CROSSBAR, _CONTROL = 33.0 + 22.0, 15.0, 7.0
"""Shares of a router's power at flits of 32 bits, of which the links and the interface to the core are no part."""
_QUEUES = 22.0


class BufferBus(PriceRule):
    """The bus of a tile's buffer: as many wires as bits that the buffer transfers in a clock."""

    name: ClassVar[str] = "bus"
    summary: ClassVar[str] = "power and area of as many wires as the buffer is wide"
    source: ClassVar[str] = "equal wires; ISAAC, ISCA 2016, Table I, gives one for all of its 384"
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = {
        Figure.STATIC_POWER_W: (Quantity.BUFFER_WIDTH_BITS, Quantity.CLOCK_HZ),
        Figure.AREA_M2: (Quantity.BUFFER_WIDTH_BITS,),
    }

    def value(self, figure: Figure, at: Quantities) -> float:
        """In wires, or wires per second: see ``PriceRule.value``."""
        wires = at[Quantity.BUFFER_WIDTH_BITS]
        return wires * (at[Quantity.CLOCK_HZ] if figure is Figure.STATIC_POWER_W else 1.0)


class MeshRouter(PriceRule):
    """A router: its queues and clock grow as the width of a link, its crossbar as the square, its control not at all.

    A crossbar of twice the bits has wires twice as long, and twice as many of them switch with each flit. The shares of
    power are measured at 32 bits; those of area, which are not published, are taken as the same but for the clock's.
    """

    name: ClassVar[str] = "router"
    summary: ClassVar[str] = "queues and clock as the link's bits, crossbar as their square, control constant"
    source: ClassVar[str] = (
        "Hoskote et al., A 5-GHz mesh interconnect for a teraflops processor, IEEE Micro 27, 51 (2007): clock 33%, "
        "queues and data path 22%, crossbar 15%, control 7%; growth: ORION 2.0, Kahng et al., DATE 2009; "
        "assumption: areas in the same shares"
    )
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = {
        Figure.ENERGY_J: (Quantity.LINK_BITS,),
        Figure.STATIC_POWER_W: (Quantity.LINK_BITS, Quantity.LINK_CLOCK_HZ),
        Figure.AREA_M2: (Quantity.LINK_BITS,),
    }

    def value(self, figure: Figure, at: Quantities) -> float:
        """See ``PriceRule.value``."""
        width = at[Quantity.LINK_BITS] / _FLIT_BITS
        if figure is Figure.AREA_M2:
            return _QUEUES * width + _CROSSBAR * width**2 + _CONTROL
        if figure is Figure.STATIC_POWER_W:
            flit = _CLOCK_AND_QUEUES * width + _CROSSBAR * width**2 + _CONTROL
            return flit * at[Quantity.LINK_CLOCK_HZ]
        return _CLOCK_AND_QUEUES + _CROSSBAR * width + _CONTROL / width


class TileLink(PriceRule):
    """A link between tiles: C V^2 of a wire by its length, as many wires as the link has bits."""

    name: ClassVar[str] = "link"
    summary: ClassVar[str] = "a byte by the length of a link, power and area by its length and width"
    source: ClassVar[str] = "charge of wires of equal capacitance for each metre, with repeaters"
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = {
        Figure.ENERGY_J: (Quantity.LINK_M,),
        Figure.STATIC_POWER_W: (Quantity.LINK_BITS, Quantity.LINK_M, Quantity.LINK_CLOCK_HZ),
        Figure.AREA_M2: (Quantity.LINK_BITS, Quantity.LINK_M),
    }

    def value(self, figure: Figure, at: Quantities) -> float:
        """In m, m/s of wire, m of wire: see ``PriceRule.value``."""
        if figure is Figure.ENERGY_J:
            return at[Quantity.LINK_M]
        wire = at[Quantity.LINK_BITS] * at[Quantity.LINK_M]
        return wire * (at[Quantity.LINK_CLOCK_HZ] if figure is Figure.STATIC_POWER_W else 1.0)


class ChipLink(PriceRule):
    """A serial link between chips: lanes of one rate, which draw their power whether they carry data or not."""

    name: ClassVar[str] = "chip_link"
    summary: ClassVar[str] = "standby power and area as the bandwidth, a byte constant"
    source: ClassVar[str] = "equal lanes; ISAAC, ISCA 2016, Table I: four HyperTransport links at constant power"
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = {
        Figure.STATIC_POWER_W: (Quantity.CHIP_LINK_BYTES_PER_S,),
        Figure.AREA_M2: (Quantity.CHIP_LINK_BYTES_PER_S,),
    }

    def value(self, figure: Figure, at: Quantities) -> float:
        """In bytes per second: see ``PriceRule.value``."""
        return at[Quantity.CHIP_LINK_BYTES_PER_S]
