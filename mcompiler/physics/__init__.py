"""What devices and wires do to the conductances that a mapping asks for, in siemens.

``devices`` draws errors of cells, ``wires`` and ``nodal`` solve circuits, ``chip`` puts them together: one seed is one
chip.
"""
