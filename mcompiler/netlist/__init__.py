"""SPICE netlists: arrays as subcircuits with every cell and wire, decks that apply inputs, a runner for ngspice."""

from mcompiler.netlist.layer import OnChip, write_layer
from mcompiler.netlist.names import notes_of
from mcompiler.netlist.ngspice import find_ngspice, run_deck
from mcompiler.netlist.spice import DeckArray, write_deck

__all__ = ["DeckArray", "OnChip", "find_ngspice", "notes_of", "run_deck", "write_deck", "write_layer"]
