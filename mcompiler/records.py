"""Gains of the optional passes and of placement, with their bounds: typed records for JSON and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from mcompiler.ir import MatrixProgram, Remapping, Reordering, Replication
from mcompiler.text import clean, percent, plural, quantity


@dataclass(frozen=True)
class LayerReorder:
    """Result of reordering the lines of one layer; as in ``ReorderRecord``."""

    name: str
    tiles_before: int
    tiles_after: int
    bound: int
    routing_bytes: int


@dataclass(frozen=True)
class ReorderRecord:
    """Result of reordering word and bit lines, in all and by layer.

    Attributes:
        tiles_before, tiles_after: array positions in use.
        bound: array positions that no order can do without.
        routing_bytes: memory of the tables that say which line belongs to which input and output channel.
        layers: the same for each layer.
    """

    key: ClassVar[str] = "reorder"
    tiles_before: int
    tiles_after: int
    bound: int
    routing_bytes: int
    layers: tuple[LayerReorder, ...]

    @classmethod
    def of(cls, results: Sequence[tuple[str, Reordering]]) -> ReorderRecord:
        """The record of layers, each with its name."""
        layers = tuple(
            LayerReorder(name, each.tiles_before, each.tiles_after, each.bound, each.routing_bytes)
            for name, each in results
        )
        return cls(
            tiles_before=sum(layer.tiles_before for layer in layers),
            tiles_after=sum(layer.tiles_after for layer in layers),
            bound=sum(layer.bound for layer in layers),
            routing_bytes=sum(layer.routing_bytes for layer in layers),
            layers=layers,
        )

    def as_json(self) -> dict[str, Any]:
        """The object ``reorder`` of ``compile --json``."""
        return {**asdict(self), "layers": [asdict(layer) for layer in self.layers]}

    def text(self) -> str:
        """One line."""
        before, after = self.tiles_before, self.tiles_after
        gained = f", {percent(1 - after / before)} fewer" if after < before else ""
        return (
            f"reordered lines: {before:,} array positions before, {after:,} after{gained}; no order needs fewer than "
            f"{self.bound:,}; their tables of addresses take {self.routing_bytes:,} B"
        )


@dataclass(frozen=True)
class LayerRemap:
    """Result of moving the lines of one layer; as in ``RemapRecord``."""

    name: str
    stuck: int
    weighted_error_before: float
    weighted_error_after: float


@dataclass(frozen=True)
class RemapRecord:
    """Result of moving lines on a chip with known stuck cells, in all and by layer.

    Attributes:
        stuck: stuck cells in the arrays in use.
        weighted_error_before, weighted_error_after: sum over them of (deviation in level steps x place value)^2.
        layers: the same for each layer.
    """

    key: ClassVar[str] = "remap"
    stuck: int
    weighted_error_before: float
    weighted_error_after: float
    layers: tuple[LayerRemap, ...]

    @classmethod
    def of(cls, results: Sequence[tuple[str, Remapping]]) -> RemapRecord:
        """The record of layers, each with its name."""
        layers = tuple(
            LayerRemap(name, len(each.faults), each.weighted_error_before, each.weighted_error_after)
            for name, each in results
        )
        return cls(
            stuck=sum(layer.stuck for layer in layers),
            weighted_error_before=sum(layer.weighted_error_before for layer in layers),
            weighted_error_after=sum(layer.weighted_error_after for layer in layers),
            layers=layers,
        )

    def as_json(self) -> dict[str, Any]:
        """The object ``remap`` of ``compile --json``."""
        layers = [{"name": layer.name, **_remap_figures(layer)} for layer in self.layers]
        return {**_remap_figures(self), "layers": layers}

    def text(self) -> str:
        """One line."""
        before, after = self.weighted_error_before, self.weighted_error_after
        gained = f", {percent(1 - after / before)} less" if before > 0 else ""
        return (
            f"{plural(self.stuck, 'stuck cell')} in the arrays; weighted error "
            f"{before:.4g} before, {after:.4g} after{gained}"
        )


def _remap_figures(record: RemapRecord | LayerRemap) -> dict[str, Any]:
    """Figures under their keys in JSON, where weighted errors are called ``harm``."""
    return {
        "stuck": record.stuck,
        "harm_before": record.weighted_error_before,
        "harm_after": record.weighted_error_after,
    }


@dataclass(frozen=True)
class ReplicationRecord:
    """Interval and latency before and after arrays are copied, and their lower bounds within the budget.

    Attributes:
        replication: the figures.
    """

    key: ClassVar[str] = "replication"
    replication: Replication

    def as_json(self) -> dict[str, Any]:
        """The object ``replication`` of ``compile --json`` and schedule.json."""
        return asdict(self.replication)

    def text(self) -> str:
        """Three lines."""
        gain = self.replication
        interval = _gain(gain.interval_before_s, gain.interval_s, gain.interval_bound_s)
        latency = _gain(gain.latency_before_s, gain.latency_s, gain.latency_bound_s)
        return (
            f"copies: {gain.arrays:,} of {gain.budget:,} arrays, transfers not counted:\n"
            f"  interval {interval}\n  latency {latency}"
        )


def _gain(before_s: float, now_s: float, bound_s: float) -> str:
    return (
        f"{quantity(before_s, 's')} with one copy of each layer, {quantity(now_s, 's')} with these "
        f"({before_s / now_s:,.1f}x); no less than {quantity(bound_s, 's')} within the budget"
    )


@dataclass(frozen=True)
class PlacementRecord:
    """Transfers of one inference as placed, and the bound that no placement goes below.

    Attributes:
        byte_hops: bytes times links.
        byte_hops_in_order: the same with arrays in the order of the layers.
        byte_hops_bound: lower bound of any placement.
        chip_bytes: bytes in and out of chips.
    """

    key: ClassVar[str] = "placement"
    byte_hops: float
    byte_hops_in_order: float
    byte_hops_bound: float
    chip_bytes: float

    @classmethod
    def of(cls, figures: Mapping[str, float]) -> PlacementRecord:
        """The record of the figures of a schedule."""
        return cls(**figures)

    def as_json(self) -> dict[str, Any]:
        """The object ``placement`` of ``compile --json`` and schedule.json."""
        return asdict(self)

    def text(self) -> str:
        """One line."""
        moved, plain = self.byte_hops, self.byte_hops_in_order
        gained = f", {percent(1 - moved / plain)} less than in the order of the layers" if moved < plain else ""
        return (
            f"links: {quantity(moved, 'B')} x links per inference{gained}; no placement needs less than "
            f"{quantity(self.byte_hops_bound, 'B')} x links; {quantity(self.chip_bytes, 'B')} in and out of chips"
        )


POOR_DB = 20.0
"""Signal to error of a layer below which it is named."""

SMALL_SHARE = 0.5
"""Share of the multiply-accumulates on crossbars below which the summary warns."""

SHOWN = 4
"""Layers and nodes that are named."""


@dataclass(frozen=True)
class QuantisationRecord:
    """Products on crossbars and in digital units, and the error of each layer alone.

    Attributes:
        crossbar_products: multiply-accumulates on crossbars per inference.
        digital_products: those of digital nodes, by name.
        sqnr_db: signal to error of each layer alone on the calibration data; None: exact, or not known.
    """

    key: ClassVar[str] = "quantisation"
    crossbar_products: int
    digital_products: Mapping[str, int]
    sqnr_db: Mapping[str, float | None]

    @classmethod
    def of(cls, program: MatrixProgram, digital: Mapping[str, int]) -> QuantisationRecord:
        """The record of a quantised program and the products that stay digital."""
        products = sum(layer.site.vectors * int(layer.matrix.codes.size) for layer in program.layers)
        names = [site.name for site in program.sites]
        return cls(products, digital, dict(zip(names, program.sqnr_db, strict=False)))

    @property
    def share(self) -> float | None:
        """Share of the multiply-accumulates on crossbars; None where there are none."""
        total = self.crossbar_products + sum(self.digital_products.values())
        return self.crossbar_products / total if total else None

    def as_json(self) -> dict[str, Any]:
        """The object ``quantisation`` of ``compile --json``."""
        return {
            "crossbar_products": self.crossbar_products,
            "digital_products": sum(self.digital_products.values()),
            "crossbar_share": self.share,
            "layers": [{"name": name, "sqnr_db": value} for name, value in self.sqnr_db.items()],
        }

    def text(self) -> str:
        """The share on crossbars, loud where it is small; layers with a poor signal to error, and the remedy."""
        lines = [self._share_text()]
        known = sorted((value, name) for name, value in self.sqnr_db.items() if value is not None)
        poor = [f"{name} ({value:.1f} dB)" for value, name in known if value < POOR_DB]
        if poor:
            lines.append(
                f"WARNING: signal to error below {POOR_DB:.0f} dB in {plural(len(poor), 'layer')}: {_named(poor)}; try "
                "--equalise on, --range mse, or more bits (--set precision.weights=B, --set precision.inputs=B)"
            )
        return "\n".join(lines)

    def _share_text(self) -> str:
        share = self.share
        if share is None:
            return "WARNING: the model has no multiply-accumulates, so that crossbars compute nothing of it"
        if share >= SMALL_SHARE:
            return f"{percent(share)} of the multiply-accumulates run on crossbars"
        largest = sorted(self.digital_products, key=lambda name: -self.digital_products[name])
        return (
            f"WARNING: only {percent(share)} of the multiply-accumulates run on crossbars; digital units compute the "
            f"rest: {_named(largest)} (the reasons are in compile --json and in the report)"
        )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(clean(name) for name in names[:SHOWN]) + more


@dataclass(frozen=True)
class BuildOptions:
    """Options with which a model was compiled: the entry ``options`` of manifest.json.

    Attributes:
        passes: options of the passes, by the name of the entry.
        dims: sizes taken for symbolic dimensions, by name.
        calibration: kind (``none``, ``random``, ``data``) and number of the calibration samples.
    """

    passes: Mapping[str, Any]
    dims: Mapping[str, int]
    calibration: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The entry of manifest.json."""
        return {**self.passes, "dims": dict(self.dims), "calibration": dict(self.calibration)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BuildOptions:
        """The options that ``as_json`` wrote."""
        passes = {key: value for key, value in data.items() if key not in ("dims", "calibration")}
        return cls(passes, dict(data.get("dims", {})), dict(data.get("calibration", {})))


@dataclass(frozen=True)
class StoredRecord:
    """A record of any pass, as manifest.json holds it.

    Attributes:
        key: under which JSON outputs hold it.
        values: result of ``as_json`` of the record.
        lines: result of ``text`` of the record.
    """

    key: str
    values: Mapping[str, Any]
    lines: str

    def as_json(self) -> dict[str, Any]:
        """The values."""
        return dict(self.values)

    def text(self) -> str:
        """The text."""
        return self.lines
