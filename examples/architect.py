"""For architects: what one network costs on several chips, and which values of a chip the cost depends on.

    python examples/architect.py

compiles the digits network of the demo for three targets, varies the resolution of the ADCs of ISAAC, prints the energy
of ISAAC's components, and prices another rate and another component without a new compilation. It takes a few seconds.
"""

from importlib.resources import as_file, files
from pathlib import Path

import mcompiler

TARGETS = ("generic_128", "isaac", "neurosim_22nm")
ADC_BITS = (6, 7, 8)


def compare_targets(demo: Path) -> None:
    """One network on several chips."""
    print("target         arrays  latency, us  energy, uJ  area, mm2")
    for target in TARGETS:
        cost = mcompiler.compile(demo / "digits.onnx", target, calibration=demo / "digits_calibration.npz").cost
        print(
            f"{target:14} {cost.crossbars:6d} {1e6 * cost.latency_s:12.1f} {1e6 * cost.energy_j:11.2f} "
            f"{1e6 * cost.area_m2:10.2f}"
        )


def vary_adc_bits(demo: Path) -> None:
    """One value of a chip changes; ``overrides`` are the values of ``--set`` on the command line."""
    print("\nisaac: ADC bits  lossless layers  energy of the ADCs, nJ")
    for bits in ADC_BITS:
        build = mcompiler.compile(
            demo / "digits.onnx",
            "isaac",
            calibration=demo / "digits_calibration.npz",
            overrides=[f"converters.adc.bits={bits}"],
        )
        result = build.verify(limit=16)
        energy = build.cost.components["adc"].energy_j
        print(f"{bits:15d} {len(result.promised):8d} of {len(build.layers)} {1e9 * energy:23.1f}")


def read_breakdown(demo: Path) -> None:
    """Components and layers each add up to the total; another price needs no compilation."""
    build = mcompiler.compile(demo / "digits.onnx", "isaac", calibration=demo / "digits_calibration.npz")
    cost = build.cost
    print("\nisaac: component      energy, nJ   share  of which standby, nJ")
    for name, price in sorted(cost.components.items(), key=lambda item: -item[1].energy_j)[:6]:
        share = price.energy_j / cost.energy_j
        print(f"{name:20} {1e9 * price.energy_j:11.1f} {share:7.2%} {1e9 * price.energy_standby_used_j:21.1f}")
    assert abs(sum(price.energy_j for price in cost.layers.values()) / cost.energy_j - 1) < 1e-9

    slow = build.cost_with(rate=cost.throughput_per_s / 100)
    print(f"at a hundredth of that rate: {1e6 * slow.energy_j:.2f} uJ per inference, {1e3 * slow.power_w:.2f} mW")
    without_links = mcompiler.load_target("isaac", ["components.hypertransport.static_power_w=0"])
    print(f"without the links between chips: {1e6 * build.cost_with(without_links).energy_j:.2f} uJ per inference")


if __name__ == "__main__":
    with as_file(files("mcompiler") / "demo") as folder:
        compare_targets(folder)
        vary_adc_bits(folder)
        read_breakdown(folder)
