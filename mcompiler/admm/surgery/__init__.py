"""Smaller models: which channels of a network are tied, which are constant or never read, and how they are removed.

``tracing`` traces a model symbolically. ``rules`` and ``builder`` give every channel an identity, operation by
operation; ``channels`` is the entry to that. ``dataflow`` propagates constants forwards and reads backwards,
``purification`` drops channels and filters of little energy, ``removal`` decides what is removed, ``slicing`` cuts the
modules and ``rewriting`` the graph.
"""
