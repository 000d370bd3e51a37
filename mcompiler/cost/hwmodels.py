"""The models behind CiMLoop (packages ``hwcomponents``) with the attributes of a target; only here are they imported.

CiMLoop: Andrulis, Emer, Sze, ISPASS 2024, doi 10.1109/ISPASS61541.2024.00012. Their units are SI like ours, but nodes
are in metres (ours: nm), sizes in bits (ours: bytes), and a memory or link scales the energy of an access of its full
width to the bits that are asked for.

The packages are the extra ``second-opinion``, for Python 3.12 and newer; each model is imported when it is first made.
NeuroSim's models, which CiMLoop takes for cells and drivers, are left out: their licence excludes commercial use.
"""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from mcompiler.errors import UserError
from mcompiler.target import Event, Target

PACKAGES = ("hwcomponents", "hwcomponents-adc", "hwcomponents-cacti", "hwcomponents-library")

ASSUMED_BUFFER_BYTES = 65_536
"""Size of a tile's memory where the target gives none: ISAAC's, ISCA 2016, Table I."""

BUFFER_PORT_BITS = 256
"""Bits of one access to a tile's memory: the width of ISAAC's banks, ISCA 2016, Table I."""

ROUTER_PORTS = 8
"""Ports of a router: ISAAC's, ISCA 2016, Table I. The width of the library's router is that of all ports together."""

ADC_BITS_MIN = 4
"""Effective bits from which the ADC model holds: Andrulis et al., arXiv 2404.06553."""

CACTI_NODES_NM = (22.0, 90.0)
"""Nodes between which the package interpolates results of CACTI; outside it extrapolates."""

_LIBRARY = "hwcomponents_library"


@dataclass(frozen=True)
class ModelFigures:
    """Figures of one instance, by a model of the packages.

    Attributes:
        model: its class and the attributes that it was given, for people.
        energies_j: dynamic energy of one event.
        static_power_w, area_m2: of one instance.
        note: how it differs from our component by construction.
    """

    model: str
    energies_j: Mapping[Event, float]
    static_power_w: float
    area_m2: float
    note: str = ""


class NoModelError(Exception):
    """The packages cannot price this component of this target; the message is the reason."""


def require_packages() -> None:
    """Check that the packages are installed.

    Raises:
        UserError: one is not; names the extra and the Python that it needs.
    """
    modules = [name.replace("-", "_") for name in PACKAGES]
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--second-opinion hwcomponents: {', '.join(missing)} not installed; pip install "
            f"'mcompiler[second-opinion]' with Python 3.12 or newer (this is {platform.python_version()})"
        )


def adc(target: Target, node_nm: float) -> ModelFigures:
    """ADC fitted to a survey of published ones, by effective bits, rate and node (arXiv 2404.06553)."""
    from hwcomponents_adc import ADC

    section = target.converters.adc
    if section.bits < ADC_BITS_MIN:
        raise NoModelError(
            f"the model of ADCs holds from {ADC_BITS_MIN} bits, and converters.adc.bits is {section.bits}"
        )
    model = ADC(n_bits=section.bits, tech_node=node_nm * 1e-9, throughput=section.rate_hz)
    return ModelFigures(
        f"ADC({section.bits} bits, {section.rate_hz:.3g}/s, {node_nm:g} nm)",
        {Event.ADC_CONVERSION: model.convert().energy},
        model.leak_power,
        model.area,
        "all bits taken as effective; the model calls 20% of the energy at full rate leakage, so compare with standby",
    )


def dac(target: Target, node_nm: float) -> ModelFigures:
    """ISAAC's input driver, doubled for each bit."""
    with _library():
        from hwcomponents_library.library.isaac import IsaacDAC
    bits = target.converters.dac.bits
    model = IsaacDAC(tech_node=node_nm * 1e-9, resolution=bits)
    return ModelFigures(
        f"IsaacDAC({bits} bits, {node_nm:g} nm)",
        {Event.DAC_DRIVE: model.convert().energy},
        model.leak_power,
        model.area,
        "the figure is ISAAC's Table I, so no independent one where ours is too",
    )


def memory(target: Target, node_nm: float) -> ModelFigures:
    """SRAM by CACTI, of the size of a tile's memory; a byte is its share of an access of the full width."""
    from hwcomponents_cacti import SRAM

    stated = target.digital.buffer_bytes
    size = ASSUMED_BUFFER_BYTES if stated is None else stated
    try:
        model = SRAM(tech_node=node_nm * 1e-9, width=BUFFER_PORT_BITS, size=8 * size)
    except Exception as error:  # the package raises AssertionError, OSError, and Exception itself where CACTI fails
        raise NoModelError(
            f"CACTI failed ({str(error).partition('. ')[0]}); its program may have to be built again for this machine: "
            "make -C hwcomponents_cacti/cacti opt, in the folder of the installed packages"
        ) from error
    notes = ["an SRAM, also where ours is embedded DRAM, registers or a bus"]
    if stated is None:
        notes.append(f"size assumed, {size} bytes: the target gives no digital.buffer_bytes")
    if not CACTI_NODES_NM[0] <= node_nm <= CACTI_NODES_NM[1]:
        notes.append(f"{node_nm:g} nm is extrapolated")
    return ModelFigures(
        f"SRAM({size} bytes, {BUFFER_PORT_BITS} bits wide, {node_nm:g} nm)",
        {
            Event.BUFFER_READ_BYTE: model.read(bits_per_action=8).energy,
            Event.BUFFER_WRITE_BYTE: model.write(bits_per_action=8).energy,
        },
        model.leak_power,
        model.area,
        "; ".join(notes),
    )


def router(target: Target, node_nm: float) -> ModelFigures:
    """ISAAC's router, linear in its width."""
    with _library():
        from hwcomponents_library.library.isaac import IsaacRouter
    width = ROUTER_PORTS * target.network.link_bits
    model = IsaacRouter(tech_node=node_nm * 1e-9, width=width)
    return ModelFigures(
        f"IsaacRouter({ROUTER_PORTS} ports of {target.network.link_bits} bits, {node_nm:g} nm)",
        {Event.LINK_BYTE: model.read(bits_per_action=8).energy},
        model.leak_power,
        model.area,
        "all of ISAAC's 42 mW as energy of bytes at the full rate, and no standby power",
    )


def chip_link(target: Target, node_nm: float) -> ModelFigures:
    """ISAAC's four HyperTransport links as one."""
    with _library():
        from hwcomponents_library.library.isaac import IsaacChip2ChipLink
    model = IsaacChip2ChipLink(tech_node=node_nm * 1e-9)
    return ModelFigures(
        f"IsaacChip2ChipLink({node_nm:g} nm)",
        {Event.CHIP_LINK_BYTE: model.read(bits_per_action=8).energy},
        model.leak_power,
        model.area,
        "energy of bytes only, where links such as ISAAC's burn constant power; area shrinks with the node",
    )


def shift_add(target: Target, node_nm: float) -> ModelFigures:
    """An adder and a register of the accumulator's width, both synthesised at 40 nm (Aladdin)."""
    with _library():
        from hwcomponents_library.library.aladdin import AladdinAdder, AladdinRegister
    width = target.digital.accumulator_bits
    adder = AladdinAdder(tech_node=node_nm * 1e-9, width=width)
    register = AladdinRegister(tech_node=node_nm * 1e-9, width=width)
    return ModelFigures(
        f"AladdinAdder + AladdinRegister({width} bits, {node_nm:g} nm)",
        {Event.SHIFT_ADD: adder.add().energy + register.write().energy},
        adder.leak_power + register.leak_power,
        adder.area + register.area,
        "an addition of the full width of the accumulator",
    )


def digital_operation(target: Target, node_nm: float) -> ModelFigures:
    """An addition of the accumulator's width, synthesised at 40 nm (Aladdin)."""
    with _library():
        from hwcomponents_library.library.aladdin import AladdinAdder
    width = target.digital.accumulator_bits
    model = AladdinAdder(tech_node=node_nm * 1e-9, width=width)
    return ModelFigures(
        f"AladdinAdder({width} bits, {node_nm:g} nm)",
        {Event.DIGITAL_OP: model.add().energy},
        model.leak_power,
        model.area,
        "every operation as one addition, without its control and registers",
    )


@contextmanager
def _library() -> Iterator[None]:
    """Let the files of ``hwcomponents_library`` be imported one by one, without the package's ``__init__``.

    The ``__init__`` imports all of its files, and with them NeuroSim's models, which are not required here: without
    ``hwcomponents-neurosim`` it fails. So the package is entered as an empty module for as long as the import takes.
    """
    spec = None if _LIBRARY in sys.modules else importlib.util.find_spec(_LIBRARY)
    if spec is None:
        yield
        return
    sys.modules[_LIBRARY] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[_LIBRARY]
