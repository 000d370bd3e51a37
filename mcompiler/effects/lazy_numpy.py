"""numpy, imported at its first use: target descriptions are read and checked without it.

An effect's file holds its section of the target and its simulation. Reading a target imports the first only, and numpy
takes as long to import as everything else that reading needs. A package that registers an effect may import numpy as
usual: its module is imported only where its effect is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["np"]

if TYPE_CHECKING:
    import numpy as np
else:

    class _LazyNumpy:
        def __getattr__(self, name: str) -> Any:
            import numpy

            value = getattr(numpy, name)
            setattr(self, name, value)  # the next access does not come here
            return value

    np = _LazyNumpy()
