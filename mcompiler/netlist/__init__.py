"""SPICE: arrays as subcircuits with every cell and wire, decks that apply input vectors, and ngspice to run them."""

from mcompiler.netlist.layer import write_layer
from mcompiler.netlist.names import notes_of
from mcompiler.netlist.ngspice import find_ngspice, run_deck
from mcompiler.netlist.spice import Tile, write_deck

__all__ = ["Tile", "find_ngspice", "notes_of", "run_deck", "write_deck", "write_layer"]
