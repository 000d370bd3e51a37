"""Memories by size and width: power laws through results of CACTI 7, and through registers of published tables.

CACTI 7 (Balasubramonian et al., TACO 14, 14 (2017); HewlettPackard/cacti), 32 nm, 350 K, one bank of random access
with one port, cells itrs-hp (SRAM) and lp-dram (eDRAM), was run for 256 B to 4 MB at 64 bits, for 4 KB at 8 to 256 and
64 KB at 8 to 1,024 bits, and for 16 KB to 4 MB at 256 bits. ``tests/pricing/cacti.py`` holds the 32 results of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log
from typing import ClassVar

from mcompiler.pricing.base import Figure, PriceRule, Quantities, Quantity


@dataclass(frozen=True)
class MemoryFit:
    """Power laws of a kind of memory, in its bytes and the bits of an access.

    Attributes:
        access_j: energy of a very narrow access to one byte of memory (J), times ``bytes^access_exponent``.
        access_exponent: of the bytes.
        width_bits: width at which an access costs twice the narrowest.
        leakage_w: leakage of one byte (W), times ``bytes^leakage_exponent``.
        leakage_exponent: of the bytes.
        area_m2: area of one byte, times ``bytes^area_exponent``.
        area_exponent: of the bytes.
    """

    access_j: float
    access_exponent: float
    width_bits: float
    leakage_w: float
    leakage_exponent: float
    area_m2: float
    area_exponent: float

    def access(self, size: float, width: float) -> float:
        """Energy of an access (J)."""
        return self.access_j * exp(self.access_exponent * log(size)) * (1 + width / self.width_bits)

    def leakage(self, size: float) -> float:
        """Leakage (W)."""
        return self.leakage_w * exp(self.leakage_exponent * log(size))

    def area(self, size: float) -> float:
        """Area (m2)."""
        return self.area_m2 * exp(self.area_exponent * log(size))


SRAM = MemoryFit(
    access_j=1.029e-14,
    access_exponent=0.5367,
    width_bits=70.3,
    leakage_w=4.266e-7,
    leakage_exponent=0.9708,
    area_m2=2.188e-12,
    area_exponent=0.9788,
)
"""Off by a factor of at most 1.47, 1.17, 1.44 (access, leakage, area); in the median 1.20, 1.07, 1.08."""

EDRAM = MemoryFit(
    access_j=1.004e-14,
    access_exponent=0.4778,
    width_bits=36.4,
    leakage_w=2.461e-7,
    leakage_exponent=0.8418,
    area_m2=1.441e-12,
    area_exponent=0.9397,
)
"""Off by a factor of at most 1.66, 2.13, 1.80 (access, leakage, area); in the median 1.17, 1.29, 1.12."""

_SIZE_AND_WIDTH = (Quantity.BUFFER_BYTES, Quantity.BUFFER_WIDTH_BITS)


class _BufferMemory(PriceRule):
    fit: ClassVar[MemoryFit]
    source: ClassVar[str] = "fit of CACTI 7, 32 nm, 350 K, 256 B to 4 MB, 8 to 1,024 bits"
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = {
        Figure.ENERGY_J: _SIZE_AND_WIDTH,
        Figure.STATIC_POWER_W: (Quantity.BUFFER_BYTES,),
        Figure.AREA_M2: (Quantity.BUFFER_BYTES,),
    }

    def value(self, figure: Figure, at: Quantities) -> float:
        """Energy of a byte of a whole access, leakage, area: see ``PriceRule.value``."""
        size = at[Quantity.BUFFER_BYTES]
        match figure:
            case Figure.ENERGY_J:
                width = at[Quantity.BUFFER_WIDTH_BITS]
                return self.fit.access(size, width) / (width / 8)
            case Figure.STATIC_POWER_W:
                return self.fit.leakage(size)
            case Figure.AREA_M2:
                return self.fit.area(size)

    def outside(self, at: Quantities) -> str:
        """See ``PriceRule.outside``."""
        if not 256 <= at[Quantity.BUFFER_BYTES] <= 2**22:
            return "CACTI was run for memories of 256 bytes to 4 MB: extrapolated"
        if not 8 <= at[Quantity.BUFFER_WIDTH_BITS] <= 1024:
            return "CACTI was run for accesses of 8 to 1,024 bits: extrapolated"
        return ""


class SramBuffer(_BufferMemory):
    """A buffer of SRAM: a byte costs what its share of an access of full width costs, standby is leakage."""

    name: ClassVar[str] = "sram"
    summary: ClassVar[str] = "a byte by size^0.54, cheaper in wide accesses; leakage by size^0.97, area by size^0.98"
    fit: ClassVar[MemoryFit] = SRAM


class EdramBuffer(_BufferMemory):
    """A buffer of embedded DRAM: a byte costs what its share of an access of full width costs, standby is leakage."""

    name: ClassVar[str] = "edram"
    summary: ClassVar[str] = "a byte by size^0.48, cheaper in wide accesses; leakage by size^0.84, area by size^0.94"
    fit: ClassVar[MemoryFit] = EDRAM


class BusyEdramBuffer(EdramBuffer):
    """A buffer of embedded DRAM whose standby power is given for an access in every clock, as in ISAAC's table.

    In SI units the fit gives 22 mW for ISAAC's 64 KB of 256 bits at 1.2 GHz, which its table has at 20.7 mW.
    """

    name: ClassVar[str] = "edram_full_rate"
    summary: ClassVar[str] = "as edram; standby power is leakage and an access in every clock"
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = {
        **EdramBuffer.follows,
        Figure.STATIC_POWER_W: (*_SIZE_AND_WIDTH, Quantity.CLOCK_HZ),
    }

    def value(self, figure: Figure, at: Quantities) -> float:
        """See ``PriceRule.value``."""
        if figure is not Figure.STATIC_POWER_W:
            return super().value(figure, at)
        size = at[Quantity.BUFFER_BYTES]
        busy = self.fit.access(size, at[Quantity.BUFFER_WIDTH_BITS]) * at[Quantity.CLOCK_HZ]
        return busy + self.fit.leakage(size)


class _Register(PriceRule):
    size: ClassVar[Quantity]
    source: ClassVar[str] = (
        "ISAAC, ISCA 2016, Table I: 256 B, 2 KB, 3 KB at 0.23, 1.24, 1.68 mW and 770, 2,100, 3,200 um2; "
        "PUMA, ASPLOS 2019, Table 3: 1 KB at 0.477 mW and 1,920 um2; both by CACTI; energy as the rule sram"
    )

    def value(self, figure: Figure, at: Quantities) -> float:
        """See ``PriceRule.value``."""
        logarithm = log(at[self.size])
        match figure:
            case Figure.ENERGY_J:
                return exp(SRAM.access_exponent * logarithm)
            case Figure.STATIC_POWER_W:
                return exp(0.814 * logarithm) * at[Quantity.CLOCK_HZ]
            case Figure.AREA_M2:
                return exp(0.539 * logarithm)

    def outside(self, at: Quantities) -> str:
        """See ``PriceRule.outside``."""
        return "" if 256 <= at[self.size] <= 3072 else "the tables have registers of 256 bytes to 3 KB: extrapolated"


def _register_follows(size: Quantity) -> Mapping[Figure, tuple[Quantity, ...]]:
    return {
        Figure.ENERGY_J: (size,),
        Figure.STATIC_POWER_W: (size, Quantity.CLOCK_HZ),
        Figure.AREA_M2: (size,),
    }


class InputRegister(_Register):
    """Registers of a core's inputs; standby power is that of use in every clock, as the tables give it."""

    name: ClassVar[str] = "input_register"
    summary: ClassVar[str] = "power by the bytes of a core's inputs to the 0.81, area to the 0.54"
    size: ClassVar[Quantity] = Quantity.INPUT_REGISTER_BYTES
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = _register_follows(size)


class OutputRegister(_Register):
    """Registers of a core's results; standby power is that of use in every clock, as the tables give it."""

    name: ClassVar[str] = "output_register"
    summary: ClassVar[str] = "power by the bytes of a core's results to the 0.81, area to the 0.54"
    size: ClassVar[Quantity] = Quantity.OUTPUT_REGISTER_BYTES
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = _register_follows(size)
