"""Smaller models: which channels of a network are one, which nobody fills or reads, and taking those out.

``tracing`` runs a model symbolically, ``channels`` gives every channel an identity by the ``rules`` of each operation,
``dataflow`` follows constants forwards and reads backwards, ``purification`` drops what carries next to nothing, and
``removal`` cuts what is unused out of modules (``slicing``) and graph (``rewriting``).
"""
